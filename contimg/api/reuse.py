"""An answer that was rendered once is sent again while the database is provably the same.

`_snapshot()` names what the database holds: a commit of anybody gives it another name. On PostgreSQL it is the
snapshot, which every transaction that writes changes when it ends; on SQLite `PRAGMA data_version` of a connection that
does nothing else, which changes with each commit of any other. It is read before the answer is made: who writes in the
meantime leaves an answer that nobody asks for any more. After a commit one request makes the answer, and others for the
same wait for it.

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

from django.db import DEFAULT_DB_ALIAS, connection, connections
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
            self._bytes += len(answer.body)
            while self._bytes > MOST_BYTES:
                self._forget(next(iter(self._kept)))

    def _forget(self, key: Any) -> None:
        _, old = self._kept.pop(key, (None, None))
        self._bytes -= len(old.body) if old else 0

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
                if len(kept.body) <= _LARGEST_BYTES and not getattr(made, "is_passing", False):
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
    """What the database holds, and which span of `for_s` seconds it is."""
    return (_snapshot(), time.time() // for_s)


def _snapshot() -> Any:
    if connection.vendor == "sqlite":
        return _watch.version()
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_current_snapshot()::text")
        return cursor.fetchone()[0]


class _Watch:
    """The connection of each process that sees every commit to the SQLite database as somebody else's."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._of: Any = None

    def version(self) -> Any:
        """Of this process and this database only."""
        of = (os.getpid(), connection.settings_dict["NAME"])
        with self._lock:
            if self._of != of:  # a fork, or the next installation of a test
                self._connection = connections.create_connection(DEFAULT_DB_ALIAS)
                self._connection.inc_thread_sharing()
                self._connection.ensure_connection()
                self._of = of
            (version,) = self._connection.connection.execute("PRAGMA data_version").fetchone()
        return (*of, version)


_watch = _Watch()
