from __future__ import annotations

import functools
import operator
from datetime import datetime, timedelta

import pytest
from astropy import units as u
from astropy.coordinates import SkyCoord
from django.core.cache import cache
from rest_framework.test import APIClient

from contimg.api.filters import ChoicesFilter, NumberFilter, PartFilter, StrictBooleanFilter, TimeFilter
from contimg.urls import router
from tests.factories import (
    FIRST_TILE,
    ImageFactory,
    ItemFactory,
    MeasurementSetFactory,
    SourceFactory,
    SubbandGroupFactory,
)

pytestmark = pytest.mark.django_db

IMAGES = "/api/v1/images/"
SOURCES = "/api/v1/sources/"


def ids(response) -> list[int]:
    assert response.status_code == 200, response.content
    return [row["id"] for row in response.json()["results"]]


def errors(response) -> dict[str | None, str]:
    assert response.status_code == 400, response.content
    return {error["field"]: error["code"] for error in response.json()["errors"]}


def test_an_unknown_parameter_is_refused_and_the_valid_ones_are_named(api):
    response = api.get(IMAGES, {"rms__lt": "1", "kind": "tile"})
    assert errors(response) == {"rms__lt": "unknown_parameter"}
    for name in ("rms_jy_per_beam__lt", "grade", "cursor", "ordering", "radius_deg"):
        assert name in response.json()["detail"]


def test_a_detail_refuses_an_unknown_parameter_too(api):
    url = f"{IMAGES}{ImageFactory().pk}/"
    assert errors(api.get(url, {"foo": "1"})) == {"foo": "unknown_parameter"}
    assert errors(api.get(url, {"format": ["json", "json"]})) == {"format": "repeated_parameter"}
    for form in ("json", "api"):
        assert api.get(url, {"format": form}).status_code == 200


@pytest.mark.parametrize(
    ("method", "url"),
    [
        ("get", "images/{image}/fits/"),
        ("get", "images/{image}/noise/"),
        ("get", "images/{image}/preview.png"),
        ("get", "sources/{source}/light-curve/"),
        ("get", "batches/{batch}/events/"),
        ("get", "batches/{batch}/items/"),
        ("get", "items/{item}/log/"),
        ("post", "batches/"),
        ("post", "batches/{batch}/cancel/"),
    ],
)
def test_an_action_refuses_an_unknown_parameter_too(admin_user, method, url):
    item = ItemFactory()
    client = APIClient(raise_request_exception=False)
    client.force_authenticate(admin_user)
    made = {"image": ImageFactory().pk, "source": SourceFactory().pk, "batch": item.batch_id, "item": item.pk}
    response = getattr(client, method)(f"/api/v1/{url.format(**made)}?x=1", {} if method == "post" else None)
    assert errors(response) == {"x": "unknown_parameter"}


@pytest.mark.parametrize("address", ["drift/", "impact/", "reviews/next/", "reviews/agreement/", "stats/"])
def test_a_page_that_is_no_list_refuses_an_unknown_parameter_too(administrator, address):
    assert errors(administrator.get(f"/api/v1/{address}", {"colour": "red"}))["colour"] == "unknown_parameter"


@pytest.mark.parametrize("query", ["drift/?antenna=", "impact/?observed_from=", "reviews/agreement/?since="])
def test_an_empty_parameter_of_such_a_page_is_refused(administrator, query):
    assert "empty_parameter" in errors(administrator.get(f"/api/v1/{query}")).values()


def test_a_method_that_there_is_not_is_405_whatever_the_parameters(api):
    assert api.delete(f"{IMAGES}?format=csv").status_code == 405
    assert api.delete(f"{IMAGES}{ImageFactory().pk}/?x=1").status_code in (401, 405)


@pytest.mark.parametrize("query", ["limit=1&limit=5", "kind=tile&kind=mosaic", "ordering=id&ordering=name"])
def test_a_parameter_given_twice_is_refused(api, query):
    assert errors(api.get(f"{IMAGES}?{query}")) == {query.split("=")[0]: "repeated_parameter"}


@pytest.mark.parametrize("name", ["rms_jy_per_beam__lt", "kind", "is_current", "name", "ra_deg", "measurement_set"])
@pytest.mark.parametrize("value", ["", " "])
def test_an_empty_value_is_refused_and_not_ignored(api, name, value):
    assert errors(api.get(IMAGES, {name: value})) == {name: "empty_parameter"}


