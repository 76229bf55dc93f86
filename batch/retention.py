"""What may be deleted after a time: logs of attempts, whole versions that were replaced, and of other replaced images
the residual and the preview.

Each policy is a setting in days, 0 by default: for ever. Nothing goes that is current, suspect, or that anything refers
to (`batch.references`), and nothing of a tile or an hour for which work is open. A row goes first, in one transaction
with its entry in the audit log; its files go after the commit, and stand in the journal of a work folder until then, so
that the next run or a sweeper ends what a kill interrupts.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import models, transaction
from django.db.models import Exists, Max, OuterRef, Q, QuerySet

from access.audit import audit
from access.models import AuditEntry
from batch.logs import log_folder
from batch.models import OPEN, Attempt, Output, State
from batch.references import busy_epochs, busy_tiles, why_referred_to
from batch.sweeper import IMAGE_COLUMNS, remove_unnamed, sweep_files
from calibration.models import CalibrationTable, FlagTable
from contimg.products import database_tag, note, products_root, require_products, size_bytes, workspace
from images.models import Image
from observations.models import MeasurementSet, SubbandFile

AT_ONCE = 100
COMPANIONS = ("residual_path", "preview_path")
Told = Callable[[str, int], None]  # what is done, and to how many so far
Going = Mapping[type[models.Model], set[int]]


class Policy(models.TextChoices):
    """In the order in which they are looked at: what goes whole has no residual left to look at."""

    LOGS = "logs", "logs of attempts"
    SUPERSEDED = "superseded", "replaced images, calibrated sets and flag tables, and retired calibration tables"
    RAW_SETS = "raw_sets", "replaced raw measurement sets"
    RESIDUALS = "residuals", "residuals and previews of replaced images"

    @property
    def setting(self) -> str:
        return f"CONTIMG_KEEP_{self.value.upper()}_DAYS"

    @property
    def days(self) -> float:
        return getattr(settings, self.setting)


@dataclass(frozen=True)
class Candidate:
    """Something that is old enough to be looked at. Without `why_kept` it may go.

    `files` are relative to the products root, those of a log to the folder of logs; `size_bytes` is on disk.
    """

    policy: Policy
    kind: str
    id: int
    name: str
    files: tuple[str, ...]
    size_bytes: int
    why_kept: str = ""


# --- looking ---------------------------------------------------------------------------------------------------------
def look(*, policies: Iterable[Policy], now: datetime, told: Told = lambda what, n: None) -> list[Candidate]:
    """What these policies may delete, and what of their kind stays and why. It only reads.

    A policy that keeps for ever looks at nothing. Raises ProductsAway.
    """
    if MeasurementSet.objects.exists():
        require_products()
    found: list[Candidate] = []
    going: dict[type[models.Model], set[int]] = defaultdict(set)
    chosen = set(policies)
    for policy in Policy:
        if policy in chosen and policy.days:
            before = now - timedelta(days=policy.days)
            for one in _logs(before) if policy == Policy.LOGS else _replaced(policy, before, going):
                found.append(one)
                told(f"Looking at {policy.label}", len(found))
    return found


def _pages(things: Iterable[Any]) -> Iterator[list[Any]]:
    iterator = iter(things)
    while page := list(islice(iterator, AT_ONCE)):
        yield page


# --- logs ------------------------------------------------------------------------------------------------------------
def _logs(before: datetime) -> Iterator[Candidate]:
    """By the files that are there, not by the rows: of these a year has half a million, most without a log by then."""
    folder = log_folder() / database_tag()
    logs = (path for path in sorted(folder.glob("*/*.log")) if re.fullmatch(r"\d+\.\d+", path.stem))
    for page in _pages(logs):
        yield from _judged_logs(page, before)


def _judged_logs(paths: Iterable[Path], before: datetime) -> Iterator[Candidate]:
    """Of those that are there, and old enough."""
    sizes = {}
    for path in paths:
        with suppress(FileNotFoundError):  # another run has just deleted it
            if (stat := path.stat()).st_mtime < before.timestamp():
                sizes[path] = stat.st_size
    if not sizes:
        return
    suspect = Q(measurement_set__is_suspect=True) | Q(flag_table__is_suspect=True) | Q(image__is_suspect=True)
    made_suspect = Output.objects.filter(suspect | Q(calibration_table__is_suspect=True), attempt=OuterRef("pk"))
    by_log = {path: (int(item), int(number)) for path in sizes for item, number in [path.stem.split(".")]}
    attempts = Attempt.objects.filter(item__in={item for item, _ in by_log.values()}).select_related("item")
    known = {(one.item_id, one.number): one for one in attempts.annotate(is_of_suspect=Exists(made_suspect))}
    for path, key in by_log.items():
        attempt: Any = known.get(key)
        yield Candidate(
            Policy.LOGS, "log", attempt.pk if attempt else 0, path.name, (str(path.relative_to(log_folder())),),
            sizes[path], _why_log_is_kept(attempt),
        )  # fmt: skip


def _why_log_is_kept(attempt: Any) -> str:
    if attempt is None:
        return "no attempt of this database is known by it"
    if attempt.item.state in OPEN:
        return "its item is not at its end"
    if attempt.item.state == State.QUARANTINED:
        return "its item is quarantined"
    return "what the attempt made is suspect" if attempt.is_of_suspect else ""


# --- versions --------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class _Versions:
    """A kind of product: its replaced rows, what replaced one, and the tile or the hour that it is of."""

    model: type[models.Model]
    rows: Callable[[], QuerySet[Any]]
    replaced_by: Callable[[Any], QuerySet[Any]]
    tile: Callable[[Any], int | None] = lambda row: None
    epoch: Callable[[Any], int | None] = lambda row: None
    related: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        return str(self.model._meta.verbose_name).replace(" ", "_")


_MOSAICS = _Versions(
    Image,
    lambda: Image.objects.mosaics().filter(is_current=False),
    lambda row: Image.objects.mosaics().current().filter(mosaic_of=row.mosaic_of_id),
    epoch=lambda row: row.mosaic_of_id,
)
_TILES = _Versions(
    Image,
    lambda: Image.objects.tiles().filter(is_current=False),
    lambda row: Image.objects.tiles().current().filter(measurement_set__group=row.measurement_set.group_id),
    tile=lambda row: row.measurement_set.group_id,
    related=("measurement_set",),
)
_CALIBRATED_SETS = _Versions(
    MeasurementSet,
    lambda: MeasurementSet.objects.calibrated().filter(is_current=False),
    lambda row: MeasurementSet.objects.calibrated().current().filter(group=row.group_id),
    tile=lambda row: row.group_id,
)
_TABLES = _Versions(
    CalibrationTable,
    lambda: CalibrationTable.objects.filter(is_retired=True),
    lambda row: AuditEntry.objects.of(row).filter(action="calibration_table.retire"),
    tile=lambda row: row.source_measurement_set.group_id,
    related=("source_measurement_set",),
)
_FLAGS = _Versions(
    FlagTable,
    lambda: FlagTable.objects.filter(
        Exists(
            FlagTable.objects.filter(measurement_set__group=OuterRef("measurement_set__group"), pk__gt=OuterRef("pk"))
        )
    ),
    lambda row: FlagTable.objects.filter(measurement_set__group=row.measurement_set.group_id, pk__gt=row.pk),
    tile=lambda row: row.measurement_set.group_id,
    related=("measurement_set",),
)
_RAW_SETS = _Versions(
    MeasurementSet,
    lambda: MeasurementSet.objects.uncalibrated().filter(is_current=False),
    lambda row: MeasurementSet.objects.uncalibrated().current().filter(group=row.group_id),
    tile=lambda row: row.group_id,
)
# What is made last comes first: when it goes, what it was made from is free.
_OF_POLICY = {
    Policy.SUPERSEDED: (_MOSAICS, _TILES, _CALIBRATED_SETS, _TABLES, _FLAGS),
    Policy.RAW_SETS: (_RAW_SETS,),
    Policy.RESIDUALS: (_MOSAICS, _TILES),
}


def _replaced(policy: Policy, before: datetime, going: dict[type[models.Model], set[int]]) -> Iterator[Candidate]:
    for versions in _OF_POLICY[policy]:
        for rows in _by_pages(policy, versions):
            left = [row for row in rows if row.pk not in going[versions.model]]
            for row, why in _judged(policy, versions, left, before, going):
                if not why and policy != Policy.RESIDUALS:
                    going[versions.model].add(row.pk)
                yield _candidate(policy, versions, row, why)


def _rows(policy: Policy, versions: _Versions) -> QuerySet[Any]:
    rows = versions.rows().select_related(*versions.related)
    return rows.exclude(**dict.fromkeys(COMPANIONS, "")) if policy == Policy.RESIDUALS else rows


def _by_pages(policy: Policy, versions: _Versions) -> Iterator[list[Any]]:
    rows, last = _rows(policy, versions).order_by("pk"), 0
    while page := list(rows.filter(pk__gt=last)[:AT_ONCE]):
        yield page
        last = page[-1].pk


def _judged(
    policy: Policy, versions: _Versions, rows: Sequence[Any], before: datetime, going: Going
) -> Iterator[tuple[Any, str]]:
    """Each row with why it is kept."""
    pks = [row.pk for row in rows]
    # What is measured, or in a mosaic, needs its residual no more than another.
    referred_to = {} if policy == Policy.RESIDUALS else why_referred_to(versions.model, pks, going)
    tiles, epochs = busy_tiles(), busy_epochs()
    for row in rows:
        if row.is_suspect:
            yield row, "it is suspect: a quarantine, or what it touched, would lose its evidence"
        elif versions.tile(row) in tiles or versions.epoch(row) in epochs:
            yield row, "work is open for its tile or hour"
        elif row.pk in referred_to:
            yield row, referred_to[row.pk]
        elif versions is _RAW_SETS and not _raw_files_are_there(row):
            yield row, "not all of its raw files are there: it could not be made again"
        else:
            yield row, _why_too_young(policy, versions, row, before)


def _why_too_young(policy: Policy, versions: _Versions, row: Any, before: datetime) -> str:
    replaced_at = _replaced_at(versions, row)
    if replaced_at is None:
        return "nothing has replaced it"
    return f"it was replaced within {policy.days:g} days" if max(replaced_at, row.created_at) >= before else ""


def _replaced_at(versions: _Versions, row: Any) -> datetime | None:
    """When what replaced it was made. Going back to older parameters makes an old row current, by a new attempt."""
    by = versions.replaced_by(row)
    if versions is _TABLES:
        return by.aggregate(at=Max("at"))["at"]
    times = by.aggregate(first=Max("created_at"), again=Max("made_by__attempt__finished_at")).values()
    return max(filter(None, times), default=None)


def _raw_files_are_there(row: MeasurementSet) -> bool:
    files = list(SubbandFile.objects.filter(group=row.group_id).select_related("root"))
    return bool(files) and all(one.path.is_file() and one.path.stat().st_size == one.size_bytes for one in files)


def _candidate(policy: Policy, versions: _Versions, row: Any, why_kept: str) -> Candidate:
    columns = COMPANIONS if policy == Policy.RESIDUALS else IMAGE_COLUMNS if isinstance(row, Image) else ("path",)
    files = tuple(filter(None, (getattr(row, column) for column in columns)))
    n_bytes = sum(map(_size_now, map(products_root().joinpath, files)))
    return Candidate(policy, versions.kind, row.pk, str(row), files, n_bytes, why_kept)


def _size_now(place: Path) -> int:
    try:
        return size_bytes(place)
    except FileNotFoundError:  # another run has just deleted it
        return 0


# --- deleting --------------------------------------------------------------------------------------------------------
def delete(*, candidates: Sequence[Candidate], now: datetime, told: Told = lambda what, n: None) -> list[Candidate]:
    """Delete what may go, in the order in which it was found, each looked at once more. Returns what went."""
    sweep_files()  # of a run that was killed
    going = [one for one in candidates if not one.why_kept]
    gone: list[Candidate] = []
    for of_logs, remove in ((True, _delete_logs), (False, _delete_products)):
        for page in _pages(one for one in going if (one.policy == Policy.LOGS) == of_logs):
            gone += remove(page, now)
            told("Deleting", len(gone))
    return gone


def _delete_logs(logs: Sequence[Candidate], now: datetime) -> Sequence[Candidate]:
    """The rows say no more that there is a log, and each is in the audit log once: one that a kill leaves on disk is
    found there by the next run, and belongs to whoever removes it."""
    before = now - timedelta(days=Policy.LOGS.days)
    with transaction.atomic():
        named = Attempt.objects.exclude(log_path="").filter(pk__in=[one.id for one in logs])
        unsaid = set(named.select_for_update().order_by("pk").values_list("pk", flat=True))
        paths = [log_folder() / one.files[0] for one in logs]
        going = [one for one in _judged_logs(paths, before) if not one.why_kept]
        if new := [one for one in going if one.id in unsaid]:
            Attempt.objects.filter(pk__in=[one.id for one in new]).update(log_path="")
            details = {"logs": [one.name for one in new], "size_bytes": sum(one.size_bytes for one in new)}
            audit(action="log.delete", details=details)
    return [one for one in going if _unlink(log_folder() / one.files[0])]


def _unlink(path: Path) -> bool:
    with suppress(FileNotFoundError):
        path.unlink()
        return True
    return False


def _delete_products(products: Sequence[Candidate], now: datetime) -> Sequence[Candidate]:
    with workspace() as folder:
        note(folder, [relative for one in products for relative in one.files])
        gone = [one for one in products if _delete_row(one, now)]
        remove_unnamed(folder)
    return gone


@transaction.atomic
def _delete_row(one: Candidate, now: datetime) -> bool:
    """Whether it went by this run. What has come to be referred to since, or is current again, stays."""
    before = now - timedelta(days=one.policy.days)
    for versions in _OF_POLICY[one.policy]:
        locked = _rows(one.policy, versions).select_for_update(of=("self",))
        row = locked.filter(pk=one.id).first() if versions.kind == one.kind else None
        if row is not None and not any(why for _, why in _judged(one.policy, versions, [row], before, {})):
            _delete_locked(one, row)
            return True
    return False


def _delete_locked(one: Candidate, row: Any) -> None:
    verb = "delete_files" if one.policy == Policy.RESIDUALS else "delete"
    facts = {name: getattr(row, name) for name in ("recipe", "checksum", "created_at")}
    audit(
        action=f"{one.kind}.{verb}",
        subject=row,
        details={"name": one.name, "files": one.files, "size_bytes": one.size_bytes, "policy": one.policy, **facts},
    )
    if one.policy == Policy.RESIDUALS:
        Image.objects.filter(pk=row.pk).update(**dict.fromkeys(COMPANIONS, ""))
    else:
        row.delete()
