"""The antennas of a measurement set, from what the database knows and from the set itself."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from calibration.models import AntennaFlag, FlagTable
from calibration.staff_flags import span
from contimg.products import product_path
from contimg.renditions import Rendition
from observations.models import MeasurementSet


@dataclass(frozen=True)
class Antennas:
    """`flag_table` is where the flagged fractions are from; None: counted in the set."""

    measurement_set: MeasurementSet
    flag_table: FlagTable | None
    antennas: Sequence[dict[str, Any]]


def antennas_of(*, measurement_set: MeasurementSet) -> Antennas:
    """Raises MissingProduct and what a rendition does.

    Flags of a raw set are in its flag table; those of a calibrated set, where antennas without a solution are flagged
    too, are in the set alone, and a child process counts them once.
    """
    table = _flag_table(measurement_set)
    in_set = Rendition(
        engine="observations.engines.antennas:write",
        recipe=measurement_set.recipe,
        parameters={"counts_flags": table is None},
        arguments={"path": str(product_path(measurement_set.path))},
        suffix=".json",
    )
    antennas = json.loads(in_set.file().read_text())
    started_at, ended_at = span(measurement_set)
    flags = list(AntennaFlag.objects.in_use().overlapping(started_at=started_at, ended_at=ended_at).order_by("id"))
    with_data = set(measurement_set.antennas)
    for antenna in antennas:
        if table is not None:
            antenna["flagged_fraction"] = table.antenna_fractions.get(antenna["name"])
        antenna["has_data"] = antenna["name"] in with_data
        antenna["staff_flags"] = [flag for flag in flags if flag.antenna in ("", antenna["name"])]
    return Antennas(measurement_set, table, antennas)


def _flag_table(measurement_set: MeasurementSet) -> FlagTable | None:
    """That of a raw set whose flagged fraction is the set's: the one recorded last."""
    if measurement_set.is_calibrated or measurement_set.flagged_fraction is None:
        return None
    tables = measurement_set.flag_tables.filter(flagged_fraction=measurement_set.flagged_fraction)
    return tables.order_by("-created_at", "-id").first()