@pytest.mark.parametrize("name", ["a\x00b", "\x1fb", "a\x85b"])
def test_text_with_control_characters_is_refused(api, name):
    assert errors(api.get(SOURCES, {"name__startswith": name})) == {"name__startswith": "control_character"}


def test_a_text_that_no_name_is_as_long_as_is_refused(api):
    assert ids(api.get(SOURCES, {"name__startswith": "x" * 300})) == []
    assert errors(api.get(SOURCES, {"name__startswith": "x" * 301})) == {"name__startswith": "max_length"}


@pytest.mark.parametrize(("value", "code"), [("1e51", "max_value"), ("-1e51", "min_value"), ("-1e400", "min_value")])
def test_a_number_that_nothing_measured_comes_near_is_refused(api, value, code):
    assert errors(api.get(IMAGES, {"rms_jy_per_beam__gt": value})) == {"rms_jy_per_beam__gt": code}


def test_an_empty_time_is_refused_too(api):
    assert errors(api.get("/api/v1/calibration-tables/", {"valid_at": ""})) == {"valid_at": "empty_parameter"}


def test_the_form_of_the_browsable_page_may_leave_fields_empty(api):
    image = ImageFactory()
    page = api.get(IMAGES, {"kind": "tile", "grade": "", "rms_jy_per_beam__lt": "", "format": "api"})
    assert page.status_code == 200
    assert image.name in page.content.decode()


def test_an_unknown_ordering_is_refused_and_the_valid_ones_are_named(api):
    for ordering in ("rms", "", "observed_at,id", "--observed_at", "path", "separation_deg"):
        response = api.get(IMAGES, {"ordering": ordering})
        assert errors(response) == {"ordering": "unknown_ordering"}
        assert "-observed_at" in response.json()["detail"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("rms_jy_per_beam__lt", "small"),
        ("rms_jy_per_beam__lt", "nan"),
        ("rms_jy_per_beam__lt", "inf"),
        ("rms_jy_per_beam__lt", "1_000"),
        ("frequency_hz", "\u0661\u0660"),  # 10 in Arabic digits
        ("ra_deg", "1_0"),
        ("covers_dec_deg", "1_0"),
        ("measurement_set", "1_000"),
        ("observed_at__gte", "yesterday"),
        ("observed_at__gte", "0001-01-01T00:00:00+05:00"),
        ("observed_at__gte", "9999-12-31T23:59:59-05:00"),
        ("is_current", "perhaps"),
        ("observed_at__isnull", "2"),
        ("kind", "moon"),
        ("grade", "good,fine"),
        ("grade", "good,"),
        ("measurement_set", "1.5"),
        ("measurement_set", "9223372036854775808"),
        ("name", "a\x00b"),
    ],
)
def test_a_value_that_cannot_be_read_is_refused_and_not_ignored(api, name, value):
    assert list(errors(api.get(IMAGES, {name: value}))) == [name]


@pytest.mark.parametrize("value", ["1.5", "1e3", "3C286", "1_000"])
def test_who_gives_no_whole_number_is_told_of_one(api, value):
    assert errors(api.get(IMAGES, {"measurement_set": value})) == {"measurement_set": "invalid"}
    assert (
        "measurement_set: Give a whole number such as 100."
        in api.get(IMAGES, {"measurement_set": value}).json()["detail"]
    )


@pytest.mark.parametrize("prefix", ["measurement-sets", "items"])
def test_a_subband_group_is_called_so_in_every_list(api, prefix):
    make = {"measurement-sets": MeasurementSetFactory, "items": ItemFactory}[prefix]
    row, _ = make(), make()
    for name in ("subband_group", "group"):  # the second is to go
        assert ids(api.get(f"/api/v1/{prefix}/", {name: row.group_id})) == [row.pk]
    if prefix == "measurement-sets":
        assert api.get(f"/api/v1/{prefix}/{row.pk}/").json()["subband_group"] == row.group_id


