from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path

import pytest
from django.conf import settings
from drf_spectacular.generators import SchemaGenerator

from contimg.api.filters import ListFilter
from contimg.urls import router
from tests.factories import ImageFactory, MosaicFactory

pytestmark = pytest.mark.django_db
IMAGES = "/api/v1/images/"
HEADERS = {"Deprecation", "Sunset", "Link"}
PAGE = Path(settings.BASE_DIR, "docs", "api.md").read_text()


def deprecated_filters() -> list[tuple[str, str]]:
    """Resource and name of each."""
    return [
        (prefix, name)
        for prefix, viewset, _ in router.registry
        for name in getattr(viewset.filterset_class, "deprecated", {})
    ]


def filters_of(prefix: str) -> type[ListFilter]:
    return next(view.filterset_class for path, view, _ in router.registry if path == prefix)


@pytest.mark.parametrize("form", ["json", "csv", "votable"])
def test_who_uses_what_is_to_go_is_told_since_when_and_until_when(api, form):
    ImageFactory()
    mosaic = MosaicFactory()
    answer = api.get(IMAGES, {"mosaic_of__isnull": "false", "format": form})
    assert answer.status_code == 200
    since, until = answer.headers["Deprecation"], answer.headers["Sunset"]
    assert re.fullmatch("@[0-9]+", since)
    assert datetime.fromtimestamp(int(since[1:]), UTC).date() == date(2026, 12, 1)
    assert parsedate_to_datetime(until).date() == date(2027, 12, 1)
    page = re.match('<([^>]+)>; rel="deprecation"', answer.headers["Link"])[1]
    assert api.get(page).status_code == 200
    assert form == "json" or b"".join(answer.streaming_content)
    if form == "json":
        assert [row["id"] for row in answer.json()["results"]] == [mosaic.pk]  # and it does its work


def test_a_refusal_says_it_too_and_so_does_head(api):
    assert api.get(IMAGES, {"mosaic_of__isnull": "maybe"}).headers.keys() >= HEADERS
    assert api.head(IMAGES, {"mosaic_of__isnull": "true"}).headers.keys() >= HEADERS


def test_who_expects_another_version_is_told_too(api):
    answer = api.get(f"{IMAGES}?mosaic_of__isnull=false", headers={"if-match": '"another"'})
    assert answer.status_code == 412
    assert answer.headers.keys() >= HEADERS


@pytest.mark.parametrize("method", ["get", "head"])
def test_who_has_the_answer_already_is_told_too(api, method):
    asked = f"{IMAGES}?mosaic_of__isnull=false"
    first = api.get(asked)
    again = getattr(api, method)(asked, headers={"if-none-match": first.headers["ETag"]})
    assert again.status_code == 304
    assert {name: again.headers[name] for name in HEADERS} == {name: first.headers[name] for name in HEADERS}


@pytest.mark.parametrize(("address", "stage"), [("batches", {"stage": "photometry"}), ("assessments", {})])
def test_who_uses_it_in_the_query_of_a_batch_is_told_too(administrator, address, stage):
    MosaicFactory()
    body = {**stage, "query": {"kind": "image", "mosaic_of__isnull": False}}
    answer = administrator.post(f"/api/v1/{address}/", body, format="json")
    assert answer.status_code == 201, answer.content
    assert answer.headers.keys() >= HEADERS
    body = {**stage, "query": {"kind": "image", "mosaic_of__isnull": "maybe"}}
    refused = administrator.post(f"/api/v1/{address}/", body, format="json")
    assert (refused.status_code, refused.headers.keys() >= HEADERS) == (400, True)
    body = {**stage, "query": {"kind": "image", "grade": "good"}}
    assert not administrator.post(f"/api/v1/{address}/", body, format="json").headers.keys() & HEADERS


@pytest.mark.parametrize("query", [{}, {"kind": "mosaic"}, {"mosaic_of": "1"}])
def test_who_uses_what_stays_is_told_nothing(api, query):
    answer = api.get(IMAGES, query)
    assert answer.status_code == 200
    assert not answer.headers.keys() & HEADERS


def test_the_schema_says_it_and_what_to_use_instead():
    paths = SchemaGenerator().get_schema(request=None, public=True)["paths"]
    said = {
        (path, parameter["name"]): parameter["description"]
        for path, methods in paths.items()
        for parameter in methods.get("get", {}).get("parameters", [])
        if parameter.get("deprecated")
    }
    assert {(f"/api/v1/{prefix}/", name) for prefix, name in deprecated_filters()} <= said.keys()
    assert "use `kind=mosaic`" in said[IMAGES, "mosaic_of__isnull"]


def test_each_has_a_row_in_the_docs_and_a_year():
    assert deprecated_filters()
    for prefix, name in deprecated_filters():
        what = filters_of(prefix).deprecated[name]
        assert f"| filter `{name}` of `{prefix}/` | {what.since} | {what.until} | " in PAGE
        assert what.until - what.since >= timedelta(days=365)


def test_what_is_deprecated_is_a_filter_that_there_is():
    for prefix, name in deprecated_filters():
        assert name in filters_of(prefix).base_filters
