"""Epochs and their mosaics: which tiles go in, what is recorded, and what the API shows of it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from astropy.io import fits

from contimg.products import products_root, workspace
from images.engines.mosaic import TileUnusable
from images.models import Image
from images.mosaics import TooFewTiles, choose_tiles, make_mosaic, mosaic_recipe, record_mosaic
from observations.models import Epoch
from qa.services import assess_epoch, assess_image
from tests.factories import ComparisonFactory, EpochFactory, ImageFactory, MosaicFactory, SubbandGroupFactory
from tests.images.skies import Pointing, value_at, write_tile

pytestmark = pytest.mark.django_db
HOUR = datetime(2026, 3, 1, 6, tzinfo=UTC)
SOURCE = (11.0, 16.3, 2.0)


@pytest.fixture
def epoch() -> Epoch:
    return EpochFactory(started_at=HOUR)


def tile_image(number: int, *, on_disk: bool = False, **columns) -> Image:
    """The image of the hour's n-th tile."""
    group = SubbandGroupFactory(started_at=HOUR + number * timedelta(seconds=309))
    if on_disk:
        columns |= files_of(number)
    return ImageFactory(measurement_set__calibrated_from__group=group, name=group.name, **columns)


def files_of(number: int) -> dict[str, object]:
    folder = products_root() / "tiles"
    folder.mkdir(exist_ok=True)
    tile = write_tile(folder, Pointing(10 + 1.29 * number, 16.1), [SOURCE], seed=number + 1)
    paths = {"flat_noise_path": tile.image, "residual_path": tile.residual, "primary_beam_path": tile.primary_beam}
    stored = {column: str(path.relative_to(products_root())) for column, path in {**paths, "path": tile.image}.items()}
    return {**stored, "size_bytes": tile.image.stat().st_size}


def make(epoch: Epoch) -> Image:
    with workspace() as folder:
        made = make_mosaic(epoch=epoch, choice=choose_tiles(epoch=epoch), folder=folder)
        return record_mosaic(epoch=epoch, made=made)


# --- which tiles -----------------------------------------------------------------------------------------------------
def test_tiles_that_are_poor_not_judged_or_not_imaged_are_left_out_and_named(epoch):
    good = [tile_image(0), tile_image(1, grade="marginal"), tile_image(2, grade="excellent")]
    poor, unjudged = tile_image(3, grade="poor"), tile_image(4, grade="unknown")
    failed = SubbandGroupFactory(started_at=HOUR + timedelta(minutes=40))
    choice = choose_tiles(epoch=epoch, failures={failed.pk: "engine_failed"})
    assert list(choice.used) == good
    assert [(fault.name, fault.code, fault.reason) for fault in choice.left_out] == [
        (poor.name, "poor", "graded poor"),
        (unjudged.name, "not_judged", "not judged"),
        (failed.name, "no_image", "no image: engine_failed"),
    ]


def test_only_the_newest_image_of_a_tile_counts(epoch):
    old = tile_image(0, is_current=False)
    new = ImageFactory(measurement_set=old.measurement_set)
    assert choose_tiles_or_none(epoch) is None
    other = tile_image(1)
    assert choose_tiles(epoch=epoch).used == (new, other)


def choose_tiles_or_none(epoch):
    try:
        return choose_tiles(epoch=epoch)
    except TooFewTiles:
        return None


@pytest.mark.parametrize(("good", "poor", "enough"), [(1, 0, False), (2, 0, True), (2, 2, True), (2, 3, False)])
def test_a_mosaic_needs_two_tiles_and_half_of_the_epoch(epoch, good, poor, enough):
    for number in range(good + poor):
        tile_image(number, grade="good" if number < good else "poor")
    assert (choose_tiles_or_none(epoch) is not None) == enough


def test_too_few_tiles_are_said_with_the_names_of_the_others(epoch):
    tile_image(0)
    poor = tile_image(1, grade="poor")
    with pytest.raises(TooFewTiles, match=rf"^Of the 2 tiles of epoch 2026-03-01T06 .* 1 can.* {poor.name} \(graded"):
        choose_tiles(epoch=epoch)


# --- made and recorded -----------------------------------------------------------------------------------------------
def test_a_mosaic_is_recorded_with_its_tiles_and_those_it_lacks(epoch):
    tiles = [tile_image(number, on_disk=True) for number in range(3)]
    poor = tile_image(3, grade="poor")
    mosaic = make(epoch)
    assert (mosaic.kind, mosaic.mosaic_of, mosaic.epoch, mosaic.is_current) == ("mosaic", epoch, HOUR, True)
    assert [link.tile for link in mosaic.mosaic_tiles.all()] == tiles
    assert [link.rms_jy_per_beam for link in mosaic.mosaic_tiles.all()] == pytest.approx([1e-3] * 3, rel=0.1)
    assert mosaic.metrics["left_out"] == [{"name": poor.name, "code": "poor", "reason": "graded poor"}]
    assert mosaic.metrics["noise_ratio"] == pytest.approx(1, abs=0.05)
    assert mosaic.observed_at == tiles[1].observed_at
    assert value_at(products_root() / mosaic.path, *SOURCE[:2]) == pytest.approx(SOURCE[2], rel=0.02)
    assert mosaic.peak_jy_per_beam == pytest.approx(SOURCE[2], rel=0.2)
    sigma = fits.getdata(products_root() / mosaic.noise_path)
    assert sigma.shape == (mosaic.height_px, mosaic.width_px)
    assert mosaic.rms_jy_per_beam == pytest.approx(np.nanmedian(sigma), rel=0.01)
    assert np.nanmin(sigma) < mosaic.mosaic_tiles.first().rms_jy_per_beam
    assert (products_root() / mosaic.preview_path).read_bytes().startswith(b"\x89PNG")


