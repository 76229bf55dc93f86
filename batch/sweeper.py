"""What keeps the queue honest: items whose worker is gone run again, and files that no row names go.

Of files, only what the journal of a work folder of this database names is ever removed, never one for merely being
there.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import structlog
from django.conf import settings
from django.db.models import BooleanField, Exists, ExpressionWrapper, OuterRef, Q, QuerySet, Subquery
from django.db.models.functions import Now

from batch import transitions
from batch.models import Attempt, Item
from batch.transitions import Claim, LeaseLost
from calibration.models import CalibrationTable, FlagTable
from contimg.products import inside, is_gone, noted, owner_of, products_root, work_folders
from images.models import Image
from observations.models import Epoch, MeasurementSet, SubbandGroup

log = structlog.get_logger(__name__)

IMAGE_COLUMNS = ("path", "flat_noise_path", "residual_path", "primary_beam_path", "noise_path", "preview_path")
# Every column that names a product, and the way from its row to the measurement set.
PATH_COLUMNS = (
    (MeasurementSet, ("path",), "pk"),
    (FlagTable, ("path",), "measurement_set"),
    (CalibrationTable, ("path",), "source_measurement_set"),
    (Image, IMAGE_COLUMNS, "measurement_set"),
)


EXPIRED = ExpressionWrapper(Q(lease_until__lt=Now()), output_field=BooleanField())


@dataclass
class Sweeper:
    """Finds items whose worker is dead. It keeps what it saw, so one is kept for the life of a process.

    A worker is dead when its process is gone from this machine, when its lease ran out and was not renewed between
    two sweeps, or when it was not renewed for a whole lease by this process's own monotonic clock. So a wall clock
    that jumps neither takes work from the living nor keeps it with the dead.
    """

    _seen: dict[tuple[int, int], tuple[datetime | None, float]] = field(default_factory=dict)

    def sweep(self) -> int:
        """Returns how many items were taken from dead workers."""
        now = time.monotonic()
        attempts = Attempt.objects.filter(item=OuterRef("pk"), number=OuterRef("attempt"))
        running = Item.objects.running().annotate(attempt_id=Subquery(attempts.values("pk")[:1]), is_expired=EXPIRED)
        seen, n = {}, 0
        for item in running.only("pk", "attempt", "batch_id", "stage", "worker", "lease_until"):
            lease, since = self._seen.get((item.pk, item.attempt), (None, now))
            since = since if lease == item.lease_until else now
            seen[item.pk, item.attempt] = (item.lease_until, since)
            expired = item.is_expired and now - since >= 0.9 * settings.CONTIMG_SWEEP_S
            if is_gone(item.worker) or expired or now - since >= settings.CONTIMG_LEASE_S:
                n += _take_back(Claim(item.pk, item.attempt, item.batch_id, item.stage, item.attempt_id), item.worker)
        self._seen = seen
        transitions.settle_all()
        release_calibrated()
        sweep_files()
        return n


def release_calibrated() -> int:
    """Tiles that wait for calibration, and for which there are tables, look again; returns how many.

    Whoever solved them tells at once; but he may die before, or tell while a tile is on its way to wait.
    """
    tolerance_deg = settings.CONTIMG_DEC_STRIP_TOLERANCE_DEG
    in_use = CalibrationTable.objects.in_use()
    complete = in_use.filter(Exists(in_use.filter(kind="G", set_name=OuterRef("set_name"))), kind="B")

    def has_tables(tile: str) -> Exists:
        observed_at, dec_deg = OuterRef(f"{tile}__observed_at"), OuterRef(f"{tile}__pointing_dec_deg")
        valid = complete.filter(valid_from__lte=observed_at, valid_until__gte=observed_at)
        return Exists(valid.filter(dec_deg__gte=dec_deg - tolerance_deg, dec_deg__lte=dec_deg + tolerance_deg))

    return transitions.release_calibrated(Item.objects.filter(has_tables("group") | has_tables("measurement_set")))


def _take_back(held: Claim, worker: str) -> bool:
    try:
        state = transitions.lost(held, detail=f"Its worker {worker} is gone.")
    except LeaseLost:
        return False  # it ended, or was renewed, in this moment
    transitions.settle(held)
    log.warning("item_taken_back", item=held.item_id, attempt=held.attempt, worker=worker, state=state)
    return True


# --- files -------------------------------------------------------------------------------------------------------
def sweep_files() -> list[str]:
    """Clear up after work that has ended without doing so; returns the products removed, relative to the root."""
    removed = []
    for folder in work_folders():
        if _is_left_behind(folder):
            gone = remove_work(folder)
            (log.info if gone else log.debug)("swept", work_folder=folder.name)
            removed += gone
    return removed


def remove_work(folder: Path) -> list[str]:
    removed = remove_unnamed(folder)
    shutil.rmtree(folder, ignore_errors=True)
    return removed


def work_owner(held: Claim) -> str:
    return f"item{held.item_id}.{held.attempt}"


def _is_left_behind(folder: Path) -> bool:
    owner = owner_of(folder)
    if not owner.startswith("item"):
        return is_gone(owner)
    pk, _, attempt = owner.removeprefix("item").partition(".")
    return not Item.objects.running().filter(pk=pk, attempt=attempt).exists()


def remove_unnamed(folder: Path, *, subject: SubbandGroup | Epoch | None = None) -> list[str]:
    """Remove those products in the journal of a work folder that no row names; returns their paths.

    With a subject only its rows are asked, which takes no longer the more images there are.
    """
    wanted = set(noted(folder))
    named = set(products_of(subject)) if subject and wanted else _named(wanted)
    removed = sorted(wanted - named)
    for relative in removed:
        path = inside(products_root(), relative)
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
        log.info("removed_unnamed", path=relative)
    return removed


def products_of(subject: SubbandGroup | Epoch) -> Iterator[str]:
    """The paths of all products of a tile, or of all mosaics of an epoch, of every version."""
    if isinstance(subject, Epoch):
        yield from _paths(Image.objects.filter(mosaic_of=subject), IMAGE_COLUMNS)
        return
    sets = list(MeasurementSet.objects.filter(group=subject).values_list("pk", flat=True))
    for model, columns, to_set in PATH_COLUMNS if sets else ():
        yield from _paths(model._default_manager.filter(**{f"{to_set}__in": sets}), columns)


def _paths(rows: QuerySet, columns: Iterable[str]) -> Iterator[str]:
    for paths in rows.order_by().values_list(*columns):
        yield from filter(None, paths)


def _named(paths: set[str]) -> set[str]:
    named: set[str] = set()
    for model, columns, _ in PATH_COLUMNS if paths else ():
        for column in columns:
            named |= set(model._default_manager.filter(**{f"{column}__in": paths}).values_list(column, flat=True))
    return named
