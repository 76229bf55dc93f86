"""Assessing: measure what the active policy asks for, judge, store the verdict, and move the grade with it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from django.db import transaction
from django.db.models import F

from calibration.models import CalibrationTable
from calibration.staff_flags import named
from contimg.exceptions import ContimgError
from contimg.models import Grade
from images.models import Image
from observations.models import Epoch
from qa.comparisons import measured_comparison
from qa.epochs import hold_back_or_let_go, measured_of_epoch
from qa.models import Assessment, Finding, Policy, SubjectKind
from qa.reviews import settle_grade
from qa.rules import Measured, judge, known
from qa.strips import measured_beside_strip
from qa.tiles import measured_of_tile
from sources.models import Source
from sources.services import lock_sources, refresh_statistics

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
    was_poor = image.grade == Grade.POOR
    assessment = _record(Assessment(image=image), image, SubjectKind.IMAGE, measured_of_image(image))
    if was_poor != (image.grade == Grade.POOR):
        refresh_statistics(images=[image])
    return assessment


@transaction.atomic
def assess_epoch(*, epoch: Epoch, mosaic: Image, lenient: bool = False) -> Assessment:
    """Judge an epoch by its current mosaic, and that too; its tiles count, or do not, from the same transaction on.

    With `lenient` they count although it failed, and say so.
    """
    lock_sources()  # first: who records a catalogue holds it when he writes to the images
    assess_image(image=mosaic)
    assessment = _record(Assessment(epoch=epoch), epoch, SubjectKind.EPOCH, measured_of_epoch(mosaic))
    hold_back_or_let_go(epoch=epoch, mosaic=mosaic, lenient=lenient)
    return assessment


def is_epoch_assessed(*, epoch: Epoch, mosaic: Image) -> bool:
    """By the active policy, as it is with this mosaic."""
    newest = Assessment.objects.current().filter(image__mosaic_of=epoch).order_by("-id").first()
    is_current = epoch.assessments.current().filter(policy__is_active=True).exists()
    return is_current and newest is not None and newest.image_id == mosaic.pk


@transaction.atomic
def assess_calibration_table(*, table: CalibrationTable) -> Assessment:
    """Judge a table by the active policy; the table's grade follows in the same transaction."""
    measured = measured_of_table(table)
    return _record(Assessment(calibration_table=table), table, SubjectKind.CALIBRATION_TABLE, measured)


def is_assessed(image: Image) -> bool:
    return image.assessments.current().filter(policy__is_active=True).exists()


def measured_of_image(image: Image) -> Measured:
    rms, peak, thermal = map(known, (image.rms_jy_per_beam, image.peak_jy_per_beam, image.thermal_rms_jy_per_beam))
    metrics = {
        "dynamic_range": peak / rms if peak is not None and rms else None,
        "rms_over_thermal": rms / thermal if rms is not None and thermal else None,
        "finite_fraction": image.finite_fraction,
        "rms_jy_per_beam": rms,
        "peak_jy_per_beam": peak,
    }
    compared, beside, of_tile = measured_comparison(image), measured_beside_strip(image), measured_of_tile(image)
    metrics |= {**compared.metrics, **beside.metrics, **of_tile.metrics}
    skipped = {**compared.skipped, **beside.skipped, **of_tile.skipped}
    if thermal is None and image.kind in NO_THERMAL_NOISE:
        skipped["rms_over_thermal"] = NO_THERMAL_NOISE[Image.Kind(image.kind)]
    metrics["dynamic_range_at_thermal_noise"] = _dynamic_range_at_thermal_noise(image)
    return Measured(metrics, skipped, of_tile.where)


def _dynamic_range_at_thermal_noise(image: Image) -> float | None:
    """Of the brightest source in the field as the beam sees it.

    Known sources count, and what is seen here, or the first visit to a faint field would be judged for having no
    bright source. A peak below NOISE_REACHES of the image's own noise is no image of the sky and counts for nothing.
    None where flux or noise is not known.
    """
    thermal, rms, peak = map(known, (image.thermal_rms_jy_per_beam, image.rms_jy_per_beam, image.peak_jy_per_beam))
    if not thermal:
        return None
    fluxes = list(_apparent_fluxes_jy(image))
    if peak is not None and rms and peak >= NOISE_REACHES * rms:
        fluxes.append(peak)
    return max(fluxes) / thermal if fluxes else None


