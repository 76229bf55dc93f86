"""What was made from what, as one set of keys for each kind of product: a queryset each, so nothing is read to walk.

    subband group -> raw measurement set -> flag table -> calibration table -> calibrated set -> tile -> mosaic
                                                                                                 \\-> catalogue

The kinds and their order are fixed, so the walk is a fixed number of nested subqueries, at any depth and on both
databases: no recursion, and no way for a cycle to hold it. UNION joins the ways to a kind: an OR of two subqueries
keeps PostgreSQL from using an index for either.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.db.models import F, Model, QuerySet

from calibration.models import AppliedFlags, AppliedTable, CalibrationTable, FlagTable
from contimg.exceptions import InvalidInput
from images.models import Image, MosaicTile
from observations.models import MeasurementSet, SubbandGroup
from sources.models import Catalogue

KINDS: dict[str, type[Model]] = {
    "subband_group": SubbandGroup,
    "measurement_set": MeasurementSet,
    "flag_table": FlagTable,
    "calibration_table": CalibrationTable,
    "image": Image,
    "catalogue": Catalogue,
}
NAMES = tuple(KINDS)
Keys = QuerySet[Any, Any]  # rows of one column, `key`
Start = Mapping[str, Keys]


class NoSuchProduct(InvalidInput):
    code = "no_such_product"
    status = 404


def product_of(kind: str, pk: int) -> Model:
    """Raises NoSuchProduct."""
    product = KINDS[kind]._default_manager.filter(pk=pk).first() if 0 < pk < 2**63 else None
    if product is None:
        raise NoSuchProduct(f"There is no {kind} {pk}.")
    return product


def keys(rows: QuerySet[Any, Any], column: str = "pk") -> Keys:
    return rows.order_by().values(key=F(column))


def node(kind: str, pk: int) -> dict[str, Keys]:
    return {kind: keys(KINDS[kind]._default_manager.filter(pk=pk))}


def downstream(start: Start) -> dict[str, Keys]:
    """What `start` went into, and itself; without the kinds that nothing of it can be."""
    found = _Found(start)
    groups = found.of("subband_group")
    raw = found.add("measurement_set", _sets(group__in=groups, calibrated_from=None))
    flags = found.add("flag_table", _of(FlagTable, measurement_set__in=raw))
    tables = found.add(
        "calibration_table",
        _of(CalibrationTable, flag_table__in=flags),
        _of(CalibrationTable, source_measurement_set__in=raw),
    )
    sets = found.add(
        "measurement_set",
        _sets(calibrated_from__in=raw),
        keys(AppliedFlags.objects.filter(flag_table__in=flags), "measurement_set"),
        keys(AppliedTable.objects.filter(table__in=tables), "measurement_set"),
    )
    tiles = found.add("image", _of(Image, measurement_set__in=sets))
    images = found.add("image", keys(MosaicTile.objects.filter(tile__in=tiles), "mosaic"))
    found.add("catalogue", _of(Catalogue, image__in=images))
    return found.by_kind


def upstream(start: Start) -> dict[str, Keys]:
    """What `start` was made from, and itself."""
    found = _Found(start)
    images = found.add("image", keys(Catalogue.objects.filter(pk__in=found.of("catalogue")), "image"))
    tiles = found.add("image", keys(MosaicTile.objects.filter(mosaic__in=images), "tile"))
    with_sets = Image.objects.filter(pk__in=tiles, measurement_set__isnull=False)
    sets = found.add("measurement_set", keys(with_sets, "measurement_set"))
    tables = found.add("calibration_table", keys(AppliedTable.objects.filter(measurement_set__in=sets), "table"))
    flags = found.add(
        "flag_table",
        keys(AppliedFlags.objects.filter(measurement_set__in=sets), "flag_table"),
        keys(CalibrationTable.objects.filter(pk__in=tables), "flag_table"),
    )
    raw = found.add(
        "measurement_set",
        keys(MeasurementSet.objects.filter(pk__in=sets, calibrated_from__isnull=False), "calibrated_from"),
        keys(FlagTable.objects.filter(pk__in=flags), "measurement_set"),
        keys(CalibrationTable.objects.filter(pk__in=tables), "source_measurement_set"),
    )
    found.add("subband_group", keys(MeasurementSet.objects.filter(pk__in=raw), "group"))
    return found.by_kind


class _Found:
    """The keys found so far, by kind."""

    def __init__(self, start: Start) -> None:
        self.by_kind = dict(start)

    def of(self, kind: str) -> Keys:
        found = self.by_kind.get(kind)
        return keys(KINDS[kind]._default_manager.none()) if found is None else found

    def add(self, kind: str, *ways: Keys) -> Keys:
        """Those that were there, and those that these ways lead to."""
        possible = [way for way in (self.by_kind.get(kind), *ways) if way is not None and not way.query.is_empty()]
        if possible:
            self.by_kind[kind] = possible[0].union(*possible[1:]) if len(possible) > 1 else possible[0]
        return self.of(kind)


def _of(model: type[Model], **conditions: Keys) -> Keys:
    return keys(model._default_manager.filter(**conditions))


def _sets(**conditions: Any) -> Keys:
    return keys(MeasurementSet.objects.filter(**conditions))
