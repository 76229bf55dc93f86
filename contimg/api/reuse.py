"""An answer that was rendered once is sent again while the database is provably the same.

`_Watch` names what the database holds: a commit of anybody gives it another name. On PostgreSQL it is the snapshot,
which every transaction that writes changes when it ends; on SQLite `PRAGMA data_version`, which changes with each
commit of any other connection. It is read before the answer is made: who writes in the meantime leaves an answer that
nobody asks for any more. After a commit one request makes the answer, and others for the same wait for it.

Kept are JSON answers, for each address, format and caller. A view says for how long its answers hold while the database
is the same: for ever (`ALWAYS`), some seconds where the time plays a part, or not at all. Measured in
docs/measurements.md, "The API".
"""

from __future__ import annotations

import hashlib
import math
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from django.db import DEFAULT_DB_ALIAS, DatabaseError, connection, connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.http import HttpResponse, HttpResponseBase
from django.utils.encoding import force_bytes
from prometheus_client import Counter
from rest_framework.request import Request
from rest_framework.response import Response

from contimg.api.limits import QueryTooSlow

REUSED = Counter("contimg_answers", "Answers of the API that may be reused, by whether they were.", ["reused"])
ALWAYS = math.inf
MOST_BYTES = 64_000_000  # of each process
_LARGEST_BYTES = 4_000_000
_OVERHEAD_BYTES = 1000  # of an answer's key, state and place, besides the texts


@dataclass(frozen=True)
class _Kept:
    body: bytes
    content_type: str
    etag: str


class _Answers:
    """The newest answers of this process, by key."""

    def __init__(self) -> None:
        self._kept: OrderedDict[Any, tuple[Any, _Kept]] = OrderedDict()
        self._bytes = 0
        self._turns: dict[Any, _Turn] = {}
        self._lock = threading.Lock()

    def get(self, key: Any, state: Any) -> _Kept | None:
        with self._lock:
            known, kept = self._kept.get(key, (None, None))
            if kept is None or known != state:
                return None
            self._kept.move_to_end(key)
            return kept

    def keep(self, key: Any, state: Any, answer: _Kept) -> None:
        with self._lock:
            self._forget(key)
            self._kept[key] = (state, answer)
            self._bytes += _size_bytes(key, answer)
            while self._bytes > MOST_BYTES:
                self._forget(next(iter(self._kept)))

    def _forget(self, key: Any) -> None:
        _, old = self._kept.pop(key, (None, None))
        self._bytes -= _size_bytes(key, old) if old else 0

    @contextmanager
    def turn(self, key: Any) -> Iterator[bool]:
        """One at a time makes an answer; says whether somebody else did just before. A refusal is of all who waited."""
        with self._lock:
            turn = self._turns.setdefault(key, _Turn())
            turn.n_wanted += 1
        had_to_wait = not turn.lock.acquire(blocking=False)
        if had_to_wait:
            turn.lock.acquire()
        try:
            if turn.is_too_slow:
                raise QueryTooSlow
            yield had_to_wait
        except QueryTooSlow:
            turn.is_too_slow = True
            raise
        finally:
            turn.lock.release()
            with self._lock:
                turn.n_wanted -= 1
                if not turn.n_wanted:
                    del self._turns[key]


def _size_bytes(key: Any, answer: _Kept) -> int:
    """Empty lists of a million addresses are a gigabyte too."""
    address, media_type, _ = key
    return len(answer.body) + len(address) + len(media_type) + _OVERHEAD_BYTES


@dataclass
class _Turn:
    lock: threading.Lock = field(default_factory=threading.Lock)
    n_wanted: int = 0
    is_too_slow: bool = False


_answers = _Answers()


