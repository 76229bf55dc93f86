"""A page that would keep the database at work is refused; nothing else is."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from django.contrib.auth.models import User
from django.db import connection, connections
from django.db.models import BooleanField
from django.db.models.expressions import RawSQL
from rest_framework.test import APIClient

from contimg.api.counts import count
from contimg.api.exports import CsvRenderer
from contimg.bulk import insert_like
from contimg.sky import healpix_indices
from contimg.urls import router
from sources.models import Source
from tests.batch.installation import PATIENCE
from tests.factories import SourceFactory
from tests.service import Unit, Web
from tests.test_query_budgets import make_rows

pytest_plugins = ["tests.batch.installation"]

SOURCES = "/api/v1/sources/"
N, MORE = 20_000, 60_000
CENTRE = {"ra_deg": 180.0, "dec_deg": 40.0}
CONE = {**CENTRE, "radius_deg": 10}


def fill(n: int) -> None:
    ra, dec = [175 + 10 * i / n for i in range(n)], [38 + 4 * (i * 7919 % n) / n for i in range(n)]
    names = [f"s{i * 7919 % n:06d}" for i in range(n)]
    columns = ["name", "ra_deg", "dec_deg", "healpix"]
    insert_like(SourceFactory.build(), columns, zip(names, ra, dec, healpix_indices(ra, dec), strict=True))


@contextlib.contextmanager
def slow() -> Iterator[Callable[[], None]]:
    """A cone takes long: SQLite has trigonometry of Python's to do for each row, PostgreSQL's table is somebody's."""
    if connection.vendor == "sqlite":
        yield lambda: None
        return
    somebody = connection.copy()
    somebody.inc_thread_sharing()
    somebody.set_autocommit(False)
    try:
        somebody.cursor().execute("LOCK TABLE sources_source IN ACCESS EXCLUSIVE MODE")
        yield somebody.rollback
    finally:
        somebody.rollback()
        somebody.close()


def assert_is_refused(answer) -> None:
    assert answer.status_code == 400, answer.content[:300]
    body = answer.json()
    assert (body["code"], body["status"], body["errors"]) == ("query_too_slow", 400, [])
    assert "ordering=" in body["detail"]
    assert "Retry-After" not in answer.headers


def test_a_page_that_takes_too_long_is_refused_and_its_connection_has_no_limit_afterwards(installation, settings, api):
    fill(N)
    settings.CONTIMG_QUERY_LIMIT_S = 0  # a tenth of a second on PostgreSQL, some steps on SQLite
    with slow():
        for more in ({}, {"count": "true"}, {"limit": 1}):
            began = time.monotonic()
            assert_is_refused(api.get(SOURCES, {**CONE, **more}))
            assert time.monotonic() - began < 2 * PATIENCE
        page = api.get(SOURCES, CONE, headers={"accept": "text/html"})
        assert (page.status_code, b"query_too_slow" in page.content) == (400, True)
    assert api.get(SOURCES, {"limit": 1, "ordering": "id"}).json()["results"][0]["name"] == "s000000"
    assert len(Source.objects.within_cone(**CONE)) == N
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("SHOW statement_timeout")
            assert cursor.fetchone() == ("0",)


def test_who_waits_for_the_same_page_is_refused_with_it(install, settings):
    install("postgres")
    settings.CONTIMG_QUERY_LIMIT_S = 0.4

    def ask(_: int):
        try:
            return APIClient(raise_request_exception=False).get(SOURCES, CONE)
        finally:
            connections.close_all()

    began = time.monotonic()
    with slow(), ThreadPoolExecutor(5) as threads:
        for answer in threads.map(ask, range(5)):
            assert_is_refused(answer)
    assert time.monotonic() - began < 3 * 0.4 * PATIENCE


