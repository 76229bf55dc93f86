"""Flag outliers of a raw measurement set: MAD clips per baseline, then per integration and channel over the array.

The flags go to a file of their own (HDF5, dataset `flags`, one boolean per row, channel and polarization, in the
set's row order); the measurement set is not touched.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import h5py
import numpy as np
from scipy.ndimage import median_filter

from contimg.exceptions import EngineFailed
from observations.engines.measurement_set import ROWS_AT_ONCE, BrokenMeasurementSet, Header, read_header, read_rows

MAD_TO_SIGMA = 1.4826
TOUCHING_S = 1e-3  # an interval that ends where an integration begins does not touch it; times are rounded


class AllFlagged(EngineFailed):
    code = "all_flagged"


@dataclass(frozen=True, kw_only=True)
class FlaggingParameters:
    """Clips in robust standard deviations; a channel or antenna above its fraction is flagged whole.

    Amplitudes of pure noise are Rayleigh distributed: 6 of their robust sigmas above the median is passed by two
    visibilities in a million.
    """

    baseline_sigma: float = 6.0
    array_sigma: float = 6.0
    channel_fraction: float = 0.6
    antenna_fraction: float = 0.8


@dataclass(frozen=True, kw_only=True)
class StaffFlag:
    """Data of an antenna ("": of all) that staff know to be bad, from `start_s` to before `end_s` (MJD seconds, UTC).

    `id` and `reason` are for the record.
    """

    antenna: str
    start_s: float
    end_s: float
    id: int = 0
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Flagging:
    """Fractions over cross-correlations. `antenna_fractions` by name; `channel_fractions` frequency ascending."""

    checksum: str
    flagged_fraction: float
    antenna_fractions: dict[str, float]
    channel_fractions: list[float]
    staff: tuple[StaffFlag, ...] = ()


def versions() -> dict[str, str]:
    return {"flagger": "mad-1", "numpy": version("numpy")}


def flag(
    *, measurement_set: Path, output: Path, parameters: FlaggingParameters, staff: Sequence[StaffFlag] = ()
) -> Flagging:
    """Write the flags of `measurement_set` to `output` (HDF5).

    What `staff` flag is left out of what outliers are judged by.

    Raises AllFlagged when no cross-correlation is left.
    """
    header = read_header(measurement_set)
    amplitude, flags, antenna1, antenna2 = _load(measurement_set, header)
    cross = antenna1 != antenna2
    flags |= ~np.isfinite(amplitude) | (amplitude == 0)
    known_bad = _known_bad(staff, header, antenna1, antenna2)
    flags[known_bad] = True
    _clip_baselines(amplitude, flags, parameters.baseline_sigma)
    _clip_array(amplitude, flags, cross, parameters.array_sigma)
    _extend(flags, cross & ~known_bad, antenna1, antenna2, parameters)
    if flags[:, cross].all():
        raise AllFlagged(
            "All visibilities of the tile are flagged; look at its raw data and at what staff have flagged."
        )
    packed = flags.reshape(header.n_rows, *flags.shape[2:])
    with h5py.File(output, "w") as file:
        file.create_dataset("flags", data=packed, compression="lzf", chunks=True)
    return Flagging(
        checksum=hashlib.sha256(np.packbits(packed).tobytes()).hexdigest(),
        flagged_fraction=float(flags[:, cross].mean()),
        antenna_fractions=_antenna_fractions(flags, antenna1, antenna2, header.antenna_names),
        channel_fractions=[round(float(x), 6) for x in flags[:, cross].mean(axis=(0, 1, 3))],
        staff=tuple(staff),
    )


def read_flags(path: Path, first_row: int, count: int) -> np.ndarray:
    """Flags of some rows, shape (row, channel, polarization)."""
    with h5py.File(path, "r") as file:
        return file["flags"][first_row : first_row + count]


def content_checksum(path: Path) -> str:
    """That of `flag`, over the flags in the order on disk, read in blocks."""
    digest = hashlib.sha256()
    with h5py.File(path, "r") as file:
        for start in range(0, file["flags"].shape[0], ROWS_AT_ONCE):  # whole bytes: a multiple of eight rows
            digest.update(np.packbits(file["flags"][start : start + ROWS_AT_ONCE]).tobytes())
    return digest.hexdigest()


def _load(path: Path, header: Header) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Amplitudes and flags, shape (integration, baseline, channel, polarization), and the baselines' antennas."""
    n_times = header.times_s.size
    if header.n_rows % n_times:
        raise BrokenMeasurementSet(f"{path.name} has baselines that are not there at every integration.")
    amplitudes, flags, firsts, seconds = [], [], [], []
    for rows in read_rows(path):
        amplitudes.append(np.abs(rows.data))
        flags.append(rows.flags)
        firsts.append(rows.antenna1)
        seconds.append(rows.antenna2)
    n_baselines = header.n_rows // n_times
    shape = (n_times, n_baselines, *amplitudes[0].shape[1:])
    antenna1, antenna2 = (np.concatenate(x).reshape(n_times, n_baselines) for x in (firsts, seconds))
    if (antenna1 != antenna1[0]).any() or (antenna2 != antenna2[0]).any():
        raise BrokenMeasurementSet(f"{path.name} has its baselines in another order at some integration.")
    return np.concatenate(amplitudes).reshape(shape), np.concatenate(flags).reshape(shape), antenna1[0], antenna2[0]


