"""Tables as they come (FITS, VOTable, ECSV, CSV), seen as columns that are read a block of rows at a time.

A FITS file stays memory-mapped and a CSV is streamed, so memory does not grow with them. VOTable and ECSV have no such
readers and are held whole.
"""

from __future__ import annotations

import contextlib
import csv
import itertools
import re
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from astropy.io import fits, votable
from astropy.table import Table
from astropy.utils.exceptions import AstropyWarning

from contimg.exceptions import InvalidInput
from images.engines.fits import FITS_MAGIC

BLOCK_ROWS = 100_000
HEAD_BYTES = 4096
SAMPLE_ROWS = 1000  # that say whether a text column holds sexagesimal positions
DELIMITERS = ",\t;|"
SEXAGESIMAL = re.compile(r"\s*([-+−]?)\s*(\d{1,3})[\s:hd°]+(\d{1,2})[\s:m'′]+(\d{1,2}(?:\.\d*)?)[\s\"s″]*")
# What astropy is seen to raise on files that contradict themselves.
_PARSING_FAILURES = (
    OSError, EOFError, ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError,
    ValueError, fits.VerifyError, csv.Error,
)  # fmt: skip
Block: TypeAlias = dict[str, np.ma.MaskedArray]


class NotATable(InvalidInput):
    """Not FITS, VOTable, ECSV or CSV, or one without a table that can be read."""

    code = "catalogue_not_a_table"


@dataclass(frozen=True)
class Column:
    name: str
    unit: str = ""  # as written; empty where the file says none
    ucd: str = ""
    frame: str = ""  # of its coordinates, as written (COOSYS, RADESYS)
    is_sexagesimal: bool = False


class SourceTable(ABC):
    """`columns` are those with one value in a row."""

    name: str  # of the file, for sentences
    columns: tuple[Column, ...]

    def blocks(self, names: Sequence[str]) -> Iterator[Block]:
        """All rows in order, some of the columns: numbers as they are stored, or text. Raises NotATable."""
        with _parsing(self.name):
            yield from self._blocks(names)

    @abstractmethod
    def _blocks(self, names: Sequence[str]) -> Iterator[Block]: ...


def open_table(path: Path, name: str) -> SourceTable:
    """The first table with rows in a file that is not packed; `name` is for the sentences. Raises NotATable."""
    with _parsing(name):
        return _reader(path, name)


@contextlib.contextmanager
def _parsing(name: str) -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AstropyWarning)  # real catalogues break the standards in small ways
        try:
            yield
        except _PARSING_FAILURES as error:
            reason = " ".join(str(error).split())[:150]
            raise NotATable(
                f"{name} cannot be read as a table ({type(error).__name__}: {reason}); fetch it again, or give FITS,"
                " VOTable, CSV or ECSV."
            ) from error


def _reader(path: Path, name: str) -> SourceTable:
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    if head.startswith(FITS_MAGIC):
        return _fits(path, name)
    if b"<VOTABLE" in head.upper():
        return _votable(path, name)
    if head.startswith(b"# %ECSV"):
        table = Table.read(path, format="ascii.ecsv")
        return HeldTable(name, table, [Column(n, str(table[n].unit or "")) for n in table.colnames])
    if not head.strip() or b"\0" in head:
        what = "is not a table" if head.strip() else "is empty"
        raise NotATable(f"{name} {what}; give FITS, VOTable, CSV or ECSV.")
    return CsvTable(path, name)


# --- held by astropy ----------------------------------------------------------------------------------------------
class HeldTable(SourceTable):
    def __init__(self, name: str, table: Table, columns: Iterable[Column]) -> None:
        self.name = name
        self._table = table
        self.columns = tuple(
            Column(c.name, c.unit, c.ucd, c.frame, _is_sexagesimal(_text(table[c.name][:SAMPLE_ROWS])))
            for c in columns
            if table[c.name].ndim == 1
        )

    def _blocks(self, names: Sequence[str]) -> Iterator[Block]:
        for first in range(0, len(self._table), BLOCK_ROWS):
            rows = slice(first, first + BLOCK_ROWS)
            yield {name: _values(self._table[name][rows]) for name in names}


def _values(column: Any) -> np.ma.MaskedArray:
    return _text(column) if column.dtype.kind in "SUO" else np.ma.asarray(column)


def _text(column: Any) -> np.ma.MaskedArray:
    if column.dtype.kind not in "SUO":
        return np.ma.array([], dtype=str)
    values = np.ma.filled(np.ma.asarray(column), "" if column.dtype.kind != "S" else b"")
    return np.ma.array([v.decode("utf-8", "replace") if isinstance(v, bytes) else str(v) for v in values], dtype=str)


