"""The stages on rows whose files are there. On real data they are in test_process.py."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from batch.models import Item
from batch.runner import run_batch_here
from batch.services import create_batch
from batch.stages import CHAIN, STAGES, Job, Stage, StageNotReady, calibrated_set, flags_of, image_of, raw_set
from calibration.services import applying_recipe, choose_tables, flagging_recipe
from contimg.exceptions import DiskFull, EngineFailed
from images.tiles import imaging_recipe
from observations.conversion import conversion_recipe
from observations.models import SubbandGroup
from qa.services import assess_image
from sources.services import catalogue_recipe
from tests.batch import table
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


def run(stage: str, *tiles: SubbandGroup) -> list[Item]:
    batch = create_batch(stage=stage, subjects=[("subband_group", tile.pk) for tile in tiles]).batch
    run_batch_here(batch=batch, watch=lambda batch: None)
    return list(batch.items.order_by("id").with_latest_attempt())


# --- a table of stages made for the test -----------------------------------------------------------------------------
def stage(name: str, *, error: BaseException | None = None, of: str = "", in_record: bool = False) -> Stage:
    """A stage that writes a row's figure; it fails on the tile named `of`."""

    def work(job: Job, folder: Path):
        (folder / "product").write_text("half")

        def fail() -> None:
            if error is not None and job.name == of:
                raise error

        def record() -> None:
            SubbandGroup.objects.filter(pk=job.tile.pk).update(size_bytes=1)
            fail()

        if not in_record:
            fail()
        return record

    return Stage(
        name, ("subband_group",), (), lambda job: False, work, lambda job: [], lambda job: [job.tile], lambda job: 0
    )


@pytest.fixture
def stages(settings):
    settings.CONTIMG_STAGES = "tests.batch.table.STAGES"
    return table.STAGES


@pytest.mark.parametrize("in_record", [False, True])
@pytest.mark.parametrize(
    ("error", "state", "code", "detail"),
    [
        (EngineFailed("The solver did not converge."), "failed", "engine_failed", "The solver did not converge."),
        (DiskFull("The disk is full."), "ready", "disk_full", "The disk is full."),
        (OSError(errno.ENOSPC, "No space left on device"), "ready", "disk_full", "The disk under the products root"),
        (ValueError("operands could not be broadcast"), "failed", "internal_error", "ValueError: operands could not"),
        (KeyError("FREQ"), "failed", "internal_error", "KeyError: 'FREQ'"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_an_item_that_fails_is_named_and_the_others_go_on(stages, products_root, error, state, code, detail, in_record):
    tiles = [SubbandGroupFactory() for _ in range(3)]
    stages[:] = [stage("convert", error=error, of=tiles[1].name, in_record=in_record)]
    items = run("convert", *tiles)
    assert [item.state for item in items] == ["done", state, "done"]
    assert items[1].error_code == code
    assert items[1].error_detail.startswith(detail)
    assert [SubbandGroup.objects.get(pk=tile.pk).size_bytes == 1 for tile in tiles] == [True, False, True]
    assert [path for path in products_root.rglob("*") if path.is_file()] == []


def test_an_interrupt_is_no_failure_of_an_item(stages):
    tile = SubbandGroupFactory()
    stages[:] = [stage("convert", error=KeyboardInterrupt(), of=tile.name)]
    with pytest.raises(KeyboardInterrupt):
        run("convert", tile)
    assert Item.objects.get().state == "cancelled"


def test_all_tiles_are_calibrated_before_the_first_is_imaged_and_judged_in_order(stages):
    tiles = [SubbandGroupFactory() for _ in range(3)]
    stages[:] = [stage(name) for name in CHAIN]
    items = run("process", *tiles)
    assert {item.state for item in items} == {"done"}
    by_time = sorted(items, key=lambda item: item.started_at)
    order = [(item.stage, tiles.index(item.group)) for item in by_time]
    assert {name for name, _ in order[:6]} == {"convert", "calibrate"}
    assert [pair for pair in order if pair[0] in ("assess", "photometry")] == [
        (name, number) for number in range(3) for name in ("assess", "photometry")
    ]


def test_what_follows_a_failed_stage_says_so_and_the_next_tile_is_judged(stages):
    tiles = [SubbandGroupFactory() for _ in range(2)]
    stages[:] = [stage(name, error=EngineFailed("."), of=tiles[0].name if name == "image" else "") for name in CHAIN]
    items = run("process", *tiles)
    first = [(item.stage, item.state, item.error_code) for item in items if item.group == tiles[0]]
    assert first[3:] == [
        ("image", "failed", "engine_failed"),
        ("assess", "failed", "dependency_failed"),
        ("photometry", "failed", "dependency_failed"),
    ]
    assert {item.state for item in items if item.group == tiles[1]} == {"done"}


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
    job = Job(tile=tile)
    raw = raw_set(job)
    for kind in "BG":
        on_disk(root, CalibrationTableFactory(kind=kind, set_name="cal_1", source_measurement_set=raw))
    tables = choose_tables(measurement_set=raw)
    recipe = applying_recipe(flag_table=flags_of(job), tables=tables, lenient=False)
    calibrated = on_disk(root, CalibratedSetFactory(calibrated_from=raw, recipe=recipe))
    for applied in tables:
        AppliedTableFactory(measurement_set=calibrated, table=applied)
    on_disk(root, ImageFactory(measurement_set=calibrated, recipe=imaging_recipe(calibrated, job.imaging)))
    return tile


def test_a_tile_without_tables_waits(products_root):
    items = run("process", converted_and_flagged(products_root))
    assert [(item.stage, item.state, item.error_code) for item in items[:4]] == [
        ("convert", "done", ""),
        ("calibrate", "done", ""),
        ("apply", "waiting", "waiting_for_calibration"),
        ("image", "waiting", ""),
    ]


def test_only_the_stages_whose_product_is_missing_do_work(products_root):
    tile = imaged(products_root)
    image = image_of(Job(tile=tile))
    CatalogueFactory(image=image, recipe=catalogue_recipe(image=image))
    assert [item.stage for item in run("process", tile) if item.did_work] == ["assess"]
    assert [item.stage for item in run("process", tile) if item.did_work] == []
    assess_image(image=image)
    assert {item.state for item in run("process", tile)} == {"done"}


@pytest.mark.parametrize(
    ("product", "stage_name"),
    [(raw_set, "convert"), (calibrated_set, "apply"), (flags_of, "convert"), (image_of, "image")],
)
def test_a_product_that_is_asked_for_too_early_names_the_stage_to_run(product, stage_name):
    with pytest.raises(StageNotReady, match=f"'{stage_name}'"):
        product(Job(tile=SubbandGroupFactory()))


def test_the_stages_are_named_as_the_api_promises():
    assert [stage.name for stage in STAGES] == [*CHAIN, "mosaic", "statistics"]
    assert list(CHAIN) == ["convert", "calibrate", "apply", "image", "assess", "photometry"]
