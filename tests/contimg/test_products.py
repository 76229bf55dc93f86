"""Products: temporary name, durable, renamed; nothing leaves the root and a full disk is an error with a code."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from astropy.io import fits
from django.db import OperationalError

from contimg.exceptions import DiskFull, MissingProduct, NotWritable, OutsideRoot, ProductsAway
from contimg.products import (
    WORK_FOLDER,
    digest,
    inside,
    is_gone,
    owner_of,
    product_path,
    publish,
    require_writable_roots,
    size_bytes,
    this_process,
    workspace,
    write_whole,
)
from tests.contimg.test_commands import manage

pytest_plugins = ["tests.batch.installation"]
pytestmark = pytest.mark.django_db  # work folders are named after the installation


# --- files of text ---------------------------------------------------------------------------------------------------
def test_a_reader_of_what_is_replaced_has_the_old_text_whole_and_no_other_file_is_left(tmp_path):
    path = tmp_path / "page.html"
    before = set(tmp_path.iterdir())
    write_whole(path, "old")
    with path.open() as reader:
        write_whole(path, "new ✕")
        assert reader.read() == "old"
    assert path.read_text(encoding="utf-8") == "new ✕"
    assert set(tmp_path.iterdir()) - before == {path}


def test_a_write_that_fails_leaves_what_was_there(tmp_path):
    path = tmp_path / "page.html"
    before = set(tmp_path.iterdir())
    write_whole(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_whole(path, "half \udc80")
    assert path.read_text() == "old"
    assert set(tmp_path.iterdir()) - before == {path}


# --- publishing ------------------------------------------------------------------------------------------------------
@pytest.fixture
def made(products_root) -> Path:
    path = products_root / WORK_FOLDER / "1-x" / "x.fits"
    path.parent.mkdir(parents=True)
    path.write_text("pixels")
    return path


def test_a_product_is_moved_to_a_path_of_its_own(made, products_root):
    relative = publish(made, "images/2026/x.fits")

    assert (products_root / relative).read_text() == "pixels"
    assert relative.startswith("images/2026/x.")
    assert relative.endswith(".fits")
    assert not made.exists()


def test_two_products_of_one_name_do_not_meet(made, products_root):
    first = publish(made, "images/x.fits")
    made.write_text("other pixels")
    second = publish(made, "images/x.fits")

    assert first != second
    assert (products_root / first).read_text() == "pixels"


def test_a_folder_is_published_whole(products_root):
    made = products_root / WORK_FOLDER / "1-x" / "x.ms"
    (made / "ANTENNA").mkdir(parents=True)
    (made / "table.dat").write_text("main")
    (made / "ANTENNA" / "table.dat").write_text("antennas")

    relative = publish(made, "measurement_sets/x.ms")

    assert (products_root / relative / "ANTENNA" / "table.dat").read_text() == "antennas"
    assert size_bytes(products_root / relative) == len("main") + len("antennas")


def test_files_and_folders_are_synced_before_the_rename_and_the_parent_after(products_root, tmp_path):
    """As the kernel saw it: strace would do, an audit hook in a child process needs no privilege."""
    program = f"""
import os, sys
import django
from django.conf import settings
settings.configure(CONTIMG_PRODUCTS_ROOT={str(products_root)!r})
real_fsync = os.fsync
from pathlib import Path
from contimg.products import publish
made = Path({str(products_root)!r}, ".work", "1-x", "made.ms"); (made / "SUB").mkdir(parents=True)
(made / "table.dat").write_text("x"); (made / "SUB" / "table.dat").write_text("y")
def fsync(descriptor):
    print("sync", os.readlink(f"/proc/self/fd/{{descriptor}}")); real_fsync(descriptor)
os.fsync = fsync
def hook(event, arguments):
    if event == "os.rename": print("rename", arguments[0])
