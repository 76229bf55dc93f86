"""Can it serve? `/health/live`: the process answers. `/health/ready`: so does what it depends on. `/health/`: what is
wrong. Anybody may ask the first two; which check says what is told to trusted addresses, tokens and staff only.

django-health-check runs the checks (each in a thread, with a time limit); the answer is ours, because its own is a 500
for a warning too and for an Accept header that it cannot parse.
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import tempfile
from typing import Any

from asgiref.sync import async_to_sync
from django.db import DEFAULT_DB_ALIAS, Error, connections
from django.db.migrations.loader import MigrationLoader
from django.db.migrations.recorder import MigrationRecorder
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe
from django_prometheus.exports import ExportToDjangoView
from health_check.base import HealthCheck, HealthCheckResult
from health_check.exceptions import ServiceUnavailable, ServiceWarning
from health_check.views import HealthCheckView

from access.addresses import is_trusted
from access.gates import InternalView
from contimg.products import products_root

RETRY_AFTER_S = 10


@dataclasses.dataclass
class Migrations(HealthCheck):
    """Every migration on disk is applied."""

    def run(self) -> None:
        connection = connections[DEFAULT_DB_ALIAS]
        try:
            missing = _on_disk() - MigrationRecorder(connection).applied_migrations().keys()
        except Error as error:
            raise ServiceUnavailable("the database does not answer") from error
        finally:
            connection.close()  # this is a thread of its own; it would keep a connection of the pool
        if missing:
            raise ServiceUnavailable(f"{len(missing)} migrations are not applied; run `manage.py migrate`")


@functools.cache
def _on_disk() -> set[tuple[str, str]]:
    loader = MigrationLoader(None, load=False)
    loader.load_disk()
    return set(loader.disk_migrations)


@dataclasses.dataclass
class ProductsRoot(HealthCheck):
    """Products can be written: the folder is there (or can be made) and its disk takes a byte."""

    def run(self) -> None:
        try:
            products_root().mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=products_root()) as file:
                file.write(b"0")
        except OSError as error:
            raise ServiceUnavailable(f"the products root cannot be written: {error.strerror}") from error


READY_CHECKS = ["health_check.checks.Database", Migrations, ProductsRoot]


@never_cache
@require_safe
def live(request: HttpRequest) -> HttpResponse:
    return JsonResponse({"status": "ok"})


class Health(HealthCheckView):
    """200 while it can serve (a warning is said, not failed), 503 when it cannot, never 500."""

    checks = READY_CHECKS
    with_details = False  # also for those who are not trusted
    http_method_names = ["get", "head"]

    async def get(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        with self.get_executor() as executor:
            self.results = await asyncio.gather(*(check.get_result(executor) for check in self.get_checks()))
        with_details = self.with_details or is_trusted(request)
        if with_details and request.GET.get("format") == "openmetrics":
            return self.render_to_response_openmetrics()
        states = {_name(result): _state(result) for result in self.results}
        worst = max(states.values(), key=_SEVERITY.index)
        answer: dict[str, Any] = {"status": worst}
        if with_details:
            answer["checks"] = {_name(result): _told(result) for result in self.results}
        if worst != "unavailable":
            return JsonResponse(answer)
        return JsonResponse(answer, status=503, headers={"Retry-After": str(RETRY_AFTER_S)})


class Details(InternalView):
    answer = staticmethod(async_to_sync(Health.as_view(with_details=True)))


class Metrics(InternalView):
    answer = staticmethod(ExportToDjangoView)


_SEVERITY = ("ok", "warning", "unavailable")


def _name(result: HealthCheckResult) -> str:
    return type(result.check).__name__


def _state(result: HealthCheckResult) -> str:
    if result.error is None:
        return "ok"
    return "warning" if isinstance(result.error, ServiceWarning) else "unavailable"


def _told(result: HealthCheckResult) -> dict[str, Any]:
    return {
        "status": _state(result),
        "detail": result.error.message if result.error else None,
        "ms": round(1000 * result.time_taken, 1),
    }
