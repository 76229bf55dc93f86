"""How many rows a query has, in bounded time; also for what answers no request, such as a worker's figures."""

from __future__ import annotations

import json
import math
import time
from typing import Any

from django.db import connections
from django.db.models import Max, QuerySet

from contimg.api.limits import QueryTooSlow, limited

MAX_EXACT_COUNT = 10_000


def count(queryset: QuerySet[Any], *, until: float = math.inf, at_least: int = 0) -> dict[str, Any]:
    """Exact while that reads few rows, and takes half of the time that there is until `until`; an estimate above.

    `at_least` so many are known to be there.
    """
    rows = queryset.order_by()
    try:
        with limited((time.monotonic() + until) / 2):
            exact = rows[: MAX_EXACT_COUNT + 1].count()
    except QueryTooSlow:
        exact = at_least
    else:
        if exact <= MAX_EXACT_COUNT:
            return {"count": exact, "count_is_estimate": False}
    return {"count": max(exact, _estimated_count(rows)), "count_is_estimate": True}


def _estimated_count(queryset: QuerySet[Any]) -> int:
    """The planner's figure where the planner has one; elsewhere the share of a sample of evenly spaced ids."""
    if connections[queryset.db].vendor == "postgresql":
        return int(json.loads(queryset.explain(format="json"))[0]["Plan"]["Plan Rows"])
    last = queryset.model._default_manager.aggregate(last=Max("pk"))["last"] or 0
    size = 900
    found = queryset.filter(pk__in={last * step // size for step in range(1, size + 1)}).count()
    return round(last * found / size)
