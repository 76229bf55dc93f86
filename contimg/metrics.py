"""What the processes of a server have counted, as Prometheus reads it; and what requests add to it, besides what
django-prometheus counts: their queries, and the connection pool they used.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

from django.db import connection
from django.http import HttpRequest
from prometheus_client import REGISTRY, CollectorRegistry, Gauge, Histogram
from prometheus_client.metrics_core import Metric
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.registry import Collector

from contimg.counting import shared_folder

POOL_FIGURES = {  # ours, and psycopg_pool's own name for it
    "size": "pool_size",
    "available": "pool_available",
    "waiting": "requests_waiting",
    "max": "pool_max",
    "errors": "requests_errors",
}

QUERIES = Histogram(
    "contimg_request_queries", "Database queries of a request.", ["view"], buckets=(0, 1, 2, 3, 5, 8, 12, 20, 50)
)
POOL = {
    name: Gauge(f"contimg_pool_{name}", f"The connection pool's {theirs}.", multiprocess_mode="liveall")
    for name, theirs in POOL_FIGURES.items()
}


def count(request: HttpRequest, *, n_queries: int) -> None:
    match = request.resolver_match
    QUERIES.labels(match.view_name if match else "").observe(n_queries)


def pool_figures() -> dict[str, int]:
    """Of this process's pool; empty where there is none (SQLite)."""
    if connection.vendor != "postgresql" or not connection.settings_dict["OPTIONS"].get("pool"):
        return {}
    stats = cast(Any, connection).pool.get_stats()
    return {name: stats.get(theirs, 0) for name, theirs in POOL_FIGURES.items()}


def tell_pool() -> None:
    """Each second, also without requests: each process tells of its own, whoever is asked for all of them."""
    for name, value in pool_figures().items():
        POOL[name].set(value)


# --- to Prometheus --------------------------------------------------------------------------------------------------
def registry(collectors: Iterable[Collector] = ()) -> CollectorRegistry:
    """What this server's processes have counted together, and what `collectors` find when it is asked."""
    found = CollectorRegistry()
    folder = shared_folder()
    for collector in (Together(folder) if folder else REGISTRY, *collectors):
        found.register(collector)
    return found


class Together(Collector):
    """The processes' sums, without the gauges of those that are gone."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def collect(self) -> Iterable[Metric]:
        _forget_dead(self._folder)
        return MultiProcessCollector(None, str(self._folder)).collect()


def _forget_dead(folder: Path) -> None:
    """What they counted stays."""
    pids = {path.stem.rpartition("_")[2] for path in folder.glob("gauge_live*.db")}
    for pid in pids:
        if not Path(f"/proc/{pid}").exists():
            mark_process_dead(int(pid), str(folder))
