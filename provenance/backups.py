"""Backups: the database of one moment, the list of the products that it names, and a manifest of both.

    FOLDER/contimg-20260310T061000Z-1f2e3d4c/
        manifest.json       what made it and when, migrations, rows by table, sizes and SHA-256 of the files
        database.sqlite3    or database.dump, as `pg_dump --format=custom` writes it
        products.csv        kind, id, root, path, size_bytes, checksum: as recorded, each path relative to its root

It is made under another name, made durable, read back and then renamed: a folder of that name is whole. Products are
not in it: they are large, immutable and can be made again. `provenance.verifying` compares them with what was recorded.
"""

from __future__ import annotations

import csv
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import structlog
from django.db import DEFAULT_DB_ALIAS, DatabaseError, connections, transaction
from django.db.migrations.loader import MigrationLoader
from django.db.migrations.recorder import MigrationRecorder
from django.utils import timezone

import contimg
from access.audit import audit
from access.models import AuditEntry
from calibration.models import CalibrationTable, FlagTable
from contimg.commands import NotMigrated
from contimg.dumps import DumpFailed, PostgreSQL, SQLite, dumper
from contimg.exceptions import ContimgError, InvalidInput
from contimg.models import Installation
from contimg.products import (
    digest,
    file_checksum,
    is_gone,
    make_durable,
    products_root,
    require_writable,
    size_bytes,
    sync_one,
    this_process,
)
from images.models import COMPANIONS, Image
from observations.models import MeasurementSet

FORMAT = 1
MANIFEST, PRODUCTS = "manifest.json", "products.csv"
COLUMNS = ("kind", "id", "root", "path", "size_bytes", "checksum")
ROWS_AT_ONCE = 500
TAKEN = "backup.take"
logger = structlog.get_logger(__name__)
Told = Callable[[str, int, int], None]  # what is done, so much of it, of so much


class NotABackup(InvalidInput):
    code = "not_a_backup"


class BackupDamaged(ContimgError):
    """A file of a backup is missing or is not what its manifest says."""

    code = "backup_damaged"
    status = 422


class BackupDoesNotFit(InvalidInput):
    """A backup of another kind of database, or of a newer contimg."""

    code = "backup_does_not_fit"


@dataclass(frozen=True)
class Manifest:
    """`rows` are of every table of the database, `files` have `size_bytes` and `sha256` by name.

    `sha256` is of all the rest, so that a damaged one is not taken for that of another version; "" in older backups.
    """

    format: int
    contimg: str
    made_at: str
    installation: str
    database: str
    migrations: list[str]
    rows: dict[str, int]
    n_products: int
    files: dict[str, dict[str, Any]]
    sha256: str = ""

    def sealed(self) -> Manifest:
        return replace(self, sha256=digest(asdict(replace(self, sha256=""))))


@dataclass(frozen=True)
class Backup:
    path: Path
    manifest: Manifest

    @property
    def size_bytes(self) -> int:
        return sum(facts["size_bytes"] for facts in self.manifest.files.values())


@dataclass(frozen=True)
class Restored:
    """`missing` are products that are not on disk, or not of their size; `unapplied` the migrations to come."""

    manifest: Manifest
    missing: list[str]
    unapplied: list[str]


# --- taking ----------------------------------------------------------------------------------------------------------
def take_backup(*, folder: Path, told: Told) -> Backup:
    """Of the database as it is now, whoever writes meanwhile; also before `migrate`, with the newer code.

    Raises NotWritable, NotMigrated (there is nothing yet), ClientMissing, DumpFailed and DumpDamaged; nothing of it is
    left then.
    """
    require_writable(folder, named_by="FOLDER")
    _remove_leftovers(folder)
    try:
        with _unfinished(folder) as partial_folder:
            manifest = _write(partial_folder, told)
            name = f"contimg-{timezone.now():%Y%m%dT%H%M%SZ}-{secrets.token_hex(4)}"
            os.rename(partial_folder, folder / name)
            sync_one(folder)
    except OSError as error:
        raise DumpFailed(f"The backup could not be written ({error.strerror}); nothing of it was kept.") from error
    backup = Backup(folder / name, manifest)
    _note(backup)
    return backup


def _note(backup: Backup) -> None:
    """In the audit log, for health and metrics. A database that is read-only or of an older contimg may not take it."""
    try:
        with transaction.atomic():
            details = {"name": backup.path.name, "size_bytes": backup.size_bytes}
            audit(action=TAKEN, subject=Installation.objects.get(), details=details)
    except DatabaseError as error:
        logger.warning("backup_not_noted", backup=backup.path.name, error=str(error))


def newest_backup_at() -> datetime | None:
    """When the newest backup that is noted was whole. Of those that were made of this database elsewhere too."""
    taken = AuditEntry.objects.of(Installation(pk=1)).filter(action=TAKEN).order_by("-at", "-id")
    return taken.values_list("at", flat=True).first()


