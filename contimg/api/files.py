"""Files over HTTP: streamed, in whole or by one byte range (RFC 9110 section 14)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from copy import copy
from functools import partial
from pathlib import Path
from typing import Any

from django.http import HttpResponseBase, StreamingHttpResponse
from django.utils.cache import get_conditional_response
from django.utils.http import content_disposition_header, http_date
from drf_spectacular.types import OpenApiTypes
from rest_framework.exceptions import APIException
from rest_framework.request import Request

from contimg.api.errors import ProblemSerializer
from contimg.exceptions import MissingProduct
from contimg.renditions import Rendition

CHUNK_BYTES = 1 << 20
_RANGE = re.compile(r"bytes=(\d*)-(\d*)", re.ASCII | re.IGNORECASE)


class RangeNotSatisfiable(APIException):
    status_code = 416
    default_code = "range_not_satisfiable"

    def __init__(self, size: int) -> None:
        super().__init__(f"The range lies outside of the file, which has {size} bytes.")
        self.headers = {"Content-Range": f"bytes */{size}"}


def file_answers(*media_types: str, is_made: bool = False) -> dict[Any, Any]:
    """For the schema: what the functions below answer. Headers follow from it (contimg/api/described.py)."""
    whole_or_part = {(status, kind): OpenApiTypes.BINARY for status in (200, 206) for kind in media_types}
    return {**whole_or_part, **dict.fromkeys((410, 416, *((422,) if is_made else ())), ProblemSerializer)}


def file_response(request: Request, path: Path, *, content_type: str, etag: str, name: str = "") -> HttpResponseBase:
    """The file, or the part of it that the Range header names; `name` is what it is saved as, where not as it is.

    Several ranges, other units and an If-Range that names another version get the whole file, as the RFC allows.
    Raises MissingProduct and RangeNotSatisfiable.
    """
    if not path.is_file():
        raise MissingProduct(f"The file {path.name} is not on disk any more.")
    facts = path.stat()
    response = _response(
        request,
        partial(_chunks, path),
        facts.st_size,
        name=name or path.name,
        content_type=content_type,
        etag=etag,
        modified_s=int(facts.st_mtime),
    )
    response.headers["Last-Modified"] = http_date(facts.st_mtime)
    return response


def content_response(request: Request, content: bytes, *, name: str, content_type: str, etag: str) -> HttpResponseBase:
    """The same of a small file that is made for the request and not on disk."""
    return _response(
        request,
        lambda first, length: iter([content[first : first + length]]),
        len(content),
        name=name,
        content_type=content_type,
        etag=etag,
    )


def rendition_response(request: Request, shown: Rendition, *, name: str, content_type: str) -> HttpResponseBase:
    """Raises what making it does."""
    etag = shown.key
    return not_modified(request, etag=etag) or file_response(
        request, shown.file(), content_type=content_type, etag=etag, name=name
    )


def not_modified(request: Request, *, etag: str, modified_s: int | None = None) -> HttpResponseBase | None:
    """A 304 for who has this version, a 412 for who expects another, so that nothing is made for him; else None.

    `modified_s` is when it was, in Unix time. What has no such time is not compared with any: where Django would answer
    412, the RFC has If-Unmodified-Since ignored (RFC 9110 section 13.1.4).
    """
    asked = copy(request._request)
    if modified_s is None:
        asked.META = {name: value for name, value in asked.META.items() if name != "HTTP_IF_UNMODIFIED_SINCE"}
    answer = get_conditional_response(asked, etag=f'"{etag}"', last_modified=modified_s)
    if answer is not None:
        answer.headers["ETag"] = f'"{etag}"'
    return answer


def _response(
    request: Request,
    chunks: Callable[[int, int], Iterator[bytes]],
    size: int,
    *,
    name: str,
    content_type: str,
    etag: str,
    modified_s: int | None = None,
) -> HttpResponseBase:
    # Whatever range of it is asked for (RFC 9110 section 13.2.2); also of what was asked before it was made.
    if (unchanged := not_modified(request, etag=etag, modified_s=modified_s)) is not None:
        return unchanged
    quoted = f'"{etag}"'
    span = _span(request, size) if request.headers.get("If-Range", quoted) == quoted else None
    first, last = span or (0, size - 1)
    headers = {
        "Content-Type": content_type,
        "Content-Length": str(last - first + 1),
        "Content-Disposition": content_disposition_header(as_attachment=False, filename=name),
        "Accept-Ranges": "bytes",
        "ETag": quoted,
    }
    if span:
        headers["Content-Range"] = f"bytes {first}-{last}/{size}"
    return StreamingHttpResponse(chunks(first, last - first + 1), status=206 if span else 200, headers=headers)


def _span(request: Request, size: int) -> tuple[int, int] | None:
    """First and last byte asked for; None for the whole file, which is all that HEAD is about (RFC 9110, 14.2)."""
    if request.method == "HEAD":
        return None
    found = _RANGE.fullmatch(request.headers.get("Range", "").replace(" ", ""))
    if found is None or found.groups() == ("", ""):
        return None
    first, last = map(_position, found.groups())
    if first is None:
        span = (max(size - (last or 0), 0), size - 1)
    else:
        span = (first, size - 1 if last is None else min(last, size - 1))
    if first is not None and last is not None and last < first:
        return None
    if span[0] >= size:
        raise RangeNotSatisfiable(size)
    return span


def _position(digits: str) -> int | None:
    """19 digits are beyond the end of any file, as more would be; of thousands Python makes no number."""
    return int(digits.lstrip("0")[:19] or 0) if digits else None


def _chunks(path: Path, first: int, length: int) -> Iterator[bytes]:
    with path.open("rb") as file:
        file.seek(first)
        while length > 0 and (chunk := file.read(min(CHUNK_BYTES, length))):
            length -= len(chunk)
            yield chunk
