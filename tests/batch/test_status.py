"""`manage.py status`: what the operator reads at three in the morning."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest
from django.core.management import call_command
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from batch.models import State, Worker
from batch.presence import present
from batch.status import status
from calibration.models import Calibrator
from contimg.products import this_process
from observations.telescope import local_sidereal_time_h, meridian_icrs
from tests.batch.nights import dead_process
from tests.factories import (
    AttemptFactory,
    BatchFactory,
    CalibrationTableFactory,
    CalibratorFactory,
    ItemFactory,
    MeasurementSetFactory,
    PauseFactory,
    SubbandGroupFactory,
    WorkerFactory,
)

pytestmark = pytest.mark.django_db


def test_before_the_first_night_it_says_so(capsys):
    call_command("status")
    said = capsys.readouterr().out
    for words in ("no tile yet", "none yet", "no table in use", "none in the last day"):
        assert words in said


def test_it_names_what_waits_what_failed_and_who_works(capsys):
    now = timezone.now()
    lacking = SubbandGroupFactory(
        started_at=now - timedelta(hours=1), n_subbands=9, missing_subbands=list(range(9, 16))
    )
    MeasurementSetFactory(group__started_at=now - timedelta(hours=2), size_bytes=10**9)
    CalibrationTableFactory(solved_at=now - timedelta(hours=5))
    WorkerFactory(name="mac1.77.1", n_processes=3, seen_at=now)
    WorkerFactory(name="mac2.78.1", seen_at=now - timedelta(minutes=10))
    PauseFactory(stage="image", reason="the disk is being changed")
    batch = BatchFactory(stage="convert", n_ready=1)
    done = ItemFactory(batch=batch)
    AttemptFactory(item=done, outcome="done", duration_s=3600.0)
    failed = ItemFactory(state=State.FAILED, error_code="bad_visibilities", finished_at=now - timedelta(hours=3))
    ItemFactory(state=State.FAILED, error_code="of_old", finished_at=now - timedelta(days=3))
    call_command("status")
    said = capsys.readouterr().out
    for words in (
        f"{lacking}: 9 of 16 subbands", "1 with 3 processes", "mac2.78.1 has been silent for 10 min",
        "image by operator: the disk is being changed", "1 x convert bad_visibilities",
        f"; `batch show {failed.batch_id}`", "h at the pace of the last day",
        "3 items in 3 batches", "good, 5.0 h ago",
    ):  # fmt: skip
        assert words in said, said
    assert "of_old" not in said


def test_it_shows_what_runs_and_of_how_many_batches_failures_are(capsys):
    call_command("status")
    assert "running     none" in capsys.readouterr().out
    now = timezone.now()
    until = {"state": State.RUNNING, "lease_until": now + timedelta(minutes=1)}
    item = ItemFactory(started_at=now - timedelta(minutes=5), progress=0.4, worker="mac1.77.1", **until)
    for _ in range(10):
        ItemFactory(started_at=now, worker="mac2.78.1", **until)
    failed = [ItemFactory(state=State.FAILED, error_code="bad_visibilities", finished_at=now) for _ in range(2)]
    call_command("status")
    said = capsys.readouterr().out
    for words in (
        "running     11 items", f"convert of {item.group}: 40% after 5 min, ",
        f", item {item.pk} of batch {item.batch_id}, by mac1.77.1",
        "and 1 more", f"; 2 batches, the newest `batch show {failed[-1].batch_id}`",
    ):  # fmt: skip
        assert words in said, said
    call_command("status", "--json")
    running = json.loads(capsys.readouterr().out)["running"]
    assert (running["items"], len(running["longest"])) == (11, 10)
    assert running["longest"][0]["id"] == item.pk


def test_a_processed_tile_that_became_over_full_is_named(capsys):
    made = MeasurementSetFactory(group__n_files=17, group__duplicate_subbands=[3])
    MeasurementSetFactory(group=made.group, calibrated_from=made)
    call_command("status")
    said = capsys.readouterr().out
    assert "1 of the last day of observing not processed" in said
    assert "sb03 more than once: not processed again" in said
    assert "[group_overfull]" in said
    (group,) = status()["groups"]["newest"]
    assert group["code"] == "group_overfull"


def workers_line(capsys) -> str:
    call_command("status", force_color=True)
    return next(line for line in capsys.readouterr().out.splitlines() if line.startswith("workers"))


def test_a_watch_without_processes_is_no_worker_and_a_killed_one_neither(capsys):
    WorkerFactory(n_processes=0)
    BatchFactory(stage="convert", n_ready=1)
    alone = workers_line(capsys)
    assert "none; `manage.py worker`, and 1 watch without any" in alone
    assert "\x1b[" in alone, "red: there is work, and nobody does it"
    killed = WorkerFactory(name=dead_process(), n_processes=3)
    assert "none" in workers_line(capsys)
    call_command("status")
    assert f"{killed.name} was killed; it was last seen" in capsys.readouterr().out
    WorkerFactory(n_processes=2)
    both = workers_line(capsys)
    assert "1 with 2 processes, and 1 watch without any" in both
    assert "\x1b[" not in both


def test_rows_of_workers_of_old_go_when_one_starts(products_root):
    now = timezone.now()
    WorkerFactory(name="mac1.1.1", seen_at=now - timedelta(days=8))
    WorkerFactory(name="mac1.2.1", seen_at=now - timedelta(days=8), stopped_at=now - timedelta(days=8))
    WorkerFactory(name="mac1.3.1", seen_at=now - timedelta(days=6))
    with present(n_processes=1):
        assert set(Worker.objects.values_list("name", flat=True)) == {"mac1.3.1", this_process()}


def test_json_has_the_same_facts(capsys):
    SubbandGroupFactory()
    call_command("status", "--json")
    facts = json.loads(capsys.readouterr().out)
    assert facts["groups"]["unprocessed"] == 1
    assert facts["strip_dec_deg"] == 16.1


def test_sidereal_time_is_that_of_the_almanac():
    """GMST at J2000.0 (2000-01-01 12:00 UT1) is 18.697374558 h; the longitude is subtracted (118.2817 deg / 15)."""
    expected = (18.697374558 - 118.2817 / 15) % 24
    found = local_sidereal_time_h(datetime(2000, 1, 1, 12, tzinfo=UTC))
    assert found == pytest.approx(expected, abs=2 / 3600)  # the equation of the equinoxes, and UT1-UTC


def test_the_next_transit_is_when_the_calibrator_is_on_the_meridian():
    Calibrator.objects.all().delete()
    now = datetime(2026, 3, 20, 3, tzinfo=UTC)
    SubbandGroupFactory(started_at=now - timedelta(minutes=5))
    when = now + timedelta(hours=7)
    (ra_deg,), (dec_deg,) = meridian_icrs([when], [16.1])
    near = CalibratorFactory(ra_deg=ra_deg, dec_deg=dec_deg)
    CalibratorFactory(ra_deg=ra_deg - 10, dec_deg=dec_deg + 5)  # sooner, but never in the beam
    CalibratorFactory(ra_deg=ra_deg + 30, dec_deg=dec_deg)
    CalibratorFactory(ra_deg=ra_deg - 10, dec_deg=dec_deg, is_retired=True)
    transit = status(now=now)["next_transit"]
    assert transit["calibrator"] == near.name
    assert abs(transit["at"] - when) < timedelta(seconds=30)


def test_the_number_of_queries_does_not_grow():
    def n_queries() -> int:
        with CaptureQueriesContext(connection) as captured:
            status()
        return len(captured)

    def make() -> None:
        SubbandGroupFactory(n_subbands=3)
        WorkerFactory()
        item = ItemFactory(state=State.FAILED, error_code="bad_visibilities", finished_at=timezone.now())
        AttemptFactory(item=item)
        ItemFactory(batch=BatchFactory(stage="process", n_ready=6, n_total=6))
        ItemFactory(state=State.RUNNING, started_at=timezone.now(), lease_until=timezone.now(), worker="mac1.1.1")

    make()
    few = n_queries()
    for _ in range(20):
        make()
    assert n_queries() == few <= 24
