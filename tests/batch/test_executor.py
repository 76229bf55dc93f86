"""What a stage may do to its worker, with real child processes on a database that they share."""

from __future__ import annotations

import hashlib
import threading
import time
from dataclasses import replace
from itertools import pairwise

import psutil
import pytest
from django.db import connection, transaction
from prometheus_client import REGISTRY

from batch import transitions
from batch.executor import LOG_LIMIT_BYTES, Executor
from batch.logs import log_path_of
from batch.models import Attempt, Item, State
from batch.services import cancel_batch, create_batch, retry_item
from batch.stages import stages as executor_stages
from batch.sweeper import Sweeper
from batch.transitions import LeaseLost
from contimg.exceptions import EngineUnavailable
from contimg.models import BreakerState
from contimg.products import database_tag, products_root, work_folders
from observations.models import MeasurementSet, SubbandGroup
from observations.services import index_subbands
from tests.batch import trivial
from tests.batch.installation import PATIENCE, until
from tests.batch.trivial import behave, runs
from tests.factories import SubbandGroupFactory
from tests.observations.subband_files import NIGHT, write_tile

pytest_plugins = ["tests.batch.installation"]
pytestmark = pytest.mark.usefixtures("installation")


@pytest.fixture
def executor():
    executor = Executor()
    yield executor
    executor.close()


def asked(n: int = 1, stage: str = "convert") -> list[Item]:
    tiles = [SubbandGroupFactory(size_bytes=0) for _ in range(n)]
    batch = create_batch(stage=stage, subjects=[("subband_group", tile.pk) for tile in tiles]).batch
    return list(batch.items.order_by("id").select_related("group", "batch"))


def run_all(executor: Executor) -> None:
    while not executor.is_stopping and executor.run_next():
        pass


def newest(item: Item) -> Attempt:
    return Attempt.objects.filter(item=item).latest("number")


def recorded(item: Item) -> int:
    """How often the item's result was written."""
    return SubbandGroup.objects.get(pk=item.group_id).size_bytes


class Background:
    """An executor at work in a thread of its own."""

    def __init__(self) -> None:
        self.executor = Executor()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            run_all(self.executor)
        finally:
            self.executor.close()
            connection.close()

    def join(self, within_s: float = 30) -> None:
        self._thread.join(within_s)
        assert not self._thread.is_alive()


def test_items_are_done_once_in_one_warm_process_with_their_evidence(executor):
    items = asked(3)
    run_all(executor)
    assert [recorded(item) for item in items] == [1, 1, 1]
    assert len({pid for _, pid in runs()}) == 1
    for item in items:
        item.refresh_from_db()
        attempt = newest(item)
        assert (item.state, item.progress, attempt.outcome, attempt.exit_code) == ("done", 1.0, "done", 0)
        assert attempt.duration_s > 0
        assert attempt.cpu_s is not None
        assert "stage_done" in log_path_of(attempt).read_text()
    assert work_folders() == []


def test_the_best_item_is_found_without_sorting_all_that_are_ready(executor):
    """Else a claim is the dearer the longer the queue: at 10 000 items 7 ms."""
    asked(3)
    with transaction.atomic(), connection.cursor() as cursor:
        if connection.vendor == "postgresql":  # of a few rows it would read all
            for way in ("seqscan", "bitmapscan", "sort"):
                cursor.execute(f"SET LOCAL enable_{way} = off")
        plan = Item.objects.claimable()[:1].explain()
    assert "item_claimable" in plan
    assert "ORDER BY" not in plan
    assert "Sort" not in plan


def test_bad_data_fail_once_and_the_next_item_runs(executor):
    bad, good = asked(2)
    behave(bad.group, "fail")
    run_all(executor)
    bad.refresh_from_db()
    assert (bad.state, bad.error_code, bad.attempt) == ("failed", "engine_failed", 1)
    assert recorded(good) == 1


@pytest.mark.parametrize(
    ("ending", "outcome", "exit_code", "ended_by"),
    [("fail", "failed", 0, ""), ("die", "lost", -9, "SIGKILL"), ("hang", "failed", -9, "SIGKILL")],
)
def test_what_fails_hangs_or_is_killed_has_its_evidence_too(executor, tmp_path, ending, outcome, exit_code, ended_by):
    write_tile(tmp_path, NIGHT)
    index_subbands(folder=tmp_path)
    tile = SubbandGroup.objects.get()
    (item,) = create_batch(stage="convert", subjects=[("subband_group", tile.pk)]).batch.items.all()
    behave(tile, f"burn {ending}")
    assert executor.run_next()
    attempt = newest(item)
    assert (attempt.outcome, attempt.exit_code, attempt.signal) == (outcome, exit_code, ended_by)
    assert attempt.duration_s > 1
    assert 0.9 < attempt.cpu_s < 2
    assert attempt.peak_memory_bytes is not None
    assert attempt.input_bytes == tile.size_bytes
    assert {"contimg", "python", "pyuvdata"} < set(attempt.versions)
    inputs = {entry["name"]: entry["checksum"] for entry in attempt.evidence["inputs"]}
    assert inputs == {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in tmp_path.glob("*.hdf5")}
    assert "outputs" not in attempt.evidence


