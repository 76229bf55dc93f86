"""What the rules judge of an image's comparison with a reference catalogue, and of the dec strip's last images.

A figure that rests on few sources is uncertain, and a limit alone would condemn an image for that. So rules that make
an image poor ask for the part of a figure that is certain: what is left of it after a few of its errors.
"""

from __future__ import annotations

import math
from datetime import timedelta
from statistics import median

from images.models import Image
from qa.rules import Measured
from sources.models import Comparison

STRIP_IMAGES = 24  # a day of mosaics
STRIP_DAYS = 30
STRIP_FEWEST = 5
FEWEST_RATIOS = 3
FEWEST_EXPECTED = 5
MEDIAN_ERROR = math.sqrt(math.pi / 2)  # of the error of the mean, for normal scatter
CERTAIN_SIGMA = 2.0
CERTAIN_SLOPE_SIGMA = 3.0
NOT_COMPARED = "it was not held against a reference catalogue"
NO_STRIP = "it belongs to no dec strip, or its time is not known"

Figures = dict[str, float | None]
Reasons = dict[str, str]


def strip_median(*, image: Image, column: str) -> tuple[float | None, int]:
    """The running median of a column over the last accepted images of this kind and dec strip, and their number.

    Before this image, at most STRIP_IMAGES of the last STRIP_DAYS days. None where there are fewer than STRIP_FEWEST.
    """
    if image.pointing_dec_deg is None or image.observed_at is None:
        return None, 0
    before = (
        Image.objects.accepted()
        .in_strip(image.pointing_dec_deg)
        .filter(
            kind=image.kind,
            observed_at__lt=image.observed_at,
            observed_at__gte=image.observed_at - timedelta(days=STRIP_DAYS),
        )
        .exclude(**{column: None})
    )
    if column.startswith("comparison__"):
        before = before.filter(
            comparison__catalogue=Comparison.objects.filter(image=image).values("catalogue")[:1],
            comparison__n_matched__gte=FEWEST_RATIOS,
        )
    values = list(before.order_by("-observed_at", "-id").values_list(column, flat=True)[:STRIP_IMAGES])
    return (median(values) if len(values) >= STRIP_FEWEST else None), len(values)


def measured_comparison(image: Image) -> Measured:
    """Of the image's row, every figure with a reason where it is not there."""
    row = Comparison.objects.filter(image=image).first()
    if row is None:
        row = Comparison(n_expected=0, n_matched=0, reason=NOT_COMPARED)
    metrics: Figures = {}
    skipped: Reasons = {}
    for figures, reasons in (
        _ratio(row),
        _step(row, image),
        _gradient(row),
        _offset(row, image),
        _completeness(row),
        _plausibility(row, image),
    ):
        metrics |= figures
        skipped |= reasons
    return Measured(metrics, skipped)


def median_error(*, scatter: float | None, n: int) -> float:
    """Of a median of `n` values; infinite where there is nothing to tell it from."""
    return math.inf if scatter is None or n < 2 else MEDIAN_ERROR * scatter / math.sqrt(n)


def too_few(n: int, fewest: int, what: str) -> str:
    return f"it rests on {n} {what}, and needs {fewest}"


def _has_ratio(row: Comparison) -> bool:
    return row.flux_ratio is not None and row.n_matched >= FEWEST_RATIOS


def _no_ratio(row: Comparison) -> str:
    return row.reason or too_few(row.n_matched, FEWEST_RATIOS, "sources")


def _ratio(row: Comparison) -> tuple[Figures, Reasons]:
    names = ("flux_ratio", "flux_ratio_n", "flux_ratio_certainly_off")
    ratios = [flux / expected for _, _, _, expected, flux, _ in row.matches]
    largest: Figures = {"flux_ratio_max": max(ratios, default=None)}
    reasons = {} if ratios else {"flux_ratio_max": row.reason or "no source is expected in it"}
    if row.flux_ratio is None or not _has_ratio(row):
        return {**dict.fromkeys(names), **largest}, {**dict.fromkeys(names, _no_ratio(row)), **reasons}
    error = median_error(scatter=row.flux_ratio_scatter, n=row.n_matched)
    certain = max(0.0, abs(row.flux_ratio - 1) - CERTAIN_SIGMA * error)
    return dict(zip(names, (row.flux_ratio, float(row.n_matched), certain), strict=True)) | largest, reasons


