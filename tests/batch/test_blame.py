"""What follows a quarantine: statistics that are computed again, and a plan to rebuild."""

from __future__ import annotations

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from batch import transitions
from batch.blame import NothingToRebuild, lift_and_recompute, plan, quarantine_and_recompute, reprocess
from batch.models import Item
from batch.work import run_stage
from contimg.products import this_process
from images.models import Image
from observations.models import MeasurementSet
from sources.models import Source
from tests.factories import CalibrationTableFactory, MeasurementFactory, SourceFactory, UserFactory
from tests.provenance.chains import make_chain

pytestmark = pytest.mark.django_db


@pytest.fixture
def chain():
    made = make_chain(3)
    for number in range(2):
        source = SourceFactory(n_measurements=3, flux_mean_jy=0.1, ra_deg=10.0 + number, dec_deg=made.tiles[0].dec_deg)
        for tile in made.tiles:
            MeasurementFactory(source=source, image=tile, is_forced=True, dec_deg=tile.dec_deg)
    Image.objects.filter(pk__in=[tile.pk for tile in made.tiles]).update(n_measurements=2)
    return made


def of_table(chain):
    return {"kind": "calibration_table", "pk": chain.tables[0].pk, "reason": "bad"}


def another_set(chain):
    """Tables of another calibrator's tile, valid for the whole chain."""
    solved = {"set_name": "another", "source_measurement_set": chain.raw[2], "flag_table": chain.flags[2]}
    return [CalibrationTableFactory(kind=kind, **solved) for kind in "BG"]


def test_each_source_that_lost_its_statistics_is_in_an_image_of_the_batch(chain):
    user = UserFactory()
    _, batches = quarantine_and_recompute(**of_table(chain), actor=user)
    assert [(batch.stage, batch.owner) for batch in batches] == [("statistics", user)]
    images = set(batches[0].items.values_list("image", flat=True))
    measured = set(Source.objects.filter(measurements__image__in=images).values_list("pk", flat=True))
    assert measured == set(Source.objects.filter(is_stale=True).values_list("pk", flat=True)) != set()
    assert len(images) == 1


def test_where_nothing_was_measured_there_is_no_batch():
    _, batches = quarantine_and_recompute(**of_table(make_chain(1)))
    assert batches == []
    assert Item.objects.count() == 0


def test_the_plan_takes_the_tiles_that_have_other_tables_and_their_mosaics(chain):
    make_chain(2)
    another_set(chain)
    row, _ = quarantine_and_recompute(**of_table(chain))
    planned = plan(row=row)
    assert planned.tiles == chain.groups
    assert planned.epochs == [chain.mosaic.mosaic_of]
    assert planned.not_rebuilt == []
    batches = reprocess(row=row)
    assert [(batch.stage, batch.items.values("group").distinct().count()) for batch in batches] == [
        ("process", 3),
        ("mosaic", 1),
    ]


@pytest.mark.parametrize("change", [{"is_retired": True}, {"grade": "poor"}, {"dec_deg": 50.0}])
def test_without_another_table_that_may_be_applied_a_tile_is_named_and_left(chain, change):
    for table in another_set(chain):
        type(table).objects.filter(pk=table.pk).update(**change)
    row, _ = quarantine_and_recompute(**of_table(chain))
    planned = plan(row=row)
    assert planned.tiles == []
    assert {one.reason for one in planned.not_rebuilt} == {
        "no other calibration table that passed its gate is valid for it"
    }


@pytest.mark.parametrize(
    ("kind", "of", "reason"),
    [
        ("subband_group", lambda chain: chain.groups[1], "raw files"),
        ("measurement_set", lambda chain: chain.raw[1], "raw measurement set"),
        ("flag_table", lambda chain: chain.flags[1], "flags"),
        ("measurement_set", lambda chain: chain.calibrated[1], "calibrated set"),
        ("image", lambda chain: chain.tiles[1], "image is quarantined itself"),
    ],
)
def test_what_would_come_out_the_same_again_is_not_rebuilt(chain, kind, of, reason):
    another_set(chain)
    row, _ = quarantine_and_recompute(kind=kind, pk=of(chain).pk, reason="bad")
    planned = plan(row=row)
    assert planned.tiles == []
    assert [one.tile for one in planned.not_rebuilt] == [chain.groups[1]]
    assert reason in planned.not_rebuilt[0].reason
    assert planned.epochs == [chain.mosaic.mosaic_of], "made again without the tile"


def test_a_lifted_quarantine_has_nothing_to_rebuild(chain):
    row, _ = quarantine_and_recompute(**of_table(chain))
    lift_and_recompute(row=row)
    with pytest.raises(NothingToRebuild):
        reprocess(row=row)


def test_superseded_images_are_not_rebuilt(chain):
    another_set(chain)
    Image.objects.filter(pk=chain.tiles[1].pk).update(is_current=False)
    row, _ = quarantine_and_recompute(**of_table(chain))
    assert plan(row=row).tiles == [chain.groups[0], chain.groups[2]]


def test_a_plan_takes_as_many_queries_for_many_tiles():
    taken = []
    for n in (1, 5):
        row, _ = quarantine_and_recompute(**of_table(make_chain(n)))
        with CaptureQueriesContext(connection) as queries:
            plan(row=row)
        taken.append(len(queries))
    assert taken[0] == taken[1]


def test_the_statistics_stage_brings_them_back_with_evidence(chain, products_root):
    _, batches = quarantine_and_recompute(kind="image", pk=chain.tiles[1].pk, reason="a satellite")
    held = transitions.claim(worker=this_process(), host="here")
    run_stage(held, lambda fraction: None)
    assert not Source.objects.filter(is_stale=True).exists()
    assert set(Source.objects.values_list("n_measurements", flat=True)) == {2}
    attempt = batches[0].items.get().attempts.get()
    assert attempt.evidence["outputs"][0]["kind"] == "statistics"
    assert attempt.evidence["outputs"][0]["name"] == "2 sources"
    assert MeasurementSet.objects.filter(is_suspect=True).count() == 0
