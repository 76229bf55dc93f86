from __future__ import annotations

import io
import json
import shutil
import signal
from datetime import timedelta
from pathlib import Path

import pytest
from astropy.io import fits
from casacore.tables import table as casa_table
from django.core.management import CommandError, call_command
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from calibration.engines.flagger import content_checksum as flags_checksum
from contimg.commands import INTERRUPTED
from contimg.exceptions import ProductsAway
from contimg.products import WORK_FOLDER, file_checksum, size_bytes
from images.engines.fits import content_checksum
from images.models import Image
from observations.engines.measurement_set import content_checksum as set_checksum
from observations.models import MeasurementSet
from provenance.verifying import Kind, Scope, consequences_of, verify
from tests.factories import (
    AppliedFlagsFactory,
    AppliedTableFactory,
    AttemptFactory,
    CalibratedSetFactory,
    CalibrationTableFactory,
    FlagTableFactory,
    ImageFactory,
    MeasurementSetFactory,
    MosaicFactory,
    MosaicTileFactory,
    OutputFactory,
)
from tests.images import radio_fits

pytestmark = pytest.mark.django_db


def run(*arguments: str) -> tuple[list[dict], str]:
    """The faults, and what the command ended with."""
    out, end = io.StringIO(), ""
    try:
        call_command("verify", "--json", *arguments, stdout=out, stderr=io.StringIO())
    except CommandError as error:
        end = str(error)
    return json.loads(out.getvalue())["faults"], end


def damage(faults: list[dict]) -> list[tuple[str, int, str]]:
    return [(fault["kind"], fault["id"], fault["damage"]) for fault in faults]


@pytest.fixture
def tile(products_root) -> Image:
    path = products_root / "images" / "tile.fits"
    path.parent.mkdir()
    radio_fits.write(path)
    return ImageFactory(
        path="images/tile.fits", size_bytes=path.stat().st_size, checksum=content_checksum(path), n_measurements=40
    )


@pytest.fixture
def products(products_root, tile, calibrator_tile, calibrator_flags, calibrator_tables) -> dict[str, object]:
    """One of each kind, made by the real engines; what the factories make besides has no file and is not looked at."""
    solved = calibrator_tables.tables[0]
    shutil.copytree(calibrator_tile.path, products_root / "raw.ms")
    shutil.copy(calibrator_flags[0], products_root / "flags.h5")
    shutil.copytree(solved.path, products_root / "table.bcal")

    def facts(path: str, checksum: str) -> dict[str, object]:
        return {"path": path, "size_bytes": size_bytes(products_root / path), "checksum": checksum}

    raw = MeasurementSetFactory(**facts("raw.ms", set_checksum(calibrator_tile.path)))
    flags = FlagTableFactory(measurement_set=raw, **facts("flags.h5", calibrator_flags[1].checksum))
    table = CalibrationTableFactory(
        source_measurement_set=raw, flag_table=flags, kind=solved.kind, **facts("table.bcal", solved.checksum)
    )
    tile_set = tile.measurement_set
    shutil.copytree(calibrator_tile.path, products_root / tile_set.path)
    MeasurementSet.objects.filter(pk=tile_set.pk).update(**facts(tile_set.path, raw.checksum))
    MeasurementSet.objects.filter(pk=tile_set.calibrated_from_id).update(calibrated_from=None)
    AppliedTableFactory(measurement_set=tile_set, table=table)
    Image.objects.exclude(pk=tile.pk).delete()
    return {"measurement_set": raw, "flag_table": flags, "calibration_table": table, "image": tile}


def test_products_as_they_were_recorded_are_found_in_order(products, products_root):
    source = products["image"].measurement_set.calibrated_from
    shutil.copytree(products_root / "raw.ms", products_root / source.path)
    MeasurementSet.objects.filter(pk=source.pk).update(
        size_bytes=products["measurement_set"].size_bytes, checksum=products["measurement_set"].checksum
    )
    out = io.StringIO()
    call_command("verify", stdout=out, stderr=io.StringIO())
    assert out.getvalue().startswith("6 products of ")