def test_numbers_above_what_a_column_holds_find_nothing(api):
    MeasurementSetFactory()
    assert ids(api.get("/api/v1/measurement-sets/", {"n_antennas": "100000"})) == []
    assert ids(api.get("/api/v1/measurement-sets/", {"n_antennas__gt": str(2**62)})) == []
    assert ids(api.get("/api/v1/measurement-sets/", {"group": str(2**63 - 1)})) == []


def test_several_choices_are_separated_by_commas(api):
    good, marginal, poor = (ImageFactory(grade=grade) for grade in ("good", "marginal", "poor"))
    assert set(ids(api.get(IMAGES, {"grade": "good,marginal"}))) == {good.pk, marginal.pk}
    assert ids(api.get(IMAGES, {"grade": "poor"})) == [poor.pk]


@pytest.mark.parametrize(
    ("lookup", "expected"),
    [("", {1}), ("__lt", {0}), ("__lte", {0, 1}), ("__gt", {2}), ("__gte", {1, 2})],
)
def test_a_range_has_both_sides_of_its_edge(api, lookup, expected):
    rows = [ImageFactory(rms_jy_per_beam=rms) for rms in (0.0, 0.001, 0.002)]
    found = ids(api.get(IMAGES, {f"rms_jy_per_beam{lookup}": "0.001"}))
    assert set(found) == {rows[n].pk for n in expected}


def test_zero_is_a_value_and_null_is_not_zero(api):
    zero, unknown = ImageFactory(rms_jy_per_beam=0.0), ImageFactory(rms_jy_per_beam=None)
    assert ids(api.get(IMAGES, {"rms_jy_per_beam": "0"})) == [zero.pk]
    assert ids(api.get(IMAGES, {"rms_jy_per_beam__isnull": "true"})) == [unknown.pk]


def test_a_generated_column_is_filtered_like_any_other(api):
    bright = ImageFactory(peak_jy_per_beam=1.0, rms_jy_per_beam=0.001)
    ImageFactory(peak_jy_per_beam=0.01, rms_jy_per_beam=0.001)
    assert ids(api.get(IMAGES, {"dynamic_range__gt": "100"})) == [bright.pk]
    partial = SubbandGroupFactory(n_files=15, n_subbands=15, missing_subbands=[3])
    SubbandGroupFactory()
    assert ids(api.get("/api/v1/subband-groups/", {"is_complete": "false"})) == [partial.pk]


def test_times_are_compared_in_utc(api):
    early = MeasurementSetFactory(observed_at=FIRST_TILE)
    late = MeasurementSetFactory(observed_at=FIRST_TILE + timedelta(hours=1))
    url = "/api/v1/measurement-sets/"
    assert ids(api.get(url, {"observed_at__gte": "2026-03-01T06:30:00Z"})) == [late.pk]
    assert ids(api.get(url, {"observed_at__gte": "2026-03-01T07:30:00+01:00"})) == [late.pk]
    assert ids(api.get(url, {"observed_at__lte": "2026-03-01T06:00:00"})) == [early.pk]
    assert ids(api.get(url, {"observed_at__lt": "2026-03-01"})) == []


# --- cones ------------------------------------------------------------------------------------------------------------
POSITIONS = [(0.0, 0.0), (359.999, 0.01), (0.002, -0.003), (10.0, 89.95), (190.0, 89.96), (45.0, -90.0), (120.0, 16.2)]


@pytest.mark.parametrize(
    ("ra_deg", "dec_deg", "radius_deg"),
    [(0, 0, 0.05), (359.9999, 0, 0.01), (10, 90, 0.2), (0, 90, 0.045), (300, -90, 10), (120, 16.2, 1e-3), (0, 0, 10)],
)
def test_a_cone_finds_what_the_great_circle_says_nearest_first(api, ra_deg, dec_deg, radius_deg):
    rows = [SourceFactory(ra_deg=ra, dec_deg=dec) for ra, dec in POSITIONS]
    centre = SkyCoord(ra_deg, dec_deg, unit=u.deg)
    separations = {row.pk: centre.separation(SkyCoord(row.ra_deg, row.dec_deg, unit=u.deg)).deg for row in rows}
    expected = sorted((pk for pk, value in separations.items() if value <= radius_deg), key=lambda pk: separations[pk])
    response = api.get(SOURCES, {"ra_deg": ra_deg, "dec_deg": dec_deg, "radius_deg": radius_deg})
    assert ids(response) == expected
    assert expected
    for row in response.json()["results"]:
        assert row["separation_deg"] == pytest.approx(separations[row["id"]], abs=1e-9)


