"""What a tile's own pixels and visibilities tell of it, without any other image and without a catalogue."""

from __future__ import annotations

import math
from statistics import fmean, median, pvariance

from images.models import Image
from qa.rules import Measured

NOISE_REACHES_BELOW = 6.0  # sigma: of a tile's 400 000 beams none of noise is lower
CERTAIN_SIGMA = 5.0  # the worst of 200 gains, and what lies outside the image disturbs them too
USEFUL_ERROR = 0.1  # of an antenna's gain: a field that is too dim for it says nothing of antennas
NO_TILE = "only a tile has antennas, and the same noise everywhere"
TOO_OLD = "it was imaged by a version that did not look at it"
TOO_DIM = "too little of the sky stands out of the noise to tell the gains of single antennas"


def measured_of_tile(image: Image) -> Measured:
    """How deep what is negative goes, the gain that is farthest from its table, and how the gains scatter."""
    names = ("negative_excess_over_peak", "worst_antenna_gain_off", "antenna_gain_scatter")
    if image.kind != Image.Kind.TILE:
        return Measured(dict.fromkeys(names), dict.fromkeys(names, NO_TILE))
    metrics: dict[str, float | None] = dict.fromkeys(names)
    skipped, where = dict.fromkeys(names, TOO_OLD), {}
    lowest, rms, peak = image.metrics.get("lowest_jy_per_beam"), image.rms_jy_per_beam, image.peak_jy_per_beam
    if lowest is not None and rms is not None and peak is not None and peak > 0:
        metrics[names[0]] = max(0.0, -lowest - NOISE_REACHES_BELOW * rms) / peak
        del skipped[names[0]]
    if (gains := image.metrics.get("antenna_gains")) is not None:
        skipped |= dict.fromkeys(names[1:], TOO_DIM)
        if gains and median(gain["error"] for gain in gains) <= USEFUL_ERROR:
            metrics[names[1]], where[names[1]] = _worst(gains)
            metrics[names[2]] = _scatter(gains)
            del skipped[names[1]], skipped[names[2]]
    return Measured(metrics, skipped, where=where)


def _worst(gains: list[dict]) -> tuple[float, str]:
    """By how much at least, and which antenna it is, with how many others are off for certain."""
    certain = {gain["antenna"]: max(0.0, gain["off"] - CERTAIN_SIGMA * gain["error"]) for gain in gains}
    worst = max(certain, key=lambda antenna: certain[antenna])
    others = sum(value > 0 for value in certain.values()) - 1
    return certain[worst], f"antenna {worst}" + (f" and {others} others" if others > 0 else "")


def _scatter(gains: list[dict]) -> float:
    """Standard deviation of the antennas' amplitudes, beyond that of their errors."""
    amplitudes = [gain["mean_amplitude"] for gain in gains]
    # An amplitude has half of a complex gain's variance, the mean of two a quarter.
    of_errors = fmean(gain["error"] ** 2 / 4 for gain in gains)
    return math.sqrt(max(0.0, pvariance(amplitudes) - of_errors))
