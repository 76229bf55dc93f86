"""Running a batch here and now, without a courier: threads that each feed one child process, and a sweeper."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import structlog
from django.conf import settings
from django.db import DatabaseError, close_old_connections, connection

from batch import transitions
from batch.executor import Executor, record_ending
from batch.models import Batch
from batch.sweeper import Sweeper
from batch.work import run
from contimg.products import this_process

log = structlog.get_logger(__name__)
IDLE_S = 0.2
WATCH_EVERY_S = 0.5


def run_batch(*, batch: Batch, n_workers: int, watch: Callable[[Batch], None]) -> Batch:
    """Run the batch's items until none is ready or running, telling `watch` how far it is; returns the batch as it is.

    Items that wait for calibration stay waiting. An interrupt stops what runs, cancels what is left, and is raised.
    """
    executors = [Executor(batch=batch) for _ in range(n_workers)]
    threads = [threading.Thread(target=_work, args=(executor, batch)) for executor in executors]
    sweeper, swept_at = Sweeper(), 0.0
    for thread in threads:
        thread.start()
    try:
        while any(thread.is_alive() for thread in threads):
            if time.monotonic() - swept_at > settings.CONTIMG_SWEEP_S:
                _unless_away(sweeper.sweep)
                swept_at = time.monotonic()
            _unless_away(batch.refresh_from_db)
            watch(batch)
            threads[0].join(WATCH_EVERY_S)
    except KeyboardInterrupt:
        transitions.cancel(batch.items.all())
        raise
    finally:
        for executor in executors:
            executor.stop(within_s=settings.CONTIMG_DRAIN_S)
        for thread in threads:
            thread.join()
    batch.refresh_from_db()
    watch(batch)
    return batch


def run_batch_here(*, batch: Batch, watch: Callable[[Batch], None]) -> Batch:
    """The same without child processes, for a debugger: nothing limits a stage, and a crash of it is ours."""
    while held := transitions.claim(worker=this_process(), host="", batch=batch):
        try:
            record_ending(held, run(held, lambda fraction: None))
        except KeyboardInterrupt:
            transitions.hand_back(held, code="", detail="")
            transitions.cancel(batch.items.all())
            raise
        finally:
            transitions.settle(held)
        batch.refresh_from_db()
        watch(batch)
    return batch


def _work(executor: Executor, batch: Batch) -> None:
    try:
        while not executor.is_stopping:
            try:
                if executor.run_next():
                    continue
                if not _has_more(batch):
                    return
            except DatabaseError as error:
                log.warning("database_away", detail=str(error).strip())
                close_old_connections()
            time.sleep(IDLE_S)
    finally:
        executor.close()
        connection.close()


def _has_more(batch: Batch) -> bool:
    return batch.items.filter(state__in=["ready", "running"]).exists()


def _unless_away(act: Callable[[], object]) -> None:
    try:
        act()
    except DatabaseError as error:
        log.warning("database_away", detail=str(error).strip())
        close_old_connections()
