"""What can be wrong with the service, each with what to do about it: for `/health/` and `manage.py doctor`.

To add one, copy the nearest and name it in READY (nothing can be served without it) or in DEGRADED. Wiring: sees every
app. `run` raises ServiceUnavailable or ServiceWarning with one sentence, and leaves in `figures` what it looked at.
"""

from __future__ import annotations

import functools
import os
import tempfile
import time
from concurrent.futures import Executor, Future
from contextlib import closing
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from threading import Lock, Thread
from typing import Any

from django.conf import settings
from django.core.cache import cache
from django.db import DEFAULT_DB_ALIAS, Error, ProgrammingError, connection, connections
from django.db.migrations.loader import MigrationLoader
from django.db.migrations.recorder import MigrationRecorder
from django.db.models import Count, Min
from django.utils import timezone
from health_check.base import HealthCheck
from health_check.exceptions import HealthCheckException, ServiceUnavailable, ServiceWarning

from batch.models import Item, Worker
from batch.presence import at_work
from batch.software import software
from batch.stages import stages
from contimg.cache import UNAVAILABLE
from contimg.exceptions import EngineUnavailable
from contimg.metrics import pool_figures
from contimg.models import BreakerState
from contimg.products import WORK_FOLDER, disk_usages, is_gone, products_root
from observations.models import MeasurementSet
from provenance.backups import newest_backup_at
from sources.comparison import chosen_catalogue

DAY = timedelta(days=1)
LIMIT = timedelta(seconds=5)
OLD_QUEUE = timedelta(hours=1)
OLD_BACKUP = timedelta(hours=36)  # one a day is made
CLOCK_LIMIT_S = 5.0
DISK_RESERVE_BYTES = 10_000_000_000
BROKER_LIMIT_S = 2.0
CONNECT_LIMIT_S = 3
TURN_S = 4.5  # below LIMIT: who has no turn by then says so itself
_turn = Lock()


@dataclass
class Check(HealthCheck):
    figures: dict[str, Any] = field(default_factory=dict, init=False, repr=False)
    timeout = LIMIT

    def run(self) -> None:
        self.look()

    def look(self) -> None:
        raise NotImplementedError


@dataclass
class DatabaseCheck(Check):
    """They take turns: all at once they would empty the pool that they are to judge."""

    def run(self) -> None:  # in a thread of its own, which must not keep a connection
        if not _turn.acquire(timeout=TURN_S):
            raise ServiceUnavailable("not looked at, the database takes too long to answer; see the check Database")
        try:
            self.look()
        except Error as error:
            if isinstance(error, ProgrammingError) or str(error).startswith("no such "):
                raise ServiceUnavailable("the database lacks a table or column; see the check Migrations") from error
            raise ServiceUnavailable("the database does not answer; see the check Database") from error
        finally:
            connection.close()
            _turn.release()


@dataclass
class Database(Check):
    """It answers a question, on a connection of its own: a pool that has none does not say why."""

    def look(self) -> None:
        try:
            if connection.vendor == "postgresql":
                postgresql: Any = connection
                parameters = {**postgresql.get_connection_params(), "connect_timeout": CONNECT_LIMIT_S}
                with postgresql.wrap_database_errors, closing(postgresql.Database.connect(**parameters)) as own:
                    own.execute("SELECT 1")
            else:
                with connection.temporary_connection() as cursor:
                    cursor.execute("SELECT 1")
        except Error as error:
            raise ServiceUnavailable(
                f"it does not answer ({_reason(error)}); see that it runs and that DATABASE_URL is right, and"
                " docs/runbooks/DatabaseDown.md"
            ) from error


def _reason(error: Error) -> str:
    """What the server said, without where it was asked."""
    return str(error).strip().rpartition("failed: ")[2].partition("\n")[0].removeprefix("FATAL:").strip()


@dataclass
class Migrations(DatabaseCheck):
    """Every migration on disk is applied."""

    def look(self) -> None:
        missing = _on_disk() - MigrationRecorder(connections[DEFAULT_DB_ALIAS]).applied_migrations().keys()
        if missing:
            raise ServiceUnavailable(f"{len(missing)} migrations are not applied; run `manage.py migrate`")


@functools.cache
def _on_disk() -> set[tuple[str, str]]:
    loader = MigrationLoader(None, load=False)
    loader.load_disk()
    return set(loader.disk_migrations)


@dataclass
class Writable(DatabaseCheck):
    """The database takes writes."""

    def look(self) -> None:
        if connection.vendor == "postgresql":
            with connection.cursor() as cursor:
                cursor.execute("SELECT current_setting('transaction_read_only')::boolean OR pg_is_in_recovery()")
                (is_read_only,) = cursor.fetchone()
        else:
            name = connection.settings_dict["NAME"]
            is_read_only = Path(name).exists() and not os.access(name, os.W_OK)
        if is_read_only:
            raise ServiceWarning(
                "the database takes no writes, so nothing is recorded and nobody can log in; find out who made it"
                " read-only, or whether it is a standby"
            )


