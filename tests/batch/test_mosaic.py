"""The stage `mosaic`: what it waits for, what it says when it cannot, and a real one by a real worker."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from io import StringIO
from pathlib import Path

import astropy.units as u
import h5py
import pytest
from django.core.management import call_command
from django.utils import timezone

from batch import transitions
from batch.management.commands.process import _whole_epochs
from batch.models import Attempt, Batch, Item
from batch.runner import run_batch_here
from batch.services import cancel_batch, create_batch, retry_batch
from batch.stages import CHAIN, Job, Stage
from contimg.exceptions import EngineFailed
from contimg.products import products_root
from images.models import Image
from observations.engines.simulator import SkySource, simulate_tile
from observations.models import Epoch, SubbandGroup
from observations.services import index_subbands
from qa.models import Rule
from tests.batch import table
from tests.batch.installation import until
from tests.batch.nights import SETTINGS
from tests.batch.test_stages import stage
from tests.factories import (
    CalibratedSetFactory,
    EpochFactory,
    ImageFactory,
    ReferenceCatalogueFactory,
    ReferenceSourceFactory,
    SubbandGroupFactory,
)
from tests.images.skies import value_at
from tests.images.test_mosaics import tile_image
from tests.science import IMAGED, TRANSIT, calibrator_plan, field_centre, field_plan

pytest_plugins = ["tests.batch.installation"]
HOUR = datetime(2026, 3, 1, 6, tzinfo=UTC)
FIRST = (TRANSIT + timedelta(hours=1.5)).replace(minute=20, second=0, microsecond=0)
TILE = timedelta(seconds=309.5)


# --- what it waits for -----------------------------------------------------------------------------------------------
@pytest.fixture
def epoch(db) -> Epoch:
    return EpochFactory(started_at=HOUR)


@pytest.fixture
def quick(settings) -> None:
    """A table whose stages do nothing."""
    settings.CONTIMG_STAGES = "tests.batch.table.STAGES"
    table.STAGES[:] = [*(stage(name) for name in CHAIN), quick_mosaic()]


def quick_mosaic() -> Stage:
    def work(job: Job, folder: Path) -> Callable[[], object]:
        return lambda: None

    def outputs(job: Job) -> list[Epoch]:
        return [job.the_epoch]

    return Stage("mosaic", ("epoch",), (), lambda job: False, work, lambda job: [], outputs, lambda job: 0)


def tiles_of_the_hour(n: int) -> list[SubbandGroup]:
    return [SubbandGroupFactory(started_at=HOUR + number * TILE) for number in range(n)]


def ask(stage_name: str, kind: str, *rows) -> Batch:
    return create_batch(stage=stage_name, subjects=[(kind, row.pk) for row in rows]).batch


def run(batch: Batch) -> None:
    run_batch_here(batch=batch, watch=lambda batch: None)


def mosaic_item() -> Item:
    return Item.objects.get(stage="mosaic")


def test_a_mosaic_waits_for_its_tiles_and_says_for_which(epoch, quick):
    tiles = tiles_of_the_hour(3)
    first, later = ask("process", "subband_group", tiles[0]), ask("process", "subband_group", tiles[2])
    batch = ask("mosaic", "epoch", epoch)
    item = mosaic_item()
    assert (item.state, item.error_code) == ("waiting", "waiting_for_tiles")
    assert item.error_detail == f"Waits for what is to be done on the tiles of its epoch: {tiles[0]}, {tiles[2]}."
    assert (batch.n_waiting, batch.n_ready) == (1, 0)

    run(first)
    assert mosaic_item().state == "waiting"
    assert mosaic_item().error_detail.endswith(f"epoch: {tiles[2]}.")
    run(later)
    assert (mosaic_item().state, mosaic_item().error_code) == ("ready", "")
    run(batch)
    batch.refresh_from_db()
    assert (mosaic_item().state, batch.state, batch.n_done) == ("done", "done", 1)


def test_a_mosaic_without_open_tiles_is_ready_at_once(epoch, quick):
    elsewhere = SubbandGroupFactory(started_at=HOUR + timedelta(hours=3))
    other_strip = SubbandGroupFactory(started_at=HOUR, pointing_dec_deg=40.0)
    ask("process", "subband_group", elsewhere, other_strip)
    tiles_of_the_hour(2)
    batch = ask("mosaic", "epoch", epoch)
    assert (mosaic_item().state, batch.n_ready, batch.n_waiting) == ("ready", 1, 0)


@pytest.mark.parametrize("kind", ["measurement_set", "image"])
def test_it_also_waits_for_work_asked_of_a_tiles_products(epoch, kind):
    (tile,) = tiles_of_the_hour(1)
    calibrated = CalibratedSetFactory(calibrated_from__group=tile)
    subject = calibrated if kind == "measurement_set" else ImageFactory(measurement_set=calibrated)
    ask("image" if kind == "measurement_set" else "assess", kind, subject)
    ask("mosaic", "epoch", epoch)
    assert mosaic_item().state == "waiting"


def test_a_tile_that_fails_ends_the_wait_too(epoch, quick):
    tiles = tiles_of_the_hour(2)
    table.STAGES[0] = stage("convert", error=EngineFailed("The data are bad."), of=tiles[1].name)
    batch = ask("process", "subband_group", *tiles)
    ask("mosaic", "epoch", epoch)
    run(batch)
    assert mosaic_item().state == "ready"


def test_a_tile_that_waits_for_calibration_keeps_its_mosaic_waiting(epoch, quick):
    (tile,) = tiles_of_the_hour(1)
    ask("apply", "subband_group", tile)
    ask("mosaic", "epoch", epoch)
    held = transitions.claim(worker="here.1.1", host="here")
    transitions.wait_for_calibration(held, code="waiting_for_calibration", detail="No tables yet.")
    transitions.settle(held)
    transitions.settle_all()
    assert mosaic_item().error_detail.endswith(f"epoch: {tile}.")


def test_what_is_cancelled_is_waited_for_no_longer_than_a_sweep(epoch, quick):
    batch = ask("process", "subband_group", *tiles_of_the_hour(2))
    ask("mosaic", "epoch", epoch)
    cancel_batch(batch=batch)
    transitions.settle_all()
    assert mosaic_item().state == "ready"


def test_a_retried_mosaic_waits_again(epoch, quick):
    batch = ask("mosaic", "epoch", epoch)
    cancel_batch(batch=batch)
    ask("process", "subband_group", *tiles_of_the_hour(1))
    retry_batch(batch=batch)
    assert (mosaic_item().state, mosaic_item().error_code) == ("waiting", "waiting_for_tiles")


def test_a_years_mosaics_take_as_few_queries_as_one(epoch, quick, django_assert_max_num_queries):
    epochs = [EpochFactory(started_at=HOUR + timedelta(hours=hours + 1)) for hours in range(200)]
    ask("process", "subband_group", *tiles_of_the_hour(2))
    with django_assert_max_num_queries(25):
        batch = ask("mosaic", "epoch", epoch, *epochs)
    assert (batch.n_waiting, batch.n_ready) == (1, 200)


# --- what it says ----------------------------------------------------------------------------------------------------
def test_a_mosaic_of_too_few_tiles_fails_and_names_the_others_with_their_errors(epoch):
    tiles = tiles_of_the_hour(3)
    ImageFactory(measurement_set__calibrated_from__group=tiles[0])
    ImageFactory(measurement_set__calibrated_from__group=tiles[1], grade="poor")
    failed = ask("convert", "subband_group", tiles[2])
    transitions.fail(transitions.claim(worker="here.1.1", host="here"), code="engine_failed", detail="Bad data.")
    run(failed)
    run(ask("mosaic", "epoch", epoch))
    item = mosaic_item()
    assert (item.state, item.error_code) == ("failed", "too_few_tiles")
    assert item.error_detail == (
        f"Of the 3 tiles of epoch {epoch} 1 can go into its mosaic, which needs 2; without {tiles[1]} (graded poor), "
        f"{tiles[2]} (no image: engine_failed). Process them, then ask for the mosaic again."
    )


def test_the_subject_is_an_epoch_in_the_api(administrator, epoch, quick):
    asked = {"stage": "mosaic", "subjects": [{"kind": "epoch", "id": epoch.pk}]}
    made = administrator.post("/api/v1/batches/", asked, format="json")
    assert (made.status_code, made.json()["counts"]["ready"]) == (201, 1)
    (item,) = administrator.get(f"/api/v1/items/?epoch={epoch.pk}").json()["results"]
    assert item["subject"] == {"kind": "epoch", "id": epoch.pk}
    by_query = {"stage": "mosaic", "query": {"kind": "epoch", "started_at__gte": "2026-03-01T05:00:00Z"}}
    assert administrator.post("/api/v1/batches/", by_query, format="json").json()["counts"]["total"] == 1


@pytest.mark.parametrize(
    ("stage_name", "kind"), [("mosaic", "subband_group"), ("image", "epoch"), ("process", "epoch")]
)
def test_only_mosaics_are_of_epochs(administrator, epoch, stage_name, kind):
    asked = {"stage": stage_name, "subjects": [{"kind": kind, "id": 1}]}
    refused = administrator.post("/api/v1/batches/", asked, format="json")
    assert (refused.status_code, refused.json()["code"]) == (400, "wrong_subject_kind")


@pytest.mark.parametrize("column", ["path", "noise_path", "preview_path"])
def test_a_mosaic_whose_file_is_gone_is_made_again_and_the_old_files_go(epoch, products_root, column):
    for number in range(2):
        tile_image(number, on_disk=True)
    run(ask("mosaic", "epoch", epoch))
    mosaic = Image.objects.mosaics().get()
    (products_root / getattr(mosaic, column)).unlink()
    run(ask("mosaic", "epoch", epoch))
    mosaic.refresh_from_db()
    on_disk = {str(path.relative_to(products_root)) for path in (products_root / "images").rglob("*") if path.is_file()}
    assert on_disk == {mosaic.path, mosaic.noise_path, mosaic.preview_path}
    mosaics = Item.objects.filter(stage="mosaic").order_by("id").with_latest_attempt()
    assert [item.did_work for item in mosaics] == [True, True]
    again = ask("mosaic", "epoch", epoch)
    run(again)
    assert [item.did_work for item in again.items.with_latest_attempt()] == [False, False, False]
    assert Image.objects.mosaics().count() == 1


@pytest.mark.parametrize("column", ["path", "residual_path"])
def test_a_tile_whose_file_is_gone_fails_its_mosaic_in_a_sentence(epoch, products_root, column):
    tiles = [tile_image(number, on_disk=True) for number in range(3)]
    (products_root / getattr(tiles[1], column)).unlink()
    run(ask("mosaic", "epoch", epoch))
    item = mosaic_item()
    assert (item.state, item.error_code) == ("failed", "missing_product")
    assert getattr(tiles[1], column) in item.error_detail


def test_a_mosaic_is_judged_and_measured_without_anybody_asking(epoch, products_root):
    for number in range(2):
        tile_image(number, on_disk=True)
    batch = ask("mosaic", "epoch", epoch)
    assert [(item.stage, item.state) for item in batch.items.order_by("id")] == [
        ("mosaic", "ready"),
        ("assess", "waiting"),
        ("photometry", "waiting"),
    ]
    run(batch)
    assert {item.state for item in batch.items.all()} == {"done"}, [item.error_detail for item in batch.items.all()]
    epoch.refresh_from_db()
    mosaic = Image.objects.mosaics().get()
    assert epoch.assessments.current().exists()
    assert mosaic.assessments.current().exists()
    assert mosaic.comparison.reason == "no reference catalogue is imported"
    assert mosaic.catalogue
    assert epoch.grade == "unknown", "the sky was not seen against a catalogue"


def test_what_follows_a_mosaic_that_fails_fails_with_it(epoch):
    batch = ask("mosaic", "epoch", epoch)
    run(batch)
    assert [(item.stage, item.error_code) for item in batch.items.order_by("id")] == [
        ("mosaic", "too_few_tiles"),
        ("assess", "dependency_failed"),
        ("photometry", "dependency_failed"),
    ]


def test_an_epoch_is_judged_again_only_when_something_of_it_changed(epoch, products_root):
    for number in range(2):
        tile_image(number, on_disk=True)
    run(ask("mosaic", "epoch", epoch))
    again = ask("assess", "epoch", epoch)
    run(again)
    assert again.items.with_latest_attempt().get().did_work is False
    Image.objects.mosaics().get().comparison.delete()
    anew = ask("assess", "epoch", epoch)
    run(anew)
    assert anew.items.with_latest_attempt().get().did_work is True
    assert epoch.assessments.count() == 2


def test_an_epoch_without_a_mosaic_names_the_stage_to_run(epoch):
    batch = ask("assess", "epoch", epoch)
    run(batch)
    assert "'mosaic'" in batch.items.get().error_detail


def test_process_makes_the_mosaics_of_hours_that_are_over_and_have_nothing_open(epoch, products_root):
    tiles = [tile_image(number, on_disk=True).measurement_set.group for number in range(2)]
    assert _whole_epochs(tiles, {}) == [epoch]
    assert _whole_epochs(tiles[:1], {}) == [epoch], "the hour has two good tiles, whichever was processed now"
    assert _whole_epochs([SubbandGroupFactory(started_at=HOUR, pointing_dec_deg=40.0)], {}) == []
    held_open = ask("apply", "subband_group", tiles[1])
    assert _whole_epochs(tiles, {}) == []
    cancel_batch(batch=held_open)
    run(ask("mosaic", "epoch", epoch))
    assert _whole_epochs(tiles, {}) == [], "all is there"


def test_process_leaves_an_epoch_alone_whose_tiles_somebody_let_count(epoch, products_root):
    tiles = [tile_image(number, on_disk=True) for number in range(2)]
    groups = [tile.measurement_set.group for tile in tiles]
    run(ask("mosaic", "epoch", epoch))
    fails = Rule.objects.get(policy__is_active=True, subject_kind="epoch", name="noise_excessive")
    Rule.objects.filter(pk=fails.pk).update(limit=0)
    run(create_batch(stage="assess", subjects=[("epoch", epoch.pk)], parameters={"lenient": True}).batch)
    assert Epoch.objects.get().grade == "unknown", "nothing of it had changed"
    Image.objects.mosaics().get().comparison.delete()
    run(create_batch(stage="assess", subjects=[("epoch", epoch.pk)], parameters={"lenient": True}).batch)
    assert (Epoch.objects.get().grade, Epoch.objects.get().is_lenient) == ("poor", True)
    assert set(Image.objects.values_list("is_lenient", "is_epoch_rejected")) == {(True, False)}
    assert _whole_epochs(groups, {"lenient": False}) == []

    strictly = ask("assess", "epoch", epoch)
    run(strictly)
    assert strictly.items.with_latest_attempt().get().did_work is True
    assert set(Image.objects.values_list("is_lenient", "is_epoch_rejected")) == {(False, True)}


def test_process_asks_for_no_mosaic_of_an_hour_with_too_few_tiles_or_that_still_lasts(epoch, products_root):
    alone = tile_image(0, on_disk=True).measurement_set.group
    assert _whole_epochs([alone], {}) == []
    tile_image(1, on_disk=True)
    Epoch.objects.update(tiles_until=timezone.now() + timedelta(minutes=1))
    assert _whole_epochs([alone], {}) == []


# --- a real one ------------------------------------------------------------------------------------------------------
SIZE = {"CONTIMG_IMAGE_SIZE_PX": 1024, "CONTIMG_PIXEL_ARCSEC": 6.0}
# East and north (degrees) of the first of tiles 0.72 deg apart, and Jy: all in both, so that CLEAN knows them.
SPACING = timedelta(seconds=200)
SOURCES = [(0.1, 0.1, 1.5), (0.36, -0.3, 2.0), (0.6, 0.4, 1.2), (0.25, 0.5, 2.5), (0.5, -0.1, 1.8)]


@pytest.fixture(scope="module")
def hour(tmp_path_factory) -> tuple[Path, list[tuple[float, float, float]]]:
    """A calibrator's tile, two good tiles of one later hour, and one whose files are all flagged."""
    folder = tmp_path_factory.mktemp("hour")
    simulate_tile(IMAGED, calibrator_plan(IMAGED), folder)
    centre = field_centre(IMAGED, FIRST)
    places = [centre.spherical_offsets_by(east * u.deg, north * u.deg) for east, north, _ in SOURCES]
    truth = [(place.ra.deg, place.dec.deg, flux) for place, (_, _, flux) in zip(places, SOURCES, strict=True)]
    sky = tuple(SkySource(f"s{number}", *one) for number, one in enumerate(truth))
    for number in range(3):
        plan = replace(field_plan(IMAGED), started_at=FIRST + number * SPACING, sources=sky, noise_seed=number + 1)
        files = simulate_tile(IMAGED, plan, folder)
    for path in files:
        with h5py.File(path, "r+") as file:
            file["Data/flags"][:] = True
    return folder, truth


