"""How the runner walks its table of stages. The real stages on real data are in test_process.py."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from batch import runner
from batch.runner import process_tiles, run_one
from batch.stages import STAGES, Options, Stage, StageNotReady, calibrated_set, flags_of, image_of, raw_set
from calibration.services import applying_recipe, choose_tables, flagging_recipe
from contimg.exceptions import DiskFull, EngineFailed
from images.tiles import imaging_recipe
from observations.conversion import conversion_recipe
from observations.models import SubbandGroup
from qa.services import assess_image
from sources.services import catalogue_recipe
from tests.factories import (
    AppliedTableFactory,
    CalibratedSetFactory,
    CalibrationTableFactory,
    CatalogueFactory,
    FlagTableFactory,
    ImageFactory,
    MeasurementSetFactory,
    SubbandGroupFactory,
)

pytestmark = pytest.mark.django_db


# --- tables of stages made for the test ------------------------------------------------------------------------------
def stage(name: str, *, error: Exception | None = None, of: str = "", is_done: bool = False) -> Stage:
    """A stage that writes a file and a row's figure; it fails on the tile named `of`."""

    def work(tile: SubbandGroup, options: Options, folder: Path):
        (folder / "product").write_text(name)
        if error is not None and tile.name == of:
            raise error
        return lambda: SubbandGroup.objects.filter(pk=tile.pk).update(size_bytes=1)

    return Stage(name, lambda tile, options: is_done, work)


@pytest.fixture
def table(monkeypatch):
    """Has the runner walk these stages."""

    def use(calibrating: list[Stage], imaging: list[Stage]) -> None:
        monkeypatch.setattr(runner, "CALIBRATING", tuple(calibrating))
        monkeypatch.setattr(runner, "IMAGING", tuple(imaging))

    return use


@pytest.fixture
def tiles() -> list[SubbandGroup]:
    return [SubbandGroupFactory() for _ in range(3)]