@dataclass
class ProductsRoot(DatabaseCheck):
    """Products can be written: the folder is there (or can be made, before there are any) and its disk takes a byte."""

    def look(self) -> None:
        if not (products_root() / WORK_FOLDER).is_dir() and MeasurementSet.objects.exists():
            raise ServiceUnavailable(
                "the products root has nothing of ours in it, and the database names products there; see whether its"
                " disk is mounted"
            )
        try:
            products_root().mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=products_root()) as file:
                file.write(b"0")
        except OSError as error:
            raise ServiceUnavailable(f"the products root cannot be written: {error.strerror}") from error


@dataclass
class Disk(Check):
    """There is room where the service writes."""

    def look(self) -> None:
        usages = disk_usages()
        self.figures = {name: {"free_bytes": usage.free, "percent": usage.percent} for name, usage in usages.items()}
        full = [name for name, usage in usages.items() if usage.free < DISK_RESERVE_BYTES]
        if full:
            raise ServiceWarning(
                f"less than {DISK_RESERVE_BYTES / 1e9:.0f} GB are free for {' and '.join(full)}; make room, see"
                " `manage.py retention`"
            )


@dataclass
class Cache(Check):
    """The throttles count in it; without it nobody is refused."""

    def look(self) -> None:
        try:
            cache.set("health", 1, 5)
            held = cache.get("health")
        except UNAVAILABLE as error:
            raise ServiceWarning(
                f"the cache does not answer ({type(error).__name__}), so nobody is throttled; see that Redis runs"
            ) from error
        if held != 1:
            raise ServiceWarning("the cache forgets what it is given; see its memory and eviction policy")


@dataclass
class Broker(Check):
    """Rings workers, where the courier is Celery."""

    def look(self) -> None:
        if settings.CONTIMG_COURIER != "celery":
            self.figures = {"courier": settings.CONTIMG_COURIER}
            return
        from kombu import Connection
        from kombu.exceptions import OperationalError

        self.figures = {"courier": "celery"}
        try:
            with Connection(settings.CONTIMG_BROKER_URL, connect_timeout=BROKER_LIMIT_S) as broker:
                broker.ensure_connection(max_retries=1, timeout=BROKER_LIMIT_S)
        except (OperationalError, OSError) as error:
            raise ServiceWarning(
                f"the broker does not answer ({type(error).__name__}), so nothing new begins; work is kept and rung for"
                " again when it is back"
            ) from error


@dataclass
class Queue(DatabaseCheck):
    """What may run does not wait for long."""

    def look(self) -> None:
        states = Item.objects.unended().order_by().values_list("state").annotate(n=Count("pk"))
        oldest = Item.objects.claimable().order_by().aggregate(since=Min("changed_at"))["since"]
        age = timezone.now() - oldest if oldest else timedelta()
        self.figures = {"items": dict(states.values_list("state", "n")), "oldest_s": round(age.total_seconds())}
        if age > OLD_QUEUE:
            raise ServiceWarning(
                f"an item has been ready for {age.total_seconds() / 3600:.1f} h; see `manage.py status` for workers and"
                " pauses"
            )


@dataclass
class Workers(DatabaseCheck):
    """Somebody is at work while there is work."""

    def look(self) -> None:
        alive = at_work()
        seen = Worker.objects.filter(stopped_at=None, seen_at__gte=timezone.now() - DAY, n_processes__gt=0)
        silent = {worker.host for worker in seen} - {worker.host for worker in alive}
        self.figures = {
            "supervisors": len(alive), "processes": sum(worker.n_processes for worker in alive),
            "heartbeats": {worker.name: worker.seen_at.isoformat() for worker in alive}, "silent_hosts": sorted(silent),
        }  # fmt: skip
        if silent:
            raise ServiceWarning(f"the workers of {', '.join(sorted(silent))} fell silent; look at that machine")
        if not alive and Item.objects.ready().exists():
            raise ServiceWarning("work is ready and nobody is at work; start `manage.py worker`")


@dataclass
class Engines(Check):
    """The engines of this machine can run."""

    timeout = timedelta(seconds=20)

    def look(self) -> None:
        self.figures = {"versions": software(), "imager": settings.CONTIMG_IMAGER}
        for stage in stages().values():
            try:
                stage.try_engine()
            except EngineUnavailable as error:
                raise ServiceWarning(f"stage {stage.name}: {error}") from error


