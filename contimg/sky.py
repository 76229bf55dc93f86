"""Positions in the database: a HEALPix column to find candidates, the exact great circle to decide.

Portable to every database Django supports, with no extension. Only numpy and cdshealpix are imported, and those
lazily, so that a web process which never searches by position never loads them.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable
from typing import Self

from django.db import models
from django.db.models import F, Q, Value
from django.db.models.functions import ASin, Cos, Least, Power, Radians, Sin, Sqrt

HEALPIX_DEPTH = 14  # nested; pixels of 12.9 arcsec, so a 10 arcsec cone touches a handful
MAX_CONE_RANGES = 40  # keeps the SQL short; the exact test removes what the coarser cover lets in
MAX_RADIUS_DEG = 10.0


def healpix_index(ra_deg: float, dec_deg: float) -> int:
    """The nested HEALPix cell of one ICRS position at HEALPIX_DEPTH."""
    return int(healpix_indices([ra_deg], [dec_deg])[0])


def healpix_indices(ra_deg: Iterable[float], dec_deg: Iterable[float]) -> list[int]:
    """The nested HEALPix cells of many ICRS positions at HEALPIX_DEPTH."""
    import astropy.units as u
    import cdshealpix
    import numpy as np
    from astropy.coordinates import Latitude, Longitude

    ra = Longitude(np.asarray(ra_deg, dtype=float), unit=u.deg)
    dec = Latitude(np.asarray(dec_deg, dtype=float), unit=u.deg)
    return cdshealpix.lonlat_to_healpix(ra, dec, depth=HEALPIX_DEPTH).astype(int).tolist()


@functools.lru_cache(maxsize=256)
def cone_ranges(ra_deg: float, dec_deg: float, radius_deg: float) -> tuple[tuple[int, int], ...]:
    """Half-open index ranges [first, end) at HEALPIX_DEPTH that together cover the cone."""
    import astropy.units as u
    import cdshealpix
    from astropy.coordinates import Latitude, Longitude

    # Cells about a quarter of the radius wide: few ranges, little outside the cone.
    cell_deg = 58.6 / 2 ** HEALPIX_DEPTH
    depth = max(0, min(HEALPIX_DEPTH, HEALPIX_DEPTH - math.ceil(math.log2(max(radius_deg / 4 / cell_deg, 1)))))
    while True:
        ipix, cell_depth, _ = cdshealpix.cone_search(
            Longitude(ra_deg, u.deg), Latitude(dec_deg, u.deg), radius_deg * u.deg, depth=depth
        )
        ranges = _merged(ipix, cell_depth)
        if len(ranges) <= MAX_CONE_RANGES or depth == 0:
            return ranges
        depth -= 1


def _merged(ipix: Iterable[int], cell_depth: Iterable[int]) -> tuple[tuple[int, int], ...]:
    spans = sorted(
        (int(i) << 2 * (HEALPIX_DEPTH - int(d)), (int(i) + 1) << 2 * (HEALPIX_DEPTH - int(d)))
        for i, d in zip(ipix, cell_depth, strict=True)
    )
    merged: list[tuple[int, int]] = []
    for first, end in spans:
        if merged and first <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((first, end))
    return tuple(merged)


def separation_expression(ra_deg: float, dec_deg: float) -> models.ExpressionWrapper:
    """Great-circle distance in degrees as a database expression (haversine: exact for small angles and poles)."""
    half_dra = Radians(F("ra_deg") - Value(float(ra_deg))) / 2.0
    half_ddec = Radians(F("dec_deg") - Value(float(dec_deg))) / 2.0
    haversine = Power(Sin(half_ddec), 2.0) + Cos(Radians(F("dec_deg"))) * Value(
        math.cos(math.radians(dec_deg))
    ) * Power(Sin(half_dra), 2.0)
    return models.ExpressionWrapper(
        ASin(Least(Value(1.0), Sqrt(haversine))) * (360.0 / math.pi), output_field=models.FloatField()
    )


class PositionQuerySet(models.QuerySet):
    """For models with `ra_deg`, `dec_deg` (ICRS) and `healpix`."""

    def within_cone(self, *, ra_deg: float, dec_deg: float, radius_deg: float) -> Self:
        """Rows within `radius_deg` by true great-circle distance, annotated `separation_deg`, nearest first."""
        cells = Q()
        for first, end in cone_ranges(ra_deg, dec_deg, radius_deg):
            cells |= Q(healpix__gte=first, healpix__lt=end)
        return (
            self.filter(cells)
            .annotate(separation_deg=separation_expression(ra_deg, dec_deg))
            .filter(separation_deg__lte=radius_deg)
            .order_by("separation_deg", "id")
        )
