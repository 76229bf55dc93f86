"""Reading and writing CASA measurement sets with python-casacore; no other module touches their tables."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
from casacore.tables import table

from contimg.exceptions import DiskFull, EngineFailed

ROWS_AT_ONCE = 20_000
SPARE_BYTES = 2_000_000  # for what rounds up
CHECKSUM_COLUMNS = ("TIME", "ANTENNA1", "ANTENNA2", "UVW", "DATA", "FLAG", "WEIGHT_SPECTRUM")


class BrokenMeasurementSet(EngineFailed):
    code = "measurement_set_broken"


@dataclass(frozen=True)
class Header:
    """The small facts of a measurement set that engines need."""

    antenna_names: tuple[str, ...]
    antenna_positions_m: np.ndarray  # (antenna, 3) ITRF
    frequency_hz: np.ndarray  # (channel,) ascending
    channel_width_hz: float
    integration_s: float
    times_s: np.ndarray  # (integration,) MJD seconds, UTC, middles
    ra_rad: float  # phase centre, ICRS, in [0, 2 pi)
    dec_rad: float
    n_rows: int

    @property
    def mid_mjd(self) -> float:
        return float((self.times_s[0] + self.times_s[-1]) / 2 / 86400)


def open_table(path: Path, subtable: str = "", readonly: bool = True) -> table:
    """A casacore table. Raises BrokenMeasurementSet when there is none or it cannot be read."""
    name = f"{path}::{subtable}" if subtable else str(path)
    try:
        return table(name, readonly=readonly, ack=False, lockoptions="auto")
    except RuntimeError as error:
        raise BrokenMeasurementSet(
            f"{path.name} is not a readable measurement set; delete it and run `process`, which makes it again."
        ) from error


def read_header(path: Path) -> Header:
    with open_table(path, "ANTENNA") as antenna, open_table(path, "SPECTRAL_WINDOW") as window:
        names, positions = antenna.getcol("NAME"), antenna.getcol("POSITION")
        frequency, width = window.getcell("CHAN_FREQ", 0), window.getcell("CHAN_WIDTH", 0)
    names, positions = _place_unnamed(names, positions)
    with open_table(path, "FIELD") as field:
        ra, dec = field.getcell("PHASE_DIR", 0)[0]
    with open_table(path) as main:
        times, integration, rows = np.unique(main.getcol("TIME")), float(main.getcell("INTERVAL", 0)), main.nrows()
    return Header(
        antenna_names=tuple(names),
        antenna_positions_m=positions,
        frequency_hz=np.asarray(frequency),
        channel_width_hz=float(np.abs(np.median(width))),
        integration_s=integration,
        times_s=times,
        ra_rad=float(ra % (2 * np.pi)),
        dec_rad=float(dec),
        n_rows=rows,
    )


def _place_unnamed(names: list[str], positions: np.ndarray) -> tuple[list[str], np.ndarray]:
    """Names of their own, and a place in the array, for antennas that are only gaps in the telescope's numbers.

    Sets that were converted before the converter numbered antennas itself have such rows, named '' and at the centre
    of the Earth: a table cannot have the same name twice, and the longest baseline would be the Earth's radius.
    """
    is_gap = np.array([name == "" for name in names])
    places = np.where(is_gap[:, None], np.median(positions[~is_gap], axis=0), positions)
    return [name or f"gap{number}" for number, name in enumerate(names)], places


@dataclass(frozen=True)
class Rows:
    """A block of rows, all of one kind of data. `time_index` counts integrations of the whole set."""

    first_row: int
    data: np.ndarray  # (row, channel, polarization) complex64
    flags: np.ndarray  # same shape, bool
    weights: np.ndarray  # same shape, float32
    uvw_m: np.ndarray  # (row, 3)
    antenna1: np.ndarray
    antenna2: np.ndarray
    time_index: np.ndarray

    @property
    def is_cross(self) -> np.ndarray:
        return self.antenna1 != self.antenna2


def read_rows(path: Path, rows_at_once: int = ROWS_AT_ONCE) -> Iterator[Rows]:
    """All rows in blocks of bounded memory, in the order on disk, autocorrelations included."""
    with open_table(path) as main:
        times = np.unique(main.getcol("TIME"))
        for start in range(0, main.nrows(), rows_at_once):
            yield _rows(main, times, start, min(rows_at_once, main.nrows() - start))


def _rows(main: table, times: np.ndarray, start: int, count: int) -> Rows:
    def column(name: str) -> np.ndarray:
        return main.getcol(name, start, count)

    return Rows(
        first_row=start,
        data=column("DATA"),
        flags=column("FLAG"),
        weights=column("WEIGHT_SPECTRUM"),
        uvw_m=column("UVW"),
        antenna1=column("ANTENNA1"),
        antenna2=column("ANTENNA2"),
        time_index=np.searchsorted(times, column("TIME")),
    )


def require_space(folder: Path, size_bytes: float) -> None:
    """Raises DiskFull unless so much is free: casacore that meets a full disk ends the whole process (SIGABRT)."""
    if shutil.disk_usage(folder).free < size_bytes + SPARE_BYTES:
        raise DiskFull(
            f"Writing a measurement set takes {size_bytes / 1e6:.0f} MB and the disk has less; nothing was recorded. "
            "Free some space and run again."
        )


def copy_with(path: Path, output: Path, blocks: Iterator[tuple[Rows, np.ndarray, np.ndarray]]) -> None:
    """A copy of a measurement set with new DATA and FLAG, given block by block; `path` is not touched.

    Raises DiskFull before it begins.
    """
    require_space(output.parent, sum(file.stat().st_size for file in path.rglob("*") if file.is_file()))
    with open_table(path) as source:
        source.copy(str(output), deep=True, valuecopy=False).close()
    with open_table(output, readonly=False) as main:
        for rows, data, flags in blocks:
            count = data.shape[0]
            main.putcol("DATA", data, rows.first_row, count)
            main.putcol("FLAG", flags, rows.first_row, count)


def content_checksum(path: Path) -> str:
    """SHA-256 over the visibilities and their coordinates; history and file dates are left out."""
    digest = hashlib.sha256()
    with open_table(path) as main:
        for start in range(0, main.nrows(), ROWS_AT_ONCE):
            for name in CHECKSUM_COLUMNS:
                digest.update(np.ascontiguousarray(main.getcol(name, start, ROWS_AT_ONCE)).data)
    with open_table(path, "SPECTRAL_WINDOW") as window:
        digest.update(np.ascontiguousarray(window.getcell("CHAN_FREQ", 0)).data)
    return digest.hexdigest()


def casacore_versions() -> dict[str, str]:
    return {"python-casacore": version("python-casacore")}
