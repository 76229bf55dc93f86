"""`manage.py watch` as an operator runs it: a real process, and files that land under its eyes."""

from __future__ import annotations

import json
import random
import shutil
import time
from datetime import timedelta
from pathlib import Path

import pytest

from batch.models import Batch, Item, Worker
from batch.watching import Watch
from observations.models import SubbandGroup
from observations.services import index_subbands
from tests.batch.installation import Installation, until
from tests.batch.nights import SETTINGS, tiles_of
from tests.batch.trivial import behave
from tests.batch.undisturbed import check_as_undisturbed, content
from tests.factories import MeasurementSetFactory
from tests.observations.subband_files import NIGHT, TILE_S, touch, write_subband, write_tile

pytest_plugins = ["tests.batch.installation", "tests.batch.nights"]
SECOND = NIGHT + timedelta(seconds=TILE_S)
QUICK = ("--every-s", "0.3", "--json")


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    folder = tmp_path / "raw"
    folder.mkdir()
    return folder


def events(installation: Installation, kind: str) -> list[dict]:
    lines = [json.loads(line) for line in installation.said().splitlines() if line.startswith("{")]
    return [line for line in lines if line["kind"] == kind]


def told(installation: Installation, kind: str, n: int = 1) -> list[dict]:
    """The events of a kind, when there are so many."""
    until(lambda: len(events(installation, kind)) >= n, within_s=120)
    return events(installation, kind)


def sizes() -> dict[int, int]:
    return dict(SubbandGroup.objects.order_by("started_at").values_list("n_files", "size_bytes"))


def test_tiles_are_taken_as_they_land_late_files_waited_for_and_taken_again(installation, raw):
    watch = installation.start("watch", str(raw), "--settle-s", "4", *QUICK)
    write_tile(raw)
    assert "16 of 16 subbands" in told(installation, "asked")[0]["text"]
    told(installation, "done")
    assert Worker.objects.alive().get().n_processes == 1

    for path in write_tile(raw, SECOND, subbands=range(14)):
        touch(path, seconds_ago=86_400)  # copies that keep their original's time are new all the same
    until(lambda: SubbandGroup.objects.count() == 2)
    late = write_subband(raw, 14, SECOND)
    touch(late, seconds_ago=86_400)
    until(lambda: SubbandGroup.objects.filter(n_files=15).exists())
    assert len(events(installation, "asked")) == 1, "more may come for it"
    assert "15 of 16 subbands, sb15 missing" in told(installation, "asked", 2)[1]["text"]
    told(installation, "done", 2)
    write_subband(raw, 15, SECOND)
    assert "16 of 16 subbands" in told(installation, "asked", 3)[2]["text"]
    told(installation, "done", 3)

    watch.terminate()
    assert watch.wait(30) == 0, installation.said()
    assert installation.processes() == []
    assert Worker.objects.alive().count() == 0
    assert [batch.n_total for batch in Batch.objects.order_by("id")] == [6, 6, 6]


def test_what_is_wrong_is_told_once_and_holds_up_nothing(installation, raw):
    installation.start("watch", str(raw), "--settle-s", "1", *QUICK)
    (raw / "2025-03-01T04:00:00_sb00.hdf5").write_bytes(b"no HDF5")
    for path in write_tile(raw, subbands=range(1, 8)):
        touch(path, seconds_ago=60)
    write_tile(raw, SECOND)
    assert "sb00.hdf5 refused: " in told(installation, "refused")[0]["text"]
    assert "7 of 16 subbands" in told(installation, "left")[0]["text"]
    told(installation, "done")
    raw.rename(raw.with_name("away"))
    assert "cannot be read" in told(installation, "folder")[0]["text"]
    time.sleep(1)
    raw.with_name("away").rename(raw)
    write_tile(raw, SECOND + timedelta(seconds=TILE_S))
    told(installation, "done", 2)
    assert [len(events(installation, kind)) for kind in ("refused", "left", "folder")] == [1, 1, 1]


def test_stopped_and_started_again_it_goes_on_and_asks_for_nothing_twice(installation, raw):
    write_tile(raw)
    write_tile(raw, SECOND)
    assert installation.start("index_subbands", str(raw)).wait() == 0
    bad, slow = SubbandGroup.objects.order_by("started_at")
    behave(bad, "fail")
    behave(slow, "hang")
    watch = installation.start("watch", str(raw), *QUICK)
    assert "The data are bad" in told(installation, "failed")[0]["text"]
    until(lambda: Item.objects.running().filter(group=slow).exists())
    watch.kill()
    behave(slow, "sleep 0")
    again = installation.start("watch", str(raw), *QUICK)
    told(installation, "done")
    time.sleep(1)
    assert Batch.objects.count() == 1
    assert len(events(installation, "failed")) == 1
    assert SubbandGroup.objects.get(pk=slow.pk).size_bytes == slow.size_bytes + 6
    again.terminate()
    assert again.wait(30) == 0


def test_the_work_may_be_left_to_workers_elsewhere(install, raw):
    installation = install("sqlite", CONTIMG_SWEEP_S=1)
    write_tile(raw)
    installation.start("watch", str(raw), "--workers", "0", *QUICK)
    told(installation, "asked")
    time.sleep(1.5)
    assert Item.objects.ready().count() == 1
    installation.start("worker", "--processes", "1", log="worker")
    told(installation, "done")


@pytest.mark.django_db
def test_a_copy_of_a_file_of_a_processed_tile_is_told_and_its_removal_asks_anew(raw):
    tile = write_tile(raw)
    index_subbands(folder=raw)
    MeasurementSetFactory(group=SubbandGroup.objects.get())
    watch = Watch(raw, settle_s=0, parameters={})
    assert [news.kind for news in watch.look()] == ["asked"]
    (raw / "copy").mkdir()
    copy = Path(shutil.copy(tile[3], raw / "copy"))
    (told,) = watch.look()
    assert told.kind == "left"
    assert "sb03 more than once: not processed again" in told.text
    assert told.text.endswith("[group_overfull]")
    assert watch.look() == []
    Item.objects.update(state="done")
    copy.unlink()
    assert [news.kind for news in watch.look()] == ["asked"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["nowhere"], "nowhere is no folder"),
        ([".", "--workers", "-1"], "--workers -1 is not from 0 to 64"),
        ([".", "--every-s", "0"], "--every-s 0.0 is not above 0"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(install, arguments, sentence):
    installation = install("sqlite")
    assert installation.start("watch", *arguments).wait(60) == 1
    assert sentence in installation.said()


@pytest.mark.slow
def test_a_night_that_lands_file_by_file_ends_as_one_that_was_processed(install, night, raw):
    installation = install("sqlite", stages="batch.stages.STAGES", **SETTINGS)
    watch = installation.start("watch", str(raw), *QUICK)
    chance = random.Random(4)
    for path in (file for tile in tiles_of(night) for file in chance.sample(tile, len(tile))):
        part = raw / f".{path.name}"
        shutil.copy(path, part)
        part.rename(raw / path.name)
        time.sleep(0.05)
    until(lambda: len(events(installation, "done")) == 4, within_s=240)
    watch.terminate()
    assert watch.wait(60) == 0
    landed = content()

    processed = install("sqlite", stages="batch.stages.STAGES", **SETTINGS)
    assert processed.start("process", str(raw), "--settle-s", "0").wait() == 0, processed.said()
    check_as_undisturbed(processed, landed)
