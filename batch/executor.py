"""Runs items, one at a time, each in a warm child process that is watched: heartbeat, cancel, limits, log.

The child may hang in a C loop, eat the memory or be killed; whatever it does, what is known of the attempt is recorded
here, and only while the item is still this worker's.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

import psutil
import structlog
from django.conf import settings
from django.db import DatabaseError
from django.db.models import Sum

from batch import metrics, transitions
from batch.logs import log_folder, log_name
from batch.models import Attempt, Batch, Item, State
from batch.presence import tell_away, tell_back
from batch.stages import Job, stages
from batch.sweeper import remove_work, work_owner
from batch.transitions import CancelRequested, Claim, LeaseLost
from calibration.services import WaitingForCalibration
from contimg import tracing
from contimg.breakers import Breaker
from contimg.counting import FOLDER_SETTING
from contimg.exceptions import DiskFull, EngineUnavailable
from contimg.products import is_full, products_root, this_process, work_folders

log = structlog.get_logger(__name__)

LOOK_EVERY_S = 1.0
FROZEN_S = 5.0  # a look that took longer: this process did not run meanwhile
TERM_GRACE_S = 2.0
START_LIMIT_S = 300.0  # of a new process on a busy machine, which is not the stage's time
WORK_S_PER_CHILD = 600.0  # engines leak; a new process costs three seconds
ENDPOINTS = ("started", "ended")  # events that are not waited beyond
LOG_LIMIT_BYTES = 10_000_000
DISK_WAIT_S = 60.0
ENGINE_RESTS_S = 60.0
DISK_RESERVE_BYTES = 1_000_000_000


class ChildDied(Exception):
    """The child process ended without an answer."""


class LimitReached(Exception):
    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code


class Stopping(Exception):
    """The worker was told to stop; the item goes back to the queue."""


@dataclass
class Executor:
    """One child process and the loop that feeds and watches it."""

    stages: tuple[str, ...] = ()  # none named: all
    batch: Batch | None = None  # only its items
    stop_at: float | None = None  # by the monotonic clock: until then the running item may finish
    logs_endings: bool = False  # a line for each item, in the log of a service
    meanwhile: Callable[[], object] = lambda: None  # when an item begins, and each second until it ends
    _child: _Child | None = None
    _worker: str = field(default_factory=this_process)
    _rests_until: float = 0.0
    _silent_until: float = 0.0
    _engines: dict[str, Breaker] = field(default_factory=dict)  # of the stages whose engine was missed
    _read_bytes: int = 0

    def run_next(self) -> bool:
        """Claim the best item and run it to its end; False when there is none to claim, or this machine is unwell."""
        if time.monotonic() < self._rests_until:
            return False
        try:
            self._refuse_without_room()
            wanted = self._stages_with_engines()
            if wanted is None:
                return False
            held = transitions.claim(
                worker=self._worker, host=self._worker.split(".")[0], stages=wanted, batch=self.batch,
                room_bytes=_room_bytes,
            )  # fmt: skip
        except OSError as error:
            self._explain(error)
            return False
        if held is None:
            return False
        structlog.contextvars.bind_contextvars(item=held.item_id, attempt=held.attempt, stage=held.stage)
        metrics.WAIT_SECONDS.labels(held.stage).observe(held.waited_s)
        try:
            with _traced(held):
                self._run_claimed(replace(held, traceparent=tracing.traceparent()))
        finally:
            structlog.contextvars.unbind_contextvars("item", "attempt", "stage", "subject", "trace_id")
        return True

    def _run_claimed(self, held: Claim) -> None:
        began = time.monotonic()
        is_done = self._run(held)
        ended = Item.objects.values_list("state", "error_code")
        state, code = (State.DONE, "") if is_done else ended.get(pk=held.item_id)
        tracing.note(facts={"state": state, "code": code})
        self._count(held, state, code, seconds=time.monotonic() - began)

    def _count(self, held: Claim, state: str, code: str, *, seconds: float) -> None:
        if self.logs_endings:
            log.info("item_ended", state=state, code=code, seconds=round(seconds, 1))
        metrics.item_ended(stage=held.stage, state=state, seconds=seconds, read_bytes=self._read_bytes)
        if code == EngineUnavailable.code and self.batch is None:  # a command says so and ends
            self._engine_of(held.stage).note(EngineUnavailable(f"its item {held.item_id} could not be worked on"))
        elif state == State.DONE and held.stage in self._engines:
            self._engines[held.stage].note(None)

    def _engine_of(self, stage: str) -> Breaker:
        if stage not in self._engines:
            self._engines[stage] = Breaker(
                f"engine-{stage}", unavailable=(EngineUnavailable,), ask=stages()[stage].try_engine,
                rests_s=ENGINE_RESTS_S,
            )  # fmt: skip
        return self._engines[stage]

    def _stages_with_engines(self) -> tuple[str, ...] | None:
        """What to claim (empty: all), without the stages whose engine is away; None when that leaves none.

        An engine that has rested is tried itself first, so that no item spends its attempts on finding that out.
        """
        away = [stage for stage, breaker in self._engines.items() if breaker.is_open and not _is_back(stage, breaker)]
        if not away:
            return self.stages
        return tuple(stage for stage in self.stages or stages() if stage not in away) or None

    def stop(self, *, within_s: float) -> None:
        """Claim nothing more, and hand the running item back unless it ends in time. May be called from outside."""
        self.stop_at = time.monotonic() + within_s

    @property
    def is_stopping(self) -> bool:
        return self.stop_at is not None

    def close(self) -> None:
        if self._child is not None:
            self._child.kill()
            self._child = None

    def _run(self, held: Claim) -> bool:
        """Whether it is done."""
        is_done, self._read_bytes = False, 0
        try:
            is_done = self._may_fill_the_disk(held) and self._watch(held)
        except LeaseLost as error:
            self.close()
            self._clear(held)
            log.warning("lease_lost", detail=str(error))
        except OSError as error:
            self._hand_back_unwell(held, error)
        except DatabaseError:
            self.close()  # what it answers late would be taken for the end of the next item
            raise
        finally:
            if not is_done:
                transitions.settle(held)
        return is_done

    def _hand_back_unwell(self, held: Claim, error: OSError) -> None:
        """This machine cannot work (a disk that went away, no more processes), which is not the item's doing."""
        self._rests_until = time.monotonic() + DISK_WAIT_S
        detail = f"The worker {self._worker} cannot work now: {error}. It tries again in {DISK_WAIT_S:.0f} s."
        log.error("worker_unwell", detail=detail)
        self.close()
        with contextlib.suppress(LeaseLost):
            transitions.hand_back(held, code="worker_unwell", detail=detail, wait_s=DISK_WAIT_S)
        self._clear(held)

    def _explain(self, error: OSError) -> None:
        """Why nothing is claimed: in the log and on the item that is next, once a minute."""
        if time.monotonic() < self._silent_until:
            return
        self._silent_until = time.monotonic() + DISK_WAIT_S
        detail = f"The worker {self._worker} claims nothing: {error}. It goes on by itself when that is mended."
        log.error("worker_unwell", detail=detail)
        transitions.explain(code="worker_unwell", detail=detail, stages=self.stages, batch=self.batch)

    def _refuse_without_room(self) -> None:
        """Raises OSError while nothing can be done here: before an item is claimed, so that no attempt is in vain."""
        if self._rests_until and self._child is None:
            self._child = _Child()
        self._rests_until = 0
        root = products_root()
        free = psutil.disk_usage(str(root)).free
        if free < DISK_RESERVE_BYTES:
            raise OSError(errno.ENOSPC, f"only {free / 1e9:.2f} GB are free of the disk", str(root))

    def _may_fill_the_disk(self, held: Claim) -> bool:
        """Reserve what the stage will need; without enough room the item goes back and waits. Raises OSError."""
        free = psutil.disk_usage(str(products_root())).free  # first of all: a root that is away is not made anew
        item = Item.objects.select_related("batch", "group").get(pk=held.item_id)
        structlog.contextvars.bind_contextvars(subject=str(item.subject))
        try:
            needed = stages()[held.stage].disk_bytes(Job.of(item, lambda fraction: None))
        except transitions.ContimgError:
            return True  # what it needs is not there; the stage itself says so
        if needed == 0:
            return True
        transitions.reserve(held, needed)
        reserved = _promised_bytes()
        if reserved + DISK_RESERVE_BYTES <= free:
            return True
        room = f"{free / 1e9:.1f} GB are free and {(reserved - needed) / 1e9:.1f} GB of them promised"
        detail = f"It needs {needed / 1e9:.1f} GB of disk, and {room}; it waits for room."
        transitions.hand_back(held, code="waiting_for_disk", detail=detail, wait_s=DISK_WAIT_S, needs_bytes=needed)
        log.warning("waiting_for_disk", detail=detail)
        return False

    def _watch(self, held: Claim) -> bool:
        """Whether it is done and what follows it was released, both by the child."""
        stage = stages()[held.stage]
        if self._child is None or not self._child.is_usable:
            self.close()
            self._child = _Child()
        child = self._child
        log_path = log_folder() / log_name(item_id=held.item_id, attempt=held.attempt)
        try:
            with child.logging_to(log_path):
                ended = self._until_ended(held, child, stage.time_limit_s, stage.memory_limit_bytes)
        except ChildDied:
            self._after_death(held, child)
        except (LimitReached, CancelRequested, Stopping) as why:
            self._kill_noted(held, child)
            _end_stopped(held, why)
            self._clear(held)
        else:
            if not ended["code"]:  # the child has recorded all but what only its watcher knows
                self._read_bytes = ended["read_bytes"]
                if child.peak_bytes:
                    Attempt.objects.filter(pk=held.attempt_id).update(peak_memory_bytes=child.peak_bytes)
                return True
            child.weigh()
            transitions.note(held, peak_memory_bytes=child.peak_bytes or None)
            record_ending(held, ended)
            self._clear(held)
        return False

    def _until_ended(self, held: Claim, child: _Child, time_limit_s: float, memory_limit_bytes: int) -> dict[str, Any]:
        """The child's answer. Raises ChildDied, LimitReached, CancelRequested, LeaseLost and Stopping."""
        child.order(held)
        began = beat = time.monotonic()
        limit_s = time_limit_s if child.has_started else max(time_limit_s, START_LIMIT_S)
        progress = 0.0
        while True:
            self.meanwhile()
            waits_from = time.monotonic()
            for event in child.events(LOOK_EVERY_S):
                if event["event"] == "ended":
                    return event
                if event["event"] == "started":
                    child.begin()
                    began, limit_s = time.monotonic(), time_limit_s
                progress = event.get("fraction", progress)
            now = time.monotonic()
            if now - waits_from > FROZEN_S:  # which is not the stage's time
                began += now - waits_from
                log.warning("was_frozen", seconds=round(now - waits_from, 1))
            if self.stop_at is not None and now >= self.stop_at:
                raise Stopping
            child.weigh()
            if child.peak_bytes > memory_limit_bytes:
                used, limit = child.peak_bytes / 1e9, memory_limit_bytes / 1e9
                raise LimitReached("memory_limit", f"It used {used:.1f} GB of memory; its limit is {limit:.1f} GB.")
            if now - began > limit_s:
                raise LimitReached("time_limit", f"It ran for more than its limit of {limit_s:.0f} s.")
            beat = self._keep(held, progress, now, beat)

    def _keep(self, held: Claim, progress: float, now: float, beat: float) -> float:
        """Look for a cancel, and renew the lease in time. A database that is away for a moment is asked again."""
        try:
            transitions.look(held)
            if now - beat >= settings.CONTIMG_LEASE_S / transitions.HEARTBEATS_PER_LEASE:
                transitions.renew(held, progress=progress)
                tell_back()
                return now
        except LeaseLost:
            if not transitions.is_finished(held):  # by the child, whose answer is on its way
                raise
        except DatabaseError as error:
            tell_away(error)
        return beat

    def _after_death(self, held: Claim, child: _Child) -> None:
        """The child was killed or crashed; unless it had recorded its success, that is a lost attempt.

        casacore aborts on a full disk, which is not the item's doing: that counts as a failure that may pass.
        """
        was_full = is_full()
        code = self._kill_noted(held, child)
        name = signal.Signals(-code).name if code < 0 else f"exit status {code}"
        how = f"Its process ended by {name} without an answer"
        with contextlib.suppress(LeaseLost):
            if was_full:
                detail = f"{how}, and the disk under the products root was full; free some space."
                transitions.try_again(held, code=DiskFull.code, detail=detail, outcome=Attempt.Outcome.FAILED)
            else:
                detail = f"{how}; see the attempt's log."
                transitions.try_again(held, code="process_died", detail=detail, outcome=Attempt.Outcome.LOST)
        log.warning("process_died", how=name)
        self._clear(held)

    def _clear(self, held: Claim) -> None:
        """After the item was let go: that waits for a COMMIT of the child's which the database is still carrying out.

        Before it the rows of the products were not to be seen, and what is in them would be removed.
        """
        for folder in work_folders(work_owner(held)):
            remove_work(folder)

    def _kill_noted(self, held: Claim, child: _Child) -> int:
        """End it, and note how it ended and what it had spent; of an item that it had recorded as done, neither."""
        child.weigh()
        spent = child.spent()
        code = child.kill()
        self.close()
        transitions.note(held, exit_code=code, signal=signal.Signals(-code).name if code < 0 else "", **spent)
        return code


