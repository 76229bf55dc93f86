"""What befalls the service while it serves: what users see, what health and metrics say, and that it heals by itself.

Workers on such days are in tests/batch/test_bad_days.py and test_bad_nights.py; the matrix is in docs/operations.md.
Every fault is real, and made on servers, disks and folders of the test's own.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import statistics
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from django.contrib.auth.models import User
from django.db import connection
from prometheus_client.multiprocess import MultiProcessCollector

from access.services import create_token
from batch.models import Batch
from batch.services import close_breaker
from contimg.models import BreakerState
from tests.batch.installation import PATIENCE, Installation, skip_or_fail, until
from tests.batch.servers import Postgres
from tests.batch.test_bad_days import of_database
from tests.factories import SubbandGroupFactory
from tests.service import Web, n_waiting_for_lock

pytest_plugins = ["tests.batch.installation", "tests.batch.servers"]
QUICK = {"CONTIMG_LEASE_S": 4, "CONTIMG_SWEEP_S": 1, "CONTIMG_DRAIN_S": 4}
LISTING = "/api/v1/calibrators/"
# What waits for a lock has not to end before what waits for a connection.
SMALL_POOL = {"CONTIMG_DB_POOL_SIZE": 2, "CONTIMG_QUERY_LIMIT_S": 60}


def a_token() -> str:
    user = User.objects.create_superuser("root")
    return create_token(user=user, scope="admin", name="test", days=1)[1]


def ask_for(web: Web, tile: int):
    return web.post("/api/v1/batches/", {"stage": "convert", "subjects": [{"kind": "subband_group", "id": tile}]})


def states(web: Web) -> dict[str, str]:
    return {name: check["status"] for name, check in web.checks().items()}


def is_done(n: int):
    return of_database(lambda: Batch.objects.filter(state="done").count() == n)


@contextlib.contextmanager
def frozen(server: Postgres) -> Iterator[None]:
    """All its processes, as a storage that hangs or a paused machine has it."""
    pid = int((server._data / "postmaster.pid").read_text().split()[0])
    processes = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    for process in processes:
        process.suspend()
    try:
        yield
    finally:
        for process in reversed(processes):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.resume()


def sql(statement: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(statement)


def test_a_day_of_a_postgresql_that_is_stopped_frozen_and_read_only(private_postgres, install):
    installation = install(private_postgres.url, **QUICK)
    tiles = [SubbandGroupFactory(size_bytes=0).pk for _ in range(4)]
    web = Web(installation, token=a_token())
    worker = installation.start("worker", "--processes", "1")
    assert ask_for(web, tiles[0]).status == 201
    until(is_done(1), within_s=60)
    connection.close()

    # stopped: a 503 with words and Retry-After; metrics say so; nothing is restarted by hand
    private_postgres.stop("immediate")
    answer = web.get(LISTING)
    assert (answer.status, answer.json["code"], answer.headers["Retry-After"]) == (503, "database_unavailable", "30")
    assert web.get("/health/live").status == 200
    assert web.get("/health/ready").status == 503
    assert web.metric("contimg_database_up") == 0
    private_postgres.start()
    until(lambda: web.get(LISTING).status == 200, within_s=30)
    assert web.metric("contimg_database_up") == 1
    assert ask_for(web, tiles[1]).status == 201
    until(is_done(2), within_s=60)
    connection.close()

    # frozen: health says it within its time limit; who asks has a 503 where a connection is needed, else waits until
    # it goes on, and is answered
    answers = []
    waiting = threading.Thread(target=lambda: answers.append(web.get(f"{LISTING}?limit=3", within_s=60)))
    with frozen(private_postgres):
        waiting.start()
        ready = web.get("/health/ready")
        assert (ready.status, ready.seconds < 8 * PATIENCE) == (503, True)
        assert ready.json["checks"]["Database"]["status"] == "unavailable"
    waiting.join(60)
    assert answers[0].status in (200, 503)
    until(lambda: web.get("/health/ready").status == 200, within_s=30)

    # read-only: reads go on, writes are a 503, health has a warning; what a worker was at is tried again
    sql("ALTER SYSTEM SET default_transaction_read_only = on")
    sql("SELECT pg_reload_conf()")
    until(lambda: states(web)["Writable"] == "warning", within_s=20)
    assert web.get("/health/").status == 200
    assert web.get(LISTING).status == 200
    refused = ask_for(web, tiles[2])
    assert (refused.status, refused.json["code"]) == (503, "database_unavailable")
    connection.close()
    sql("SET default_transaction_read_only = off")
    sql("ALTER SYSTEM RESET default_transaction_read_only")
    sql("SELECT pg_reload_conf()")
    connection.close()
    until(lambda: ask_for(web, tiles[3]).status == 201, within_s=20)
    until(of_database(lambda: not Batch.objects.unended().exists()), within_s=60)
    assert set(Batch.objects.values_list("state", flat=True)) == {"done"}
    assert worker.poll() is None
    assert states(web)["Workers"] == "ok"


def test_a_postgresql_that_has_no_connection_left_is_a_503_and_then_not(private_postgres, install):
    import psycopg

    installation = install(private_postgres.url, **SMALL_POOL)
    web = Web(installation, workers=1)
    connection.close_pool()
    address = private_postgres.url.replace("postgres://", "postgresql://")
    with contextlib.ExitStack() as hogs:
        with contextlib.suppress(psycopg.OperationalError):
            while True:
                hogs.enter_context(psycopg.connect(address, connect_timeout=3))
        answer = web.get(LISTING)
        assert (answer.status, answer.json["code"]) == (503, "database_unavailable")
        assert answer.seconds < 8 * PATIENCE
        assert web.metric("contimg_database_up") == 0
        assert web.metric("contimg_pool_errors") > 0
        assert web.get("/health/ready").status == 503
    until(lambda: web.get(LISTING).status == 200, within_s=40)
    assert web.metric("contimg_database_up") == 1


def test_a_pool_whose_connections_are_all_in_use_is_a_503_within_its_timeout(private_postgres, install):
    """Two requests of one process are held up by a lock; a third finds no connection."""
    installation = install(private_postgres.url, **SMALL_POOL)
    web = Web(installation, workers=1)
    assert web.get(LISTING).status == 200
    answers = []
    with connection.cursor() as cursor:
        cursor.execute("BEGIN")
        cursor.execute("LOCK TABLE calibration_calibrator IN ACCESS EXCLUSIVE MODE")
        held = [
            threading.Thread(target=lambda n=n: answers.append(web.get(f"{LISTING}?limit={n}", within_s=60)))
            for n in (1, 2)
        ]
        for one in held:
            one.start()
        until(lambda: web.get("/health/live").status == 200)
        until(lambda: n_waiting_for_lock(cursor) == 2, within_s=20)
        third = web.get("/api/v1/images/")
        assert (third.status, third.json["code"]) == (503, "database_unavailable")
        assert third.headers["Retry-After"]
        assert third.seconds < 8 * PATIENCE
        cursor.execute("ROLLBACK")
    for one in held:
        one.join(30)
    assert [answer.status for answer in answers] == [200, 200]
    assert web.get("/api/v1/images/").status == 200
    until(lambda: web.metric("contimg_pool_errors") >= 1, within_s=4)  # it is told each second


def test_a_pool_for_which_nobody_waits_any_more_says_so_without_another_request(private_postgres, install):
    """Prometheus keeps one connection, and so asks one of the processes only."""
    installation = install(private_postgres.url, **SMALL_POOL)
    web = Web(installation, workers=2)
    with connection.cursor() as cursor:
        cursor.execute("BEGIN")
        cursor.execute("LOCK TABLE calibration_calibrator IN ACCESS EXCLUSIVE MODE")
        asking = [threading.Thread(target=web.get, args=(f"{LISTING}?limit={n}",)) for n in range(1, 17)]
        for one in asking:
            one.start()
        samples = Path(next(Path("/dev/shm").glob(f"contimg-*/web.*.{web.process.pid}.*")))  # noqa: S108
        until(lambda: _told(samples, "contimg_pool_waiting") > 0, within_s=8)
        cursor.execute("ROLLBACK")
    for one in asking:
        one.join(30)
    until(lambda: _told(samples, "contimg_pool_waiting") == 0, within_s=4)


def _told(folder: Path, name: str) -> float:
    """By all processes of a server, none of which is asked."""
    families = MultiProcessCollector(None, str(folder)).collect()
    return sum(sample.value for family in families for sample in family.samples if sample.name == name)


# --- disks ----------------------------------------------------------------------------------------------------------
@contextlib.contextmanager
def small_disk(place: Path, size: str) -> Iterator[Path]:
    """A file system of its own at this folder, with a file that can fill it."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("SKIPPED: mounting a small file system needs root.")
    place.mkdir(parents=True, exist_ok=True)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)], check=False).returncode:
        skip_or_fail("SKIPPED: root may not mount a small file system here.")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def fill(place: Path) -> Path:
    filler = place / "filler"
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(b"0" * 65_536)
    with contextlib.suppress(OSError), filler.open("ab", buffering=0) as file:
        while True:
            file.write(b"0" * 512)
    return filler


