"""The site of ops/nginx before the real web server: what it passes on, what it keeps off, and what it says itself."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator

import psutil
import pytest
from django.contrib.auth.models import User

from access.services import create_token
from batch.services import cancel_batch, create_batch
from contimg.products import products_root
from tests.batch.installation import PATIENCE, Installation, until
from tests.batch.servers import _answers
from tests.deployment import HOST, NOBODY, PROXIED, Nginx
from tests.factories import ImageFactory, SubbandGroupFactory
from tests.service import Unit, Web

pytest_plugins = ["tests.batch.installation", "tests.deployment"]
TRUSTED, STRANGER = "127.0.0.5", "127.0.0.6"
LISTING = "/api/v1/calibrators/"


@pytest.fixture
def site(install) -> Installation:
    return install("sqlite", **PROXIED, CONTIMG_TRUSTED_ADDRESSES=TRUSTED, CONTIMG_THROTTLE_ANON="1000000/min")


@pytest.fixture
def web(site) -> Web:
    return Web(site)


@pytest.fixture
def nginx(web, proxied) -> Nginx:
    return proxied(web.port)


def test_nginx_understands_its_site_and_runs_as_nobody(proxied):
    nginx = proxied(1)
    said = subprocess.run([*nginx.command, "-t"], capture_output=True, text=True)
    assert said.returncode == 0, said.stderr
    assert "warn" not in said.stderr, said.stderr
    if os.geteuid() == 0:
        processes = [psutil.Process(nginx.process.pid), *psutil.Process(nginx.process.pid).children()]
        assert {process.uids().effective for process in processes} == {NOBODY}


def test_what_it_passes_on(nginx):
    """One server for all of it: to start it costs more than to ask."""
    redirected = nginx.ask_http("/api/v1/images/?grade=good")
    assert (redirected.status, redirected.headers["Location"]) == (301, f"https://{HOST}/api/v1/images/?grade=good")

    listing = nginx.ask(LISTING, Accept_Encoding="gzip")
    assert (listing.status, listing.headers["Content-Encoding"]) == (200, "gzip")
    assert listing.headers["Strict-Transport-Security"].startswith("max-age=31536000"), "contimg knows that it is HTTPS"
    style = nginx.ask("/static/admin/css/base.css")
    assert (style.status, style.headers["Content-Type"]) == (200, 'text/css; charset="utf-8"')
    assert nginx.ask("/admin/login/?next=/admin/").status == 200
    assert nginx.ask("/health/ready", client=STRANGER).status == 200

    token = create_token(user=User.objects.create_superuser("root"), scope="admin", name="nginx", days=1)[1]
    _whose_address_counts(nginx)
    _files(nginx)
    _bodies(nginx, f"Bearer {token}")
    _events(nginx, f"Bearer {token}")


def _whose_address_counts(nginx: Nginx) -> None:
    """That of whoever came to nginx, whatever he says that he is."""
    for path in ("/metrics", "/health/"):
        assert nginx.ask(path, client=TRUSTED).status == 200
        assert nginx.ask(path, client=STRANGER).status == 401
        for header in ("X-Forwarded-For", "X_Forwarded_For", "X-Real-IP", "Forwarded"):
            said = {header: f"for={TRUSTED}" if header == "Forwarded" else TRUSTED}
            connection = nginx.connect(client=STRANGER)
            connection.request("GET", path, headers={"Host": HOST, **said})
            assert connection.getresponse().status == 401, said
            connection.close()
    assert nginx.ask(LISTING, X_Forwarded_Proto="http").status == 200, "no redirect: it came over HTTPS"
    assert nginx.ask("/health/live", Host="elsewhere.example").status == 400


def _files(nginx: Nginx) -> None:
    content = os.urandom(3_000_000)
    (products_root() / "images").mkdir()
    (products_root() / "images" / "of_nginx.fits").write_bytes(content)
    image = ImageFactory(path="images/of_nginx.fits", size_bytes=len(content))
    path = f"/api/v1/images/{image.pk}/fits/"
    whole = nginx.ask(path)
    assert (whole.status, whole.body) == (200, content)
    assert not whole.headers["ETag"].startswith("W/")
    part = nginx.ask(path, Range="bytes=1000000-1999999", If_Range=whole.headers["ETag"])
    assert (part.status, part.body) == (206, content[1_000_000:2_000_000])
    assert part.headers["Content-Range"] == f"bytes 1000000-1999999/{len(content)}"
    assert nginx.ask(path, If_None_Match=whole.headers["ETag"]).status == 304
    listing = nginx.ask(LISTING, Accept_Encoding="gzip")
    assert nginx.ask(LISTING, Accept_Encoding="gzip", If_None_Match=listing.headers["ETag"]).status == 304


def _bodies(nginx: Nginx, authorization: str) -> None:
    """What is too large is refused in the shape of contimg's own errors, whoever of the two does it."""
    for size in (8_000_001, 9_000_000):
        refused = nginx.ask(
            "/api/v1/batches/", method="POST", body=b" " * size, Content_Type="application/json",
            Authorization=authorization,
        )  # fmt: skip
        problem = json.loads(refused.body)
        assert (refused.status, refused.headers["Content-Type"]) == (413, "application/problem+json")
        assert problem["code"] == "request_too_large"
        assert set(problem) == {"type", "title", "status", "detail", "instance", "code", "request_id", "errors"}

    connection = nginx.connect()
    headers = {"Host": HOST, "Content-Type": "application/json", "Authorization": authorization}
    chunks = iter([b'{"stage": ', b'"nonsense", "subjects": []}'])
    connection.request("POST", "/api/v1/batches/", body=chunks, headers=headers)
    assert json.load(connection.getresponse())["code"] == "unknown_stage", "what comes in chunks is passed on whole"
    connection.close()