@pytest.mark.parametrize("how", ["die_recorded", "hang_recorded"])
def test_a_process_that_ends_badly_after_its_success_was_recorded_leaves_no_trace_in_it(executor, how):
    (item,) = asked()
    behave(item.group, how)
    assert executor.run_next()
    item.refresh_from_db()
    attempt = newest(item)
    assert (item.state, recorded(item)) == ("done", 1)
    assert (attempt.outcome, attempt.exit_code, attempt.signal, attempt.error_code) == ("done", 0, "", "")


def test_what_may_pass_is_tried_again_after_a_pause_that_doubles_and_then_quarantined(executor, settings, monkeypatch):
    settings.CONTIMG_MAX_TRIES = 3
    monkeypatch.setattr("batch.executor.ENGINE_RESTS_S", 0)
    (item,) = asked()
    behave(item.group, "unavailable")
    waits = []
    for _ in range(3):
        Item.objects.update(not_before=None)
        assert executor.run_next()
        item.refresh_from_db()
        waits.append(item.not_before and round((item.not_before - item.changed_at).total_seconds()))
    assert waits[:2] == [10, 20]
    assert (item.state, item.error_code) == ("quarantined", "engine_unavailable")
    assert [attempt.outcome for attempt in item.attempts.order_by("number")] == ["failed"] * 3
    behave(item.group, "sleep 0")
    retry_item(item=item)
    run_all(executor)
    assert recorded(item) == 1


def test_a_stage_whose_engine_is_missing_is_left_alone_and_the_others_go_on(executor, monkeypatch):
    """Two items find it out; the third keeps its tries, and is claimed when the engine itself says that it is back."""
    away = [*asked(3)]
    (other,) = asked(stage="image")
    for item in away:
        behave(item.group, "unavailable")
    engine = {"is_there": False}

    def try_engine():
        if not engine["is_there"]:
            raise EngineUnavailable("The engine is not there.")

    table = {name: replace(stage, try_engine=try_engine) for name, stage in executor_stages().items()}
    monkeypatch.setattr("batch.executor.stages", lambda: table)
    while executor.run_next():
        pass
    assert [Item.objects.get(pk=item.pk).attempt for item in away] == [1, 1, 0]
    assert Item.objects.get(pk=other.pk).state == "done"
    row = BreakerState.objects.get(breaker="engine-convert")
    assert (row.is_open, "EngineUnavailable" in row.error) == (True, True)

    monkeypatch.setattr(executor._engines["convert"], "rests_s", 0)
    assert not executor.run_next()  # tried, and still away: no item was asked
    assert Item.objects.get(pk=away[2].pk).attempt == 0
    engine["is_there"] = True
    for item in away:
        behave(item.group, "sleep 0")
    Item.objects.update(not_before=None)
    run_all(executor)
    assert set(Item.objects.values_list("state", flat=True)) == {"done"}
    assert not BreakerState.objects.get(breaker="engine-convert").is_open


def test_what_ended_is_counted_by_stage_with_its_time_and_bytes(executor):
    def counted(name, **labels):
        return REGISTRY.get_sample_value(name, labels) or 0

    before = counted("contimg_items_total", stage="convert", state="done")
    waited = counted("contimg_stage_wait_seconds_count", stage="convert")
    ran = counted("contimg_stage_seconds_count", stage="convert")
    asked(2)
    run_all(executor)
    assert counted("contimg_items_total", stage="convert", state="done") - before == 2
    assert counted("contimg_stage_wait_seconds_count", stage="convert") - waited == 2
    assert counted("contimg_stage_seconds_count", stage="convert") - ran == 2


