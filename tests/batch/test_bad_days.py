"""What befalls machines, databases and brokers while workers are at work: all is done once, and nobody had to help.

`CONTIMG_TEST_OUTAGE_S=60` is how long the broker is gone; by default it is a few seconds.
"""

from __future__ import annotations

import contextlib
import json
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
from tests.batch.installation import PATIENCE, Installation, until
from tests.batch.servers import Postgres, RabbitMQ, Redis
from tests.batch.trivial import TIME_LIMIT_S, behave, is_recording, runs
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


def test_time_for_which_a_machine_was_frozen_does_not_count_to_the_limit_of_a_stage(install):
    installation = install("sqlite")
    batch = asked(how="wait")
    (item,) = batch.items.all()
    machine = Machine(installation, "frozen")
    until(runs, within_s=60)
    time.sleep(2)  # it has looked at it once
    stopped = machine.freeze()
    time.sleep(TIME_LIMIT_S + 1)
    for process in reversed(stopped):  # the supervisor last, whose sweeper would believe the others dead
        process.resume()
    time.sleep(1.5)  # another look, after which it would have been too late
    behave(item.group, "sleep 0")
    until(lambda: ended(batch), within_s=30)
    assert [attempt.outcome for attempt in item.attempts.all()] == ["done"]
    check_done_once(batch)
    assert "was_frozen" in installation.said("frozen")


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


def read_only(server: Postgres, *, is_on: bool) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SET default_transaction_read_only = off")
        cursor.execute(f"ALTER SYSTEM SET default_transaction_read_only = {'on' if is_on else 'off'}")
        cursor.execute("SELECT pg_reload_conf()")
    connection.close()


@pytest.mark.slow
def test_idle_workers_wait_for_a_database_that_is_stopped_or_takes_no_changes_and_say_so_once(
    private_postgres, install
):
    installation = install(private_postgres.url, **QUICK, CONTIMG_LOG_FORMAT="json")
    batches = [asked()]
    worker = installation.start("worker", "--processes", "2")
    until(lambda: ended(batches[0]), within_s=60)
    started = psutil.Process(worker.pid).children()
    time.sleep(1.5)  # both look
    connection.close()

    def told(event: str) -> int:
        return installation.said().count(f'"{event}"')

    goes = (private_postgres.stop, lambda: read_only(private_postgres, is_on=True))
    comes = (private_postgres.start, lambda: read_only(private_postgres, is_on=False))
    lasts_s = (7, 2)  # the pool gives up twice
    for n, (go, come, s) in enumerate(zip(goes, comes, lasts_s, strict=True), start=1):
        go()
        until(lambda n=n: told("database_away") == 3 * n, within_s=30)  # two processes and their supervisor
        time.sleep(s)
        come()
        until(lambda n=n: told("database_back") == 3 * n, within_s=10)
        batches.append(asked())
        until(lambda: ended(batches[-1]), within_s=20)
    check_done_once(*batches)
    assert psutil.Process(worker.pid).children() == started
    assert (told("database_away"), told("database_back"), told("worker_process_ended")) == (6, 6, 0)
    lines = [json.loads(line) for line in installation.said().splitlines()]  # all of them: none is of a traceback
    assert sum(line["logger"] == "psycopg.pool" for line in lines) < 20

    connection.close()
    private_postgres.stop()
    until(lambda: told("database_away") == 9, within_s=30)
    worker.terminate()
    began = time.monotonic()
    assert worker.wait(30) == 0
    assert time.monotonic() - began < 10 * PATIENCE
    assert "Traceback" not in installation.said()


@pytest.mark.parametrize("output", ["text", "json"])
def test_who_watches_a_batch_is_told_that_the_database_is_away_and_goes_on_when_it_is_back(
    private_postgres, install, output
):
    installation = install(private_postgres.url, **QUICK)
    batch = asked()
    watching = installation.start("batch", "watch", str(batch.pk), *(["--json"] if output == "json" else []))
    if output == "text":  # it waits for what nobody does
        until(lambda: "No worker is running" in installation.said(), within_s=60)
    else:
        until(lambda: psutil.Process(watching.pid).net_connections(), within_s=60)
        time.sleep(2)
    connection.close()
    private_postgres.stop("fast")
    until(lambda: "The database does not answer" in installation.said(), within_s=60)
    time.sleep(3)
    assert watching.poll() is None
    private_postgres.start()
    installation.start("worker", log="worker")
    assert watching.wait(timeout=60) == 0, installation.said()
    said = installation.said()
    assert said.count("The database does not answer") == 1
    assert "trying again" in said
    assert "Traceback" not in said
    assert '"done": 1' in said if output == "json" else "1 done" in said


