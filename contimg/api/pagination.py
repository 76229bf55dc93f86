"""Keyset pages: the cost of page 10 000 is that of page 1.

A list is ordered by one column and then by `id`. A cursor holds the last row's value and id; the next page is what has
the same value and a further id, then what has a further value, which SQLite and PostgreSQL both answer from an index on
the two. Rows whose column is null come last, read by a query on `id` alone once the others are used up: with `NULLS
LAST` in one query PostgreSQL could not use a plain index for a descending list.

DRF's CursorPagination was tried as a base and left: its cursor knows only the first column and skips ties with OFFSET
(at most 1000 of them, then rows are lost), it writes null as the text "None", its broken cursors are a 404, and a limit
out of range is silently replaced. All but the links would have been overridden.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from django.conf import settings
from django.core.signing import BadSignature, Signer
from django.db import connections, models
from django.db.models import GeneratedField, QuerySet
from django.template.loader import render_to_string
from rest_framework.exceptions import ValidationError
from rest_framework.pagination import BasePagination
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.utils.urls import remove_query_param, replace_query_param
from rest_framework.views import APIView

from contimg.api.counts import MAX_EXACT_COUNT, count
from contimg.api.limits import QueryTooSlow, limited
from contimg.api.renderers import time_text

DEFAULT_LIMIT = 100
MAX_LIMIT = 1000
PARAMETERS = ("cursor", "limit", "count")
_NO_CURSOR = "This cursor is broken, or of another list, filter or ordering; begin again without it."
_COUNTED = f"Add the count: exact to {MAX_EXACT_COUNT}, an estimate above, and where an exact one takes too long."


@dataclass(frozen=True)
class Position:
    """Where a row is in its list: its value in the ordering's column and its id."""

    value: Any
    id: int


@dataclass(frozen=True)
class Cursor:
    """Read on after `after` (or before it, `backward`); without it, from that end of the list."""

    backward: bool
    after: Position | None


class KeysetPagination(BasePagination):
    template = "rest_framework/pagination/previous_and_next.html"

    def paginate_queryset(self, queryset: Any, request: Request, view: APIView | None = None) -> list[Any]:
        self.display_page_controls = True
        self.url = request.build_absolute_uri()
        self.signer = Signer(salt=_list_identity(request))
        self.order = Order.of(queryset)
        limit = _limit(request)
        cursor = self._cursor(request)
        wants_count = _wants_count(request)
        until = time.monotonic() + settings.CONTIMG_QUERY_LIMIT_S
        rows = self._read(queryset, cursor, limit + 1, until)
        self.counted = count(queryset, until=until, at_least=len(rows)) if wants_count else {}
        more, rows = len(rows) > limit, rows[:limit]
        page = rows[::-1] if cursor.backward else rows
        self._link(page, cursor, more)
        return page

    def _read(self, queryset: QuerySet[Any], cursor: Cursor, wanted: int, until: float) -> list[Any]:
        """PostgreSQL knows what is rare. SQLite reads the index of the order whatever the filter: where that takes
        long, what matches is found first, and then sorted. A distance has no index.
        """
        if connections[queryset.db].vendor == "sqlite" and self.order.name not in queryset.query.annotations:
            now = time.monotonic()
            with suppress(QueryTooSlow), limited(now + (until - now) / 3):
                return self.order.read(queryset, cursor, wanted)
            queryset = queryset.filter(pk__in=queryset.order_by().values("pk"))
        with limited(until):
            return self.order.read(queryset, cursor, wanted)

    # Read by the browsable page also when the request was refused before there was a page.
    next_url: str | None = None
    previous_url: str | None = None

    def _link(self, page: Sequence[Any], cursor: Cursor, more: bool) -> None:
        has_next = cursor.after is not None if cursor.backward else more
        has_previous = more if cursor.backward else cursor.after is not None
        self.next_url = self._url(Cursor(False, self.order.position(page[-1]) if page else None)) if has_next else None
        self.previous_url = (
            self._url(Cursor(True, self.order.position(page[0]) if page else None)) if has_previous else None
        )

    def _url(self, cursor: Cursor) -> str:
        if cursor == Cursor(False, None):
            return remove_query_param(self.url, "cursor")
        at = [_written(cursor.after.value), cursor.after.id] if cursor.after else None
        return replace_query_param(self.url, "cursor", self.signer.sign_object([cursor.backward, at]))

    def _cursor(self, request: Request) -> Cursor:
        """The cursor asked for. Signed with the list's identity, so a valid one holds what we wrote for this list."""
        given = request.query_params.get("cursor")
        if given is None:
            return Cursor(backward=False, after=None)
        try:
            backward, at = self.signer.unsign_object(given)
        except (BadSignature, ValueError) as error:
            raise ValidationError({"cursor": _NO_CURSOR}, code="invalid_cursor") from error
        return Cursor(backward, Position(self.order.parsed(at[0]), at[1]) if at else None)

    def get_paginated_response(self, data: Any) -> Response:
        return Response({"next": self.next_url, "previous": self.previous_url, **self.counted, "results": data})

    def to_html(self) -> str:
        return render_to_string(self.template, {"next_url": self.next_url, "previous_url": self.previous_url})

    def get_paginated_response_schema(self, schema: dict[str, Any]) -> dict[str, Any]:
        link = {"type": "string", "format": "uri", "nullable": True}
        return {
            "type": "object",
            "required": ["next", "previous", "results"],
            "properties": {
                "next": link,
                "previous": link,
                "count": {"type": "integer", "description": "With ?count=true."},
                "count_is_estimate": {"type": "boolean", "description": "With ?count=true."},
                "results": schema,
            },
        }

    def get_schema_operation_parameters(self, view: APIView) -> list[dict[str, Any]]:
        limit = {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT, "default": DEFAULT_LIMIT}
        return [
            _parameter("cursor", {"type": "string"}, "Taken from `next` or `previous`."),
            _parameter("limit", limit, "Rows on a page."),
            _parameter("count", {"type": "boolean"}, _COUNTED),
        ]