def test_a_disk_that_is_full_under_postgresql_refuses_writes_and_answers_reads(private_postgres, install, tmp_path):
    """The tables of batches are on a disk of their own: were its log full too, PostgreSQL would stop, as above."""
    installation = install(private_postgres.url, **QUICK)
    tile = SubbandGroupFactory(size_bytes=0).pk
    web = Web(installation, workers=1, token=a_token())
    place = private_postgres._folder / "small"
    with small_disk(place, "4M"):
        shutil.chown(place, "postgres")
        sql(f"CREATE TABLESPACE small LOCATION '{place}'")
        sql("ALTER TABLE batch_item SET TABLESPACE small")
        connection.close()
        filler = fill(place)
        answer = ask_for(web, tile)
        assert (answer.status, answer.json["code"]) == (503, "database_unavailable")
        assert not Batch.objects.exists()  # all or nothing
        assert web.get("/api/v1/batches/").status == 200
        assert web.get("/health/ready").status == 200
        filler.unlink()
        assert ask_for(web, tile).status == 201
        sql("ALTER TABLE batch_item SET TABLESPACE pg_default")
        sql("DROP TABLESPACE small")
        connection.close()


def test_a_disk_that_is_full_under_sqlite_and_products_refuses_writes_and_answers_reads(install, tmp_path):
    installation = install("sqlite", **QUICK)
    tile = SubbandGroupFactory(size_bytes=0).pk
    token = a_token()
    connection.close()
    with small_disk(tmp_path / "small", "40M") as place:
        shutil.copytree(installation.folder, place / "var")
        moved = Installation(
            place / "var", f"sqlite:///{place / 'var' / 'contimg.sqlite3'}", **QUICK,
            DJANGO_SETTINGS_MODULE="tests.batch.trivial_settings",
        )  # fmt: skip
        try:
            web = Web(moved, workers=1, token=token)
            assert web.get("/api/v1/batches/").status == 200
            filler = fill(place)
            answer = ask_for(web, tile)
            assert (answer.status, answer.json["code"]) == (503, "database_unavailable")
            assert web.get("/api/v1/batches/").status == 200
            assert states(web)["Disk"] == "warning"
            assert web.get("/health/ready").status == 503  # not a byte can be written to the products root
            filler.unlink()
            assert web.get("/health/ready").status == 200
            assert ask_for(web, tile).status == 201
        finally:
            moved.kill_all()