def _events(nginx: Nginx, authorization: str) -> None:
    """As they are told, once a second, and not when the stream ends after fifteen."""
    batch = create_batch(stage="convert", subjects=[("subband_group", SubbandGroupFactory().pk)]).batch
    connection = nginx.connect()
    began = time.monotonic()
    headers = {"Host": HOST, "Authorization": authorization}
    connection.request("GET", f"/api/v1/batches/{batch.pk}/events/", headers=headers)
    answer = connection.getresponse()
    assert answer.status == 200
    came_s = []
    while len(came_s) < 3:
        if answer.readline() == b": nothing new\n":
            came_s.append(time.monotonic() - began)
    connection.close()
    assert came_s[0] < 3 * PATIENCE
    assert 1.2 < came_s[2] - came_s[0] < 2 + 0.8 * PATIENCE


def test_without_the_service_it_says_so_and_when_to_come_again(proxied):
    nginx = proxied(1)  # where nobody listens
    answer = nginx.ask(LISTING)
    assert (answer.status, answer.headers["Retry-After"]) == (503, "10")
    assert (answer.headers["Content-Type"], json.loads(answer.body)["code"]) == (
        "application/problem+json", "service_away",
    )  # fmt: skip
    page = nginx.ask("/admin/", Accept="text/html,application/xhtml+xml")
    assert (page.status, page.headers["Retry-After"], page.headers["Content-Type"]) == (503, "10", "text/html")
    assert b"contimg is away" in page.body


@pytest.fixture
def readers(nginx) -> Iterator[list[int]]:
    """The statuses that four clients get who ask without a pause; 0 for an answer that was cut off."""
    statuses: list[int] = []
    enough = threading.Event()

    def read() -> None:
        while not enough.is_set():
            try:
                statuses.append(nginx.ask(LISTING).status)
            except http.client.IncompleteRead:
                statuses.append(0)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    yield statuses
    enough.set()
    for thread in threads:
        thread.join()


def test_what_a_killed_web_process_had_not_answered_is_asked_of_another(web, nginx, readers):
    server = psutil.Process(web.process.pid)
    web.until_started(2)
    until(lambda: len(readers) > 20)
    killed = server.children()[0].pid
    os.kill(killed, signal.SIGKILL)
    web.until_started(3)
    assert killed not in {child.pid for child in server.children()}
    seen = len(readers)
    until(lambda: len(readers) > seen + 20)
    assert set(readers) <= {200, 0}, (nginx.folder / "error.log").read_text()
    assert readers.count(0) <= 4, "more than were being sent when it was killed"


def test_an_answer_that_is_being_given_is_finished_when_the_server_is_told_to_stop(web):
    batch = create_batch(stage="convert", subjects=[("subband_group", SubbandGroupFactory().pk)]).batch
    token = create_token(user=User.objects.create_superuser("root"), scope="admin", name="stop", days=1)[1]
    headers = {"Host": "127.0.0.1", "X-Forwarded-Proto": "https", "Authorization": f"Bearer {token}"}
    connection = http.client.HTTPConnection("127.0.0.1", web.port, timeout=20)
    connection.request("GET", f"/api/v1/batches/{batch.pk}/events/", headers=headers)
    stream = connection.getresponse()
    until(lambda: stream.readline() == b": nothing new\n", every_s=0)
    web.process.terminate()
    until(lambda: not _answers(web.port))
    assert web.process.poll() is None
    cancel_batch(batch=batch)
    assert b"event: end" in stream.read()
    assert web.process.wait(float(Unit("contimg-web").one("TimeoutStopSec"))) == 0
