"""What the connection pool gains on PostgreSQL: a request that asks once, by a connection of its own, kept, or pooled.

    python -m benchmarks.pool [--requests 1500] [--rounds 5] [--database postgres://postgres@127.0.0.1:5432/postgres]

A view that asks SELECT 1, through Django's request signals, in eight threads of one process, as a web process has them;
each way in a process of its own, in turns, the median of the rounds. `postgres` is the server's side of it.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psutil

WAYS = ("a connection per request", "kept by each thread", "pooled")
THREADS = 8


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--requests", type=int, default=1500)
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--database", default="postgres://postgres@127.0.0.1:5432/postgres")
    options.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    asked = options.parse_args()
    if asked.way:
        print(*measure(asked.way, asked.requests))
        return
    found: dict[str, list[list[float]]] = {way: [] for way in WAYS}
    for _ in range(asked.rounds):
        for way in WAYS:
            found[way].append(_in_process(way, asked.requests, asked.database))
    print("| | ms CPU a request | ms CPU of postgres | p95 ms | connections |\n|---|--:|--:|--:|--:|")
    for way, rounds in found.items():
        cpu, theirs, p95, n = (statistics.median(column) for column in zip(*rounds, strict=True))
        print(f"| {way} | {cpu:.2f} | {theirs:.2f} | {p95:.1f} | {n:.0f} |")


def _in_process(way: str, n_requests: int, database: str) -> list[float]:
    command = [sys.executable, "-m", "benchmarks.pool", "--way", way, "--requests", str(n_requests)]
    with tempfile.TemporaryDirectory() as folder:
        environment = {
            **os.environ, "DATABASE_URL": database, "CONTIMG_VAR_DIR": folder, "CONTIMG_LOG_LEVEL": "ERROR",
            "DJANGO_SETTINGS_MODULE": "contimg.settings", "CONTIMG_DB_POOL_SIZE": str(THREADS),
        }  # fmt: skip
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True, text=True)
    return [float(word) for word in done.stdout.split()]


def measure(way: str, n_requests: int) -> tuple[float, float, float, int]:
    """CPU of this process and of the server's for a request in ms, p95 in ms, and connections at the end."""
    import django
    from django.conf import settings

    database: dict[str, Any] = settings.DATABASES["default"]
    if way != "pooled":
        del database["OPTIONS"]["pool"]
        database["CONN_MAX_AGE"] = None if way == "kept by each thread" else 0
    django.setup()
    from django.core.signals import request_finished, request_started
    from django.db import connection

    def answer(_: int) -> float:
        began = time.perf_counter()
        request_started.send(sender=None)
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
            cursor.fetchone()
        request_finished.send(sender=None)
        return 1000 * (time.perf_counter() - began)

    with ThreadPoolExecutor(THREADS) as threads:
        list(threads.map(answer, range(100)))
        theirs, cpu = _server_cpu_s(), time.process_time()
        times = sorted(threads.map(answer, range(n_requests)))
        spent = time.process_time() - cpu
        with connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()")
            (n_connections,) = cursor.fetchone()
        of_server = _server_cpu_s() - theirs
    return 1000 * spent / n_requests, 1000 * of_server / n_requests, times[int(0.95 * n_requests)], n_connections


def _server_cpu_s() -> float:
    """Of the servers on this machine, with the processes that they have ended; 0 where there are none."""
    total = 0.0
    for process in psutil.process_iter(["name"]):
        if process.info["name"] in ("postgres", "postmaster"):
            with contextlib.suppress(psutil.NoSuchProcess):
                is_master = process.parent() is None or process.parent().name() != process.info["name"]
                total += sum(process.cpu_times()[: 4 if is_master else 2])
    return total


if __name__ == "__main__":
    main()
