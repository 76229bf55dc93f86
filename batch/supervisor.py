"""What `manage.py worker` runs: the courier's worker processes, the sweeper, and a heartbeat."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import structlog
from django.conf import settings
from django_tasks_db.models import DBTaskResult
from prometheus_client import start_http_server

from batch import couriers
from batch.presence import present, unless_away
from batch.stages import stages as stages_there_are
from batch.sweeper import Sweeper
from contimg.breakers import tend
from contimg.counting import share_counters
from contimg.metrics import registry
from contimg.products import this_process

log = structlog.get_logger(__name__)
RESTART_PAUSE_S = 2.0
LOOK_EVERY_S = 0.5
PR_SET_PDEATHSIG = 1
KEEP_DOORBELLS = 1000


@dataclass
class Supervisor:
    """Keeps `n_processes` worker processes alive until it is told to stop."""

    n_processes: int
    stages: tuple[str, ...] = ()
    is_stopping: bool = False
    _processes: dict[int, subprocess.Popen] = field(default_factory=dict)
    _started_at: dict[int, float] = field(default_factory=dict)
    _sweeper: Sweeper = field(default_factory=Sweeper)

    def run(self) -> None:
        """Returns when it was told to stop and its workers have finished or handed back what they were doing."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        swept_at = 0.0
        self._tell_metrics()
        with present(n_processes=self.n_processes, stages=self.stages) as beat:
            log.info(
                "worker_started", name=this_process(), processes=self.n_processes,
                stages=",".join(self.stages) or "all", courier=settings.CONTIMG_COURIER,
            )  # fmt: skip
            while not self.is_stopping:
                self._keep_alive()
                tend()
                if time.monotonic() - swept_at >= settings.CONTIMG_SWEEP_S:
                    unless_away(partial(self._sweep, beat))
                    swept_at = time.monotonic()
                time.sleep(LOOK_EVERY_S)
            self._drain()

    def _tell_metrics(self) -> None:
        """To Prometheus, where it was asked for. That an address is taken is no reason not to work."""
        if not settings.CONTIMG_WORKER_METRICS:
            return
        host, _, port = settings.CONTIMG_WORKER_METRICS.rpartition(":")
        try:
            share_counters(role="worker", server_pid=os.getpid())
            start_http_server(int(port), host, registry=registry())
        except OSError as error:
            detail = f"CONTIMG_WORKER_METRICS={settings.CONTIMG_WORKER_METRICS} cannot be served ({error})."
            log.error("metrics_not_served", detail=detail)

    def _stop(self, number: int, frame: object) -> None:
        self.is_stopping = True

    def _sweep(self, beat: Callable[[], None]) -> None:
        beat()
        self._sweeper.sweep()
        couriers.ring()
        _forget_doorbells()

    def _keep_alive(self) -> None:
        now = time.monotonic()
        for slot in range(self.n_processes):
            process = self._processes.get(slot)
            if process is not None and process.poll() is None:
                continue
            if now - self._started_at.get(slot, -RESTART_PAUSE_S) < RESTART_PAUSE_S:
                continue
            if process is not None:
                log.warning("worker_process_ended", pid=process.pid, exit_code=process.returncode)
            self._processes[slot] = self._start()
            self._started_at[slot] = now

    def _start(self) -> subprocess.Popen:
        return subprocess.Popen(  # noqa: S603 - our own command
            [sys.executable, *_command(self.stages)],
            cwd=settings.BASE_DIR,
            env={
                **os.environ,
                "CONTIMG_WORKER_STAGES": ",".join(self.stages),
                "CELERY_SKIP_CHECKS": "1",  # ours were made, and Django's would load all of the API
                **self._threads(),
            },
            preexec_fn=_end_with_parent,
            start_new_session=True,
        )

    def _threads(self) -> dict[str, str]:
        """The machine's threads are shared out, unless the setting says how many an engine has."""
        if "CONTIMG_ENGINE_THREADS" in os.environ:
            return {}
        return {"CONTIMG_ENGINE_THREADS": str(max(1, (os.cpu_count() or 1) // self.n_processes))}

    def _drain(self) -> None:
        """Those that do not end in their time are killed: what they ran is taken back by the next sweeper."""
        alive = [process for process in self._processes.values() if process.poll() is None]
        log.info("draining", processes=len(alive))
        for process in alive:
            process.terminate()
        until = time.monotonic() + settings.CONTIMG_DRAIN_S + 10
        for process in alive:
            try:
                process.wait(max(0.1, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _command(stages: tuple[str, ...]) -> list[str]:
    """It listens for the doorbells of these stages, or of all."""
    if settings.CONTIMG_COURIER == "database":
        return ["-m", "batch.listener"]
    from batch.celery import queue_of  # Celery is installed where it is the courier

    queues = ",".join(queue_of(stage) for stage in stages or stages_there_are())
    options = ["--pool", "solo", "--without-gossip", "--without-mingle", "-Q", queues]
    name = f"{os.getpid()}-{time.monotonic_ns()}@%h"
    return ["-m", "celery", "--quiet", "-A", "batch.celery", "worker", *options, "-n", name]


def _end_with_parent() -> None:
    """Linux: TERM when the supervisor dies, however it does."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _forget_doorbells() -> None:
    answered = DBTaskResult.objects.finished().order_by("-finished_at").values_list("pk", flat=True)
    DBTaskResult.objects.filter(pk__in=list(answered[KEEP_DOORBELLS : 2 * KEEP_DOORBELLS])).delete()
