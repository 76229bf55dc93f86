"""Every change of an item's state: conditional UPDATEs whose row count is checked, with the batch's counts beside them.

Times come from the database's clock, which all machines share. A transaction changes all of its items, many in the
order of their keys, before the first batch: so two transactions never wait for each other.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache, reduce
from operator import or_
from typing import Any

from django.conf import settings
from django.db import IntegrityError, connection, transaction
from django.db.models import Case, DateTimeField, Exists, ExpressionWrapper, F, OuterRef, Q, Subquery, When
from django.db.models.functions import Coalesce, Now
from django.db.models.lookups import Exact
from django.utils import timezone

from batch.logs import log_name
from batch.models import ENDED, OPEN, UNFINISHED, Attempt, Batch, Item, Pause, StageName, State
from batch.querysets import ItemQuerySet
from batch.software import software
from contimg.exceptions import ContimgError
from observations.models import Epoch, SubbandGroup, name_files

WAITING_FOR_CALIBRATION = "waiting_for_calibration"
WAITING_FOR_TILES = "waiting_for_tiles"
CALIBRATING = (StageName.CONVERT, StageName.CALIBRATE)
STOPPED: dict[str, Any] = {"error_code": "cancelled", "error_detail": "Stopped on request."}
CLAIM_TRIES = 3
HEARTBEATS_PER_LEASE = 6
BACKOFF_S = 10.0
MAX_BACKOFF_S = 600.0


class LeaseLost(ContimgError):
    """The item was taken from this worker, which must not write anything any more."""

    code = "lease_lost"
    status = 409


class CancelRequested(ContimgError):
    """Not a failure: somebody asked for the item to stop."""

    code = "cancelled"
    status = 409


@dataclass(frozen=True)
class Claim:
    """What a worker holds: as long as the item is running under this attempt number, it alone may write about it."""

    item_id: int
    attempt: int
    batch_id: int
    stage: str
    attempt_id: int
    waited_s: float = 0.0  # since it became ready
    traceparent: str = ""


def in_seconds(seconds: float) -> ExpressionWrapper:
    return ExpressionWrapper(Now() + timedelta(seconds=seconds), output_field=DateTimeField())


def lease_end() -> ExpressionWrapper:
    """A lease ends one sweep early, so that a dead worker's item runs again within a lease and a sweep."""
    return in_seconds(settings.CONTIMG_LEASE_S - settings.CONTIMG_SWEEP_S)


# --- a worker's side --------------------------------------------------------------------------------------------
def claim(
    *,
    worker: str,
    host: str,
    stages: Iterable[str] = (),
    batch: Batch | None = None,
    room_bytes: Callable[[], float] = lambda: math.inf,
) -> Claim | None:
    """Take the best claimable item, or None. Two workers never get the same one, nor two writers of one thing.

    What was handed back because it needs more room on the disk than there is now is left alone; `room_bytes` is asked
    only where the best item is one of those.
    """
    for _ in range(CLAIM_TRIES):
        try:
            with transaction.atomic():
                return _claim_first(tuple(stages), batch, worker, host, room_bytes)
        except IntegrityError:  # somebody began to write to the same thing in this moment; the next look sees it
            continue
    return None


def explain(*, code: str, detail: str, stages: Iterable[str] = (), batch: Batch | None = None) -> None:
    """Write on the item that is next why it is not taken. Who takes it wipes that out."""
    first = _claimable(stages, batch, _paused()).first()
    if first is not None:
        row = Item.objects.ready().filter(pk=first.pk)
        row.update(error_code=code, error_detail=detail[:500], changed_at=Now())


def _paused() -> frozenset[str]:
    return frozenset(Pause.objects.values_list("stage", flat=True))


def _claimable(stages: Iterable[str], batch: Batch | None, paused: frozenset[str]) -> ItemQuerySet:
    """Asks nothing about pauses: PostgreSQL would join and sort all that is ready before it took the best."""
    if "" in paused:
        return Item.objects.none()
    items = Item.objects.claimable(stages).exclude(stage__in=sorted(paused))
    return items if batch is None else items.filter(batch=batch)