@contextlib.contextmanager
def _traced(held: Claim) -> Iterator[None]:
    """The item's span, under or linked to the one that made its batch; and, in it, how long it waited."""
    if not tracing.is_on():
        yield
        return
    made_by, n_items = Batch.objects.values_list("traceparent", "n_total").get(pk=held.batch_id)
    origin = {"parent" if n_items == 1 else "link": made_by} if made_by else {}
    facts = {"item": held.item_id, "batch": held.batch_id, "attempt": held.attempt, "stage": held.stage}
    with tracing.span(f"item {held.stage}", **origin, facts=facts):
        tracing.past("wait", seconds=held.waited_s, facts={"courier": settings.CONTIMG_COURIER})
        yield


def _is_back(stage: str, breaker: Breaker) -> bool:
    if breaker.is_resting:
        return False
    try:
        stages()[stage].try_engine()
    except EngineUnavailable as error:
        breaker.note(error)
        return False
    return True


def _room_bytes() -> int:
    """What of the disk is neither filled nor promised nor kept in reserve."""
    return psutil.disk_usage(str(products_root())).free - DISK_RESERVE_BYTES - _promised_bytes()


def _promised_bytes() -> int:
    return Item.objects.running().aggregate(total=Sum("reserved_bytes"))["total"] or 0


