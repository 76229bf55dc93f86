from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from batch.sweeper import GRACE_S, PATH_COLUMNS, sweep
from contimg.products import WORK_FOLDER, publish, workspace
from tests.factories import CalibrationTableFactory, FlagTableFactory, ImageFactory, MeasurementSetFactory

pytestmark = pytest.mark.django_db
NOW = {"grace_s": -1}  # ctimes cannot be set back, so the grace is


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


def dead_process() -> int:
    """The number of a process that has ended."""
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return child.pid


def test_products_that_no_row_names_are_removed(products_root):
    put(products_root, "images/2026-03-20/tile.1a.fits")
    put_table(products_root, "measurement_sets/tile.2b.ms")

    removed = sweep(**NOW)

    assert sorted(removed) == ["images/2026-03-20/tile.1a.fits", "measurement_sets/tile.2b.ms"]
    assert not (products_root / "measurement_sets/tile.2b.ms").exists()
    assert sweep(**NOW) == []


def test_every_path_that_a_row_names_is_kept(products_root):
    paths = {column: f"images/{column}.fits" for _, column in PATH_COLUMNS if column != "path"}
    ImageFactory(path="images/path.fits", **paths)
    for path in [*paths.values(), "images/path.fits"]:
        put(products_root, path)
    MeasurementSetFactory(path="measurement_sets/x.ms")
    put_table(products_root, "measurement_sets/x.ms")
    FlagTableFactory(path="flags/x.h5")
    put(products_root, "flags/x.h5")
    CalibrationTableFactory(path="calibration/x.B")
    put_table(products_root, "calibration/x.B")

    assert sweep(**NOW) == []
    assert (products_root / "measurement_sets/x.ms/ANTENNA/table.dat").exists()


def test_a_superseded_or_retired_product_is_still_a_product(products_root):
    ImageFactory(path="images/old.fits", is_current=False)
    CalibrationTableFactory(path="calibration/old.B", is_retired=True)
    put(products_root, "images/old.fits")
    put_table(products_root, "calibration/old.B")

    assert sweep(**NOW) == []


def test_the_younger_brother_of_a_named_file_goes(products_root):
    ImageFactory(path="images/tile.1.fits")
    put(products_root, "images/tile.1.fits")
    put(products_root, "images/tile.2.fits")

    assert sweep(**NOW) == ["images/tile.2.fits"]


def test_young_files_are_left_alone(products_root):
    """Between the rename and the commit a product has no row yet."""
    put(products_root, "images/new.fits")
    put_table(products_root, "measurement_sets/new.ms")

    assert sweep() == []
    assert GRACE_S >= 30


def test_old_content_renamed_just_now_is_young(products_root):
    old = put(products_root, ".work/1/x.fits")
    os.utime(old, (0, 0))
    (products_root / "images").mkdir()
    old.rename(products_root / "images" / "x.fits")

    assert sweep() == []


def test_work_folders_of_dead_processes_go_and_those_of_living_ones_stay(products_root):
    put(products_root, f"{WORK_FOLDER}/{dead_process()}-abc/half.fits")
    alive = put(products_root, f"{WORK_FOLDER}/{os.getppid()}-abc/half.fits")

    with workspace() as mine:
        [removed] = sweep(**NOW)

        assert removed.endswith("-abc")
        assert alive.exists()
        assert mine.exists()


def test_a_run_that_was_killed_leaves_nothing_behind(products_root):
    """The real thing: a child killed between its rename and its commit, with a work folder open."""
    program = f"""
import os, signal
from django.conf import settings
settings.configure(CONTIMG_PRODUCTS_ROOT={str(products_root)!r})
from contimg.products import publish, workspace
with workspace() as folder:
    (folder / "done.fits").write_text("x"); (folder / "half.fits").write_text("x")
    publish(folder / "done.fits", "images/done.fits")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == -9
    assert len(list(products_root.rglob("*.fits"))) == 2

    assert len(sweep(**NOW)) == 2
    assert not list(products_root.rglob("*.fits"))


def test_hidden_entries_and_the_lock_are_not_products(products_root):
    put(products_root, ".lock")
    put(products_root, "images/.nfs0001")

    assert sweep(**NOW) == []


def test_a_root_that_is_a_link_is_swept_too(products_root, tmp_path, settings):
    settings.CONTIMG_PRODUCTS_ROOT = tmp_path / "linked"
    settings.CONTIMG_PRODUCTS_ROOT.symlink_to(products_root)
    put(products_root, "images/orphan.fits")

    assert sweep(**NOW) == ["images/orphan.fits"]


def test_an_empty_root_has_nothing_to_sweep(products_root):
    assert sweep(**NOW) == []


def test_what_was_published_and_recorded_is_kept(products_root):
    with workspace() as folder:
        put(folder, "x.fits")
        ImageFactory(path=publish(folder / "x.fits", "images/x.fits"))

    assert sweep(**NOW) == []