def _untaken(stages: Iterable[str], batch: Batch | None, paused: frozenset[str]) -> ItemQuerySet:
    """Skips those that somebody else is taking at this moment."""
    free = _claimable(stages, batch, paused).select_for_update(skip_locked=True, of=("self",))
    return free.only("attempt", "batch_id", "stage", "reserved_bytes", "changed_at")


@lru_cache(maxsize=8)
def _statement(stages: tuple[str, ...], batch: Batch | None, paused: frozenset[str], vendor: str) -> tuple[str, tuple]:
    """What asks for the best item, in the vendor's SQL: the same for each claim. Writing it costs more than asking."""
    return _untaken(stages, batch, paused)[:1].query.sql_with_params()


def _claim_first(
    stages: tuple[str, ...], batch: Batch | None, worker: str, host: str, room_bytes: Callable[[], float]
) -> Claim | None:
    paused = _paused()
    if "" in paused:
        return None
    item = next(iter(Item.objects.raw(*_statement(stages, batch, paused, connection.vendor))), None)
    if item is not None and item.reserved_bytes > 0 and item.reserved_bytes > (room := room_bytes()):
        item = _untaken(stages, batch, paused).filter(reserved_bytes__lte=max(0, room)).first()
    if item is None:
        return None
    number = item.attempt + 1
    taken = Item.objects.filter(pk=item.pk, state=State.READY, attempt=item.attempt).update(
        state=State.RUNNING, attempt=number, worker=worker, lease_until=lease_end(), not_before=None, progress=0,
        reserved_bytes=0, error_code="", error_detail="", started_at=Now(), finished_at=None, changed_at=Now(),
    )  # fmt: skip
    if not taken:
        return None
    attempt = Attempt.objects.create(
        item_id=item.pk, number=number, stage=item.stage, worker=worker, host=host, started_at=Now(),
        log_path=log_name(item_id=item.pk, attempt=number), versions=software(),
    )  # fmt: skip
    _count(item.batch_id, State.READY, State.RUNNING)
    waited_s = max(0.0, (timezone.now() - item.changed_at).total_seconds())
    return Claim(item.pk, number, item.batch_id, item.stage, attempt.pk, waited_s)


def renew(held: Claim, *, progress: float) -> None:
    """The heartbeat. Raises LeaseLost."""
    if not _held(held).update(lease_until=lease_end(), progress=progress, changed_at=Now()):
        raise LeaseLost(f"Item {held.item_id} was taken from this worker; it stops.")


def renew_all(*, worker: str) -> None:
    """The heartbeat of all that a worker holds, whatever it is."""
    Item.objects.running().filter(worker=worker).update(lease_until=lease_end(), changed_at=Now())


def look(held: Claim) -> None:
    """Raises CancelRequested or LeaseLost."""
    row = _held(held).values("cancel_requested_at").first()
    if row is None:
        raise LeaseLost(f"Item {held.item_id} was taken from this worker; it stops.")
    if row["cancel_requested_at"] is not None:
        raise CancelRequested(f"Item {held.item_id} was cancelled.")


def note(held: Claim, **of_attempt: Any) -> None:
    """What is known of the attempt while it runs. Of one that has ended nothing is changed any more.

    A COMMIT of the child's that is under way is waited for, and has ended it.
    """
    Attempt.objects.filter(pk=held.attempt_id, outcome=Attempt.Outcome.RUNNING).update(**of_attempt)


def is_finished(held: Claim) -> bool:
    return Item.objects.filter(pk=held.item_id, state=State.DONE, attempt=held.attempt).exists()


def reserve(held: Claim, n_bytes: int) -> None:
    _held(held).update(reserved_bytes=n_bytes)


def finish(held: Claim) -> None:
    """Done. Called first in the transaction that writes the results: whoever lost the item, writes nothing.

    Raises LeaseLost, and CancelRequested when somebody asked for that before this moment.
    """
    _let_go(held, State.DONE, unless_cancelled=True, progress=1.0)