def test_a_cone_is_paged_nearest_first(api):
    rows = [SourceFactory(ra_deg=100 + 0.01 * (n // 2), dec_deg=0.0) for n in range(7)]
    url = f"{SOURCES}?ra_deg=100&dec_deg=0&radius_deg=1&limit=2"
    found = []
    while url:
        body = api.get(url).json()
        found += [row["id"] for row in body["results"]]
        url = body["next"]
    assert found == [row.pk for row in rows]


@pytest.mark.parametrize(("ra_deg", "dec_deg"), [(100.0, 20.0), (0.01, -3.0), (210.0, 89.5)])
@pytest.mark.parametrize("limit", [3, 20])
def test_pages_of_a_wide_cone_are_the_sorted_whole_both_ways(api, ra_deg, dec_deg, limit):
    """Its first pages are found around its centre, for as long as there is enough (PositionQuerySet.inner_parts)."""
    centre = SkyCoord(ra_deg, dec_deg, unit=u.deg)
    distances_deg = [0.02 * n for n in range(20)] + [0.02, 0.02, 0.625, 0.625, 2.5, 2.499, 2.501, 3, 5, 7, 9.99, 10.1]
    places = [centre.directional_offset_by(37 * n * u.deg, away * u.deg) for n, away in enumerate(distances_deg)]
    rows = [SourceFactory(ra_deg=float(place.ra.deg), dec_deg=float(place.dec.deg)) for place in places]
    url = f"{SOURCES}?ra_deg={ra_deg}&dec_deg={dec_deg}&radius_deg=10&limit={limit}"
    pages, previous = [], None
    while url:
        body = api.get(url).json()
        pages.append([(row["separation_deg"], row["id"]) for row in body["results"]])
        url, previous = body["next"], body["previous"]
    whole = [row for page in pages for row in page]
    assert whole == sorted(whole)
    assert {pk for _, pk in whole} == {row.pk for row in rows[:-1]}
    for page in reversed(pages[:-1]):
        body = api.get(previous).json()
        assert [row["id"] for row in body["results"]] == [pk for _, pk in page]
        previous = body["previous"]


def test_a_cone_may_be_ordered_otherwise_and_filtered_further(api):
    near, far = SourceFactory(ra_deg=100, dec_deg=0, eta=1.0), SourceFactory(ra_deg=100.1, dec_deg=0, eta=2.0)
    cone = {"ra_deg": 100, "dec_deg": 0, "radius_deg": 1}
    assert ids(api.get(SOURCES, {**cone, "ordering": "-eta"})) == [far.pk, near.pk]
    assert ids(api.get(SOURCES, {**cone, "ordering": "-separation_deg"})) == [far.pk, near.pk]
    assert ids(api.get(SOURCES, {**cone, "eta__lt": "1.5"})) == [near.pk]


def test_outside_of_a_cone_the_separation_is_null(api):
    SourceFactory()
    assert api.get(SOURCES).json()["results"][0]["separation_deg"] is None


@pytest.mark.parametrize(
    ("cone", "wrong"),
    [
        ({"ra_deg": "10"}, {"dec_deg", "radius_deg"}),
        ({"dec_deg": "10", "radius_deg": "1"}, {"ra_deg"}),
        ({"ra_deg": "360", "dec_deg": "0", "radius_deg": "1"}, {"ra_deg"}),
        ({"ra_deg": "-0.1", "dec_deg": "0", "radius_deg": "1"}, {"ra_deg"}),
        ({"ra_deg": "0", "dec_deg": "90.1", "radius_deg": "1"}, {"dec_deg"}),
        ({"ra_deg": "0", "dec_deg": "-90.1", "radius_deg": "1"}, {"dec_deg"}),
        ({"ra_deg": "0", "dec_deg": "0", "radius_deg": "0"}, {"radius_deg"}),
        ({"ra_deg": "0", "dec_deg": "0", "radius_deg": "10.1"}, {"radius_deg"}),
        ({"ra_deg": "0", "dec_deg": "0", "radius_deg": "-1"}, {"radius_deg"}),
        ({"ra_deg": "nan", "dec_deg": "0", "radius_deg": "1"}, {"ra_deg"}),
        ({"ra_deg": "0h", "dec_deg": "0", "radius_deg": "1"}, {"ra_deg"}),
    ],
)
def test_a_cone_outside_of_its_ranges_is_refused(api, cone, wrong):
    assert set(errors(api.get(SOURCES, cone))) == wrong


@pytest.mark.parametrize("cone", [(0, -90, 10), (359.999, 90, 1e-5)])
def test_a_cone_at_the_edges_of_its_ranges_is_taken(api, cone):
    ids(api.get(SOURCES, dict(zip(("ra_deg", "dec_deg", "radius_deg"), cone, strict=True))))


@pytest.mark.parametrize("resource", ["subband-groups", "measurement-sets", "calibrators", "images", "measurements"])
def test_every_resource_with_a_position_has_a_cone(api, resource):
    ids(api.get(f"/api/v1/{resource}/", {"ra_deg": 0, "dec_deg": 0, "radius_deg": 1}))


ODD = [
    "", " ", "0", "-1", "1e49", "-1e400", "nan", "9" * 25, "-" + "9" * 25, "true", "a\x00b", "☃", "%", "'", ",",
    "good,", "2026-02-30", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59.999999-14:00", "10000-01-01", "24:00",
]  # fmt: skip


@pytest.mark.parametrize(("prefix", "view"), [(prefix, view) for prefix, view, _ in router.registry])
def test_no_value_of_any_parameter_is_an_error_of_ours(administrator, prefix, view):
    names = [*view.filterset_class.base_filters, "ordering", "format", "cursor", "limit", "count"]
    for name in names:
        cache.clear()  # so many requests a minute are throttled
        for value in ODD:
            response = administrator.get(f"/api/v1/{prefix}/", {name: value})
            assert response.status_code in (200, 400), (name, value)


# --- every filter of every list ---------------------------------------------------------------------------------------
COMPARED = {
    "exact": operator.eq,
    "iexact": lambda value, given: value.casefold() == given.casefold(),
    "startswith": str.startswith,
    "in": operator.eq,
    "lt": operator.lt,
    "lte": operator.le,
    "gt": operator.gt,
    "gte": operator.ge,
}


def given_to(filter_, known: list) -> list:
    """A value that a row has, and one on either side of it; every choice."""
    if filter_.lookup_expr == "isnull" or isinstance(filter_, StrictBooleanFilter):
        return [True, False]
    if isinstance(filter_, ChoicesFilter):
        return [choice for choice, _ in filter_.extra["choices"]]
    if isinstance(filter_, TimeFilter):
        return [known[0] + timedelta(seconds=n) if known else FIRST_TILE for n in (-1, 0, 1)]
    if isinstance(filter_, NumberFilter):
        return [(known[0] if known else 1) + n for n in (-1, 0, 1)]
    return [value for value in [*known[:1], f"{known[0] if known else ''}x"] if value]


def is_plain(filter_) -> bool:
    """It compares a column, and is no part of a cone."""
    return not filter_.method and not isinstance(filter_, PartFilter)


@pytest.mark.parametrize(
    ("prefix", "view", "basename"), router.registry, ids=[prefix for prefix, _, _ in router.registry]
)
def test_every_filter_chooses_the_rows_of_its_column(administrator, prefix, view, basename):
    from tests.test_query_budgets import make_rows

    make_rows(basename, 3)
    rows = list(view.queryset.model._default_manager.all())
    for name, filter_ in view.filterset_class.base_filters.items():
        if is_plain(filter_):
            values = {row.pk: functools.reduce(getattr, filter_.field_name.split("__"), row) for row in rows}
            values = {pk: getattr(value, "pk", value) for pk, value in values.items()}
            for given in given_to(filter_, [value for value in values.values() if value is not None]):
                written = given.isoformat() if isinstance(given, datetime) else str(given)
                found = ids(administrator.get(f"/api/v1/{prefix}/", {name: written, "limit": 1000}))
                assert set(found) == {pk for pk, value in values.items() if chosen(filter_, value, given)}, (
                    name,
                    given,
                )


def chosen(filter_, value, given) -> bool:
    if filter_.lookup_expr == "isnull":
        return (value is None) == given
    return value is not None and COMPARED[filter_.lookup_expr](value, given)
