"""Logs that can be searched: one structured line per event, each with the request it belongs to.

`structlog.get_logger()` and the standard library's loggers end in the same handler and format.
"""

from __future__ import annotations

import logging
import re
import sys
import time
import uuid
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import structlog
from django.http import HttpRequest, HttpResponse

FORMATS = ("console", "json")
LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")

logger = structlog.get_logger("contimg.requests")
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
        "filters": {"without_traceback": {"()": WithoutTraceback}},
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "structured"}},
        "root": {"handlers": ["stderr"], "level": level if level in LEVELS else "INFO"},
        "loggers": {
            "django": {"handlers": [], "level": "INFO"},
            # RequestMiddleware says it once, with the request's id.
            "django.server": {"handlers": [], "level": "ERROR", "propagate": True},
            "django.request": {"level": "ERROR"},
            # A line for each doorbell; what the work came to is said by who did it.
            "celery": {"level": "WARNING"},
            # Anybody can send a wrong Host header: no fault of ours, and a traceback of Django's insides tells nothing.
            "django.security.DisallowedHost": {"filters": ["without_traceback"]},
        },
    }


class WithoutTraceback(logging.Filter):
    """Makes one line at WARNING of what Django logs as an error with its traceback."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.levelno, record.levelname = logging.WARNING, logging.getLevelName(logging.WARNING)
        record.exc_info = record.exc_text = None
        return True


class RequestMiddleware:
    """Gives every request an id (the caller's own if well-formed) and one line in the log."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        given = request.headers.get("X-Request-ID", "")
        request_id = given if _WELL_FORMED_ID.fullmatch(given) else uuid.uuid4().hex
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=request_id)
        started = time.perf_counter()
        answering = current_request.set(request)
        try:
            response = self.get_response(request)
        finally:
            current_request.reset(answering)
        response.headers["X-Request-ID"] = request_id
        logger.log(
            _level(request.path, response.status_code),
            "request",
            method=request.method,
            path=request.path,
            status=response.status_code,
            ms=round(1000 * (time.perf_counter() - started), 1),
        )
        return response


def _level(path: str, status: int) -> int:
    if status >= 500:
        return logging.ERROR
    return logging.DEBUG if path.startswith(_PROBES) else logging.INFO