def count_finished(held: Claim, **of_attempt: Any) -> None:
    """Called last in that transaction, so that other items of the batch wait for its counts as shortly as can be."""
    _end_attempt(held, Attempt.Outcome.DONE, **of_attempt)
    _count(held.batch_id, State.RUNNING, State.DONE)


def fail(held: Claim, *, code: str, detail: str) -> None:
    """This item will not succeed as it is."""
    _leave(held, State.FAILED, Attempt.Outcome.FAILED, code, detail)


def try_again(held: Claim, *, code: str, detail: str, outcome: Attempt.Outcome) -> State:
    """What failed may pass the next time: back into the queue after a pause that doubles, quarantined after too many.

    A LOST attempt (the process died under it) counts against CONTIMG_MAX_KILLS, a failed one against
    CONTIMG_MAX_TRIES. Returns the item's new state.
    """
    limit = settings.CONTIMG_MAX_KILLS if outcome == Attempt.Outcome.LOST else settings.CONTIMG_MAX_TRIES
    tries_from = Item.objects.values_list("tries_from", flat=True).get(pk=held.item_id)
    tries = Attempt.objects.filter(item_id=held.item_id, number__gt=tries_from, outcome=outcome).count() + 1
    if tries >= limit:
        return _leave(held, State.QUARANTINED, outcome, code, detail)
    wait_s = min(BACKOFF_S * 2 ** (tries - 1), MAX_BACKOFF_S)
    return _leave(held, State.READY, outcome, code, detail, not_before=in_seconds(wait_s))


def hand_back(held: Claim, *, code: str, detail: str, wait_s: float = 0, needs_bytes: int = 0) -> None:
    """Unharmed and without a verdict: the worker stops, or there is no room on the disk now.

    Nobody claims it before there is as much room as it needs.
    """
    later = in_seconds(wait_s) if wait_s else None
    _leave(held, State.READY, Attempt.Outcome.RETURNED, code, detail, not_before=later, reserved_bytes=needs_bytes)


def wait_for_calibration(held: Claim, *, code: str, detail: str) -> None:
    _leave(held, State.WAITING, Attempt.Outcome.RETURNED, code, detail)


def cancelled(held: Claim) -> None:
    """The worker has stopped it, as was asked."""
    _leave(held, State.CANCELLED, Attempt.Outcome.CANCELLED, STOPPED["error_code"], STOPPED["error_detail"])


def _leave(held: Claim, state: State, outcome: Attempt.Outcome, code: str, detail: str, **changes: Any) -> State:
    """Returns the item's new state: one that was to run again does not, when somebody asked for it to be cancelled."""
    with transaction.atomic():
        try:
            error: dict[str, Any] = {"error_code": code, "error_detail": detail[:500]}
            _let_go(held, state, unless_cancelled=state in OPEN, **error, **changes)
        except CancelRequested:
            state, error = State.CANCELLED, STOPPED
            _let_go(held, state, **error)
        _end_attempt(held, outcome, **error)
        _count(held.batch_id, State.RUNNING, state)
    return state


def lost(held: Claim, *, detail: str) -> State:
    """Its worker is gone. It runs again at once; twice may be chance, more is the item's doing."""
    state = try_again(held, code="worker_lost", detail=detail, outcome=Attempt.Outcome.LOST)
    Item.objects.filter(pk=held.item_id, state=State.READY, attempt=held.attempt).update(not_before=None)
    return state


def _held(held: Claim) -> ItemQuerySet:
    return Item.objects.filter(pk=held.item_id, state=State.RUNNING, attempt=held.attempt)


