"""Assessing: measure what the active policy asks for, judge, store the verdict, and move the grade with it."""

from __future__ import annotations

from collections.abc import Mapping

from django.db import transaction
from django.db.models import Max

from calibration.models import CalibrationTable
from contimg.exceptions import ContimgError
from contimg.models import Grade
from images.models import Image
from qa.models import Assessment, Finding, Policy, SubjectKind
from qa.rules import Verdict, judge, known
from sources.models import Source
from sources.services import refresh_statistics

NOISE_REACHES = 3.0  # its highest peak in an image of many beams is higher
NO_THERMAL_NOISE = {
    Image.Kind.EXTERNAL: "the thermal noise of an image from elsewhere is not known",
    Image.Kind.MOSAIC: "the tiles of a mosaic are held against their thermal noise one by one",
}


class NoActivePolicy(ContimgError):
    code = "no_active_policy"


def active_policy() -> Policy:
    policy = Policy.objects.prefetch_related("rules").filter(is_active=True).first()
    if policy is None:
        raise NoActivePolicy("No quality policy is active; activate one in the admin (`migrate` installs the first).")
    return policy


@transaction.atomic
def assess_image(*, image: Image) -> Assessment:
    """Judge an image by the active policy; its grade, and the statistics of its sources, follow in the transaction."""
    metrics, skipped = image_metrics(image)
    counted = image.grade != Grade.POOR
    assessment = _record(Assessment(image=image), image, SubjectKind.IMAGE, metrics, skipped)
    if counted != (image.grade != Grade.POOR):
        refresh_statistics(images=[image])
    return assessment


@transaction.atomic
def assess_calibration_table(*, table: CalibrationTable) -> Assessment:
    """Judge a table by the active policy; the table's grade follows in the same transaction."""
    metrics, skipped = table_metrics(table)
    return _record(Assessment(calibration_table=table), table, SubjectKind.CALIBRATION_TABLE, metrics, skipped)


def is_assessed(image: Image) -> bool:
    return image.assessments.current().filter(policy__is_active=True).exists()


def image_metrics(image: Image) -> tuple[dict[str, float | None], dict[str, str]]:
    """What the rules judge of an image, and which metrics do not apply to it, with the reason."""
    rms, peak, thermal = map(known, (image.rms_jy_per_beam, image.peak_jy_per_beam, image.thermal_rms_jy_per_beam))
    metrics = {
        "dynamic_range": peak / rms if peak is not None and rms else None,
        "rms_over_thermal": rms / thermal if rms is not None and thermal else None,
        "finite_fraction": image.finite_fraction,
        "rms_jy_per_beam": rms,
        "peak_jy_per_beam": peak,
    }
    skipped = {}
    if thermal is None and image.kind in NO_THERMAL_NOISE:
        skipped["rms_over_thermal"] = NO_THERMAL_NOISE[Image.Kind(image.kind)]
    possible = _possible_dynamic_range(image)
    if possible is not None and possible < 100 and metrics["dynamic_range"] is not None:
        skipped["dynamic_range"] = f"the brightest source here allows a dynamic range of {possible:.0f} at best"
    return metrics, skipped


def _possible_dynamic_range(image: Image) -> float | None:
    """The brightest source in the field, known or seen here, over the thermal noise; None where neither is known.

    What is seen counts, or the first visit to a faint field would be judged for having no bright source. A peak below
    NOISE_REACHES of the image's own noise is no image of the sky and counts for nothing.
    """
    thermal, rms, peak = map(known, (image.thermal_rms_jy_per_beam, image.rms_jy_per_beam, image.peak_jy_per_beam))
    if not thermal:
        return None
    field = Source.objects.within_cone(
        ra_deg=image.ra_deg, dec_deg=image.dec_deg, radius_deg=min(image.radius_deg / 2, 10)
    )
    fluxes = [field.order_by().aggregate(brightest=Max("flux_mean_jy"))["brightest"]]
    if peak is not None and rms and peak >= NOISE_REACHES * rms:
        fluxes.append(peak)
    return max((flux / thermal for flux in fluxes if flux is not None), default=None)


def table_metrics(table: CalibrationTable) -> tuple[dict[str, float | None], dict[str, str]]:
    """What the rules judge of a table. A gain table has no phase to compare over channels and no spectral windows."""
    stored = table.metrics
    windows = stored.get("spectral_windows") or []
    metrics = {
        "flagged_fraction": stored.get("flagged_fraction"),
        "median_snr": stored.get("median_snr"),
        "median_amplitude": stored.get("median_amplitude"),
        "phase_scatter_deg": stored.get("phase_scatter_deg"),
        "worst_window_flagged_fraction": max((w["flagged_fraction"] for w in windows), default=None),
        "worst_window_bad_channel_fraction": max((w["bad_channel_fraction"] for w in windows), default=None),
    }
    skipped = {}
    if table.kind == CalibrationTable.Kind.GAIN:
        reason = "a gain table has one value for all channels"
        skipped = {name: reason for name in metrics if name.startswith(("phase_", "worst_"))}
    return metrics, skipped


def _record(
    assessment: Assessment,
    subject: Image | CalibrationTable,
    kind: SubjectKind,
    metrics: Mapping[str, float | None],
    skipped: Mapping[str, str],
) -> Assessment:
    policy = active_policy()
    verdict: Verdict = judge(
        rules=[rule for rule in policy.rules.all() if rule.subject_kind == kind], metrics=metrics, skipped=skipped
    )
    subject.assessments.current().update(is_current=False)
    assessment.policy, assessment.grade, assessment.metrics = policy, verdict.grade, _as_json(metrics)
    assessment.save()
    for finding in verdict.findings:
        finding.assessment = assessment
    Finding.objects.bulk_create(verdict.findings)
    subject.grade = Grade(verdict.grade)
    subject.save(update_fields=["grade"])
    return assessment


def _as_json(metrics: Mapping[str, float | None]) -> dict[str, float | None]:
    """NaN and infinities are not JSON: a database refuses them."""
    return {name: known(value) for name, value in metrics.items()}
