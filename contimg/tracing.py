"""Traces for who has a collector: spans by hand, where work passes from one process to the next.

Without CONTIMG_OTLP_ENDPOINT we import nothing of OpenTelemetry. Its instrumentation of Django would cost 200 us
a request, and go no further than the queue.

    request -> enqueue          the trace of the request
               item -> wait     what the courier took
                    -> work     in the stage's process, under the engine's name
                    -> record

An item of a batch of one goes on in the trace of the request; an item of a larger batch has one of its own, linked to
it, or a night would be one trace.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta
from functools import cache
from typing import Any

import structlog
from django.conf import settings
from django.utils import timezone

from contimg.products import this_process

EXPORT_EVERY_MS = 1000
EXPORT_LIMIT_S = 5


def is_on() -> bool:
    return bool(settings.CONTIMG_OTLP_ENDPOINT)


@contextmanager
def span(name: str, *, parent: str = "", link: str = "", facts: Mapping[str, Any] | None = None) -> Iterator[None]:
    """What is done meanwhile, under the current span or `parent`; that and `link` as W3C Trace Context has them."""
    if not is_on():
        yield
        return
    from opentelemetry.trace import Link

    context = _context(parent) if parent else None
    links = [Link(found)] if link and (found := _span_context(link)) else []
    with _tracer().start_as_current_span(name, context=context, links=links, attributes=facts) as begun:
        structlog.contextvars.bind_contextvars(trace_id=f"{begun.get_span_context().trace_id:032x}")
        yield


def past(name: str, *, seconds: float, facts: Mapping[str, Any] | None = None) -> None:
    """A span that ends now, of what nobody watched."""
    if not is_on():
        return
    now = timezone.now()
    waited = _tracer().start_span(name, start_time=_ns(now - timedelta(seconds=seconds)), attributes=facts)
    waited.end(_ns(now))


def note(name: str = "", facts: Mapping[str, Any] | None = None) -> None:
    """What became known of the current span, and what it is better called."""
    if not is_on():
        return
    from opentelemetry import trace

    current = trace.get_current_span()
    current.set_attributes(dict(facts or {}))
    if name:
        current.update_name(name)


def traceparent() -> str:
    """The current span, for another process; empty where nothing is traced."""
    if not is_on():
        return ""
    carrier: dict[str, str] = {}
    _propagator().inject(carrier)
    return carrier.get("traceparent", "")


def _context(traceparent: str) -> Any:
    return _propagator().extract({"traceparent": traceparent})


def _span_context(traceparent: str) -> Any:
    from opentelemetry import trace

    found = trace.get_current_span(_context(traceparent)).get_span_context()
    return found if found.is_valid else None


@cache
def _propagator() -> Any:
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    return TraceContextTextMapPropagator()


@cache
def _tracer() -> Any:
    """Exported in the background, and dropped when the collector does not answer."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    resource = Resource.create({"service.name": "contimg", "service.instance.id": this_process()})
    provider = TracerProvider(resource=resource)
    exporter = OTLPSpanExporter(f"{settings.CONTIMG_OTLP_ENDPOINT.rstrip('/')}/v1/traces", timeout=EXPORT_LIMIT_S)
    provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=EXPORT_EVERY_MS))
    return provider.get_tracer("contimg")


def _ns(time: datetime) -> int:
    return int(time.timestamp() * 1e9)
