from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta

import pytest

from calibration.services import next_transits
from observations.telescope import meridian_icrs, next_transit
from tests.factories import AssessmentFactory, CalibrationTableFactory, CalibratorFactory, FindingFactory

TABLES = "/api/v1/calibration-tables/"


@pytest.mark.django_db
def test_tables_valid_at_a_time_are_found_at_both_ends_of_their_interval(api):
    table = CalibrationTableFactory()

    def found(time):
        return [row["id"] for row in api.get(TABLES, {"valid_at": time.isoformat()}).json()["results"]]

    assert found(table.valid_from) == found(table.valid_until) == [table.pk]
    assert found(table.valid_until.replace(year=2030)) == []


@pytest.mark.django_db
def test_a_table_is_shown_with_its_current_verdict(api):
    table = CalibrationTableFactory()
    verdict = AssessmentFactory(image=None, calibration_table=table)
    FindingFactory(assessment=verdict, rule="snr")
    detail = api.get(f"{TABLES}{table.pk}/").json()
    assert detail["assessment"]["id"] == verdict.pk
    assert [finding["rule"] for finding in detail["assessment"]["findings"]] == ["snr"]
    assert detail["source_measurement_set"]["id"] == table.source_measurement_set_id
    assert detail["calibrator"] == table.calibrator.name
    assert (detail["solver"], detail["metrics"]) == ("stefcal", {"snr": 40.0})


@pytest.mark.django_db
def test_a_calibrator_has_its_flux_model_and_paper(api):
    calibrator = CalibratorFactory(name="PKS 1934")
    (row,) = api.get("/api/v1/calibrators/", {"name": "pks 1934"}).json()["results"]
    assert row["reference"].startswith("Perley")
    detail = api.get(f"/api/v1/calibrators/{calibrator.pk}/").json()
    assert detail["flux_coefficients"][0] == 1.2481


# --- transits ---------------------------------------------------------------------------------------------------------
NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


def transiting(api, time):
    response = api.get("/api/v1/calibrators/", {"transiting_at": time.isoformat()})
    assert response.status_code == 200, response.content
    return {row["name"] for row in response.json()["results"]}


@pytest.mark.django_db
@pytest.mark.parametrize("dec_deg", [-30.0, 0.0, 16.3, 54.6, 80.0])
def test_calibrators_within_the_beam_of_the_meridian_are_transiting(api, dec_deg):
    (ra,), (dec,) = meridian_icrs([NOON], [dec_deg])
    across = math.cos(math.radians(dec))
    for name, off in (("on it", 0), ("before", 1.3), ("after", -1.3), ("too early", 1.45), ("too late", -1.45)):
        CalibratorFactory(name=name, ra_deg=(ra + off / across) % 360, dec_deg=dec)
    CalibratorFactory(name="below the pole", ra_deg=(ra + 180) % 360, dec_deg=dec)
    assert transiting(api, NOON) == {"on it", "before", "after"}


@pytest.mark.django_db
def test_next_transits_are_when_the_meridian_is_there(api):
    (ra,), (dec,) = meridian_icrs([NOON], [30.0])
    calibrator = CalibratorFactory(ra_deg=ra, dec_deg=dec)
    assert abs(next_transit(ra, dec, NOON - timedelta(hours=5)) - NOON) <= timedelta(seconds=1)
    times = next_transits(calibrator=calibrator, after=NOON + timedelta(minutes=1))
    day = timedelta(seconds=86_164.09)
    assert [abs(time - NOON - n * day) < timedelta(seconds=2) for n, time in enumerate(times, 1)] == [True] * 3
    shown = api.get(f"/api/v1/calibrators/{calibrator.pk}/").json()["next_transits"]
    assert len(shown) == 3
    assert transiting(api, datetime.fromisoformat(shown[0])) == {calibrator.name}


@pytest.mark.django_db
def test_a_time_of_transit_that_is_none_is_refused(api):
    assert api.get("/api/v1/calibrators/", {"transiting_at": "tonight"}).status_code == 400
