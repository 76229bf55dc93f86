"""Reference catalogues: decisions and writes. Engines are imported inside the functions: web processes load none."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from django.db import transaction
from django.utils import timezone

from access.audit import audit
from contimg.bulk import insert_like
from contimg.exceptions import InvalidInput
from contimg.products import file_checksum
from contimg.sky import healpix_indices
from sources.models import ReferenceCatalogue, ReferenceSource

if TYPE_CHECKING:
    from sources.engines.reference import ReadCatalogue, ReferenceRows

BATCH_ROWS = 5000
FREQUENCIES_HZ = (1e6, 1e12)
EPOCHS_JYEAR = (1800.0, 2200.0)
LONGEST_NAME, LONGEST_NOTE = 50, 300
Progress = Callable[[Iterable[Any], str], Iterable[Any]]


class UnusableFact(InvalidInput):
    """The name, frequency, epoch or note of a catalogue is none."""

    code = "catalogue_fact"


class Outcome(StrEnum):
    IMPORTED = "imported"
    REPLACED = "replaced"  # rows of another file, or of this file read in another way
    DESCRIBED = "described"  # the same rows with another frequency, epoch or note
    UNCHANGED = "unchanged"


@dataclass(frozen=True)
class Import:
    catalogue: ReferenceCatalogue
    outcome: Outcome


def import_catalogue(
    *,
    path: Path,
    name: str,
    columns: Mapping[str, str] | None = None,
    units: Mapping[str, str] | None = None,
    frame: str | None = None,
    frequency_hz: float | None = None,
    epoch_jyear: float | None = None,
    note: str = "",
    progress: Progress = lambda steps, _: steps,
) -> Import:
    """Make the catalogue `name` what this file and these arguments say, in one transaction.

    The same file, read in the same way, writes no row. Another one replaces all rows of the catalogue. `columns` and
    `units` are by role (`sources.engines.reference.ROLES`) and go before what the file says.

    Raises UnusableFact and the refusals of `sources.engines.reference`.
    """
    from sources.engines import reference

    facts = _facts(name, frequency_hz, epoch_jyear, note)
    with reference.open_catalogue(path) as table:
        layout = reference.choose(table, columns=columns or {}, units=units or {}, frame=frame)
        content = {"checksum": file_checksum(path), "parameters": layout.as_dict()}
        known = ReferenceCatalogue.objects.filter(name=name).first()
        if known is not None and _has(known, content):
            return _described(known, facts)
        found = reference.read(table, layout, progress=lambda blocks: progress(blocks, "read"))
    return _record(found, facts, content, progress)


def _has(catalogue: ReferenceCatalogue, facts: Mapping[str, Any]) -> bool:
    return all(getattr(catalogue, fact) == value for fact, value in facts.items())


@transaction.atomic
def _described(catalogue: ReferenceCatalogue, facts: Mapping[str, Any]) -> Import:
    if _has(catalogue, facts):
        return Import(catalogue, Outcome.UNCHANGED)
    return Import(_updated(catalogue, facts, Outcome.DESCRIBED), Outcome.DESCRIBED)


@transaction.atomic
def _record(found: ReadCatalogue, facts: Mapping[str, Any], content: Mapping[str, Any], progress: Progress) -> Import:
    written = {
        **facts,
        **content,
        "n_rows": found.n_rows,
        "n_sources": len(found.sources),
        "left_out": found.left_out,
        "imported_at": timezone.now(),
    }
    # Whoever else imports under this name waits here, and then replaces what this one wrote.
    catalogue, is_new = ReferenceCatalogue.objects.select_for_update().get_or_create(
        name=facts["name"], defaults=written
    )
    outcome = Outcome.IMPORTED if is_new else Outcome.REPLACED
    catalogue.sources.all().delete()
    _updated(catalogue, written, outcome)
    batches = [slice(first, first + BATCH_ROWS) for first in range(0, len(found.sources), BATCH_ROWS)]
    for batch in progress(batches, "write"):
        _insert(catalogue, found.sources.at(batch))
    return Import(catalogue, outcome)


def _updated(catalogue: ReferenceCatalogue, facts: Mapping[str, Any], outcome: Outcome) -> ReferenceCatalogue:
    for fact, value in facts.items():
        setattr(catalogue, fact, value)
    catalogue.save()
    details = {"outcome": outcome, "checksum": catalogue.checksum, "n_sources": catalogue.n_sources}
    audit(action="reference_catalogue.import", subject=catalogue, details={"name": catalogue.name, **details})
    return catalogue


def _insert(catalogue: ReferenceCatalogue, sources: ReferenceRows) -> None:
    columns = {name: _nullable(values.tolist()) for name, values in vars(sources).items()}
    columns["healpix"] = healpix_indices(sources.ra_deg, sources.dec_deg)
    insert_like(ReferenceSource(catalogue=catalogue), list(columns), zip(*columns.values(), strict=True))


def _nullable(values: list[Any]) -> list[Any]:
    return [None if value != value else value for value in values]  # NaN is not itself


def _facts(name: str, frequency_hz: float | None, epoch_jyear: float | None, note: str) -> dict[str, Any]:
    if not name.strip() or len(name) > LONGEST_NAME or not name.isprintable():
        raise UnusableFact(f"{name!r} is no name of a catalogue; give 1 to {LONGEST_NAME} characters, such as NVSS.")
    if len(note) > LONGEST_NOTE or not note.isprintable():
        raise UnusableFact(f"The note is not one line of at most {LONGEST_NOTE} characters; shorten it.")
    _refuse_outside(frequency_hz, FREQUENCIES_HZ, "frequency", "Hz")
    _refuse_outside(epoch_jyear, EPOCHS_JYEAR, "epoch", "as a Julian year")
    return {"name": name, "frequency_hz": frequency_hz, "epoch_jyear": epoch_jyear, "note": note}


def _refuse_outside(value: float | None, limits: tuple[float, float], what: str, unit: str) -> None:
    if value is not None and not limits[0] <= value <= limits[1]:
        raise UnusableFact(f"The {what} {value:g} is not in {limits[0]:g} to {limits[1]:g} {unit}; correct it.")