# --- Redis ----------------------------------------------------------------------------------------------------------
def test_breakers_of_idle_processes_close_when_redis_is_back_or_when_somebody_wants_it(private_redis, install):
    """Of two processes that nobody asks for anything but their metrics."""
    private_redis.start()
    installation = install("sqlite", CONTIMG_REDIS_URL=private_redis.url)
    web = Web(installation, workers=2)
    rows = BreakerState.objects.filter(breaker="redis-cache")

    def open_both() -> None:
        until(lambda: web.get(LISTING).status == 200 and rows.open().count() == 2)
        assert web.metric("contimg_breaker_open", breaker="redis-cache") == 2

    private_redis.kill()
    open_both()
    private_redis.start()
    until(lambda: web.metric("contimg_breaker_open", breaker="redis-cache") == 0, within_s=20, every_s=1)
    until(lambda: not rows.open().exists(), within_s=3)
    assert states(web)["Breakers"] == "ok"

    private_redis.kill()
    open_both()
    for row in rows:
        close_breaker(breaker=row)
    until(lambda: not rows.open().exists(), within_s=5)
    assert not rows.filter(is_asked=True).exists()


def test_a_redis_that_is_stopped_hung_or_full_makes_the_service_unthrottled_and_no_slower(private_redis, install):
    private_redis.start()
    installation = install("sqlite", CONTIMG_REDIS_URL=private_redis.url, CONTIMG_THROTTLE_ANON="5/min")
    web = Web(installation, workers=1)
    assert [web.get(LISTING).status for _ in range(6)] == [200] * 5 + [429]

    private_redis.freeze()  # hung
    answers = [web.get(LISTING) for _ in range(40)]
    assert {answer.status for answer in answers} == {200}
    seconds = sorted(answer.seconds for answer in answers)
    assert sum(seconds[-4:]) - 4 * statistics.median(seconds) < PATIENCE
    assert web.metric("contimg_breaker_open", breaker="redis-cache") == 1
    assert web.metric("contimg_breaker_refused_total", breaker="redis-cache") > 10
    health = web.get("/health/")
    assert (health.status, health.json["checks"]["Cache"]["status"]) == (200, "warning")
    private_redis.thaw()
    until(lambda: web.get(LISTING).status == 429, within_s=30, every_s=0.5)  # it counts again
    assert web.metric("contimg_breaker_open", breaker="redis-cache") == 0

    private_redis.kill()  # stopped
    assert {web.get(LISTING).status for _ in range(10)} == {200}
    assert web.metric("contimg_breaker_transitions_total", breaker="redis-cache", to="open") == 2
    private_redis.start()
    until(lambda: web.get(LISTING).status == 429, within_s=30, every_s=0.5)

    import redis

    server = redis.Redis.from_url(private_redis.url)
    server.flushall()
    server.config_set("maxmemory", "1")  # full: it refuses every write
    server.config_set("maxmemory-policy", "noeviction")
    assert {web.get(LISTING).status for _ in range(10)} == {200}
    assert states(web)["Cache"] == "warning"
    server.config_set("maxmemory", "0")
    until(lambda: web.get(LISTING).status == 429, within_s=30, every_s=0.5)