@pytest.mark.parametrize(
    ("error", "code", "detail"),
    [
        (EngineFailed("The solver did not converge."), "engine_failed", "The solver did not converge."),
        (DiskFull("The disk is full."), "disk_full", "The disk is full."),
        (OSError(errno.ENOSPC, "No space left on device"), "disk_full", "The disk under the products root is full"),
        (ValueError("operands could not be broadcast"), "internal_error", "ValueError: operands could not be"),
        (KeyError("FREQ"), "internal_error", "KeyError: 'FREQ'"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_a_tile_that_fails_is_named_and_the_others_go_on(table, tiles, error, code, detail):
    table([stage("convert"), stage("calibrate", error=error, of=tiles[1].name)], [stage("apply")])
    report = process_tiles(tiles=tiles)
    assert not report.is_success
    assert [tile.state for tile in report.tiles] == ["done", "failed", "done"]
    assert [tile.stages_run for tile in report.tiles] == [
        ["convert", "calibrate", "apply"],
        ["convert"],
        ["convert", "calibrate", "apply"],
    ]
    (failed,) = report.in_state("failed")
    assert (failed.tile, failed.stage, failed.code) == (tiles[1], "calibrate", code)
    assert failed.detail.startswith(detail)


def test_an_interrupt_is_no_failure_of_a_tile(table, tiles):
    table([stage("convert", error=KeyboardInterrupt(), of=tiles[0].name)], [])
    with pytest.raises(KeyboardInterrupt):
        process_tiles(tiles=tiles)


def test_a_failure_while_asking_what_is_done_is_the_failure_of_that_tile(table, tiles):
    def is_done(tile, options):
        raise StageNotReady("Not yet.")

    table([Stage("convert", is_done, stage("convert").work)], [])
    assert {tile.code for tile in process_tiles(tiles=tiles).tiles} == {"stage_not_ready"}


def test_all_tiles_are_calibrated_before_the_first_is_imaged_each_in_order_of_time(table, tiles):
    table(
        [stage("convert"), stage("calibrate", is_done=True)],
        [stage("apply", error=EngineFailed("."), of=tiles[0].name)],
    )
    seen = []
    report = process_tiles(tiles=tiles[::-1], progress=lambda tile, stage: seen.append((tile.tile, stage.name)))
    assert [tile.tile for tile in report.tiles] == tiles
    assert seen == [(tile, name) for tile in tiles for name in ("convert", "calibrate")] + [
        (tile, "apply") for tile in tiles
    ]


def test_progress_is_told_of_every_stage_also_of_a_tile_that_failed(table, tiles):
    table([stage("convert", error=EngineFailed("."), of=tiles[0].name), stage("calibrate")], [stage("apply")])
    seen = []
    process_tiles(tiles=tiles, progress=lambda tile, stage: seen.append(stage.name))
    assert len(seen) == 3 * len(tiles)


def test_what_is_done_is_not_reported_as_work(table, tiles):
    table([stage("convert", is_done=True)], [stage("apply")])
    assert [tile.stages_run for tile in process_tiles(tiles=tiles).tiles] == [["apply"]] * 3


def test_nothing_to_do_is_a_success():
    report = process_tiles(tiles=[])
    assert report.is_success
    assert report.tiles == []


def test_the_run_after_a_run_is_not_busy(table, tiles):
    table([stage("convert")], [])
    assert process_tiles(tiles=tiles).is_success
    assert process_tiles(tiles=tiles).is_success


def test_the_options_reach_every_stage(table, tiles):
    asked = []

    def is_done(tile, options):
        asked.append(options.lenient)
        return True

    table([Stage("convert", is_done, stage("").work)], [Stage("apply", is_done, stage("").work)])
    process_tiles(tiles=tiles[:1], options=Options(lenient=True))
    assert asked == [True, True]


def test_a_record_that_fails_leaves_no_row_changed_and_no_file(products_root):
    tile = SubbandGroupFactory()
    before = tile.size_bytes

    def work(tile, options, folder):
        (folder / "product").write_text("half")

        def record():
            SubbandGroup.objects.filter(pk=tile.pk).update(size_bytes=1)
            raise EngineFailed("The record failed.")

        return record

    with pytest.raises(EngineFailed):
        run_one(Stage("convert", lambda tile, options: False, work), tile, Options())
    tile.refresh_from_db()
    assert tile.size_bytes == before
    assert [path for path in products_root.rglob("*") if path.is_file()] == []


# --- the real table, on rows whose files are there -------------------------------------------------------------------
def on_disk(root: Path, row):
    (root / row.path).parent.mkdir(parents=True, exist_ok=True)
    (root / row.path).write_bytes(bytes(row.size_bytes))
    return row


def converted_and_flagged(root: Path) -> SubbandGroup:
    tile = SubbandGroupFactory()
    raw = on_disk(root, MeasurementSetFactory(group=tile, recipe=conversion_recipe(tile)))
    on_disk(root, FlagTableFactory(measurement_set=raw, recipe=flagging_recipe(raw)))
    return tile


def imaged(root: Path) -> SubbandGroup:
    """A tile with the products of all stages but the verdict and the catalogue."""
    tile = converted_and_flagged(root)
    raw = raw_set(tile)
    for kind in "BG":
        on_disk(root, CalibrationTableFactory(kind=kind, set_name="cal_1", source_measurement_set=raw))
    tables = choose_tables(measurement_set=raw)
    recipe = applying_recipe(flag_table=flags_of(tile), tables=tables, lenient=False)
    calibrated = on_disk(root, CalibratedSetFactory(calibrated_from=raw, recipe=recipe))
    for table in tables:
        AppliedTableFactory(measurement_set=calibrated, table=table)
    on_disk(root, ImageFactory(measurement_set=calibrated, recipe=imaging_recipe(calibrated)))
    return tile


def test_a_tile_without_tables_waits_and_the_run_is_no_success(products_root):
    report = process_tiles(tiles=[converted_and_flagged(products_root)])
    assert not report.is_success
    (waiting,) = report.in_state("waiting")
    assert (waiting.stage, waiting.code, waiting.stages_run) == ("apply", "waiting_for_calibration", [])
    assert report.in_state("failed") == []


def test_only_the_stages_whose_product_is_missing_run(products_root):
    tile = imaged(products_root)
    CatalogueFactory(image=image_of(tile), recipe=catalogue_recipe(image=image_of(tile)))
    assert process_tiles(tiles=[tile]).tiles[0].stages_run == ["assess"]
    assert process_tiles(tiles=[tile]).tiles[0].stages_run == []
    assess_image(image=image_of(tile))
    assert process_tiles(tiles=[tile]).is_success


@pytest.mark.parametrize(
    ("product", "stage_name"),
    [(raw_set, "convert"), (calibrated_set, "apply"), (flags_of, "convert"), (image_of, "image")],
)
def test_a_product_that_is_asked_for_too_early_names_the_stage_to_run(product, stage_name):
    with pytest.raises(StageNotReady, match=f"'{stage_name}'"):
        product(SubbandGroupFactory())


def test_the_stages_are_named_as_the_api_promises():
    assert [stage.name for stage in STAGES] == ["convert", "calibrate", "apply", "image", "assess", "photometry"]
