"""Two that want the same in one moment: the same item, the same tile, or the end of an item and its cancel."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from django.db import connection, transaction
from django.db.models.functions import Now
from django.utils import timezone

from access.models import AuditEntry
from batch import transitions
from batch.executor import record_ending
from batch.logs import log_folder, log_name
from batch.models import Attempt, Batch, Item
from batch.retention import Policy, delete, look
from batch.services import (
    NothingToCancel,
    NothingToRetry,
    PredecessorUnfinished,
    cancel_batch,
    create_batch,
    retry_batch,
    retry_item,
    set_priority,
)
from batch.sweeper import Sweeper
from batch.transitions import Claim
from batch.work import run
from contimg.products import WORK_FOLDER, products_root, this_process, work_folders
from images.models import Image
from observations.models import SubbandGroup
from sources.services import refresh_statistics
from tests.batch.installation import until
from tests.batch.nights import dead_process
from tests.batch.trivial import behave, is_recording
from tests.factories import AttemptFactory, ImageFactory, MeasurementFactory, SourceFactory, SubbandGroupFactory

pytest_plugins = ["tests.batch.installation"]
pytestmark = pytest.mark.usefixtures("installation")
N_RACERS = 6
N_ROUNDS = 30


def asked(*tiles: SubbandGroup, stage: str = "convert") -> Batch:
    return create_batch(stage=stage, subjects=[("subband_group", tile.pk) for tile in tiles]).batch


def claimed(worker: str = "") -> Claim | None:
    return transitions.claim(worker=worker or this_process(), host="here")


def a_tile(how: str = "") -> SubbandGroup:
    tile = SubbandGroupFactory(size_bytes=0)
    if how:
        behave(tile, how)
    return tile


def with_own_connection(act: Callable[[], Any]) -> Any:
    try:
        return act()
    finally:
        connection.close()


class Racers:
    """Threads with connections of their own, which do something at the same moment."""

    def __enter__(self) -> Racers:
        self._pool = ThreadPoolExecutor(N_RACERS)
        self._start = threading.Barrier(N_RACERS)
        return self

    def __exit__(self, *exc: object) -> None:
        for closing in [self._pool.submit(self._together, lambda: connection.close()) for _ in range(N_RACERS)]:
            closing.result(30)
        self._pool.shutdown()

    def race(self, act: Callable[[], Any]) -> list[Any]:
        """What each of them got; an exception of one is raised."""
        running = [self._pool.submit(self._together, act) for _ in range(N_RACERS)]
        return [one.result(60) for one in running]

    def _together(self, act: Callable[[], Any]) -> Any:
        self._start.wait(60)
        return act()


# --- for one item ----------------------------------------------------------------------------------------------------
def test_of_six_that_claim_one_item_in_the_same_moment_exactly_one_gets_it():
    with Racers() as racers:
        for _ in range(N_ROUNDS):
            (item,) = asked(a_tile()).items.all()
            (held,) = filter(None, racers.race(claimed))
            assert (held.item_id, held.attempt) == (item.pk, 1)
            assert item.attempts.count() == 1
            assert run(held, lambda fraction: None)["code"] == ""
    assert set(SubbandGroup.objects.values_list("size_bytes", flat=True)) == {1}
    assert {(batch.state, batch.n_done) for batch in Batch.objects.all()} == {("done", 1)}


def test_items_that_write_to_one_tile_are_never_claimed_together():
    """The first claims of a moment all see both items free: the database refuses the second writer."""
    with Racers() as racers:
        for _ in range(N_ROUNDS):
            tile = a_tile()
            first, second = asked(tile, stage="convert"), asked(tile, stage="calibrate")
            for _ in range(2):
                (held,) = filter(None, racers.race(claimed))
                assert Item.objects.running().count() == 1
                run(held, lambda fraction: None)
            for batch in (first, second):
                batch.refresh_from_db()
                assert (batch.state, batch.n_done) == ("done", 1)
    assert set(SubbandGroup.objects.values_list("size_bytes", flat=True)) == {2}


def test_as_many_items_as_racers_are_claimed_once_each():
    with Racers() as racers:
        for _ in range(N_ROUNDS):
            batch = asked(*(a_tile() for _ in range(N_RACERS)))
            found = {held.item_id for held in racers.race(claimed) if held}
            while held := claimed():  # SQLite's racers may have met the same one
                assert held.item_id not in found
                found.add(held.item_id)
            assert found == set(batch.items.values_list("pk", flat=True))
            assert Attempt.objects.filter(item__batch=batch).count() == N_RACERS
            batch.refresh_from_db()
            assert (batch.n_ready, batch.n_running) == (0, N_RACERS)


# --- the end of an item and its cancel -------------------------------------------------------------------------------
def ended(item: Item) -> tuple[str, str, int]:
    """The item's state, its attempt's, and how often its product was recorded."""
    item.refresh_from_db()
    item.batch.refresh_from_db()
    assert getattr(item.batch, f"n_{item.state}") == 1, "the batch's counts follow"
    assert work_folders() == []
    return item.state, item.attempts.latest("number").outcome, SubbandGroup.objects.get(pk=item.group_id).size_bytes


@pytest.fixture
def item() -> Item:
    return asked(a_tile()).items.select_related("batch", "group").get()


def finish(held: Claim, progress: Callable[[float], None] = lambda fraction: None) -> None:
    """As a worker does, without its child process."""
    try:
        record_ending(held, run(held, progress))
    finally:
        transitions.settle(held)


def test_a_cancel_between_the_work_and_its_record_leaves_nothing_recorded(item):
    held = claimed()

    def cancel_when_the_work_is_done(fraction: float) -> None:
        if fraction == 0.95:
            assert cancel_batch(batch=item.batch) == 1

    finish(held, cancel_when_the_work_is_done)
    assert ended(item) == ("cancelled", "cancelled", 0)


def test_a_cancel_that_commits_while_the_record_begins_leaves_nothing_recorded(item):
    """The record's first statement waits for the cancel, and then has to see it."""
    held = claimed()
    with ThreadPoolExecutor(1) as worker:
        with transaction.atomic():
            assert transitions.cancel(Item.objects.filter(pk=item.pk)) == 1
            finishing = worker.submit(with_own_connection, lambda: finish(held))
            with pytest.raises(TimeoutError):
                finishing.result(1.0)
        finishing.result(60)
    assert ended(item) == ("cancelled", "cancelled", 0)


