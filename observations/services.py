"""Indexing: what is on disk becomes rows, and rows become groups."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from django.conf import settings
from django.db import transaction
from django.utils import timezone

from contimg.exceptions import InvalidInput, NotReadable
from observations.conversion import GroupIncomplete, GroupOverfull
from observations.engines.uvh5_header import parse_name, read_header
from observations.epochs import open_epochs
from observations.grouping import N_SUBBANDS
from observations.models import DataRoot, SubbandFile, SubbandGroup, name_files
from observations.regrouping import Regrouped, regroup
from observations.scanning import FoundFile, RefusedFile, Scan, scan_folder
from observations.telescope import load_positions

BATCH = 1000  # files in one transaction: two seconds of reading, and what a killed scan may lose
FACTS = (
    "subband", "named_at", "started_at", "duration_s", "pointing_dec_deg", "frequency_hz", "n_antennas", "n_channels",
    "n_integrations",
)  # fmt: skip
STORED = (*FACTS, "size_bytes", "modified_at", "error_code", "error_detail")


class SubbandVanished(InvalidInput):
    """Indexed earlier and not on disk any more; its tile was not processed yet, or has another file in its place."""

    code = "subband_vanished"


# A file refused for one of these may have become readable without its size or time changing.
READ_AGAIN = (NotReadable.code, SubbandVanished.code)

Progress = Callable[[int, int], None]


@dataclass(slots=True)
class IndexReport:
    """What one scan found and did. Paths are relative to `folder`.

    `refused` are all files that are there and cannot be used, also those refused by an earlier scan.
    `vanished` are files that are no longer on disk: of groups not yet processed, and those that left a processed one
    since others are in their place. They have a whole path when they were elsewhere.
    """

    folder: str
    n_found: int = 0
    n_read: int = 0
    n_unchanged: int = 0
    refused: list[RefusedFile] = field(default_factory=list)
    vanished: list[str] = field(default_factory=list)
    groups: Regrouped = field(default_factory=Regrouped)


@dataclass(frozen=True, slots=True)
class _Place:
    """A found file and the row it has or will have."""

    found: FoundFile
    root: DataRoot
    relative_path: str
    row: SubbandFile | None

    def unchanged_row(self) -> SubbandFile | None:
        """The stored row, if it still says what the file is."""
        row, found = self.row, self.found
        if row is None or row.error_code in READ_AGAIN:
            return None
        return row if (row.size_bytes, row.modified_at) == (found.size_bytes, found.modified_at) else None


def index_subbands(*, folder: Path, progress: Progress | None = None) -> IndexReport:
    """Bring rows and groups in line with the files below `folder`; doing it twice changes nothing.

    Only names, sizes and times are looked at, and the headers of files that are new or changed. Each batch is one
    transaction: rows, groups and the groups' counts move together, so a killed scan leaves whole batches behind and
    the next goes on from there. `progress(done, total)` is called after each file.

    Raises NotReadable when the folder cannot be read. A file that cannot be is stored with the reason and reported.
    """
    scan = scan_folder(folder.resolve())
    roots = _roots_of(scan.folder)
    report = IndexReport(folder=str(scan.folder), n_found=len(scan.files), refused=list(scan.refused))
    for first in range(0, len(scan.files), BATCH):
        places = _places(roots, scan.files[first : first + BATCH])
        rows = []
        for done, place in enumerate(places, start=first + 1):
            rows.append(place.unchanged_row() or _read(place))
            if progress:
                progress(done, len(scan.files))
        _take_batch(report, places, rows)
    _release_vanished(report, scan)
    return report


def _take_batch(report: IndexReport, places: Sequence[_Place], rows: Sequence[SubbandFile]) -> None:
    read = [row for place, row in zip(places, rows, strict=True) if row is not place.row]
    if read:
        load_positions()
        report.groups.add(_record(read))
    report.n_read += len(read)
    report.n_unchanged += len(rows) - len(read)
    for place, row in zip(places, rows, strict=True):
        if row.error_code:
            path = str(place.found.path.relative_to(report.folder))
            report.refused.append(RefusedFile(path, row.error_code, row.error_detail))


def describe(group: SubbandGroup, settle_s: float | None = None) -> str:
    """What the group has, lacks and has twice, and whether it is processed, in one sentence for operators.

    `settle_s` is the seconds without a new file after which it counts as settled (None: CONTIMG_SETTLE_S).
    """
    parts = [f"{group.n_subbands} of {N_SUBBANDS} subbands"]
    if group.duplicate_subbands:
        parts.append(f"{_named(group.duplicate_subbands)} more than once")
    if group.missing_subbands and group.n_subbands:
        parts.append(f"{_named(group.missing_subbands)} missing")
    return f"{', '.join(parts)}: {_prospect(group, settle_s)}"


def why_not(group: SubbandGroup) -> str:
    """The code with which its conversion would fail; empty while it only waits for more files."""
    if group.is_overfull:
        return GroupOverfull.code
    return GroupIncomplete.code if group.n_subbands < settings.CONTIMG_MIN_SUBBANDS else ""


def _prospect(group: SubbandGroup, settle_s: float | None) -> str:
    if group.is_overfull:
        again = " again" if group.measurement_sets.all() else ""
        return (
            f"not processed{again}, the headers cannot tell which is meant; remove the wrong ones of "
            f"{name_files(group.duplicate_files)} and index again"
        )
    if group.measurement_sets.all():
        return "processed"
    wait_s = _settles_in_s(group, settings.CONTIMG_SETTLE_S if settle_s is None else settle_s)
    if group.n_subbands < settings.CONTIMG_MIN_SUBBANDS:
        waiting = f"; more may come for {wait_s:.0f} s" if wait_s > 0 else ""
        return f"not processed, {settings.CONTIMG_MIN_SUBBANDS} are needed{waiting}"
    return f"waiting, settles in {wait_s:.0f} s" if wait_s > 0 else "ready"


def _settles_in_s(group: SubbandGroup, settle_s: float) -> float:
    """Seconds until no new file is expected, as `SubbandGroupQuerySet.settled` has it; 0 when it has settled."""
    if group.n_files == group.n_subbands == N_SUBBANDS:
        return 0.0
    return max(0.0, settle_s - (timezone.now() - group.last_file_at).total_seconds())


def _named(subbands: Sequence[int]) -> str:
    return " ".join(f"sb{subband:02d}" for subband in subbands)


def _roots_of(folder: Path) -> list[DataRoot]:
    """The roots that files below `folder` may be stored under, the deepest first; a new one when none holds it."""
    roots = [root for root in DataRoot.objects.all() if _overlap(Path(root.path), folder)]
    if not any(folder.is_relative_to(root.path) for root in roots):
        roots.append(DataRoot.objects.get_or_create(path=str(folder))[0])
    return sorted(roots, key=lambda root: -len(root.path))


def _overlap(one: Path, other: Path) -> bool:
    return one.is_relative_to(other) or other.is_relative_to(one)


def _places(roots: Sequence[DataRoot], found: Sequence[FoundFile]) -> list[_Place]:
    """Where each file is stored: its row under any root that holds it, else the deepest such root."""
    paths = {file.path: _paths_under(roots, file.path) for file in found}
    rows = {
        (row.root_id, row.relative_path): row
        for row in SubbandFile.objects.filter(
            root__in=roots, relative_path__in={relative for options in paths.values() for _, relative in options}
        )
    }
    return [_place(file, paths[file.path], rows) for file in found]


def _paths_under(roots: Sequence[DataRoot], path: Path) -> list[tuple[DataRoot, str]]:
    return [(root, str(path.relative_to(root.path))) for root in roots if path.is_relative_to(root.path)]


def _place(
    found: FoundFile, options: Sequence[tuple[DataRoot, str]], rows: dict[tuple[int, str], SubbandFile]
) -> _Place:
    known = [(root, path) for root, path in options if (root.pk, path) in rows]
    root, path = (known or options)[0]
    return _Place(found, root, path, rows.get((root.pk, path)))


def _read(place: _Place) -> SubbandFile:
    """The row as the file now is, not yet stored. `root` and `relative_path` say which row it becomes."""
    found = place.found
    row = SubbandFile(
        root=place.root,
        relative_path=place.relative_path,
        size_bytes=found.size_bytes,
        modified_at=found.modified_at,
        error_code="",
    )
    try:
        row.named_at, row.subband = parse_name(found.path.name)
        header = read_header(found.path)
    except InvalidInput as error:
        row.error_code, row.error_detail = error.code, str(error)[:500]
    else:
        for name in FACTS:
            setattr(row, name, getattr(header, name))
    return row


@transaction.atomic
def _record(read: Sequence[SubbandFile]) -> Regrouped:
    _one_indexer_at_a_time()
    before = _stored_rows(read)
    readable = [row for row in read if not row.error_code]
    refused = [row for row in read if row.error_code]
    _upsert(readable, STORED)
    _upsert(refused, (*STORED, "group"))  # a file that cannot be read belongs to no group
    touched = {row.started_at for row in [*before, *readable] if row.started_at}
    groups = regroup(touched=touched, left={row.group_id for row in before if row.group_id})
    open_epochs(groups=SubbandGroup.objects.filter(pk__in=groups.created | groups.changed))
    return groups


def _one_indexer_at_a_time() -> None:
    """Two scans regrouping one neighbourhood at once would both create its groups. (SQLite has but one writer.)"""
    list(DataRoot.objects.select_for_update().order_by("pk"))


def _stored_rows(read: Sequence[SubbandFile]) -> list[SubbandFile]:
    wanted = {(row.root_id, row.relative_path) for row in read}
    rows = SubbandFile.objects.filter(
        root__in={root for root, _ in wanted}, relative_path__in={path for _, path in wanted}
    ).only("root", "relative_path", "started_at", "group")
    return [row for row in rows if (row.root_id, row.relative_path) in wanted]


def _upsert(rows: Sequence[SubbandFile], fields: Sequence[str]) -> None:
    SubbandFile.objects.bulk_create(
        rows, update_conflicts=True, unique_fields=["root", "relative_path"], update_fields=fields
    )


def _release_vanished(report: IndexReport, scan: Scan) -> None:
    """Files that are gone leave their group, so that removing a copy mends an over-full one, and files that were moved
    take the place of what they were.

    Left alone: groups of which nothing is left, which is what a disk that is not mounted looks like, and processed
    groups without a copy, since raw data are removed after processing.
    """
    found = {file.path for file in scan.files}
    released = []
    groups = SubbandGroup.objects.under(scan.folder).unprocessed().with_files()
    for group in groups.iterator(chunk_size=BATCH // N_SUBBANDS):
        files = list(group.files.all())
        gone = [file for file in files if file.path not in found and _is_gone(file.path)]
        leaving = _replaced(files, gone) if group.measurement_sets.all() else _missed(files, gone, scan.folder)
        report.vanished += [_shown(file.path, scan.folder) for file in leaving]
        if len(leaving) < len(files):
            released += leaving
    if released:
        report.groups.add(_release(released))
    report.vanished.sort()


def _missed(files: Sequence[SubbandFile], gone: Sequence[SubbandFile], folder: Path) -> list[SubbandFile]:
    """What leaves an unprocessed group: files that were below the folder, and elsewhere those that are there again."""
    there = {file.subband for file in files if file not in gone}
    return [file for file in gone if file.subband in there or file.path.is_relative_to(folder)]


def _replaced(files: Sequence[SubbandFile], gone: Sequence[SubbandFile]) -> list[SubbandFile]:
    """What leaves a processed group: copies, which are known later than what the measurement set was made of.

    That itself leaves only when every subband is there elsewhere: of a part the tile could not be made again, and what
    it was made of would be forgotten.
    """
    known_first: dict[int | None, SubbandFile] = {}
    for file in sorted(files, key=lambda file: file.pk):
        known_first.setdefault(file.subband, file)
    if {file.subband for file in files if file not in gone} == known_first.keys():
        return list(gone)
    return [file for file in gone if file != known_first[file.subband]]


def _shown(path: Path, folder: Path) -> str:
    return str(path.relative_to(folder) if path.is_relative_to(folder) else path)


def _is_gone(path: Path) -> bool:
    """Certainly not there; a folder that may not be entered does not count."""
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False


@transaction.atomic
def _release(files: Sequence[SubbandFile]) -> Regrouped:
    _one_indexer_at_a_time()
    SubbandFile.objects.filter(pk__in=[file.pk for file in files]).update(
        group=None,
        error_code=SubbandVanished.code,
        error_detail="The file was there at an earlier scan and is not any more.",
    )
    return regroup(
        touched={file.started_at for file in files if file.started_at},
        left={file.group_id for file in files if file.group_id},
    )
