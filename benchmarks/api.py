"""The API under load: `python benchmarks/api.py [--database postgres://…/contimg_benchmark] [--large] [--seconds 5]`.

On a database of its own (SQLite in a temporary folder unless told; on PostgreSQL the one named is made and dropped)
with 10 000 images, 2 000 measurement sets, 10 000 sources and 1 000 000 measurements; `--large` takes 1 000 000 images
and 10 000 000 measurements. First what a page of 100 images costs in process, beside an ordinary ModelViewSet and
beside the driver with orjson alone. Then the service as production runs it (granian, 2 workers of 4 threads) driven by
wrk from 64 connections, while a writer adds images; each address beside a constant of the same size from the same
server. wrk and the writer share the cores with it. CPU is that of the service's processes; PostgreSQL's is not in it.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

PROJECT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(PROJECT))

from benchmarks.batches import database  # noqa: E402

CONNECTIONS, WORKERS, THREADS = 64, 2, 4
POINTS = 200  # of the light curve that is asked for
START = datetime(2026, 1, 1, tzinfo=UTC)
LUA = """done = function(summary, latency, requests)
  local e = summary.errors
  local failed = e.connect + e.read + e.write + e.status + e.timeout
  io.write(string.format("RESULT %d %d %d %d %d %d\\n", summary.requests, summary.duration, failed,
    latency:percentile(50), latency:percentile(95), latency:percentile(99)))
end
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--database")
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--writes-per-s", type=float, default=10)
    parser.add_argument("--only", choices=["in-process", "load", "depth", "cones"])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, database(options.database, Path(name)) as url:
        os.environ |= {
            "CONTIMG_VAR_DIR": name, "CONTIMG_PRODUCTS_ROOT": f"{name}/products", "DATABASE_URL": url,
            "DJANGO_SETTINGS_MODULE": "contimg.settings", "CONTIMG_SECRET_KEY": "of a benchmark",
            "CONTIMG_LOG_LEVEL": "WARNING", "CONTIMG_THROTTLE_ANON": "100000000/s",
            "CONTIMG_ALLOWED_HOSTS": "testserver,127.0.0.1", "CONTIMG_HTTPS": "false", "PYTHONWARNINGS": "ignore",
        }  # fmt: skip
        (Path(name) / "products" / ".work").mkdir(parents=True)
        import django

        django.setup()
        from django.core.management import call_command
        from django.db import connection

        call_command("migrate", verbosity=0)
        call_command("collectstatic", verbosity=0, interactive=False)
        fill(large=options.large)
        parts: dict[str, Callable[[], None]] = {
            "in-process": in_process,
            "depth": depth,
            "cones": cones,
            "load": lambda: load(Path(name), options.seconds, options.writes_per_s),
        }
        for part, measure in parts.items():
            if options.only in (None, part):
                measure()
        connection.close()


