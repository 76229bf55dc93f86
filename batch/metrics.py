"""The pipeline in figures for Prometheus: what worker processes count, and what the database knows at this moment.

What is counted (items, seconds, bytes) is told by the worker that did it; what is read (the queue, the night, the
disk) by whoever is asked, the same from each web process.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from typing import Any

from django.db import DatabaseError
from django.db.models import Count, Min, Q
from django.utils import timezone
from prometheus_client import Counter, Histogram
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from batch.models import Attempt, Batch, Item
from batch.state import newest_group, pipeline_state, unprocessed_groups
from contimg.api.counts import count
from contimg.products import disk_usages
from images.models import Image
from observations.models import MeasurementSet
from provenance.backups import newest_backup_at
from qa.models import Alert
from sources.models import Measurement, Source

SECONDS = (0.1, 0.3, 1, 3, 10, 30, 60, 120, 300, 600, 1200, 3600)
WAITS = (1, 5, 15, 60, 300, 900, 3600, 4 * 3600, 12 * 3600)
ITEMS = Counter("contimg_items", "Attempts that ended, by stage and what became of the item.", ["stage", "state"])
RUN_SECONDS = Histogram("contimg_stage_seconds", "How long attempts ran.", ["stage"], buckets=SECONDS)
WAIT_SECONDS = Histogram("contimg_stage_wait_seconds", "From ready to claimed.", ["stage"], buckets=WAITS)
READ_BYTES = Counter("contimg_stage_read_bytes", "Size of what the attempts that ended read.", ["stage"])

DAY = timedelta(days=1)
HOUR = timedelta(hours=1)
BY_STATE = ("stage", "state")
TILE_S = 309.0  # real tiles begin so far apart
MOST_IMAGES = 400  # of a night; 24 h hold 280 tiles
OF_IMAGE = ("rms_jy_per_beam", "thermal_rms_jy_per_beam", "comparison__flux_ratio", "grade")
ROWS = {
    "images": Image.objects.all(),
    "measurement_sets": MeasurementSet.objects.all(),
    "sources": Source.objects.all(),
    "measurements": Measurement.objects.all(),
}


def item_ended(*, stage: str, state: str, seconds: float, read_bytes: int) -> None:
    """By the worker that ran it; `state` is the item's, so `ready` is one that was handed back or runs again."""
    ITEMS.labels(stage, state).inc()
    RUN_SECONDS.labels(stage).observe(seconds)
    READ_BYTES.labels(stage).inc(read_bytes)


class Pipeline(Collector):
    """Reads the database in a number of queries that does not grow; where that is away, says only so."""

    def collect(self) -> Iterator[Metric]:
        began = time.perf_counter()
        try:
            found = list(self._read())
        except DatabaseError:
            found = []
        yield gauge("contimg_database_up", "Whether the database answered this scrape.", bool(found))
        yield from found
        yield gauge("contimg_scrape_seconds", "How long reading all this took.", time.perf_counter() - began)

    def _read(self) -> Iterator[Metric]:
        now = timezone.now()
        yield from _queue(now)
        yield _tried(now)
        yield from _state(pipeline_state(now))
        yield from _night(now)
        yield labelled("contimg_rows", "Rows there are; above 10 000 an estimate.", "resource", {
            name: count(rows)["count"] for name, rows in ROWS.items()
        })  # fmt: skip
        alerts = Alert.objects.open().count()
        yield gauge("contimg_alerts_open", "Alerts of drift that nobody has acknowledged.", alerts)


def gauge(name: str, meaning: str, value: float | None) -> Metric:
    """Without a sample where the value is not known."""
    family = GaugeMetricFamily(name, meaning)
    if value is not None:
        family.add_metric([], float(value))
    return family


def labelled(name: str, meaning: str, label: str, values: dict[str, Any]) -> Metric:
    family = GaugeMetricFamily(name, meaning, labels=[label])
    for key, value in values.items():
        if value is not None:
            family.add_metric([key], float(value))
    return family


def _queue(now: datetime) -> Iterator[Metric]:
    depth = GaugeMetricFamily("contimg_queue_items", "Items that have not ended.", labels=BY_STATE)
    rows = Item.objects.unended().order_by().values("stage", "state").annotate(n=Count("pk"))
    for row in rows:
        depth.add_metric([row["stage"], row["state"]], row["n"])
    yield depth
    due = Q(not_before=None) | Q(not_before__lte=now)
    oldest = Item.objects.ready().filter(due).order_by().values("stage").annotate(since=Min("changed_at"))
    yield labelled("contimg_queue_age_seconds", "How long the oldest item that may run has been ready.", "stage", {
        row["stage"]: max(0.0, (now - row["since"]).total_seconds()) for row in oldest
    })  # fmt: skip
    yield gauge("contimg_batches_open", "Batches that have not ended.", Batch.objects.unended().count())


