"""Being seen at work: a process that runs items has a row among the workers, and a heartbeat."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import structlog
from django.db import DatabaseError, InterfaceError, InternalError, OperationalError, close_old_connections
from django.db.models.functions import Now

from batch.models import Worker
from contimg.products import database_tag, is_gone, require_writable_roots, this_process
from observations.models import MeasurementSet

T = TypeVar("T")
log = structlog.get_logger(__name__)
ASK_AGAIN_S = 1.0
KEPT = timedelta(days=7)  # the row of one that was last seen so long ago goes
_is_away = False  # the database, as this process has last said of it


@contextmanager
def present(*, n_processes: int, stages: Sequence[str] = ()) -> Iterator[Callable[[], None]]:
    """This process is listed with so many processes of its own meanwhile; gives its heartbeat, for `unless_away`.

    Raises NotWritable and ProductsAway.
    """
    require_writable_roots(holds_products=MeasurementSet.objects.exists())
    database_tag()  # known from now on, also while the database is away
    name = this_process()
    Worker.objects.filter(seen_at__lt=Now() - KEPT).delete()
    worker, _ = Worker.objects.update_or_create(
        name=name,
        defaults={
            "host": name.split(".")[0], "pid": os.getpid(), "n_processes": n_processes, "stages": list(stages),
            "seen_at": Now(), "stopped_at": None,
        },
    )  # fmt: skip
    row = Worker.objects.filter(pk=worker.pk)

    def beat() -> None:
        row.update(seen_at=Now())
        tell_back()

    try:
        yield beat
    finally:
        unless_away(lambda: row.update(stopped_at=Now()))


def at_work() -> list[Worker]:
    """Those with processes that were seen within a minute; without those of this machine that are gone."""
    return [worker for worker in Worker.objects.alive().filter(n_processes__gt=0) if not is_gone(worker.name)]


def n_processes() -> int:
    """How many worker processes there are now, on all machines."""
    return sum(worker.n_processes for worker in at_work())


def unless_away(act: Callable[[], object]) -> None:
    """Do it; when the database does not answer, say so once and go on: it may the next time."""
    try:
        act()
    except DatabaseError as error:
        tell_away(error)


def tell_away(error: DatabaseError) -> None:
    """In the log, once until `tell_back`; and a connection that broke is not used again."""
    global _is_away
    if not _is_away:
        log.warning("database_away", detail=" ".join(str(error).split()))
    _is_away = True
    close_old_connections()


def tell_back() -> None:
    """It has taken a change of this process's. (An answer proves less: one that is read-only answers.)"""
    global _is_away
    if _is_away:
        log.info("database_back")
    _is_away = False


def when_back(ask: Callable[[], T], *, tell: Callable[[str], object]) -> T:
    """What it gives, asked again until the database answers; `tell` hears once that it does not."""
    has_told = False
    while True:
        try:
            return ask()
        except (OperationalError, InterfaceError, InternalError) as error:
            if not has_told:
                reason = " ".join(str(error).split())
                tell(f"The database does not answer ({reason}); trying again.")
            has_told = True
            close_old_connections()
            time.sleep(ASK_AGAIN_S)
