"""A night's chain of products as rows: tiles of one strip, a set of tables solved on the first, a mosaic of all."""

from __future__ import annotations

from dataclasses import dataclass

from calibration.models import CalibrationTable
from images.models import Image
from observations.models import SubbandGroup
from tests.factories import (
    AppliedFlagsFactory,
    AppliedTableFactory,
    CalibrationTableFactory,
    CatalogueFactory,
    FlagTableFactory,
    ImageFactory,
    MeasurementSetFactory,
    MosaicFactory,
    MosaicTileFactory,
    SubbandGroupFactory,
)


@dataclass(frozen=True)
class Chain:
    groups: list[SubbandGroup]
    raw: list
    flags: list
    tables: list[CalibrationTable]
    calibrated: list
    tiles: list[Image]
    mosaic: Image


def make_chain(n_tiles: int, tables: list[CalibrationTable] | None = None) -> Chain:
    groups = [SubbandGroupFactory() for _ in range(n_tiles)]
    raw = [MeasurementSetFactory(group=group) for group in groups]
    flags = [FlagTableFactory(measurement_set=one) for one in raw]
    if tables is None:
        solved = {"source_measurement_set": raw[0], "flag_table": flags[0], "set_name": f"set of {groups[0].pk}"}
        tables = [CalibrationTableFactory(kind=kind, **solved) for kind in "BG"]
    calibrated = [MeasurementSetFactory(group=one.group, calibrated_from=one) for one in raw]
    for one, flagged in zip(calibrated, flags, strict=True):
        AppliedFlagsFactory(measurement_set=one, flag_table=flagged)
        for table in tables:
            AppliedTableFactory(measurement_set=one, table=table)
    tiles = [ImageFactory(measurement_set=one, observed_at=one.observed_at) for one in calibrated]
    for tile in tiles:
        CatalogueFactory(image=tile)
    mosaic = MosaicFactory()
    for tile in tiles:
        MosaicTileFactory(mosaic=mosaic, tile=tile)
    CatalogueFactory(image=mosaic)
    return Chain(groups, raw, flags, tables, calibrated, tiles, mosaic)
