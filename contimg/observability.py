"""Logs that can be searched: one structured line per event, each with the request it belongs to, and what that cost.

`structlog.get_logger()` and the standard library's loggers end in the same handler and format.
"""

from __future__ import annotations

import logging
import random
import re
import sys
import time
import uuid
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar
from typing import Any

import structlog
from django.conf import settings
from django.db import connection
from django.http import HttpRequest, HttpResponse
from django.utils.functional import SimpleLazyObject

from contimg.addresses import client_address

SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
FORMATS = ("console", "json")
QUIET_S = 60.0
LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")

logger = structlog.get_logger("contimg.requests")
slow_queries = structlog.get_logger("contimg.queries")
# What is being answered now, for the audit log; None in commands and workers.
current_request: ContextVar[HttpRequest | None] = ContextVar("current_request", default=None)
_WELL_FORMED_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")
_PROBES = ("/health/", "/metrics")
_EVERY_LINE: list[Any] = [
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_logger_name,
    structlog.stdlib.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
]


def logging_config(*, log_format: str, level: str) -> dict[str, Any]:
    """Django's LOGGING. An unknown format or level falls back to the default; contimg.checks reports it."""
    structlog.configure(
        processors=[*_EVERY_LINE, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    as_json = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    as_text = [
        structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback)
    ]
    renderers = as_json if log_format == "json" else as_text
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {
            "structured": {
                "()": structlog.stdlib.ProcessorFormatter,
                "foreign_pre_chain": [*_EVERY_LINE, structlog.stdlib.ExtraAdder(allow=["status_code"])],
                "processors": [structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderers],
            }
        },
        "filters": {
            "without_traceback": {"()": WithoutTraceback},
            "only_faults": {"()": OnlyFaults},
            "once_an_outage": {"()": OnceAnOutage},
        },
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "structured"}},
        "root": {"handlers": ["stderr"], "level": level if level in LEVELS else "INFO"},
        "loggers": {
            "django": {"handlers": [], "level": "INFO"},
            # RequestMiddleware says it once, with the request's id; of a fault the traceback is needed too.
            "django.server": {"handlers": [], "level": "ERROR", "propagate": True},
            "django.request": {"level": "ERROR", "filters": ["only_faults"]},
            # A line for each doorbell; what the work came to is said by who did it.
            "celery": {"level": "WARNING"},
            "django_tasks": {"level": "CRITICAL"},
            "django_tasks_db": {"level": "CRITICAL"},
            # Why it cannot connect, which it tries every second or two; and a line for each connection that is lent.
            "psycopg.pool": {"level": "WARNING", "filters": ["once_an_outage"]},
            # With a traceback, and at every scrape; `contimg.health` says what has changed.
            "health_check": {"level": "CRITICAL"},
            # Anybody can send these: no fault of ours, and a traceback of Django's insides tells nothing.
            "django.security.DisallowedHost": {"filters": ["without_traceback"]},
            "django.security.TooManyFieldsSent": {"filters": ["without_traceback"]},
        },
    }


class WithoutTraceback(logging.Filter):
    """Makes one line at WARNING of what Django logs as an error with its traceback."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.levelno, record.levelname = logging.WARNING, logging.getLevelName(logging.WARNING)
        record.exc_info = record.exc_text = None
        return True


class OnlyFaults(logging.Filter):
    """Lets by what has a traceback: an answer above 499 that is meant, such as a 503, has its request's line."""

    def filter(self, record: logging.LogRecord) -> bool:
        return bool(record.exc_info)


class OnceAnOutage(logging.Filter):
    """Lets a line go by, and not the same again until nobody has said it for a minute."""

    def __init__(self) -> None:
        super().__init__()
        self._said_at: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        text, now = record.getMessage(), time.monotonic()
        self._said_at = {said: at for said, at in list(self._said_at.items()) if now - at < QUIET_S}
        is_new = text not in self._said_at
        self._said_at[text] = now
        return is_new


class RequestMiddleware:
    """Gives every request an id (the caller's own if well-formed), one line in the log, and a place in the metrics."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        from contimg import metrics, tracing  # which load what has to wait until the settings are read

        self.get_response = get_response
        self.count, self.span, self.note = metrics.count, tracing.span, tracing.note

    def __call__(self, request: HttpRequest) -> HttpResponse:
        given = request.headers.get("X-Request-ID", "")
        request_id = given if _WELL_FORMED_ID.fullmatch(given) else uuid.uuid4().hex
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=request_id)
        started = time.perf_counter()
        asked = Asked()
        answering = current_request.set(request)
        try:
            with connection.execute_wrapper(asked), self._traced(request):
                response = self.get_response(request)
                self.note(_route(request), {"http.response.status_code": response.status_code})
        finally:
            current_request.reset(answering)
        ms = 1000 * (time.perf_counter() - started)
        response.headers["X-Request-ID"] = request_id
        self.count(request, n_queries=asked.n)
        address = client_address(request)
        logger.log(
            _level(request.path, response.status_code, ms),
            "request",
            method=request.method,
            path=request.path,
            status=response.status_code,
            user=_user_name(request),
            address=address and str(address),
            ms=round(ms, 1),
            queries=asked.n,
        )
        return response

    def _traced(self, request: HttpRequest) -> AbstractContextManager[None]:
        """All that change something, and what somebody traces already; a share of those that only read."""
        is_read = request.method in SAFE_METHODS and "traceparent" not in request.headers
        if is_read and (request.path.startswith(_PROBES) or random.random() >= settings.CONTIMG_TRACE_SHARE):  # noqa: S311
            return nullcontext()
        facts = {"http.request.method": request.method, "url.path": request.path}
        return self.span(f"{request.method}", parent=request.headers.get("traceparent", ""), facts=facts)


class Asked:
    """Counts the queries made meanwhile, and names those that took long: the statement, never its values."""

    def __init__(self) -> None:
        self.n = 0

    def __call__(self, execute: Callable[..., Any], sql: str, params: Any, many: bool, context: Any) -> Any:
        self.n += 1
        started = time.perf_counter()
        try:
            return execute(sql, params, many, context)
        finally:
            ms = 1000 * (time.perf_counter() - started)
            if ms >= settings.CONTIMG_SLOW_QUERY_MS:
                slow_queries.warning("slow_query", ms=round(ms, 1), sql=sql[:1000])


def _route(request: HttpRequest) -> str:
    return f"{request.method} {request.resolver_match.view_name}" if request.resolver_match else ""


def _user_name(request: HttpRequest) -> str | None:
    """Of who was asked about while it was answered; asking now would cost a query."""
    known = vars(request)
    user = known.get("_cached_user") or known.get("user")
    return None if user is None or isinstance(user, SimpleLazyObject) else user.get_username() or None


def _level(path: str, status: int, ms: float) -> int:
    if status >= 500:
        return logging.WARNING if status == 503 else logging.ERROR  # refused for now, which is said in its `code`
    if path.startswith(_PROBES):
        return logging.DEBUG
    return logging.WARNING if ms >= settings.CONTIMG_SLOW_REQUEST_MS else logging.INFO
