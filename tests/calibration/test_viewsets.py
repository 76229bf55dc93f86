from __future__ import annotations

import pytest

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