def _end_stopped(held: Claim, why: LimitReached | CancelRequested | Stopping) -> None:
    if isinstance(why, LimitReached):
        transitions.fail(held, code=why.code, detail=str(why))
    elif isinstance(why, CancelRequested):
        transitions.cancelled(held)
    else:
        transitions.hand_back(held, code="", detail="")


def record_ending(held: Claim, ended: dict[str, Any]) -> None:
    """What `batch.work.run` answered. Success it has recorded itself."""
    code, detail = ended["code"], ended["detail"]
    if not code:
        return
    transitions.note(held, exit_code=0, duration_s=ended["duration_s"], cpu_s=ended["cpu_s"])
    if code == CancelRequested.code:
        transitions.cancelled(held)
    elif code == LeaseLost.code:
        raise LeaseLost(detail)
    elif code == WaitingForCalibration.code:
        transitions.wait_for_calibration(held, code=code, detail=detail)
    elif ended["permanent"]:
        transitions.fail(held, code=code, detail=detail)
    else:
        transitions.try_again(held, code=code, detail=detail, outcome=Attempt.Outcome.FAILED)


class _Child:
    """The other end of `batch.child`."""

    def __init__(self) -> None:
        answers, theirs = os.pipe()
        try:
            self._process = subprocess.Popen(  # noqa: S603 - our own module
                [sys.executable, "-m", "batch.child", str(theirs)],
                cwd=settings.BASE_DIR,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=[theirs],
                start_new_session=True,
                env={**_without_counting(), **_thread_limits()},
            )
        except OSError:
            os.close(answers)
            raise
        finally:
            os.close(theirs)
        if self._process.stdin is None or self._process.stdout is None:  # it was asked for pipes
            raise ChildDied
        self._orders, self._output = self._process.stdin, self._process.stdout
        self._answers = os.fdopen(answers, "rb", buffering=0)
        self._partial = b""
        self._selector = selectors.DefaultSelector()
        for pipe in (self._answers, self._output):
            os.set_blocking(pipe.fileno(), False)
            self._selector.register(pipe, selectors.EVENT_READ)
        self._log: IO[bytes] | None = None
        self._logged_bytes = 0
        self._worked_s = 0.0
        self._began = time.monotonic()
        self._cpu_s = self._cpu_before_s = 0.0
        self.peak_bytes = 0
        self.has_started = False
        self.exit_code: int | None = None

    @property
    def is_usable(self) -> bool:
        return self._process.poll() is None and self._worked_s < WORK_S_PER_CHILD

    def order(self, held: Claim) -> None:
        self.begin()
        try:
            self._orders.write(json.dumps(vars(held)).encode() + b"\n")
            self._orders.flush()
        except BrokenPipeError as error:
            raise ChildDied from error

    def begin(self) -> None:
        """From now on time, memory and CPU are the item's: since it was ordered, or a new process has started."""
        self._began, self.peak_bytes, self._cpu_s = time.monotonic(), 0, 0.0
        with contextlib.suppress(psutil.NoSuchProcess):
            self._cpu_before_s = _cpu_s(psutil.Process(self._process.pid))

    def item_s(self) -> float:
        return time.monotonic() - self._began

    def spent(self) -> dict[str, Any]:
        """As far as it was seen from here."""
        return {"peak_memory_bytes": self.peak_bytes or None, "duration_s": self.item_s(), "cpu_s": self._cpu_s}

    def events(self, timeout_s: float) -> Iterable[dict[str, Any]]:
        """What it answered within the time, or until it began or ended; its log is written on the way.

        Raises ChildDied.
        """
        found: list[dict[str, Any]] = []
        until = time.monotonic() + timeout_s
        while (left_s := until - time.monotonic()) > 0 and not any(event["event"] in ENDPOINTS for event in found):
            for key, _ in self._selector.select(left_s):
                data = os.read(key.fd, 1 << 16)
                if key.fileobj is self._output:
                    self._write_log(data)
                    if not data:
                        self._selector.unregister(key.fileobj)
                elif not data:
                    raise ChildDied
                else:
                    *lines, self._partial = (self._partial + data).split(b"\n")
                    found += [json.loads(line) for line in lines]
                    self.has_started = True
        return found

    def weigh(self) -> None:
        """The memory of the whole group now, and its CPU time until now."""
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(self._process.pid)
            n_bytes, cpu_s = 0, -self._cpu_before_s
            for one in (process, *process.children(recursive=True)):
                with contextlib.suppress(psutil.NoSuchProcess):
                    n_bytes += one.memory_info().rss
                    cpu_s += _cpu_s(one)
            self.peak_bytes, self._cpu_s = max(self.peak_bytes, n_bytes), max(self._cpu_s, cpu_s)

    @contextlib.contextmanager
    def logging_to(self, path: Path):
        """What it says meanwhile goes there; work goes on without its log where the log's disk is full or away."""
        with contextlib.ExitStack() as stack:
            self._logged_bytes = 0
            with _without_log(self):
                path.parent.mkdir(parents=True, exist_ok=True)
                self._log = stack.enter_context(path.open("wb", buffering=0))
            try:
                yield
            finally:
                self._worked_s += self.item_s()
                self._drain_log()
                self._log = None

    def _drain_log(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self._output.fileno(), 1 << 16):
                self._write_log(data)

    def _write_log(self, data: bytes) -> None:
        """Up to a limit; what an engine says after ten million bytes nobody reads."""
        room = LOG_LIMIT_BYTES - self._logged_bytes
        self._logged_bytes += len(data)
        if self._log is None or room < 0:
            return
        with _without_log(self):
            self._log.write(data[:room])
            if len(data) > room:
                self._log.write(b"\n[the log is cut here: it reached its limit]\n")

    def kill(self) -> int:
        """The whole group: asked, then made to. Returns how the child ended; may be called again."""
        if self.exit_code is not None:
            return self.exit_code
        group = self._process.pid
        for number, grace_s in ((signal.SIGTERM, TERM_GRACE_S), (signal.SIGKILL, TERM_GRACE_S)):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(group, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(grace_s)
                break
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)  # what the child had started, and does not heed TERM
        self.exit_code = self._process.wait()
        self._drain_log()
        for pipe in (self._orders, self._output, self._answers):
            with contextlib.suppress(BrokenPipeError):
                pipe.close()
        self._selector.close()
        return self.exit_code


def _cpu_s(process: psutil.Process) -> float:
    """Its own, and that of its processes that have ended."""
    return sum(process.cpu_times()[:4])


@contextlib.contextmanager
def _without_log(child: _Child) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        log.warning("attempt_log_lost", detail=str(error))
        child._log = None


def _without_counting() -> dict[str, str]:
    """The worker counts what its child did; children come and go, and each would leave files behind."""
    return {name: value for name, value in os.environ.items() if name != FOLDER_SETTING}


def _thread_limits() -> dict[str, str]:
    threads = str(settings.CONTIMG_ENGINE_THREADS)
    names = ("CONTIMG_ENGINE_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    return dict.fromkeys(names, threads)
