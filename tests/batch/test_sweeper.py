from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path

import pytest

from batch.services import create_batch
from batch.sweeper import IMAGE_COLUMNS, Sweeper, products_of, remove_unnamed
from batch.sweeper import sweep_files as sweep
from batch.transitions import claim, wait_for_calibration
from contimg.products import JOURNAL, WORK_FOLDER, database_tag, note, publish, this_process, workspace
from tests.batch.installation import PROJECT
from tests.batch.nights import dead_process
from tests.factories import (
    CalibrationTableFactory,
    FlagTableFactory,
    ImageFactory,
    MeasurementSetFactory,
    SubbandGroupFactory,
)

pytest_plugins = ["tests.batch.installation"]
pytestmark = pytest.mark.django_db


def put(root: Path, relative: str) -> Path:
    path = root / relative
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("x")
    return path


def put_table(root: Path, relative: str) -> Path:
    """A CASA table is a folder."""
    put(root, f"{relative}/table.dat")
    put(root, f"{relative}/ANTENNA/table.dat")
    return root / relative


def left_behind(root: Path, *journal: str, owner: str | None = None, tag: str | None = None) -> Path:
    """The work folder of a killed process, with what its journal names."""
    folder = root / WORK_FOLDER / f"{tag or database_tag()}-{owner or dead_process()}-abc"
    folder.mkdir(parents=True)
    note(folder, journal)
    return folder