def _fits(path: Path, name: str) -> SourceTable:
    with fits.open(path, memmap=True) as hdus:
        index, hdu = next(
            ((i, h) for i, h in enumerate(hdus) if isinstance(h, fits.BinTableHDU | fits.TableHDU) and len(h.data)),
            (None, None),
        )
        if hdu is None:
            raise NotATable(f"{name} has no table with rows in it; give the FITS file of the catalogue.")
        header = hdu.header
        frame = f"{header.get('RADESYS', header.get('RADECSYS', ''))} {header.get('EQUINOX', '')}".strip()
        columns = [
            Column(c.name, c.unit or "", str(header.get(f"TUCD{number}", header.get(f"TBUCD{number}", ""))), frame)
            for number, c in enumerate(hdu.columns, start=1)
        ]
    # mask_invalid would read every column now, only to mask NaN, which is seen to later.
    table = Table.read(path, hdu=index, memmap=True, mask_invalid=False, character_as_bytes=True)
    return HeldTable(name, table, columns)


def _votable(path: Path, name: str) -> SourceTable:
    document = votable.parse(path, verify="ignore")
    tables = list(document.iter_tables())
    chosen = next((table for table in tables if len(table.array)), None) or document.get_first_table()
    table = chosen.to_table(use_names_over_ids=True)
    frames = {system.ID: f"{system.system or ''} {system.equinox or ''}".strip() for system in document.iter_coosys()}
    only = next(iter(frames.values())) if len(frames) == 1 else ""
    # to_table() makes names unique, in the order of the fields.
    fields = zip(table.colnames, chosen.fields, strict=True)
    columns = [Column(n, _written(f.unit), f.ucd or "", frames.get(f.ref, only)) for n, f in fields]
    return HeldTable(name, table, columns)


def _written(unit: Any) -> str:
    return "" if unit is None else str(getattr(unit, "name", None) or unit)


# --- streamed -----------------------------------------------------------------------------------------------------
class CsvTable(SourceTable):
    """A line of names, then rows, with commas, tabs, semicolons or bars between; lines that begin with # are comments.

    A row that is not as long as the line of names is empty here: its values may be in the wrong columns.
    """

    def __init__(self, path: Path, name: str) -> None:
        self.name = name
        self._path = path
        self._delimiter = self._find_delimiter()
        rows = self._rows()
        self._names = [cell.strip() for cell in next(rows)]
        twice = sorted({n for n in self._names if self._names.count(n) > 1})
        if twice:
            raise NotATable(f"{name} has several columns named {twice[0]!r}; give each a name of its own.")
        sample = list(zip(*itertools.islice(rows, SAMPLE_ROWS), strict=True)) or [()] * len(self._names)
        self.columns = tuple(
            Column(n, is_sexagesimal=_is_sexagesimal(values)) for n, values in zip(self._names, sample, strict=True)
        )

    def _find_delimiter(self) -> str:
        with self._open() as lines:
            first = next(_content(lines), "")
        delimiter = max(DELIMITERS, key=first.count)
        if delimiter not in first:
            raise NotATable(
                f"{self.name} has no line of column names with commas between; give FITS, VOTable, CSV or ECSV."
            )
        return delimiter

    def _open(self) -> Any:
        return self._path.open(encoding="utf-8-sig", errors="replace", newline="")

    def _rows(self) -> Iterator[list[str]]:
        """The names, then every row with as many cells."""
        with self._open() as lines:
            reader = csv.reader(_content(lines), delimiter=self._delimiter)
            names = next(reader)
            yield names
            for row in reader:
                extra = row[len(names) :]
                is_whole = len(row) >= len(names) and not any(extra)
                yield row[: len(names)] if is_whole else [""] * len(names)

    def _blocks(self, names: Sequence[str]) -> Iterator[Block]:
        places = [self._names.index(name) for name in names]
        rows = self._rows()
        next(rows)
        while block := list(itertools.islice(rows, BLOCK_ROWS)):
            yield {
                name: np.ma.array([row[place] for row in block], dtype=str)
                for name, place in zip(names, places, strict=True)
            }


def _content(lines: Iterable[str]) -> Iterator[str]:
    return (line for line in lines if line.strip() and not line.startswith("#"))


def _is_sexagesimal(values: Iterable[str]) -> bool:
    written = [value for value in values if value.strip()]
    return bool(written) and 2 * sum(SEXAGESIMAL.fullmatch(value) is not None for value in written) >= len(written)
