"""An image beside the last ones of its dec strip: limits that no one number gives."""

from __future__ import annotations

from images.models import Image
from observations.models import N_SUBBANDS
from qa.comparisons import Figures, Reasons, no_strip, strip_median
from qa.rules import Measured

BESIDE = (("rms_over_strip", "rms_jy_per_beam"), ("beam_over_strip", "bmaj_arcsec"))
NO_FLAGS = "only a tile has flags, and where its calibrated set says how many"
NO_TILE = "only a tile has a number of integrations and subbands that it should have"


def measured_beside_strip(image: Image) -> Measured:
    """Noise and beam over their running medians, which are kept with their number, or why there are none."""
    metrics: Figures = {}
    skipped: Reasons = {}
    for name, column in BESIDE:
        value = getattr(image, column)
        usual, n = strip_median(image=image, column=column)
        metrics |= {f"strip_{column}": usual, f"strip_{column}_n": float(n)}
        metrics[name] = value / usual if usual and value is not None else None
        if not usual:
            skipped[name] = no_strip(image, n)
    flagged = image.measurement_set.flagged_fraction if image.measurement_set else None
    usual, n = strip_median(image=image, column="measurement_set__flagged_fraction")
    metrics |= {"flagged_fraction": flagged, "strip_flagged_fraction": usual, "strip_flagged_fraction_n": float(n)}
    metrics["flagged_above_strip"] = flagged - usual if usual is not None and flagged is not None else None
    if metrics["flagged_above_strip"] is None:
        skipped["flagged_above_strip"] = NO_FLAGS if flagged is None else no_strip(image, n)
    metrics["duty_fraction"] = _duty_fraction(image)
    if metrics["duty_fraction"] is None:
        skipped["duty_fraction"] = NO_TILE
    return Measured(metrics, skipped)


def _duty_fraction(image: Image) -> float | None:
    """The share that there is of the subbands, and of the time that tiles of its strip last.

    None for what is no tile. Where the strip is not known yet the time is taken for whole.
    """
    if image.measurement_set is None:
        return None
    usual_s, _ = strip_median(image=image, column="measurement_set__duration_s")
    time = min(1.0, image.measurement_set.duration_s / usual_s) if usual_s else 1.0
    return time * (1 - len(image.missing_subbands) / N_SUBBANDS)
