"""What a backup costs, and those who write meanwhile: `python benchmarks/backups.py [--database postgres://…/contimg_b]`.

The rows are those of `benchmarks/impact.py`: 1000 fluxes of each image. While the backup is made a writer commits one
row at a time; his longest and median commit are told beside those without a backup. Then the backup is restored into
another empty database: a file beside it, or on PostgreSQL the same one emptied.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import threading
import time
from pathlib import Path
from statistics import median
from typing import Any

PROJECT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(PROJECT))

from benchmarks.batches import database  # noqa: E402
from benchmarks.impact import fill  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--database")
    parser.add_argument("--images", type=int, default=1000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, database(options.database, Path(name)) as url:
        os.environ |= {
            "CONTIMG_VAR_DIR": name, "CONTIMG_LOG_DIR": f"{name}/logs", "DATABASE_URL": url,
            "CONTIMG_LOG_LEVEL": "WARNING", "DJANGO_SETTINGS_MODULE": "contimg.settings",
            "CONTIMG_SECRET_KEY": "of a benchmark",
        }  # fmt: skip
        import django

        django.setup()
        from django.core.management import call_command
        from django.db import connection

        call_command("migrate", verbosity=0)
        fill(options.images)
        measure(Path(name) / "backups")
        connection.close()


def measure(folder: Path) -> None:
    from django.db import connection

    from provenance.backups import restore, take_backup

    alone = commits(while_running=lambda: time.sleep(5))
    made: list[Any] = []
    began = time.perf_counter()
    beside = commits(while_running=lambda: made.append(take_backup(folder=folder, told=lambda *_: None)))
    seconds = time.perf_counter() - began
    backup = made[0]
    rows = sum(backup.manifest.rows.values())
    print(f"{connection.vendor}: {rows} rows, {backup.size_bytes / 1e6:.0f} MB, backup {seconds:.1f} s")
    for words, found in (("without a backup", alone), ("while it is made", beside)):
        print(
            f"  commits {words}: {len(found)}, median {1e3 * median(found):.2f} ms, longest {1e3 * max(found):.0f} ms"
        )
    empty(connection)
    began = time.perf_counter()
    restore(path=backup.path, told=lambda *_: None)
    print(f"  restored in {time.perf_counter() - began:.1f} s")


def commits(*, while_running: Any) -> list[float]:
    """The seconds of each commit of a writer, one at a time, while something else runs."""
    from django.db import connection

    from observations.models import DataRoot

    stopping, took = threading.Event(), list[float]()

    def write() -> None:
        while not stopping.is_set():
            began = time.perf_counter()
            DataRoot.objects.create(path=f"/{time.monotonic_ns()}")
            took.append(time.perf_counter() - began)
            time.sleep(0.002)
        connection.close()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        while_running()
    finally:
        stopping.set()
        writer.join()
    return took


def empty(connection: Any) -> None:
    connection.close()
    if connection.vendor == "sqlite":
        connection.settings_dict["NAME"] = f"{connection.settings_dict['NAME']}.restored"
        return
    with connection.cursor() as cursor:
        cursor.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")


if __name__ == "__main__":
    main()
