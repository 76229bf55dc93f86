"""Which detection is which source, and what a new one is called. Numbers only, no database."""

from __future__ import annotations

import math
import string
from collections.abc import Collection, Sequence
from typing import Protocol

import numpy as np
from scipy.spatial import cKDTree

ARCSEC_PER_RADIAN = 180 * 3600 / math.pi


class Place(Protocol):
    """An ICRS position with the statistical error of one coordinate on the sky."""

    @property
    def ra_deg(self) -> float: ...
    @property
    def dec_deg(self) -> float: ...
    @property
    def position_err_arcsec(self) -> float: ...


def associate(
    detections: Sequence[Place], sources: Sequence[Place], *, de_ruiter_limit: float, floor_arcsec: float
) -> dict[int, int]:
    """For each matched detection (index) its source (index): nearest first, every one at most once.

    The de Ruiter radius (de Ruiter et al. 1977, A&AS 28, 211) is the distance over the error of that distance. With
    one error for both coordinates it is a great circle over a number: right at the poles and across RA 0. The floor
    in quadrature is for what all positions of an image share (ionosphere, phase calibration).
    """
    if not detections or not sources:
        return {}
    found, known = _vectors(detections), _vectors(sources)
    errors = [np.array([place.position_err_arcsec for place in places]) for places in (detections, sources)]
    farthest = de_ruiter_limit * math.sqrt(errors[0].max() ** 2 + errors[1].max() ** 2 + floor_arcsec**2)
    near = cKDTree(found).sparse_distance_matrix(
        cKDTree(known), 2 * math.sin(min(farthest / ARCSEC_PER_RADIAN, math.pi) / 2), output_type="ndarray"
    )
    distance = 2 * np.arcsin(near["v"] / 2) * ARCSEC_PER_RADIAN
    error = np.sqrt(errors[0][near["i"]] ** 2 + errors[1][near["j"]] ** 2 + floor_arcsec**2)
    matched: dict[int, int] = {}
    taken: set[int] = set()
    for index in np.argsort(distance, kind="stable"):
        detection, source = int(near["i"][index]), int(near["j"][index])
        if distance[index] <= de_ruiter_limit * error[index] and detection not in matched and source not in taken:
            matched[detection] = source
            taken.add(source)
    return matched


def mean_place(places: Sequence[tuple[float, float, float]]) -> tuple[float, float, float]:
    """RA, Dec (deg) and error (arcsec) of the mean of places given the same way, weighted by 1/error^2.

    The mean of vectors: as right at RA 0 and at the poles as anywhere.
    """
    ra, dec, error = np.array(places).T
    weights = error**-2.0
    x, y, z = (weights * _xyz(ra, dec)).sum(axis=1).tolist()
    ra_deg = math.degrees(math.atan2(y, x)) % 360
    return (
        0.0 if ra_deg >= 360 else ra_deg,  # -1e-15 % 360 is 360
        math.degrees(math.atan2(z, math.hypot(x, y))),
        float(weights.sum() ** -0.5),
    )


def iau_name(*, ra_deg: float, dec_deg: float, taken: Collection[str] = ()) -> str:
    """`DSA JHHMMSS.s+DDMMSS`, truncated and not rounded as the IAU asks; with a letter when that is taken."""
    # A millionth is added back: 12.3 s that became 12.299999999 in degrees is still 12.3.
    tenths = math.floor(ra_deg % 360 / 15 * 36_000 + 1e-6) % 864_000
    arcsec = math.floor(abs(dec_deg) * 3600 + 1e-6)
    ra = f"{tenths // 36_000:02d}{tenths // 600 % 60:02d}{tenths % 600 / 10:04.1f}"
    dec = f"{arcsec // 3600:02d}{arcsec // 60 % 60:02d}{arcsec % 60:02d}"
    name = f"DSA J{ra}{'-' if dec_deg < 0 else '+'}{dec}"
    return next(candidate for candidate in (name + suffix for suffix in _suffixes()) if candidate not in taken)


def _suffixes():
    yield ""
    yield from string.ascii_lowercase
    yield from (first + second for first in string.ascii_lowercase for second in string.ascii_lowercase)


def _xyz(ra_deg: np.ndarray, dec_deg: np.ndarray) -> np.ndarray:
    """Unit vectors, shape (3, positions)."""
    ra, dec = np.radians(ra_deg), np.radians(dec_deg)
    return np.array([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)])


def _vectors(places: Sequence[Place]) -> np.ndarray:
    return _xyz(*np.array([(place.ra_deg, place.dec_deg) for place in places]).T).T