def _known_bad(staff: Sequence[StaffFlag], header: Header, antenna1: np.ndarray, antenna2: np.ndarray) -> np.ndarray:
    """Rows that staff flag, shape (integration, baseline): every integration of which a part is in the interval."""
    bad = np.zeros((header.times_s.size, antenna1.size), dtype=bool)
    half_s = header.integration_s / 2 - TOUCHING_S
    for known in staff:
        during = (header.times_s + half_s > known.start_s) & (header.times_s - half_s < known.end_s)
        numbers = [i for i, name in enumerate(header.antenna_names) if known.antenna in ("", name)]
        bad |= during[:, None] & (np.isin(antenna1, numbers) | np.isin(antenna2, numbers))
    return bad


def _clip_baselines(amplitude: np.ndarray, flags: np.ndarray, sigma: float) -> None:
    """Flag visibilities far above their baseline's own median over time and channel. In place."""
    for baseline in range(amplitude.shape[1]):
        block, flagged = amplitude[:, baseline], flags[:, baseline]
        for pol in range(block.shape[-1]):
            good = block[..., pol][~flagged[..., pol]]
            if good.size:
                median = np.median(good)
                spread = MAD_TO_SIGMA * np.median(np.abs(good - median))
                flagged[..., pol] |= block[..., pol] > median + sigma * spread


def _clip_array(amplitude: np.ndarray, flags: np.ndarray, cross: np.ndarray, sigma: float) -> None:
    """Flag integrations and channels in which the whole array is too loud: weak interference seen by all. In place."""
    kept = np.where(flags[:, cross], np.nan, amplitude[:, cross])
    level = _nanmedian(kept, axis=(0, 2), keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        loudness = _nanmean(kept / level, axis=1)  # (integration, channel, polarization)
    for pol in range(loudness.shape[-1]):
        plane = loudness[..., pol]
        by_channel = _nanmedian(plane, axis=0)
        expected = np.where(np.isfinite(by_channel), by_channel, _nanmedian(by_channel))
        expected = median_filter(expected, size=min(9, expected.size), mode="nearest")
        excess = plane - expected
        spread = MAD_TO_SIGMA * _nanmedian(np.abs(excess - _nanmedian(excess)))
        loud = np.nan_to_num(excess) > max(sigma * spread, 0.02)
        flags[np.broadcast_to(loud[:, None, :, None], flags.shape)] = True


def _nanmedian(values: np.ndarray, **options) -> np.ndarray:
    """As numpy.nanmedian, without its warning where all are missing (then NaN)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return np.nanmedian(values, **options)


def _nanmean(values: np.ndarray, axis: int) -> np.ndarray:
    """As numpy.nanmean, without its warning where all are missing (then NaN)."""
    good = np.isfinite(values)
    count = good.sum(axis=axis)
    total = np.where(good, values, 0).sum(axis=axis)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _extend(
    flags: np.ndarray, judged: np.ndarray, antenna1: np.ndarray, antenna2: np.ndarray, parameters: FlaggingParameters
) -> None:
    """Flag whole channels and antennas of which too little is left of what is `judged`: (integration, baseline)."""
    if not judged.any():
        return
    flags[:, :, flags[judged].mean(axis=(0, 2)) > parameters.channel_fraction] = True
    for antenna in np.unique(antenna1):
        own = judged & ((antenna1 == antenna) | (antenna2 == antenna))
        if own.any() and flags[own].mean() > parameters.antenna_fraction:
            flags[:, (antenna1 == antenna) | (antenna2 == antenna)] = True


def _antenna_fractions(
    flags: np.ndarray, antenna1: np.ndarray, antenna2: np.ndarray, names: tuple[str, ...]
) -> dict[str, float]:
    """Flagged fraction of each antenna's cross-correlations, for the antennas in the data."""
    by_baseline = flags.mean(axis=(0, 2, 3))
    fractions = {}
    for antenna in np.union1d(antenna1, antenna2):
        own = (antenna1 != antenna2) & ((antenna1 == antenna) | (antenna2 == antenna))
        fractions[names[antenna]] = round(float(by_baseline[own].mean()), 6)
    return fractions