# --- what is in it ------------------------------------------------------------------------------------------------
def fill(*, large: bool) -> None:
    from django.db import connection, transaction

    from contimg.bulk import insert_like
    from contimg.sky import healpix_indices
    from images.models import Image
    from qa.models import Assessment, Policy
    from sources.models import Measurement, Source
    from tests import factories

    n_images, n_measurements = (1_000_000, 10_000_000) if large else (10_000, 1_000_000)
    n_sets, n_sources = 2_000, 10_000
    print(f"{connection.vendor}, {n_images} images, {n_measurements} measurements")
    chance = random.Random(5)

    def sky(n: int) -> tuple[list[float], list[float], list[int]]:
        ra = [chance.uniform(0, 360) for _ in range(n)]
        dec = [max(-90.0, min(90.0, chance.gauss(40, 15))) for _ in range(n)]
        return ra, dec, healpix_indices(ra, dec)

    def times(n: int) -> list[datetime]:
        return [START + timedelta(seconds=30 * chance.randrange(1_000_000)) for _ in range(n)]

    def write(what: str, template: Any, columns: list[str], rows: Iterable[tuple[Any, ...]], n: int) -> None:
        started = time.perf_counter()
        with transaction.atomic():
            insert_like(template, columns, rows)
        print(f"registered {n} {what} in one transaction: {n / (time.perf_counter() - started):.0f} rows/s")

    with transaction.atomic():
        first_set = factories.CalibratedSetFactory()
        image = factories.ImageFactory(measurement_set=first_set, grade="good")
        factories.AssessmentFactory(image=image)
    names = ["name", "path", "recipe", "observed_at", "mjd", "ra_deg", "dec_deg"]
    ra, dec, cells = sky(n_sets)
    seen = times(n_sets)
    rows = ((f"set{i}", f"filled/{i}.ms", f"set{i:061}", seen[i], 61000.0 + i, ra[i], dec[i]) for i in range(n_sets))
    older = first_set.calibrated_from
    older.is_current = False
    write("measurement sets", older, names, rows, n_sets)

    template = Image.objects.get(pk=image.pk)
    names = ["name", "path", "recipe", "observed_at", "mjd", "ra_deg", "dec_deg", "healpix", "grade",
             "rms_jy_per_beam", "peak_jy_per_beam"]  # fmt: skip
    grades = ["excellent", "good", "good", "marginal", "poor", "unknown"]

    def images() -> Iterator[tuple[Any, ...]]:
        for first in range(0, n_images, 10_000):
            n = min(10_000, n_images - first)
            ra, dec, cells = sky(n)
            for i, at in enumerate(times(n)):
                rms = chance.uniform(1e-4, 1e-2)
                yield (f"image{first + i}", f"filled/{first + i}.fits", f"image{first + i:059}", at, 61000.0 + i, ra[i],
                       dec[i], cells[i], chance.choice(grades), rms, rms * chance.uniform(5, 5000))  # fmt: skip

    write("images", template, names, images(), n_images)
    verdict = Assessment(policy=Policy.objects.get(is_active=True), grade="good", is_current=True)
    ids = Image.objects.exclude(pk=image.pk).values_list("pk", flat=True)
    write("assessments", verdict, ["image_id"], [(pk,) for pk in ids], n_images)

    ra, dec, cells = sky(n_sources)
    source = factories.SourceFactory.build()
    write("sources", source, ["name", "ra_deg", "dec_deg", "healpix", "eta", "v", "flux_mean_jy"], (
        (f"filled {i:06}", ra[i], dec[i], cells[i], chance.expovariate(1), chance.random(), chance.expovariate(10))
        for i in range(n_sources)
    ), n_sources)  # fmt: skip
    image_ids = list(Image.objects.order_by("pk").values_list("pk", "observed_at")[:n_images])
    source_ids = list(Source.objects.order_by("pk").values_list("pk", flat=True)[:n_sources])
    forced = Measurement(
        is_forced=True, flux_err_jy=1e-3, rms_jy_per_beam=1e-3, primary_beam=0.9, mjd=61000.0, position_err_arcsec=None
    )
    names = ["source_id", "image_id", "observed_at", "ra_deg", "dec_deg", "healpix", "flux_jy", "peak_jy_per_beam"]
    n_of_image = n_measurements // n_images

    def measurements() -> Iterator[tuple[Any, ...]]:
        """Image after image, as the pipeline writes them; each sees the next few sources."""
        which = itertools.cycle(zip(source_ids, ra, dec, cells, strict=True))
        for image_id, seen_at in image_ids:
            for source_id, *place in itertools.islice(which, n_of_image):
                flux = chance.random()
                yield source_id, image_id, seen_at, *place, flux, flux

    write("measurements", forced, names, measurements(), n_measurements)
    more = max(0, POINTS - n_measurements // n_sources)
    with transaction.atomic():
        others = [image for at, image in enumerate(image_ids) if at * n_of_image % n_sources]
        further = [(source_ids[0], pk, at, ra[0], dec[0], cells[0], 0.1, 0.1) for pk, at in others[:more]]
        insert_like(forced, names, further)
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE")


# --- in process -----------------------------------------------------------------------------------------------------
def in_process() -> None:
    """CPU of one page of 100 images: ordinary viewset, ours, the driver and orjson alone; ours again when reused."""
    import orjson
    from django.db import connection
    from django.test import RequestFactory
    from django.test.utils import CaptureQueriesContext
    from rest_framework.pagination import CursorPagination
    from rest_framework.renderers import JSONRenderer
    from rest_framework.viewsets import ReadOnlyModelViewSet

    from images.models import Image
    from images.serializers import ImageSerializer
    from images.viewsets import ImageViewSet

    class Pages(CursorPagination):
        page_size, ordering = 100, ("-observed_at", "-id")

    class Plain(ReadOnlyModelViewSet):
        queryset = Image.objects.all()
        serializer_class, pagination_class = ImageSerializer, Pages
        renderer_classes, throttle_classes, filter_backends = [JSONRenderer], [], []

    class Ours(ImageViewSet):
        reusable_s = 0
        throttle_classes: list[Any] = []

    class Reused(ImageViewSet):
        throttle_classes: list[Any] = []

    request = RequestFactory().get("/api/v1/images/", headers={"Accept": "application/json"})
    views = {
        name: view.as_view({"get": "list"}) for name, view in [("plain", Plain), ("ours", Ours), ("reused", Reused)]
    }
    with CaptureQueriesContext(connection) as queries:
        views["ours"](request).render()
    statement = queries[-1]["sql"].rpartition("; ")[2]  # without its time limit
    n_queries = len(queries)
    names = list(ImageSerializer().fields)

    def bare() -> bytes:
        with connection.cursor() as cursor:
            rows = cursor.cursor.execute(statement).fetchall()
        return orjson.dumps({"results": [dict(zip(names, row, strict=False)) for row in rows]})

    def answer(view: Any) -> None:
        response = view(request)
        if not getattr(response, "is_rendered", True):
            response.render()

    works: dict[str, Callable[[], Any]] = {
        name: (lambda view=view: answer(view)) for name, view in views.items()
    } | {"driver and orjson": bare}  # fmt: skip
    cost = {name: _cpu_ms(work) for name, work in works.items()}
    floor = cost["driver and orjson"]
    print(f"\na page of 100 images in process, {n_queries} query")
    for name, ms in cost.items():
        print(f"{name:20} {ms:7.2f} ms CPU; 1/{cost['plain'] / ms:.1f} of plain, {ms / floor:.2f} of the last")


def _cpu_ms(work: Callable[[], Any], repeats: int = 60) -> float:
    for _ in range(5):
        work()
    spent = []
    for _ in range(repeats):
        started = time.process_time()
        work()
        spent.append(1000 * (time.process_time() - started))
    return median(spent)


def depth() -> None:
    """Pages at any depth, in every ordering of images; nothing is reused."""
    from django.test import Client

    from images.viewsets import ImageViewSet

    client, for_s = Client(headers={"host": "127.0.0.1"}), ImageViewSet.reusable_s
    ImageViewSet.reusable_s = 0
    print("\ndepth: CPU ms of the first page of 100, and of the one behind 9000 rows")
    for ordering in [sign + name for name in ImageViewSet.orderings for sign in ("", "-")]:
        deep = first = f"/api/v1/images/?ordering={ordering}&limit=1000"
        for _ in range(9):
            deep = json.loads(client.get(deep).content)["next"]
        pages = [page.replace("limit=1000", "limit=100") for page in (first, deep)]
        at_start, at_depth = [_cpu_ms(partial(client.get, page), 20) for page in pages]
        print(f"{ordering:20} {at_start:6.2f} {at_depth:6.2f}; ratio {at_depth / at_start:.2f}")
    ImageViewSet.reusable_s = for_s


def cones() -> None:
    """First pages of cone searches over measurements, wall ms."""
    from django.test import Client

    client, chance = Client(headers={"host": "127.0.0.1"}), random.Random(6)
    client.get("/api/v1/measurements/?ra_deg=0&dec_deg=0&radius_deg=0.1")  # what a process loads once
    print("\ncone search over measurements, first page of 100: wall ms")
    for arcsec in (1, 10, 60, 600, 3600, 36_000):
        spent = []
        for _ in range(20):
            ra, dec = chance.uniform(0, 360), min(89.0, chance.gauss(40, 15))
            started = time.perf_counter()
            answer = client.get(
                f"/api/v1/measurements/?ra_deg={ra:.6f}&dec_deg={dec:.6f}&radius_deg={arcsec / 3600:.7f}"
            )
            assert answer.status_code == 200, answer.content
            spent.append(1000 * (time.perf_counter() - started))
        spent.sort()
        print(f'{arcsec:6d}" p50 {spent[10]:8.1f} p95 {spent[18]:8.1f}')


# --- under load -------------------------------------------------------------------------------------------------------
def load(folder: Path, seconds: float, writes_per_s: float) -> None:
    from django.db import connection
    from django.test import Client
    from django.test.utils import CaptureQueriesContext

    from contimg.products import products_root
    from images.models import Image
    from sources.models import Source
    from tests.images.radio_fits import write

    image, source = Image.objects.order_by("-pk")[0], Source.objects.order_by("pk")[0]
    file = products_root() / image.path  # without it a detail is not kept
    file.parent.mkdir(parents=True, exist_ok=True)
    write(file)
    addresses = {
        "images": "/api/v1/images/", "good images": "/api/v1/images/?grade=good",
        "an image": f"/api/v1/images/{image.pk}/", "measurement sets": "/api/v1/measurement-sets/",
        "sources": "/api/v1/sources/", "a source": f"/api/v1/sources/{source.pk}/",
        "measurements": "/api/v1/measurements/",
        f"light curve of {POINTS}": f"/api/v1/sources/{source.pk}/light-curve/",
        "batches": "/api/v1/batches/", "items": "/api/v1/items/",
        "stats": "/api/v1/stats/",
    }  # fmt: skip
    client = Client(headers={"host": "127.0.0.1"})
    facts = {}
    for name, address in addresses.items():
        connection.queries_log.clear()
        with CaptureQueriesContext(connection) as queries:
            answer = client.get(address)
        assert answer.status_code == 200, answer.content
        facts[name] = (len(answer.content), len(queries))
    script = folder / "wrk.lua"
    script.write_text(LUA)
    print(f"\n{CONNECTIONS} connections, {seconds:g} s each, a writer adding {writes_per_s:g} images a second")
    print("address              bytes queries    req/s   p50 ms   p95 ms   p99 ms errors  CPU ms  of the constant")
    for name, address in addresses.items():
        n_bytes, n_queries = facts[name]
        with serving("benchmarks.floor:application") as (port, processes):
            floor = driven(f"http://127.0.0.1:{port}/?bytes={n_bytes}", script, 2, processes)
        with serving("contimg.wsgi:application") as (port, processes), writing(writes_per_s):
            driven(f"http://127.0.0.1:{port}{address}", script, 1, processes)
            got = driven(f"http://127.0.0.1:{port}{address}", script, seconds, processes)
        times = " ".join(f"{got[name]:8.1f}" for name in ("p50", "p95", "p99"))
        print(
            f"{name:20} {n_bytes:6d} {n_queries:7d} {got['per_s']:8.0f} {times}"
            f" {got['errors']:6.0f} {got['cpu_ms']:7.2f}  {got['per_s'] / floor['per_s']:.2f}",
            flush=True,
        )


@contextmanager
def serving(application: str) -> Iterator[tuple[int, list[Any]]]:
    """As production runs it."""
    import psutil

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        str(Path(sys.executable).with_name("granian")), "--interface", "wsgi", "--workers", str(WORKERS),
        "--blocking-threads", str(THREADS), "--host", "127.0.0.1", "--port", str(port),
        "--log-level", "warning", application,
    ]  # fmt: skip
    server = subprocess.Popen(command, cwd=PROJECT)
    try:
        for _ in range(200):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        time.sleep(1.5)  # both workers
        yield port, [*psutil.Process(server.pid).children(recursive=True)]
    finally:
        server.terminate()
        server.wait()