@pytest.mark.parametrize(("how", "ending"), [("die", "SIGKILL"), ("exit", "exit status 0")])
def test_a_process_that_ends_without_an_answer_is_no_success_and_twice_quarantines(executor, how, ending):
    item, after = asked(2)
    behave(item.group, how)
    for _ in range(2):
        Item.objects.update(not_before=None)
        run_all(executor)
    item.refresh_from_db()
    assert (item.state, item.error_code) == ("quarantined", "process_died")
    assert ending in item.error_detail
    assert [attempt.outcome for attempt in item.attempts.all()] == ["lost", "lost"]
    assert newest(item).signal == ("SIGKILL" if how == "die" else "")
    assert (recorded(item), recorded(after)) == (0, 1)
    assert work_folders() == []


def test_killed_in_the_middle_of_its_record_nothing_of_it_is_there(executor):
    (item,) = asked()
    behave(item.group, "die_recording")
    assert executor.run_next()
    item.refresh_from_db()
    assert (item.state, recorded(item)) == ("ready", 0)
    behave(item.group, "sleep 0")
    Item.objects.update(not_before=None)
    run_all(executor)
    assert recorded(item) == 1


def test_a_stage_that_hangs_is_stopped_at_its_limit_with_all_it_started(executor, installation):
    (item,) = asked()
    behave(item.group, "hang")
    began = time.monotonic()
    run_all(executor)
    assert time.monotonic() - began < trivial.TIME_LIMIT_S + 10 * PATIENCE
    item.refresh_from_db()
    assert (item.state, item.error_code) == ("failed", "time_limit")
    assert installation.processes() == []
    assert work_folders() == []


def test_a_stage_that_eats_memory_is_stopped_at_its_limit(executor, installation):
    (item,) = asked()
    behave(item.group, "eat")
    run_all(executor)
    item.refresh_from_db()
    assert (item.state, item.error_code) == ("failed", "memory_limit")
    assert trivial.MEMORY_LIMIT_BYTES < newest(item).peak_memory_bytes < 4 * trivial.MEMORY_LIMIT_BYTES
    assert installation.processes() == []


def test_a_hundred_megabytes_of_log_are_cut_and_do_no_harm(executor):
    (item,) = asked()
    behave(item.group, "shout")
    run_all(executor)
    item.refresh_from_db()
    assert item.state == "done"
    log = log_path_of(newest(item))
    assert LOG_LIMIT_BYTES <= log.stat().st_size < LOG_LIMIT_BYTES + 1000
    assert log.read_bytes().endswith(b"[the log is cut here: it reached its limit]\n")


def test_cancelled_while_it_runs_its_processes_are_gone_within_five_seconds(installation):
    (item,) = asked()
    behave(item.group, "hang")
    worker = Background()
    until(runs)
    until(lambda: len(installation.processes()) == 2)
    cancel_batch(batch=item.batch)
    until(lambda: installation.processes() == [], within_s=5)
    worker.join()
    item.refresh_from_db()
    assert (item.state, newest(item).outcome) == ("cancelled", "cancelled")
    assert work_folders() == []
    (again,) = create_batch(stage="convert", subjects=[("subband_group", item.group_id)]).batch.items.all()
    behave(item.group, "sleep 0")
    after = Background()
    after.join()
    again.refresh_from_db()
    assert again.state == "done"


def test_cancelled_before_it_ran_it_never_runs_and_its_retry_does(executor):
    chained = asked(stage="process")
    cancel_batch(batch=chained[0].batch)
    assert not executor.run_next()
    assert {item.state for item in Item.objects.all()} == {State.CANCELLED}
    retry_item(item=chained[0])
    assert [item.state for item in Item.objects.order_by("id")] == ["ready"] + ["waiting"] * 5
    run_all(executor)
    assert {item.state for item in Item.objects.all()} == {State.DONE}


def test_a_worker_told_to_stop_hands_back_what_does_not_end_in_time():
    (item,) = asked()
    behave(item.group, "sleep 3")
    worker = Background()
    until(runs)
    worker.executor.stop(within_s=0.2)
    worker.join(10)
    item.refresh_from_db()
    assert (item.state, newest(item).outcome, recorded(item)) == ("ready", "returned", 0)
    behave(item.group, "sleep 0")
    after = Background()
    after.join()
    assert recorded(item) == 1


def test_a_worker_told_to_stop_finishes_what_ends_in_time():
    (item,) = asked()
    behave(item.group, "sleep 1")
    worker = Background()
    until(runs)
    worker.executor.stop(within_s=20)
    worker.join(20)
    assert recorded(item) == 1


