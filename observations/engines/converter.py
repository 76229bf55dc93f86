"""UVH5 subband files of one tile -> one measurement set, with pyuvdata.

Frequency ascending in one spectral window (channels keep their subband through their frequency), phased to the ICRS
position on the meridian at mid-tile, antennas without any data left out, NaN visibilities flagged. Antennas have the
telescope's names and are numbered 0, 1, ... in the order of its numbers.
Autocorrelations stay in the set as rows of their own; the solver and the imagers do not read them.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC
from importlib.metadata import version
from pathlib import Path

import numpy as np
from astropy.time import Time
from pyuvdata import UVData

from contimg.exceptions import EngineFailed
from observations.engines.measurement_set import content_checksum, require_space
from observations.engines.subband_data import read_subband
from observations.engines.uvh5_header import parse_name
from observations.telescope import INTEGRATION_S, meridian_icrs, use_bundled_iers

SAME_CHANNEL = 0.99  # of the channel width: what a header rounds
SAME_UVW_M = 1e-3  # 0.1 arcsec on the longest baseline
BYTES_PER_VISIBILITY = 13  # 8 for DATA, 4 for WEIGHT_SPECTRUM, 1 for FLAG; measured 12.3


class SubbandsDisagree(EngineFailed):
    code = "subbands_disagree"


class AllFlagged(EngineFailed):
    code = "all_flagged"


@dataclass(frozen=True, kw_only=True)
class ConvertedSet:
    """What was written."""

    checksum: str
    mid_jd: float
    duration_s: float
    integration_s: float
    ra_deg: float
    dec_deg: float
    frequency_hz: float
    bandwidth_hz: float
    n_channels: int
    antennas: tuple[str, ...]
    antennas_left_out: tuple[str, ...]
    nan_fraction: float
    flagged_fraction: float


def versions() -> dict[str, str]:
    return {name: version(name) for name in ("pyuvdata", "python-casacore", "astropy")}


def convert(*, files: Sequence[Path], pointing_dec_deg: float, output: Path) -> ConvertedSet:
    """Write `output` (a measurement set) from the subband files of one tile that was observed at that declination.

    Raises the errors of `read_subband`, SubbandsDisagree when the files are not of one observation (other antennas,
    times, phase centres; the same frequency twice), AllFlagged when no antenna has data, DiskFull before it writes.
    """
    use_bundled_iers()
    uv = _read(files)
    nan_fraction = _flag_bad_values(uv)
    left_out = _leave_out_dead_antennas(uv)
    times = np.unique(uv.time_array)
    mid_jd = float(times[0] + times[-1]) / 2
    ra_deg, dec_deg = _phase_to_meridian(uv, mid_jd, pointing_dec_deg)
    flagged = float(uv.flag_array[uv.ant_1_array != uv.ant_2_array].mean())
    width = float(np.median(uv.channel_width))
    facts = ConvertedSet(
        checksum="",
        mid_jd=mid_jd,
        duration_s=float(np.ptp(times) * 86400 + uv.integration_time[0]),
        integration_s=float(uv.integration_time[0]),
        ra_deg=ra_deg,
        dec_deg=dec_deg,
        frequency_hz=float(uv.freq_array.mean()),
        bandwidth_hz=width * uv.Nfreqs,
        n_channels=uv.Nfreqs,
        antennas=_used_antennas(uv),
        antennas_left_out=left_out,
        nan_fraction=nan_fraction,
        flagged_fraction=flagged,
    )
    _number_antennas_without_gaps(uv)
    require_space(output.parent, BYTES_PER_VISIBILITY * uv.data_array.size)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # uneven channel spacing where a subband is missing is meant
        uv.write_ms(str(output), clobber=False, run_check=False)
    return _with_checksum(facts, output)


def _with_checksum(facts: ConvertedSet, output: Path) -> ConvertedSet:
    return ConvertedSet(**{**vars(facts), "checksum": content_checksum(output)})


def _read(files: Sequence[Path]) -> UVData:
    """All files as one UVData, frequency ascending."""
    parts = [read_subband(path) for path in files]
    _refuse_other_observation(files, parts)
    order = sorted(range(len(parts)), key=lambda i: float(parts[i].freq_array[0]))
    files, parts = [files[i] for i in order], [parts[i] for i in order]
    _refuse_overlap(files, parts)
    _refuse_wrong_numbers(files)
    first = parts[0]
    if len(parts) > 1:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            first.fast_concat(parts[1:], axis="freq", inplace=True, run_check=False)
    return first


def _refuse_other_observation(files: Sequence[Path], parts: Sequence[UVData]) -> None:
    """Name the file that is unlike most. Compared with the first file, a wrong first file would blame a good one."""
    usual = max(range(len(parts)), key=lambda i: sum(_same_observation(parts[i], part) for part in parts))
    for path, part in zip(files, parts, strict=True):
        if not _same_baselines(part, parts[usual]):
            raise SubbandsDisagree(
                f"{path.name} has {part.Nants_data} antennas and other baselines than {files[usual].name} with "
                f"{parts[usual].Nants_data}; the files are not of one observation. Take the wrong one away and index "
                "again."
            )
        if not _same_times(part, parts[usual]):
            raise SubbandsDisagree(
                f"{path.name} and {files[usual].name} were integrated at other times; the files are not of one "
                "observation. Take the wrong one away and index again."
            )
        if not _same_phase_centre(part, parts[usual]):
            raise SubbandsDisagree(
                f"{path.name} and {files[usual].name} are phased to other directions; the files are not of one "
                "observation. Take the wrong one away and index again."
            )


def _refuse_overlap(files: Sequence[Path], parts: Sequence[UVData]) -> None:
    """Channels nearer than their width are the same part of the spectrum twice. Files in order of frequency."""
    frequency, width = (np.concatenate([getattr(p, name) for p in parts]) for name in ("freq_array", "channel_width"))
    owner = np.repeat(np.arange(len(parts)), [part.Nfreqs for part in parts])
    twice = np.flatnonzero(np.diff(frequency) < SAME_CHANNEL * (width[1:] + width[:-1]) / 2)
    if twice.size:
        one, other = files[owner[twice[0]]], files[owner[twice[0] + 1]]
        where = f"{one.name} has a frequency" if one == other else f"{one.name} and {other.name} have frequencies"
        raise SubbandsDisagree(
            f"{where} near {frequency[twice[0]] / 1e6:.3f} MHz more than once: a copy, or a wrong header. Take the "
            "wrong file away and index again."
        )


def _refuse_wrong_numbers(files: Sequence[Path]) -> None:
    """Subband 0 is the highest; either a name or a frequency is wrong. Files in order of frequency."""
    numbered = sorted(files, key=lambda path: -parse_name(path.name)[1])
    wrong = [path.name for path, other in zip(files, numbered, strict=True) if path != other]
    if wrong:
        raise SubbandsDisagree(
            f"The subband numbers of {', '.join(sorted(wrong))} are not in the order of their frequencies, so that "
            "names or headers are wrong. Put them right and index again."
        )


def _same_observation(one: UVData, other: UVData) -> bool:
    return _same_baselines(one, other) and _same_times(one, other) and _same_phase_centre(one, other)


def _same_baselines(one: UVData, other: UVData) -> bool:
    return np.array_equal(one.ant_1_array, other.ant_1_array) and np.array_equal(one.ant_2_array, other.ant_2_array)


def _same_times(one: UVData, other: UVData) -> bool:
    return bool(np.abs(one.time_array - other.time_array).max() * 86400 < INTEGRATION_S / 2)


def _same_phase_centre(one: UVData, other: UVData) -> bool:
    return bool(np.abs(one.uvw_array - other.uvw_array).max() < SAME_UVW_M)


def _flag_bad_values(uv: UVData) -> float:
    """Flag and blank NaN and infinite visibilities; returns their fraction."""
    bad = ~np.isfinite(uv.data_array)
    fraction = float(bad.mean())
    if fraction:
        uv.data_array[bad] = 0
        uv.flag_array |= bad
    return fraction


def _leave_out_dead_antennas(uv: UVData) -> tuple[str, ...]:
    """Drop antennas whose visibilities are all zero or flagged. Raises AllFlagged when fewer than two are left."""
    has_data = ((uv.data_array != 0) & ~uv.flag_array).any(axis=(1, 2))
    cross = uv.ant_1_array != uv.ant_2_array
    present = np.union1d(uv.ant_1_array, uv.ant_2_array)
    alive = np.union1d(uv.ant_1_array[has_data & cross], uv.ant_2_array[has_data & cross])
    if alive.size < 2:
        raise AllFlagged("All data of the tile are flagged or zero; there is nothing to convert.")
    dead = np.setdiff1d(present, alive)
    if dead.size:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            uv.select(antenna_nums=alive, run_check=False)
    names = dict(zip(uv.telescope.antenna_numbers, uv.telescope.antenna_names, strict=True))
    return tuple(str(names[number]) for number in dead)


def _used_antennas(uv: UVData) -> tuple[str, ...]:
    names = dict(zip(uv.telescope.antenna_numbers, uv.telescope.antenna_names, strict=True))
    return tuple(str(names[number]) for number in np.union1d(uv.ant_1_array, uv.ant_2_array))


def _number_antennas_without_gaps(uv: UVData) -> None:
    """A number is a row of the set's ANTENNA table. pyuvdata fills the gaps with rows that have no name and lie at the
    centre of the Earth; its calibration tables would have antennas that cannot be told apart.
    """
    numbers = np.asarray(uv.telescope.antenna_numbers)
    ascending = np.sort(numbers)
    uv.telescope.antenna_numbers = np.searchsorted(ascending, numbers)
    uv.ant_1_array, uv.ant_2_array = (np.searchsorted(ascending, used) for used in (uv.ant_1_array, uv.ant_2_array))
    uv.baseline_array = uv.antnums_to_baseline(uv.ant_1_array, uv.ant_2_array)


def _phase_to_meridian(uv: UVData, mid_jd: float, pointing_dec_deg: float) -> tuple[float, float]:
    middle = Time(mid_jd, format="jd", scale="utc").to_datetime(timezone=UTC)
    ra_deg, dec_deg = (float(value[0]) for value in meridian_icrs([middle], [pointing_dec_deg]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        uv.phase(
            cat_name="tile",
            cat_type="sidereal",
            phase_frame="icrs",
            lon=np.radians(ra_deg),
            lat=np.radians(dec_deg),
        )
    return ra_deg, dec_deg