def _write(folder: Path, told: Told) -> Manifest:
    connection = connections[DEFAULT_DB_ALIAS]
    database = dumper(connection)
    with database.snapshot():
        rows = database.count_rows()
        if not rows:
            raise NotMigrated(
                "The database has no tables yet, so there is nothing to back up; `manage.py migrate` makes them."
            )
        migrations, key = _applied(), Installation.objects.get().key.hex
        database.dump(folder / database.file_name, partial(told, "Copying"))
        n_products = _list_products(folder / PRODUCTS, told)
    database.read_back(folder / database.file_name, rows, partial(told, "Reading back"))
    files = {name: _facts(folder / name) for name in (database.file_name, PRODUCTS)}
    manifest = Manifest(
        FORMAT, contimg.__version__, timezone.now().isoformat(), key, connection.vendor, migrations, rows, n_products,
        files,
    ).sealed()  # fmt: skip
    (folder / MANIFEST).write_text(json.dumps(asdict(manifest), indent=2))
    make_durable(folder)
    return manifest


def _facts(path: Path) -> dict[str, Any]:
    return {"size_bytes": path.stat().st_size, "sha256": file_checksum(path)}


def _applied() -> list[str]:
    applied = MigrationRecorder(connections[DEFAULT_DB_ALIAS]).applied_migrations()
    return sorted(f"{app}.{name}" for app, name in applied)


def _list_products(path: Path, told: Told) -> int:
    total = sum(model._default_manager.count() for model in (MeasurementSet, FlagTable, CalibrationTable, Image))
    n, n_files = 0, 0
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for rows in _products():
            writer.writerows(rows)
            n, n_files = n + 1, n_files + len(rows)
            told("Listing products", n, total)
    return n_files


def _products() -> Iterator[list[tuple[Any, ...]]]:
    """The files of each product, by no other columns than these: the database may be of an older contimg."""
    for model in (MeasurementSet, FlagTable, CalibrationTable):
        kind = str(model._meta.verbose_name).replace(" ", "_")
        rows = model._default_manager.order_by("pk").values_list("pk", "path", "size_bytes", "checksum")
        for pk, *facts in rows.iterator(ROWS_AT_ONCE):
            yield [(kind, pk, "", *facts)]
    last = 0
    while page := list(
        Image.objects.filter(pk__gt=last).order_by("pk")
        .values("pk", "root__path", "path", "size_bytes", "checksum", *COMPANIONS)[:ROWS_AT_ONCE]
    ):  # fmt: skip
        recorded = _evidence([image["pk"] for image in page])
        for image in page:
            own = (
                "image",
                image["pk"],
                image["root__path"] or "",
                image["path"],
                image["size_bytes"],
                image["checksum"],
            )
            beside = ((name, image[name]) for name in COMPANIONS if image[name])
            yield [
                own,
                *(
                    (name.removesuffix("_path"), image["pk"], "", at, *recorded.get(at, ("", "")))
                    for name, at in beside
                ),
            ]
        last = page[-1]["pk"]


def _evidence(images: list[int]) -> dict[str, tuple[int, str]]:
    """Size and SHA-256 of the companions of images, by path, where the attempt that made them recorded it."""
    made = Image.objects.filter(pk__in=images, made_by__isnull=False).order_by("made_by")
    entries = (
        entry
        for evidence in made.values_list("made_by__attempt__evidence", flat=True)
        for entry in (evidence or {}).get("outputs", [])
    )
    return {entry["name"]: (entry.get("size_bytes", ""), entry.get("checksum", "")) for entry in entries}


@contextmanager
def _unfinished(folder: Path) -> Iterator[Path]:
    """A folder whose name says which process writes it, gone at the end unless it was renamed."""
    path = folder / f".contimg-{this_process()}"
    path.mkdir(mode=0o700)  # it has password hashes and sessions
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _remove_leftovers(folder: Path) -> None:
    """What processes that were killed began to write, or to remove."""
    for path in folder.glob(".contimg-*"):
        if is_gone(path.name.removeprefix(".contimg-")):
            shutil.rmtree(path, ignore_errors=True)


# --- keeping ---------------------------------------------------------------------------------------------------------
def remove_older(*, folder: Path, keep: int, installation: str) -> list[Path]:
    """All but the newest `keep` of an installation's backups; what is no backup, or of another, stays.

    Renamed first: one that is half removed does not look whole.
    """
    found = sorted((one for one in _backups_in(folder) if one.manifest.installation == installation), key=_made_at)
    older = [one.path for one in found[: max(0, len(found) - keep)]]
    for path in older:
        with _unfinished(folder) as trash:
            os.rename(path, trash / path.name)
    return older


