"""Many clients who send a byte now and then, or read nothing. The web server alone they hold up; nginx keeps them off.

300 of each kind; `CONTIMG_TEST_SLOW_CLIENTS=1000` has as many as it says, and waits until nginx has had enough of them.
"""

from __future__ import annotations

import asyncio
import http.client
import os
import resource
import ssl
import statistics
import threading
import time

import psutil
import pytest

from contimg.products import products_root
from tests.batch.installation import skip_or_fail, until
from tests.deployment import HOST, PROXIED, Nginx
from tests.factories import ImageFactory
from tests.service import Web

pytest_plugins = ["tests.batch.installation", "tests.deployment"]
N = int(os.environ.get("CONTIMG_TEST_SLOW_CLIENTS", "300"))
N_READERS = N // 10  # each has a file of nginx for what it does not read
EVERY_S = 0.5
HEADER_LIMIT_S = 10
LISTING = "/api/v1/calibrators/"
FILE_BYTES = 8_000_000  # more than the buffers of two sockets
HEADER = f"GET {LISTING} HTTP/1.1\r\nHost: {HOST}\r\nX-Dribbled: ".encode()
BODY = (
    f"POST /admin/login/ HTTP/1.1\r\nHost: {HOST}\r\nX-Forwarded-Proto: https\r\n"
    f"Referer: https://{HOST}/admin/login/\r\nCookie: csrftoken={'a' * 32}\r\n"  # or it is refused unread
    "Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 100000\r\n\r\nusername="
).encode()


def download(image: int) -> bytes:
    path = f"/api/v1/images/{image}/fits/"
    return f"GET {path} HTTP/1.1\r\nHost: {HOST}\r\nX-Forwarded-Proto: https\r\n\r\n".encode()


class SlowClients:
    """Each from one of 200 addresses of this machine, so that no limit on one address helps."""

    def __init__(
        self, port: int, first: bytes, *, n: int = N, goes_on: bool = True, tls: ssl.SSLContext | None = None
    ) -> None:
        self.port, self.first, self.n, self.goes_on, self.tls = port, first, n, goes_on, tls
        self.n_open = self.n_cut = 0
        self._enough = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._all()))

    def __enter__(self) -> SlowClients:
        self._thread.start()
        until(lambda: self.n_open + self.n_cut >= self.n, within_s=60)
        return self

    def __exit__(self, *_: object) -> None:
        self._enough.set()
        self._thread.join()

    async def _all(self) -> None:
        await asyncio.gather(*(self._dribble(f"127.0.1.{number % 200 + 1}") for number in range(self.n)))

    async def _dribble(self, address: str) -> None:
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", self.port, local_addr=(address, 0), ssl=self.tls, server_hostname=HOST if self.tls else None
        )
        writer.write(self.first)
        self.n_open += 1
        answered = asyncio.ensure_future(reader.read() if self.goes_on else asyncio.sleep(3600))
        while not (answered.done() or self._enough.is_set()):
            if self.goes_on:
                writer.write(b"a")
            await asyncio.wait([answered], timeout=EVERY_S)
        if answered.done():
            answered.exception()
            self.n_open, self.n_cut = self.n_open - 1, self.n_cut + 1
        answered.cancel()
        writer.transport.abort()


def asked_past_nginx(web: Web, *, within_s: float) -> int:
    """The status; 0 for none in time."""
    connection = http.client.HTTPConnection("127.0.0.1", web.port, timeout=within_s)
    try:
        connection.request("GET", LISTING, headers={"Host": HOST, "X-Forwarded-Proto": "https"})
        return connection.getresponse().status
    except TimeoutError:
        return 0
    finally:
        connection.close()


def memory_bytes(pid: int) -> int:
    server = psutil.Process(pid)
    return sum(process.memory_info().rss for process in (server, *server.children(recursive=True)))


@pytest.fixture
def open_files() -> None:
    """As many as the test's own and nginx's connections need."""
    wanted, most = 6 * N + 1000, resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if most < wanted:
        skip_or_fail(f"SKIPPED: {wanted} open files are needed, and {most} allowed (ulimit -n).")
    now = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(now, wanted), most))


def test_slow_clients_hold_up_nobody_behind_nginx_and_everybody_without_it(open_files, install, proxied, capsys):
    web = Web(install("sqlite", **PROXIED, CONTIMG_THROTTLE_ANON="1000000/min"))
    web.until_started(2)
    (products_root() / "images").mkdir()
    (products_root() / "images" / "slow.fits").write_bytes(os.urandom(FILE_BYTES))
    image = ImageFactory(path="images/slow.fits", size_bytes=FILE_BYTES)

    with SlowClients(web.port, BODY, n=16):
        until(lambda: asked_past_nginx(web, within_s=1) == 0, within_s=10)
    until(lambda: asked_past_nginx(web, within_s=1) == 200, within_s=10)

    nginx = proxied(web.port)
    before = {pid: memory_bytes(pid) for pid in (web.process.pid, nginx.process.pid)}
    tls = ssl.create_default_context(cafile=nginx.folder / "fullchain.pem")
    with (
        SlowClients(nginx.https_port, HEADER, tls=tls) as headers,
        SlowClients(nginx.https_port, BODY, tls=tls) as bodies,
        SlowClients(nginx.https_port, download(image.pk), n=N_READERS, goes_on=False, tls=tls) as readers,
    ):
        took_s = sorted(_ask_s(nginx) for _ in range(100))
        grown = {pid: memory_bytes(pid) - size for pid, size in before.items()}
        assert (bodies.n_open, readers.n_open) == (N, N_READERS)
        if "CONTIMG_TEST_SLOW_CLIENTS" in os.environ:
            until(lambda: headers.n_cut == N, within_s=HEADER_LIMIT_S + 5)
    web_mb, nginx_mb = (grown[pid] / 1e6 for pid in (web.process.pid, nginx.process.pid))
    median_ms, most_of_them_ms = 1000 * statistics.median(took_s), 1000 * took_s[94]
    with capsys.disabled():
        print(
            f"\n{2 * N + N_READERS} slow clients: answers in {median_ms:.0f} ms (median), {most_of_them_ms:.0f} (95%), "
            f"{1000 * took_s[-1]:.0f} (most); memory of the web server {web_mb:+.0f} MB, of nginx {nginx_mb:+.0f} MB"
        )
    assert median_ms < 500
    assert most_of_them_ms < 2000
    assert web_mb < 500, "what its allocator keeps of the chunks of files; the first hundred downloads reach it"
    assert nginx_mb < 20 + 0.1 * (2 * N + N_READERS)


def _ask_s(nginx: Nginx) -> float:
    began = time.monotonic()
    assert nginx.ask(LISTING).status == 200
    return time.monotonic() - began
