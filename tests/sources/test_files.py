"""A source's light curve as files, its cutouts and its neighbours."""

from __future__ import annotations

import csv
import io

import numpy as np
import pytest
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.io import votable
from PIL import Image as Picture

from contimg import renditions
from images.services import register_external
from tests.contimg.api.test_filters import errors
from tests.factories import ImageFactory, MeasurementFactory, SourceFactory
from tests.images import radio_fits

pytestmark = [pytest.mark.django_db, pytest.mark.once]


def url(source, what: str) -> str:
    return f"/api/v1/sources/{source.pk}/{what}/"


def body(response) -> bytes:
    assert response.status_code in (200, 206), response.content
    return b"".join(response.streaming_content)


# --- the light curve -----------------------------------------------------------------------------------------
@pytest.fixture
def source():
    source = SourceFactory(name="DSA J1000+30")
    for flux_jy, limit, grade in ((0.0501, None, "good"), (-0.001, 0.003, "marginal"), (1 / 3, None, "poor")):
        MeasurementFactory(source=source, flux_jy=flux_jy, upper_limit_jy=limit, image=ImageFactory(grade=grade))
    MeasurementFactory(source=source, is_forced=False)
    MeasurementFactory(source=source, image=ImageFactory(observed_at=None))
    return source


@pytest.mark.parametrize("how", ["format", "accept"])
def test_the_csv_has_what_the_json_has(api, source, how):
    asked = {"format": "csv"} if how == "format" else {}
    response = api.get(url(source, "light-curve"), asked, headers={"accept": "text/csv"} if how == "accept" else {})
    assert response.headers["Content-Type"] == "text/csv; charset=utf-8"
    rows = list(csv.DictReader(io.StringIO(body(response).decode())))
    points = api.get(url(source, "light-curve")).json()["points"]
    assert len(rows) == len(points) == 4
    assert list(rows[0]) == list(points[0])
    for row, point in zip(rows, points, strict=True):
        for name, value in point.items():
            assert row[name] == ("" if value is None else str(value)), name


def test_the_votable_has_units_ucds_and_every_value(api, source):
    response = api.get(url(source, "light-curve"), {"format": "votable"})
    assert response.headers["Content-Type"] == "application/x-votable+xml; charset=utf-8"
    content = body(response)
    validated = io.StringIO()
    assert votable.validate(io.BytesIO(content), validated), validated.getvalue()
    table = votable.parse_single_table(io.BytesIO(content))
    points = api.get(url(source, "light-curve")).json()["points"]
    data = table.to_table()
    assert data.colnames == list(points[0])
    for name in ("mjd", "flux_jy", "flux_err_jy", "upper_limit_jy", "snr"):
        given = [np.nan if point[name] is None else point[name] for point in points]
        np.testing.assert_array_equal(np.ma.filled(data[name].astype(float), np.nan), given)
    assert [str(value) for value in data["observed_at"]] == [point["observed_at"] or "" for point in points]
    assert [int(value) for value in data["image"]] == [point["image"] for point in points]
    fields = {field.name: field for field in table.fields}
    assert {name: str(fields[name].unit) for name in ("mjd", "flux_jy", "upper_limit_jy")} == {
        "mjd": "d", "flux_jy": "Jy", "upper_limit_jy": "Jy",
    }  # fmt: skip
    assert all(field.ucd for field in table.fields)
    assert fields["mjd"].ref == "utc"
    assert {param.name: param.value for param in table.params} == {
        "source": source.name, "ra_deg": source.ra_deg, "dec_deg": source.dec_deg,
    }  # fmt: skip


@pytest.mark.parametrize("form", ["csv", "votable", "png"])
def test_a_source_without_a_point_has_files_too_and_who_has_one_does_not_get_it_again(api, form):
    source = SourceFactory()
    first = api.get(url(source, "light-curve"), {"format": form})
    assert body(first)
    headers = {"if-none-match": first.headers["ETag"]}
    assert api.get(url(source, "light-curve"), {"format": form}, headers=headers).status_code == 304
    MeasurementFactory(source=source)
    assert api.get(url(source, "light-curve"), {"format": form}, headers=headers).status_code == 200
    part = api.get(url(source, "light-curve"), {"format": form}, headers={"range": "bytes=0-3"})
    assert (part.status_code, len(body(part))) == (206, 4)


