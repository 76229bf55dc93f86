from __future__ import annotations

import random

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from rest_framework.test import APIClient

from contimg.api import counts, pagination
from contimg.urls import router
from images.models import Image
from sources.models import Source
from tests.factories import FIRST_TILE, TILE, ImageFactory, SourceFactory

pytestmark = pytest.mark.django_db

SOURCES = "/api/v1/sources/"
IMAGES = "/api/v1/images/"


def walk(api, url: str, direction: str = "next") -> list[list[int]]:
    """The ids of every page from `url` on."""
    pages = []
    while url:
        body = api.get(url).json()
        pages.append([row["id"] for row in body["results"]])
        assert len(pages) < 200, "the pages do not end"
        url = body[direction]
    return pages


def last_page(api, url: str) -> str:
    while following := api.get(url).json()["next"]:
        url = following
    return url


def sorted_ids(rows: list, ordering: str) -> list[int]:
    """By definition: the value, then the id in the same direction; nulls last."""
    name, falling = ordering.lstrip("-"), ordering.startswith("-")
    known = [row for row in rows if getattr(row, name) is not None]
    unknown = [row for row in rows if getattr(row, name) is None]
    known.sort(key=lambda row: (getattr(row, name), row.pk), reverse=falling)
    unknown.sort(key=lambda row: row.pk, reverse=falling)
    return [row.pk for row in known + unknown]


def both_ways(view) -> list[str]:
    return [sign + name for name in view.orderings for sign in ("", "-")]


@pytest.mark.parametrize("limit", [1, 3, 7, 100])
def test_pages_of_images_with_ties_and_nulls_are_the_sorted_whole_in_every_ordering(api, limit):
    chance = random.Random(1)
    for _ in range(20):
        ImageFactory(
            kind="external",
            measurement_set=None,
            name=chance.choice("ab"),
            observed_at=chance.choice([None, FIRST_TILE, FIRST_TILE + TILE / 7, FIRST_TILE + TILE]),
            rms_jy_per_beam=chance.choice([None, 0.0, 0.1 + 0.2, 0.5]),
            peak_jy_per_beam=chance.choice([None, 0.7, -1.0]),
            frequency_hz=chance.choice([None, 1.4e9]),
        )
    rows = list(Image.objects.all())
    view = next(view for _, view, basename in router.registry if basename == "image")
    for ordering in both_ways(view):
        url = f"{IMAGES}?ordering={ordering}&limit={limit}"
        expected = sorted_ids(rows, ordering)
        forwards = walk(api, url)
        assert [pk for page in forwards for pk in page] == expected, ordering
        assert all(len(page) == limit for page in forwards[:-1])
        backwards = walk(api, last_page(api, url), "previous")
        assert [pk for page in reversed(backwards) for pk in page] == expected, ordering


@pytest.mark.parametrize(("basename", "view"), [(basename, view) for _, view, basename in router.registry])
def test_every_documented_ordering_of_every_list_works(administrator, basename, view):
    from tests.test_query_budgets import make_rows

    make_rows(basename, 3)
    prefix = next(prefix for prefix, _, name in router.registry if name == basename)
    model = view.queryset.model
    for ordering in both_ways(view):
        pages = walk(administrator, f"/api/v1/{prefix}/?ordering={ordering}&limit=2")
        assert [pk for page in pages for pk in page] == sorted_ids(list(model.objects.all()), ordering)


@hypothesis_settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    values=st.lists(st.none() | st.floats(-1e6, 1e6).map(lambda x: x + 0.0) | st.sampled_from([0.0, 1.0]), max_size=15),
    limit=st.integers(1, 16),
    ordering=st.sampled_from(["eta", "-eta"]),
)
def test_any_values_come_back_once_and_in_order(values, limit, ordering):
    Source.objects.all().delete()
    SourceFactory.create_batch(len(values))
    for row, value in zip(Source.objects.order_by("id"), values, strict=True):
        Source.objects.filter(pk=row.pk).update(eta=value)
    pages = walk(APIClient(), f"{SOURCES}?ordering={ordering}&limit={limit}")
    assert [pk for page in pages for pk in page] == sorted_ids(list(Source.objects.all()), ordering)


def test_a_page_reads_by_position_and_never_by_offset(api):
    SourceFactory.create_batch(5)
    second = api.get(SOURCES, {"limit": 2}).json()["next"]
    with CaptureQueriesContext(connection) as queries:
        api.get(second)
    same, further = [query["sql"] for query in queries]
    assert '"sources_source"."name" = ' in same
    assert '"sources_source"."id" > ' in same
    assert '"sources_source"."name" > ' in further
    assert "OFFSET" not in same + further


