"""Not asking again what has just not answered: a breaker stands before each thing outside the process that may hang.

It opens when the thing was *unavailable* several times in a row, never for bad data; refuses at once while it rests;
then lets one caller through, and closes when that one was answered. Where nobody calls, `tend` asks. The state is the
process's own, by a clock that nobody sets. It is written to a row too (`contimg.models.BreakerState`), where health and
the admin see the breakers of all processes, and where somebody may ask that one is closed.

pybreaker was looked at and left: it holds its lock while it calls (8 calls of 0.2 s took 1.6 s), goes by the wall
clock, counts every exception that is not excluded, and shares its state through Redis only.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import TypeVar

import structlog
from django.db import DatabaseError, connection
from django.db.models.functions import Now
from django.utils import timezone
from prometheus_client import Counter, Gauge

from contimg.products import this_process

T = TypeVar("T")
log = structlog.get_logger(__name__)
SEEN_EVERY_S = 10.0
KEPT = timedelta(days=1)  # the row of a process that was last heard of so long ago goes

TRANSITIONS = Counter("contimg_breaker_transitions", "Breakers opened and closed.", ["breaker", "to"])
REFUSED = Counter("contimg_breaker_refused", "Calls that an open breaker did not make.", ["breaker"])
OPEN = Gauge(
    "contimg_breaker_open", "Processes in which the breaker is open.", ["breaker"], multiprocess_mode="livesum"
)


class BreakerOpen(ConnectionError):
    """It has just not answered several times, and is left alone for a moment."""


def tend() -> None:
    """The breakers of this process; each second, where it may be without calls for long."""
    for breaker in list(_of_this_process):
        breaker.tend()


_of_this_process: list[Breaker] = []


class Breaker:
    def __init__(
        self, name: str, *, unavailable: tuple[type[Exception], ...] = (), ask: Callable[[], object] | None = None,
        opens_after: int = 2, rests_s: float = 10.0,
    ) -> None:  # fmt: skip
        """`ask` finds out whether the thing answers, and raises what a call would."""
        self.name = name
        self.rests_s = rests_s
        self._unavailable, self._ask, self._opens_after = unavailable, ask, opens_after
        self._lock = threading.Lock()  # never held while something is asked
        self._n_failures = 0
        self._opened_at: float | None = None  # monotonic; None: closed
        self._has_a_probe = False
        self._error = ""
        self._is_written, self._seen_at = True, 0.0
        OPEN.labels(name).set(0)
        for to in ("open", "closed"):
            TRANSITIONS.labels(name, to)
        REFUSED.labels(name)
        _of_this_process.append(self)

    @property
    def is_open(self) -> bool:
        return self._opened_at is not None

    @property
    def is_resting(self) -> bool:
        """Open, and not yet long enough to be tried again."""
        return self._opened_at is not None and time.monotonic() - self._opened_at < self.rests_s

    def call(self, ask: Callable[[], T]) -> T:
        """What it answers. Raises BreakerOpen without asking, and whatever asking raises.

        An exception that is not of the unavailable ones is an answer.
        """
        if not self._may_ask():
            REFUSED.labels(self.name).inc()
            raise BreakerOpen(f"{self.name} does not answer ({self._error}); it is asked again in a moment.")
        failure: Exception | None = None
        try:
            return ask()
        except self._unavailable as error:
            failure = error
            raise
        finally:
            self.note(failure)

    def note(self, failure: Exception | None) -> None:
        """How asking went; for callers that ask in another way than by `call`."""
        with self._lock:
            was_open, self._has_a_probe = self.is_open, False
            if failure is None:  # who has just closed opens again at the next failure
                self._n_failures = self._opens_after - 1 if was_open else 0
                self._opened_at, self._error = None, ""
            else:
                self._n_failures += 1
                self._error = " ".join(f"{type(failure).__name__}: {failure}".split())
                if was_open or self._n_failures >= self._opens_after:
                    self._opened_at = time.monotonic()
            changed = was_open != self.is_open
        if changed:
            self._tell()
        elif not self._is_written:
            self._write()

    def close(self) -> None:
        """The next caller asks again."""
        self.note(None)

    def tend(self) -> None:
        """Close where somebody wants it, or where the thing answers again; an open one says that it is still there."""
        if not self._is_written:
            self._write()
        if not self.is_open:
            return
        if self._is_to_be_closed():
            self.close()
        elif self._ask is not None and not self.is_resting:
            with contextlib.suppress(BreakerOpen, *self._unavailable):
                self.call(self._ask)

    def _may_ask(self) -> bool:
        if not self.is_open:
            return True
        with self._lock:
            may = not self._has_a_probe and not self.is_resting
            self._has_a_probe = self._has_a_probe or may
            return may

    def _tell(self) -> None:
        to, level = ("open", logging.WARNING) if self.is_open else ("closed", logging.INFO)
        OPEN.labels(self.name).set(int(self.is_open))
        TRANSITIONS.labels(self.name, to).inc()
        log.log(level, "breaker", breaker=self.name, to=to, detail=self._error)
        self._write()

    def _write(self) -> None:
        """In the row of this process. Inside a transaction it would share its fate: then it is done later."""
        from contimg.models import BreakerState  # not before the apps are ready

        was_written, self._is_written = self._is_written, False
        if connection.in_atomic_block:
            return
        facts = {
            "is_open": self.is_open, "error": self._error[:500], "changed_at": timezone.now(), "seen_at": Now(),
            "is_asked": False,
        }  # fmt: skip
        try:
            BreakerState.objects.update_or_create(breaker=self.name, process=this_process(), defaults=facts)
            BreakerState.objects.filter(seen_at__lt=Now() - KEPT).delete()
        except DatabaseError as error:
            if was_written:
                log.warning("breaker_not_written", breaker=self.name, detail=" ".join(str(error).split()))
        else:
            self._is_written, self._seen_at = True, time.monotonic()

    def _is_to_be_closed(self) -> bool:
        from contimg.models import BreakerState

        row = BreakerState.objects.filter(breaker=self.name, process=this_process())
        try:
            if time.monotonic() - self._seen_at >= SEEN_EVERY_S:
                row.update(seen_at=Now())
                self._seen_at = time.monotonic()
            return row.filter(is_asked=True).exists()
        except DatabaseError:
            return False
