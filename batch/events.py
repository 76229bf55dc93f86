"""A batch watched live: server-sent events (WHATWG HTML, 9.2), in slices that end so that no reader holds a thread.

Each event is a whole picture of what it is about (`batch`: counts, progress, estimate; `item`: its state and attempt;
`log`: lines of a running attempt; `end`), so one that comes twice does no harm. The id of an event is how far the
stream has got: the time of the newest change it has told, and how much of each running attempt's log. A stream that
goes on after an id looks back a lease before it, because a change is dated when it is made and seen when its
transaction commits: nothing is missed, a little is told again.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import close_old_connections, connection
from django.http import StreamingHttpResponse
from django.utils import timezone
from django.utils.dateparse import parse_datetime
from rest_framework.renderers import JSONRenderer

from batch.estimates import Estimates
from batch.logs import read_log
from batch.models import Attempt, Batch, Item
from batch.serializers import BatchDetailSerializer, ItemSerializer
from contimg.exceptions import ContimgError

SLICE_S = 15.0
LOOK_EVERY_S = 1.0
COME_AGAIN_MS = 2000
MOST_STREAMS = 2  # of the four threads of a web process
MOST_ITEMS_AT_ONCE = 500
MOST_LOGS_AT_ONCE = 20
MOST_LOG_BYTES = 16_000
_open_streams = threading.BoundedSemaphore(MOST_STREAMS)


class TooManyStreams(ContimgError):
    """Every stream holds a thread of the web server while it lasts."""

    code = "too_many_streams"
    status = 503
    permanent = False


def stream(*, batch: Batch, last_event_id: str = "") -> StreamingHttpResponse:
    """Raises TooManyStreams."""
    if not _open_streams.acquire(blocking=False):
        raise TooManyStreams(
            "As many streams are open as this server takes; come again in a moment, or ask for the batch itself."
        )
    response = _Stream(_events(batch, Cursor.parsed(last_event_id)), content_type="text/event-stream")
    response.headers["Cache-Control"] = "no-store"
    response.headers["X-Accel-Buffering"] = "no"  # nginx would keep it until it ends
    return response


class _Stream(StreamingHttpResponse):
    """Gives its place back when it is closed, whether or not it was read at all."""

    _has_place = True

    def close(self) -> None:
        super().close()
        if self._has_place:
            self._has_place = False
            _open_streams.release()


@dataclass
class Cursor:
    """How far a stream has got: `seen_at item.attempt:bytes item.attempt:bytes ...`."""

    seen_at: datetime | None = None
    logs: dict[tuple[int, int], int] = field(default_factory=dict)

    @classmethod
    def parsed(cls, text: str) -> Cursor:
        """One that cannot be read begins anew, as the standard would have it."""
        if not re.fullmatch(r"[0-9TZ:.+-]{20,40}( [0-9]{1,15}\.[0-9]{1,9}:[0-9]{1,12}){0,20}", text):
            return cls()
        seen_at, *logs = text.split(" ")
        pieces = (re.split(r"[.:]", log) for log in logs)
        try:
            return cls(parse_datetime(seen_at), {(int(a), int(b)): int(c) for a, b, c in pieces})
        except ValueError:
            return cls()

    def __str__(self) -> str:
        seen_at = (self.seen_at or timezone.now()).isoformat()
        return " ".join([seen_at, *(f"{item}.{attempt}:{size}" for (item, attempt), size in self.logs.items())])


def _events(batch: Batch, cursor: Cursor) -> Iterator[str]:
    yield f"retry: {COME_AGAIN_MS}\n\n"
    look = _Look(batch.pk, cursor)
    until = time.monotonic() + SLICE_S
    while True:
        told = list(look.events())
        if not connection.in_atomic_block:  # a test's; a request of ours has none
            close_old_connections()  # not to be held while this sleeps
        yield from told or [": nothing new\n\n"]
        if look.is_over or time.monotonic() + LOOK_EVERY_S > until:
            return
        time.sleep(LOOK_EVERY_S)


class _Look:
    """What is new since the last look at a batch."""

    def __init__(self, pk: int, cursor: Cursor) -> None:
        self._pk, self._cursor = pk, cursor
        self._told_batch: dict[str, Any] = {}
        self._told_items: dict[int, dict[str, Any]] = {}
        self.is_over = False

    def events(self) -> Iterator[str]:
        batch = Batch.objects.for_detail().get(pk=self._pk)
        yield from self._items()
        yield from self._logs()
        facts = BatchDetailSerializer(batch, context={"eta_s": Estimates().eta_s([batch])}).data
        changing = {name: value for name, value in facts.items() if name not in ("eta_s", "changed_at")}
        if changing != self._told_batch:
            self._told_batch = changing
            yield self._event("batch", facts)
        if batch.n_open == 0:
            self.is_over = True
            yield self._event("end", {"state": batch.state})

    def _items(self) -> Iterator[str]:
        since = (self._cursor.seen_at or timezone.now()) - timedelta(seconds=settings.CONTIMG_LEASE_S)
        changed = Item.objects.filter(batch=self._pk, changed_at__gte=since).for_listing().order_by("changed_at", "id")
        while True:
            rows = list(changed[:MOST_ITEMS_AT_ONCE])
            for item in rows:
                facts = ItemSerializer(item).data
                if self._told_items.get(item.pk) != facts:
                    self._told_items[item.pk] = facts
                    self._cursor.seen_at = max(item.changed_at, self._cursor.seen_at or item.changed_at)
                    yield self._event("item", facts)
            if len(rows) < MOST_ITEMS_AT_ONCE or rows[-1].changed_at == rows[0].changed_at:
                return
            changed = changed.filter(changed_at__gte=rows[-1].changed_at)

    def _logs(self) -> Iterator[str]:
        """Of the attempts that run, and the rest of those that did at the last look."""
        followed = [item for item, _ in self._cursor.logs]
        running = Attempt.objects.filter(item__batch=self._pk, outcome=Attempt.Outcome.RUNNING)
        rows = list(running.order_by("id")[:MOST_LOGS_AT_ONCE])
        rows += [row for row in Attempt.objects.filter(item__batch=self._pk, item__in=followed) if row not in rows]
        for attempt in rows:
            key = (attempt.item_id, attempt.number)
            if attempt.outcome != Attempt.Outcome.RUNNING and key not in self._cursor.logs:
                continue
            piece = read_log(attempt=attempt, offset=self._cursor.logs.get(key, 0), most_bytes=MOST_LOG_BYTES)
            self._cursor.logs[key] = piece.next_offset
            if piece.is_final or len(self._cursor.logs) > MOST_LOGS_AT_ONCE:
                del self._cursor.logs[key]
            if piece.text:
                yield self._event("log", {"item": attempt.item_id, "attempt": attempt.number, "text": piece.text})

    def _event(self, name: str, facts: Any) -> str:
        data = JSONRenderer().render(facts).decode()
        return f"id: {self._cursor}\nevent: {name}\ndata: {data}\n\n"