def _let_go(held: Claim, state: State, *, unless_cancelled: bool = False, **changes: Any) -> None:
    """The fencing update: nothing of an attempt is written but after it. Raises LeaseLost and CancelRequested."""
    mine = _held(held).filter(cancel_requested_at=None) if unless_cancelled else _held(held)
    over = {"finished_at": Now()} if state in ENDED else {}
    let_go: dict[str, Any] = {"worker": "", "lease_until": None, "reserved_bytes": 0, "cancel_requested_at": None}
    moved = mine.update(state=state, changed_at=Now(), **{**let_go, **over, **changes})
    if not moved:
        if unless_cancelled:
            look(held)
        raise LeaseLost(f"Item {held.item_id} was taken from this worker; nothing of it was recorded.")


def _end_attempt(held: Claim, outcome: Attempt.Outcome, **changes: Any) -> None:
    Attempt.objects.filter(pk=held.attempt_id).update(outcome=outcome, finished_at=Now(), **changes)


# --- what waits for what ---------------------------------------------------------------------------------------
# In transactions of their own, after the one that ended an item: a process killed in between leaves followers waiting,
# and the sweeper's `settle_all` moves them.
def settle(held: Claim) -> None:
    """An item has ended: what was to follow it becomes ready, or ends with it."""
    waiting = Item.objects.waiting().filter(Q(batch_id=held.batch_id) | Q(stage=StageName.MOSAIC))
    if not waiting.exists():  # one look, of almost all items the only one
        return
    batch_items = Item.objects.filter(batch_id=held.batch_id)
    if batch_items.waiting().exists():
        state = Item.objects.values_list("state", flat=True).get(pk=held.item_id)
        followers = Item.objects.filter(after_id=held.item_id)
        if state == State.DONE:
            release(followers)
        elif state in UNFINISHED:
            _end_orphaned(followers)
        if held.stage in CALIBRATING:
            release(batch_items.filter(stage=StageName.APPLY))
        if held.stage == StageName.PHOTOMETRY or state != State.DONE:
            release(batch_items.filter(stage=StageName.ASSESS))
    mosaics = Item.objects.waiting_mosaics()
    if held.stage != StageName.MOSAIC and mosaics.exists():
        tile = Item.objects.with_subject().get(pk=held.item_id).tile
        if tile is not None:
            epochs = Epoch.objects.of_tile(observed_at=tile.observed_at, dec_deg=tile.pointing_dec_deg)
            release_mosaics(mosaics.filter(epoch__in=epochs))


def settle_all(items: ItemQuerySet | None = None) -> int:
    """What became free, or ended, without anybody having looked, among these items or all."""
    chosen = Item.objects.all() if items is None else items
    return release(chosen) + _end_orphaned(chosen) + release_mosaics(chosen)


def release(items: ItemQuerySet) -> int:
    """Waiting items among these become ready when what they wait for is there; returns how many.

    Besides its predecessor a tile's `apply` waits until no item of its batch is being converted or calibrated, so that
    it gets the nearest tables of the whole batch. Its `assess` waits for the photometry of the tiles before it (but for
    those that wait for calibration), and an epoch's for that of the mosaics before it (but for those that wait for
    tiles): a verdict and a new source depend on the sources that are known. So the results
    of a batch do not depend on how many workers ran it, nor in which order.
    """
    with transaction.atomic():
        moves = _Moves()
        moves.touch(_free(items), State.WAITING, State.READY)
        return moves.count()


def _free(items: ItemQuerySet) -> ItemQuerySet:
    calibrating = Item.objects.unended().filter(batch=OuterRef("batch"), stage__in=CALIBRATING)
    measuring = (
        Item.objects.unended()
        .filter(batch=OuterRef("batch"), stage=StageName.PHOTOMETRY, after__lt=OuterRef("pk"))
        .exclude(after__after__after__error_code=WAITING_FOR_CALIBRATION)
        .exclude(after__after__error_code=WAITING_FOR_TILES)
    )
    return (
        items.waiting()
        .exclude(stage=StageName.MOSAIC)
        .filter(error_code="")
        .filter(Q(after=None) | Q(after__state=State.DONE))
        .filter(~Q(stage=StageName.APPLY) | ~Exists(calibrating))
        .filter(~Q(stage=StageName.ASSESS) | Q(after=None) | ~Exists(measuring))
    )