def flip_a_flag(root: Path) -> None:
    import h5py

    with h5py.File(root / "flags.h5", "r+") as file:
        file["flags"][0, 0, 0] = not file["flags"][0, 0, 0]


def change_a_visibility(root: Path) -> None:
    with casa_table(str(root / "raw.ms"), readonly=False, ack=False) as main:
        cell = main.getcell("DATA", 7)
        cell[0, 0] += 1
        main.putcell("DATA", 7, cell)


def change_a_gain(root: Path) -> None:
    with casa_table(str(root / "table.bcal"), readonly=False, ack=False) as main:
        main.putcell("CPARAM", 0, 2 * main.getcell("CPARAM", 0))


def change_a_pixel(root: Path) -> None:
    with fits.open(root / "images/tile.fits", mode="update") as hdus:
        hdus[0].data[..., 3, 3] += 1


def break_the_header(root: Path) -> None:
    path = root / "images/tile.fits"
    path.write_bytes(b"X" * 80 + path.read_bytes()[80:])


def break_the_flags(root: Path) -> None:
    path = root / "flags.h5"
    path.write_bytes(b"\0" * path.stat().st_size)


def cut_the_set(root: Path) -> None:
    path = max((root / "raw.ms").glob("table.f*"), key=lambda file: file.stat().st_size)
    path.write_bytes(path.read_bytes()[:-1])


def empty_the_table(root: Path) -> None:
    for file in (root / "table.bcal").rglob("*"):
        if file.is_file():
            file.write_bytes(b"")


@pytest.mark.parametrize(
    ("spoil", "kind", "wanted", "says"),
    [
        (flip_a_flag, "flag_table", "changed", "other content"),
        (change_a_visibility, "measurement_set", "changed", "other content"),
        (change_a_gain, "calibration_table", "changed", "other content"),
        (change_a_pixel, "image", "changed", "other content"),
        (break_the_header, "image", "unreadable", "tile.fits"),
        (break_the_flags, "flag_table", "unreadable", "cannot be read"),
        (cut_the_set, "measurement_set", "changed", "bytes and was recorded with"),
        (empty_the_table, "calibration_table", "changed", "is empty"),
        (lambda root: shutil.rmtree(root / "raw.ms"), "measurement_set", "missing", "is not there"),
        (lambda root: (root / "flags.h5").unlink(), "flag_table", "missing", "is not there"),
        (lambda root: (root / "images/tile.fits").unlink(), "image", "missing", "is not there"),
    ],
)
def test_whatever_happened_to_a_product_is_named_with_what_rests_on_it(
    products, products_root, spoil, kind, wanted, says
):
    assert run("--kind", kind, "--limit", "1") == ([], "")
    spoil(products_root)
    faults, end = run("--kind", kind)
    faults = [fault for fault in faults if fault["id"] == products[kind].pk]
    assert damage(faults) == [(kind, products[kind].pk, wanted)]
    assert says in faults[0]["detail"]
    assert faults[0]["consequence"] == "1 image and 40 measured fluxes rest on it"
    assert "not what was recorded" in end


def test_flags_are_read_in_blocks_of_whole_bytes(calibrator_flags, monkeypatch):
    monkeypatch.setattr("calibration.engines.flagger.ROWS_AT_ONCE", 8)
    assert flags_checksum(calibrator_flags[0]) == calibrator_flags[1].checksum


def with_companion(tile: Image, root: Path, content: bytes = b"a picture") -> Path:
    path = root / "images/tile.png"
    path.write_bytes(content)
    tile.preview_path = "images/tile.png"
    tile.save()
    return path


def test_companions_are_compared_with_the_evidence_of_the_attempt_that_made_them(tile, products_root):
    path = with_companion(tile, products_root)
    entry = {"kind": "preview", "name": tile.preview_path, "size_bytes": 9, "checksum": file_checksum(path)}
    OutputFactory(attempt=AttemptFactory(evidence={"outputs": [entry]}), measurement_set=None, image=tile)
    assert run("--kind", "image") == ([], "")
    path.write_bytes(b"a Picture")
    [fault], _ = run("--kind", "image")
    assert (fault["path"], fault["damage"]) == ("images/tile.png", "changed")


