"""Answers that are sent again are never older than the database was when they were asked for."""

from __future__ import annotations

import json
import os
import threading
import time

import pytest
from django.core.cache import cache
from django.db import connection, connections
from django.test.utils import CaptureQueriesContext
from rest_framework.test import APIClient

from contimg.api import reuse
from contimg.products import products_root
from images.models import Image
from tests.batch.installation import until
from tests.factories import AttemptFactory, ImageFactory, ItemFactory
from tests.images.radio_fits import write

pytest_plugins = ["tests.batch.installation"]
pytestmark = pytest.mark.usefixtures("installation")

N_READS = int(os.environ.get("CONTIMG_TEST_READS", "400"))
N_READERS = 4


@pytest.fixture
def image(settings) -> Image:
    settings.CONTIMG_THROTTLE_ANON = "10000000/s"
    write(products_root() / "image.fits")
    return ImageFactory(kind="external", measurement_set=None, name="image 0", path="image.fits")


def number_in(url: str) -> int:
    body = json.loads(APIClient().get(url).content)
    row = body["results"][0] if "results" in body else body
    return int(row["name"].split()[1])


def test_no_answer_is_older_than_the_last_commit_before_it_was_asked_for(image):
    """With a writer in another process, one in this, and readers of which each has its own connection."""
    urls = ["/api/v1/images/", f"/api/v1/images/{image.pk}/"]
    committed, stale, read, is_over = [0], [], [0] * N_READERS, threading.Event()

    def write() -> None:
        while not is_over.is_set():
            Image.objects.filter(pk=image.pk).update(name=f"image {committed[0] + 1}")
            committed[0] += 1
            time.sleep(0.01)
        connections.close_all()

    def ask(reader: int) -> None:
        while read[reader] < N_READS / N_READERS:
            before, url = committed[0], urls[read[reader] % 2]
            if (got := number_in(url)) < before:
                stale.append((url, before, got))
            read[reader] += 1
        connections.close_all()

    writer = threading.Thread(target=write)
    readers = [threading.Thread(target=ask, args=[reader]) for reader in range(N_READERS)]
    for thread in (writer, *readers):
        thread.start()
    for thread in readers:
        thread.join()
    is_over.set()
    writer.join()
    assert stale == []
    assert committed[0] > 10
    print(f"{sum(read)} reads during {committed[0]} commits, none stale")


def test_a_commit_of_another_process_is_seen_at_once(image, installation):
    url = f"/api/v1/images/{image.pk}/"
    assert number_in(url) == 0
    code = (
        f"from images.models import Image; Image.objects.filter(pk={image.pk}).update(name='image 7'); print('written')"
    )
    installation.start("shell", "-c", code, log="writer")
    until(lambda: "written" in installation.said("writer"))
    assert number_in(url) == 7


def test_the_same_question_of_the_same_database_costs_no_query(image):
    url, client = "/api/v1/images/", APIClient()
    first = client.get(url)

    def costs_nothing() -> bool:
        with CaptureQueriesContext(connection) as queries:
            second = client.get(url)
        assert second.content == first.content
        assert second.headers["ETag"] == first.headers["ETag"]
        return not queries

    until(costs_nothing)  # a snapshot is of the whole server, where another test may be writing
    assert client.get(url, headers={"If-None-Match": first.headers["ETag"]}).status_code == 304
    assert client.head(url).headers["ETag"] == first.headers["ETag"]


def test_a_database_that_hung_up_is_asked_again(image):
    url = f"/api/v1/images/{image.pk}/"
    first = APIClient().get(url).content
    reuse._watch._connection.connection.close()
    assert APIClient().get(url).content == first
    Image.objects.filter(pk=image.pk).update(name="image 7")
    assert number_in(url) == 7


def test_what_one_connection_called_a_state_is_none_of_the_next(image, monkeypatch):
    """SQLite counts the changes that a connection has seen, and each begins at the same number."""
    monkeypatch.setattr(reuse, "_AWAY_S", 0)
    url = f"/api/v1/images/{image.pk}/"
    reuse._watch.close()
    assert number_in(url) == 0
    Image.objects.filter(pk=image.pk).update(name="image 7")
    reuse._watch._connection.connection.close()
    assert [number_in(url) for _ in range(3)] == [7, 7, 7]


def test_small_answers_of_many_addresses_do_not_fill_the_memory(image, monkeypatch):
    monkeypatch.setattr(reuse, "MOST_BYTES", 100_000)
    for n in range(120):
        assert APIClient().get(f"/api/v1/sources/?ra_deg={n}&dec_deg=0&radius_deg=0.001").status_code == 200
    assert len(reuse._answers._kept) < 100


def test_a_detail_that_misses_its_file_is_not_kept(image):
    """No commit says that the disk is mounted again."""
    url, client, root = f"/api/v1/images/{image.pk}/", APIClient(), products_root()
    away = root.rename(root.with_name("away"))
    assert client.get(url).json()["wcs"] is None
    away.rename(root)
    assert client.get(url).json()["wcs"]["ctype1"] == "RA---SIN"


def test_an_answer_is_for_its_caller_its_host_and_its_format(image, settings):
    settings.ALLOWED_HOSTS = ["one.example", "two.example"]
    for host in ("one.example", "two.example"):
        answer = APIClient().get("/api/v1/images/?limit=1&ordering=id", headers={"Host": host}).json()
        detail = APIClient().get(f"/api/v1/images/{image.pk}/", headers={"Host": host}).json()
        assert answer["results"][0]["id"] == image.pk
        assert detail["links"]["fits"].startswith(f"http://{host}/")
    page = APIClient().get("/api/v1/images/", headers={"Host": "one.example", "Accept": "text/html"})
    assert page.headers["Content-Type"].startswith("text/html")


def test_reused_answers_are_throttled_and_refused_as_others_are(image, settings):
    cache.clear()
    settings.CONTIMG_THROTTLE_ANON = "2/d"
    assert [APIClient().get("/api/v1/images/").status_code for _ in range(3)] == [200, 200, 429]
    settings.CONTIMG_PUBLIC_READ = False
    cache.clear()
    assert APIClient().get("/api/v1/images/").status_code == 401


def test_what_is_for_the_inside_is_not_sent_again_to_the_outside(settings):
    """Evidence and raw texts of errors are shown to trusted addresses; both callers here are nobody."""
    settings.CONTIMG_THROTTLE_ANON = "10000000/s"
    item = ItemFactory(state="failed", error_code="internal_error", error_detail="casacore: /srv/secret is broken")
    AttemptFactory(item=item, evidence={"inputs": [], "outputs": []})
    for url in (f"/api/v1/items/{item.pk}/", "/api/v1/items/"):
        inside = [APIClient(REMOTE_ADDR="127.0.0.1").get(url).content for _ in range(2)]
        outside = [APIClient(REMOTE_ADDR="192.0.2.7").get(url).content for _ in range(2)]
        assert inside[0] == inside[1] != outside[0] == outside[1]
        assert b"casacore" in inside[0]
        assert b"casacore" not in outside[0]
