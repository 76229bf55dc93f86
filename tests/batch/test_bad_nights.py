"""What befalls the real stages of a small night: killed where it hurts, a full disk, products that vanish."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from django.core.management import call_command

from batch.models import Attempt, Batch, Item
from batch.runner import run_batch_here
from batch.services import create_batch
from batch.stages import CHAIN
from calibration.models import CalibrationTable, FlagTable
from contimg.products import products_root, work_folders
from images.models import Image
from observations.models import MeasurementSet, SubbandGroup
from observations.services import index_subbands
from qa.models import Assessment
from tests.batch import misfortune
from tests.batch.installation import Installation, skip_or_fail, until
from tests.batch.misfortune import POINTS, pending, resize, strike
from tests.batch.nights import PLAN, SETTINGS, simulate
from tests.batch.undisturbed import check_as_undisturbed, content, orphans

pytest_plugins = ["tests.batch.installation"]
QUICK = {"CONTIMG_LEASE_S": 4, "CONTIMG_SWEEP_S": 0.5, "CONTIMG_MAX_KILLS": 1000, "CONTIMG_MAX_TRIES": 1000}
IS_LONG_RUN = "CONTIMG_TEST_KILLS" in os.environ
ROOM_BYTES = 4_000_000_000  # of the disk, most of which is never written to


@pytest.fixture(scope="module")
def one_night(tmp_path_factory) -> Path:
    """A calibrator's tile and a science tile."""
    return simulate(tmp_path_factory.mktemp("night"), replace(PLAN, nights=1))