def reused(request: Request, make: Callable[[], Response], *, for_s: float, audience: Any = None) -> HttpResponseBase:
    """What `make` answers, or has answered of the same database. In a transaction of our own nothing is reused.

    `audience` is whatever else of the caller the answer follows from, such as whether the address is trusted.
    """
    if not for_s or request.accepted_renderer.format != "json" or connection.in_atomic_block:
        return make()
    caller = (request.user.pk, request.auth and request.auth.pk, audience)
    key = (request.build_absolute_uri(), request.accepted_media_type, caller)
    state = _state(for_s)
    if state is None:
        return make()
    kept = _answers.get(key, state)
    REUSED.labels("yes" if kept else "no").inc()
    if kept is None:
        with _answers.turn(key) as had_to_wait:
            if had_to_wait:
                state = _state(for_s)
                kept = _answers.get(key, state)
            if kept is None:
                made = make()
                kept = _rendered(request, made)
                if state is not None and len(kept.body) <= _LARGEST_BYTES and not getattr(made, "is_passing", False):
                    _answers.keep(key, state, kept)
    return HttpResponse(kept.body, content_type=kept.content_type, headers={"ETag": kept.etag})


def passing(response: Response) -> Response:
    """Not to be kept: it may change while the database does not."""
    response.is_passing = True  # type: ignore[attr-defined]
    return response


def _rendered(request: Request, response: Response) -> _Kept:
    renderer = request.accepted_renderer
    body = force_bytes(renderer.render(response.data, request.accepted_media_type, {"request": request}))
    return _Kept(body, renderer.media_type, f'"{hashlib.blake2b(body, digest_size=16).hexdigest()}"')


def _state(for_s: float) -> Any:
    """What the database holds, and which span of `for_s` seconds it is; None where that cannot be known now."""
    snapshot = _watch.snapshot()
    return None if snapshot is None else (snapshot, time.time() // for_s)


class _Watch:
    """The connection of each process that asks what its database holds, and does nothing else.

    SQLite needs it so that every commit is somebody else's. On PostgreSQL it is cheaper by far than asking over
    Django's connection, which comes from the pool and goes back (docs/measurements.md). Who waits for it while another
    asks takes the next answer with all who wait: it is younger than their questions.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._of: Any = None
        self._connection: BaseDatabaseWrapper | None = None
        self._n_opened = 0
        self._said: Any = None
        self._said_at = self._failed_at = -math.inf

    def snapshot(self) -> Any:
        """What the database holds, as this process sees it; None while it does not answer, which who makes the answer
        is told by Django's own connection."""
        came_at, of = time.monotonic(), (os.getpid(), connection.settings_dict["NAME"])
        with self._lock:
            if self._of != of:  # a fork, or the next installation of a test
                self._connection, self._of, self._said_at, self._failed_at = None, of, -math.inf, -math.inf
            if self._said_at < came_at:
                self._said_at = time.monotonic()
                self._said = self._ask()
            return self._said

    def close(self) -> None:
        with self._lock:
            if self._connection is not None:
                self._connection.close()
            self._connection = None

    def _ask(self) -> Any:
        if time.monotonic() < self._failed_at + _AWAY_S:
            return None
        try:
            if self._connection is None:
                self._connection = _of_its_own()
                self._n_opened += 1
            with self._connection.wrap_database_errors:
                (said,) = self._connection.connection.execute(_SNAPSHOTS[self._connection.vendor]).fetchone()
        except DatabaseError:  # its server has gone, and may be back
            self._connection, self._failed_at = None, time.monotonic()
            return None
        # SQLite counts for each connection from its beginning, and PostgreSQL anew behind a failover.
        return (self._of, self._n_opened, said)


_AWAY_S = 5.0  # for so long it is not asked again: the others would wait here and then for Django's pool
_CONNECT_S = 2
_SNAPSHOTS = {"sqlite": "PRAGMA data_version", "postgresql": "SELECT pg_current_snapshot()::text"}
_watch = _Watch()


def _of_its_own() -> BaseDatabaseWrapper:
    """A connection as Django's, and of no pool."""
    options = {name: value for name, value in connection.settings_dict["OPTIONS"].items() if name != "pool"}
    if "connect_timeout" in options:  # of PostgreSQL; all who ask wait for it
        options["connect_timeout"] = _CONNECT_S
    made = type(connections[DEFAULT_DB_ALIAS])({**connection.settings_dict, "OPTIONS": options}, DEFAULT_DB_ALIAS)
    made.inc_thread_sharing()
    made.ensure_connection()
    return made