@pytest.mark.slow
def test_a_worker_makes_the_mosaic_of_a_simulated_hour(install, hour):
    folder, truth = hour
    installation = install("sqlite", stages="batch.stages.STAGES", **SETTINGS | SIZE)
    index_subbands(folder=folder)
    epoch = Epoch.objects.get(started_at=FIRST.replace(minute=0))
    tiles = list(SubbandGroup.objects.in_epoch(epoch))
    catalogue = ReferenceCatalogueFactory(frequency_hz=1.4e9)  # of flat spectra, as the simulated ones are
    for ra, dec, flux in truth:
        ReferenceSourceFactory(catalogue=catalogue, ra_deg=ra, dec_deg=dec, flux_jy=flux, spectral_index=0)
    process = ask("process", "subband_group", *SubbandGroup.objects.all())
    call_command("batch", "create", "mosaic", "--subject", f"epoch:{epoch.pk}", as_json=True, stdout=StringIO())
    asked = Batch.objects.get(stage="mosaic")
    assert mosaic_item().error_code == "waiting_for_tiles"
    installation.start("worker", "--processes", "2")
    until(lambda: ended(asked), within_s=400, every_s=0.5)

    assert asked.state == "done", [item.error_detail for item in asked.items.all()]
    assert ended(process), "the mosaic waited for all tiles"
    mosaic = Image.objects.mosaics().get()
    assert [link.tile.measurement_set.group for link in mosaic.mosaic_tiles.all()] == tiles[:2]
    assert [(one["name"], one["code"]) for one in mosaic.metrics["left_out"]] == [(tiles[2].name, "no_image")]
    assert mosaic.metrics["left_out"][0]["reason"] == f"no image: {error_of(tiles[2])}"
    for ra, dec, flux in truth:
        assert value_at(products_root() / mosaic.path, ra, dec) == pytest.approx(flux, rel=0.03)
    assert 0.8 < mosaic.metrics["noise_ratio"] < 1.2
    attempt = Attempt.objects.get(item__batch=asked, stage="mosaic")
    kinds = [entry["kind"] for entry in attempt.evidence["outputs"]]
    assert kinds == ["image", "noise", "preview"]
    assert sum(entry["kind"] == "image" for entry in attempt.evidence["inputs"]) == 2
    assert (attempt.engine, "reproject" in attempt.versions) == ("mosaic", True)

    compared = mosaic.comparison
    assert (compared.catalogue, compared.n_expected, compared.completeness) == (catalogue, len(truth), 1.0)
    assert compared.flux_ratio == pytest.approx(1, abs=0.03)
    epoch.refresh_from_db()
    assert epoch.grade == "marginal", "five sources carry no better verdict"
    assert list(epoch.assessments.get().findings.filter(outcome="warn").values_list("rule", flat=True)) == [
        "ratio_of_few"
    ]
    assert mosaic.catalogue.n_forced >= len(truth)

    again = ask("mosaic", "epoch", epoch)
    until(lambda: ended(again), within_s=60)
    assert not any(item.did_work for item in again.items.with_latest_attempt())


def ended(batch: Batch) -> bool:
    batch.refresh_from_db()
    return batch.n_open == 0


def error_of(tile: SubbandGroup) -> str:
    failed = tile.items.filter(state="failed").exclude(error_code="dependency_failed")
    return failed.get().error_code