def _made_at(backup: Backup) -> str:
    return backup.manifest.made_at


def _backups_in(folder: Path) -> Iterator[Backup]:
    for path in folder.glob("contimg-*"):
        try:
            yield read_backup(path)
        except (NotABackup, BackupDamaged):
            continue


def read_backup(path: Path) -> Backup:
    """By its manifest. Raises NotABackup and BackupDamaged."""
    try:
        content = (path / MANIFEST).read_bytes()
    except OSError as error:
        raise NotABackup(
            f"{path} has no manifest of a backup; give the folder that `manage.py backup` named."
        ) from error
    damaged = f"The manifest of {path.name} is damaged; take another backup."
    try:
        manifest = Manifest(**json.loads(content))
    except (ValueError, TypeError) as error:
        raise BackupDamaged(damaged) from error
    if manifest.sha256 and manifest != manifest.sealed():
        raise BackupDamaged(damaged)
    if manifest.format != FORMAT:
        raise BackupDoesNotFit(
            f"{path.name} is of format {manifest.format}; restore it with contimg {manifest.contimg}."
        )
    if not _is_sound(manifest):
        raise BackupDamaged(damaged)
    return Backup(path, manifest)


def _is_sound(manifest: Manifest) -> bool:
    """Whether it says what a restore goes by: a hand may have been at it."""
    kinds = {**dict.fromkeys(("contimg", "made_at", "installation", "database"), str), "n_products": int}
    return (
        all(isinstance(getattr(manifest, name), kind) for name, kind in kinds.items())
        and isinstance(manifest.migrations, list)
        and all(isinstance(name, str) for name in manifest.migrations)
        and isinstance(manifest.rows, dict)
        and all(isinstance(n, int) for n in manifest.rows.values())
        and isinstance(manifest.files, dict)
        and set(manifest.files) in [{kind.file_name, PRODUCTS} for kind in (SQLite, PostgreSQL)]
        and all(
            isinstance(facts, dict) and isinstance(facts.get("size_bytes"), int) for facts in manifest.files.values()
        )
    )


# --- restoring -------------------------------------------------------------------------------------------------------
def restore(*, path: Path, told: Told) -> Restored:
    """Into the database of the settings, which has to have no tables; all of it, or nothing.

    Raises NotABackup, BackupDamaged, BackupDoesNotFit, ClientMissing, DumpDamaged, PlaceNotEmpty and RestoreFailed.
    """
    backup = read_backup(path)
    connection = connections[DEFAULT_DB_ALIAS]
    database = dumper(connection)
    known = _refuse_what_does_not_fit(backup.manifest, connection.vendor)
    database.refuse_unless_empty()
    _refuse_damaged(backup, told)
    database.load(path / database.file_name, backup.manifest.rows, partial(told, "Restoring"))
    unapplied = sorted(known - set(backup.manifest.migrations))
    return Restored(backup.manifest, list(_missing(backup, told)), unapplied)


def _refuse_what_does_not_fit(manifest: Manifest, vendor: str) -> set[str]:
    """Returns the migrations of this version."""
    if manifest.database != vendor:
        raise BackupDoesNotFit(
            f"The backup is of {manifest.database} and DATABASE_URL names {vendor}; name an empty {manifest.database} "
            "database there."
        )
    loader = MigrationLoader(None)
    known = {f"{app}.{name}" for app, name in loader.disk_migrations}
    replaced = {f"{app}.{name}" for migration in loader.replacements.values() for app, name in migration.replaces}
    if newer := sorted(set(manifest.migrations) - known - replaced):
        raise BackupDoesNotFit(
            f"The backup is of contimg {manifest.contimg}, which has migrations that this version lacks ({newer[0]}); "
            "restore it with that version."
        )
    return known


def _refuse_damaged(backup: Backup, told: Told) -> None:
    for number, (name, facts) in enumerate(backup.manifest.files.items(), start=1):
        path = backup.path / name
        if not path.is_file():
            raise BackupDamaged(
                f"{name} of {backup.path.name} is not there; nothing was restored. Take another backup."
            )
        if _facts(path) != facts:
            raise BackupDamaged(f"{name} of {backup.path.name} is not what its manifest says; take another backup.")
        told("Checking", number, len(backup.manifest.files))


def _missing(backup: Backup, told: Told) -> Iterator[str]:
    """By size only: `manage.py verify` reads them."""
    with (backup.path / PRODUCTS).open(newline="") as file:
        for number, row in enumerate(csv.DictReader(file), start=1):
            place = Path(row["root"] or products_root(), row["path"])
            if not place.exists() or (row["size_bytes"] and size_bytes(place) != int(row["size_bytes"])):
                yield row["path"]
            told("Looking for products", number, backup.manifest.n_products)