@pytest.mark.parametrize(("content", "wanted"), [(b"x", []), (b"", ["changed"]), (None, ["missing"])])
def test_a_companion_without_evidence_has_to_be_there(tile, products_root, content, wanted):
    path = with_companion(tile, products_root, content or b"")
    if content is None:
        path.unlink()
    assert [fault["damage"] for fault in run("--kind", "image")[0]] == wanted


def test_a_mosaic_is_read_with_its_noise(tile, products_root):
    shutil.copy(products_root / tile.path, products_root / "images/mosaic.fits")
    mosaic = MosaicFactory(
        path="images/mosaic.fits", size_bytes=tile.size_bytes, checksum=tile.checksum, noise_path="images/noise.fits"
    )
    [fault], _ = run("--kind", "mosaic")
    assert (fault["id"], fault["path"], fault["damage"]) == (mosaic.pk, "images/noise.fits", "missing")
    assert fault["consequence"] == "1 mosaic rests on it"


def test_an_external_image_is_read_in_its_own_folder(tmp_path):
    from images.services import register_external

    path = radio_fits.write(tmp_path / "theirs.fits")
    image = register_external(path=path)
    assert run("--kind", "image") == ([], "")
    path.unlink()
    assert damage(run("--kind", "image")[0]) == [("image", image.pk, "missing")]


def test_a_product_made_anew_while_its_file_is_read_is_no_fault(tile, products_root):
    (products_root / tile.path).unlink()
    verified = verify(scope=Scope(kinds=(Kind.IMAGE,)))
    ImageFactory(name="newer")  # read first, and while it is the older one is recorded under another path
    next(verified)
    Image.objects.filter(pk=tile.pk).update(path="images/made_anew.fits")
    assert list(verified) == []


def test_consequences_are_counted_along_everything_made_from_a_product():
    raw = MeasurementSetFactory()
    flags = FlagTableFactory(measurement_set=raw)
    table = CalibrationTableFactory(source_measurement_set=raw, flag_table=flags)
    other = CalibrationTableFactory(source_measurement_set=raw, flag_table=flags)
    own = ImageFactory(measurement_set=CalibratedSetFactory(calibrated_from=raw), n_measurements=1)
    AppliedFlagsFactory(measurement_set=own.measurement_set, flag_table=flags)
    calibrated = CalibratedSetFactory()
    for applied in (table, other):  # counted once
        AppliedTableFactory(measurement_set=calibrated, table=applied)
    tiles = [ImageFactory(measurement_set=calibrated, n_measurements=10) for _ in range(2)]
    mosaic = MosaicFactory(n_measurements=100)
    for tile in tiles:
        MosaicTileFactory(mosaic=mosaic, tile=tile)
    ImageFactory(n_measurements=1000)

    def counted(kind: Kind, row) -> tuple[int, int, int]:
        with CaptureQueriesContext(connection) as queries:
            found = consequences_of(kind=kind, row=row)
        assert len(queries) == 2
        return found.images, found.mosaics, found.fluxes

    assert counted(Kind.MEASUREMENT_SET, raw) == (3, 1, 121)
    assert counted(Kind.MEASUREMENT_SET, calibrated) == (2, 1, 120)
    assert counted(Kind.FLAG_TABLE, flags) == (3, 1, 121)
    assert counted(Kind.CALIBRATION_TABLE, table) == (2, 1, 120)
    assert counted(Kind.IMAGE, tiles[0]) == (1, 1, 110)
    assert counted(Kind.IMAGE, own) == (1, 0, 1)
    assert counted(Kind.MOSAIC, mosaic) == (0, 1, 100)
    assert str(consequences_of(kind=Kind.CALIBRATION_TABLE, row=table)) == (
        "2 images, 1 mosaic and 120 measured fluxes rest on it"
    )
    unused = CalibrationTableFactory()
    assert str(consequences_of(kind=Kind.CALIBRATION_TABLE, row=unused)) == "nothing rests on it"


