from __future__ import annotations

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from access.models import AuditEntry
from calibration.models import CalibrationTable
from images.models import Image
from observations.models import MeasurementSet
from provenance.models import Quarantine
from provenance.reach import NoSuchProduct
from provenance.services import (
    AlreadyLifted,
    AlreadyQuarantined,
    NotQuarantinable,
    ReasonMissing,
    lift,
    quarantine,
)
from sources.models import Source
from sources.services import light_curve, refresh_stale
from tests.factories import ImageFactory, MeasurementFactory, SourceFactory, UserFactory
from tests.provenance.chains import make_chain

pytestmark = pytest.mark.django_db


def suspects(model=Image):
    return set(model.objects.filter(is_suspect=True).values_list("pk", flat=True))


def keys(rows):
    return {row.pk for row in rows}


def of_table(chain, which=0):
    return {"kind": "calibration_table", "pk": chain.tables[which].pk}


@pytest.fixture
def chain():
    return make_chain(3)


def test_everything_made_from_a_bad_table_is_suspect_and_nothing_else(chain):
    other = make_chain(2)
    user = UserFactory()
    row = quarantine(**of_table(chain), reason="  solved on a\nresolved source ", actor=user)
    assert (row.reason, row.created_by, row.lifted_at) == ("solved on a resolved source", user, None)
    assert suspects(CalibrationTable) == {chain.tables[0].pk}
    assert suspects(MeasurementSet) == keys(chain.calibrated)
    assert suspects() == keys([*chain.tiles, chain.mosaic])
    assert not suspects() & keys([*other.tiles, other.mosaic])
    assert not Image.objects.filter(is_suspect=True, is_accepted=True).exists()
    entry = AuditEntry.objects.latest("pk")
    assert (entry.action, entry.details["images"]) == ("quarantine.add", 4)


@pytest.mark.parametrize(
    ("kind", "of", "n_tiles"),
    [
        ("subband_group", lambda chain: chain.groups[0], 3),  # the tables were solved on it
        ("measurement_set", lambda chain: chain.raw[0], 3),
        ("flag_table", lambda chain: chain.flags[0], 3),
        ("subband_group", lambda chain: chain.groups[1], 1),
        ("flag_table", lambda chain: chain.flags[1], 1),
        ("measurement_set", lambda chain: chain.calibrated[1], 1),
        ("image", lambda chain: chain.tiles[1], 1),
        ("image", lambda chain: chain.mosaic, 0),
    ],
)
def test_it_spreads_from_each_kind_downwards_and_back(chain, kind, of, n_tiles):
    row = quarantine(kind=kind, pk=of(chain).pk, reason="bad")
    tiles = suspects() & keys(chain.tiles)
    assert len(tiles) == n_tiles
    assert chain.mosaic.pk in suspects()
    lift(row=row)
    assert suspects() == suspects(MeasurementSet) == suspects(CalibrationTable) == set()


def test_what_is_under_another_quarantine_stays_suspect(chain):
    first = quarantine(**of_table(chain, 0), reason="bad")
    second = quarantine(kind="image", pk=chain.tiles[2].pk, reason="a satellite")
    lift(row=first)
    assert suspects() == {chain.tiles[2].pk, chain.mosaic.pk}
    assert suspects(MeasurementSet) == set()
    lift(row=second)
    assert suspects() == set()


def test_an_image_from_elsewhere_comes_back_too():
    image = ImageFactory(kind="external", measurement_set=None)
    row = quarantine(kind="image", pk=image.pk, reason="not ours")
    assert suspects() == {image.pk}
    lift(row=row)
    assert suspects() == set()


@pytest.mark.parametrize("few", [0, 200_000])
def test_light_curves_and_statistics_lose_what_is_suspect_at_once_and_get_it_back(chain, few, monkeypatch):
    monkeypatch.setattr("sources.services.FEW_MEASUREMENTS", few)
    other = make_chain(1)
    place = {"ra_deg": chain.tiles[0].ra_deg, "dec_deg": chain.tiles[0].dec_deg}
    touched, spared = (
        SourceFactory(n_measurements=2, flux_mean_jy=0.1, eta=1.0, v=0.1, is_variable=True, **place) for _ in range(2)
    )
    for tile in (chain.tiles[0], chain.tiles[1]):
        MeasurementFactory(source=touched, image=tile, is_forced=True, **place)
    for tile in (other.tiles[0], chain.tiles[2]):
        MeasurementFactory(source=touched if tile is other.tiles[0] else spared, image=tile, is_forced=True, **place)
    Image.objects.filter(pk__in=keys([*chain.tiles, *other.tiles])).update(n_measurements=2)
    row = quarantine(kind="measurement_set", pk=chain.calibrated[1].pk, reason="a gain jump")
    touched.refresh_from_db()
    assert (touched.flux_mean_jy, touched.eta, touched.v, touched.is_variable) == (None, None, None, False)
    assert (touched.n_measurements, touched.is_stale) == (0, True)
    assert "quarantined" in touched.statistics_reason
    assert not Source.objects.get(pk=spared.pk).is_stale
    assert [point["status"] for point in light_curve(source=touched)["points"]].count("rejected") == 1
    refresh_stale(image=chain.tiles[1])
    touched.refresh_from_db()
    assert (touched.n_measurements, touched.is_stale) == (2, False)
    lift(row=row)
    refresh_stale(image=chain.tiles[1])
    assert Source.objects.get(pk=touched.pk).n_measurements == 3


def test_the_number_of_queries_does_not_grow():
    taken = []
    for chain in (make_chain(1), make_chain(6)):
        with CaptureQueriesContext(connection) as queries:
            quarantine(**of_table(chain), reason="bad")
        taken.append(len(queries))
    assert taken[0] == taken[1]


@pytest.mark.parametrize("kind", ["catalogue", "source", "", "image "])
def test_what_cannot_be_quarantined_is_refused(kind):
    with pytest.raises(NotQuarantinable):
        quarantine(kind=kind, pk=1, reason="bad")


@pytest.mark.parametrize("reason", ["", " \n", "x" * 301])
def test_a_quarantine_says_why(chain, reason):
    with pytest.raises(ReasonMissing):
        quarantine(**of_table(chain), reason=reason)


def test_what_is_gone_or_quarantined_or_lifted_already_is_refused(chain):
    with pytest.raises(NoSuchProduct):
        quarantine(kind="image", pk=2**40, reason="bad")
    row = quarantine(**of_table(chain), reason="bad")
    with pytest.raises(AlreadyQuarantined):
        quarantine(**of_table(chain), reason="worse")
    lift(row=row)
    with pytest.raises(AlreadyLifted):
        lift(row=Quarantine.objects.get(pk=row.pk))
    assert quarantine(**of_table(chain), reason="bad again").pk != row.pk


def test_a_suspect_table_is_not_applied(chain):
    assert CalibrationTable.objects.in_use().filter(pk=chain.tables[0].pk).exists()
    quarantine(**of_table(chain), reason="bad")
    assert not CalibrationTable.objects.in_use().filter(pk=chain.tables[0].pk).exists()
