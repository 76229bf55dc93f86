"""What wakes workers: a doorbell through the task API, never an item. Rows own the work; a lost ring costs a sweep.

Each stage has a queue of doorbells, so that nobody answers who may not do what was rung for. A doorbell is answered by
claiming and running the best ready items of any stage that the process takes, until none is left.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterable
from functools import cache
from typing import Any

import structlog
from django.conf import settings
from django.db import transaction
from django.db.models import Exists, OuterRef, Q, QuerySet
from django_tasks import task
from django_tasks_db.models import DBTaskResult

from batch.models import Item, Pause
from batch.presence import tell_back, unless_away
from contimg.breakers import Breaker, BreakerOpen, tend
from contimg.idle import each_second

log = structlog.get_logger(__name__)
RING_EVERY_S = 1.0


@task()
def answer() -> int:
    """Run what is ready. In a worker's process; returns how many items it ran."""
    from batch.executor import Executor  # only workers run engines' children

    global _executor
    if _executor is None:
        _executor = Executor(stages=settings.CONTIMG_WORKER_STAGES, logs_endings=True, meanwhile=_RingingMeanwhile())
        each_second(tend)
    n = 0
    with _draining_on_signals(_executor):
        while not _executor.is_stopping and _executor.run_next():
            n += 1
        if n:  # what came free by them is perhaps for others; who ran nothing would answer himself for ever
            ring()
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
    """Wake a worker for each stage that has something to claim, once the caller's transaction has committed.

    Not before: a doorbell answered in between would have been for rows that were not to be seen yet. One for each stage
    is enough: who answers it rings again while there is more to do.
    """
    transaction.on_commit(lambda: unless_away(_ring))


def _ring() -> None:
    if settings.CONTIMG_COURIER == "database":
        _ring_in_database()
    elif stages := list(_stages_to_wake()):  # to ring for nothing would look like an answer
        _ring_broker(stages)
    tell_back()  # the change for which it is rung was taken


def _stages_to_wake() -> QuerySet[Item, str]:
    paused = Pause.objects.filter(Q(stage="") | Q(stage=OuterRef("stage")))
    return Item.objects.claimable().filter(~Exists(paused)).order_by().values_list("stage", flat=True).distinct()


def _ring_in_database() -> None:
    rung = DBTaskResult.objects.ready().values("queue_name")
    for stage in _stages_to_wake().exclude(stage__in=rung):
        answer.using(queue_name=stage).enqueue()


def _ring_broker(stages: Iterable[str]) -> bool:
    """Returns whether the broker answered."""
    from kombu.exceptions import OperationalError

    try:
        _broker().call(lambda: _enqueue(stages))
    except BreakerOpen:
        return False
    except OperationalError as error:
        log.warning("doorbell_failed", detail=f"The broker does not answer ({error}); the sweeper will ring again.")
        return False
    return True


@cache
def _broker() -> Breaker:
    from kombu.exceptions import OperationalError

    return Breaker("broker", unavailable=(OperationalError,), ask=_reach_broker)


def _reach_broker() -> None:
    from batch.celery import n_waiting
    from batch.stages import stages

    n_waiting(next(iter(stages())))


def _enqueue(stages: Iterable[str]) -> None:
    """Raises kombu's OperationalError."""
    from batch.celery import n_waiting

    for stage in stages:
        if not n_waiting(stage):
            answer.using(queue_name=stage).enqueue()


class _RingingMeanwhile:
    """For others than this process, while it runs an item: at most once a second, and they wake one by one."""

    def __init__(self) -> None:
        self._next_at = 0.0
        self._thread: threading.Thread | None = None

    def __call__(self) -> None:
        now = time.monotonic()
        if now >= self._next_at and (self._thread is None or not self._thread.is_alive()):
            self._next_at = now + RING_EVERY_S
            unless_away(_ring_in_database if settings.CONTIMG_COURIER == "database" else self._ring_from_a_thread)

    def _ring_from_a_thread(self) -> None:
        """A broker that is slow to answer must not keep the item from its heartbeat."""
        if stages := list(_stages_to_wake()):
            self._thread = threading.Thread(target=self._ring_broker, args=(stages,), daemon=True)
            self._thread.start()

    def _ring_broker(self, stages: list[str]) -> None:
        if not _ring_broker(stages):
            self._next_at = time.monotonic() + settings.CONTIMG_SWEEP_S