def test_the_same_tiles_are_the_same_mosaic_and_others_a_new_version(epoch):
    tiles = [tile_image(number, on_disk=True) for number in range(2)]
    first = make(epoch)
    assert make(epoch) == first
    assert first.recipe == mosaic_recipe(tiles) == mosaic_recipe(tiles[::-1])
    tile_image(2, on_disk=True)
    second = make(epoch)
    assert second != first
    assert list(Image.objects.mosaics().current()) == [second]


def test_a_mosaic_is_judged_without_a_thermal_noise_of_its_own(epoch):
    for number in range(2):
        tile_image(number, on_disk=True)
    mosaic = make(epoch)
    assert assess_image(image=mosaic).grade == "good"


@pytest.mark.parametrize("column", ["flat_noise_path", "residual_path", "primary_beam_path"])
def test_a_tile_whose_file_is_cut_short_is_named_and_nothing_is_recorded(epoch, column):
    tiles = [tile_image(number, on_disk=True) for number in range(2)]
    path = products_root() / getattr(tiles[1], column)
    path.write_bytes(path.read_bytes()[:100_000])
    with pytest.raises(TileUnusable, match=f"^The tile {tiles[1].name} cannot go into a mosaic: .* is truncated"):
        make(epoch)
    assert not Image.objects.mosaics().exists()


# --- the API ---------------------------------------------------------------------------------------------------------
def test_an_epoch_shows_its_tiles_and_its_mosaic(api, epoch):
    tile, missing = tile_image(0), SubbandGroupFactory(started_at=HOUR + timedelta(minutes=40))
    MosaicFactory(mosaic_of=epoch, is_current=False)
    mosaic = MosaicFactory(mosaic_of=epoch, grade="good")
    shown = api.get(f"/api/v1/epochs/{epoch.pk}/").json()
    assert (shown["mosaic"], shown["grade"], shown["name"]) == (mosaic.pk, "unknown", "2026-03-01T06 dec 16.10")
    assert [(one["subband_group"], one["image"], one["grade"]) for one in shown["tiles"]] == [
        (tile.measurement_set.group_id, tile.pk, "good"),
        (missing.pk, None, None),
    ]


def test_an_epoch_shows_its_gates_and_how_its_mosaic_compares(api, epoch):
    before = api.get(f"/api/v1/epochs/{epoch.pk}/").json()
    assert (before["gates"], before["comparison"], before["assessment"]) == ([], None, None)
    mosaic = MosaicFactory(mosaic_of=epoch)
    compared = ComparisonFactory(image=mosaic, flux_ratio=0.5, n_matched=12, completeness=None)
    assess_epoch(epoch=epoch, mosaic=mosaic)
    shown = api.get(f"/api/v1/epochs/{epoch.pk}/").json()
    assert [(gate["name"], gate["outcome"]) for gate in shown["gates"]] == [
        ("flux_scale", "fail"),
        ("completeness", "skipped"),
        ("noise", "pass"),
    ]
    assert "below 0.8" in shown["gates"][0]["why"]
    assert (shown["grade"], shown["assessment"]["grade"]) == ("poor", "poor")
    assert (shown["comparison"]["catalogue"], shown["comparison"]["flux_ratio"]) == (compared.catalogue.name, 0.5)
    image = api.get(f"/api/v1/images/{mosaic.pk}/").json()
    assert image["comparison"] == shown["comparison"]
    assert api.get(f"/api/v1/images/{ImageFactory().pk}/").json()["comparison"] is None


def test_epochs_are_found_by_time_strip_and_grade(api, epoch):
    later = EpochFactory(started_at=HOUR + timedelta(hours=5), dec_deg=40.0, grade="poor")

    def found(query: str) -> list[int]:
        return [row["id"] for row in api.get(f"/api/v1/epochs/?{query}").json()["results"]]

    assert found("") == [later.pk, epoch.pk]
    assert found("started_at__gte=2026-03-01T07:00:00Z") == [later.pk]
    assert found("dec_deg__lt=30") == [epoch.pk]
    assert found("grade=poor,good") == [later.pk]
    assert found("ordering=started_at") == [epoch.pk, later.pk]


def test_an_image_shows_the_tiles_of_a_mosaic_and_its_noise_can_be_fetched(api, epoch):
    tiles = [tile_image(number, on_disk=True) for number in range(2)]
    mosaic = make(epoch)
    shown = api.get(f"/api/v1/images/{mosaic.pk}/").json()
    assert [tile["image"] for tile in shown["mosaic_tiles"]] == [tile.pk for tile in tiles]
    assert shown["mosaic_of"] == epoch.pk
    assert api.get(shown["links"]["noise"]).headers["Content-Type"] == "application/fits"
    assert api.get(f"/api/v1/images/{tiles[0].pk}/noise/").status_code == 404
    assert [row["id"] for row in api.get("/api/v1/images/?kind=mosaic").json()["results"]] == [mosaic.pk]