def _apparent_fluxes_jy(image: Image) -> Iterator[float]:
    """Of the known sources in the inner half of the image."""
    from observations.engines.beam import airy_power

    near = Source.objects.within_cone(
        ra_deg=image.ra_deg, dec_deg=image.dec_deg, radius_deg=min(image.radius_deg / 2, 10)
    )
    for flux_jy, distance_deg in near.exclude(flux_mean_jy=None).values_list("flux_mean_jy", F("separation_deg")):
        yield flux_jy * float(airy_power(math.radians(distance_deg), image.frequency_hz))


def measured_of_table(table: CalibrationTable) -> Measured:
    """A gain table has no phase to compare over channels and no spectral windows."""
    stored = table.metrics
    windows = stored.get("spectral_windows") or []
    metrics = {
        "flagged_fraction": stored.get("flagged_fraction"),
        "median_snr": stored.get("median_snr"),
        "median_amplitude": stored.get("median_amplitude"),
        "phase_scatter_deg": stored.get("phase_scatter_deg"),
    }
    where: dict[str, str] = {}
    antennas = stored.get("antennas") or []
    for name in ("flagged_fraction", "phase_scatter_deg", "time_phase_scatter_deg"):
        figures = [(one[name], one["antenna"]) for one in antennas if one.get(name) is not None]
        value, antenna = max(figures, default=(None, ""))
        metrics[f"worst_antenna_{name}"] = value
        if antenna:
            where[f"worst_antenna_{name}"] = f"antenna {antenna}"
    for name in ("flagged_fraction", "bad_channel_fraction"):
        worst = max(windows, key=lambda window: window[name], default=None)
        metrics[f"worst_window_{name}"] = worst[name] if worst else None
        if worst:
            where[f"worst_window_{name}"] = f"window {worst['subband']}"
    skipped = {}
    too_old = "it was solved by a version that kept no such figure of each antenna"
    if "antennas" not in stored:
        skipped = {name: too_old for name in metrics if name.startswith("worst_antenna_")}
    elif not any("time_phase_scatter_deg" in one for one in antennas):
        skipped["worst_antenna_time_phase_scatter_deg"] = too_old
    if table.kind == CalibrationTable.Kind.GAIN:
        reason = "a gain table has one value for all channels"
        skipped = {name: reason for name in metrics if name.startswith(("phase_", "worst_"))}
    return Measured(metrics, skipped, where=where)


def _record(
    assessment: Assessment, subject: Image | CalibrationTable | Epoch, kind: SubjectKind, measured: Measured
) -> Assessment:
    policy = active_policy()
    verdict = judge(rules=[rule for rule in policy.rules.all() if rule.subject_kind == kind], measured=measured)
    subject.assessments.current().update(is_current=False)
    assessment.policy, assessment.grade, assessment.metrics = policy, verdict.grade, _as_json(measured.metrics)
    assessment.circumstances = measured.circumstances()
    if known_bad := named(_parameters_of_data(subject)):
        assessment.circumstances["antenna_flags"] = known_bad
    assessment.save()
    Finding.objects.bulk_create(Finding(assessment=assessment, **found._asdict()) for found in verdict.findings)
    if isinstance(subject, Epoch):  # which nobody reviews: its images are
        subject.grade = Grade(verdict.grade)
        subject.save(update_fields=["grade"])
    else:
        settle_grade(subject=subject)
    return assessment


def _parameters_of_data(subject: Image | CalibrationTable | Epoch) -> dict[str, Any]:
    """Of the visibilities that it was made from. A mosaic and an epoch have none: the tiles say what was flagged."""
    if isinstance(subject, Epoch):
        return {}
    if isinstance(subject, CalibrationTable):
        return subject.flag_table.parameters
    return subject.measurement_set.parameters if subject.measurement_set else {}


def _as_json(metrics: Mapping[str, float | None]) -> dict[str, float | None]:
    """NaN and infinities are not JSON: a database refuses them."""
    return {name: known(value) for name, value in metrics.items()}