def test_the_plot_is_made_once_until_the_light_curve_changes(api, source, products_root):
    content = body(api.get(url(source, "light-curve"), {"format": "png"}))
    assert Picture.open(io.BytesIO(content)).format == "PNG"
    folder = products_root / renditions.FOLDER
    assert body(api.get(url(source, "light-curve"), {"format": "png"})) == content
    assert len(list(folder.iterdir())) == 1
    MeasurementFactory(source=source)
    assert body(api.get(url(source, "light-curve"), {"format": "png"})) != content
    assert len(list(folder.iterdir())) == 2


@pytest.mark.parametrize(
    ("given", "wrong"),
    [
        ({"format": "fits"}, {"format": "unknown_format"}),
        ({"format": ["csv", "csv"]}, {"format": "repeated_parameter"}),
        ({"format": "csv", "x": "1"}, {"x": "unknown_parameter"}),
    ],
)
def test_another_form_of_a_light_curve_is_refused_and_those_that_there_are_are_named(api, source, given, wrong):
    response = api.get(url(source, "light-curve"), given)
    assert errors(response) == wrong
    assert response.headers["Content-Type"] == "application/problem+json"
    if wrong == {"format": "unknown_format"}:
        assert "json, api, csv, votable, png" in response.json()["detail"]


def test_a_page_of_html_is_still_given(api, source):
    assert "text/html" in api.get(url(source, "light-curve"), headers={"accept": "text/html"}).headers["Content-Type"]


# --- cutouts -----------------------------------------------------------------------------------------
@pytest.fixture
def seen(tmp_path):
    """A source in three images, the middle one of them without a date."""
    folder = tmp_path / "archive"
    folder.mkdir()
    for name, seed, date in (
        ("old", 1, "2024-05-06T07:08:09"),
        ("undated", 2, None),
        ("new", 3, "2024-05-07T07:08:09"),
    ):
        register_external(path=radio_fits.write(folder / f"{name}.fits", radio_fits.sky(seed=seed), DATE_OBS=date))
    ImageFactory(ra_deg=150.0, dec_deg=30.0, is_current=False)
    ImageFactory(ra_deg=200.0, dec_deg=30.0)
    return SourceFactory(ra_deg=150.001, dec_deg=30.001)


def test_the_cutouts_of_a_source_are_linked_newest_first_and_every_link_works(api, seen):
    page = api.get(url(seen, "cutouts"), {"size_arcsec": 40, "limit": 2, "count": "true"}).json()
    rest = api.get(page["next"]).json()
    rows = [*page["results"], *rest["results"]]
    assert page["count"] == 3
    assert [row["name"] for row in rows] == ["new", "old", "undated"]
    assert {row["size_arcsec"] for row in rows} == {40.0}
    for row in rows:
        assert body(api.get(row["cutout"])).startswith(b"SIMPLE")
        assert body(api.get(row["picture"])).startswith(b"\x89PNG")
    assert api.get(url(SourceFactory(ra_deg=10, dec_deg=-60), "cutouts")).json()["results"] == []


@pytest.mark.parametrize(("asked", "given"), [(0.5, 32), (32, 32), (4096, 4096), (36_000, 4096)])
def test_a_size_that_an_image_cannot_give_becomes_the_nearest_that_it_can(api, seen, asked, given):
    for row in api.get(url(seen, "cutouts"), {"size_arcsec": asked}).json()["results"]:
        assert row["size_arcsec"] == pytest.approx(given)
        assert api.get(row["picture"]).status_code == 200


def test_the_sheet_is_one_picture_and_a_file_that_is_gone_does_not_spoil_it(api, seen, tmp_path, products_root):
    first = api.get(url(seen, "cutouts"), {"format": "png", "size_arcsec": 60})
    assert first.headers["Content-Type"] == "image/png"
    whole = np.asarray(Picture.open(io.BytesIO(body(first))).convert("L"))
    assert whole.shape == (530, 480)  # two by two
    (tmp_path / "archive" / "new.fits").unlink()
    (tmp_path / "archive" / "old.fits").write_bytes(b"SIMPLE  =")
    again = api.get(url(seen, "cutouts"), {"format": "png", "size_arcsec": 60})
    assert body(again)
    assert again.headers["ETag"] != first.headers["ETag"]
    one = np.asarray(Picture.open(io.BytesIO(body(api.get(url(seen, "cutouts"), {"format": "png", "n": 1})))))
    assert one.shape[:2] == (265, 240)
    headers = {"if-none-match": again.headers["ETag"]}
    assert api.get(url(seen, "cutouts"), {"format": "png", "size_arcsec": 60}, headers=headers).status_code == 304


