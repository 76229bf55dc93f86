"""The main job end to end, on real engines: run, repeated, and given bad data."""

from __future__ import annotations

import contextlib
import json
import shutil
from datetime import timedelta
from io import StringIO
from pathlib import Path

import h5py
import numpy as np
import pytest
from django.core.management import CommandError, call_command

from access.models import AuditEntry
from batch import transitions
from batch.models import Batch, Item
from batch.services import create_batch
from calibration.models import CalibrationTable, FlagTable
from images.models import COMPANIONS, Image
from observations.engines.uvh5_header import parse_name
from observations.models import MeasurementSet, SubbandFile, SubbandGroup
from qa.models import Assessment
from sources.models import Catalogue, Measurement, Source
from tests.batch.nights import dead_process, tiles_of
from tests.observations.subband_files import NIGHT, file_name, write_subband, write_tile

pytest_plugins = ["tests.batch.nights"]
pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("small_array")]
COUNTED = (SubbandGroup, MeasurementSet, FlagTable, CalibrationTable, Image, Assessment, Catalogue, Source, Measurement)


def process(folder: Path, **options) -> dict:
    """Run the command; its JSON summary with the exit status added."""
    out, status = StringIO(), 0
    try:
        call_command("process", folder, as_json=True, settle_s=0, workers=0, stdout=out, **options)
    except SystemExit as end:
        status = end.code
    return {**json.loads(out.getvalue()), "status": status}


def counts() -> dict[str, int]:
    return {model.__name__: model.objects.count() for model in COUNTED}


def some_tiles(night: Path, folder: Path, *numbers: int) -> Path:
    """A copy of some of the night's tiles, by number (0 and 2 are the calibrator's)."""
    for number in numbers:
        for path in tiles_of(night)[number]:
            shutil.copy2(path, folder)
    return folder


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    folder = tmp_path / "raw"
    folder.mkdir()
    return folder


def assert_near_the_truth(night: Path) -> None:
    out = StringIO()
    with contextlib.suppress(SystemExit):  # four sources at this small scale are too few for some limits
        call_command("compare_with_truth", night / "truth.json", as_json=True, stdout=out)
    figures = json.loads(out.getvalue())
    assert figures["flux_ratio_median"] == pytest.approx(1, abs=0.03)
    assert abs(figures["ra_offset_arcsec"]) < 0.5
    assert abs(figures["dec_offset_arcsec"]) < 0.5
    assert figures["found_of_expected"]["above 10"][0] == figures["found_of_expected"]["above 10"][1]


def test_a_night_becomes_judged_images_true_sources_and_light_curves_and_again_does_nothing(night, small_array):
    first = process(night)
    assert first["status"] == 0
    assert [tile["state"] for tile in first["tiles"]] == ["done"] * 4
    assert all(len(tile["stages_run"]) == 6 for tile in first["tiles"])
    for image in Image.objects.tiles():
        assert image.grade not in ("poor", "unknown")
        assert image.assessments.current().get().findings.exists()
        assert [applied.table.kind for applied in image.measurement_set.applied_tables.order_by("table__kind")] == [
            "B",
            "G",
        ]
        night_of_table = image.measurement_set.applied_tables.first().table.solved_at
        assert abs((night_of_table - image.observed_at).total_seconds()) < 3700
    assert Source.objects.count() >= 8
    calibrator = Source.objects.within_cone(ra_deg=202.7845, dec_deg=30.5092, radius_deg=10 / 3600).get()
    assert calibrator.n_measurements == 2
    assert_near_the_truth(night)

    before = counts()
    second = process(night)
    assert second["status"] == 0
    assert all(tile["stages_run"] == [] for tile in second["tiles"])
    assert counts() == before


@pytest.mark.once
def test_a_changed_parameter_makes_a_new_version_and_keeps_the_old(night, raw, settings):
    folder = some_tiles(night, raw, 0)
    process(folder)
    settings.CONTIMG_ROBUST = 0.0
    again = process(folder)
    assert again["tiles"][0]["stages_run"] == ["image", "assess", "photometry"]
    assert Image.objects.count() == 2
    assert Image.objects.current().get().parameters["robust"] == 0.0
    settings.CONTIMG_ROBUST = 0.5
    process(folder)
    assert Image.objects.count() == 2, "the same recipe is the same product"
    assert Image.objects.current().get().parameters["robust"] == 0.5


