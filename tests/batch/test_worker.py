"""`manage.py worker` as an operator runs it, on every courier: real processes, real signals, real brokers."""

from __future__ import annotations

import json
import os
import signal
import time
from io import StringIO

import psutil
import pytest
from django.core.management import CommandError, call_command

from batch.models import Attempt, Batch, Item, Pause, Worker
from batch.services import cancel_batch, create_batch
from contimg.products import work_folders
from observations.models import SubbandGroup
from tests.batch.installation import COURIERS, PATIENCE, inherited, of_courier, until
from tests.batch.trivial import behave, runs
from tests.factories import SubbandGroupFactory

pytest_plugins = ["tests.batch.installation"]


@pytest.fixture(params=["sqlite", "rabbitmq"])
def courier(request, install):
    """An installation with quick leases, without and with a broker: what a worker's processes do hangs on no more."""
    return of_courier(request.param, install, CONTIMG_LEASE_S=4, CONTIMG_SWEEP_S=1, CONTIMG_DRAIN_S=8)


def asked(n: int = 1, stage: str = "convert", how: str = ""):
    tiles = [SubbandGroupFactory(size_bytes=0) for _ in range(n)]
    for tile in tiles:
        if how:
            behave(tile, how)
    return create_batch(stage=stage, subjects=[("subband_group", tile.pk) for tile in tiles]).batch


def ended(batch) -> bool:
    batch.refresh_from_db()
    return batch.n_open == 0


def sizes() -> set[int]:
    return set(SubbandGroup.objects.values_list("size_bytes", flat=True))


def test_a_worker_runs_chains_and_drains_on_term(courier):
    batch = asked(3, stage="process")
    worker = courier.start("worker", "--processes", "2")
    until(lambda: ended(batch), within_s=90)
    assert (batch.state, sizes()) == ("done", {6}), courier.said()
    assert Worker.objects.alive().get().n_processes == 2

    late = asked(1, how="sleep 2")
    until(lambda: Item.objects.running().exists())
    worker.terminate()
    assert worker.wait(40) == 0
    assert ended(late), "what ended within the time was finished"
    assert courier.processes() == []
    assert Worker.objects.alive().count() == 0
    assert work_folders() == []
    lines = [line for line in courier.said().splitlines() if "item_ended" in line]
    assert len(lines) == 19, "one for each item, and none twice"
    assert courier.said().count("worker_started") == 1


@pytest.mark.parametrize("command", [("worker",), ("watch", "--workers", "1", "--every-s", "0.3")], ids=lambda c: c[0])
def test_a_closed_terminal_drains_as_term_does_and_nohup_has_it_ignored(install, tmp_path, command):
    installation = install("sqlite", CONTIMG_SWEEP_S=1)
    arguments = [*command, str(tmp_path)] if command[0] == "watch" else command
    with inherited(signal.SIGHUP, signal.SIG_DFL):  # the tests themselves may have been started by nohup
        started = installation.start(*arguments)
    until(Worker.objects.alive().exists)
    time.sleep(0.5)
    started.send_signal(signal.SIGHUP)
    assert started.wait(30) == 0, installation.said()
    assert not Worker.objects.alive().exists()
    assert installation.processes() == []

    with inherited(signal.SIGHUP, signal.SIG_IGN):
        ignoring = installation.start(*arguments, log="ignoring")
    until(Worker.objects.alive().exists)
    ignoring.send_signal(signal.SIGHUP)
    time.sleep(1)
    assert ignoring.poll() is None
    ignoring.terminate()
    assert ignoring.wait(30) == 0


def test_an_item_whose_worker_died_runs_again_within_a_lease_and_a_sweep(courier):
    batch = asked(1, how="hang")
    worker = courier.start("worker", "--processes", "1")
    (item,) = batch.items.all()
    until(lambda: len(runs()) == 1, within_s=60)
    runner = next(p for p in courier.processes() if p.pid not in (worker.pid, runs()[0][1]) and p.ppid() == worker.pid)
    behave(item.group, "sleep 0")
    died = time.monotonic()
    runner.kill()
    until(lambda: len(runs()) == 2, within_s=60)
    assert time.monotonic() - died < 4 + 1 + 8 * PATIENCE, (
        "a lease, a sweep, and the start of a process on a busy machine"
    )
    until(lambda: ended(batch), within_s=30)
    assert (batch.state, sizes(), item.attempts.count()) == ("done", {1}, 2)


def test_a_supervisor_killed_takes_its_processes_with_it(courier):
    asked(1, how="hang")
    worker = courier.start("worker", "--processes", "2")
    until(runs, within_s=60)
    os.kill(worker.pid, signal.SIGKILL)
    worker.wait()
    until(lambda: courier.processes() == [], within_s=20)


def test_cancelled_under_a_worker_its_processes_are_gone_within_five_seconds(courier):
    batch = asked(1, how="hang")
    courier.start("worker")
    until(runs, within_s=60)
    child = psutil.Process(runs()[0][1])
    started = child.children(recursive=True)
    cancel_batch(batch=batch)
    until(lambda: not any(p.is_running() for p in (child, *started)), within_s=5)
    until(lambda: ended(batch))
    assert batch.state == "cancelled"


# --- doorbells --------------------------------------------------------------------------------------------------------
@pytest.fixture(params=COURIERS)
def seldom_swept(request, install):
    """An installation in which only doorbells wake a worker in time."""
    return of_courier(request.param, install, CONTIMG_LEASE_S=200, CONTIMG_SWEEP_S=100, CONTIMG_DRAIN_S=8)


