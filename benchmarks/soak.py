"""The whole service under mixed load, with faults, for any length: does anything grow, fail, get lost or doubled?

    python -m benchmarks.soak --minutes 60     # on a PostgreSQL and a Redis of its own, a fault every few minutes
    python -m benchmarks.soak --minutes 2 --database sqlite --without-faults

Readers (lists, details, cones, totals; at a steady rate), one that asks for batches, one that registers images, two
granian processes and two worker processes whose stage sleeps. Faults: a web process, a worker process and the whole
worker killed with -9, PostgreSQL restarted, Redis frozen and killed. Printed: latencies, errors without faults and in
the minute around each, memory, connections, locks; and whether every batch was done, once. Ends with 1 when a limit is
broken: no error without a fault, below 1% in the minute around one, memory growth below 5%. Growth is each process
against itself once it is warm: a killed one and the younger one that follows would hide growth, or look like it. A run
below ten minutes is judged by what holds at any length: a process is warm after minutes only, so 20% is growth; and
1% of a slow minute is less than what a killed process was answering, at most a request of each of its clients.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import django
import psutil

PROJECT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(PROJECT))

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "contimg.settings")
django.setup()

from contimg.products import WORK_FOLDER  # noqa: E402
from tests.batch.installation import Installation  # noqa: E402
from tests.batch.servers import Postgres, Redis  # noqa: E402
from tests.service import Answer, Web  # noqa: E402

READS_PER_S, BATCHES_PER_S, IMAGES_PER_S = 40.0, 0.5, 5.0
ITEMS_PER_BATCH = 4
AROUND_S = 30.0  # before and after a fault: its minute
MOST_ERRORS, MOST_GROWTH = 0.01, 0.05
SHORT_S, MOST_GROWTH_WHEN_SHORT = 600.0, 0.20
N_READERS, N_CLIENTS = 4, 6  # with the one that asks for batches and the one that looks at the service
PATHS = (
    "/api/v1/images/", "/api/v1/images/?grade=good&ordering=-rms_jy_per_beam", "/api/v1/images/{image}/",
    "/api/v1/images/?ra_deg=120&dec_deg=16&radius_deg=1", "/api/v1/sources/", "/api/v1/batches/", "/api/v1/stats/",
    "/api/v1/items/?state=done", "/health/ready",
)  # fmt: skip
FILL = """
import django; django.setup()
from django.contrib.auth.models import User
from access.services import create_token
from tests.factories import ImageFactory, SubbandGroupFactory
ImageFactory.create_batch(200)
tiles = SubbandGroupFactory.create_batch(400, size_bytes=0)
token = create_token(user=User.objects.create_superuser("soak"), scope="admin", name="soak", days=2)[1]
print(min(tile.pk for tile in tiles), len(tiles), token)
"""
WRITE = """
import django, sys, time, uuid; django.setup()
from django.db import DatabaseError, close_old_connections
from images.models import Image
image, per_s = Image.objects.order_by("pk")[0], float(sys.argv[1])
while True:
    image.pk, image._state.adding = None, True
    image.name = image.path = image.recipe = uuid.uuid4().hex
    try:
        image.save()
        print(image.name, flush=True)
    except DatabaseError:
        close_old_connections()
    time.sleep(1 / per_s)