def test_a_science_tile_waits_for_calibration_and_goes_on_when_there_is_some(night, raw):
    waiting = process(some_tiles(night, raw, 1))
    assert (waiting["status"], waiting["tiles"][0]["state"], waiting["tiles"][0]["code"]) == (
        1,
        "waiting",
        "waiting_for_calibration",
    )
    released = process(some_tiles(night, raw, 0))
    assert released["status"] == 0
    assert [tile["state"] for tile in released["tiles"]] == ["done", "done"]


@pytest.mark.once
def test_tables_that_failed_their_gate_are_used_only_when_asked_and_every_product_says_so(night, raw):
    folder = some_tiles(night, raw, 0, 1)
    process(folder)
    CalibrationTable.objects.update(grade="poor")
    MeasurementSet.objects.calibrated().update(is_current=False)
    strict = process(folder)
    assert {tile["code"] for tile in strict["tiles"]} == {"calibration_gate_failed"}
    lenient = process(folder, lenient=True)
    assert lenient["status"] == 0
    assert all(image.is_lenient for image in Image.objects.tiles().current())
    assert all(made.is_lenient for made in MeasurementSet.objects.calibrated().current())


def truncate(path: Path) -> None:
    with open(path, "r+b") as file:
        file.truncate(path.stat().st_size // 2)


def not_hdf5(path: Path) -> None:
    path.write_bytes(b"not a visibility in it\n" * 100)


@pytest.mark.once
@pytest.mark.parametrize(("spoil", "code"), [(truncate, "subband_truncated"), (not_hdf5, "subband_not_hdf5")])
def test_one_bad_file_is_named_and_its_tile_goes_on_without_it(night, raw, spoil, code):
    folder = some_tiles(night, raw, 0)
    bad = sorted(folder.glob("*_sb07.hdf5"))[0]
    spoil(bad)
    summary = process(folder)
    assert summary["status"] == 1
    assert [(file["path"], file["code"]) for file in summary["refused_files"]] == [(bad.name, code)]
    image = Image.objects.tiles().get()
    assert image.missing_subbands == [7]


def test_a_late_subband_makes_a_new_version_of_its_tile(night, raw):
    folder = some_tiles(night, raw, 0)
    late = sorted(folder.glob("*_sb07.hdf5"))[0]
    late.rename(raw.parent / late.name)
    process(folder)
    shutil.move(raw.parent / late.name, folder)
    again = process(folder)
    assert again["tiles"][0]["stages_run"] == ["convert", "calibrate", "apply", "image", "assess", "photometry"]
    assert Image.objects.tiles().current().get().missing_subbands == []
    assert Image.objects.tiles().count() == 2


@pytest.mark.once
@pytest.mark.parametrize(("n_taken_away", "n_tiles", "left"), [(1, 1, 0), (4, 1, 0), (5, 0, 1)])
def test_fifteen_and_twelve_subbands_are_processed_and_eleven_are_named(night, raw, n_taken_away, n_tiles, left):
    folder = some_tiles(night, raw, 0)
    for path in sorted(folder.glob("*.hdf5"), key=lambda path: path.name[-7:])[:n_taken_away]:
        path.unlink()
    summary = process(folder)
    assert (len(summary["tiles"]), len(summary["not_processed"])) == (n_tiles, left)
    if left:
        assert summary["status"] == 1
        assert "11 of 16 subbands" in summary["not_processed"][0]["reason"]
        assert summary["not_processed"][0]["code"] == "group_incomplete"


def test_seventeen_files_are_over_full_named_and_not_processed(night, raw):
    folder = some_tiles(night, raw, 0)
    (folder / "copy").mkdir()
    shutil.copy2(sorted(folder.glob("*_sb03.hdf5"))[0], folder / "copy")
    summary = process(folder)
    assert summary["status"] == 1
    assert summary["tiles"] == []
    assert "sb03 more than once" in summary["not_processed"][0]["reason"]
    assert summary["not_processed"][0]["code"] == "group_overfull"


def says(command: str, *arguments, **options) -> str:
    out = StringIO()
    with contextlib.suppress(SystemExit):
        call_command(command, *arguments, stdout=out, **options)
    return out.getvalue()


@pytest.mark.once
def test_a_copy_that_comes_after_processing_is_named_and_holds_up_its_tile_only_while_it_is_there(night, raw, settings):
    folder = some_tiles(night, raw, 0)
    process(folder)
    before = counts()
    original = sorted(folder.glob("*_sb03.hdf5"))[0]
    named_at, subband = parse_name(original.name)
    copy = Path(shutil.copy(original, folder / file_name(named_at + timedelta(seconds=20), subband)))
    settings.CONTIMG_ROBUST = 0.0
    named = process(folder)
    assert (named["status"], named["tiles"]) == (1, [])
    assert [group["code"] for group in named["not_processed"]] == ["group_overfull"]
    for said in (named["not_processed"][0]["reason"], says("process", folder, workers=0), says("status")):
        assert "sb03 more than once: not processed again, the headers cannot tell" in said
        assert f"{original.name}, {copy.name}" in said
    assert "[group_overfull]" in says("process", folder, workers=0)
    assert "[group_overfull]" in says("status")
    assert counts() == before

    copy.unlink()
    mended = process(folder)
    assert (mended["status"], mended["not_processed"]) == (0, [])
    assert mended["tiles"][0]["stages_run"] == ["image", "assess", "photometry"], "what waited for it is done"
    assert "0 of the last day of observing not processed" in says("status")


@pytest.mark.once
def test_a_folder_that_is_copied_after_processing_and_removed_leaves_everything_as_it_was(night, raw):
    folder = some_tiles(night, raw, 0)
    process(folder)
    before = counts()
    copy = Path(shutil.copytree(folder, raw.with_name("copy"), copy_function=shutil.copy))
    for either in (copy, folder):
        named = process(either)
        assert (named["status"], [group["code"] for group in named["not_processed"]]) == (1, ["group_overfull"])
    shutil.rmtree(copy)
    again = process(folder)
    assert (again["status"], again["not_processed"], again["tiles"][0]["stages_run"]) == (0, [], [])
    assert {file.path.parent for file in SubbandGroup.objects.get().files.all()} == {folder}
    assert counts() == before


@pytest.mark.once
def test_the_files_of_a_folder_that_was_moved_take_the_place_of_what_they_were(night, raw):
    folder = some_tiles(night, raw, 0)
    process(folder)
    before = counts()
    moved = folder.rename(raw.with_name("moved"))
    again = process(moved)
    assert (again["status"], again["not_processed"], again["tiles"][0]["stages_run"]) == (0, [], [])
    assert {file.path.parent for file in SubbandGroup.objects.get().files.all()} == {moved}
    assert counts() == before


@pytest.mark.once
def test_a_tile_whose_raw_files_were_archived_stays_processed(night, raw):
    folder = some_tiles(night, raw, 0)
    process(folder)
    before = counts()
    write_subband(folder, 0)  # of another night, so that there is something to index
    for path in tiles_of(folder)[1]:
        path.unlink()
    again = process(folder)
    assert [group["code"] for group in again["not_processed"]] == ["group_incomplete"], "that one file"
    assert [(tile["state"], tile["stages_run"]) for tile in again["tiles"]] == [("done", [])]
    assert SubbandGroup.objects.order_by("pk").first().files.count() == 16, "known as what the products were made of"
    assert counts() == before | {"SubbandGroup": 2}


def rewrite(path: Path, name: str, change) -> None:
    with h5py.File(path, "r+") as file:
        file[name][...] = change(file[name][...])


@pytest.mark.once
def test_a_tile_that_is_all_flagged_fails_by_name_and_the_others_go_on(night, raw):
    folder = some_tiles(night, raw, 0, 1)
    for path in tiles_of(folder)[1]:
        rewrite(path, "Data/flags", np.ones_like)
    summary = process(folder)
    assert summary["status"] == 1
    assert [(tile["state"], tile["code"]) for tile in summary["tiles"]] == [("done", ""), ("failed", "all_flagged")]
    assert Image.objects.tiles().count() == 1


@pytest.mark.once
def test_nan_visibilities_are_flagged_and_counted(night, raw):
    folder = some_tiles(night, raw, 0)

    def spoil(data):
        data[: len(data) // 8] = np.nan
        return data

    for path in folder.glob("*_sb0?.hdf5"):
        rewrite(path, "Data/visdata", spoil)
    assert process(folder)["status"] == 0
    assert MeasurementSet.objects.uncalibrated().get().parameters["nan_fraction"] == pytest.approx(
        10 / 16 / 8, rel=0.01
    )
    assert np.isfinite(Image.objects.tiles().get().rms_jy_per_beam)


@pytest.mark.parametrize(("verbosity", "n_lines"), [(1, 3), (0, 0)])
def test_without_a_terminal_each_further_tenth_of_the_way_is_a_line(tmp_path, verbosity, n_lines):
    for number in range(3):
        write_tile(tmp_path, NIGHT + timedelta(hours=number))  # headers only: conversion refuses them at once
    out, errors = StringIO(), StringIO()
    with pytest.raises(SystemExit):
        call_command("process", tmp_path, settle_s=0, workers=0, stdout=out, stderr=errors, verbosity=verbosity)
    lines = errors.getvalue().splitlines()
    assert len(lines) == n_lines
    assert all(line.startswith("process: ") for line in lines)
    assert not lines or lines[-1].startswith("process: 18 of 18 stages")
    assert "0 of 3 tiles done" in out.getvalue()


def test_an_unreadable_folder_is_one_clear_sentence(tmp_path):
    with pytest.raises(CommandError, match=r"not_readable"):
        call_command("process", tmp_path / "nowhere")


def test_tiles_that_somebody_else_has_are_left_to_him_and_what_a_dead_run_left_is_taken_over(night, raw):
    folder = some_tiles(night, raw, 1)
    process(folder)  # waits for calibration
    tile = SubbandGroup.objects.get()
    dead = Batch.objects.get()
    Batch.objects.update(run_by=dead_process())
    assert process(folder)["tiles"][0]["state"] == "waiting"
    dead.refresh_from_db()
    assert dead.state == "cancelled"
    assert AuditEntry.objects.get(action="batch.cancel").object_id == dead.pk
    Batch.objects.update(run_by="elsewhere.1.2")
    again = process(folder)
    assert (again["batches"], again["tiles"][0]["code"]) == ([], "waiting_for_calibration")

    transitions.cancel(Item.objects.all())
    asked = create_batch(stage="process", subjects=[("subband_group", tile.pk)]).batch
    left = process(some_tiles(night, raw, 0))
    assert left["status"] == 1
    assert [(found["state"], found["code"]) for found in left["tiles"]] == [("done", ""), ("ready", "busy")]
    assert f"`batch cancel {asked.pk}` frees the tile" in left["tiles"][1]["detail"]
    asked.refresh_from_db()
    assert asked.n_open == 6


def test_a_calibrator_that_is_solved_again_takes_the_tiles_that_were_done_with_it(night, raw):
    folder = some_tiles(night, raw, 0, 1)
    late = sorted(folder.glob("*_sb07.hdf5"), key=lambda path: path.name)[0]
    late.rename(raw.parent / late.name)
    process(folder)
    shutil.move(raw.parent / late.name, folder)
    again = process(folder)
    assert again["status"] == 0
    assert [tile["stages_run"][-3:] for tile in again["tiles"]] == [["image", "assess", "photometry"]] * 2
    assert len(again["batches"]) == 2
    for image in Image.objects.tiles().current():
        assert all(
            applied.table.source_measurement_set.is_current for applied in image.measurement_set.applied_tables.all()
        )
    assert [tile["stages_run"] for tile in process(folder)["tiles"]] == [[], []]


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:5000])