def test_rows_that_come_and_go_do_not_shift_the_pages(api):
    first, _, third, fourth = SourceFactory.create_batch(4)
    page = api.get(SOURCES, {"limit": 2, "ordering": "id"}).json()
    first.delete()
    assert [row["id"] for row in api.get(page["next"]).json()["results"]] == [third.pk, fourth.pk]


def test_a_page_whose_rows_are_gone_still_leads_back_into_the_list(api):
    rows = SourceFactory.create_batch(4)
    second = api.get(SOURCES, {"limit": 2, "ordering": "id"}).json()["next"]
    back = api.get(second).json()["previous"]
    Source.objects.filter(pk__in=[rows[2].pk, rows[3].pk]).delete()
    empty = api.get(second).json()
    assert (empty["results"], empty["next"]) == ([], None)
    assert [row["id"] for row in api.get(empty["previous"]).json()["results"]] == [rows[0].pk, rows[1].pk]
    Source.objects.all().delete()
    row = SourceFactory()
    nothing_before = api.get(back).json()
    assert nothing_before["results"] == []
    assert [found["id"] for found in api.get(nothing_before["next"]).json()["results"]] == [row.pk]


@pytest.mark.parametrize("limit", ["1", "1000"])
def test_limits_inside_the_range_are_taken(api, limit):
    assert api.get(SOURCES, {"limit": limit}).status_code == 200


@pytest.mark.parametrize("limit", ["0", "1001", "-1", "", "1.5", "x", "1e2", " 1", "١", "9" * 40])
def test_other_limits_are_refused(api, limit):
    response = api.get(SOURCES, {"limit": limit})
    assert response.status_code == 400
    assert response.json()["errors"][0]["field"] == "limit"


def test_a_page_has_100_rows_when_nothing_else_is_said(api):
    SourceFactory.create_batch(101)
    assert len(api.get(SOURCES).json()["results"]) == 100


@pytest.mark.parametrize("change", ["broken", "empty", "other list", "other ordering", "other filter", "odd"])
def test_a_cursor_that_is_not_of_this_list_is_refused(api, change):
    SourceFactory.create_batch(3)
    cursor = api.get(SOURCES, {"limit": 1}).json()["next"].split("cursor=")[1].split("&")[0].replace("%3A", ":")
    assert api.get(SOURCES, {"cursor": cursor, "limit": 2}).status_code == 200
    path, parameters = {
        "broken": (SOURCES, {"cursor": cursor[:-2]}),
        "empty": (SOURCES, {"cursor": ""}),
        "odd": (SOURCES, {"cursor": "☃:\udcff"}),
        "other list": ("/api/v1/policies/", {"cursor": cursor}),
        "other ordering": (SOURCES, {"cursor": cursor, "ordering": "-name"}),
        "other filter": (SOURCES, {"cursor": cursor, "is_variable": "true"}),
    }[change]
    response = api.get(path, parameters) if change != "odd" else api.get(f"{path}?cursor=%E2%98%83:%ED%B3%BF")
    assert response.status_code == 400
    assert response.json()["errors"][0]["code"] == "invalid_cursor"


def test_a_count_is_given_when_asked_for(api):
    SourceFactory.create_batch(3)
    assert set(api.get(SOURCES).json()) == {"next", "previous", "results"}
    body = api.get(SOURCES, {"count": "true", "limit": 2}).json()
    assert (body["count"], body["count_is_estimate"]) == (3, False)
    assert api.get(SOURCES, {"count": "perhaps"}).status_code == 400


def test_a_count_above_the_cap_is_an_estimate_near_the_truth(api, monkeypatch):
    monkeypatch.setattr(counts, "MAX_EXACT_COUNT", 100)
    Source.objects.bulk_create(SourceFactory.build_batch(2000))
    Source.objects.filter(pk__in=Source.objects.order_by("id").values("pk")[:500]).update(is_variable=True)
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("ANALYZE sources_source")
    for parameters, truth in [({}, 2000), ({"is_variable": "true"}, 500)]:
        body = api.get(SOURCES, {"count": "true", "limit": 1, **parameters}).json()
        assert body["count_is_estimate"] is True
        assert body["count"] == pytest.approx(truth, rel=0.1)


def test_a_list_ordered_by_two_columns_is_a_mistake_of_ours():
    with pytest.raises(ValueError, match="one column and id"):
        pagination.Order.of(Source.objects.order_by("name", "eta"))


@pytest.mark.parametrize("query", ["limit=0", "limit=1001", "cursor=x"])
def test_a_browser_is_told_what_is_wrong_with_its_page_too(api, query):
    answer = api.get(f"/api/v1/sources/?{query}", headers={"accept": "text/html"})
    assert answer.status_code == 400