def release_mosaics(items: ItemQuerySet) -> int:
    """Mosaics among these become ready when nothing is open any more for a tile of their epoch; returns how many.

    The others say what they wait for.
    """
    if not items.waiting_mosaics().exists():
        return 0
    with transaction.atomic():
        moves = _Moves()
        moves.touch(_free_mosaics(items), State.WAITING, State.READY, error_code="", error_detail="")
        return moves.count()


def _free_mosaics(items: ItemQuerySet) -> ItemQuerySet:
    lock(items.waiting_mosaics())
    waiting = list(items.waiting_mosaics().select_related("epoch").order_by("pk"))
    opened = open_tiles([item.epoch for item in waiting if item.epoch is not None])
    for item in waiting:
        detail = opened.get(item.epoch_id or 0, "")
        if detail and detail != item.error_detail:
            Item.objects.waiting().filter(pk=item.pk).update(
                error_code=WAITING_FOR_TILES, error_detail=detail, changed_at=Now()
            )
    return Item.objects.filter(pk__in=[item.pk for item in waiting if item.epoch_id not in opened])


def open_tiles(epochs: Iterable[Epoch]) -> dict[int, str]:
    """For each epoch with tiles that are being worked on, or are to be, a sentence that names them."""
    asked = list(epochs)
    if not asked:
        return {}
    unended = Item.objects.unended()
    of_tile = [Q(group=OuterRef("pk")), Q(measurement_set__group=OuterRef("pk"))]
    of_tile.append(Q(image__measurement_set__group=OuterRef("pk")))
    busy = SubbandGroup.objects.filter(
        reduce(or_, (Q(Exists(unended.filter(condition))) for condition in of_tile)),
        observed_at__gte=min(epoch.tiles_from for epoch in asked),
        observed_at__lt=max(epoch.tiles_until for epoch in asked),
    )
    tiles = list(busy.order_by("observed_at", "id").only("started_at", "observed_at", "pointing_dec_deg"))
    times = [tile.observed_at for tile in tiles]
    sentences = {}
    for epoch in asked:
        first, last = bisect_left(times, epoch.tiles_from), bisect_left(times, epoch.tiles_until)
        named = [tile.name for tile in tiles[first:last] if tile.is_of_strip(epoch.dec_deg)]
        if named:
            sentences[epoch.pk] = f"Waits for what is to be done on the tiles of its epoch: {name_files(named)}."
    return sentences


def release_calibrated(items: ItemQuerySet) -> int:
    """Tables have come: those that waited for some look again."""
    with transaction.atomic():
        moves = _Moves()
        moves.touch(items.waiting_for_calibration(), State.WAITING, State.READY, error_code="", error_detail="")
        return moves.count()


def _end_orphaned(items: ItemQuerySet) -> int:
    """Waiting items among these whose predecessor ended without success end too, and theirs with them."""
    with transaction.atomic():
        moves = _Moves()
        moves.touch_orphaned(items)
        return moves.count()


ORPHANED = (
    (State.CANCELLED, State.CANCELLED, "cancelled", "The stage before it was cancelled."),
    (State.FAILED, State.FAILED, "dependency_failed", "The stage before it failed."),
    (State.QUARANTINED, State.FAILED, "dependency_failed", "The stage before it is quarantined."),
)


def lock(items: ItemQuerySet) -> set[int]:
    """Lock these until the transaction ends, in the one order that all transactions have; returns their batches."""
    chosen = Item.objects.filter(pk__in=items.order_by().values("pk"))
    return set(chosen.select_for_update().order_by("pk").values_list("batch_id", flat=True))


