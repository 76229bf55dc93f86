"""Not asking again what has just not answered: a breaker stands before each thing outside the process that may hang.

It opens when the thing was *unavailable* several times in a row, never for bad data; refuses at once while it rests;
then lets one caller through, and closes when that one was answered. The state is the process's own, by a clock that
nobody sets. It is written to a row too (`contimg.models.BreakerState`), where health and the admin see the breakers of
all processes, and where somebody may ask that one is closed.

pybreaker was looked at and left: it holds its lock while it calls (8 calls of 0.2 s took 1.6 s), goes by the wall
clock, counts every exception that is not excluded, and shares its state through Redis only.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import TypeVar

import structlog
from django.db import DatabaseError, connection
from django.utils import timezone
from prometheus_client import Counter, Gauge

from contimg.products import this_process

T = TypeVar("T")
log = structlog.get_logger(__name__)
LOOK_EVERY_S = 1.0

TRANSITIONS = Counter("contimg_breaker_transitions", "Breakers opened and closed.", ["breaker", "to"])
REFUSED = Counter("contimg_breaker_refused", "Calls that an open breaker did not make.", ["breaker"])
OPEN = Gauge(
    "contimg_breaker_open", "Processes in which the breaker is open.", ["breaker"], multiprocess_mode="livesum"
)


class BreakerOpen(ConnectionError):
    """It has just not answered several times, and is left alone for a moment."""


class Breaker:
    def __init__(
        self, name: str, *, unavailable: tuple[type[Exception], ...] = (), opens_after: int = 2, rests_s: float = 10.0
    ) -> None:
        self.name = name
        self.rests_s = rests_s
        self._unavailable, self._opens_after = unavailable, opens_after
        self._lock = threading.Lock()  # never held while something is asked
        self._n_failures = 0
        self._opened_at: float | None = None  # monotonic; None: closed
        self._has_a_probe = False
        self._error = ""
        self._is_written, self._looked_at = True, 0.0
        OPEN.labels(name).set(0)
        for to in ("open", "closed"):
            TRANSITIONS.labels(name, to)
        REFUSED.labels(name)

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
            if failure is None:
                self._n_failures, self._opened_at, self._error = 0, None, ""
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

    def look(self) -> None:
        """Close if somebody has asked for it; the row is read once a second at most, and only while it is open."""
        now = time.monotonic()
        if not self.is_open or now - self._looked_at < LOOK_EVERY_S:
            return
        self._looked_at = now
        if not self._is_written:
            self._write()
        if self._is_to_be_closed():
            self.close()

    def _may_ask(self) -> bool:
        if not self.is_open:
            return True
        self.look()
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
        """In the row of this process. Inside a transaction it would share its fate: then the next call does it."""
        from contimg.models import BreakerState  # not before the apps are ready

        self._is_written = False
        if connection.in_atomic_block:
            return
        facts = {"is_open": self.is_open, "error": self._error[:500], "changed_at": timezone.now(), "is_asked": False}
        try:
            BreakerState.objects.update_or_create(breaker=self.name, process=this_process(), defaults=facts)
        except DatabaseError as error:
            log.warning("breaker_not_written", breaker=self.name, detail=" ".join(str(error).split()))
        else:
            self._is_written = True

    def _is_to_be_closed(self) -> bool:
        from contimg.models import BreakerState

        if connection.in_atomic_block:  # an error would spoil it
            return False
        try:
            return BreakerState.objects.filter(breaker=self.name, process=this_process(), is_asked=True).exists()
        except DatabaseError:
            return False