def test_the_service_is_well_while_pages_take_too_long(engine, install):
    limit_s = 0.1
    web = Web(install(engine, CONTIMG_QUERY_LIMIT_S=limit_s), workers=1)
    assert web.get(f"{SOURCES}?ra_deg=0&dec_deg=0&radius_deg=1").status == 200  # it has loaded what cones need
    fill(MORE)
    n_threads = int(Unit("contimg-web").one("ExecStart").partition("--blocking-threads ")[2].split()[0])
    farthest = [
        f"{SOURCES}?ra_deg=180&dec_deg=40&radius_deg={9 + n / 10}&ordering=-separation_deg" for n in range(n_threads)
    ]
    with slow(), ThreadPoolExecutor(n_threads) as threads:
        answers = threads.map(web.get, farthest)
        for _ in range(3):
            health = web.get("/health/live")
            assert (health.status, health.seconds < limit_s + 2 * PATIENCE) == (200, True)
        for answer in answers:
            assert (answer.status, answer.json["code"]) == (400, "query_too_slow")
    assert web.get(f"{SOURCES}?limit=1").status == 200


def test_an_export_takes_the_time_that_it_needs(installation, settings, api):
    fill(N)
    settings.CONTIMG_QUERY_LIMIT_S = 0
    with slow() as release:
        timer = threading.Timer(0.5, release)
        timer.start()
        answer = api.get(SOURCES, {**CONE, "format": CsvRenderer.format})
        lines = b"".join(answer.streaming_content).splitlines()
        timer.join()
    assert len(lines) == 1 + N


def test_few_rows_of_many_are_found_first_and_then_sorted(install, settings, api):
    """On SQLite, which reads the index of the order to its end otherwise."""
    install("sqlite")
    fill(MORE)
    rare = Source.objects.filter(name__in=["s000003", "s010000", "s059999"])
    rare.update(eta=99, n_measurements=99)
    settings.CONTIMG_QUERY_LIMIT_S = 0  # what takes few steps is never cut
    for ordering, names in (("name", ["s000003", "s010000", "s059999"]), ("-name", ["s059999", "s010000", "s000003"])):
        first = api.get(SOURCES, {"eta__gt": 98, "ordering": ordering, "limit": 2, "count": "true"}).json()
        second = api.get(first["next"]).json()
        assert [row["name"] for page in (first, second) for row in page["results"]] == names
        assert (first["count"], first["count_is_estimate"]) == (3, False)
        back = api.get(second["previous"]).json()
        assert back["results"] == first["results"]
    assert_is_refused(api.get(SOURCES, {"n_measurements__gt": 98}))  # it has no index


SLOW_ROW = {
    "sqlite": """(WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000)
                  SELECT count(*) FROM n WHERE sources_source.id > 0) > 0""",
    "postgresql": "pg_sleep(0.0005 + 0 * sources_source.id) IS NOT NULL",
}


def test_a_count_that_takes_too_long_is_an_estimate(installation):
    fill(9000)
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE sources_source")
    slowly = Source.objects.filter(RawSQL(SLOW_ROW[connection.vendor], (), BooleanField()))  # noqa: S611
    found = count(slowly, until=time.monotonic() + 0.3, at_least=101)
    assert found == {"count": pytest.approx(9000, rel=0.1), "count_is_estimate": True}
    assert count(slowly.filter(name__lt="s000100")) == {"count": 100, "count_is_estimate": False}
    assert count(Source.objects.all(), until=time.monotonic() + 1) == {"count": 9000, "count_is_estimate": False}


def test_every_list_is_the_same_with_its_limit_as_without(installation, settings):
    """In the transaction of most tests PostgreSQL has no limit."""
    client = APIClient()
    client.force_authenticate(User.objects.create_superuser("root"))
    settings.CONTIMG_THROTTLE_TOKEN = "100000/s"
    for _, _, basename in router.registry:
        make_rows(basename, 2)
    for prefix, _, _ in router.registry:
        url = f"/api/v1/{prefix}/?count=true&limit=2"
        answers = []
        for limit_s in (3, float("inf")):
            settings.CONTIMG_QUERY_LIMIT_S = limit_s
            first = client.get(url).json()
            second = client.get(first["next"]).json() if first["next"] else {}
            answers.append((first["count"], first["results"], second.get("results")))
        assert answers[0] == answers[1], url
        assert answers[0][0], url
