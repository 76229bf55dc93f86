from __future__ import annotations

import math

import pytest

from tests.contimg.api.test_filters import errors, ids
from tests.factories import ImageFactory, MeasurementFactory, ReferenceSourceFactory, SourceFactory


@pytest.mark.django_db
def test_a_source_names_the_images_that_have_its_forced_flux(api):
    source = SourceFactory()
    forced = MeasurementFactory.create_batch(2, source=source)
    MeasurementFactory(source=source, is_forced=False)
    detail = api.get(f"/api/v1/sources/{source.pk}/").json()
    assert detail["images"] == [measurement.image_id for measurement in forced]


@pytest.mark.django_db
def test_a_source_links_to_all_that_hangs_on_it(api):
    source = MeasurementFactory().source
    links = api.get(f"/api/v1/sources/{source.pk}/").json()["links"]
    assert set(links) == {"measurements", "light_curve", "cutouts", "neighbours"}
    for link in links.values():
        assert api.get(link).status_code == 200
    assert [row["source"] for row in api.get(links["measurements"]).json()["results"]] == [source.pk]


@pytest.mark.django_db
def test_measurements_of_one_source_are_found(api):
    mine, _ = MeasurementFactory(), MeasurementFactory()
    (row,) = api.get("/api/v1/measurements/", {"source": mine.source_id}).json()["results"]
    assert (row["id"], row["source"], row["image"]) == (mine.pk, mine.source_id, mine.image_id)
    assert row["snr"] == pytest.approx(80)
    detail = api.get(f"/api/v1/measurements/{mine.pk}/").json()
    assert (detail["source_name"], detail["image_grade"]) == (mine.source.name, "good")


@pytest.mark.django_db
def test_measurements_of_one_image_are_listed_filtered_and_paged_as_all_are(api):
    image, other = ImageFactory(), MeasurementFactory()
    rows = [MeasurementFactory(image=image, flux_jy=flux_jy) for flux_jy in (0.1, 0.3, 0.2)]
    url = f"/api/v1/images/{image.pk}/measurements/"
    listed = api.get("/api/v1/measurements/", {"image": image.pk}).json()["results"]
    assert api.get(url).json()["results"] == listed
    assert [row["id"] for row in listed] == [row.pk for row in reversed(rows)]
    assert ids(api.get(url, {"flux_jy__gt": "0.15", "ordering": "id"})) == [row.pk for row in rows[1:]]
    cone = {"ra_deg": rows[1].ra_deg, "dec_deg": rows[1].dec_deg, "radius_deg": 0.01}
    assert rows[1].pk in ids(api.get(url, cone))
    page = api.get(url, {"limit": 2, "count": "true"}).json()
    assert (page["count"], ids(api.get(page["next"]))) == (3, [rows[0].pk])
    moved = page["next"].replace(f"/{image.pk}/", f"/{other.image_id}/")
    assert errors(api.get(moved)) == {"cursor": "invalid_cursor"}
    assert "text/html" in api.get(url, headers={"accept": "text/html"}).headers["Content-Type"]
    assert api.get(f"/api/v1/images/{2**40}/measurements/").status_code == 404


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("given", "wrong"),
    [
        ({"image": "1"}, {"image": "unknown_parameter"}),
        ({"flux_jy": "nan"}, {"flux_jy": "invalid"}),
        ({"flux_jy__lt": "inf"}, {"flux_jy__lt": "invalid"}),
        ({"snr": ""}, {"snr": "empty_parameter"}),
        ({"limit": ["1", "1"]}, {"limit": "repeated_parameter"}),
        ({"ordering": "flux"}, {"ordering": "unknown_ordering"}),
        ({"ra_deg": "1"}, {"dec_deg": "incomplete_cone", "radius_deg": "incomplete_cone"}),
    ],
)
def test_what_the_measurements_of_an_image_do_not_know_is_refused(api, given, wrong):
    assert errors(api.get(f"/api/v1/images/{ImageFactory().pk}/measurements/", given)) == wrong


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


@pytest.mark.django_db
def test_reference_sources_are_found_by_catalogue_flux_and_cone(api):
    first = ReferenceSourceFactory(ra_deg=359.999, flux_jy=0.1)
    near = ReferenceSourceFactory(ra_deg=0.001, flux_jy=0.2, catalogue=first.catalogue)
    ReferenceSourceFactory(ra_deg=0.001, flux_jy=0.3)
    ReferenceSourceFactory(ra_deg=5, flux_jy=0.4, catalogue=first.catalogue)
    url, cone = "/api/v1/reference-sources/", {"ra_deg": 0.0005, "dec_deg": 16.3, "radius_deg": 0.1}
    rows = api.get(url, {"catalogue": first.catalogue_id, **cone}).json()["results"]
    assert [row["id"] for row in rows] == [near.pk, first.pk]
    assert rows[0]["separation_deg"] == pytest.approx(0.0005 * math.cos(math.radians(16.3)), rel=1e-6)
    rows = api.get(url, {"flux_jy__gte": 0.2, "catalogue": first.catalogue_id, "ordering": "-flux_jy"}).json()
    assert [row["flux_jy"] for row in rows["results"]] == [0.4, 0.2]
    detail = api.get(f"{url}{near.pk}/").json()
    assert detail["catalogue_name"] == first.catalogue.name
    (listed,) = api.get("/api/v1/reference-catalogues/", {"name": first.catalogue.name}).json()["results"]
    assert listed["id"] == first.catalogue_id
    assert api.get(f"/api/v1/reference-catalogues/{listed['id']}/").json()["left_out"] == {"no_flux": 1}
    assert api.post("/api/v1/reference-catalogues/", {}).status_code in (401, 405)


@pytest.mark.django_db
def test_reference_sources_are_paged_by_flux(api):
    for flux_jy in (0.3, 0.1, 0.2):
        ReferenceSourceFactory(flux_jy=flux_jy)
    page = api.get("/api/v1/reference-sources/?ordering=flux_jy&limit=2").json()
    assert [row["flux_jy"] for row in page["results"]] == [0.1, 0.2]
    assert [row["flux_jy"] for row in api.get(page["next"]).json()["results"]] == [0.3]
