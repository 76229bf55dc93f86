"""Positions in the database: a HEALPix column to find candidates, the exact great circle to decide.

Portable to every database Django supports, with no extension. Only numpy and cdshealpix are imported, and those
lazily, so that a web process which never searches by position never loads them.
"""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Iterable, Iterator
from typing import Any, Self

from django.db import models
from django.db.models import BooleanField, F, Func, Value
from django.db.models.expressions import CombinedExpression
from django.db.models.functions import ASin, Cos, Least, Power, Radians, Sin, Sqrt
from django.db.models.lookups import Exact
from django.db.models.sql.compiler import SQLCompiler
from django.db.models.sql.where import WhereNode

HEALPIX_DEPTH = 14  # nested; pixels of 12.9 arcsec, so a 10 arcsec cone touches a handful
MAX_CONE_RANGES = 40  # keeps the SQL short; the exact test removes what the coarser cover lets in
MAX_RADIUS_DEG = 10.0
NARROW_DEG = 3.0  # of ten million measurements a cone of this radius holds some ten thousand
ROUNDING_DEG = 1e-9


def fits_on_the_sky(size_px: int, pixel_arcsec: float) -> bool:
    """Whether a square image in RA---SIN has a place for each pixel: l^2 + m^2 <= 1, the corners last of all."""
    return math.sqrt(2) * size_px / 2 * math.radians(pixel_arcsec / 3600) <= 1


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
    # Cells about a quarter of the radius wide: few ranges, little outside the cone.
    cell_deg = 58.6 / 2**HEALPIX_DEPTH
    depth = max(0, HEALPIX_DEPTH - math.ceil(math.log2(max(radius_deg / 4 / cell_deg, 1))))
    while True:
        ranges = _merged(_cells_touching(ra_deg, dec_deg, radius_deg, depth), depth)
        if len(ranges) <= MAX_CONE_RANGES or depth == 0:
            return ranges
        depth -= 1


def _cells_touching(ra_deg: float, dec_deg: float, radius_deg: float, depth: int) -> list[int]:
    """Every cell of this depth that may touch the cone, ascending: its centre is within the radius and a cell's reach.

    `cdshealpix.cone_search` was tried and left: around the poles it lacks cells that lie up to 4% of the radius inside
    of the cone.
    """
    import cdshealpix
    import numpy as np

    level = depth % 2
    cells = np.arange(12 * 4**level, dtype=np.uint64)
    while True:
        lon, lat = (angle.rad for angle in cdshealpix.healpix_to_lonlat(cells, level))
        ra, dec = math.radians(ra_deg), math.radians(dec_deg)
        haversine = np.sin((lat - dec) / 2) ** 2 + np.cos(lat) * math.cos(dec) * np.sin((lon - ra) / 2) ** 2
        separation_deg = np.degrees(2 * np.arcsin(np.sqrt(np.clip(haversine, 0, 1))))
        cells = cells[separation_deg <= radius_deg + _reach_deg(level) + ROUNDING_DEG]
        if level == depth:
            return cells.tolist()
        cells = (cells[:, None] * np.uint64(16) + np.arange(16, dtype=np.uint64)).ravel()
        level += 2


def _reach_deg(depth: int) -> float:
    """The farthest that any cell of this depth reaches from its centre.

    `max_pixrad` of the HEALPix C++ library (Gorski et al. 2005, ApJ 622, 759): from the centre at z = 2/3 of the cell
    on the border of equatorial belt and polar cap, to its corner towards the pole.
    """
    n_side = 2**depth
    z_centre, lon_centre = 2 / 3, math.pi / (4 * n_side)
    z_corner = 1 - (1 - 1 / n_side) ** 2 / 3
    across = math.sqrt((1 - z_centre**2) * (1 - z_corner**2)) * math.cos(lon_centre)
    return math.degrees(math.acos(min(1.0, z_centre * z_corner + across)))


def _merged(cells: Iterable[int], depth: int) -> tuple[tuple[int, int], ...]:
    """Ascending cells of a depth as ranges at HEALPIX_DEPTH."""
    shift = 2 * (HEALPIX_DEPTH - depth)
    merged: list[tuple[int, int]] = []
    for cell in cells:
        first, end = cell << shift, (cell + 1) << shift
        if merged and first == merged[-1][1]:
            merged[-1] = (merged[-1][0], end)
        else:
            merged.append((first, end))
    return tuple(merged)


def separation_deg(ra_deg: float, dec_deg: float, other_ra_deg: float, other_dec_deg: float) -> float:
    """Great-circle distance of two positions, as `separation_expression`."""
    dec, other_dec = math.radians(dec_deg), math.radians(other_dec_deg)
    across = math.sin(math.radians(other_ra_deg - ra_deg) / 2) ** 2
    haversine = math.sin((other_dec - dec) / 2) ** 2 + math.cos(dec) * math.cos(other_dec) * across
    return 2 * math.degrees(math.asin(min(1.0, math.sqrt(haversine))))


def separation_expression(ra_deg: float, dec_deg: float) -> models.ExpressionWrapper:
    """Great-circle distance in degrees as a database expression (haversine: exact for small angles and poles)."""
    half_dra = Radians(_without_dust(F("ra_deg") - Value(float(ra_deg)))) / 2.0
    half_ddec = Radians(_without_dust(F("dec_deg") - Value(float(dec_deg)))) / 2.0
    haversine = Power(Sin(half_ddec), 2.0) + Cos(Radians(_without_dust(F("dec_deg")))) * Value(
        math.cos(math.radians(dec_deg))
    ) * Power(Sin(half_dra), 2.0)
    return models.ExpressionWrapper(
        ASin(Least(Value(1.0), Sqrt(haversine))) * (360.0 / math.pi), output_field=models.FloatField()
    )