def _step(row: Comparison, image: Image) -> tuple[Figures, Reasons]:
    """The ratio over that of the strip."""
    if row.flux_ratio is None or not _has_ratio(row):
        return {"flux_ratio_step": None}, {"flux_ratio_step": _no_ratio(row)}
    usual, n = strip_median(image=image, column="comparison__flux_ratio")
    stored: Figures = {"strip_flux_ratio": usual, "strip_flux_ratio_n": float(n)}
    if usual is None or usual <= 0:
        return {**stored, "flux_ratio_step": None}, {"flux_ratio_step": no_strip(image, n)}
    return {**stored, "flux_ratio_step": row.flux_ratio / usual}, {}


def no_strip(image: Image, n: int) -> str:
    if image.pointing_dec_deg is None or image.observed_at is None:
        return NO_STRIP
    return too_few(n, STRIP_FEWEST, f"accepted {image.kind}s of its dec strip before")


def _gradient(row: Comparison) -> tuple[Figures, Reasons]:
    length, sigma = row.flux_ratio_gradient_per_deg, row.flux_ratio_gradient_sigma
    stored: Figures = {"flux_ratio_gradient_per_deg": length, "flux_ratio_gradient_sigma": sigma}
    name = "flux_ratio_gradient_at_least_per_deg"
    if length is None or sigma is None:
        reason = row.reason or "too few sources stand apart from one another for a gradient"
        return {**stored, name: None}, {name: reason}
    certain = length * (1 - CERTAIN_SLOPE_SIGMA / sigma) if sigma > CERTAIN_SLOPE_SIGMA else 0.0
    return {**stored, name: certain}, {}


def _offset(row: Comparison, image: Image) -> tuple[Figures, Reasons]:
    if row.ra_offset_arcsec is None or row.dec_offset_arcsec is None or not image.bmaj_arcsec or not _has_ratio(row):
        names = ("astrometric_offset_arcsec", "astrometric_offset_over_beam")
        reason = row.reason or "too few sources are bright enough for their places"
        return dict.fromkeys(names), dict.fromkeys(names, reason)
    offset = math.hypot(row.ra_offset_arcsec, row.dec_offset_arcsec)
    return {"astrometric_offset_arcsec": offset, "astrometric_offset_over_beam": offset / image.bmaj_arcsec}, {}


def _completeness(row: Comparison) -> tuple[Figures, Reasons]:
    least_jy = row.parameters.get("least_flux_jy", 0.0)
    n = sum(expected for low, _, expected, _ in row.completeness_by_flux if low >= least_jy)
    stored: Figures = {"completeness_n": float(n)}
    if row.completeness is None or n < FEWEST_EXPECTED:
        reason = row.reason or too_few(n, FEWEST_EXPECTED, "sources")
        return {**stored, "completeness": None}, {"completeness": reason}
    return {**stored, "completeness": row.completeness}, {}


def _plausibility(row: Comparison, image: Image) -> tuple[Figures, Reasons]:
    """The image's peak beside the brightest that the catalogue has there, and what was measured beside that peak."""
    peak = image.peak_jy_per_beam
    over = {
        "peak_over_expected": (peak, row.brightest_expected_jy),
        "expected_over_peak": (row.brightest_alone_jy, peak),
        "brightest_over_peak": (row.brightest_measured_jy, peak),
    }
    figures: Figures = {
        name: above / below if above is not None and below is not None and below > 0 else None
        for name, (above, below) in over.items()
    }
    reason = row.reason or "the image has no peak or the catalogue no source there"
    return figures, {name: reason for name, value in figures.items() if value is None}