def without_its_data(path: Path) -> None:
    for part in path.glob("table.f*"):
        part.unlink()


DAMAGE = [
    *(
        (column, Path.unlink)
        for column in ("path", "flat_noise_path", "residual_path", "primary_beam_path", "preview_path")
    ),
    ("path", cut),
    ("primary_beam_path", cut),
]


@pytest.mark.once
@pytest.mark.parametrize(("column", "damage"), DAMAGE)
def test_an_image_file_deleted_or_damaged_behind_our_back_is_made_again(night, raw, products_root, column, damage):
    folder = some_tiles(night, raw, 0)
    process(folder)
    image = Image.objects.tiles().get()
    damage(products_root / getattr(image, column))
    again = process(folder)
    assert again["status"] == 0
    assert again["tiles"][0]["stages_run"][0] == "image"
    image.refresh_from_db()
    named = [path for name in ("path", *COMPANIONS) if (path := getattr(image, name))]
    assert all((products_root / path).exists() for path in named)
    assert Image.objects.count() == 1
    on_disk = {str(path.relative_to(products_root)) for path in (products_root / "images").rglob("*") if path.is_file()}
    assert on_disk == set(named), "what the remake replaced is gone"
    assert process(folder)["tiles"][0]["stages_run"] == []


@pytest.mark.once
def test_a_damaged_measurement_set_is_made_again(night, raw, products_root):
    folder = some_tiles(night, raw, 0)
    process(folder)
    calibrated = MeasurementSet.objects.calibrated().get()
    without_its_data(products_root / calibrated.path)
    again = process(folder)
    assert again["status"] == 0
    assert again["tiles"][0]["stages_run"] == ["apply"], "the same recipe and content: nothing after it changes"
    before = calibrated.checksum
    calibrated.refresh_from_db()
    assert calibrated.checksum == before
    assert len(list((products_root / "measurement_sets").iterdir())) == 2


def test_indexing_keeps_one_row_a_file(night):
    process(night)
    assert SubbandFile.objects.count() == 64