def test_there_is_no_sheet_of_no_image(api):
    response = api.get(url(SourceFactory(ra_deg=10, dec_deg=-60), "cutouts"), {"format": "png"})
    assert (response.status_code, response.json()["code"]) == (404, "not_found")
    assert api.get("/api/v1/sources/0/cutouts/").status_code == 404


NO_NUMBERS = ("nan", "inf", "-inf", "x", "1_0", "٣")


@pytest.mark.parametrize(
    ("given", "wrong"),
    [
        *(({"size_arcsec": value}, {"size_arcsec": "invalid"}) for value in NO_NUMBERS),
        ({"size_arcsec": "0"}, {"size_arcsec": "min_value"}),
        ({"size_arcsec": "36000.1"}, {"size_arcsec": "max_value"}),
        ({"size_arcsec": ""}, {"size_arcsec": "empty_parameter"}),
        ({"size_arcsec": ["1", "2"]}, {"size_arcsec": "repeated_parameter"}),
        ({"limit": "0"}, {"limit": "out_of_range"}),
        ({"cursor": "x"}, {"cursor": "invalid_cursor"}),
        ({"n": "3"}, {"n": "unknown_parameter"}),
        ({"format": "fits"}, {"format": "unknown_format"}),
        *(({"format": "png", "n": value}, {"n": "invalid"}) for value in (*NO_NUMBERS, "1.5")),
        ({"format": "png", "n": "0"}, {"n": "min_value"}),
        ({"format": "png", "n": "17"}, {"n": "max_value"}),
        ({"format": "png", "limit": "3"}, {"limit": "unknown_parameter"}),
    ],
)
def test_cutouts_that_cannot_be_given_are_refused(api, given, wrong):
    assert errors(api.get(url(SourceFactory(), "cutouts"), given)) == wrong


# --- neighbours -----------------------------------------------------------------------------------------
@pytest.mark.parametrize(("ra", "dec"), [(0.0001, 10.0), (120.0, 89.999), (200.0, -45.0)])
def test_neighbours_are_the_other_sources_within_the_radius_nearest_first(api, ra, dec):
    source = SourceFactory(ra_deg=ra, dec_deg=dec)
    place = SkyCoord(ra, dec, unit="deg")
    near = {}
    for arcsec, angle in ((59.9, 80), (5, 200), (30, 300), (60.1, 10), (3590, 90), (3610, 90)):
        at = place.directional_offset_by(angle * u.deg, arcsec * u.arcsec)
        near[arcsec] = SourceFactory(ra_deg=at.ra.deg, dec_deg=at.dec.deg).pk
    rows = api.get(url(source, "neighbours")).json()["results"]
    assert [row["id"] for row in rows] == [near[5], near[30], near[59.9]]
    assert [row["separation_arcsec"] for row in rows] == pytest.approx([5, 30, 59.9], abs=1e-3)
    assert "separation_deg" not in rows[0]
    page = api.get(url(source, "neighbours"), {"radius_arcsec": 3600, "limit": 3}).json()
    rest = api.get(page["next"]).json()
    assert [row["id"] for row in [*page["results"], *rest["results"]]] == [near[r] for r in (5, 30, 59.9, 60.1, 3590)]


def test_a_source_alone_has_no_neighbours(api):
    assert api.get(url(SourceFactory(), "neighbours"), {"radius_arcsec": "1e-3"}).json()["results"] == []
    assert api.get("/api/v1/sources/0/neighbours/").status_code == 404


@pytest.mark.parametrize(
    ("given", "wrong"),
    [
        *(({"radius_arcsec": value}, {"radius_arcsec": "invalid"}) for value in NO_NUMBERS),
        ({"radius_arcsec": "0"}, {"radius_arcsec": "min_value"}),
        ({"radius_arcsec": "-1"}, {"radius_arcsec": "min_value"}),
        ({"radius_arcsec": "3600.1"}, {"radius_arcsec": "max_value"}),
        ({"radius_arcsec": ""}, {"radius_arcsec": "empty_parameter"}),
        ({"radius_arcsec": ["1", "2"]}, {"radius_arcsec": "repeated_parameter"}),
        ({"radius": "1"}, {"radius": "unknown_parameter"}),
        ({"limit": "1001"}, {"limit": "out_of_range"}),
    ],
)
def test_a_radius_that_is_none_is_refused(api, given, wrong):
    assert errors(api.get(url(SourceFactory(), "neighbours"), given)) == wrong
