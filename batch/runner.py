"""Running items in this process, without a courier: threads that each feed one child process, and a sweeper."""

from __future__ import annotations

import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from types import TracebackType
from typing import Self

import structlog
from django.conf import settings
from django.db import DatabaseError, connection

from batch import transitions
from batch.executor import START_LIMIT_S, Executor, record_ending
from batch.models import Batch
from batch.presence import present, tell_away, unless_away, when_back
from batch.services import NothingToCancel, cancel_batch
from batch.sweeper import Sweeper
from batch.transitions import Claim, LeaseLost
from batch.work import run
from contimg.exceptions import ContimgError
from contimg.products import this_process

log = structlog.get_logger(__name__)
IDLE_S = 0.2
WATCH_EVERY_S = 0.5


class LeasesNotKept(ContimgError):
    """Nothing is run here that every sweeper would take for dead."""

    code = "leases_not_kept"
    status = 503


class Crew:
    """Runs items while its `with` block lasts; then what runs may finish for a while, or is handed back.

    With a batch it runs that one's items and is idle when none is ready or running; without, all there are, for ever.
    """

    def __init__(self, *, n_workers: int, batch: Batch | None = None) -> None:
        self._batch = batch
        self._executors = [Executor(batch=batch) for _ in range(n_workers)]
        self._sweeper, self._swept_at = Sweeper(), 0.0
        self._at_exit = ExitStack()

    def __enter__(self) -> Self:
        self._beat = self._at_exit.enter_context(present(n_processes=len(self._executors)))
        threads = self._at_exit.enter_context(ThreadPoolExecutor(max(1, len(self._executors))))
        self._running: list[Future[None]] = [threads.submit(self._work, executor) for executor in self._executors]
        self._at_exit.callback(self._stop)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._at_exit.__exit__(kind, error, at)

    @property
    def is_idle(self) -> bool:
        return all(thread.done() for thread in self._running)

    def wait(self, seconds: float) -> None:
        """So long, or until a thread has ended; meanwhile it sweeps and is seen. Raises what broke a thread."""
        if time.monotonic() - self._swept_at > settings.CONTIMG_SWEEP_S:
            unless_away(self._sweep)
            self._swept_at = time.monotonic()
        running = [thread for thread in self._running if not thread.done()]
        if running:
            wait(running, timeout=seconds, return_when=FIRST_COMPLETED)
        else:
            time.sleep(seconds)
        for thread in self._running:
            if thread.done():
                thread.result()

    def _sweep(self) -> None:
        self._beat()
        self._sweeper.sweep()

    def _stop(self) -> None:
        for executor in self._executors:
            executor.stop(within_s=settings.CONTIMG_DRAIN_S)

    def _work(self, executor: Executor) -> None:
        try:
            while not executor.is_stopping:
                try:
                    if executor.run_next():
                        continue
                    if self._batch is not None and not _has_more(self._batch):
                        return  # a thread that ends does not come back
                except DatabaseError as error:
                    tell_away(error)
                time.sleep(IDLE_S)
        finally:
            executor.close()
            connection.close()


def run_batch(*, batch: Batch, n_workers: int, watch: Callable[[Batch], None]) -> Batch:
    """Run the batch's items until none is ready or running, telling `watch` how far it is; returns the batch as it is.

    Items that wait for calibration stay waiting. An interrupt stops what runs, cancels what is left, and is raised.
    """
    with Crew(n_workers=n_workers, batch=batch) as crew:
        try:
            while not crew.is_idle:
                crew.wait(WATCH_EVERY_S)
                unless_away(batch.refresh_from_db)
                unless_away(partial(watch, batch))
        except KeyboardInterrupt:
            _cancel(batch)
            raise
    when_back(batch.refresh_from_db, tell=log.warning)
    when_back(partial(watch, batch), tell=log.warning)
    return batch


def run_batch_here(*, batch: Batch, watch: Callable[[Batch], None]) -> Batch:
    """The same without child processes, for a debugger: nothing limits a stage, and a crash of it is ours."""
    try:
        with present(n_processes=1), _leases_kept():
            while held := transitions.claim(worker=this_process(), host="", batch=batch):
                _run_here(held)
                batch.refresh_from_db()
                watch(batch)
    except (KeyboardInterrupt, LeasesNotKept):
        _cancel(batch)
        raise
    return batch


@contextmanager
def _leases_kept() -> Iterator[None]:
    if connection.in_atomic_block:  # a test's, and nobody else sees what is claimed in it
        yield
        return
    command = [sys.executable, "-m", "batch.heartbeat", this_process()]
    with subprocess.Popen(  # noqa: S603 - our own module
        command, cwd=settings.BASE_DIR, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    ) as heartbeat:
        try:
            pipe = heartbeat.stdout
            if not (pipe and select.select([pipe], [], [], START_LIMIT_S)[0] and pipe.readline()):
                raise LeasesNotKept("The process that keeps the leases did not start; its error is above.")
            yield
        finally:
            heartbeat.kill()


def _run_here(held: Claim) -> None:
    try:
        record_ending(held, run(held, lambda fraction: None))
    except LeaseLost as error:
        log.warning("lease_lost", detail=str(error))
    except KeyboardInterrupt:
        with suppress(LeaseLost):
            transitions.hand_back(held, code="", detail="")
        raise
    finally:
        transitions.settle(held)


def _cancel(batch: Batch) -> None:
    with suppress(NothingToCancel):
        cancel_batch(batch=batch)


def _has_more(batch: Batch) -> bool:
    """Whether an item is ready or running, or would be, had he who ended the one before it got round to looking."""
    open_now = batch.items.filter(state__in=["ready", "running"])
    return open_now.exists() or bool(transitions.settle_all(batch.items.all())) or open_now.exists()