@pytest.fixture(scope="module")
def one_tile(one_night, tmp_path_factory) -> Path:
    """The calibrator's."""
    folder = tmp_path_factory.mktemp("tile")
    files = sorted(one_night.glob("*.hdf5"))
    for path in files[: len(files) // 2]:
        shutil.copy2(path, folder)
    return folder


def undisturbed(folder: Path, install: Callable[..., Installation], made: dict[Path, dict]) -> dict[str, list]:
    """What a run that nothing befalls makes of the folder, made once in this module."""
    if folder not in made:
        installation = install("sqlite", stages="batch.stages.STAGES", **SETTINGS)
        process(folder)
        made[folder] = content()
        assert orphans(installation) == set()
    return made[folder]


@pytest.fixture(scope="module")
def made() -> dict[Path, dict]:
    return {}


def process(folder: Path) -> None:
    call_command("process", folder, settle_s=0, workers=0, stdout=StringIO(), stderr=StringIO())


def asked(folder: Path) -> Batch:
    index_subbands(folder=folder)
    tiles = SubbandGroup.objects.order_by("started_at").values_list("pk", flat=True)
    return create_batch(stage="process", subjects=[("subband_group", pk) for pk in tiles]).batch


def ended(batch: Batch) -> bool:
    """What waits for its next try is not kept waiting."""
    Item.objects.ready().exclude(not_before=None).update(not_before=None)
    batch.refresh_from_db()
    return batch.n_open == 0


# --- killed ----------------------------------------------------------------------------------------------------------
@pytest.mark.slow
def test_killed_at_every_point_of_every_stage_a_night_ends_as_undisturbed(one_night, install, made):
    expected = undisturbed(one_night, install, made)
    installation = install("sqlite", stages=misfortune.PATH, **QUICK, **SETTINGS)
    kills = [(stage, point) for stage in CHAIN for point in POINTS]
    for number, (stage, point) in enumerate(kills):
        strike(stage, point, "worker" if number % 5 == 0 else "child")  # each point is a worker's last at some stage
    batch = asked(one_night)
    worker = installation.start("worker", "--processes", "2")
    until(lambda: ended(batch), within_s=400, every_s=0.2)

    assert batch.state == "done", installation.said()
    assert pending() == []
    assert worker.poll() is None
    outcomes = Counter(Attempt.objects.values_list("outcome", flat=True))
    n_lost = len(kills) - len(CHAIN)  # what is killed when its record has committed is done
    assert outcomes == {"done": batch.n_total, "lost": n_lost}
    installation.kill_all()
    check_as_undisturbed(installation, expected)


# --- a full disk -----------------------------------------------------------------------------------------------------
@pytest.fixture
def disk(one_tile, install) -> Iterator[Installation]:
    """An installation whose products are on a disk of their own."""
    installation = install("sqlite", stages=misfortune.PATH, **QUICK, **SETTINGS)
    place = products_root()
    command = ["mount", "-t", "tmpfs", "-o", f"size={ROOM_BYTES}", "tmpfs", str(place)]
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("SKIPPED: mounting a small file system needs root.")
    if subprocess.run(command, check=False).returncode:
        skip_or_fail("SKIPPED: root may not mount a small file system here.")
    yield installation
    installation.kill_all()
    subprocess.run(["umount", "-l", str(place)], check=True)


# When so many bytes are left, or when so many were written: in the first file, in casacore, in its `cp`. The second
# way is a race with the engine, which a busy machine may lose: it is in the long run only.
ROOM = (("convert", "room", 10_000), ("calibrate", "room", 4096), ("apply", "room", 4096), ("image", "room", 4096))
LATER = (
    ("convert", "later", 300_000),
    ("calibrate", "later", 100_000),
    ("apply", "later", 300_000),
    ("image", "later", 4096),
    ("image", "later", 1_000_000),
)
FILLS = sorted(ROOM + LATER * IS_LONG_RUN, key=lambda fill: CHAIN.index(fill[0]))


@pytest.mark.slow
def test_a_disk_that_fills_up_under_a_stage_leaves_nothing_half_and_it_is_done_when_there_is_room(one_tile, disk):
    batch = asked(one_tile)
    worker = None
    for stage, how, n_bytes in FILLS:
        item = batch.items.get(stage=stage)
        strike(stage, "before", f"{how} {n_bytes}")
        worker = worker or disk.start("worker")
        Item.objects.ready().update(not_before=None)
        until(lambda item=item: _has_failed(item), within_s=120)
        assert (item.state, item.error_code) == ("ready", "disk_full"), (stage, how, item.error_detail)
        assert MADE[stage].objects.count() == (stage == "apply"), "of apply there is the raw set only"
        assert orphans(disk) == set()
        assert work_folders() == []
        resize(products_root(), ROOM_BYTES)
    until(lambda: ended(batch), within_s=120, every_s=0.2)
    assert batch.state == "done"
    assert Counter(Attempt.objects.values_list("outcome", flat=True)) == {"failed": len(FILLS), "done": len(CHAIN)}
    assert worker is not None
    assert worker.poll() is None


MADE = {"convert": MeasurementSet, "calibrate": FlagTable, "apply": MeasurementSet, "image": Image}


def _has_failed(item: Item) -> bool:
    """Once more, which is known when it has left the state `running`."""
    tries = item.attempt
    item.refresh_from_db()
    if item.state == "running" or not item.attempts.filter(number__gt=tries, outcome="failed").exists():
        item.attempt = tries
        return False
    return True


# --- products that vanish --------------------------------------------------------------------------------------------
VANISHING = (  # the stage that made it, what it is, the stage after which it is deleted, and the stage that misses it
    ("convert", lambda: MeasurementSet.objects.uncalibrated().get().path, "convert", "calibrate"),
    ("convert", lambda: MeasurementSet.objects.uncalibrated().get().path, "calibrate", "apply"),
    ("calibrate", lambda: FlagTable.objects.get().path, "calibrate", "apply"),
    ("calibrate", lambda: CalibrationTable.objects.get(kind="B").path, "calibrate", "apply"),
    ("apply", lambda: MeasurementSet.objects.calibrated().get().path, "apply", "image"),
    ("image", lambda: Image.objects.get().path, "image", "assess"),
    ("image", lambda: Image.objects.get().path, "assess", "photometry"),
    ("image", lambda: Image.objects.get().flat_noise_path, "assess", "photometry"),
)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("made_by", "path", "after", "missed_by"),
    VANISHING,
    ids=[f"what {row[0]} made, after {row[2]}" for row in VANISHING],
)
def test_a_product_deleted_between_two_stages_is_missed_in_a_sentence_and_made_again(
    one_tile, install, made, made_by, path, after, missed_by
):
    expected = undisturbed(one_tile, install, made)
    installation = install("sqlite", stages="batch.stages.STAGES", **SETTINGS)
    batch = asked(one_tile)
    deleted = []

    def delete(batch: Batch) -> None:
        if not deleted and batch.items.get(stage=after).state == "done":
            deleted.append(products_root() / path())
            remove(deleted[0])

    run_batch_here(batch=batch, watch=delete)
    items = list(batch.items.order_by("id").values_list("stage", "state", "error_code"))
    n_done = CHAIN.index(missed_by)
    assert items == [
        *((stage, "done", "") for stage in CHAIN[:n_done]),
        (missed_by, "failed", "missing_product"),
        *((stage, "failed", "dependency_failed") for stage in CHAIN[n_done + 1 :]),
    ]
    detail = batch.items.get(stage=missed_by).error_detail
    assert deleted[0].name in detail
    assert "make it again with `process`" in detail
    assert orphans(installation) == set()

    process(one_tile)
    again = Batch.objects.latest("id")
    worked = [item.stage for item in again.items.order_by("id").with_latest_attempt() if item.did_work]
    assert worked[0] == made_by
    Assessment.objects.filter(is_current=False).delete()  # the verdict on the tables that were deleted is history
    check_as_undisturbed(installation, expected)


def remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()
