"""What a bad table costs to find and to take back: `python benchmarks/impact.py [--database postgres://…/contimg_benchmark]`.

One set of tables that calibrated 10 000 tiles with 1000 forced fluxes each, 10 000 000 in all, of 10 000 sources that
recur; and a second set with a tile of its own, which must not be touched. Rows are written by SQL. Measured: `impact`
of a table, its quarantine, and lifting it, each with its number of queries; beside an UPDATE of as many images in the
same run. On PostgreSQL the database named is made and dropped.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(PROJECT))

from benchmarks.batches import database  # noqa: E402

N_SOURCES = 10_000
FLUXES_OF_AN_IMAGE = 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--database")
    parser.add_argument("--images", type=int, default=10_000)
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
        began = time.perf_counter()
        table = fill(options.images)
        print(f"{connection.vendor}, filled in {time.perf_counter() - began:.0f} s")
        measure(table)
        connection.close()


def fill(n_images: int) -> Any:
    """The bad table. Tiles are copies of one, which the factories made."""
    from django.db import connection, transaction

    from images.models import Image
    from sources.models import Measurement, Source
    from tests.factories import MeasurementFactory, SourceFactory
    from tests.provenance.chains import make_chain

    chain, other = make_chain(1), make_chain(1)
    with transaction.atomic():
        SourceFactory.create_batch(1)
        source = Source.objects.get()
        sources = [_copy(source, name=f"source {number}", dec_deg=16.2) for number in range(N_SOURCES)]
        Source.objects.bulk_create(sources, batch_size=2000)
        tile = chain.tiles[0]
        copies = [
            _copy(
                tile, name=f"copy {number}", path=f"copy{number}.fits", recipe=f"copy {number}",
                n_measurements=FLUXES_OF_AN_IMAGE,
            )
            for number in range(n_images)
        ]  # fmt: skip
        Image.objects.bulk_create(copies, batch_size=2000)
        Image.objects.filter(pk=other.tiles[0].pk).update(n_measurements=1)
        MeasurementFactory(source=source, image=other.tiles[0], is_forced=True)
        one = MeasurementFactory(source=source, image=tile, is_forced=True)
        columns = [str(f.column) for f in Measurement._meta.concrete_fields if not (f.primary_key or f.generated)]
        chosen = [{"source_id": "s.id", "image_id": "i.id"}.get(name, f"m.{name}") for name in columns]
        first = Source.objects.exclude(pk=source.pk).order_by("pk").values_list("pk", flat=True)[0]
        with connection.cursor() as cursor:
            # Image n has a thousand sources in a row, from a place that wanders.
            cursor.execute(
                f"INSERT INTO sources_measurement ({', '.join(columns)}) SELECT {', '.join(chosen)} "  # noqa: S608
                f"FROM images_image i JOIN sources_source s ON s.id >= {first} + (i.id % 10) * 1000 "
                f"AND s.id < {first} + (i.id % 10 + 1) * 1000 JOIN sources_measurement m ON m.id = {one.pk} "
                "WHERE i.name LIKE 'copy %%'"
            )
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE")
    return chain.tables[0]


def _copy(row: Any, **changes: Any) -> Any:
    fields = [f for f in row._meta.concrete_fields if not (f.primary_key or f.generated)]
    return type(row)(**{f.attname: getattr(row, f.attname) for f in fields} | changes)


def measure(table: Any) -> None:
    from images.models import Image
    from provenance.impact import of_node
    from provenance.services import lift, quarantine
    from sources.models import Measurement, Source

    n = Measurement.objects.count()
    floor_s, _ = timed(lambda: Image.objects.filter(kind="tile").update(engine="bare"))
    print(f"{n} fluxes; an UPDATE of {Image.objects.count()} images: {floor_s:.2f} s")
    of_node(kind="calibration_table", pk=table.pk)  # the first one reads the disk
    impact_s, queries = timed(lambda: of_node(kind="calibration_table", pk=table.pk))
    found = of_node(kind="calibration_table", pk=table.pk)
    print(f"impact: {impact_s:.2f} s, {queries} queries; {found.counts['image']} images, {found.n_measurements} fluxes")
    made: list[Any] = []
    quarantine_s, queries = timed(
        lambda: made.append(quarantine(kind="calibration_table", pk=table.pk, reason="a benchmark"))
    )
    stale = Source.objects.filter(is_stale=True).count()
    suspect = Image.objects.filter(is_suspect=True).count()
    print(
        f"quarantine: {quarantine_s:.2f} s, {queries} queries, {quarantine_s / floor_s:.1f} of that UPDATE; "
        f"{suspect} images suspect, {stale} sources withdrawn"
    )
    lift_s, queries = timed(lambda: lift(row=made[0]))
    print(f"lift: {lift_s:.2f} s, {queries} queries; {Image.objects.filter(is_suspect=True).count()} images suspect")


def timed(act: Callable[[], object]) -> tuple[float, int]:
    from django.db import connection
    from django.test.utils import CaptureQueriesContext

    with CaptureQueriesContext(connection) as queries:
        began = time.perf_counter()
        act()
        seconds = time.perf_counter() - began
    return seconds, len(queries)


if __name__ == "__main__":
    main()
