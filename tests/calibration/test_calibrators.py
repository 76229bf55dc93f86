"""The built-in calibrators against published figures, typed here from other sources than the table they come from."""

from __future__ import annotations

from importlib import import_module
from math import log

import pytest
from astropy.coordinates import SkyCoord
from django.apps import apps

from calibration.models import CalibrationTable, Calibrator
from calibration.services import calibrator_model
from tests.factories import CalibrationTableFactory

migration = import_module("calibration.migrations.0003_calibrators_in_use")

pytestmark = pytest.mark.django_db

# Flux densities at 1.4 GHz: Condon et al. 1998 (NVSS) and Perley & Butler 2013, table 5, interpolated; Jy.
# Positions: International Celestial Reference Frame, J2000.
PUBLISHED = {
    "3C48": (16.3, "01h37m41.2994s +33d09m35.134s"),
    "3C138": (8.5, "05h21m09.8860s +16d38m22.051s"),
    "3C147": (22.0, "05h42m36.1379s +49d51m07.234s"),
    "3C286": (15.0, "13h31m08.2880s +30d30m32.959s"),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_flux_at_1_4_ghz_is_the_published_one(name):
    model = calibrator_model(Calibrator.objects.get(name=name))

    assert model.flux_jy(1.4e9) == pytest.approx(PUBLISHED[name][0], rel=0.02)


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_position_is_the_published_one(name):
    row = Calibrator.objects.get(name=name)

    off = SkyCoord(row.ra_deg, row.dec_deg, unit="deg").separation(SkyCoord(PUBLISHED[name][1]))

    assert off.arcsec < 0.01


@pytest.mark.parametrize(("name", "index"), [("3C48", -0.83), ("3C138", -0.55), ("3C147", -0.75), ("3C286", -0.50)])
def test_the_spectrum_falls_over_the_band_as_it_is_known_to(name, index):
    model = calibrator_model(Calibrator.objects.get(name=name))

    assert log(model.flux_jy(1.498e9) / model.flux_jy(1.31e9)) / log(1.498 / 1.31) == pytest.approx(index, abs=0.05)


def test_every_calibrator_is_bright_has_a_place_and_a_source():
    for calibrator in Calibrator.objects.all():
        assert 5 < calibrator_model(calibrator).flux_jy(1.4e9) < 60
        assert "Perley & Butler 2017" in calibrator.reference
        assert calibrator in Calibrator.objects.within_cone(
            ra_deg=calibrator.ra_deg, dec_deg=calibrator.dec_deg, radius_deg=0.01
        )
    assert Calibrator.objects.count() == 8


def test_a_source_with_lobes_wider_than_the_beam_is_retired_and_says_why():
    assert list(Calibrator.objects.filter(is_retired=True).values_list("name", flat=True)) == ["3C123"]
    assert "no point" in Calibrator.objects.get(name="3C123").reference
    assert not Calibrator.objects.in_use().filter(name="3C123").exists()


@pytest.mark.parametrize(
    "position",
    ["14h11m20.647s +52d12m09.14s", "14h11m20.64s +52d12m09.30s"],
    ids=["VLA calibrator list", "middle of the two points of Scaife & Heald 2012"],
)
def test_3c295_is_where_its_radio_emission_is(position):
    row = Calibrator.objects.get(name="3C295")

    assert SkyCoord(row.ra_deg, row.dec_deg, unit="deg").separation(SkyCoord(position)).arcsec < 0.5


def test_the_migration_keeps_the_tables_of_the_retired_one_and_can_be_undone():
    table = CalibrationTableFactory(calibrator=Calibrator.objects.get(name="3C123"))
    written = Calibrator.objects.get(name="3C123").reference

    migration.restore(apps, None)
    assert Calibrator.objects.get(name="3C123").reference == Calibrator.objects.get(name="3C48").reference
    migration.retire(apps, None)

    table.refresh_from_db()
    assert (table.calibrator.is_retired, table.calibrator.reference) == (True, written)
    assert table in CalibrationTable.objects.in_use()
