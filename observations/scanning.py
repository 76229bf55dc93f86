"""Finding subband files below a folder: names, sizes and times only; nothing is opened."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from contimg.exceptions import NotReadable, OutsideRoot
from observations.engines.uvh5_header import NAME, SubbandName, SubbandNotAFile

SUFFIXES = (".hdf5", ".h5", ".uvh5")
MAX_PATH = 500  # of the column
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class FoundFile:
    path: Path
    size_bytes: int
    modified_at: datetime


@dataclass(frozen=True, slots=True)
class RefusedFile:
    """A file (or folder) that was not taken, by its path below the scanned folder, and why."""

    path: str
    code: str
    detail: str


@dataclass(slots=True)
class Scan:
    """Files in order of name, which is order of time, so that files of one tile are dealt with together."""

    folder: Path
    files: list[FoundFile] = field(default_factory=list)
    refused: list[RefusedFile] = field(default_factory=list)


def scan_folder(folder: Path) -> Scan:
    """Everything below `folder` that looks like a UVH5 file. Raises NotReadable when the folder itself cannot be read.

    Hidden names are left out (partial copies, snapshots). Links are not followed: a link that stays inside leads to
    what is found anyway, one that leaves the folder is refused by name.
    """
    scan = Scan(folder)
    try:
        with os.scandir(folder):
            pass
    except OSError as error:
        raise NotReadable(f"The folder {folder} cannot be read: {error.strerror}.") from error
    for entry in _entries(scan, folder):
        _take(scan, entry)
    scan.files.sort(key=lambda file: (file.path.name, file.path))
    scan.refused.sort(key=lambda refused: refused.path)
    return scan


def _entries(scan: Scan, folder: Path) -> Iterator[os.DirEntry[str]]:
    waiting = [folder]
    while waiting:
        here = waiting.pop()
        try:
            with os.scandir(here) as entries:
                visible = [entry for entry in entries if not entry.name.startswith(".")]
        except OSError as error:
            _refuse(scan, here, NotReadable.code, f"The folder {here.name} cannot be read: {error.strerror}.")
            continue
        waiting += [Path(entry.path) for entry in visible if entry.is_dir(follow_symlinks=False)]
        yield from visible


def _take(scan: Scan, entry: os.DirEntry[str]) -> None:
    path = Path(entry.path)
    if path.suffix in SUFFIXES and not _is_storable(path) and not entry.is_dir(follow_symlinks=False):
        shown = entry.name.encode(errors="backslashreplace").decode()
        detail = f"The path of {shown} is longer than {MAX_PATH} bytes or not UTF-8; rename it."
        scan.refused.append(RefusedFile(shown, SubbandName.code, detail))
    elif entry.is_symlink():
        _consider_link(scan, path)
    elif entry.is_dir(follow_symlinks=False):
        if NAME.fullmatch(entry.name):  # a folder may well be called night.h5
            _refuse(scan, path, SubbandNotAFile.code, f"{path.name} is a folder, not a file; rename it.")
    elif path.suffix in SUFFIXES:
        try:
            status = entry.stat(follow_symlinks=False)
        except FileNotFoundError:  # gone since the folder was listed
            return
        if stat.S_ISREG(status.st_mode):
            scan.files.append(FoundFile(path, status.st_size, _moment(status.st_mtime_ns)))
        else:
            detail = f"{path.name} is a pipe, socket or device, not a file; it was not opened. Take it away."
            _refuse(scan, path, SubbandNotAFile.code, detail)


def _is_storable(path: Path) -> bool:
    try:
        return len(str(path).encode()) <= MAX_PATH
    except UnicodeEncodeError:
        return False


def _consider_link(scan: Scan, path: Path) -> None:
    try:
        target = path.resolve()
        target.stat()
    except (OSError, RuntimeError):  # RuntimeError: a loop of links, before Python 3.13
        if path.suffix in SUFFIXES:
            _refuse(scan, path, NotReadable.code, f"{path.name} is a link that leads to nothing that can be read.")
        return
    if (path.suffix in SUFFIXES or target.is_dir()) and not target.is_relative_to(scan.folder):
        _refuse(
            scan, path, OutsideRoot.code, f"{path.name} is a link that leaves the folder; index the folder it leads to."
        )


def _refuse(scan: Scan, path: Path, code: str, detail: str) -> None:
    scan.refused.append(RefusedFile(str(path.relative_to(scan.folder)), code, detail))


def _moment(nanoseconds: int) -> datetime:
    """To the microsecond, as every database keeps it, so that an unchanged file compares equal."""
    return EPOCH + timedelta(microseconds=nanoseconds // 1000)
