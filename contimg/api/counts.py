"""How many rows a query has, in bounded time; also for what answers no request, such as a worker's figures."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from typing import Any

from django.db import connections
from django.db.models import Max, QuerySet

from contimg.api.limits import QueryTooSlow, limited

MAX_EXACT_COUNT = 10_000


def count(queryset: QuerySet[Any], *, until: float = math.inf, at_least: int = 0) -> dict[str, Any]:
    """Exact while that reads few rows, and takes half of the time that there is until `until`; an estimate above.

    `at_least` so many are known to be there.
    """
    try:
        with limited((time.monotonic() + until) / 2):
            counted = _few(queryset).count()
    except QueryTooSlow:
        return _estimated(queryset, at_least=at_least)
    return _exact_or_estimated(queryset, counted)


def count_each(querysets: Sequence[QuerySet[Any]]) -> list[dict[str, Any]]:
    """`count` of each of these, in one query and one or two more for each that gets an estimate."""
    compiled = [_few(rows.values("pk")).query.get_compiler(rows.db, elide_empty=False).as_sql() for rows in querysets]
    columns = ", ".join(f"(SELECT COUNT(*) FROM ({sql}) counted)" for sql, _ in compiled)  # noqa: S608 - Django's
    with connections[querysets[0].db].cursor() as cursor:
        cursor.execute(f"SELECT {columns}", [value for _, values in compiled for value in values])
        counted = cursor.fetchone()
    return [_exact_or_estimated(rows, n) for rows, n in zip(querysets, counted, strict=True)]


def _few(queryset: QuerySet[Any]) -> QuerySet[Any]:
    """To see whether there are more than are counted."""
    return queryset.order_by()[: MAX_EXACT_COUNT + 1]


def _exact_or_estimated(queryset: QuerySet[Any], counted: int) -> dict[str, Any]:
    if counted <= MAX_EXACT_COUNT:
        return {"count": counted, "count_is_estimate": False}
    return _estimated(queryset, at_least=counted)


def _estimated(queryset: QuerySet[Any], *, at_least: int) -> dict[str, Any]:
    return {"count": max(at_least, _estimated_count(queryset.order_by())), "count_is_estimate": True}


def _estimated_count(queryset: QuerySet[Any]) -> int:
    """The planner's figure where the planner has one; elsewhere the share of a sample of evenly spaced ids."""
    if connections[queryset.db].vendor == "postgresql":
        return int(json.loads(queryset.explain(format="json"))[0]["Plan"]["Plan Rows"])
    last = queryset.model._default_manager.aggregate(last=Max("pk"))["last"] or 0
    size = 900
    found = queryset.filter(pk__in={last * step // size for step in range(1, size + 1)}).count()
    return round(last * found / size)
