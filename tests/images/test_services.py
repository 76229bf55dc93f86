from __future__ import annotations

import errno
import gzip
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from contimg.exceptions import DiskFull, InvalidInput, MissingProduct, OutsideRoot
from contimg.products import product_path
from images.models import Image
from images.services import FileChanged, covers, image_file, register_external, register_images
from observations.models import DataRoot
from tests.images.radio_fits import HEIGHT, PEAK, WIDTH, sky, write

pytestmark = pytest.mark.django_db


@pytest.fixture
def archive(tmp_path) -> Path:
    folder = tmp_path / "archive"
    folder.mkdir()
    return folder


def products(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def test_an_external_image_is_recorded_with_its_facts_and_stays_where_it_is(archive):
    path = write(archive / "field.fits")
    image = register_external(path=path)
    image.refresh_from_db()
    assert (image.kind, image.name, image.path) == ("external", "field", "field.fits")
    assert image.root == DataRoot.objects.get(path=str(archive))
    assert image_file(image=image) == path
    assert (image.width_px, image.height_px) == (WIDTH, HEIGHT)
    assert image.peak_jy_per_beam == pytest.approx(PEAK)
    assert image.dynamic_range == pytest.approx(image.peak_jy_per_beam / image.rms_jy_per_beam)
    assert (image.bmaj_arcsec, image.bmin_arcsec, image.bpa_deg) == pytest.approx((10, 8, 30))
    assert image.frequency_hz == 1.4e9
    assert image.observed_at.isoformat() == "2024-05-06T07:08:09.500000+00:00"
    assert image.mjd == pytest.approx(60436.29733217592, abs=1e-9)
    assert image.epoch.isoformat() == "2024-05-06T07:00:00+00:00"
    assert image.measurement_set is None
    assert image.metrics == {"notes": []}
    assert product_path(image.preview_path).read_bytes().startswith(b"\x89PNG")


def test_what_the_file_does_not_say_is_null(archive):
    path = write(archive / "bare.fits", BMAJ=None, BMIN=None, BPA=None, BUNIT=None, RESTFRQ=None, DATE_OBS=None)
    image = register_external(path=path)
    unknown = [
        image.bmaj_arcsec, image.bpa_deg, image.frequency_hz, image.observed_at, image.mjd, image.epoch,
        image.rms_jy_per_beam, image.peak_jy_per_beam,
    ]  # fmt: skip
    assert unknown == [None] * len(unknown)
    assert image.unit == ""
    assert len(image.metrics["notes"]) == 4
    assert image.grade == "unknown"


def test_right_ascension_zero_is_a_value(archive):
    image = register_external(path=write(archive / "zero.fits", CRVAL1=0.0, CRVAL2=0.0))
    assert min(image.ra_deg, 360 - image.ra_deg) < 1e-9
    assert Image.objects.within_cone(ra_deg=359.9999, dec_deg=0.0, radius_deg=0.01).get() == image


def test_the_same_file_twice_is_one_image(archive, products_root):
    path = write(archive / "field.fits")
    first = register_external(path=path)
    files = products(products_root)
    again = register_external(path=archive / ".." / "archive" / "field.fits")
    assert again == first
    assert Image.objects.count() == 1
    assert products(products_root) == files


def test_the_same_content_under_two_names_is_two_images(archive):
    path = write(archive / "field.fits")
    shutil.copy(path, archive / "copy.fits")
    assert len({register_external(path=path).pk, register_external(path=archive / "copy.fits").pk}) == 2


def test_a_registered_file_that_changed_is_refused_and_the_image_stays(archive):
    path = write(archive / "field.fits")
    image = register_external(path=path)
    path.unlink()
    write(path, sky(seed=2))
    with pytest.raises(FileChanged, match="registered with other content"):
        register_external(path=path)
    assert list(Image.objects.values_list("checksum", flat=True)) == [image.checksum]


def test_a_registered_gzip_file_that_changed_is_refused_too(archive, products_root):
    plain, packed = write(archive / "plain.fits"), archive / "field.fits.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    image = register_external(path=packed)
    kept = products(products_root)
    packed.write_bytes(gzip.compress(write(archive / "other.fits", sky(seed=2)).read_bytes()))
    with pytest.raises(FileChanged, match="registered with other content"):
        register_external(path=packed)
    assert list(Image.objects.values_list("checksum", flat=True)) == [image.checksum]
    assert products(products_root) == kept
    elsewhere = archive / "elsewhere.fits.gz"
    elsewhere.write_bytes(packed.read_bytes())
    assert register_external(path=elsewhere) != image


def test_a_new_date_is_not_new_content(archive):
    path = write(archive / "field.fits")
    image = register_external(path=path)
    path.unlink()
    write(path, DATE="2030-01-01", history=["copied"])
    assert register_external(path=path) == image


def test_gzip_is_expanded_into_the_products_root_once(archive, products_root):
    plain = write(archive / "plain.fits")
    packed = archive / "packed.fits.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    image = register_external(path=packed)
    assert (image.name, image.root) == ("packed", None)
    assert image_file(image=image).is_relative_to(products_root)
    assert image_file(image=image).read_bytes() == plain.read_bytes()
    assert image.size_bytes == plain.stat().st_size
    assert register_external(path=packed) == image
    assert [name for name in products(products_root) if name.endswith(".fits")] == [image.path]


def test_a_link_is_followed_to_the_file(archive, tmp_path):
    path = write(archive / "field.fits")
    (tmp_path / "link.fits").symlink_to(path)
    image = register_external(path=tmp_path / "link.fits")
    assert image.root.path == str(archive)
    assert image_file(image=image) == path


def test_pixels_decide_what_an_image_covers(archive):
    data = sky()
    data[:, : WIDTH // 2] = np.nan  # the eastern half
    image = register_external(path=write(archive / "half.fits", data))
    assert covers(image=image, ra_deg=149.995, dec_deg=30.0)
    assert not covers(image=image, ra_deg=150.005, dec_deg=30.0)
    assert not covers(image=image, ra_deg=151.0, dec_deg=30.0)


def test_a_file_that_is_gone_or_left_its_folder_is_named(archive, tmp_path):
    path = write(archive / "field.fits")
    image = register_external(path=path)
    path.rename(tmp_path / "elsewhere.fits")
    with pytest.raises(MissingProduct, match=r"field\.fits is not in its folder"):
        image_file(image=image)
    path.symlink_to(tmp_path / "elsewhere.fits")
    with pytest.raises(OutsideRoot):
        image_file(image=image)


# --- many ------------------------------------------------------------------------------------------------------------
def test_one_bad_file_among_good_ones_is_named_and_the_rest_goes_in(archive):
    write(archive / "a.fits")
    (archive / "b.fits").write_text("not FITS")
    write(archive / "c.fits", np.full((HEIGHT, WIDTH), np.nan, np.float32))
    write(archive / "d.fit", sky(seed=4))
    report = register_images(paths=[archive])
    assert [image.name for image in report.registered] == ["a", "d"]
    assert [(refusal.path.name, refusal.code) for refusal in report.refused] == [
        ("b.fits", "fits_not_fits"),
        ("c.fits", "fits_all_blank"),
    ]
    assert Image.objects.count() == 2


def test_folders_are_searched_below_and_casa_images_in_them_are_named(archive):
    deep = archive / "2024" / "05"
    deep.mkdir(parents=True)
    write(deep / "field.fits")
    (deep / "packed.FITS.GZ").write_bytes(gzip.compress((deep / "field.fits").read_bytes()))
    (deep / "notes.txt").write_text("not an image")
    for name, kind in (("tile.image", "Image"), ("tile.ms", "Measurement Set")):
        (archive / name).mkdir()
        (archive / name / "table.dat").touch()
        (archive / name / "table.info").write_text(f"Type = {kind}\n")
        write(archive / name / "inside.fits")
    report = register_images(paths=[archive])
    assert [image.name for image in report.registered] == ["field", "packed"]
    assert [(refusal.path.name, refusal.code) for refusal in report.refused] == [("tile.image", "casa_image_directory")]


def test_a_folder_without_images_and_a_missing_file_are_named(archive):
    report = register_images(paths=[archive, archive / "nowhere.fits"])
    assert [refusal.code for refusal in report.refused] == ["nothing_found", "no_such_file"]


def test_a_file_given_twice_is_registered_once(archive):
    path = write(archive / "field.fits")
    assert len(register_images(paths=[path, archive, path]).registered) == 1


def test_a_loop_of_links_is_named(archive):
    (archive / "a.fits").symlink_to(archive / "b.fits")
    (archive / "b.fits").symlink_to(archive / "a.fits")
    report = register_images(paths=[archive])
    assert {refusal.code for refusal in report.refused} == {"not_readable"}


@pytest.mark.parametrize(
    "name", [os.fsdecode(b"caf\xe9.fits"), "/".join(["folder" * 20] * 5) + "/x.fits"], ids=["not UTF-8", "too long"]
)
def test_a_name_that_the_database_cannot_hold_is_refused(archive, name):
    (archive / name).parent.mkdir(parents=True, exist_ok=True)
    write(archive / "field.fits").rename(archive / name)
    report = register_images(paths=[archive])
    assert [refusal.code for refusal in report.refused] == ["unusable_name"]
    assert not Image.objects.exists()


def test_an_unreadable_folder_is_named_and_the_rest_goes_in(archive, monkeypatch):
    write(archive / "a.fits")
    locked = archive / "locked"
    locked.mkdir()
    scandir = os.scandir

    def refusing(path):  # the tests may run as root, whom no permission stops
        if path == str(locked):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    report = register_images(paths=[archive])
    assert [image.name for image in report.registered] == ["a"]
    assert [(refusal.path, refusal.code) for refusal in report.refused] == [(locked, "not_readable")]


# --- a full disk ---------------------------------------------------------------------------------------------------
def test_a_full_disk_registers_nothing_and_leaves_nothing(archive, products_root, monkeypatch):
    path = write(archive / "field.fits")

    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiskFull):
        register_external(path=path)
    assert not Image.objects.exists()
    assert not DataRoot.objects.exists()
    assert products(products_root) == []
    report = register_images(paths=[path])
    assert [refusal.code for refusal in report.refused] == ["disk_full"]
    monkeypatch.undo()
    assert register_external(path=path).pk


def test_refusals_share_one_family(archive):
    with pytest.raises(InvalidInput):
        register_external(path=archive / "nowhere.fits")
