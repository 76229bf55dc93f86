"""Can it serve? `/health/live`: the process answers. `/health/ready`: so does what it depends on. `/health/`: what is
wrong. Anybody may ask the first two; which check says what is told to trusted addresses, tokens and staff only.

django-health-check runs the checks (each in a thread, with a time limit); the answer is ours, because its own is a 500
for a warning too and for an Accept header that it cannot parse.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import structlog
from asgiref.sync import async_to_sync
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe
from health_check.base import HealthCheck, HealthCheckResult
from health_check.exceptions import ServiceWarning
from health_check.views import HealthCheckView
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from access.gates import InternalView
from batch.metrics import Pipeline
from contimg.addresses import is_trusted
from contimg.diagnoses import DEGRADED, READY, Threads
from contimg.metrics import registry

RETRY_AFTER_S = 10
logger = structlog.get_logger(__name__)
_told: dict[str, str] = {}


@never_cache
@require_safe
def live(request: HttpRequest) -> HttpResponse:
    return JsonResponse({"status": "ok"})


class Health(HealthCheckView):
    """200 while it can serve (a warning is said, not failed), 503 when it cannot, never 500."""

    checks: Iterable[type[HealthCheck]] = READY
    with_details = False  # also for those who are not trusted
    with_states = False  # what Prometheus reads has nothing else
    http_method_names = ["get", "head"]

    async def get(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        self.results = await results(self.get_checks())
        _tell_changes(self.results)
        with_details = self.with_details or is_trusted(request)
        if (with_details or self.with_states) and request.GET.get("format") == "openmetrics":
            return self.render_to_response_openmetrics()
        answer = answer_of(self.results) if with_details else {"status": worst_of(self.results)}
        if answer["status"] != "unavailable":
            return JsonResponse(answer)
        return JsonResponse(answer, status=503, headers={"Retry-After": str(RETRY_AFTER_S)})


class Details(InternalView):
    answer = staticmethod(async_to_sync(Health.as_view(checks=[*READY, *DEGRADED], with_details=True)))
    answer_to_anybody = staticmethod(async_to_sync(Health.as_view(checks=[*READY, *DEGRADED], with_states=True)))


class Metrics(InternalView):
    @staticmethod
    def answer(request: HttpRequest) -> HttpResponse:
        return HttpResponse(generate_latest(registry([Pipeline()])), content_type=CONTENT_TYPE_LATEST)

    @staticmethod
    def answer_to_anybody(request: HttpRequest) -> HttpResponse:
        return HttpResponse(
            "# TYPE contimg_database_up gauge\ncontimg_database_up 0\n", content_type=CONTENT_TYPE_LATEST
        )


async def results(checks: Iterable[HealthCheck]) -> list[HealthCheckResult]:
    """All at once, each in its own time limit."""
    threads = Threads()
    return await asyncio.gather(*(check.get_result(threads) for check in checks))


def _tell_changes(found: Iterable[HealthCheckResult]) -> None:
    """To the log, once: who asks comes every few seconds."""
    for result in found:
        name, said = name_of(result), result.error.message if result.error else "ok"
        if _told.get(name, "ok") != said:
            logger.warning("health", check=name, state=state_of(result), detail=said)
        _told[name] = said


def answer_of(found: Iterable[HealthCheckResult]) -> dict[str, Any]:
    found = list(found)
    return {"status": worst_of(found), "checks": {name_of(result): _shown(result) for result in found}}


def worst_of(found: Iterable[HealthCheckResult]) -> str:
    return max((state_of(result) for result in found), key=_SEVERITY.index)


_SEVERITY = ("ok", "warning", "unavailable")


def name_of(result: HealthCheckResult) -> str:
    return type(result.check).__name__


def state_of(result: HealthCheckResult) -> str:
    if result.error is None:
        return "ok"
    return "warning" if isinstance(result.error, ServiceWarning) else "unavailable"


def _shown(result: HealthCheckResult) -> dict[str, Any]:
    return {
        "status": state_of(result),
        "detail": result.error.message if result.error else None,
        "ms": round(1000 * result.time_taken, 1),
        "figures": getattr(result.check, "figures", {}),
    }
