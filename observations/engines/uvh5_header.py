"""What one UVH5 subband file says about itself, from its name and header alone (about 2 ms; no visibility is read).

Understands files of pyuvdata (`UVData.write_uvh5`, UVH5 1.x with a phase centre catalogue) and those of the correlator
itself, which predate the catalogue and keep the declination in `extra_keywords/phase_center_dec`.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from contimg.exceptions import InvalidInput, NotReadable
from observations.telescope import LATITUDE_DEG, apparent_dec_deg

NAME = re.compile(r"(?P<time>\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)_sb(?P<subband>0\d|1[0-5])\.hdf5")
HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
UNIX_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
UNIX_EPOCH_JD = 2440587.5
JD_YEAR_1950, JD_YEAR_2150 = 2433282.5, 2506331.5


class SubbandName(InvalidInput):
    """The file's name is not `{YYYY-MM-DDTHH:MM:SS}_sb{00..15}.hdf5`."""

    code = "subband_name"


class SubbandTruncated(InvalidInput):
    """HDF5, but the end is missing: cut off, or still being written."""

    code = "subband_truncated"


class SubbandNotHdf5(InvalidInput):
    code = "subband_not_hdf5"


class SubbandHeader(InvalidInput):
    """HDF5, but a field that we need is missing or makes no sense."""

    code = "subband_header"


class SubbandEmpty(InvalidInput):
    """No bytes, no integrations or no channels."""

    code = "subband_empty"


class SubbandNotAFile(InvalidInput):
    """A folder, pipe, socket or device with the name of a subband file; it is never opened."""

    code = "subband_not_a_file"


@dataclass(frozen=True, slots=True)
class SubbandHeaderFacts:
    """Times are UTC; `started_at` is the start of the first integration, to the millisecond."""

    subband: int
    named_at: datetime
    started_at: datetime
    duration_s: float
    integration_s: float
    n_integrations: int
    pointing_dec_deg: float
    frequency_hz: float
    n_channels: int
    n_antennas: int


def parse_name(name: str) -> tuple[datetime, int]:
    """The time and the subband in a file's name. Raises SubbandName."""
    match = NAME.fullmatch(name)
    try:
        if match:
            return datetime.fromisoformat(match["time"]).replace(tzinfo=UTC), int(match["subband"])
    except ValueError:  # a 13th month
        pass
    raise SubbandName(f"The name {name} is not of the form YYYY-MM-DDTHH:MM:SS_sb00.hdf5 (sb00 to sb15).")


def read_header(path: Path) -> SubbandHeaderFacts:
    """The facts of one file.

    Raises SubbandName, SubbandTruncated, SubbandNotHdf5, SubbandHeader, SubbandEmpty or NotReadable, each a sentence
    that names the file (not its folder).
    """
    named_at, subband = parse_name(path.name)
    with _opened(path) as file:
        try:
            return _facts(path.name, named_at, subband, file["Header"])
        except KeyError as error:
            raise SubbandHeader(f"The header of {path.name} cannot be used: {_missing(error)}.") from error
        except (AttributeError, IndexError, OverflowError, TypeError, ValueError) as error:
            raise SubbandHeader(
                f"The header of {path.name} cannot be used: a field is not the number or array that it should be."
            ) from error
        except (OSError, RuntimeError) as error:
            raise SubbandTruncated(f"The header of {path.name} cannot be read: the file is damaged.") from error


def _opened(path: Path) -> h5py.File:
    try:
        return h5py.File(path, "r", locking=False)
    except (FileNotFoundError, PermissionError, IsADirectoryError) as error:
        raise NotReadable(f"The file {path.name} cannot be opened: {error.strerror or 'no access'}.") from error
    except OSError as error:
        raise _why_not_hdf5(path) from error


def _why_not_hdf5(path: Path) -> InvalidInput:
    try:
        with path.open("rb") as file:
            start = file.read(len(HDF5_SIGNATURE))
    except OSError as error:
        return NotReadable(f"The file {path.name} cannot be read: {error.strerror or 'no access'}.")
    if not start:
        return SubbandEmpty(f"The file {path.name} is empty (0 bytes).")
    if HDF5_SIGNATURE.startswith(start):
        return SubbandTruncated(f"The file {path.name} is cut off or still being written; copy it again.")
    return SubbandNotHdf5(f"The file {path.name} is not an HDF5 file.")


