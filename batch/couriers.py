"""What wakes workers: a doorbell through the task API, never an item. Rows own the work; a lost ring costs a sweep.

A doorbell is answered by claiming and running the best ready items until none is left. The database's courier rings in
the caller's transaction, Celery's when it has committed.
"""

from __future__ import annotations

import signal
import time
from typing import Any

import structlog
from django.conf import settings
from django.db import transaction
from django_tasks import task
from django_tasks_db.models import DBTaskResult

from batch.models import Item

log = structlog.get_logger(__name__)
RING_EVERY_S = 1.0


@task()
def answer() -> int:
    """Run what is ready. In a worker's process; returns how many items it ran."""
    from batch.executor import Executor  # only workers run engines' children

    global _executor
    if _executor is None:
        _executor = Executor(stages=settings.CONTIMG_WORKER_STAGES, logs_endings=True)
    n, rung_at = 0, 0.0
    with _draining_on_signals(_executor):
        while not _executor.is_stopping and _executor.run_next():
            n += 1
            if time.monotonic() - rung_at > RING_EVERY_S and Item.objects.claimable().exists():
                ring()
                rung_at = time.monotonic()
    return n


_executor: Any = None


class _draining_on_signals:
    """The first TERM or INT lets the running item finish, for a while; the courier's own handler is told too."""

    def __init__(self, executor: Any) -> None:
        self._executor = executor

    def __enter__(self) -> None:
        self._before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
        for number in self._before:
            signal.signal(number, self._stop)

    def __exit__(self, *exc: Any) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _stop(self, number: int, frame: Any) -> None:
        self._executor.stop(within_s=settings.CONTIMG_DRAIN_S)
        handler = self._before[signal.Signals(number)]
        if callable(handler):
            handler(number, frame)


def ring() -> None:
    """Wake a worker. One doorbell is enough: who answers it rings again while there is more to do."""
    if settings.CONTIMG_COURIER == "database":
        if not DBTaskResult.objects.ready().exists():
            answer.enqueue()
    else:
        transaction.on_commit(_ring_broker)


def _ring_broker() -> None:
    from kombu.exceptions import OperationalError

    try:
        answer.enqueue()
    except OperationalError as error:
        log.warning("doorbell_failed", detail=f"The broker does not answer ({error}); the sweeper will ring again.")
