"""For how long a page of a list may keep the database at work: CONTIMG_QUERY_LIMIT_S, for all its statements together.

A filter that matches little, in an order that its index does not have, reads the whole table: at ten million rows half
a minute, with a thread of the web service. Who makes a page says so here; exports, the admin, commands and workers take
the time that they need.

On PostgreSQL the limit goes ahead of each statement in the same message (15 us of CPU; no round trip). On SQLite the
clock is looked at every STEPS of a statement (0.2 us to ask for it; a timer that interrupts takes 55 us, and a thread).
"""

from __future__ import annotations

import math
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from django.db import DEFAULT_DB_ALIAS, OperationalError, connections
from rest_framework.exceptions import APIException

STEPS = 100_000  # of SQLite's machine: a page of 1000 rows takes fewer, a scan as many in some milliseconds
_CANCELED = "57014"


class QueryTooSlow(APIException):
    """Not a 503: asked again it takes as long, unless the machine was very busy."""

    status_code = 400
    default_code = "query_too_slow"
    default_detail = (
        "The database had to read too much of the table for this page in the time that it has; add a narrower filter, "
        "such as a time range or a cone, or order by the column that you filter, such as snr__gt=9&ordering=-snr."
    )


@contextmanager
def limited(until: float) -> Iterator[None]:
    """Statements meanwhile end by `until`, of time.monotonic(); raises QueryTooSlow. The connection stays good.

    In a transaction of our own PostgreSQL keeps a setting to its end, and nothing is limited.
    """
    connection = connections[DEFAULT_DB_ALIAS]
    try:
        if until == math.inf or (connection.vendor == "postgresql" and connection.in_atomic_block):
            yield
        elif connection.vendor == "postgresql":
            with connection.execute_wrapper(_with_timeout(until)):
                yield
        else:
            connection.ensure_connection()
            database = connection.connection
            database.set_progress_handler(lambda: time.monotonic() > until, STEPS)
            try:
                yield
            finally:
                database.set_progress_handler(None, 0)
    except OperationalError as error:
        if _is_cut(error.__cause__):
            raise QueryTooSlow from error
        raise


def _with_timeout(until: float) -> Callable[..., Any]:
    def execute_limited(execute: Callable[..., Any], sql: str, params: Any, many: bool, context: Any) -> Any:
        tenths = max(1, math.ceil(10 * (until - time.monotonic())))  # few different texts, for pg_stat_statements
        done = execute(f"SET LOCAL statement_timeout = {100 * tenths}; {sql}", params, many, context)
        context["cursor"].nextset()
        return done

    return execute_limited


def _is_cut(error: BaseException | None) -> bool:
    by_sqlite = getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_INTERRUPT
    return by_sqlite or getattr(error, "sqlstate", None) == _CANCELED