def test_without_room_on_the_disk_an_item_waits_and_says_how_much_it_needs(executor):
    poor, rich = asked(2)
    behave(poor.group, f"needs {10**15}")
    run_all(executor)
    poor.refresh_from_db()
    assert (poor.state, poor.error_code) == ("ready", "waiting_for_disk")
    assert "needs 1000000.0 GB" in poor.error_detail
    assert poor.not_before is not None
    assert recorded(rich) == 1
    Item.objects.update(not_before=None)
    run_all(executor)
    assert poor.attempts.count() == 1, "it is not tried again before there is so much room"
    Item.objects.filter(pk=poor.pk).update(reserved_bytes=1)  # that is as good as more room
    behave(poor.group, "sleep 0")
    run_all(executor)
    assert recorded(poor) == 1


def test_while_the_disk_is_full_no_attempt_is_made_of_anything_and_the_next_item_says_why(executor, monkeypatch):
    items = asked(3)
    free = psutil.disk_usage(str(products_root())).free
    monkeypatch.setattr("batch.executor.DISK_RESERVE_BYTES", 2 * free)
    assert not executor.run_next()
    assert not Attempt.objects.exists()
    items[0].refresh_from_db()
    assert (items[0].state, items[0].error_code, items[0].attempt) == ("ready", "worker_unwell", 0)
    assert "GB are free of the disk" in items[0].error_detail
    changed_at = items[0].changed_at
    assert not executor.run_next()
    items[0].refresh_from_db()
    assert items[0].changed_at == changed_at, "it is said once a minute"
    monkeypatch.setattr("batch.executor.DISK_RESERVE_BYTES", 0)
    run_all(executor)
    assert [recorded(item) for item in items] == [1, 1, 1]


def test_a_worker_whose_disk_is_away_waits_and_the_item_is_not_tried(executor):
    item, after = asked(2)
    away = products_root().rename(products_root().with_name("away"))
    assert not executor.run_next()
    item.refresh_from_db()
    assert (item.state, item.error_code, item.attempt) == ("ready", "worker_unwell", 0)
    assert "No such file or directory" in item.error_detail
    assert not products_root().exists()
    away.rename(products_root())
    run_all(executor)
    assert [recorded(one) for one in (item, after)] == [1, 1]


def test_a_worker_that_can_start_no_process_hands_one_item_back_and_takes_none_before_it_can(executor, monkeypatch):
    item, after = asked(2)
    with monkeypatch.context() as patched:
        patched.setattr("sys.executable", "/nowhere/python")
        assert executor.run_next()
        item.refresh_from_db()
        assert (item.state, item.error_code, newest(item).outcome) == ("ready", "worker_unwell", "returned")
        assert not executor.run_next(), "it rests"
        Item.objects.update(not_before=None)
        executor._rests_until = 0.1  # the minute is over
        assert not executor.run_next()
        assert Attempt.objects.count() == 1
    run_all(executor)
    assert [recorded(one) for one in (item, after)] == [1, 1]


def test_a_log_that_cannot_be_written_costs_no_item_its_turn(executor, installation):
    items = asked(3)
    folder = installation.folder / "logs" / database_tag() / f"{items[0].pk // 1000}"
    folder.mkdir(parents=True)
    (folder / f"{items[0].pk}.1.log").symlink_to("/dev/full")
    (folder / f"{items[1].pk}.1.log").mkdir()
    run_all(executor)
    assert [recorded(item) for item in items] == [1, 1, 1]
    spans = [(newest(item).started_at, newest(item).finished_at) for item in items]
    assert all(ended <= begun for (_, ended), (begun, _) in pairwise(spans)), "one after the other"
    assert "stage_done" in log_path_of(newest(items[2])).read_text()


def test_a_worker_whose_item_was_taken_writes_nothing(executor):
    """As after a freeze past the lease: the sweeper has given the item to another, who has done it."""
    (item,) = asked()
    held = transitions.claim(worker="elsewhere.1.2", host="elsewhere")
    Item.objects.update(lease_until="2026-01-01T00:00:00Z")
    transitions.lost(held, detail="gone")
    run_all(executor)
    assert recorded(item) == 1
    for write in (
        lambda: transitions.finish(held),
        lambda: transitions.fail(held, code="x", detail="y"),
        lambda: transitions.renew(held, progress=0.5),
        lambda: transitions.cancelled(held),
        lambda: transitions.hand_back(held, code="", detail=""),
    ):
        with pytest.raises(LeaseLost):
            write()
    item.refresh_from_db()
    assert (item.state, item.attempt) == ("done", 2)