def test_a_cancel_in_the_middle_of_the_record_comes_too_late_and_says_so(item):
    behave(item.group, "wait_recording")
    held = claimed()
    with ThreadPoolExecutor(2) as threads:
        finishing = threads.submit(with_own_connection, lambda: finish(held))
        until(is_recording)
        cancelling = threads.submit(with_own_connection, lambda: cancel_batch(batch=item.batch))
        with pytest.raises(TimeoutError):
            cancelling.result(1.0)
        behave(item.group, "sleep 0")
        finishing.result(60)
        with pytest.raises(NothingToCancel):
            cancelling.result(60)
    assert ended(item) == ("done", "done", 1)


@pytest.mark.parametrize(
    ("end", "outcome"),
    [
        (lambda held: transitions.try_again(held, code="x", detail="y", outcome=Attempt.Outcome.FAILED), "failed"),
        (lambda held: transitions.hand_back(held, code="", detail=""), "returned"),
        (lambda held: transitions.wait_for_calibration(held, code="waiting_for_calibration", detail="y"), "returned"),
        (lambda held: Sweeper().sweep(), "lost"),
    ],
    ids=["failed for now", "handed back", "without calibration", "worker killed"],
)
def test_an_item_that_was_cancelled_does_not_run_again_whatever_befell_it_meanwhile(item, end, outcome):
    held = claimed(worker=dead_process())
    assert cancel_batch(batch=item.batch) == 1
    end(held)
    assert ended(item) == ("cancelled", outcome, 0)
    assert claimed() is None


# --- for the rows of a whole batch -----------------------------------------------------------------------------------
@pytest.mark.parametrize("engine", ["postgres"], indirect=True)  # SQLite has one writer at a time
@pytest.mark.parametrize(
    "steer",
    [cancel_batch, retry_batch, lambda *, batch: set_priority(batch=batch, priority=5)],
    ids=["cancel", "retry", "priority"],
)
def test_who_steers_a_batch_and_who_claims_of_it_never_wait_for_each_other(steer):
    """A claim holds an item and then wants the batch's counts. He who steers must not hold these while he waits."""
    batch = asked(a_tile(), stage="process")
    item = batch.items.get(stage="convert")
    if steer is retry_batch:
        cancel_batch(batch=batch)
    with ThreadPoolExecutor(1) as other:
        with transaction.atomic():
            Item.objects.select_for_update().get(pk=item.pk)
            steering = other.submit(with_own_connection, lambda: steer(batch=batch))
            until(is_one_waiting)
            Batch.objects.filter(pk=batch.pk).update(changed_at=Now())
        steering.result(30)


