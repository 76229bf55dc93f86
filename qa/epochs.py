"""The gates of an epoch: what the rules judge of it, and what follows for its tiles.

Strict by default: the tiles of an epoch that does not pass are kept, marked, and left out of light curves and
statistics. On request they count nevertheless, and every one of them says so.
"""

from __future__ import annotations

from statistics import median

from django.db.models import Q

from contimg.models import Grade
from images.models import Image
from observations.models import Epoch
from qa.comparisons import CERTAIN_SIGMA, measured_comparison, median_error, no_strip, strip_median
from qa.rules import Measured
from sources.services import refresh_statistics

FEWEST_TILES = 3
FEWEST_RATIOS_OF_A_TILE = 5
OF_THE_COMPARISON = (
    "flux_ratio", "flux_ratio_n", "flux_ratio_step", "strip_flux_ratio", "strip_flux_ratio_n",
    "flux_ratio_gradient_per_deg", "flux_ratio_gradient_sigma", "flux_ratio_gradient_at_least_per_deg",
    "completeness", "completeness_n",
)  # fmt: skip
AGAINST_THE_SKY = ("flux_ratio", "completeness")


def measured_of_epoch(mosaic: Image) -> Measured:
    """The figures of its mosaic that the three gates need.

    `n_sky_gates` is how many of flux scale and completeness could be judged: where none could it is missing, and the
    grade unknown, however quiet the mosaic is.
    """
    compared = measured_comparison(mosaic)
    metrics = {name: compared.metrics.get(name) for name in OF_THE_COMPARISON}
    skipped = {name: reason for name, reason in compared.skipped.items() if name in OF_THE_COMPARISON}
    metrics["n_sky_gates"] = float(sum(name not in skipped for name in AGAINST_THE_SKY)) or None
    worst = _worst_tile(mosaic)
    metrics["worst_tile_deviation"] = worst and worst[0]
    where = {"worst_tile_deviation": worst[1]} if worst else {}
    if worst is None:
        skipped["worst_tile_deviation"] = (
            f"fewer than {FEWEST_TILES} of its tiles have the flux ratios of {FEWEST_RATIOS_OF_A_TILE} sources"
        )
    usual, n = strip_median(image=mosaic, column="rms_jy_per_beam")
    rms = mosaic.rms_jy_per_beam
    metrics |= {"rms_jy_per_beam": rms, "strip_rms_jy_per_beam": usual, "strip_rms_n": float(n)}
    metrics["rms_over_strip"] = rms / usual if rms is not None and usual else None
    if not usual:
        skipped["rms_over_strip"] = no_strip(mosaic, n)
    return Measured(metrics, skipped, where=where)


def _worst_tile(mosaic: Image) -> tuple[float, str] | None:
    """By how much at least the flux scale of one tile differs from that of all, as a fraction, and which it is.

    A mosaic hides a bad tile: where tiles overlap its flux is averaged with good ones, and the median is that of all.
    """
    tiles = (
        Image.objects.filter(in_mosaics__mosaic=mosaic)
        .exclude(comparison__flux_ratio=None)
        .filter(comparison__n_matched__gte=FEWEST_RATIOS_OF_A_TILE)
    )
    columns = ("name", "comparison__flux_ratio", "comparison__flux_ratio_scatter", "comparison__n_matched")
    ratios = list(tiles.order_by("observed_at", "id").values_list(*columns))
    if len(ratios) < FEWEST_TILES:
        return None
    usual = median(ratio for _, ratio, _, _ in ratios)
    if usual <= 0:
        return None
    deviations = [
        (max(0.0, abs(ratio / usual - 1) - CERTAIN_SIGMA * median_error(scatter=scatter, n=n) / usual), f"tile {name}")
        for name, ratio, scatter, n in ratios
    ]
    return max(deviations, key=lambda deviation: deviation[0])


def hold_back_or_let_go(*, epoch: Epoch, mosaic: Image, lenient: bool) -> None:
    """The epoch's grade has been written: its mosaic and the tiles of its own hour count, or do not, from now on."""
    failed = epoch.grade == Grade.POOR
    epoch.is_lenient = failed and lenient
    epoch.save(update_fields=["is_lenient"])
    is_rejected = failed and not lenient
    tiles = Image.objects.tiles().in_strip(epoch.dec_deg).filter(epoch=epoch.started_at)
    images = Image.objects.filter(Q(pk__in=tiles.values("pk")) | Q(pk=mosaic.pk))
    changed = list(images.filter(is_epoch_rejected=not is_rejected).values_list("pk", flat=True))
    Image.objects.filter(pk__in=changed).update(is_epoch_rejected=is_rejected)
    tiles.filter(measurement_set__is_lenient=False).update(is_lenient=epoch.is_lenient)
    made_leniently = epoch.is_lenient or Image.objects.filter(in_mosaics__mosaic=mosaic, is_lenient=True).exists()
    Image.objects.filter(pk=mosaic.pk).update(is_lenient=made_leniently)
    refresh_statistics(images=Image.objects.current().filter(pk__in=changed))
