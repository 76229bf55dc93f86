"""What befalls machines, databases and brokers while workers are at work: all is done once, and nobody had to help.

`CONTIMG_TEST_OUTAGE_S=60` is how long the broker is gone; by default it is a few seconds.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable

import psutil
import pytest
from django.db import DatabaseError, connection

from batch.models import Attempt, Batch, Item
from batch.services import create_batch
from contimg.products import work_folders
from observations.models import SubbandGroup
from tests.batch.installation import Installation, until
from tests.batch.servers import Postgres
from tests.batch.trivial import behave, is_recording, runs
from tests.factories import SubbandGroupFactory

pytest_plugins = ["tests.batch.installation", "tests.batch.servers"]
QUICK = {"CONTIMG_LEASE_S": 4, "CONTIMG_SWEEP_S": 1, "CONTIMG_DRAIN_S": 8}
N_ITEMS = 150
OUTAGE_S = float(os.environ.get("CONTIMG_TEST_OUTAGE_S", "10"))


def asked(n: int = 1, how: str = "") -> Batch:
    tiles = [SubbandGroupFactory(size_bytes=0) for _ in range(n)]
    for tile in tiles:
        if how:
            behave(tile, how)
    return create_batch(stage="convert", subjects=[("subband_group", tile.pk) for tile in tiles]).batch


def of_database(ask: Callable[[], object]) -> Callable[[], object]:
    """What it answers, None while the database is away."""

    def answer() -> object:
        try:
            return ask()
        except DatabaseError:
            connection.close()
            return None

    return answer


def ended(batch: Batch) -> bool:
    batch.refresh_from_db()
    return batch.n_open == 0


def check_done_once(*batches: Batch) -> None:
    for batch in batches:
        batch.refresh_from_db()
        assert (batch.state, batch.n_done) == ("done", batch.n_total)
        done = Attempt.objects.filter(item__batch=batch, outcome="done")
        assert done.count() == done.values("item").distinct().count() == batch.n_total
    assert set(SubbandGroup.objects.values_list("size_bytes", flat=True)) == {1}, "what is recorded counts"
    assert work_folders() == []


# --- a machine frozen past its lease ---------------------------------------------------------------------------------
class Machine:
    """A worker's supervisor with all the processes that it has at the time of asking."""

    def __init__(self, installation: Installation, name: str) -> None:
        self.process = installation.start("worker", "--processes", "1", log=name)

    def processes(self) -> list[psutil.Process]:
        supervisor = psutil.Process(self.process.pid)
        return [supervisor, *supervisor.children(recursive=True)]

    def runs(self, pid: int) -> bool:
        return pid in {process.pid for process in self.processes()}

    def freeze(self) -> list[psutil.Process]:
        frozen = self.processes()
        for process in frozen:
            process.suspend()
        return frozen


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["wait", "wait_recording"])
def test_a_machine_frozen_past_its_lease_and_thawed_writes_nothing(install, moment):
    installation = install("postgres", **QUICK)
    batch = asked(how=moment)
    machines = [Machine(installation, name) for name in ("first", "second")]
    (item,) = batch.items.all()
    until(lambda: is_recording() if moment == "wait_recording" else runs(), within_s=60)
    ((_, pid),) = runs()
    frozen, other = sorted(machines, key=lambda machine: not machine.runs(pid))
    stopped = frozen.freeze()
    assert pid in {process.pid for process in stopped}
    behave(item.group, "sleep 0")

    until(lambda: ended(batch), within_s=90)
    assert [attempt.outcome for attempt in item.attempts.order_by("number")] == ["lost", "done"]
    assert other.runs(runs()[1][1])
    assert all(process.status() == psutil.STATUS_STOPPED for process in stopped), "its lease was over, not its life"
    for process in stopped:
        process.resume()
    until(lambda: not psutil.pid_exists(pid), within_s=60)
    check_done_once(batch)

    other.process.terminate()
    assert other.process.wait(60) == 0
    later = asked()
    until(lambda: ended(later), within_s=60)
    assert frozen.process.poll() is None
    assert frozen.runs(int(later.items.get().attempts.get().worker.split(".")[1]))
    check_done_once(batch, later)


# --- the database --------------------------------------------------------------------------------------------------
CUT = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"


def crash(server: Postgres) -> None:
    server.stop("immediate")
    server.start()


def maintenance(server: Postgres) -> None:
    server.stop("fast")
    time.sleep(3)
    server.start()


def cut(server: Postgres) -> None:
    """As a firewall may: the connections are gone, and the database is there for new ones at once."""
    for _ in range(5):
        with contextlib.suppress(DatabaseError), connection.cursor() as cursor:
            cursor.execute(f"{CUT} WHERE client_port IS NOT NULL AND pid <> pg_backend_pid()")
        connection.close()
        time.sleep(0.4)


@pytest.mark.slow
@pytest.mark.parametrize("befall", [crash, maintenance, cut], ids=lambda function: function.__name__)
def test_a_database_restarted_under_load_costs_no_item_and_takes_no_hand(private_postgres, install, befall):
    installation = install(private_postgres.url, **QUICK)
    batch = asked(N_ITEMS, how="sleep 0.02")
    worker = installation.start("worker", "--processes", "2")
    until(lambda: batch.items.filter(state="done").count() >= N_ITEMS // 5, within_s=60)
    befall(private_postgres)
    left = until(of_database(lambda: batch.items.exclude(state="done").count()), within_s=60)
    assert left > N_ITEMS // 5, "it came while there was much to do"
    connection.close()

    until(of_database(lambda: ended(batch)), within_s=120)
    check_done_once(batch)
    assert worker.poll() is None, installation.said()


def test_a_record_whose_connection_is_cut_is_undone_and_tried_again(install):
    installation = install("postgres", **QUICK)
    batch = asked(how="wait_recording")
    (item,) = batch.items.all()
    installation.start("worker")
    until(is_recording, within_s=60)
    with connection.cursor() as cursor:
        cursor.execute(f"{CUT} WHERE datname = current_database() AND state = 'idle in transaction'")
        assert cursor.fetchall() == [(True,)]
    behave(item.group, "sleep 0")
    until(lambda: item.attempts.filter(outcome="failed").exists(), within_s=60)
    item.refresh_from_db()
    assert (item.state, item.error_code) == ("ready", "database_unavailable")
    Item.objects.update(not_before=None)
    until(lambda: ended(batch), within_s=60)
    check_done_once(batch)
