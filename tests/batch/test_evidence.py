"""No stage is done without its product: with nothing, an empty one or an old one in its place it fails and says so."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from django.db import transaction

from batch import evidence
from batch.models import Item
from batch.runner import run_batch_here
from batch.services import create_batch
from batch.stages import CHAIN
from contimg.products import work_folders
from images.models import Image
from observations.models import SubbandGroup
from observations.services import index_subbands
from qa.models import Policy
from sources.models import Catalogue
from tests.batch import sabotage
from tests.factories import CatalogueFactory, EpochFactory, MeasurementFactory
from tests.images.test_mosaics import tile_image

pytest_plugins = ["tests.batch.nights"]
CODES = {"nothing": "output_missing", "gone": "output_missing", "empty": "output_empty", "old": "output_stale"}


@pytest.fixture
def spoil(settings):
    """The real stages, to be spoilt by `spoil[stage] = how`."""
    settings.CONTIMG_STAGES = sabotage.PATH
    yield sabotage.HOW
    sabotage.HOW.clear()


def run(stage: str, kind: str, pk: int) -> Item:
    batch = create_batch(stage=stage, subjects=[(kind, pk)]).batch
    run_batch_here(batch=batch, watch=lambda batch: None)
    return batch.items.get(stage=stage)


def make_old(stage: str, tile: SubbandGroup) -> None:
    """A verdict or a catalogue as an earlier policy or version of the engine left it."""
    if stage == "assess":
        Policy.objects.update(is_active=False)
    Catalogue.objects.update(recipe="of before")


@pytest.mark.slow
@pytest.mark.once
@pytest.mark.django_db
def test_each_stage_of_a_tile_fails_without_its_product(night, small_array, spoil):
    index_subbands(folder=night)
    tile = SubbandGroup.objects.earliest("observed_at")  # with the calibrator
    for stage in CHAIN:
        for how in ("nothing", "gone", "empty"):
            if how == "gone" and stage in ("assess", "photometry"):
                continue  # rows, not files
            spoil[stage] = how
            item = run(stage, "subband_group", tile.pk)
            assert (stage, how, item.state, item.error_code) == (stage, how, "failed", CODES[how])
            assert list(item.attempts.get().evidence) == ["inputs"]
        spoil.clear()
        if stage not in ("assess", "photometry"):
            spoil[stage] = "old"
            item = run(stage, "subband_group", tile.pk)
            assert (stage, item.state, item.error_code) == (stage, "failed", "output_stale")
            spoil.clear()
        item = run(stage, "subband_group", tile.pk)
        assert (stage, item.state, item.error_detail) == (stage, "done", "")
        assert item.attempts.get().evidence["outputs"]
    assert work_folders() == []
    for stage in ("assess", "photometry"):
        with transaction.atomic():
            make_old(stage, tile)
            spoil[stage] = "old"
            item = run(stage, "subband_group", tile.pk)
            assert (stage, item.state, item.error_code) == (stage, "failed", "output_stale")
            transaction.set_rollback(True)


@pytest.mark.django_db
def test_a_catalogue_whose_detections_became_no_source_is_not_empty_and_one_without_its_forced_fluxes_is():
    unsure = CatalogueFactory(n_detected=4, n_forced=0)
    assert evidence.made([unsure], since_ns=0)[0]["name"] == "0 measurements"

    with pytest.raises(evidence.OutputEmpty):
        evidence.made([CatalogueFactory(n_detected=0, n_forced=2)], since_ns=0)


@pytest.mark.once
@pytest.mark.django_db
@pytest.mark.parametrize("how", CODES)
def test_a_mosaic_fails_without_its_product(how, spoil):
    epoch = EpochFactory(started_at=datetime(2026, 3, 1, 6, tzinfo=UTC))
    for number in range(2):
        tile_image(number, on_disk=True)
    spoil["mosaic"] = how
    item = run("mosaic", "epoch", epoch.pk)
    assert (item.state, item.error_code) == ("failed", CODES[how])
    assert not Image.objects.filter(kind="mosaic").exists()
    spoil.clear()
    assert run("mosaic", "epoch", epoch.pk).state == "done"


@pytest.mark.django_db
def test_statistics_that_stay_withdrawn_are_no_result(spoil):
    image = MeasurementFactory(source__is_stale=True).image
    spoil["statistics"] = "nothing"
    item = run("statistics", "image", image.pk)
    assert (item.state, item.error_code) == ("failed", "output_missing")
    spoil.clear()
    assert run("statistics", "image", image.pk).state == "done"