def _facts(name: str, named_at: datetime, subband: int, header: h5py.Group) -> SubbandHeaderFacts:
    times, frequencies = header["time_array"], header["freq_array"]
    if not times.size or not frequencies.size:
        what = "integrations" if not times.size else "channels"
        raise SubbandEmpty(f"The file {name} holds no {what}.")
    integration_s = _within(name, "integration_time", _first(header["integration_time"]), 1e-6, 86400.0)
    first_mid, last_mid, n_integrations = _time_axis(header, times, integration_s)
    _within(name, "time_array", first_mid, JD_YEAR_1950, JD_YEAR_2150)
    _within(name, "time_array", last_mid, first_mid, first_mid + 1.0)
    return SubbandHeaderFacts(
        subband=subband,
        named_at=named_at,
        started_at=_start_of(first_mid, integration_s),
        duration_s=round((last_mid - first_mid) * 86400.0 + integration_s, 3),
        integration_s=integration_s,
        n_integrations=n_integrations,
        pointing_dec_deg=round(_within(name, "declination", _pointing_dec_deg(header), -90.0, 90.0), 6),
        frequency_hz=_within(name, "freq_array", float(np.mean(frequencies[()])), 1e6, 1e12),
        n_channels=int(frequencies.size),
        n_antennas=int(_within(name, "Nants_data", _first(header["Nants_data"]), 1, 32767)),
    )


def _time_axis(header: h5py.Group, times: h5py.Dataset, integration_s: float) -> tuple[float, float, int]:
    """First and last mid-time (JD) and number of integrations.

    In every usual order the ends of `time_array` are its extremes; it is 100 000 long, so it is read in full only where
    the ends do not agree with Ntimes.
    """
    n_integrations = int(_first(header["Ntimes"]))
    first, last = float(times[0]), float(times[-1])
    if abs((last - first) * 86400.0 / integration_s - (n_integrations - 1)) < 0.5:
        return first, last, n_integrations
    unique = np.unique(times[()])
    return float(unique[0]), float(unique[-1]), int(unique.size)


def _start_of(mid_jd: float, integration_s: float) -> datetime:
    # A Julian date in a double resolves 40 us: the digits below a millisecond are noise that would make two files
    # of one integration differ.
    seconds = (mid_jd - UNIX_EPOCH_JD) * 86400.0 - integration_s / 2.0
    return UNIX_EPOCH + timedelta(milliseconds=round(seconds * 1000.0))


def _pointing_dec_deg(header: h5py.Group) -> float:
    """Apparent declination of the dishes, from the most specific statement in the header.

    An `unprojected` catalogue entry is the zenith, not the pointing, so it does not count.
    """
    catalog = header.get("phase_center_catalog")
    for entry in catalog.values() if isinstance(catalog, h5py.Group) else ():
        if bytes(entry["cat_type"][()]) == b"driftscan":
            latitude = _first(header["latitude"]) if "latitude" in header else LATITUDE_DEG
            return apparent_dec_deg(
                math.degrees(_first(entry["cat_lon"])), math.degrees(_first(entry["cat_lat"])), latitude
            )
    for field in ("extra_keywords/phase_center_dec", "phase_center_app_dec"):
        if field in header:
            return math.degrees(_first(header[field]))
    raise KeyError("declination")


def _first(dataset: h5py.Dataset) -> float:
    """A field that some writers give as a number and others once per baseline and time."""
    return float(dataset[()] if dataset.shape == () else dataset[(0,) * len(dataset.shape)])


def _within(name: str, field: str, value: float, low: float, high: float) -> float:
    if not low <= value <= high:  # also refuses NaN
        raise SubbandHeader(f"The header of {name} cannot be used: {field} is {value:g}, not in {low:g} to {high:g}.")
    return value


def _missing(error: KeyError) -> str:
    text: Any = error.args[0] if error.args else ""
    quoted = re.search(r"'([^']+)'", str(text))
    return f"{quoted[1] if quoted else text} is missing"