def files(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


def test_what_a_dead_process_published_without_a_row_goes_with_its_work_folder(products_root):
    put(products_root, "images/2026-03-20/tile.1a.fits")
    put_table(products_root, "measurement_sets/tile.2b.ms")
    folder = left_behind(products_root, "images/2026-03-20/tile.1a.fits", "measurement_sets/tile.2b.ms")

    assert sorted(sweep()) == ["images/2026-03-20/tile.1a.fits", "measurement_sets/tile.2b.ms"]
    assert files(products_root) == set()
    assert not folder.exists()
    assert sweep() == []


def test_a_file_that_no_journal_names_is_never_touched(products_root):
    """The products root may be somebody's folder of other data, by a wrong setting."""
    kept = {"notes.txt", "raw/2026-03-20T01:00:00_sb00.hdf5", "images/tile.1a.fits"}
    for relative in kept:
        put(products_root, relative)
    left_behind(products_root, "images/tile.2b.fits")

    assert sweep() == ["images/tile.2b.fits"]
    assert files(products_root) == kept


def test_the_products_of_another_database_are_never_touched(products_root):
    put(products_root, "images/theirs.fits")
    theirs = left_behind(products_root, "images/theirs.fits", tag="0" * 8)

    assert sweep() == []
    assert theirs.exists()
    assert (products_root / "images/theirs.fits").exists()


def everything_named(root: Path) -> Iterable[str]:
    """A file for every column that names one, of current, superseded and retired products."""
    paths = {column: f"images/{column}.fits" for column in IMAGE_COLUMNS if column != "path"}
    ImageFactory(path="images/path.fits", is_current=False, **paths)
    MeasurementSetFactory(path="measurement_sets/x.ms")
    FlagTableFactory(path="flags/x.h5")
    CalibrationTableFactory(path="calibration/x.B", is_retired=True)
    single = [*paths.values(), "images/path.fits", "flags/x.h5"]
    for path in single:
        put(root, path)
    for path in ("measurement_sets/x.ms", "calibration/x.B"):
        put_table(root, path)
    return [*single, "measurement_sets/x.ms", "calibration/x.B"]


def test_every_path_that_a_row_names_is_kept_although_a_journal_names_it(products_root):
    left_behind(products_root, *everything_named(products_root))
    before = files(products_root)

    assert sweep() == []
    assert files(products_root) == {path for path in before if not path.startswith(WORK_FOLDER)}


def test_work_folders_of_living_processes_stay(products_root):
    alive = left_behind(products_root, "images/new.fits", owner=this_process())
    put(products_root, "images/new.fits")

    with workspace() as mine:
        assert sweep() == []
        assert alive.exists()
        assert mine.exists()
    assert (products_root / "images/new.fits").exists()


def test_a_journal_line_that_a_kill_cut_off_removes_nothing(products_root):
    put(products_root, "images/tile.fits")
    folder = left_behind(products_root)
    (folder / JOURNAL).write_text("images/tile.fits")  # no end of line: it was being written

    assert sweep() == []
    assert (products_root / "images/tile.fits").exists()


def test_a_journal_cannot_lead_out_of_the_products_root(products_root):
    outside = put(products_root.parent, "outside.fits")
    left_behind(products_root, "../outside.fits")

    with pytest.raises(Exception, match="leaves its folder"):
        sweep()
    assert outside.exists()


def test_a_run_that_was_killed_leaves_nothing_behind(install):
    """The real thing: a child killed between its rename and its commit, with a work folder open."""
    installation = install("sqlite")
    root = installation.folder / "products"
    program = """
import os, signal
import django
django.setup()
from contimg.products import publish, workspace
with workspace() as folder:
    (folder / "done.fits").write_text("x"); (folder / "half.fits").write_text("x")
    publish(folder / "done.fits", "images/done.fits")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", program], check=False, env=installation.environment, cwd=PROJECT)
    assert done.returncode == -9
    assert len(list(root.rglob("*.fits"))) == 2

    assert len(sweep()) == 1
    assert files(root) == set()


def test_a_root_that_is_a_link_is_swept_too(products_root, tmp_path, settings):
    settings.CONTIMG_PRODUCTS_ROOT = tmp_path / "linked"
    settings.CONTIMG_PRODUCTS_ROOT.symlink_to(products_root)
    put(products_root, "images/orphan.fits")
    left_behind(products_root, "images/orphan.fits")

    assert sweep() == ["images/orphan.fits"]


def test_an_empty_root_has_nothing_to_sweep(products_root):
    assert sweep() == []


@pytest.mark.parametrize("subject_is_known", [True, False])
def test_what_was_published_and_recorded_is_kept_and_what_was_not_goes(products_root, subject_is_known):
    with workspace() as folder:
        for name in ("recorded", "lost"):
            put(folder, f"{name}.fits")
        image = ImageFactory(path=(kept := publish(folder / "recorded.fits", "images/recorded.fits")))
        lost = publish(folder / "lost.fits", "images/lost.fits")

        subject = image.measurement_set.group if subject_is_known else None
        assert remove_unnamed(folder, subject=subject) == [lost]
    assert files(products_root) == {kept}


def test_the_products_of_a_tile_are_those_of_all_its_versions():
    old, new = ImageFactory(path="images/old.fits", is_current=False), ImageFactory(path="images/new.fits")
    tile = old.measurement_set.group

    assert "images/old.fits" in set(products_of(tile))
    assert new.path not in set(products_of(tile))


@pytest.mark.parametrize(
    ("kinds", "hours", "strip_deg", "state"),
    [("BG", 0, 0, "ready"), ("B", 0, 0, "waiting"), ("BG", 13, 0, "waiting"), ("BG", 0, 5, "waiting")],
)
def test_a_tile_that_waits_for_calibration_looks_again_when_there_are_tables_whoever_told(
    kinds, hours, strip_deg, state
):
    """They may have come between its look and its waiting, and who solved them may have died before he told."""
    tile = SubbandGroupFactory()
    batch = create_batch(stage="apply", subjects=[("subband_group", tile.pk)]).batch
    held = claim(worker=this_process(), host="")
    source = MeasurementSetFactory(observed_at=tile.observed_at - timedelta(hours=hours))
    for kind in kinds:
        CalibrationTableFactory(
            set_name="cal", kind=kind, source_measurement_set=source, dec_deg=tile.pointing_dec_deg + strip_deg
        )
    wait_for_calibration(held, code="waiting_for_calibration", detail="")

    Sweeper().sweep()
    assert batch.items.get().state == state