@dataclass
class Clock(DatabaseCheck):
    """This machine's clock agrees with the database's, and has not gone back."""

    def look(self) -> None:
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT EXTRACT(EPOCH FROM clock_timestamp())"
                if connection.vendor == "postgresql"
                else "SELECT (julianday('now') - 2440587.5) * 86400.0"
            )
            (theirs_s,) = cursor.fetchone()
        off_s = timezone.now().timestamp() - float(theirs_s)
        self.figures = {"ahead_of_database_s": round(off_s, 3)}
        if abs(off_s) > CLOCK_LIMIT_S:
            raise ServiceWarning(
                f"this machine's clock is {off_s:+.0f} s off the database's; see that both are kept by NTP"
            )
        latest = Worker.objects.order_by("-seen_at").values_list("seen_at", flat=True).first()
        if latest and latest.timestamp() - timezone.now().timestamp() > CLOCK_LIMIT_S:
            raise ServiceWarning(
                f"a worker was last seen at {latest:%Y-%m-%d %H:%M} UTC, which is to come: a clock was set back"
            )


@dataclass
class Catalogue(DatabaseCheck):
    """There is a reference catalogue to hold images against."""

    def look(self) -> None:
        used = chosen_catalogue().catalogue
        if used is not None:
            age = timezone.now() - used.imported_at
            self.figures = {"name": used.name, "sources": used.n_sources, "age_days": round(age / DAY, 1)}
        elif MeasurementSet.objects.exists():
            raise ServiceWarning(
                f"{chosen_catalogue().reason}, so no flux is checked; run `manage.py import_catalogue`"
            )


@dataclass
class Backups(DatabaseCheck):
    """The newest backup is of the last day; an installation that is new needs none."""

    def look(self) -> None:
        newest, now = newest_backup_at(), timezone.now()
        if newest is not None:
            hours = (now - newest).total_seconds() / 3600
            self.figures = {"newest": newest.isoformat(), "age_h": round(hours, 1)}
            if now - newest > OLD_BACKUP:
                raise ServiceWarning(
                    f"the newest backup is {hours:.0f} h old; see `journalctl -u contimg-backup` where its timer runs,"
                    " and docs/runbooks/BackupOld.md"
                )
        elif MeasurementSet.objects.filter(created_at__lt=now - OLD_BACKUP).exists():
            raise ServiceWarning(
                "no backup was ever made; enable contimg-backup.timer on one machine, or run `manage.py backup`"
            )


@dataclass
class Pool(Check):
    """Requests of this process do not wait for connections."""

    def look(self) -> None:
        self.figures = dict(pool_figures())
        if self.figures.get("waiting") and self.figures["size"] >= self.figures["max"]:
            raise ServiceWarning(
                f"{self.figures['waiting']} requests wait for one of {self.figures['max']} connections; raise"
                " CONTIMG_DB_POOL_SIZE, or look for slow queries"
            )


@dataclass
class Breakers(DatabaseCheck):
    """Nothing outside is left alone because it did not answer."""

    def look(self) -> None:
        rows = [row for row in BreakerState.objects.open() if not is_gone(row.process)]
        self.figures = {f"{row.breaker} of {row.process}": row.error for row in rows}
        if rows:
            names = ", ".join(sorted({row.breaker for row in rows}))
            raise ServiceWarning(f"open: {names}; what they stand before does not answer, and is asked again by itself")


READY: list[type[HealthCheck]] = [Database, Migrations, ProductsRoot]
DEGRADED: list[type[HealthCheck]] = [
    Writable,
    Disk, Cache, Broker, Queue, Workers, Engines, Clock, Catalogue, Backups, Pool, Breakers,
]  # fmt: skip


class Threads(Executor):
    """A thread for each check, and none is waited for: of one that hangs that is told, and it is not begun again."""

    _running: dict[str, tuple[Thread, float]] = {}  # and since when

    def submit(self, run: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_running_or_notify_cancel()
        name = type(run.__self__).__name__
        before, since = self._running.get(name, (None, 0.0))
        is_running = before is not None and before.is_alive()
        if is_running and time.monotonic() - since > run.__self__.timeout.total_seconds():
            future.set_exception(ServiceUnavailable("it still hangs from the last time that it was asked"))
            return future
        thread = Thread(target=_settle, args=(future, run), name=f"health-{name}", daemon=True)
        if not is_running:
            self._running[name] = (thread, time.monotonic())
        thread.start()
        return future


def _settle(future: Future[Any], run: Any) -> None:
    try:
        future.set_result(run())
    except HealthCheckException as error:
        future.set_exception(error)
    finally:
        if not future.done():
            future.set_exception(ServiceUnavailable("the check itself broke; see the log"))
