from __future__ import annotations

import pytest

from tests.factories import MeasurementFactory, SourceFactory


@pytest.mark.django_db
def test_a_source_names_the_images_that_have_its_forced_flux(api):
    source = SourceFactory()
    forced = MeasurementFactory.create_batch(2, source=source)
    MeasurementFactory(source=source, is_forced=False)
    detail = api.get(f"/api/v1/sources/{source.pk}/").json()
    assert detail["images"] == [measurement.image_id for measurement in forced]


@pytest.mark.django_db
def test_measurements_of_one_source_are_found(api):
    mine, _ = MeasurementFactory(), MeasurementFactory()
    (row,) = api.get("/api/v1/measurements/", {"source": mine.source_id}).json()["results"]
    assert (row["id"], row["source"], row["image"]) == (mine.pk, mine.source_id, mine.image_id)
    assert row["snr"] == pytest.approx(80)
    detail = api.get(f"/api/v1/measurements/{mine.pk}/").json()
    assert (detail["source_name"], detail["image_grade"]) == (mine.source.name, "good")