def asked_elsewhere(installation, n: int = 1, stage: str = "convert", how: str = "sleep 0") -> Batch:
    """By a process that rings at the installation's own broker."""
    tiles = [SubbandGroupFactory(size_bytes=0) for _ in range(n)]
    for tile in tiles:
        behave(tile, how)
    subjects = [f"--subject=subband_group:{tile.pk}" for tile in tiles]
    assert installation.start("batch", "create", stage, *subjects, log="asked").wait(60) == 0
    return Batch.objects.latest("id")


def test_no_doorbell_is_swallowed_by_workers_of_other_stages(seldom_swept):
    seldom_swept.start("worker", "--processes", "2", "--stages", "image,photometry")
    seldom_swept.start("worker", "--stages", "convert")
    for within_s in (90, 30, 30):  # the first waits for their start
        batch = asked_elsewhere(seldom_swept)
        until(lambda batch=batch: ended(batch), within_s=within_s)
        assert batch.state == "done"


def test_who_may_not_do_what_follows_wakes_one_who_may(seldom_swept):
    seldom_swept.start("worker", "--stages", "convert,apply,assess")
    seldom_swept.start("worker", "--stages", "calibrate,image,photometry")
    batch = asked_elsewhere(seldom_swept, stage="process")
    until(lambda: ended(batch), within_s=90)
    assert batch.state == "done"


def test_idle_processes_begin_long_items_at_nearly_the_same_time(seldom_swept):
    seldom_swept.start("worker", "--processes", "3")
    until(lambda: len(workers_of(asked_elsewhere(seldom_swept, 6, how="sleep 1"))) == 3, within_s=120)
    batch = asked_elsewhere(seldom_swept, 3, how="sleep 6")
    assert len(workers_of(batch)) == 3
    began = batch.items.order_by("started_at").values_list("started_at", flat=True)
    assert (began[2] - began[0]).total_seconds() < 4, "each of the two others looks once a second"


def workers_of(batch: Batch) -> set[str]:
    """Those who have run it."""
    until(lambda: ended(batch), within_s=60)
    return set(Attempt.objects.filter(item__batch=batch).values_list("worker", flat=True))


# --- the other commands ----------------------------------------------------------------------------------------------
def said(*arguments: str, status: int = 0) -> str:
    out = StringIO()
    try:
        call_command(*arguments, stdout=out, stderr=StringIO())
        found = 0
    except SystemExit as end:
        found = end.code
    assert found == status
    return out.getvalue()


@pytest.mark.django_db
def test_batches_are_made_shown_listed_cancelled_and_retried(db):
    assert said("batch", "list") == "No batches.\n"
    tile = SubbandGroupFactory()
    made = json.loads(
        said("batch", "create", "image", f"--subject=subband_group:{tile.pk}", "--parameter=robust=-1", "--json")
    )
    pk = str(made["id"])
    assert (made["state"], made["parameters"]["robust"]) == ("ready", -1)
    assert said("batch", "show", pk).startswith(f"batch {pk}  image       ready")
    assert f"batch {pk}" in said("batch", "list", "--state", "ready")
    assert said("batch", "list", "--state", "done") == "No batches are done.\n"
    assert "1 cancelled" in said("batch", "cancel", pk)
    assert "Cancelled before it ran. [cancelled]" in said("batch", "watch", pk, status=1)
    assert "1 ready" in said("batch", "retry", pk)
    queried = json.loads(said("batch", "create", "convert", "--query", "kind=subband_group", "--json"))
    assert queried["counts"]["total"] == 1


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("batch", "show", "99"), r"There is no batch 99.*\[unknown_batch\]"),
        (("batch", "create", "bake", "--subject=subband_group:1"), r"\[unknown_stage\]"),
        (("batch", "create", "convert", "--subject=7"), "KIND:ID"),
        (("batch", "create", "convert"), r"\[invalid_query\]"),
        (("batch", "create", "convert", "--query", "kind"), "NAME=VALUE"),
        (("worker", "--processes=0"), "from 1 to 64"),
        (("worker", "--stages=bake"), r"There is no stage 'bake'; there are convert, .*\[unknown_stage\]"),
        (("pause", "bake"), r"\[unknown_stage\]"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(arguments, words):
    with pytest.raises(CommandError, match=words):
        call_command(*arguments)


@pytest.mark.django_db
def test_parameters_have_their_types_on_the_console_too():
    about = ("--subject", f"subband_group:{SubbandGroupFactory().pk}")
    made = json.loads(said("batch", "create", "process", *about, "--parameter=lenient=true", "--json"))
    assert made["parameters"]["lenient"] is True
    for text, words in (("lenient=yes", "true or false"), ("robust=NaN", "Give a number"), ("robust=two", "a number")):
        with pytest.raises(CommandError, match=words):
            call_command("batch", "create", "process", *about, f"--parameter={text}")


@pytest.mark.django_db
def test_stages_are_paused_and_resumed():
    said("pause", "image", "--reason=new disk")
    said("pause")
    assert set(Pause.objects.values_list("stage", flat=True)) == {"image", ""}
    assert said("resume", "image") == "Resumed 1.\n"
    assert said("resume") == "Resumed 1.\n"
    assert said("resume") == "Nothing was paused.\n"
