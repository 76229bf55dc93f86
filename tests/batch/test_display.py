"""What a batch says of itself when nothing of it runs."""

from __future__ import annotations

import json
from datetime import timedelta
from io import StringIO

import pytest
from django.core.management import call_command
from django.utils import timezone

from batch.display import NOBODY, why_idle
from batch.models import Batch, State
from tests.batch.nights import dead_process
from tests.factories import AttemptFactory, BatchFactory, ItemFactory, PauseFactory, WorkerFactory

pytestmark = pytest.mark.django_db


@pytest.fixture
def batch():
    """One item is ready, and it is known how long such take."""
    AttemptFactory(item=ItemFactory(stage="convert"), stage="convert", outcome="done", duration_s=11.0, input_bytes=1)
    batch = BatchFactory(stage="convert", n_ready=1, n_total=1)
    ItemFactory(batch=batch, stage="convert", state=State.READY)
    return batch


def shown(batch, *verb: str) -> str:
    out = StringIO()
    call_command("batch", *(verb or ("show", str(batch.pk))), stdout=out)
    return out.getvalue()


@pytest.mark.parametrize("who", [None, {"n_processes": 0}, {"name": "dead"}, {"name": "elsewhere.1.1"}])
def test_without_a_worker_it_says_so_and_makes_no_estimate(batch, who):
    if who is not None:
        WorkerFactory(**who | ({"name": dead_process()} if who.get("name") == "dead" else {}))
        BatchFactory(run_by="elsewhere.1.1", n_ready=1)  # `process` elsewhere, which runs its own batch only
    assert why_idle(batch) == NOBODY
    assert NOBODY in shown(batch)
    assert "left" not in shown(batch)


def test_with_one_there_is_an_estimate(batch):
    WorkerFactory(stages=["convert", "image"])
    assert why_idle(batch) == ""
    assert "about 11 s left" in shown(batch)
    assert "about 11 s left" in shown(batch, "list")


def test_a_stage_that_no_worker_takes_is_named(batch):
    WorkerFactory(stages=["image"])
    assert "No worker that is running takes convert" in shown(batch)


def test_a_pause_and_the_time_of_the_next_try_are_shown(batch):
    WorkerFactory()
    at = timezone.now() + timedelta(minutes=5)
    batch.items.update(not_before=at, error_code="disk_full", error_detail="The disk is full.")
    assert f"convert is tried again at {at:%H:%M:%S} UTC: The disk is full. [disk_full]" in shown(batch)
    PauseFactory(stage="convert", reason="new disk")
    assert "convert is paused (new disk); `manage.py resume` ends it." in shown(batch)
    assert "left" not in shown(batch)


def test_a_batch_that_only_waits_says_for_what_and_makes_no_estimate(batch):
    WorkerFactory()
    batch.items.update(state=State.WAITING, error_code="waiting_for_calibration", error_detail="No tables yet.")
    Batch.objects.filter(pk=batch.pk).update(n_ready=0, n_waiting=1)
    assert "All that is left of it waits" in shown(batch)
    assert "No tables yet. [waiting_for_calibration]" in shown(batch)
    (line,) = (line for line in shown(batch, "list").splitlines() if line.startswith(f"batch {batch.pk} "))
    assert "about" not in shown(batch) + line
    assert json.loads(shown(batch, "show", str(batch.pk), "--json"))["eta_s"] is None


def test_a_batch_names_each_item_that_failed_and_counts_what_ended_with_it():
    batch = BatchFactory(stage="process", n_ready=0, n_failed=3, n_quarantined=1, n_total=4)
    bad = ItemFactory(batch=batch, state=State.FAILED, error_code="engine_failed", error_detail="No phases.")
    killed = ItemFactory(batch=batch, state=State.QUARANTINED, error_code="process_died", error_detail="By SIGKILL.")
    for one in (bad, killed):
        ItemFactory(
            batch=batch, stage="calibrate", state=State.FAILED, group=one.group, after=one,
            error_code="dependency_failed", error_detail="The stage before it failed.",
        )  # fmt: skip
    said = shown(batch)
    assert f"  item {bad.pk} failed, convert of {bad.group}: No phases. [engine_failed]" in said
    assert f"  item {killed.pk} quarantined, convert of {killed.group}: By SIGKILL. [process_died]" in said
    assert "  2 calibrate failed: The stage before it failed. [dependency_failed]" in said
    failures = json.loads(shown(batch, "show", str(batch.pk), "--json"))["failures"]
    assert [(row["item"], row["code"], row["detail"]) for row in failures] == [
        (bad.pk, "engine_failed", "No phases."), (killed.pk, "process_died", "By SIGKILL."),
    ]  # fmt: skip
    assert failures[0]["subject_kind"] == "subband_group"