def is_one_waiting() -> bool:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        )
        return cursor.fetchone()[0] == 1


def test_two_retries_of_one_batch_never_wait_for_each_other():
    """One of the whole batch and one of its first item, whose states differ: each locks in the order of the keys."""
    batch = asked(a_tile(), a_tile(), stage="process")
    first = batch.items.order_by("pk")[0]

    def undo() -> None:
        counts = {f"n_{state}": 0 for state in ("waiting", "ready", "running", "done", "cancelled")}
        with transaction.atomic():
            batch.items.update(state="failed", error_code="dependency_failed")
            Item.objects.filter(pk=first.pk).update(state="quarantined", error_code="process_died")
            Batch.objects.filter(pk=batch.pk).update(n_failed=batch.n_total - 1, n_quarantined=1, **counts)

    whole = iter([True, False] * (N_RACERS * N_ROUNDS))

    def again() -> None:
        with suppress(NothingToRetry, PredecessorUnfinished):
            retry_batch(batch=batch) if next(whole) else retry_item(item=first)

    with Racers() as racers:
        for _ in range(N_ROUNDS):
            undo()
            racers.race(again)
            batch.refresh_from_db()
            assert (batch.n_failed, batch.n_quarantined, batch.n_open) == (0, 0, batch.n_total)


def test_two_that_record_fluxes_of_one_source_see_each_other(installation):
    source, start = SourceFactory(), threading.Barrier(2)

    def record(image: Image) -> None:
        with transaction.atomic():
            if connection.vendor == "postgresql":  # SQLite has one writer: the other would wait for ever
                start.wait()
            MeasurementFactory(image=image, source=source, is_forced=True)
            refresh_statistics(images=[image])
            time.sleep(0.3)

    images = [ImageFactory(grade="good") for _ in range(2)]
    with ThreadPoolExecutor(2) as threads:
        for recording in [threads.submit(with_own_connection, partial(record, image)) for image in images]:
            recording.result(60)
    source.refresh_from_db()
    assert source.n_measurements == 2


# --- for what is old -------------------------------------------------------------------------------------------------
def an_old_log() -> Path:
    attempt = AttemptFactory(item__state="done", outcome="done")
    Attempt.objects.filter(pk=attempt.pk).update(log_path=log_name(item_id=attempt.item_id, attempt=attempt.number))
    path = log_folder() / log_name(item_id=attempt.item_id, attempt=attempt.number)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("stage_done")
    return path


def a_replaced_image(n: int, *, is_measured: bool) -> Image:
    old = ImageFactory(is_current=False, residual_path=f"images/{n}_residual.fits", preview_path=f"images/{n}.png")
    ImageFactory(measurement_set=old.measurement_set)
    if is_measured:
        MeasurementFactory(image=old)
    for relative in (old.path, old.residual_path, old.preview_path):
        path = products_root() / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("12345")
    return old


def test_of_six_retentions_at_once_each_deletes_something_else_and_tells_it_once(settings):
    (products_root() / WORK_FOLDER).mkdir()
    settings.CONTIMG_KEEP_LOGS_DAYS = settings.CONTIMG_KEEP_SUPERSEDED_DAYS = settings.CONTIMG_KEEP_RESIDUALS_DAYS = 30
    logs = [an_old_log() for _ in range(250)]
    whole, measured = ([a_replaced_image(n, is_measured=n % 2 == 1) for n in range(k, 40, 2)] for k in (0, 1))
    now = timezone.now() + timedelta(days=365)

    def retain() -> list[tuple[str, int]]:
        return [(one.kind, one.id) for one in delete(candidates=look(policies=tuple(Policy), now=now), now=now)]

    with Racers() as racers:
        gone = [one for run in racers.race(retain) for one in run]
    assert len(gone) == len(set(gone)) == len(logs) + len(whole) + len(measured)
    told = AuditEntry.objects.order_by("object_id")
    assert list(told.filter(action="image.delete").values_list("object_id", flat=True)) == [one.pk for one in whole]
    assert [one.object_id for one in told.filter(action="image.delete_files")] == [one.pk for one in measured]
    named = [name for entry in told.filter(action="log.delete") for name in entry.details["logs"]]
    assert sorted(named) == sorted(path.name for path in logs)
    assert not any(path.exists() for path in logs)
    assert sorted(products_root().glob("images/*")) == sorted(products_root() / one.path for one in measured)
