"""A service that is given work and misfortune moves every metric that is documented."""

from __future__ import annotations

import threading
import urllib.request
from datetime import timedelta
from pathlib import Path

from django.contrib.auth.models import User
from django.db import connection
from django.utils import timezone
from prometheus_client.parser import text_string_to_metric_families

from access.services import create_token
from batch.models import Item
from contimg.products import products_root
from observations.models import SubbandGroup
from observations.services import index_subbands
from provenance.backups import take_backup
from tests.batch.installation import until
from tests.batch.servers import Redis, free_port
from tests.batch.test_bad_days import of_database
from tests.batch.trivial import behave
from tests.factories import (
    AlertFactory,
    CalibrationTableFactory,
    ComparisonFactory,
    ImageFactory,
    WorkerFactory,
)
from tests.observations.subband_files import NIGHT, write_tile
from tests.service import Web, n_waiting_for_lock
from tests.test_dashboards import OF_HISTOGRAM, documented

pytest_plugins = ["tests.batch.installation", "tests.batch.servers"]
OF_SETTINGS = {"contimg_pool_max"}  # told, and the same as long as the process lives
LISTING = "/api/v1/calibrators/"


class Scrapes:
    """Every value that each documented metric has had, over all labels."""

    def __init__(self) -> None:
        self.seen: dict[str, set[tuple[tuple[str, float], ...]]] = {}

    def take(self, *ports: int) -> None:
        told: dict[str, list[tuple[str, float]]] = {}
        for port in ports:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
                text = answer.read().decode()
            for family in text_string_to_metric_families(text):
                for sample in family.samples:
                    if not sample.name.endswith("_created"):
                        labels = "".join(sorted(f"{k}={v}" for k, v in sample.labels.items()))
                        told.setdefault(OF_HISTOGRAM.sub("", sample.name), []).append((labels, sample.value))
        for name in documented():
            self.seen.setdefault(name, set()).add(tuple(sorted(told.get(name, []))))

    def has_moved(self, name: str) -> bool:
        return len(self.seen[name]) > 1

    def unmoved(self) -> set[str]:
        return {name for name in self.seen if not self.has_moved(name)}


def test_every_documented_metric_moves(private_postgres, private_redis, install, tmp_path):
    private_redis.start()
    port = free_port()
    installation = install(
        private_postgres.url, CONTIMG_REDIS_URL=private_redis.url, CONTIMG_WORKER_METRICS=f"127.0.0.1:{port}",
        CONTIMG_DB_POOL_SIZE=2, CONTIMG_QUERY_LIMIT_S=60, CONTIMG_SWEEP_S=1,
    )  # fmt: skip
    token = create_token(user=User.objects.create_superuser("root"), scope="admin", name="test", days=1)[1]
    web = Web(installation, workers=1, token=token)
    worker = installation.start("worker", "--processes", "1")
    until(lambda: _answers(port), within_s=60)
    scrapes = Scrapes()
    scrapes.take(web.port, port)

    _do_work(web, tmp_path / "raw")
    scrapes.take(web.port, port)
    _find_things()
    take_backup(folder=tmp_path / "backups", told=lambda *_: None)
    scrapes.take(web.port, port)
    _lose(private_redis, web)
    scrapes.take(web.port, port)
    _want_connections(web, scrapes)
    scrapes.take(web.port, port)
    worker.terminate()
    worker.wait(30)
    scrapes.take(web.port)
    connection.close()
    private_postgres.stop()
    assert web.metric("contimg_database_up") == 0
    assert scrapes.unmoved() == OF_SETTINGS
    assert web.metric("contimg_pool_max") == 2


def _answers(port: int) -> bool:
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5).close()
    except OSError:
        return False
    return True


def _do_work(web: Web, folder: Path) -> None:
    """An item that is done, one that fails, and one that a pause keeps."""
    for number in range(3):
        write_tile(folder, NIGHT + number * timedelta(seconds=309))
    index_subbands(folder=folder)
    done, failed, kept = SubbandGroup.objects.order_by("pk")
    behave(failed, "fail")
    _ask_for(web, done, failed)
    until(of_database(lambda: Item.objects.filter(state__in=["done", "failed"]).count() == 2), within_s=60)
    assert web.post("/api/v1/pauses/", {"stage": "convert", "reason": "a test"}).status == 201
    _ask_for(web, kept)


def _ask_for(web: Web, *tiles: SubbandGroup) -> None:
    subjects = [{"kind": "subband_group", "id": tile.pk} for tile in tiles]
    assert web.post("/api/v1/batches/", {"stage": "convert", "subjects": subjects}).status == 201


def _find_things() -> None:
    """What the real stages write down: a night of one tile, with its calibration, its catalogue and a drift of it."""
    image = ImageFactory(rms_jy_per_beam=1e-3, thermal_rms_jy_per_beam=9e-4, grade="good", size_bytes=1000)
    ComparisonFactory(image=image, flux_ratio=1.01)
    CalibrationTableFactory()
    AlertFactory()
    WorkerFactory(name="away.1.a_1", host="away", seen_at=timezone.now() - timedelta(minutes=9))
    (products_root() / "filler").write_bytes(bytes(50_000_000))


def _lose(redis: Redis, web: Web) -> None:
    redis.kill()
    assert {web.get(LISTING).status for _ in range(6)} == {200}


def _want_connections(web: Web, scrapes: Scrapes) -> None:
    """One request more than the pool has connections, while the others wait for a lock."""
    answers = []
    with connection.cursor() as cursor:
        cursor.execute("BEGIN")
        cursor.execute("LOCK TABLE calibration_calibrator IN ACCESS EXCLUSIVE MODE")
        asking = [
            threading.Thread(target=lambda n=n: answers.append(web.get(f"{LISTING}?limit={n}", within_s=60).status))
            for n in range(1, 4)
        ]
        for one in asking:
            one.start()
        until(lambda: n_waiting_for_lock(cursor) == 2, within_s=20)  # of whom a scrape would else be one

        def is_told() -> bool:
            scrapes.take(web.port)
            return 503 in answers and scrapes.has_moved("contimg_pool_waiting")

        until(is_told)
        cursor.execute("ROLLBACK")
    for one in asking:
        one.join(30)
    assert sorted(answers) == [200, 200, 503]
    until(lambda: web.metric("contimg_pool_errors") >= 1, within_s=4)  # it is told each second