sys.addaudithook(hook)
publish(made, "sets/made.ms")
"""
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    events = [line.replace(f"{products_root}/", "").replace(".work/1-x/", "") for line in out.splitlines()]

    assert set(events[:4]) == {
        "sync made.ms", "sync made.ms/table.dat", "sync made.ms/SUB", "sync made.ms/SUB/table.dat"
    }  # fmt: skip
    assert events[4:] == ["sync .journal", "rename made.ms", "sync sets"]


# --- staying inside --------------------------------------------------------------------------------------------------
ESCAPES = ["../secret", "/etc/passwd", "images/../../secret", "..", "link/secret", "images/./../../x"]


@pytest.mark.parametrize("relative", ESCAPES)
@pytest.mark.parametrize("root_is_a_link", [False, True])
def test_a_path_that_leaves_the_root_is_refused(tmp_path, settings, relative, root_is_a_link):
    real = tmp_path / "real"
    (real / "images").mkdir(parents=True)
    (tmp_path / "secret").write_text("secret")
    (real / "link").symlink_to(tmp_path)
    root = real
    if root_is_a_link:
        root = tmp_path / "linked"
        root.symlink_to(real)
    settings.CONTIMG_PRODUCTS_ROOT = root

    with pytest.raises(OutsideRoot, match="leaves its folder"):
        product_path(relative)
    with pytest.raises(OutsideRoot):
        inside(root, relative)


def test_a_root_that_is_a_link_works(tmp_path, settings):
    (tmp_path / "disk").mkdir()
    settings.CONTIMG_PRODUCTS_ROOT = tmp_path / "linked"
    (tmp_path / "linked").symlink_to(tmp_path / "disk")
    with workspace() as folder:
        (folder / "x.fits").write_text("pixels")
        relative = publish(folder / "x.fits", "images/x.fits")

    assert product_path(relative).read_text() == "pixels"
    assert (tmp_path / "disk" / relative).exists()


def test_a_link_inside_the_root_to_another_place_inside_is_followed(products_root):
    (products_root / "a").mkdir()
    (products_root / "a" / "x").write_text("x")
    (products_root / "b").symlink_to(products_root / "a")

    assert product_path("b/x").read_text() == "x"


def test_a_sibling_with_the_roots_name_as_prefix_is_outside(tmp_path, settings):
    settings.CONTIMG_PRODUCTS_ROOT = tmp_path / "data"
    (tmp_path / "data").mkdir()
    (tmp_path / "data2").mkdir()

    with pytest.raises(OutsideRoot):
        product_path("../data2")


def test_publishing_outside_is_refused_and_nothing_moves(made):
    with pytest.raises(OutsideRoot):
        publish(made, "../x.fits")

    assert made.exists()


def test_a_product_that_is_gone_is_named():
    with pytest.raises(MissingProduct, match=r"images/x\.fits is not on disk any more"):
        product_path("images/x.fits")


# --- the work folder -------------------------------------------------------------------------------------------------
def test_the_work_folder_is_private_named_by_process_and_gone_afterwards(products_root):
    with workspace() as folder, workspace() as other:
        assert folder != other
        assert owner_of(folder) == this_process()
        assert folder.parent == products_root / WORK_FOLDER
        assert folder.stat().st_mode & 0o077 == 0

    assert list((products_root / WORK_FOLDER).iterdir()) == []


@pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt(), OSError(errno.EACCES, "not allowed")])
def test_the_work_folder_is_removed_whatever_happens_and_the_error_goes_on(products_root, error):
    def fail() -> None:
        with workspace() as folder:
            (folder / "half.fits").write_text("half")
            raise error

    with pytest.raises(type(error)) as caught:
        fail()

    assert caught.value is error
    assert list((products_root / WORK_FOLDER).iterdir()) == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_or_quota_is_disk_full(products_root, number):
    with pytest.raises(DiskFull, match="nothing was recorded") as caught, workspace():
        raise OSError(number, os.strerror(number))

    assert (caught.value.code, caught.value.permanent) == ("disk_full", False)
    assert list((products_root / WORK_FOLDER).iterdir()) == []


# --- a disk that is really full --------------------------------------------------------------------------------------
def by_hand(folder: Path) -> None:
    (folder / "x").write_bytes(b"0" * 10**6)


def by_astropy(folder: Path) -> None:
    fits.PrimaryHDU(np.zeros((600, 600), np.float32)).writeto(folder / "x.fits")


def by_h5py(folder: Path) -> None:
    with h5py.File(folder / "x.h5", "w") as file:
        file["x"] = np.random.default_rng(1).random(10**5)


def by_matplotlib(folder: Path) -> None:
    from matplotlib.image import imsave

    imsave(folder / "x.png", np.random.default_rng(1).random((700, 700)), cmap="gray")


def by_many_files(folder: Path) -> None:
    for number in range(100):
        (folder / str(number)).touch()


def by_casacore(folder: Path) -> None:
    """Its tables are copied by `cp`, of which it says no more than that it failed."""
    with contextlib.suppress(OSError):
        by_hand(folder)
    raise RuntimeError("Executing cp command returned an error.")


@pytest.mark.parametrize(
    "write", [by_hand, by_astropy, by_h5py, by_matplotlib, by_many_files, by_casacore], ids=lambda f: f.__name__[3:]
)
def test_whoever_meets_the_full_disk_it_is_disk_full_and_the_space_is_given_back(tiny_disk, write):
    with pytest.raises(DiskFull, match="Free some space"), workspace() as folder:
        write(folder)

    assert shutil.disk_usage(tiny_disk).used < 100_000
    assert list((tiny_disk / WORK_FOLDER).iterdir()) == []


def test_a_fault_on_a_disk_with_room_is_not_blamed_on_the_disk(products_root):
    with pytest.raises(RuntimeError, match="cp command"), workspace():
        raise RuntimeError("Executing cp command returned an error.")


def test_a_root_that_cannot_be_made_says_why(products_root, settings):
    (products_root / "file").touch()
    settings.CONTIMG_PRODUCTS_ROOT = products_root / "file" / "root"
    with pytest.raises(NotADirectoryError), workspace():
        pytest.fail("a file holds no folder")


def test_a_disk_that_is_full_before_work_begins_is_disk_full_too(tiny_disk):
    with pytest.raises(OSError, match="No space"):
        by_many_files(tiny_disk)

    with pytest.raises(DiskFull), workspace():
        pytest.fail("there is no room for a work folder")


def test_a_disk_that_is_full_when_publishing_is_disk_full(tiny_disk):
    def publish_late() -> None:
        with workspace() as folder:
            (folder / "x").write_text("small")
            with pytest.raises(OSError, match="No space"):
                by_many_files(tiny_disk)
            publish(folder / "x", "new_folder/x")

    with pytest.raises(DiskFull):
        publish_late()

    assert not list(tiny_disk.glob("new_folder/*"))


# --- small things ----------------------------------------------------------------------------------------------------
def test_a_digest_does_not_depend_on_the_order_of_keys_and_sees_every_value():
    assert digest("a", {"x": 1, "y": 2}) == digest("a", {"y": 2, "x": 1})
    assert len({digest("a", 1), digest("a", 1.5), digest("a", None), digest("a", ""), digest("a"), digest("b", 1)}) == 6


# --- who and where ---------------------------------------------------------------------------------------------------
def test_a_process_is_gone_only_for_who_can_see_it():
    host, pid, born = this_process().rsplit(".", 2)
    begun, _, number_space = born.rpartition("_")
    assert not is_gone(this_process())
    assert is_gone(f"{host}.{pid}.1{begun}_{number_space}"), "its number was given to another"
    assert not is_gone(f"{host}.{pid}.1{begun}_1{number_space}"), "in a container of the same host name"
    assert not is_gone(f"else{host}.{pid}.1{begun}_{number_space}")


def test_the_folder_of_what_the_database_may_or_may_not_have_taken_stays_for_the_sweeper(products_root):
    for error, is_kept in ((OperationalError("server closed the connection"), True), (ValueError("ours"), False)):
        with contextlib.suppress(type(error)), workspace("item7.2") as folder:
            (folder / "made.fits").write_text("x")
            raise error
        assert (folder / "made.fits").exists() == is_kept


def test_a_root_that_should_hold_products_and_does_not_is_not_made_anew(products_root):
    (products_root / WORK_FOLDER).rmdir()
    with pytest.raises(ProductsAway, match="is its disk mounted"):
        require_writable_roots(holds_products=True)
    assert list(products_root.iterdir()) == []
    with workspace():
        pass
    require_writable_roots(holds_products=True)


@pytest.mark.parametrize("setting", ["CONTIMG_PRODUCTS_ROOT", "CONTIMG_LOG_DIR"])
def test_a_folder_that_cannot_be_made_is_named_with_its_setting(settings, tmp_path, setting):
    (tmp_path / "file").write_text("no folder")
    setattr(settings, setting, tmp_path / "file" / "x")
    with pytest.raises(NotWritable, match=rf"Not a directory.*{setting}"):
        require_writable_roots(holds_products=False)


# --- installations ---------------------------------------------------------------------------------------------------
@pytest.mark.once
def test_another_database_at_the_same_address_is_another_installation_in_every_process(tmp_path, templates):
    database, elsewhere = tmp_path / "contimg.sqlite3", tmp_path / "of_the_first.sqlite3"
    address = {"DATABASE_URL": f"sqlite:///{database}"}

    def tag() -> str:
        code = "from contimg.products import database_tag; print(database_tag())"
        asked = manage(tmp_path, "shell", "-v", "0", "-c", code, **address)
        assert asked.returncode == 0, asked.stderr
        return asked.stdout.strip()

    shutil.copy(templates("sqlite")["NAME"], database)
    first = tag()
    assert len(first) == 8
    assert tag() == first
    manage(tmp_path, "migrate", "-v", "0", **address)
    assert tag() == first
    database.rename(elsewhere)
    manage(tmp_path, "migrate", "-v", "0", **address)
    assert tag() != first
    elsewhere.rename(database)
    assert tag() == first
    manage(tmp_path, "migrate", "contimg", "zero", "-v", "0", **address)
    manage(tmp_path, "migrate", "-v", "0", **address)
    again = tag()
    assert again != first, "undone and done again"
    # Never in the tests' own database: what migrations install would be gone for the tests behind this one.
    manage(tmp_path, "flush", "--no-input", "-v", "0", **address)
    assert tag() not in (first, again), "emptied"