# --- which ones --------------------------------------------------------------------------------------------------
def test_only_what_was_asked_for_is_read():
    images = [ImageFactory() for _ in range(5)]
    Image.objects.filter(pk=images[0].pk).update(created_at=timezone.now() - timedelta(days=9))
    newest_first = [image.pk for image in reversed(images)]

    def read(*arguments: str) -> list[int]:
        return [fault["id"] for fault in run("--kind", "image", *arguments)[0]]

    assert read() == newest_first
    assert read("--limit", "2") == newest_first[:2]
    assert read("--since", f"{timezone.now() - timedelta(days=8):%Y-%m-%d}") == newest_first[:4]
    assert run("--kind", "flag_table") == ([], "")


def test_in_as_many_weeks_each_product_is_read_once():
    images = [ImageFactory() for _ in range(7)]
    read = [
        fault.id
        for week in range(3)
        for verified in verify(scope=Scope(kinds=(Kind.IMAGE,), turn=1000 + week, turns=3))
        for fault in verified.faults
    ]
    assert sorted(read) == [image.pk for image in images]


def test_many_products_are_read_by_pages_with_few_queries(monkeypatch, tile, products_root):
    for number in range(12):
        shutil.copy(products_root / tile.path, products_root / f"images/{number}.fits")
        ImageFactory(path=f"images/{number}.fits", size_bytes=tile.size_bytes, checksum=tile.checksum)
    with CaptureQueriesContext(connection) as queries:
        assert len(list(verify(scope=Scope(kinds=(Kind.IMAGE,))))) == 13
    assert len(queries) <= 4
    monkeypatch.setattr("provenance.verifying.ROWS_AT_ONCE", 5)
    assert len(list(verify(scope=Scope(kinds=(Kind.IMAGE,))))) == 13


@pytest.mark.parametrize(
    "wrong", [("--limit", "0"), ("--limit", "1e3"), ("--weeks", "-1"), ("--since", "yesterday"), ("--kind", "source")]
)
def test_options_that_mean_nothing_are_refused(wrong):
    with pytest.raises(CommandError):
        call_command("verify", *wrong)


def test_a_new_installation_is_whole(products_root):
    (products_root / WORK_FOLDER).rmdir()
    call_command("verify")
    call_command("retention")


def test_a_disk_that_is_away_is_one_error_and_not_a_fault_of_every_product(products_root):
    ImageFactory()
    (products_root / WORK_FOLDER).rmdir()
    with pytest.raises(ProductsAway):
        next(verify(scope=Scope()))
    with pytest.raises(CommandError, match="products_away"):
        call_command("verify")


class Interrupted(io.StringIO):
    """Somebody presses Ctrl-C when he sees the first line."""

    def write(self, text: str) -> int:
        n = super().write(text)
        signal.raise_signal(signal.SIGINT)
        return n


@pytest.fixture
def ctrl_c():
    """As in a shell's foreground; who was started in the background may have inherited that it is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c")
def test_faults_are_printed_as_they_are_found_and_ctrl_c_ends_it():
    ImageFactory()
    newest = ImageFactory()
    out = Interrupted()
    with pytest.raises(SystemExit) as end:
        call_command("verify", "--kind", "image", stdout=out, stderr=io.StringIO())
    assert end.value.code == INTERRUPTED
    line = f"missing image {newest.pk} ({newest.name}): {newest.path} is not there; 1 image rests on it."
    assert out.getvalue().splitlines() == [line]


def test_a_line_of_history_more_is_no_change(tile, products_root):
    with fits.open(products_root / tile.path, mode="update") as hdus:
        hdus[0].header["HISTORY"] = "looked at"
    tile.size_bytes = (products_root / tile.path).stat().st_size
    tile.save()
    assert run("--kind", "image") == ([], "")