@dataclass(frozen=True)
class Order:
    """One column of the model or an annotation, nulls last, then `id` in the same direction."""

    name: str
    descending: bool
    field: models.Field[Any, Any]

    @classmethod
    def of(cls, queryset: QuerySet[Any]) -> Order:
        first, *rest = map(str, queryset.query.order_by)
        name = first.lstrip("-")
        if any(term.lstrip("-") != "id" for term in rest):
            raise ValueError(f"A keyset list is ordered by one column and id, not by {queryset.query.order_by}.")
        return cls(name, first.startswith("-"), _output_field(queryset, name))

    @property
    def is_nullable(self) -> bool:
        return bool(self.field.null)

    def position(self, row: Any) -> Position:
        if isinstance(row, dict):
            value = row[self.name]
            if isinstance(value, datetime):  # without its zone from SQLite (contimg/api/rows.py)
                value = value.replace(tzinfo=UTC)
            return Position(value, row["id"])
        return Position(getattr(row, self.name), row.pk)

    def parsed(self, written: Any) -> Any:
        return self.field.to_python(written)

    def read(self, queryset: Any, cursor: Cursor, wanted: int) -> list[Any]:
        """`wanted` rows at most, in reading direction."""
        if self.name == "separation_deg" and not self.descending and not cursor.backward:
            for inner in queryset.inner_parts(beyond_deg=cursor.after.value if cursor.after else 0.0):
                if len(rows := self._read(inner, cursor, wanted)) >= wanted:
                    return rows
        return self._read(queryset, cursor, wanted)

    def _read(self, queryset: QuerySet[Any], cursor: Cursor, wanted: int) -> list[Any]:
        rows: list[Any] = []
        for part in self._parts(queryset, cursor):
            rows += part[: wanted - len(rows)]
            if len(rows) >= wanted:
                break
        return rows

    def _parts(self, queryset: QuerySet[Any], cursor: Cursor) -> Iterator[QuerySet[Any]]:
        """The list from the cursor on, in pieces that an index has in this order: rows with a value, those without.

        Of the rows with a value those of the cursor's own come first. As one row comparison, `(value, id) < (%s, %s)`,
        SQLite reads all of that value up to the cursor where `id` is its row id: of 100 000 images that were
        registered at once each page would take longer than the last.
        """
        falling = self.descending is not cursor.backward
        sign, beyond = ("-", "lt") if falling else ("", "gt")
        after = cursor.after

        def known() -> QuerySet[Any]:
            rows = queryset.filter(**{f"{self.name}__isnull": False}) if self.is_nullable else queryset
            return rows.order_by(*dict.fromkeys([f"{sign}{self.name}", f"{sign}id"]))

        def unknown() -> QuerySet[Any]:
            if not self.is_nullable:
                return queryset.none()
            return queryset.filter(**{f"{self.name}__isnull": True}).order_by(f"{sign}id")

        # Made only when it comes to them: the first is nearly always enough.
        parts = [unknown, known] if cursor.backward else [known, unknown]
        if after is not None:
            begun = unknown if after.value is None else known
            parts = parts[parts.index(begun) + 1 :]
            rows = begun()
            if self.name != "id":
                yield rows.filter(**{self.name: after.value, f"id__{beyond}": after.id})
            if begun is known:
                yield rows.filter(**{f"{self.name}__{beyond}": after.value})
        for part in parts:
            yield part()


def _output_field(queryset: QuerySet[Any], name: str) -> models.Field[Any, Any]:
    annotation = queryset.query.annotations.get(name)
    if annotation is not None:
        return annotation.output_field
    field: Any = queryset.model._meta.get_field(name)
    if isinstance(field, GeneratedField):
        field = field.output_field
    return field


def _limit(request: Request) -> int:
    given = request.query_params.get("limit", str(DEFAULT_LIMIT))
    if not (given.isascii() and given.isdigit() and len(given) <= 4 and 1 <= int(given) <= MAX_LIMIT):
        raise ValidationError({"limit": f"A page has 1 to {MAX_LIMIT} rows."}, code="out_of_range")
    return int(given)


def _wants_count(request: Request) -> bool:
    given = request.query_params.get("count", "false")
    if given not in ("true", "false"):
        raise ValidationError({"count": "Say true or false."}, code="invalid")
    return given == "true"


def _list_identity(request: Request) -> str:
    """What makes it this list: its path, filters and ordering. Not the page's size."""
    given = sorted((key, value) for key, value in request.query_params.items() if key not in (*PARAMETERS, "format"))
    return json.dumps([request.path, given])


def _written(value: Any) -> Any:
    return time_text(value) if isinstance(value, datetime) else value


def _parameter(name: str, schema: dict[str, Any], description: str) -> dict[str, Any]:
    return {"name": name, "in": "query", "required": False, "schema": schema, "description": description}
