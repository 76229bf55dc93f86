"""A batch watched live: server-sent events (WHATWG HTML, 9.2), in slices that end so that no reader holds a thread.

Each event is a whole picture of what it is about (`batch`: counts, progress, estimate; `item`: its state and attempt;
`log`: lines of a running attempt; `end`), so one that comes twice does no harm.

A stream walks through the items of its batch that changed since some moment, by their ids: a hundred thousand can
change at one moment. When it is through, it walks again through those that changed since a lease before the walk
began, because a change is dated when it is made and seen when its transaction commits. The id of an event is where the
walk is, and how much it has told of each running attempt's log. A stream that goes on after an id goes on there:
nothing is missed, what changed within the last lease may be told again.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import close_old_connections, connection
from django.db.models.functions import Now
from rest_framework.renderers import JSONRenderer

from batch.estimates import Estimates
from batch.logs import read_log
from batch.models import Attempt, Batch, Item
from batch.serializers import BatchDetailSerializer, ItemSerializer
from contimg.exceptions import ContimgError
from contimg.places import PlacedResponse, Places

SLICE_S = 15.0
LOOK_EVERY_S = 1.0
COME_AGAIN_MS = 2000
MOST_STREAMS = 2  # of the four threads of a web process
MOST_ITEMS_AT_ONCE = 500
MOST_REMEMBERED = 100_000
MOST_LOGS_AT_ONCE = 20
MOST_LOG_BYTES = 16_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class TooManyStreams(ContimgError):
    """Every stream holds a thread of the web server while it lasts."""

    code = "too_many_streams"
    status = 503
    permanent = False


_places = Places(
    MOST_STREAMS,
    lambda: TooManyStreams(
        "As many streams, pictures and exports are being made here as may be at once; come again in a moment, or ask"
        " for the batch itself."
    ),
)


def stream(*, batch: Batch, last_event_id: str = "") -> PlacedResponse:
    """Raises TooManyStreams."""
    response = PlacedResponse(_places, _events(batch, Cursor.parsed(last_event_id)), content_type="text/event-stream")
    response.headers["Cache-Control"] = "no-store"
    response.headers["X-Accel-Buffering"] = "no"  # nginx would keep it until it ends
    return response


@dataclass
class Cursor:
    """How far a stream has got: `since.began.item item.attempt:bytes item.attempt:bytes ...`.

    Of the items that changed since then, those up to this one are told, in the walk that began then. Times are in
    microseconds since 1970.
    """

    since: int | None = None
    began: int = 0
    item: int = 0
    logs: dict[tuple[int, int], int] = field(default_factory=dict)

    @classmethod
    def parsed(cls, text: str) -> Cursor:
        """One that cannot be read begins anew, as the standard would have it."""
        if not re.fullmatch(
            r"[0-9]{15,16}\.[0-9]{15,16}\.[0-9]{1,18}( [0-9]{1,15}\.[0-9]{1,9}:[0-9]{1,12}){0,20}", text
        ):
            return cls()
        walk, *logs = text.split(" ")
        pieces = (re.split(r"[.:]", log) for log in logs)
        since, began, item = map(int, walk.split("."))
        return cls(since, began, item, {(int(a), int(b)): int(c) for a, b, c in pieces})

    def __str__(self) -> str:
        walk = f"{self.since}.{self.began}.{self.item}"
        return " ".join([walk, *(f"{item}.{attempt}:{size}" for (item, attempt), size in self.logs.items())])

    def enter(self, now: datetime) -> None:
        """Begin a walk, or go on with one."""
        if self.since is None:
            self.since = _microseconds(now) - _lease()
        if not self.item:
            self.began = _microseconds(now)

    def turn(self) -> None:
        """The walk is through; the next one looks back."""
        self.since, self.item = self.began - _lease(), 0

    def changed_since(self) -> datetime:
        return _EPOCH + timedelta(microseconds=self.since or 0)


def _microseconds(time: datetime) -> int:
    return (time - _EPOCH) // timedelta(microseconds=1)


def _lease() -> int:
    return int(settings.CONTIMG_LEASE_S * 1_000_000)


def _events(batch: Batch, cursor: Cursor) -> Iterator[str]:
    yield f"retry: {COME_AGAIN_MS}\n\n"
    look = _Look(batch.pk, cursor)
    until = time.monotonic() + SLICE_S
    while True:
        has_told = False
        for told in look.events(until):
            if not connection.in_atomic_block:  # a test's; a request of ours has none
                close_old_connections()  # not to be held while a slow reader reads, or this sleeps
            has_told = has_told or bool(told)
            yield from told
        if not has_told:
            yield ": nothing new\n\n"
        if look.is_over or time.monotonic() + LOOK_EVERY_S > until:
            return
        time.sleep(LOOK_EVERY_S)


class _Look:
    """What is new since the last look at a batch."""

    def __init__(self, pk: int, cursor: Cursor) -> None:
        self._pk, self._cursor = pk, cursor
        self._told_batch: dict[str, Any] = {}
        self._told_items: dict[int, datetime] = {}
        self.is_over = False

    def events(self, until: float) -> Iterator[list[str]]:
        """In pages. Items that are not told when the time is over are left to who comes again."""
        batch = Batch.objects.for_detail().annotate(now=Now()).get(pk=self._pk)
        self._cursor.enter(batch.now)
        yield from self._items(until)
        yield list(self._logs())
        yield list(self._batch(batch))

    def _batch(self, batch: Batch) -> Iterator[str]:
        facts = BatchDetailSerializer(batch, context={"eta_s": Estimates().eta_s([batch])}).data
        changing = {name: value for name, value in facts.items() if name not in ("eta_s", "changed_at")}
        if changing != self._told_batch:
            self._told_batch = changing
            yield self._event("batch", facts)
        if batch.n_open == 0 and not self._cursor.item:
            self.is_over = True
            yield self._event("end", {"state": batch.state})

    def _items(self, until: float) -> Iterator[list[str]]:
        keys = self._news()
        for first in range(0, len(keys), MOST_ITEMS_AT_ONCE):
            if first and time.monotonic() > until:
                return
            page = keys[first : first + MOST_ITEMS_AT_ONCE]
            told = []
            for item in Item.objects.filter(pk__in=page).for_listing().order_by("id"):
                self._remember(item)
                self._cursor.item = item.pk
                told.append(self._event("item", ItemSerializer(item, context={"is_inside": True}).data))
            yield told
        self._cursor.turn()
        since = self._cursor.changed_since()
        self._told_items = {pk: changed_at for pk, changed_at in self._told_items.items() if changed_at >= since}

    def _news(self) -> list[int]:
        """The rest of this walk. Neither ordered nor cut by the database, which would sort it for each page."""
        changed = Item.objects.filter(
            batch=self._pk, changed_at__gte=self._cursor.changed_since(), id__gt=self._cursor.item
        )
        rows = changed.order_by().values_list("id", "changed_at").iterator()
        return sorted(pk for pk, changed_at in rows if self._told_items.get(pk) != changed_at)

    def _remember(self, item: Item) -> None:
        """What is not remembered is told again for as long as a walk looks back on it."""
        if item.pk in self._told_items or len(self._told_items) < MOST_REMEMBERED:
            self._told_items[item.pk] = item.changed_at

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
