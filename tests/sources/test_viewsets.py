from __future__ import annotations

import pytest

from tests.factories import ImageFactory, MeasurementFactory, SourceFactory


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


@pytest.mark.django_db
def test_a_light_curve_has_every_epoch_and_its_statistics(api):
    source = SourceFactory()
    fluxes = [0.05, 0.052, 0.9]
    grades = ["good", "marginal", "poor"]
    for flux_jy, grade in zip(fluxes, grades, strict=True):
        MeasurementFactory(source=source, flux_jy=flux_jy, image=ImageFactory(grade=grade))
    body = api.get(f"/api/v1/sources/{source.pk}/light-curve/").json()
    assert set(body) == {"source", "points", "not_covered", "statistics"}
    assert body["source"] == source.pk
    assert [point["flux_jy"] for point in body["points"]] == fluxes
    assert [point["status"] for point in body["points"]] == ["forced", "forced", "rejected"]
    assert set(body["points"][0]) == {
        "observed_at", "mjd", "status", "flux_jy", "flux_err_jy", "upper_limit_jy", "snr", "image", "grade",
    }  # fmt: skip
    assert body["statistics"]["n"] == 2
    assert set(body["statistics"]) == {"n", "mean_jy", "std_jy", "eta", "v", "reason"}
    assert api.get("/api/v1/sources/0/light-curve/").status_code == 404