class _Moves:
    """Items moved in one transaction. Their batches' counts follow when all have been."""

    def __init__(self) -> None:
        self._moved: Counter[tuple[int, State, State]] = Counter()

    def touch(self, items: ItemQuerySet, before: State, to: State, **changes: Any) -> int:
        """Those of the items that are in a state, to another."""
        chosen = items.filter(state=before).order_by()
        n = 0
        for batch_id in lock(chosen):
            keys = chosen.filter(batch_id=batch_id).values("pk")
            moved = Item.objects.filter(pk__in=keys, state=before).update(state=to, changed_at=Now(), **changes)
            self._moved[batch_id, before, to] += moved
            n += moved
        return n

    def touch_orphaned(self, items: ItemQuerySet) -> None:
        for _ in StageName:  # no chain is longer
            moved = sum(
                self.touch(
                    items.filter(after__state=ended), State.WAITING, state, error_code=code, error_detail=detail,
                    finished_at=Now(),
                )
                for ended, state, code, detail in ORPHANED
            )  # fmt: skip
            if not moved:
                break
            items = Item.objects.filter(after__in=items.order_by().values("pk"))

    def count(self) -> int:
        """Returns how many items have moved."""
        for (batch_id, before, to), n in sorted(self._moved.items()):
            if n:
                _count(batch_id, before, to, n)
        return self._moved.total()


# --- a person's side ---------------------------------------------------------------------------------------------
def cancel(items: ItemQuerySet) -> int:
    """Waiting and ready ones end here; running ones are asked to, and their workers stop them. Returns how many."""
    over = {"error_code": "cancelled", "error_detail": "Cancelled before it ran.", "finished_at": Now()}
    with transaction.atomic():
        moves = _Moves()
        lock(items.unended())
        n = items.running().filter(cancel_requested_at=None).update(cancel_requested_at=Now(), changed_at=Now())
        for state in (State.WAITING, State.READY):
            n += moves.touch(items, state, State.CANCELLED, **over)
        moves.touch_orphaned(Item.objects.filter(after__in=items.filter(state=State.CANCELLED).order_by().values("pk")))
        moves.count()
    return n


def retry(items: ItemQuerySet) -> int:
    """What failed, was cancelled or is quarantined is to be tried again, with all that was to follow it."""
    n = 0
    with transaction.atomic():
        moves = _Moves()
        priority = Subquery(Batch.objects.filter(pk=OuterRef("batch")).values("priority")[:1])  # set meanwhile
        # Each generation is locked whole, before any of it moves: followers have higher keys than what they follow.
        lock(items.filter(state__in=(*UNFINISHED, State.WAITING)))
        again = items.filter(state__in=UNFINISHED)
        while keys := list(again.values_list("pk", flat=True)):
            chosen = Item.objects.filter(pk__in=keys)
            for state in UNFINISHED:
                n += moves.touch(
                    chosen, state, State.WAITING, error_code="", error_detail="", finished_at=None, not_before=None,
                    cancel_requested_at=None, reserved_bytes=0, tries_from=F("attempt"), priority=priority,
                )  # fmt: skip
            again = Item.objects.filter(after__in=keys, state__in=UNFINISHED)
            lock(again)
        moves.touch(_free(items), State.WAITING, State.READY)
        moves.touch(_free_mosaics(items), State.WAITING, State.READY, error_code="", error_detail="")
        moves.count()
    return n


def _count(batch_id: int, before: State, after: State, n: int = 1) -> None:
    """Move `n` items of a batch from one count to another, and its times with them."""
    opened = (after in OPEN) - (before in OPEN)
    n_open = F("n_waiting") + F("n_ready") + F("n_running")
    changes: dict[str, Any] = {f"n_{before}": F(f"n_{before}") - n, f"n_{after}": F(f"n_{after}") + n}
    if after == State.RUNNING:
        changes["started_at"] = Coalesce(F("started_at"), Now())
    if opened:
        # The right side of an UPDATE sees the counts as they were.
        over = When(Exact(n_open, -n * opened), then=Now())
        changes["finished_at"] = Case(over, default=None, output_field=DateTimeField(null=True))
    Batch.objects.filter(pk=batch_id).update(changed_at=Now(), **changes)
