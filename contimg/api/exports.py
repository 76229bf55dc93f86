"""A whole list as CSV or VOTable (IVOA, version 1.4): streamed from keyset pages, so that a million rows take no more
memory than a thousand. What changes meanwhile is shown as it was when its page was read.

Units are those in the names. astropy's writer of VOTables wants all rows at once, which is why this one is here.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any
from xml.sax.saxutils import escape, quoteattr

import structlog
from django.db import Error
from django.db.models import QuerySet
from django.http import StreamingHttpResponse
from django.utils.http import content_disposition_header
from rest_framework import serializers
from rest_framework.exceptions import ValidationError
from rest_framework.request import Request
from structlog.contextvars import get_contextvars

from contimg.api.meanings import meaning, unit
from contimg.api.pagination import PARAMETERS, Cursor, Order
from contimg.api.renderers import CsvRenderer, VoTableRenderer, time_text
from contimg.exceptions import ContimgError
from contimg.places import PlacedResponse, Places

ROWS_AT_ONCE = 5000
MOST_EXPORTS = 2  # of the four threads of a web process
BROKEN_OFF = "This export was broken off here by a fault; ask again."
log = structlog.get_logger(__name__)
RENDERERS = (CsvRenderer, VoTableRenderer)

_FLUX = "phot.flux.density;em.radio"
# Unified content descriptors (IVOA UCD1+, version 1.5) of the fields of images, sources and measurements.
UCDS = {
    "id": "meta.record", "name": "meta.id;meta.main", "kind": "meta.code.class", "observed_at": "time.epoch",
    "mjd": "time.epoch", "epoch": "time.epoch", "created_at": "time.creation",
    "first_seen_at": "time.epoch;stat.min", "last_seen_at": "time.epoch;stat.max", "ra_deg": "pos.eq.ra;meta.main",
    "dec_deg": "pos.eq.dec;meta.main", "frequency_hz": "em.freq", "bandwidth_hz": "instr.bandwidth",
    "width_px": "pos.cartesian.x;instr.pixel", "height_px": "pos.cartesian.y;instr.pixel",
    "pixel_arcsec": "phys.angSize;instr.pixel", "bmaj_arcsec": "phys.angSize.smajAxis;instr.beam",
    "bmin_arcsec": "phys.angSize.sminAxis;instr.beam", "bpa_deg": "pos.posAng;instr.beam",
    "rms_jy_per_beam": f"stat.stdev;{_FLUX}", "peak_jy_per_beam": f"{_FLUX};stat.max", "dynamic_range": "stat.snr",
    "is_primary_beam_corrected": "meta.code", "grade": "meta.code.qual", "grade_source": "meta.code;meta.curation",
    "is_suspect": "meta.code.error", "is_lenient": "meta.code", "is_current": "meta.code",
    "measurement_set": "meta.id;obs", "separation_deg": "pos.angDistance", "n_measurements": "meta.number;obs",
    "flux_mean_jy": f"{_FLUX};stat.mean", "flux_max_jy": f"{_FLUX};stat.max", "eta": "stat.fit.chi2;src.var",
    "v": "stat.stdev;src.var", "is_variable": "meta.code;src.var", "source": "meta.id;src",
    "image": "meta.id;obs.image", "flux_jy": f"{_FLUX};meta.main", "flux_err_jy": f"stat.error;{_FLUX}",
    "snr": "stat.snr",
    "is_forced": "meta.code;obs.param", "upper_limit_jy": f"{_FLUX};stat.max",
}  # fmt: skip
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # XML 1.0, section 2.2
_HEAD = """<?xml version="1.0" encoding="UTF-8"?>
<VOTABLE version="1.4" xmlns="http://www.ivoa.net/xml/VOTable/v1.3">
<RESOURCE type="results">
<COOSYS ID="icrs" system="ICRS"/>
<TIMESYS ID="utc" timeorigin="MJD-origin" timescale="UTC" refposition="TOPOCENTER"/>
"""


class TooManyExports(ContimgError):
    """Each holds a thread of the web server until the last row is sent."""

    code = "too_many_exports"
    status = 503
    permanent = False
    retry_after_s = 10


places = Places(
    MOST_EXPORTS,
    lambda: TooManyExports(
        "As many exports, pictures and streams are being made here as may be at once; come again soon, or ask for"
        " pages as JSON."
    ),
)


def export(request: Request, queryset: QuerySet[Any], serializer: Any) -> StreamingHttpResponse:
    """Every row of a filtered and ordered list of rows (contimg/api/rows.py), with the fields of its serializer.

    Raises ValidationError and TooManyExports.
    """
    paged = [name for name in PARAMETERS if name in request.query_params]
    if paged:
        message = "A list is exported whole and has no pages then; leave it out."
        raise ValidationError(dict.fromkeys(paged, message), code="unknown_parameter")
    renderer = request.accepted_renderer
    name = queryset.model._meta.verbose_name_plural.replace(" ", "_")
    write, suffix = (_csv, "csv") if renderer.format == CsvRenderer.format else (_votable, "xml")
    headers = {
        "Content-Type": f"{renderer.media_type}; charset=utf-8",
        "Content-Disposition": content_disposition_header(as_attachment=True, filename=f"{name}.{suffix}"),
    }
    if request.method == "HEAD":
        return StreamingHttpResponse((), headers=headers)
    return PlacedResponse(places, write(name, serializer.fields, _pages(queryset, get_contextvars())), headers=headers)


def _pages(queryset: QuerySet[Any], asked_in: Mapping[str, Any]) -> Iterator[list[dict[str, Any]]]:
    """`asked_in` is what the log says of the request, which is over for it when the first row is sent."""
    order, cursor = Order.of(queryset), Cursor(backward=False, after=None)
    try:
        while rows := order.read(queryset, cursor, ROWS_AT_ONCE):
            yield rows
            cursor = Cursor(backward=False, after=order.position(rows[-1]))
    except (Error, ContimgError):
        log.exception("export_broken_off", table=queryset.model._meta.db_table, **asked_in)
        raise


class _Line:
    """What a csv.writer writes to: the line itself is handed back."""

    def write(self, line: str) -> str:
        return line


def _csv(name: str, fields: Mapping[str, Any], pages: Iterable[list[dict[str, Any]]]) -> Iterator[str]:
    line = csv.writer(_Line()).writerow
    yield line(fields)
    try:
        for rows in pages:
            yield "".join([line([_word(value) for value in row.values()]) for row in rows])
    except (Error, ContimgError):  # of the database, or of ours
        # The server ends this answer as if it were whole. No reader of tables takes a row that is longer than the head.
        yield line([BROKEN_OFF, *[""] * len(fields)])
        raise


def _word(value: Any) -> Any:
    """As JSON says it, and nothing for what is not known."""
    if isinstance(value, bool):
        return ("false", "true")[value]
    return time_text(value) if isinstance(value, datetime) else value


def _votable(name: str, fields: Mapping[str, Any], pages: Iterable[list[dict[str, Any]]]) -> Iterator[str]:
    described = "\n".join(_field(name, field) for name, field in fields.items())
    yield f"{_HEAD}<TABLE name={quoteattr(name)}>\n{described}\n<DATA><TABLEDATA>\n"
    for rows in pages:
        yield "".join([f"<TR>{''.join([_cell(value) for value in row.values()])}</TR>\n" for row in rows])
    yield "</TABLEDATA></DATA>\n</TABLE>\n</RESOURCE>\n</VOTABLE>\n"


def _cell(value: Any) -> str:
    if value is None:
        return "<TD/>"
    if isinstance(value, str):
        value = escape(_NOT_XML.sub("\N{REPLACEMENT CHARACTER}", value))
    return f"<TD>{_word(value)}</TD>"


def _field(name: str, field: serializers.Field) -> str:
    said = {"name": name, "ucd": UCDS.get(name), "unit": unit(name), "ref": _system(name), **_datatype(field)}
    attributes = " ".join(f"{key}={quoteattr(value)}" for key, value in said.items() if value)
    description = escape(
        str(field.help_text or meaning(name, of=type(field.parent).__name__.removesuffix("Serializer")))
    )
    return f"<FIELD {attributes}><DESCRIPTION>{description}</DESCRIPTION></FIELD>"


def _system(name: str) -> str | None:
    return {"ra_deg": "icrs", "dec_deg": "icrs", "mjd": "utc"}.get(name)


_DATATYPES: list[tuple[type[serializers.Field] | tuple[type[serializers.Field], ...], dict[str, str]]] = [
    (serializers.BooleanField, {"datatype": "boolean"}),
    (serializers.FloatField, {"datatype": "double"}),
    ((serializers.IntegerField, serializers.PrimaryKeyRelatedField), {"datatype": "long"}),
]
_TEXT = {"datatype": "unicodeChar", "arraysize": "*"}


def _datatype(field: serializers.Field) -> dict[str, str]:
    return next((datatype for kind, datatype in _DATATYPES if isinstance(field, kind)), _TEXT)
