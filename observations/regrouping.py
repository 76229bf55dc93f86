"""Bringing the stored groups in line with the files of a neighbourhood, inside the caller's transaction."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from statistics import median_low
from typing import Any

from django.utils import timezone

from contimg.sky import healpix_indices
from observations.grouping import (
    HALF_TILE_S,
    FileFacts,
    duplicate_subbands,
    group_files,
    missing_subbands,
    split_neighbourhoods,
)
from observations.models import SubbandFile, SubbandGroup
from observations.telescope import meridian_icrs

HALF_TILE = timedelta(seconds=HALF_TILE_S)
MARGIN = timedelta(hours=1)
WRITE_BATCH = 500
FILE_FIELDS = ("subband", "started_at", "duration_s", "pointing_dec_deg", "size_bytes", "modified_at", "group")

# What places a group in time and on the sky; a change of one of them moves its centre.
PLACE = ("started_at", "duration_s", "pointing_dec_deg")
CENTRE = ("observed_at", "ra_deg", "dec_deg", "healpix")
COUNTS = ("n_files", "n_subbands", "missing_subbands", "duplicate_subbands", "size_bytes", "last_file_at")

Members = list[SubbandFile]


@dataclass(slots=True)
class Regrouped:
    """Primary keys of the groups that a change of files created, altered or left empty and removed."""

    created: set[int] = field(default_factory=set)
    changed: set[int] = field(default_factory=set)
    removed: set[int] = field(default_factory=set)

    def add(self, other: Regrouped) -> None:
        self.created |= other.created
        self.changed |= other.changed - self.created
        self.removed |= other.removed
        self.created -= other.removed
        self.changed -= other.removed


def regroup(*, touched: Collection[datetime], left: Collection[int]) -> Regrouped:
    """Group anew the files around the `touched` times and store what that changes.

    `left` are groups that lost a file in a way the file's row does not show any more. A group keeps its row when most
    of its files stay together; a row left without files is deleted unless a measurement set was made of it or work was
    asked for on it.
    """
    files = {file.pk: file for file in _neighbourhood(sorted(touched))}
    decided = [[files[member.key] for member in group] for group in group_files(_facts(files))]
    known = SubbandGroup.objects.in_bulk({*left, *(f.group_id for f in files.values() if f.group_id)})
    kept = _match(decided)
    result = _store(decided, [known.get(kept.get(i, 0)) for i in range(len(decided))])
    _retire([group for pk, group in known.items() if pk not in kept.values()], result)
    return result


def _neighbourhood(touched: Sequence[datetime]) -> Iterable[SubbandFile]:
    """The readable files of every neighbourhood that one of the times lies in or beside, each neighbourhood whole."""
    for first, last in _spans(touched):
        low, high = first - MARGIN, last + MARGIN
        while True:
            files = _files_between(low, high)
            near = [part for part in split_neighbourhoods(_facts(files)) if _is_near(part, touched)]
            cut_low = bool(near) and near[0][0].started_at - HALF_TILE < low
            cut_high = bool(near) and near[-1][-1].started_at + HALF_TILE > high
            if not (cut_low or cut_high):
                yield from (files[member.key] for part in near for member in part)
                break
            low, high = low - MARGIN * cut_low, high + MARGIN * cut_high


def _spans(touched: Sequence[datetime]) -> list[tuple[datetime, datetime]]:
    """First and last of the times, cut where two margins do not meet: usually one span per night."""
    spans: list[tuple[datetime, datetime]] = []
    for moment in touched:
        if spans and moment - spans[-1][1] <= 2 * MARGIN:
            spans[-1] = (spans[-1][0], moment)
        else:
            spans.append((moment, moment))
    return spans


def _files_between(low: datetime, high: datetime) -> dict[int, SubbandFile]:
    rows = SubbandFile.objects.readable().filter(started_at__range=(low, high)).only(*FILE_FIELDS)
    return {row.pk: row for row in rows}


def _facts(files: dict[int, SubbandFile]) -> list[FileFacts]:
    # A readable file has all of these: the table's constraint says so.
    return [FileFacts(pk, f.subband, f.started_at, f.pointing_dec_deg) for pk, f in files.items()]  # type: ignore[arg-type]


def _is_near(part: Sequence[FileFacts], touched: Sequence[datetime]) -> bool:
    first = bisect_left(touched, part[0].started_at - HALF_TILE)
    return first < len(touched) and touched[first] <= part[-1].started_at + HALF_TILE


def _match(decided: Sequence[Members]) -> dict[int, int]:
    """Which stored group each decided one (by position) continues: the largest overlap first, then the older row."""
    overlaps = Counter((i, file.group_id) for i, members in enumerate(decided) for file in members if file.group_id)
    matched: dict[int, int] = {}
    for i, pk in sorted(overlaps, key=lambda pair: (-overlaps[pair], pair[1], pair[0])):
        if i not in matched and pk not in matched.values():
            matched[i] = pk
    return matched


def _store(decided: Sequence[Members], stored: Sequence[SubbandGroup | None]) -> Regrouped:
    groups = [group or SubbandGroup() for group in stored]
    changed, moved, now = [], [], timezone.now()
    for group, members in zip(groups, decided, strict=True):
        altered = _assign(group, _summary(members))
        if altered or group.pk is None:
            group.files_changed_at = now
            changed.append(group)
        if altered & {*PLACE} or group.pk is None:
            moved.append(group)
    _place(moved)
    fresh = [group for group in changed if group.pk is None]
    known = [group for group in changed if group.pk is not None]
    SubbandGroup.objects.bulk_create(fresh, batch_size=WRITE_BATCH)
    SubbandGroup.objects.bulk_update(known, [*PLACE, *CENTRE, *COUNTS, "files_changed_at"], batch_size=WRITE_BATCH)
    _join(decided, groups)
    return Regrouped(created={group.pk for group in fresh}, changed={group.pk for group in known})


def _summary(members: Members) -> dict[str, Any]:
    """What the row says of its files. Times and declination are those of the middle file, which one skewed header
    cannot move."""
    subbands = [file.subband for file in members if file.subband is not None]
    return {
        "started_at": median_low(file.started_at for file in members),  # type: ignore[type-var]
        "duration_s": median_low(file.duration_s for file in members),  # type: ignore[type-var]
        "pointing_dec_deg": median_low(file.pointing_dec_deg for file in members),  # type: ignore[type-var]
        "n_files": len(members),
        "n_subbands": len(set(subbands)),
        "missing_subbands": missing_subbands(subbands),
        "duplicate_subbands": duplicate_subbands(subbands),
        "size_bytes": sum(file.size_bytes for file in members),
        "last_file_at": max(file.modified_at for file in members),
    }


def _assign(group: SubbandGroup, values: dict[str, Any]) -> set[str]:
    altered = {name for name, value in values.items() if getattr(group, name) != value}
    for name in altered:
        setattr(group, name, values[name])
    return altered


def _place(groups: Sequence[SubbandGroup]) -> None:
    """The middle of each tile and the ICRS position of its beam centre then."""
    for group in groups:
        group.observed_at = group.started_at + timedelta(seconds=group.duration_s / 2)
    ra_deg, dec_deg = meridian_icrs([g.observed_at for g in groups], [g.pointing_dec_deg for g in groups])
    cells = healpix_indices(ra_deg, dec_deg) if groups else []
    for group, ra, dec, cell in zip(groups, ra_deg.tolist(), dec_deg.tolist(), cells, strict=True):
        group.ra_deg, group.dec_deg, group.healpix = ra, dec, cell


def _join(decided: Sequence[Members], groups: Sequence[SubbandGroup]) -> None:
    moved = []
    for group, members in zip(groups, decided, strict=True):
        for file in members:
            if file.group_id != group.pk:
                file.group = group
                moved.append(file)
    SubbandFile.objects.bulk_update(moved, ["group"], batch_size=WRITE_BATCH)


def _retire(groups: Sequence[SubbandGroup], result: Regrouped) -> None:
    """Groups whose files have all gone elsewhere."""
    empty = SubbandGroup.objects.filter(pk__in=[group.pk for group in groups], files__isnull=True)
    unused = empty.filter(measurement_sets__isnull=True, items__isnull=True)
    result.removed |= set(unused.values_list("pk", flat=True))
    SubbandGroup.objects.filter(pk__in=result.removed).delete()
    used = {group.pk for group in groups} - result.removed
    result.changed |= used
    SubbandGroup.objects.filter(pk__in=used, files__isnull=True).update(
        n_files=0, n_subbands=0, missing_subbands=missing_subbands([]), duplicate_subbands=[], size_bytes=0,
        files_changed_at=timezone.now(),
    )  # fmt: skip
