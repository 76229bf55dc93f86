"""A light curve as files: CSV, VOTable, PNG."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rest_framework.utils.encoders import JSONEncoder

from contimg.renditions import Rendition
from sources.models import Source

FLUX = "phot.flux.density;em.radio"


@dataclass(frozen=True)
class Column:
    name: str
    datatype: type
    ucd: str
    description: str
    unit: str | None = None


COLUMNS = (
    Column("observed_at", str, "time.epoch", "Middle of the tile, UTC."),
    Column("mjd", float, "time.epoch", "The same as modified Julian date, UTC.", "d"),
    Column("status", str, "meta.code", "detected, forced, or rejected: not in the statistics."),
    Column("flux_jy", float, FLUX, "Forced flux density, corrected for the primary beam.", "Jy"),
    Column("flux_err_jy", float, f"stat.error;{FLUX}", "Its error.", "Jy"),
    Column("upper_limit_jy", float, f"{FLUX};stat.max", "3 sigma, where the flux is below.", "Jy"),
    Column("snr", float, "stat.snr", "Of the apparent peak."),
    Column("image", int, "meta.id", "Id of the image that it was measured in."),
    Column("grade", str, "meta.code.qual", "Grade of that image."),
)


def as_csv(*, light_curve: Mapping[str, Any]) -> bytes:
    """Nothing where a value is not known. Times are as in the JSON."""
    out = io.StringIO()
    table = csv.writer(out)
    table.writerow([column.name for column in COLUMNS])
    for point in _as_json(light_curve)["points"]:
        table.writerow([point[column.name] for column in COLUMNS])
    return out.getvalue().encode()


def as_votable(*, source: Source, light_curve: Mapping[str, Any]) -> bytes:
    """Its parameters say which source it is and where."""
    from astropy.io.votable import from_table, tree
    from astropy.table import MaskedColumn, Table

    points = _as_json(light_curve)["points"]
    table = Table()
    for column in COLUMNS:
        given = [point[column.name] for point in points]
        filler = column.datatype()
        data = [filler if value is None else value for value in given]
        table[column.name] = MaskedColumn(
            data,
            dtype=column.datatype,
            mask=[value is None for value in given],
            unit=column.unit,
            description=column.description,
            meta={"ucd": column.ucd},
        )
    document = from_table(table)
    document.version = "1.4"  # TIMESYS is of this version
    resource = document.resources[0]
    resource.coordinate_systems.append(tree.CooSys(ID="icrs", system="ICRS"))
    resource.time_systems.append(
        tree.TimeSys(
            ID="utc",
            timeorigin="MJD-origin",
            timescale="UTC",
            refposition="TOPOCENTER",
            config={"version": "1.4", "version_1_4_or_later": True},
        )
    )
    shown = resource.tables[0]
    shown.name = "light_curve"
    shown.get_field_by_id_or_name("mjd").ref = "utc"
    for name, value, unit, ucd, ref in (
        ("source", source.name, None, "meta.id;meta.main", None),
        ("ra_deg", source.ra_deg, "deg", "pos.eq.ra;meta.main", "icrs"),
        ("dec_deg", source.dec_deg, "deg", "pos.eq.dec;meta.main", "icrs"),
    ):
        kind = {"datatype": "char", "arraysize": "*"} if isinstance(value, str) else {"datatype": "double"}
        shown.params.append(tree.Param(document, name=name, value=value, unit=unit, ucd=ucd, ref=ref, **kind))
    out = io.BytesIO()
    document.to_xml(out)
    return out.getvalue()


def plot(*, source: Source, light_curve: Mapping[str, Any]) -> Rendition:
    shown = {name: light_curve[name] for name in ("points", "statistics")}
    return Rendition(
        engine="sources.engines.light_curve_plot:draw_order",
        recipe="",  # a light curve has none: it follows from its points
        parameters={"light_curve": _as_json(shown), "name": source.name, "is_variable": source.is_variable},
        suffix=".png",
    )


def _as_json(light_curve: Mapping[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(light_curve, cls=JSONEncoder))
