"""A batch that is run by the process that asked for it, while others have their hands in it."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from django.db import transaction

from batch import transitions
from batch.models import Attempt, Batch, Item, Worker
from batch.runner import LeasesNotKept, run_batch, run_batch_here
from batch.services import create_batch
from batch.sweeper import Sweeper
from contimg.products import this_process, work_folders
from observations.models import SubbandGroup
from tests.batch.installation import until
from tests.batch.test_races import with_own_connection
from tests.batch.trivial import behave, runs
from tests.factories import SubbandGroupFactory

pytest_plugins = ["tests.batch.installation"]
pytestmark = pytest.mark.usefixtures("installation")


def test_in_this_process_a_stage_longer_than_its_lease_keeps_its_item(settings, monkeypatch):
    settings.CONTIMG_LEASE_S, settings.CONTIMG_SWEEP_S = 3, 1
    monkeypatch.setenv("CONTIMG_LEASE_S", "3")
    monkeypatch.setenv("CONTIMG_SWEEP_S", "1")
    batch, tile = asked_to_convert()
    behave(tile, "sleep 8")
    lost = []
    with sweeping(lost):
        run_batch_here(batch=batch, watch=lambda batch: None)
    (attempt,) = Attempt.objects.all()
    assert (attempt.outcome, sum(lost), len(lost) > 5) == ("done", 0, True)


def test_in_this_process_nothing_runs_whose_lease_nobody_keeps(monkeypatch):
    batch, _ = asked_to_convert()
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(LeasesNotKept):
        run_batch_here(batch=batch, watch=lambda batch: None)
    assert (Attempt.objects.count(), Batch.objects.get().state) == (0, "cancelled")
    assert Worker.objects.get().stopped_at is not None


def test_in_this_process_an_item_that_was_taken_is_left_to_who_has_it():
    batch, tile = asked_to_convert()
    behave(tile, "wait")
    with ThreadPoolExecutor(1) as elsewhere:
        taken = elsewhere.submit(with_own_connection, lambda: take(batch.items.get()))
        run_batch_here(batch=batch, watch=lambda batch: None)
        taken.result(30)
    assert [attempt.outcome for attempt in Attempt.objects.order_by("number")] == ["lost", "done"]
    assert SubbandGroup.objects.get().size_bytes == 1
    assert work_folders() == []


def asked_to_convert() -> tuple[Batch, SubbandGroup]:
    tile = SubbandGroupFactory(size_bytes=0)
    return create_batch(stage="convert", subjects=[("subband_group", tile.pk)]).batch, tile


@contextmanager
def sweeping(lost: list[int]) -> Iterator[None]:
    """Another machine's sweeper, four times a second; how many it took each time."""
    over = threading.Event()

    def sweep() -> None:
        sweeper = Sweeper()
        while not over.wait(0.25):
            lost.append(sweeper.sweep())

    with ThreadPoolExecutor(1) as elsewhere:
        swept = elsewhere.submit(with_own_connection, sweep)
        try:
            yield
        finally:
            over.set()
        swept.result(30)


def take(item: Item) -> None:
    """As a sweeper does that believes its worker dead; then its stage comes to its end."""
    until(runs)
    transitions.lost(transitions.Claim(item.pk, 1, item.batch_id, "convert", item.attempts.get().pk), detail="gone")
    behave(item.group, "sleep 0")


def test_it_does_not_end_between_the_end_of_an_item_and_what_follows_it():
    """Somebody else has recorded the first stage, and has not looked yet what that releases."""
    batch = create_batch(stage="process", subjects=[("subband_group", SubbandGroupFactory(size_bytes=0).pk)]).batch
    held = transitions.claim(worker="elsewhere.1.2", host="elsewhere")
    assert held is not None
    with transaction.atomic():
        transitions.finish(held)
        transitions.count_finished(held)
    batch.refresh_from_db()
    assert (batch.n_ready, batch.n_running, batch.n_waiting) == (0, 0, 5)
    seen = []
    ended = run_batch(batch=batch, n_workers=1, watch=lambda batch: seen.append(Worker.objects.alive().count()))
    assert (ended.state, ended.n_done) == ("done", 6)
    assert max(seen) == 1, "it is seen among the workers while it runs"
    assert Worker.objects.get(name=this_process()).stopped_at is not None