@contextmanager
def writing(per_s: float) -> Iterator[None]:
    """Another process that adds images, one transaction each; none at 0 a second, where nothing changes."""
    if not per_s:
        yield
        return
    code = (
        "import django, time, uuid; django.setup()\n"
        "from tests.factories import ImageFactory\n"
        "from images.models import Image\n"
        "image = Image.objects.order_by('pk')[0]\n"
        "while True:\n"
        "    image.pk, image._state.adding = None, True\n"
        "    image.name = image.path = image.recipe = uuid.uuid4().hex\n"
        f"    image.save(); time.sleep({1 / per_s})\n"
    )
    writer = subprocess.Popen([sys.executable, "-c", code], cwd=PROJECT)
    try:
        time.sleep(3)
        assert writer.poll() is None, "the writer failed"
        yield
    finally:
        writer.terminate()
        writer.wait()


def driven(url: str, script: Path, seconds: float, processes: list[Any]) -> dict[str, float]:
    def cpu_s() -> float:
        return sum(sum(process.cpu_times()[:2]) for process in processes)

    before = cpu_s()
    said = subprocess.run(
        ["wrk", "-t2", f"-c{CONNECTIONS}", f"-d{max(1, round(seconds))}s", "-s", script, url],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    found = re.search(r"RESULT (\d+) (\d+) (\d+) (\d+) (\d+) (\d+)", said)
    assert found, said
    n, duration_us, errors, p50, p95, p99 = map(int, found.groups())
    return {
        "per_s": n / duration_us * 1e6, "errors": errors, "p50": p50 / 1000, "p95": p95 / 1000, "p99": p99 / 1000,
        "cpu_ms": 1000 * (cpu_s() - before) / max(1, n),
    }  # fmt: skip


if __name__ == "__main__":
    main()
