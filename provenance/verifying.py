"""Verifying: whether the files that rows name are there, and still what was recorded; and what rests on those that
are not.

A product's checksum is over its content (`contimg.models.Product`), as the engine that made it took it. The companions
of an image are compared, byte for byte, with the evidence of the attempt that made it; one without evidence only has
to be there and not empty.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from django.db import models
from django.db.models import Count, F, Prefetch, QuerySet, Sum

from calibration.models import CalibrationTable, FlagTable
from contimg.exceptions import ContimgError, MissingProduct
from contimg.products import file_checksum, product_path, require_products, size_bytes
from contimg.querysets import related
from images.models import COMPANIONS, Image
from images.querysets import ImageQuerySet
from images.services import image_file
from observations.models import MeasurementSet
from provenance.reach import downstream, node

ROWS_AT_ONCE = 100
# What astropy, casacore and HDF5 are seen to raise on spoilt files.
_READING_FAILURES = (ContimgError, OSError, RuntimeError, ValueError, TypeError, LookupError, EOFError)


class Kind(models.TextChoices):
    MEASUREMENT_SET = "measurement_set"
    FLAG_TABLE = "flag_table"
    CALIBRATION_TABLE = "calibration_table"
    IMAGE = "image"
    MOSAIC = "mosaic"


class Damage(models.TextChoices):
    MISSING = "missing"
    CHANGED = "changed"
    UNREADABLE = "unreadable"


@dataclass(frozen=True)
class Consequences:
    """What was made from a product, itself included where it is an image; `fluxes` were measured in these images."""

    images: int
    mosaics: int
    fluxes: int

    def __str__(self) -> str:
        named = [
            f"{n} {word}{'' if n == 1 else plural}"
            for n, word, plural in (
                (self.images, "image", "s"), (self.mosaics, "mosaic", "s"), (self.fluxes, "measured flux", "es")
            )
            if n
        ]  # fmt: skip
        if not named:
            return "nothing rests on it"
        *first, last = named
        return f"{', '.join(first)} and {last} rest on it" if first else f"{last} rest{'s' * (last[:2] == '1 ')} on it"


@dataclass(frozen=True)
class Fault:
    """A file that is not what was recorded. `path` is relative to its root."""

    kind: Kind
    id: int
    name: str
    path: str
    damage: Damage
    detail: str
    consequences: Consequences


@dataclass(frozen=True)
class Verified:
    """A product that was read, with the faults of its files."""

    size_bytes: int
    faults: tuple[Fault, ...]


class _Damaged(Exception):
    def __init__(self, damage: Damage, detail: str) -> None:
        super().__init__(detail)
        self.damage, self.detail = damage, detail


@dataclass(frozen=True)
class Scope:
    """Which products to verify. With `turns`, every that-many-th, and those of the next turn by the next number."""

    kinds: tuple[Kind, ...] = tuple(Kind)
    since: datetime | None = None
    limit: int | None = None
    turn: int = 0
    turns: int = 1

    def rows(self, kind: Kind) -> QuerySet[Any]:
        rows = _ROWS[kind]()
        if self.since is not None:
            rows = rows.filter(created_at__gte=self.since)
        if self.turns > 1:
            rows = rows.alias(turn=F("pk") % self.turns).filter(turn=self.turn % self.turns)
        return rows

    def count(self) -> int:
        total = sum(self.rows(kind).count() for kind in self.kinds)
        return total if self.limit is None else min(total, self.limit)


def verify(*, scope: Scope) -> Iterator[Verified]:
    """Read the products, newest first within each kind. It writes nothing and stops at no fault.

    What is replaced or deleted while it is read is left out. Raises ProductsAway before it begins.
    """
    if MeasurementSet.objects.exists():
        require_products()
    left = scope.limit
    for kind in scope.kinds:
        for row in _newest_first(scope.rows(kind)):
            if left is not None and left <= 0:
                return
            if (verified := _verified(kind, row)) is not None:
                left = None if left is None else left - 1
                yield verified


def _newest_first(rows: QuerySet[Any]) -> Iterator[Any]:
    """By pages: a run may take a day, and no cursor should be held open as long."""
    page = list(rows.order_by("-pk")[:ROWS_AT_ONCE])
    while page:
        yield from page
        page = list(rows.filter(pk__lt=page[-1].pk).order_by("-pk")[:ROWS_AT_ONCE])


def _images() -> ImageQuerySet:
    made_by = related(Image, "made_by").select_related("attempt").order_by("pk")
    return Image.objects.select_related("root").prefetch_related(Prefetch("made_by", made_by))


_ROWS: dict[Kind, Callable[[], QuerySet[Any]]] = {
    Kind.MEASUREMENT_SET: MeasurementSet.objects.all,
    Kind.FLAG_TABLE: lambda: FlagTable.objects.select_related("measurement_set"),
    Kind.CALIBRATION_TABLE: CalibrationTable.objects.all,
    Kind.IMAGE: lambda: _images().exclude(kind=Image.Kind.MOSAIC),
    Kind.MOSAIC: lambda: _images().mosaics(),
}


def _verified(kind: Kind, row: Any) -> Verified | None:
    """None for a product that is no longer that of the row: its file may rightly be gone."""
    found = [*_faults_of_product(kind, row), *(_faults_of_companions(row) if isinstance(row, Image) else ())]
    if found and not type(row).objects.filter(pk=row.pk, path=row.path, checksum=row.checksum).exists():
        return None
    consequences = consequences_of(kind=kind, row=row) if found else Consequences(0, 0, 0)
    faults = (Fault(kind, row.pk, str(row), path, one.damage, one.detail, consequences) for path, one in found)
    return Verified(row.size_bytes, tuple(faults))


def _faults_of_product(kind: Kind, row: Any) -> Iterator[tuple[str, _Damaged]]:
    checksum = _content_checksums()[kind]
    find = partial(image_file, image=row) if isinstance(row, Image) else partial(product_path, row.path)
    yield from _fault(row.path, find, checksum, row.size_bytes, row.checksum)


def _faults_of_companions(image: Image) -> Iterator[tuple[str, _Damaged]]:
    for relative, recorded in recorded_companions(image).items():
        find = partial(product_path, relative)
        yield from _fault(relative, find, file_checksum, recorded.get("size_bytes"), recorded.get("checksum"))


def recorded_companions(image: Image) -> dict[str, dict[str, Any]]:
    """By path, the evidence of the attempt that made each (`size_bytes`, `checksum`); empty where there is none."""
    entries = (entry for output in image.made_by.all() for entry in output.attempt.evidence.get("outputs", []))
    evidence = {entry["name"]: entry for entry in entries}
    return {path: evidence.get(path, {}) for path in filter(None, (getattr(image, name) for name in COMPANIONS))}


def _fault(
    relative: str, find: Callable[[], Path], checksum: Callable[[Path], str], size: int | None, recorded: str | None
) -> Iterator[tuple[str, _Damaged]]:
    try:
        _compare(find(), checksum, size, recorded)
    except _Damaged as damaged:
        yield relative, damaged
    except (MissingProduct, FileNotFoundError):  # the second: between one look and the next
        yield relative, _Damaged(Damage.MISSING, "is not there")
    except _READING_FAILURES as error:
        yield relative, _Damaged(Damage.UNREADABLE, f"cannot be read: {error}")


def _compare(path: Path, checksum: Callable[[Path], str], size: int | None, recorded: str | None) -> None:
    """The size first, which costs nothing. Raises _Damaged, and whatever reading raises."""
    found = size_bytes(path)
    if found == 0:
        raise _Damaged(Damage.CHANGED, "is empty")
    if size is not None and found != size:
        raise _Damaged(Damage.CHANGED, f"has {found} bytes and was recorded with {size}")
    if recorded is not None and checksum(path) != recorded:
        raise _Damaged(Damage.CHANGED, "has its size, and other content than was recorded")


def _content_checksums() -> dict[Kind, Callable[[Path], str]]:
    from calibration.engines import caltable, flagger
    from images.engines import fits
    from observations.engines import measurement_set

    return {
        Kind.MEASUREMENT_SET: measurement_set.content_checksum,
        Kind.FLAG_TABLE: flagger.content_checksum,
        Kind.CALIBRATION_TABLE: caltable.content_checksum,
        Kind.IMAGE: fits.content_checksum,
        Kind.MOSAIC: fits.content_checksum,
    }


def consequences_of(*, kind: Kind, row: Any) -> Consequences:
    """Counted over what was made from it, tables solved from a set and applied to others included. Two queries."""
    start = node("image" if kind == Kind.MOSAIC else kind.value, row.pk)
    reached = Image.objects.filter(pk__in=downstream(start)["image"])
    (n_images, of_images), (n_mosaics, of_mosaics) = (
        rows.aggregate(n=Count("pk"), fluxes=Sum("n_measurements", default=0)).values()
        for rows in (reached.exclude(kind=Image.Kind.MOSAIC), reached.mosaics())
    )
    return Consequences(n_images, n_mosaics, of_images + of_mosaics)