"""
CHECK = """
import django, json, sys; django.setup()
from collections import Counter
from batch.models import Attempt, Batch, Item
from images.models import Image
from observations.models import SubbandGroup
written = sys.stdin.read().split()
print(json.dumps({
    "batches": dict(Counter(Batch.objects.values_list("state", flat=True))),
    "keys": sorted(filter(None, Batch.objects.values_list("idempotency_key", flat=True))),
    "items": dict(Counter(Item.objects.values_list("state", flat=True))),
    "done_twice": sum(n > 1 for n in Counter(
        Attempt.objects.filter(outcome="done").values_list("item", flat=True)).values()),
    "images_lost": len(set(written)) - Image.objects.filter(name__in=written).count(),
    "records": sum(SubbandGroup.objects.filter(pk__gte=sys.argv[1]).values_list("size_bytes", flat=True)),
}))
"""


@dataclass
class Soak:
    installation: Installation
    seconds: float
    postgres: Postgres | None
    redis: Redis | None
    began: float = field(default_factory=time.monotonic)
    asked: list[tuple[float, float, int, str]] = field(default_factory=list)  # when, seconds, status, what
    faults: list[tuple[float, str]] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    memory: dict[int, list[tuple[float, float]]] = field(default_factory=dict)  # by process: when, MB of its own
    connections: list[int] = field(default_factory=list)
    locks: list[int] = field(default_factory=list)
    stopping: threading.Event = field(default_factory=threading.Event)

    @property
    def now(self) -> float:
        return time.monotonic() - self.began

    def python(self, code: str, *arguments: str, stdin: str = "") -> str:
        command = [sys.executable, "-c", code, *arguments]
        done = subprocess.run(
            command,
            cwd=PROJECT,
            env=self.installation.environment,
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise SystemExit(done.stderr)
        return done.stdout

    def start_worker(self) -> None:
        self.worker = self.installation.start("worker", "--processes", "2")


# --- load -----------------------------------------------------------------------------------------------------------
def note(soak: Soak, what: str, answer: Answer) -> None:
    soak.asked.append((soak.now, answer.seconds, answer.status, what))


def paced(soak: Soak, per_s: float, act: Callable[[], object]) -> None:
    while not soak.stopping.wait(random.expovariate(per_s)):
        act()


def read(soak: Soak, web: Web, image: int) -> None:
    path = random.choice(PATHS)
    note(soak, path, web.get(path.format(image=image)))


def ask(soak: Soak, web: Web, tiles: Iterator[int]) -> None:
    """Until it is answered, under the same key: what a client that wants its batch once does."""
    subjects = [{"kind": "subband_group", "id": next(tiles)} for _ in range(ITEMS_PER_BATCH)]
    key = uuid.uuid4().hex
    for _ in range(60):
        answer = web.post("/api/v1/batches/", {"stage": "convert", "subjects": subjects, "idempotency_key": key})
        note(soak, "POST batches", answer)
        if answer.status in (200, 201):
            soak.keys.append(key)
            return
        time.sleep(1)


def watch(soak: Soak, web: Web) -> None:
    for pid, mb in _memory_mb([web.process, soak.worker]):
        soak.memory.setdefault(pid, []).append((soak.now, mb))
    if soak.postgres is not None:
        import psycopg

        with contextlib.suppress(psycopg.Error):
            address = soak.postgres.url.replace("postgres://", "postgresql://")
            with psycopg.connect(address, connect_timeout=2) as server:
                (n,) = server.execute("SELECT count(*) FROM pg_stat_activity WHERE datname IS NOT NULL").fetchone()  # type: ignore[misc]
                (waiting,) = server.execute("SELECT count(*) FROM pg_locks WHERE NOT granted").fetchone()  # type: ignore[misc]
            soak.connections.append(n)
            soak.locks.append(waiting)


def _memory_mb(servers: list[subprocess.Popen]) -> Iterator[tuple[int, float]]:
    """What each of their processes has for itself; the children that run stages come and go, and are left out."""
    for server in servers:
        with contextlib.suppress(psutil.NoSuchProcess):
            mine = psutil.Process(server.pid)
            for process in (mine, *mine.children()):
                with contextlib.suppress(psutil.NoSuchProcess):
                    yield process.pid, process.memory_full_info().uss / 1e6


# --- faults ---------------------------------------------------------------------------------------------------------
def kill_a_web_process(soak: Soak, web: Web) -> None:
    random.choice(psutil.Process(web.process.pid).children()).kill()


def kill_a_worker_process(soak: Soak, web: Web) -> None:
    for process in psutil.Process(soak.worker.pid).children()[:1]:
        process.kill()


def kill_the_worker(soak: Soak, web: Web) -> None:
    """And start it again, as systemd would."""
    os.killpg(soak.worker.pid, signal.SIGKILL)
    soak.worker.wait()
    time.sleep(5)
    soak.start_worker()


def restart_postgres(soak: Soak, web: Web) -> None:
    assert soak.postgres is not None
    soak.postgres.stop("fast")
    soak.postgres.start()


def freeze_redis(soak: Soak, web: Web) -> None:
    assert soak.redis is not None
    soak.redis.freeze()
    time.sleep(10)
    soak.redis.thaw()


def restart_redis(soak: Soak, web: Web) -> None:
    assert soak.redis is not None
    soak.redis.kill()
    time.sleep(5)
    soak.redis.start()


FAULTS = (
    kill_a_web_process, kill_a_worker_process, restart_postgres, freeze_redis, kill_the_worker, restart_redis,
)  # fmt: skip


def make_faults(soak: Soak, web: Web, every_s: float) -> None:
    possible = [one for one in FAULTS if "postgres" not in one.__name__ or soak.postgres is not None]
    possible = [one for one in possible if "redis" not in one.__name__ or soak.redis is not None]
    for fault in itertools.cycle(possible):
        if soak.stopping.wait(every_s) or soak.now > soak.seconds - AROUND_S:
            return
        soak.faults.append((soak.now, fault.__name__))
        print(f"{soak.now:6.0f} s  {fault.__name__.replace('_', ' ')}", flush=True)
        fault(soak, web)


# --- the run --------------------------------------------------------------------------------------------------------
def run(*, seconds: float, database: str, with_faults: bool, fault_every_s: float) -> list[str]:
    """Prints what it saw; returns what broke a limit."""
    with _servers(database) as (postgres, redis), tempfile.TemporaryDirectory() as name:
        soak = Soak(_installation(Path(name), postgres, redis), seconds, postgres, redis)
        try:
            broken = _run(soak, fault_every_s if with_faults else 0)
        finally:
            soak.installation.kill_all()
        if broken:
            for log in ("web.log", "log"):
                print(f"\n--- the end of {log}\n{soak.installation.said(log)[-3000:]}")
        return broken


def _run(soak: Soak, fault_every_s: float) -> list[str]:
    first, n_tiles, token = soak.python(FILL).split()
    web = Web(soak.installation, token=token)
    soak.start_worker()
    image = int(web.get("/api/v1/images/?limit=1").json["results"][0]["id"])
    tiles = itertools.cycle(range(int(first), int(first) + int(n_tiles)))
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITE, str(IMAGES_PER_S)], cwd=PROJECT, env=soak.installation.environment,
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    soak.began = time.monotonic()
    jobs: list[Callable[[], object]] = [
        *[lambda: paced(soak, READS_PER_S / N_READERS, lambda: read(soak, web, image))] * N_READERS,
        lambda: paced(soak, BATCHES_PER_S, lambda: ask(soak, web, tiles)),
        lambda: paced(soak, 0.5, lambda: watch(soak, web)),
    ]
    if fault_every_s:
        jobs.append(lambda: make_faults(soak, web, fault_every_s))
    threads = [threading.Thread(target=job) for job in jobs]
    for thread in threads:
        thread.start()
    time.sleep(soak.seconds)
    soak.stopping.set()
    for thread in threads:
        thread.join()
    writer.terminate()
    written = writer.communicate()[0]
    _drain(web)
    return [*_report(soak), *_whole(soak, written, first)]


def _drain(web: Web, within_s: float = 120) -> None:
    until = time.monotonic() + within_s
    while time.monotonic() < until:
        answer = web.get("/api/v1/items/?state=ready,running,waiting&limit=1")
        if answer.status == 200 and not answer.json["results"]:
            return
        time.sleep(1)


def _report(soak: Soak) -> Iterator[str]:
    near = [(when, [one for one in soak.asked if abs(one[0] - when) < AROUND_S], name) for when, name in soak.faults]
    quiet = [one for one in soak.asked if all(abs(one[0] - when) >= AROUND_S for when, _ in soak.faults)]
    print(f"\n{len(soak.asked)} requests in {soak.seconds:.0f} s, {len(quiet)} of them away from any fault\n")
    print("| | n | p50 ms | p95 ms | p99 ms | errors |\n|---|--:|--:|--:|--:|--:|")
    _line("away from faults", quiet)
    for what in sorted({one[3] for one in soak.asked}):
        _line(what, [one for one in quiet if one[3] == what])
    for when, asked, name in near:
        _line(f"around {name.replace('_', ' ')} at {when:.0f} s", asked)
        if _errors(asked) > max(MOST_ERRORS * len(asked), N_CLIENTS if soak.seconds < SHORT_S else 0):
            yield f"{_errors(asked)} of {len(asked)} requests failed around {name}"
    if _errors(quiet):
        yield f"{_errors(quiet)} requests failed without a fault"
    before, after = _warm_mb(soak)
    if before:
        print(f"\nmemory of warm processes {before:.0f} MB, later {after:.0f} MB: {after / before - 1:+.1%}")
        if after > (1 + (MOST_GROWTH_WHEN_SHORT if soak.seconds < SHORT_S else MOST_GROWTH)) * before:
            yield f"memory grew by {after / before - 1:.1%}"
    if soak.connections:
        print(f"connections {max(soak.connections)} at most, requests that wait for a lock {max(soak.locks)} at most")


def _warm_mb(soak: Soak) -> tuple[float, float]:
    """The sum over the processes, each in the first and in the second half of its life after a quarter of the run."""
    before = after = 0.0
    for samples in soak.memory.values():
        warm = [mb for when, mb in samples if when > samples[0][0] + soak.seconds / 4]
        if half := len(warm) // 2:
            before += statistics.median(warm[:half])
            after += statistics.median(warm[half:])
    return before, after


def _line(what: str, asked: list[tuple[float, float, int, str]]) -> None:
    ms = sorted(1000 * one[1] for one in asked) or [0.0]
    p50, p95, p99 = (ms[min(len(ms) - 1, int(share * len(ms)))] for share in (0.5, 0.95, 0.99))
    print(f"| {what} | {len(asked)} | {p50:.0f} | {p95:.0f} | {p99:.0f} | {_errors(asked)} |")


def _errors(asked: list[tuple[float, float, int, str]]) -> int:
    return sum(one[2] not in (200, 201) for one in asked)


def _whole(soak: Soak, written: str, first_tile: str) -> Iterator[str]:
    """Nothing lost, nothing doubled."""
    import json

    found = json.loads(soak.python(CHECK, first_tile, stdin=written))
    print(f"\n{len(soak.keys)} batches asked for: {found['batches']}; items {found['items']}")
    if found["keys"] != sorted(soak.keys):
        yield f"batches: {len(soak.keys)} were promised, {len(found['keys'])} are there"
    if set(found["batches"]) - {"done"}:
        yield f"batches that are not done: {found['batches']}"
    if found["done_twice"]:
        yield f"{found['done_twice']} items were done twice"
    if found["images_lost"]:
        yield f"{found['images_lost']} images that were written are not there"
    if found["records"] != found["items"].get("done", 0):
        yield f"{found['records']} results were recorded of {found['items'].get('done', 0)} items"


@contextlib.contextmanager
def _servers(database: str) -> Iterator[tuple[Postgres | None, Redis | None]]:
    program = shutil.which("redis-server")
    redis = Redis(program) if program else None
    postgres = Postgres(sorted(Path("/usr/lib/postgresql").glob("*/bin"))[-1]) if database == "postgres" else None
    try:
        for server in filter(None, (redis, postgres)):
            server.start()
        yield postgres, redis
    finally:
        if redis:
            redis.kill()
        if postgres:
            postgres.remove()


def _installation(folder: Path, postgres: Postgres | None, redis: Redis | None) -> Installation:
    (folder / "products" / WORK_FOLDER).mkdir(parents=True)
    found = Installation(
        folder, postgres.url if postgres else f"sqlite:///{folder / 'contimg.sqlite3'}",
        DJANGO_SETTINGS_MODULE="tests.batch.trivial_settings", CONTIMG_REDIS_URL=redis.url if redis else "",
        CONTIMG_LEASE_S=10, CONTIMG_SWEEP_S=2, CONTIMG_DRAIN_S=5, CONTIMG_MAX_KILLS=10, CONTIMG_LOG_LEVEL="WARNING",
        CONTIMG_THROTTLE_ANON="1000000/min", CONTIMG_THROTTLE_TOKEN="1000000/min",  # noqa: S106
    )  # fmt: skip
    command = [sys.executable, "manage.py", "migrate", "-v0"]
    subprocess.run(command, cwd=PROJECT, env=found.environment, check=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=2)
    parser.add_argument("--database", choices=("postgres", "sqlite"), default="postgres")
    parser.add_argument("--without-faults", action="store_true")
    parser.add_argument("--fault-every-s", type=float, default=150)
    asked = parser.parse_args()
    broken = run(
        seconds=60 * asked.minutes, database=asked.database, with_faults=not asked.without_faults,
        fault_every_s=asked.fault_every_s,
    )  # fmt: skip
    for limit in broken:
        print(f"BROKEN: {limit}")
    raise SystemExit(bool(broken))


if __name__ == "__main__":
    main()