@pytest.mark.parametrize("engine", ["postgres"])
def test_a_connection_that_the_server_ends_between_two_items_fails_neither(engine, executor):
    asked(2)
    assert executor.run_next()
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid() AND state = 'idle'"
        )
        assert cursor.fetchall()
    assert executor.run_next()
    assert len({pid for _, pid in runs()}) == 1
    assert list(Attempt.objects.values_list("outcome", flat=True)) == ["done", "done"]


@pytest.fixture
def slow_commit(installation):
    """On PostgreSQL, whose COMMIT of a measurement set takes three seconds; gives what tells which are under way."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql
                AS $$ BEGIN PERFORM pg_sleep(3); RETURN NULL; END $$;
            CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON observations_measurementset
                DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION slow();
            """
        )

    def committing() -> list[int]:
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND query = 'COMMIT'"
                " AND wait_event = 'PgSleep'"
            )
            return [pid for (pid,) in cursor.fetchall()]

    return committing


@pytest.mark.parametrize("engine", ["postgres"])
@pytest.mark.parametrize("how", ["publish", "publish_cut"])
def test_what_a_commit_records_that_ends_after_its_process_or_its_connection_is_kept(engine, slow_commit, how):
    (item,) = asked()
    behave(item.group, how)
    worker = Background()
    until(slow_commit)
    if how == "publish":
        worker.executor.stop(within_s=0)
    worker.join()
    assert not slow_commit()
    item.refresh_from_db()
    assert (item.state, recorded(item), item.attempts.get().outcome) == ("done", 1, "done")
    made = MeasurementSet.objects.get()
    assert (products_root() / made.path).stat().st_size == made.size_bytes
    assert work_folders() == []


@pytest.mark.parametrize("engine", ["postgres"])
def test_what_a_commit_should_have_recorded_that_the_server_broke_off_is_removed_and_made_again(engine, slow_commit):
    (item,) = asked()
    behave(item.group, "publish")
    worker = Background()
    (pid,) = until(slow_commit)
    assert list((products_root() / "measurement_sets").iterdir())
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_terminate_backend(%s)", [pid])
    worker.join()
    item.refresh_from_db()
    assert (item.state, item.error_code, recorded(item)) == ("ready", "database_unavailable", 0)
    assert list((products_root() / "measurement_sets").iterdir()) == []
    assert work_folders() == []
    Item.objects.update(not_before=None)
    Background().join()
    assert (products_root() / MeasurementSet.objects.get().path).exists()


def test_frozen_past_its_lease_and_thawed_it_writes_nothing(installation, settings):
    settings.CONTIMG_LEASE_S, settings.CONTIMG_SWEEP_S = 3, 1
    (item,) = asked()
    behave(item.group, "sleep 2")
    worker = Background()
    until(runs)
    (child,) = installation.processes()
    # The thread of the worker lives on, so the lease is taken as a sweeper elsewhere would.
    child.suspend()
    held = transitions.Claim(item.pk, 1, item.batch_id, "convert", newest(item).pk)
    transitions.lost(held, detail="frozen")
    Item.objects.filter(pk=item.pk).update(not_before="2100-01-01T00:00:00Z")
    with_child_gone = until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE, within_s=10)
    assert with_child_gone
    worker.join()
    item.refresh_from_db()
    assert (item.state, recorded(item)) == ("ready", 0)


def test_the_lost_are_found_by_process_by_lease_and_by_a_clock_that_nobody_sets(settings):
    settings.CONTIMG_LEASE_S, settings.CONTIMG_SWEEP_S = 2, 0.5
    (item,) = asked()
    held = transitions.claim(worker="elsewhere.1.2", host="elsewhere")
    assert held is not None
    sweeper = Sweeper()
    Item.objects.update(lease_until="2100-01-01T00:00:00Z")  # a wall clock that was set back meanwhile
    assert sweeper.sweep() == 0
    time.sleep(2.1)
    assert sweeper.sweep() == 1
    item.refresh_from_db()
    assert (item.state, item.error_code, newest(item).outcome) == ("ready", "worker_lost", "lost")


def test_a_clock_that_jumps_ahead_takes_no_work_from_the_living(settings):
    (item,) = asked()
    held = transitions.claim(worker="elsewhere.1.2", host="elsewhere")
    sweeper = Sweeper()
    Item.objects.update(lease_until="2000-01-01T00:00:00Z")  # to a clock that jumped ahead, every lease is over
    assert sweeper.sweep() == 0
    transitions.renew(held, progress=0.1)
    assert sweeper.sweep() == 0
    item.refresh_from_db()
    assert item.state == "running"


def test_products_lie_where_the_installation_says(installation):
    assert products_root() == installation.folder / "products"
