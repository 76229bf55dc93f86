"""Product files: made under a temporary name, made durable, then renamed into place. Nothing half-written is ever seen.

    with workspace() as folder:            # work: engines write here, no transaction open
        facts = engine.make(..., folder)
        with transaction.atomic():         # record: rename, insert the row, commit
            path = publish(folder / "x.ms", "measurement_sets/x")
            MeasurementSet.objects.create(path=path, ...)

The work folder keeps a journal of what was published from it. A process killed between the rename and the commit leaves
its folder behind, and `batch.sweeper` removes what the journal names and no row does; it never looks at anything else,
so a products root may hold other files, or serve two databases.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import socket
import tempfile
import uuid
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import psutil
from django.conf import settings
from django.db import DatabaseError

from contimg.exceptions import DiskFull, MissingProduct, NotWritable, OutsideRoot, ProductsAway

WORK_FOLDER = ".work"
JOURNAL = ".journal"
FULL_BYTES = 1_000_000  # with less left, a disk is full: a write that does not fit takes what there is and fails then
# astropy and numpy's tofile raise OSErrors of their own, without errno, and HDF5 a RuntimeError. casacore does not say
# what ails it: see `is_full`.
_FULL_WITHOUT_NUMBER = re.compile(
    r"Not enough space on disk|\d+ requested and \d+ written|No space left on device|Disk quota exceeded"
)


def products_root() -> Path:
    return Path(settings.CONTIMG_PRODUCTS_ROOT)


def disk_usages() -> dict[str, Any]:
    """Of the disk below each folder that the service writes to, where it is there."""
    roots = {
        "products": products_root(), "var": Path(settings.VAR_DIR), "logs": Path(settings.CONTIMG_LOG_DIR),
    }  # fmt: skip
    return {name: psutil.disk_usage(str(root)) for name, root in roots.items() if root.is_dir()}


def product_path(relative: str) -> Path:
    """The absolute path of a product.

    Raises OutsideRoot when the path leaves the products root, ProductsAway when nothing of ours is in that, and
    MissingProduct when nothing is there.
    """
    path = inside(products_root(), relative)
    if not path.exists():
        require_products()
        raise MissingProduct(f"The product {relative} is not on disk any more; make it again with `process`.")
    return path


def inside(root: Path, relative: str) -> Path:
    """`root / relative` with links resolved, refused when that is not below the root (which may itself be a link)."""
    resolved_root = root.resolve()
    path = (resolved_root / relative).resolve()
    if not path.is_relative_to(resolved_root):
        raise OutsideRoot(f"The path {relative!r} leaves its folder; give one that stays below it.")
    return path


def require_writable(folder: Path, *, named_by: str) -> None:
    """Make the folder where there is none, before work begins. Raises NotWritable."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise NotWritable(
            f"{folder} cannot be written to ({error.strerror}); see who owns it, or give another folder as {named_by}."
        ) from error


def require_writable_roots(*, holds_products: bool) -> None:
    """What every worker writes to. Raises NotWritable, and ProductsAway where products should be and nothing is.

    An unmounted disk leaves an empty folder, or none, in which a night would silently be made anew.
    """
    if holds_products:
        require_products()
    for setting in ("CONTIMG_PRODUCTS_ROOT", "CONTIMG_LOG_DIR"):
        require_writable(Path(getattr(settings, setting)), named_by=setting)


def require_products() -> None:
    """That the disk which the database names products on is there. Raises ProductsAway."""
    root = products_root()
    if not (root / WORK_FOLDER).is_dir():
        raise ProductsAway(
            f"The products root {root} has nothing of ours in it, and the database names products there; is its disk "
            f"mounted? If they are lost for good, `mkdir -p {root / WORK_FOLDER}` has them made anew."
        )


@contextlib.contextmanager
def workspace(owner: str = "") -> Iterator[Path]:
    """A private temporary folder on the products' file system, gone at the end but for one case.

    After an error of the database nobody knows whether the rows of what was published are there: the folder stays,
    with its journal, for the sweeper. Its name begins with the database's tag and its owner: `this_process()`, or what
    a worker holds, as `item7.2`.
    Raises DiskFull in place of the operating system's ENOSPC or EDQUOT.
    """
    base = products_root() / WORK_FOLDER
    with full_disk_named():
        base.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f"{database_tag()}-{owner or this_process()}-", dir=base))
    is_sure = True
    try:
        with full_disk_named():
            yield folder
    except DatabaseError:
        is_sure = False
        raise
    finally:
        if is_sure:
            shutil.rmtree(folder, ignore_errors=True)


def this_process() -> str:
    """Tells this process from every other, also on other machines and after its number was given to another.

    Machines need host names of their own; containers that share one have process numbers of their own.
    """
    return process_name(os.getpid())


def process_name(pid: int) -> str:
    """Of a process on this machine. Raises FileNotFoundError when it has ended."""
    return f"{socket.gethostname()}.{pid}.{_begun(pid)}_{_number_space()}"