def test_a_record_whose_connection_is_cut_is_undone_and_tried_again(install):
    installation = install("postgres", **QUICK)
    batch = asked(how="wait_recording")
    (item,) = batch.items.all()
    installation.start("worker")
    until(is_recording, within_s=60)
    with connection.cursor() as cursor:
        mine = "datname = current_database() AND state = 'idle in transaction'"
        its = f"{mine} AND xact_start < clock_timestamp() - interval '1 s'"  # no claim takes as long
        until(lambda: cursor.execute(f"SELECT FROM pg_stat_activity WHERE {its}").rowcount)
        cursor.execute(f"{CUT} WHERE {its}")
        assert cursor.fetchall() == [(True,)]
    behave(item.group, "sleep 0")
    until(lambda: item.attempts.filter(outcome="failed").exists(), within_s=60)
    item.refresh_from_db()
    assert (item.state, item.error_code) == ("ready", "database_unavailable")
    Item.objects.update(not_before=None)
    until(lambda: ended(batch), within_s=60)
    check_done_once(batch)


# --- the broker --------------------------------------------------------------------------------------------------
Broker = Redis | RabbitMQ


def with_broker(install: Callable[..., Installation], broker: Broker) -> Installation:
    celery = {"CONTIMG_COURIER": "celery", "CONTIMG_BROKER_URL": broker.url, "CONTIMG_QUEUE": "ours"}
    return install("postgres", **QUICK, **celery)


def down(broker: Broker) -> None:
    broker.kill()


def silent(broker: Broker) -> None:
    broker.freeze()


@pytest.mark.slow
@pytest.mark.parametrize("away", [down, silent], ids=lambda function: function.__name__)
@pytest.mark.parametrize("server", ["private_redis", "private_rabbitmq"])
def test_asking_without_a_broker_succeeds_at_once_and_the_work_is_done_when_it_is_back(request, server, install, away):
    broker = request.getfixturevalue(server)
    installation = with_broker(install, broker)
    tile = SubbandGroupFactory(size_bytes=0)
    broker.start()
    away(broker)
    began = time.monotonic()
    asking = installation.start("batch", "create", "convert", f"--subject=subband_group:{tile.pk}")
    assert asking.wait(60) == 0, installation.said()
    assert time.monotonic() - began < 30 * PATIENCE, "the start of a process and a time-out"
    batch = Batch.objects.get()
    assert (batch.state, batch.n_ready) == ("ready", 1)
    assert "doorbell_failed" in installation.said()

    worker = installation.start("worker", log="worker")
    time.sleep(3)
    broker.kill()
    broker.start()
    until(lambda: ended(batch), within_s=120)
    check_done_once(batch)
    assert worker.poll() is None


@pytest.mark.slow
def test_a_broker_that_is_gone_for_a_while_costs_nothing_and_takes_no_hand(private_redis, install):
    installation = with_broker(install, private_redis)
    private_redis.start()
    before = asked(N_ITEMS, how="sleep 0.02")
    worker = installation.start("worker", "--processes", "2")
    until(lambda: before.items.filter(state="done").count() >= N_ITEMS // 5, within_s=60)
    private_redis.kill()
    until(lambda: ended(before), within_s=60)
    time.sleep(1)  # the bell that the workers answered has nothing more for them
    meanwhile = asked(10)
    time.sleep(OUTAGE_S)
    meanwhile.refresh_from_db()
    assert meanwhile.n_ready == 10, "who is idle hears nothing of it"
    private_redis.start()
    until(lambda: ended(meanwhile), within_s=120)
    after = asked(10)
    until(lambda: ended(after), within_s=60)
    check_done_once(before, meanwhile, after)
    assert worker.poll() is None, installation.said()