def _without_dust(degrees: CombinedExpression | F) -> CombinedExpression:
    """Rounded to about 1e-16: PostgreSQL refuses a product too small for a double ("value out of range: underflow")."""
    return degrees + Value(1.0) - Value(1.0)


def offset_expressions(ra_deg: float, dec_deg: float) -> dict[str, models.ExpressionWrapper]:
    """A point's orthographic offsets `east` and `north` of each row's position (Calabretta & Greisen 2002, eq. 54)."""
    dra = Radians(_without_dust(Value(float(ra_deg)) - F("ra_deg")))
    dec = Radians(_without_dust(F("dec_deg")))
    sine, cosine = math.sin(math.radians(dec_deg)), math.cos(math.radians(dec_deg))
    east = Value(cosine) * Sin(dra)
    north = Value(sine) * Cos(dec) - Value(cosine) * Sin(dec) * Cos(dra)
    return {
        name: models.ExpressionWrapper(offset, output_field=models.FloatField())
        for name, offset in (("east", east), ("north", north))
    }


def direction(ra_deg: float, dec_deg: float) -> tuple[float, float, float]:
    """A position as a unit vector, rounded to 1e-17: PostgreSQL refuses a product too small for a double."""
    ra, dec = math.radians(ra_deg), math.radians(dec_deg)
    x, y, z = math.cos(dec) * math.cos(ra), math.cos(dec) * math.sin(ra), math.sin(dec)
    return round(x, 17), round(y, 17), round(z, 17)


class InCells(Func):
    """Whether a row's cell touches a cone: `healpix` in any of up to MAX_CONE_RANGES ranges.

    As that many `Q` objects it took 8 ms to compile.
    """

    output_field = BooleanField()

    def __init__(self, ra_deg: float, dec_deg: float, radius_deg: float) -> None:
        super().__init__(F("healpix"))
        self.extra |= {"ranges": cone_ranges(ra_deg, dec_deg, radius_deg), "radius_deg": radius_deg}

    def as_sql(self, compiler: SQLCompiler, connection: Any, **extra: Any) -> tuple[str, list[Any]]:  # type: ignore[override]
        return self._within(compiler.compile(self.source_expressions[0])[0])

    def as_sqlite(self, compiler: SQLCompiler, connection: Any, **extra: Any) -> tuple[str, list[Any]]:  # type: ignore[override]
        """Of a narrow cone found first, whatever else is asked: beside an ordering or another filter SQLite would leave
        the cells' index for that one's, and read the table. In a wide one there are many, and another filter finds few.
        """
        if self.extra["radius_deg"] > NARROW_DEG:
            return self.as_sql(compiler, connection)
        column: Any = self.source_expressions[0]
        meta = column.target.model._meta
        table, key, cell, alias = map(
            compiler.quote_name_unless_alias, (meta.db_table, meta.pk.column, column.target.column, column.alias)
        )
        within, bounds = self._within(cell)
        return f"{alias}.{key} IN (SELECT {key} FROM {table} WHERE {within})", bounds  # noqa: S608 - names of the model

    def _within(self, cell: str) -> tuple[str, list[Any]]:
        ranges = self.extra["ranges"]
        within = " OR ".join([f"({cell} >= %s AND {cell} < %s)"] * len(ranges))
        return f"({within})", [bound for pair in ranges for bound in pair]


class PositionQuerySet(models.QuerySet):
    """For models with `ra_deg`, `dec_deg` (ICRS) and `healpix`."""

    _cone: tuple[float, float, float] | None = None  # its place and radius, in degrees

    def _clone(self) -> Self:
        clone = super()._clone()  # type: ignore[misc]  # which the stubs leave out
        clone._cone = self._cone
        return clone

    def within_cone(self, *, ra_deg: float, dec_deg: float, radius_deg: float) -> Self:
        """Rows within `radius_deg` by true great-circle distance, annotated `separation_deg`, nearest first."""
        cone = (
            self.filter(InCells(ra_deg, dec_deg, radius_deg))
            .annotate(separation_deg=separation_expression(ra_deg, dec_deg))
            .filter(separation_deg__lte=radius_deg)
            .order_by("separation_deg", "id")
        )
        cone._cone = (ra_deg, dec_deg, radius_deg)
        return cone

    def inner_parts(self, *, beyond_deg: float) -> Iterator[Self]:
        """Of a wide cone the parts around its centre that reach beyond a distance, each larger than the one before.

        Whoever wants the nearest rows has them there, if there are enough, without the distances of all.
        """
        if self._cone is not None and self._cone[2] > NARROW_DEG:
            ra_deg, dec_deg, radius_deg = self._cone
            for inner_deg in (radius_deg / 16, radius_deg / 4):
                if inner_deg > beyond_deg:
                    inner = self.filter(separation_deg__lte=inner_deg)
                    _narrow(inner.query.where, InCells(ra_deg, dec_deg, inner_deg))
                    yield inner


def _narrow(where: WhereNode, cells: InCells) -> None:
    """Put these cells in the place of those of a cone: beside them SQLite would go through the wide one's too."""
    for at, child in enumerate(where.children):
        if isinstance(child, WhereNode):  # of this query alone, which a lookup in it is not
            _narrow(child, cells)
        elif isinstance(child, Exact) and isinstance(child.lhs, InCells):
            narrowed = where.children[at] = copy.copy(child)
            narrowed.lhs = child.lhs.copy()
            narrowed.lhs.extra = cells.extra