def is_gone(process: str) -> bool:
    """Whether the process of that name has ended. One on another machine, or in another container, is not known to."""
    host, pid, born = process.rsplit(".", 2)
    begun, _, number_space = born.rpartition("_")
    if host != socket.gethostname() or (begun and number_space != _number_space()):
        return False
    try:
        return _begun(int(pid)) != begun or psutil.Process(int(pid)).status() == psutil.STATUS_ZOMBIE
    except (psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError):
        return True


def _begun(pid: int) -> str:
    """When a process began, by a clock that nobody sets: ticks since the machine's boot, and which boot that was.

    psutil's `create_time` is reckoned from the wall clock and changes when that is set.
    """
    ticks = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]  # field 22 of proc_pid_stat(5)
    return f"{ticks}_{Path('/proc/sys/kernel/random/boot_id').read_text()[:8]}"


def _number_space() -> str:
    """In which process numbers count: 4026531836 where there are no containers."""
    return re.sub(r"\D", "", os.readlink("/proc/self/ns/pid"))


def work_folders(owner: str = "*") -> list[Path]:
    """Those of this database."""
    return sorted((products_root() / WORK_FOLDER).glob(f"{database_tag()}-{owner}-*"))


def owner_of(folder: Path) -> str:
    return folder.name.split("-", 1)[1].rsplit("-", 1)[0]


@cache
def database_tag() -> str:
    """Tells the files of one installation from those of another in the same folder; all its processes have the same.

    Read once in a process. An address does not do: two containers may each have a database of one path.
    """
    from contimg.models import Installation  # this module needs no apps

    return Installation.objects.get().key.hex[:8]


def note(folder: Path, relatives: Iterable[str]) -> None:
    """Write durably into the journal of a work folder that these products are to go unless a row names them."""
    with open(folder / JOURNAL, "a") as journal:
        journal.writelines(f"{relative}\n" for relative in relatives)
        journal.flush()
        os.fsync(journal.fileno())


def noted(folder: Path) -> list[str]:
    """What the journal of a work folder names. A last line cut off by a kill was not acted upon, and is left out."""
    journal = folder / JOURNAL
    return journal.read_text().split("\n")[:-1] if journal.exists() else []


@contextlib.contextmanager
def full_disk_named() -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError) as error:
        named = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
        if named or _FULL_WITHOUT_NUMBER.search(str(error)) or is_full():
            raise DiskFull(
                "The disk under the products root is full; nothing was recorded. Free some space and run again."
            ) from error
        raise


def is_full() -> bool:
    """Whether next to nothing fits under the products root any more, neither bytes nor files."""
    if not products_root().exists():
        return False
    usage = os.statvfs(products_root())
    return usage.f_bavail * usage.f_frsize < FULL_BYTES or (usage.f_files > 0 and usage.f_favail == 0)


def publish(source: Path, destination: str) -> str:
    """Make `source` (file or folder in a work folder) durable and rename it to a unique path below the products root.

    Returns the new path relative to the root: `destination` with a short unique token before its suffix.
    """
    wanted = Path(destination)
    relative = wanted.with_name(f"{wanted.stem}.{uuid.uuid4().hex[:8]}{wanted.suffix}")
    target = inside(products_root(), str(relative))
    target.parent.mkdir(parents=True, exist_ok=True)
    _sync(source)
    note(_work_folder_of(source), [str(relative)])
    os.rename(source, target)
    sync_one(target.parent)
    return str(relative)


def write_whole(path: Path, text: str) -> None:
    """A file of text outside the products, in place of what was there: who reads has the old one or the new, whole."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        temporary.write_text(text, encoding="utf-8")
        sync_one(temporary)
        os.rename(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_one(path.parent)


def make_durable(folder: Path) -> None:
    """Before a transaction begins: the disk may be slow, and a transaction keeps others waiting."""
    _sync(folder)


def newest_change_ns(path: Path) -> int:
    """When the newest file of a product was last written."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return max((file.stat().st_mtime_ns for file in files), default=0)


def _work_folder_of(source: Path) -> Path:
    base = (products_root() / WORK_FOLDER).resolve()
    return base / source.resolve().relative_to(base).parts[0]


def _sync(path: Path) -> None:
    if path.is_dir():
        for folder, _, files in os.walk(path):
            for name in files:
                sync_one(Path(folder, name))
            sync_one(Path(folder))
    else:
        sync_one(path)


def sync_one(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def size_bytes(path: Path) -> int:
    """Of a file, or of all files of a CASA table but its lock file, which reading rewrites."""
    if path.is_file():
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file() and file.name != "table.lock")


def is_intact(relative: str, expected_bytes: int | None = None) -> bool:
    """Whether a product is on disk, and of the size it was recorded with (checksums would cost minutes a night)."""
    path = products_root() / relative
    return path.exists() and (expected_bytes is None or size_bytes(path) == expected_bytes)


def file_checksum(path: Path) -> str:
    """SHA-256 of every byte of a file, read in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(*parts: Any) -> str:
    """SHA-256 of a canonical JSON of the parts: the `recipe` of a product."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
