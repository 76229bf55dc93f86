"""What no answer may show: where the server keeps its files, its tracebacks and its SQL."""

from __future__ import annotations

import functools
import re
import sysconfig
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from django.conf import settings

SIGNS = re.compile(
    rb"site-packages|dist-packages|Traceback \(most recent call last\)|File \"[^\"]+\", line \d+"
    rb"|\bSELECT\b.+\bFROM\b|\bINSERT INTO\b|\bUPDATE\b.+\bSET\b|\bDELETE FROM\b|\bPRAGMA\b|psycopg|sqlite3\."
    rb"|(?<![\w/.:-])/(?:usr|home|root|tmp|var|opt|etc|srv|mnt|proc|data)/\w"
)


@functools.cache
def _folders(*named: Path) -> set[bytes]:
    told = {*map(str, named), tempfile.gettempdir(), sysconfig.get_path("stdlib"), sysconfig.get_path("purelib")}
    return {folder.encode() for folder in told if len(folder) > 1}


def seen_from_outside(body: bytes, headers: Mapping[str, Any]) -> list[str]:
    """Each sign of the inside that an answer has, with what stands around it."""
    text = b"\n".join([body, *(f"{name}: {value}".encode() for name, value in headers.items())])
    folders = _folders(settings.BASE_DIR, settings.VAR_DIR, settings.CONTIMG_PRODUCTS_ROOT, Path.home())
    places = [found.span() for found in SIGNS.finditer(text)]
    places += [found.span() for folder in folders for found in re.finditer(re.escape(folder), text)]
    return [text[max(0, begin - 60) : end + 60].decode(errors="replace") for begin, end in places]
