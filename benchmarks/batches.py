"""What the queue itself costs: `python benchmarks/batches.py [--database postgres://…/contimg_benchmark]`.

Three questions, on a database of its own (SQLite in a temporary folder unless told; on PostgreSQL the database named is
made and dropped): how long a batch takes to create, beside a bare insert of as many rows; whether lists, details and
events grow with the number of items; and what 8 workers spend on each of many items that do nothing, beside doing the
same nothing in one process. CPU is that of all processes begun here, start-up included; a database server's is apart.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

PROJECT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(PROJECT))

from benchmarks.child import adopt_orphans, children_cpu_s  # noqa: E402

FEW, MANY = 10, 100_000
SIZE_BYTES = 16 * 145_000_000  # as the factory makes tiles; each record of the stage adds one
REPEATS = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--database")
    parser.add_argument("--items", type=int, default=10_000)
    parser.add_argument("--workers", type=int, default=8)
    options = parser.parse_args()
    adopt_orphans()
    with tempfile.TemporaryDirectory() as name, database(options.database, Path(name)) as url:
        folder = Path(name)
        os.environ |= {
            "CONTIMG_VAR_DIR": name, "CONTIMG_PRODUCTS_ROOT": str(folder / "products"), "DATABASE_URL": url,
            "CONTIMG_LOG_DIR": str(folder / "logs"), "DJANGO_SETTINGS_MODULE": "tests.batch.trivial_settings",
            "CONTIMG_SECRET_KEY": "of a benchmark", "CONTIMG_ALLOWED_HOSTS": "testserver",
            "CONTIMG_LOG_LEVEL": "WARNING",
        }  # fmt: skip
        (folder / "products").mkdir()
        import django

        django.setup()
        from django.core.management import call_command
        from django.db import connection

        call_command("migrate", verbosity=0)
        print(f"{connection.vendor}, {options.items} items")
        make_tiles(max(options.items, MANY))
        creating(options.items)
        reading()
        draining(options.items, options.workers, folder)
        connection.close()


@contextmanager
def database(url: str | None, folder: Path) -> Iterator[str]:
    if url is None:
        yield f"sqlite:///{folder / 'contimg.sqlite3'}"
        return
    import psycopg
    from psycopg.sql import SQL, Identifier

    server, _, name = url.rpartition("/")
    with psycopg.connect(f"{server}/postgres".replace("postgres://", "postgresql://"), autocommit=True) as admin:
        admin.execute(SQL("CREATE DATABASE {}").format(Identifier(name)))
        try:
            yield url
        finally:
            admin.execute(SQL("DROP DATABASE {} WITH (FORCE)").format(Identifier(name)))


def make_tiles(n: int) -> None:
    from observations.models import SubbandGroup
    from tests.factories import SubbandGroupFactory

    SubbandGroup.objects.bulk_create(SubbandGroupFactory.build_batch(n), batch_size=2000)


def subjects(n: int) -> list[tuple[str, int]]:
    from observations.models import SubbandGroup

    return [("subband_group", pk) for pk in SubbandGroup.objects.order_by("pk").values_list("pk", flat=True)[:n]]


def creating(n: int) -> None:
    """Each batch is cancelled before the next: what is open is not what is asked."""
    from django.db import connection, transaction
    from django.test.utils import CaptureQueriesContext

    from batch.models import Item
    from batch.services import create_batch

    chosen = subjects(n)
    ours, bare = [], []
    for _ in range(5):
        began = time.perf_counter()
        made = create_batch(stage="convert", subjects=chosen).batch
        ours.append(time.perf_counter() - began)
        assert made.items.count() == n
        _forget(made)
    with CaptureQueriesContext(connection) as captured:
        _forget(create_batch(stage="convert", subjects=chosen).batch)
    columns = [field.column for field in Item._meta.concrete_fields if not field.primary_key]
    with connection.cursor() as cursor:
        cursor.execute(f"CREATE TABLE bare (id integer, {', '.join(f'{name} text' for name in columns)})")
        statement = f"INSERT INTO bare VALUES ({', '.join(['%s'] * (len(columns) + 1))})"  # noqa: S608 - our own columns
        rows: list[tuple[int | str, ...]] = [(number, *["ready"] * len(columns)) for number in range(n)]
        for _ in range(5):
            began = time.perf_counter()
            with transaction.atomic():
                cursor.executemany(statement, rows)
            bare.append(time.perf_counter() - began)
    print(
        f"create: {median(ours):.3f} s (worst {max(ours):.3f}), {len(captured)} queries with its removal; "
        f"bare executemany {median(bare):.3f} s; ratio {median(ours) / median(bare):.2f}"
    )


def _forget(batch) -> None:
    batch.items.all()._raw_delete(batch.items.db)
    batch.delete()


def reading() -> None:
    from batch.services import create_batch

    few = create_batch(stage="convert", subjects=subjects(FEW)).batch
    seconds = {"few": _read(few)}
    _forget(few)
    many = create_batch(stage="convert", subjects=subjects(MANY)).batch
    seconds["many"] = _read(many)
    _forget(many)
    for what in seconds["few"]:
        (few_s, few_queries), (many_s, many_queries) = seconds["few"][what], seconds["many"][what]
        print(
            f"{what}: {1000 * few_s:.1f} ms and {few_queries} queries at {FEW} items, {1000 * many_s:.1f} ms and "
            f"{many_queries} at {MANY}; ratio {many_s / few_s:.2f}"
        )


def _read(batch) -> dict[str, tuple[float, int]]:
    from django.contrib.auth.models import User
    from django.db import connection
    from django.test.utils import CaptureQueriesContext
    from rest_framework.test import APIClient

    client = APIClient()
    client.force_authenticate(User.objects.get_or_create(username="reader", is_superuser=True)[0])
    base = "/api/v1/batches/"
    paths = {"list": base, "show": f"{base}{batch.pk}/", "items": f"{base}{batch.pk}/items/?limit={FEW}"}
    return {
        what: _timed(lambda path=path: client.get(path), CaptureQueriesContext, connection)
        for what, path in paths.items()
    }


def _timed(ask: Callable, capture, connection) -> tuple[float, int]:
    seconds = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        answer = ask()
        seconds.append(time.perf_counter() - began)
        assert answer.status_code == 200, answer.content
    with capture(connection) as captured:
        ask()
    return median(seconds), len(captured)


def draining(n: int, n_workers: int, folder: Path) -> None:
    from batch.models import Attempt
    from batch.services import create_batch
    from observations.models import SubbandGroup
    from tests.batch import trivial

    direct_s = _direct(n)
    (folder / "ran").unlink()
    batch = create_batch(stage="convert", subjects=subjects(n)).batch
    before = _server_cpu_s()
    began, cpu_before = time.perf_counter(), children_cpu_s()
    with (folder / "worker.log").open("wb") as log:
        worker = subprocess.Popen(
            [sys.executable, "manage.py", "worker", "--processes", str(n_workers)], cwd=PROJECT, stdout=log, stderr=log
        )
        while batch.n_open:
            time.sleep(0.5)
            batch.refresh_from_db()
            if sys.stdout.isatty():
                print(f"\r{batch.n_done} done", end="", flush=True)
        seconds = time.perf_counter() - began
        worker.terminate()
        worker.wait()
    cpu_s, server_s = children_cpu_s() - cpu_before, _server_cpu_s() - before
    said = (folder / "worker.log").read_text()
    ran = [tile for tile, _ in trivial.runs()]
    twice = len(ran) - len(set(ran))
    print(
        f"\rdrain by {n_workers} workers: {seconds:.0f} s, {n / seconds:.0f} items/s; "
        f"{1000 * cpu_s / n:.1f} ms CPU per item and {1000 * server_s / n:.1f} ms of the server's; "
        f"the work itself, called directly, {1000 * direct_s / n:.2f} ms"
    )
    print(
        f"ran {len(set(ran))} of {n}, twice {twice}, attempts {Attempt.objects.filter(item__batch=batch).count()}, "
        f"done {batch.n_done}, 'database is locked' {said.count('database is locked')} times, "
        f"recorded exactly once {SubbandGroup.objects.filter(size_bytes=SIZE_BYTES + 2).count()}"
    )
    for item in batch.items.exclude(state="done"):
        print(f"{item}: {item.state} [{item.error_code}] {item.error_detail}")


def _direct(n: int) -> float:
    """CPU seconds of the stage's work and record, without a queue."""
    from batch.stages import Job, stages
    from observations.models import SubbandGroup

    began = time.process_time()
    for tile in SubbandGroup.objects.order_by("pk")[:n]:
        stages()["convert"].work(Job(tile), Path())()
    return time.process_time() - began


def _server_cpu_s() -> float:
    """Of all processes of a PostgreSQL server on this machine; those that have ended are counted by their parent."""
    import psutil

    total = 0.0
    for process in psutil.process_iter(["name", "cpu_times", "ppid"]):
        if process.info["name"] == "postgres":
            times = process.info["cpu_times"]
            total += times.user + times.system
            if process.info["ppid"] == 1:
                total += times.children_user + times.children_system
    return total


if __name__ == "__main__":
    main()
