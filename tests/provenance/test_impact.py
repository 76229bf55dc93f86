from __future__ import annotations

from datetime import timedelta

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from contimg.intervals import ReversedInterval
from images.models import Image
from observations.models import MeasurementSet
from provenance import impact
from tests.factories import AssessmentFactory
from tests.provenance.chains import make_chain

pytestmark = pytest.mark.django_db


@pytest.fixture
def chain():
    made = make_chain(3)
    Image.objects.filter(pk__in=[tile.pk for tile in made.tiles]).update(n_measurements=7)
    for tile, grade in zip(made.tiles, ("good", "good", "poor"), strict=True):
        AssessmentFactory(image=tile, grade=grade)
    return made


def test_a_table_touched_its_sets_images_fluxes_verdicts_and_epochs(chain):
    make_chain(2)
    found = impact.of_node(kind="calibration_table", pk=chain.tables[0].pk)
    assert found.counts == {"calibration_table": 1, "measurement_set": 3, "image": 4, "catalogue": 4}
    assert found.products["image"] == sorted(image.pk for image in [*chain.tiles, chain.mosaic])
    assert (found.n_measurements, found.n_suspect) == (21, 0)
    assert found.verdicts == {"good": 2, "poor": 1}
    assert found.epochs == [chain.mosaic.mosaic_of.name]
    assert found.observed_from == min(image.observed_at for image in [*chain.tiles, chain.mosaic])


def test_a_time_that_ends_before_it_begins_is_refused(chain):
    time = chain.tiles[0].observed_at
    with pytest.raises(ReversedInterval):
        impact.asked(observed_from=time, observed_until=time - timedelta(hours=1))


def test_an_antenna_touched_what_its_visibilities_went_into(chain):
    other = make_chain(2, tables=[])
    MeasurementSet.objects.filter(pk=other.raw[1].pk).update(antennas=["10", "3%", "a b"])
    for name in ("10", "3%", "a b"):
        assert impact.of_observations(antenna=name).products["image"] == [other.tiles[1].pk, other.mosaic.pk]
    for name in ("1", "_", "3"):
        with pytest.raises(impact.UnknownAntenna):
            impact.of_observations(antenna=name)


def test_a_time_touched_what_was_observed_in_it_and_what_its_tables_calibrated(chain):
    first, second = chain.groups[0].observed_at, chain.groups[1].observed_at
    of_second = impact.of_observations(observed_from=second, observed_until=second + timedelta(seconds=1))
    assert of_second.products["image"] == sorted([chain.tiles[1].pk, chain.mosaic.pk])
    of_first = impact.of_observations(observed_until=first + timedelta(seconds=1))
    assert of_first.counts["image"] == 4


@pytest.mark.parametrize("name", ["ducc0", "contains", "python-casacore", "isnull"])
def test_a_version_of_software_touched_what_it_made_and_what_was_made_of_that(chain, name):
    MeasurementSet.objects.filter(pk=chain.calibrated[2].pk).update(versions={name: "0.42"})
    found = impact.of_software(name=name, version="0.42")
    assert found.products["image"] == sorted([chain.tiles[2].pk, chain.mosaic.pk])
    with pytest.raises(impact.UnknownSoftware, match=rf"{name} 0\.4; the newest image names"):
        impact.of_software(name=name, version="0.4")


def test_asking_about_nothing_is_refused():
    with pytest.raises(impact.NothingAsked):
        impact.of_observations()


@pytest.mark.parametrize(("name", "version"), [("", "1"), ("ducc0", ""), ('a"b', "1"), ("0", "1"), ("é", "1")])
def test_a_name_that_no_software_has_is_refused(name, version):
    with pytest.raises(impact.NothingAsked):
        impact.of_software(name=name, version=version)


def test_many_are_counted_and_the_first_named_with_as_many_queries(chain, monkeypatch):
    monkeypatch.setattr(impact, "MOST_NAMED", 2)
    with CaptureQueriesContext(connection) as queries:
        found = impact.of_node(kind="subband_group", pk=chain.groups[0].pk)
    assert found.counts["image"] == 4
    assert len(found.products["image"]) == 2
    assert len(queries) <= 16