def _tried(now: datetime) -> Metric:
    found = GaugeMetricFamily("contimg_items_hour", "Items tried in the last hour, as they are now.", labels=BY_STATE)
    ended = Attempt.objects.filter(finished_at__gte=now - HOUR).order_by().values("item__stage", "item__state")
    for row in ended.annotate(n=Count("item", distinct=True)):
        found.add_metric([row["item__stage"], row["item__state"]], row["n"])
    return found


def _state(told: dict[str, Any]) -> Iterator[Metric]:
    """How the pipeline stands. A watch that leaves the work to others is no worker."""
    workers = [worker for worker in told["workers"] if worker["processes"]]
    alive = [worker for worker in workers if worker["is_alive"]]
    yield gauge("contimg_workers", "Supervisors seen within a minute.", len(alive))
    yield gauge("contimg_worker_processes", "Their processes.", sum(worker["processes"] for worker in alive))
    lost = {_host(worker) for worker in workers} - {_host(worker) for worker in alive}
    yield gauge("contimg_hosts_lost", "Where workers fell silent in the last day, and none is at work now.", len(lost))
    yield gauge("contimg_pauses", "Pauses of stages.", len(told["pauses"]))
    yield gauge("contimg_backlog_hours", "How long the open items will take the workers.", told["backlog"]["hours"])
    unprocessed = unprocessed_groups(newest_group()).count()
    yield gauge("contimg_tiles_unprocessed", "Of the last day of observing.", unprocessed)
    yield gauge("contimg_last_file_timestamp_seconds", "When the newest file came.", _unix(told["last_file_at"]))
    table = told["last_calibration"]
    yield gauge("contimg_last_calibration_timestamp_seconds", "Of tables in use.", _unix(table and table["solved_at"]))
    yield labelled("contimg_disk_free_bytes", "Where this machine writes.", "root", {
        root: usage.free for root, usage in disk_usages().items()
    })  # fmt: skip
    backup = newest_backup_at()
    yield gauge("contimg_last_backup_timestamp_seconds", "When the newest backup was taken.", _unix(backup))
    hours = told["disk"]["hours"]
    yield gauge("contimg_disk_hours", "How long the products root lasts at the last day's pace.", hours)
    failed = GaugeMetricFamily("contimg_failures_day", "Items failed in the last day.", labels=["stage", "code"])
    for row in told["failures"]:
        failed.add_metric([row["stage"], row["error_code"]], row["n"])
    yield failed


def _night(now: datetime) -> Iterator[Metric]:
    """Medians over the tiles observed in the day up to the newest one, as far as they are judged."""
    tiles = Image.objects.tiles().current()
    newest = tiles.exclude(observed_at=None).order_by("-observed_at").values_list("observed_at", flat=True).first()
    rows: list[Any] = []
    if newest is not None:
        of_night = tiles.filter(observed_at__gt=newest - DAY, observed_at__lte=newest).order_by("-observed_at")
        rows = list(of_night.values_list(*OF_IMAGE)[:MOST_IMAGES])
    yield gauge("contimg_night_rms_jy_per_beam", "Of the latest night.", _median(row[0] for row in rows))
    ratios = (row[0] / row[1] for row in rows if row[0] and row[1])
    yield gauge("contimg_night_rms_over_thermal", "Of the latest night.", _median(ratios))
    yield gauge("contimg_night_flux_ratio", "To the catalogue, latest night.", _median(row[2] for row in rows))
    grades: dict[str, int] = {}
    for row in rows:
        grades[row[3]] = grades.get(row[3], 0) + 1
    yield labelled("contimg_night_images", "Tiles of the latest night by grade.", "grade", grades)
    made = tiles.filter(created_at__gte=now - HOUR).count()
    yield gauge("contimg_realtime_factor", "Sky time imaged in the last hour, over an hour.", made * TILE_S / 3600)


def _host(worker: dict[str, Any]) -> str:
    return worker["name"].rsplit(".", 2)[0]


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def _unix(time: datetime | None) -> float | None:
    return time.timestamp() if time else None
