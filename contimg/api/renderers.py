"""JSON by orjson, a tenth of the time of the standard library's on a page of 100 images, and forms of files.

Settings name it, and DRF reads them while it imports its views: import no views here.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

import orjson
from rest_framework import renderers
from rest_framework.utils.encoders import JSONEncoder

_OPTIONS = orjson.OPT_NON_STR_KEYS | orjson.OPT_NAIVE_UTC | orjson.OPT_UTC_Z


def time_text(time: datetime) -> str:
    """As DRF and `_OPTIONS` write it. Times without a zone, of rows of SQLite (contimg/api/rows.py), are in UTC."""
    text = time.isoformat()
    return text.replace("+00:00", "Z") if time.tzinfo else f"{text}Z"


class Encoder(JSONEncoder):
    def default(self, obj: Any) -> Any:
        return time_text(obj) if isinstance(obj, datetime) else super().default(obj)


class JSONRenderer(renderers.JSONRenderer):
    encoder_class = Encoder

    def render(self, data: Any, accepted_media_type: str | None = None, renderer_context: Any = None) -> bytes:
        is_indented = self.get_indent(accepted_media_type or "", renderer_context or {}) is not None
        if data is None or is_indented:  # as in the browsable page, by any number of blanks
            return super().render(data, accepted_media_type, renderer_context)
        return orjson.dumps(data, default=self.encoder_class().default, option=_OPTIONS)


# Forms of files that `?format=` chooses from. A view answers with the file itself, so all that these ever render is a
# problem, and that is JSON.
class FitsRenderer(JSONRenderer):
    media_type = "application/fits"
    format = "fits"


class PngRenderer(JSONRenderer):
    media_type = "image/png"
    format = "png"


class CsvRenderer(JSONRenderer):
    media_type = "text/csv"
    format = "csv"


class VoTableRenderer(JSONRenderer):
    media_type = "application/x-votable+xml"
    format = "votable"
