"""How the pipeline stands, as the database and the disk tell it: for `status` and for metrics.

A web process tells it at each scrape, so nothing here loads an engine or astropy.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any

import psutil
from django.db.models import Count, Max, Min, Sum

from batch.estimates import Estimates
from batch.models import Batch, Item, Pause, State, Worker
from batch.presence import n_processes
from calibration.models import CalibrationTable
from contimg.products import is_gone, products_root
from images.models import Image
from observations.models import MeasurementSet, SubbandGroup
from observations.querysets import SubbandGroupQuerySet

DAY = timedelta(days=1)


def pipeline_state(now: datetime) -> dict[str, Any]:
    """Times are aware and in UTC, None where there is nothing yet."""
    newest = newest_group()
    return {
        "last_file_at": newest and newest.last_file_at,
        "backlog": _backlog(),
        "disk": _disk(now),
        "last_calibration": _last_calibration(),
        "workers": _workers(now),
        "pauses": list(Pause.objects.values("stage", "reason", "paused_by", "created_at")),
        "failures": _failures(now - DAY),
    }


def newest_group() -> SubbandGroup | None:
    return SubbandGroup.objects.order_by("-observed_at", "-id").first()


def unprocessed_groups(newest: SubbandGroup | None) -> SubbandGroupQuerySet:
    """Tiles of the last day of observing that are not processed, or not again."""
    if newest is None:
        return SubbandGroup.objects.none()
    return SubbandGroup.objects.unprocessed().filter(observed_at__gte=newest.observed_at - DAY)


def _backlog() -> dict[str, Any]:
    """What is open, why it waits, and the hours that the workers there are need for it (None: not known yet)."""
    opened = list(Batch.objects.unended())
    counts = Item.objects.unended().order_by().values("state", "error_code").annotate(n=Count("pk"))
    return {
        "batches": len(opened),
        "items": sum(batch.n_open for batch in opened),
        "hours": _hours(opened),
        "waiting_for": {row["error_code"]: row["n"] for row in counts if row["error_code"]},
    }


def _hours(opened: Iterable[Batch]) -> float | None:
    estimates = Estimates()
    seconds = [estimates.work_s(batch) for batch in opened]
    if any(work_s is None for work_s in seconds):
        return None
    return sum(filter(None, seconds)) / max(1, n_processes()) / 3600


def _disk(now: datetime) -> dict[str, Any]:
    """Free bytes under the products root (None: it is not there), and the hours they last at the last day's pace."""
    root = products_root()
    if not root.is_dir():
        return {"free_bytes": None, "hours": None}
    free = psutil.disk_usage(str(root)).free
    made = bytes_made(since=now - DAY)
    return {"free_bytes": free, "hours": 24 * free / made if made else None}


def _last_calibration() -> dict[str, Any] | None:
    table = CalibrationTable.objects.in_use().select_related("calibrator").order_by("-solved_at", "-id").first()
    if table is None:
        return None
    return {"calibrator": table.calibrator.name, "solved_at": table.solved_at, "grade": table.grade}


def _workers(now: datetime) -> list[dict[str, Any]]:
    """Those that have not stopped; one that was silent for a minute may be gone, one of this machine is known to be.

    One without processes is a watch that leaves the work to others.
    """
    alive = set(Worker.objects.alive().values_list("pk", flat=True))
    rows = Worker.objects.filter(stopped_at=None, seen_at__gte=now - DAY)
    return [
        {
            "name": row.name, "processes": row.n_processes, "stages": row.stages, "seen_at": row.seen_at,
            "is_alive": row.pk in alive and not gone, "is_gone": gone,
        }
        for row, gone in ((row, is_gone(row.name)) for row in rows)
    ]  # fmt: skip


def _failures(since: datetime) -> list[Mapping[str, Any]]:
    """By stage and code, with how many batches they are of and the newest of those."""
    ended = Item.objects.filter(state__in=[State.FAILED, State.QUARANTINED], finished_at__gte=since)
    own = ended.exclude(error_code="dependency_failed").order_by()
    counted = own.values("stage", "error_code").annotate(
        n=Count("pk"), first_at=Min("finished_at"), last_at=Max("finished_at"),
        batches=Count("batch", distinct=True), batch=Max("batch"),
    )  # fmt: skip
    return [{**row} for row in counted.order_by("-n", "stage", "error_code")]


def bytes_made(*, since: datetime) -> int:
    """Measurement sets and images, which are nearly all of it."""
    made = (
        model._default_manager.filter(created_at__gte=since).aggregate(n=Sum("size_bytes"))["n"]
        for model in (MeasurementSet, Image)
    )
    return sum(filter(None, made))
