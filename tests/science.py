"""Small simulated tiles and what the engines make of them, made once a session. A test that changes one copies it."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import astropy.units as u
import h5py
import numpy as np
import pytest
from astropy.coordinates import AltAz, SkyCoord
from astropy.time import Time
from casacore.tables import table
from scipy.special import j1

from calibration.engines.caltable import read_table
from calibration.engines.flagger import Flagging, FlaggingParameters, flag
from calibration.engines.model import CalibratorModel
from calibration.engines.solver import SolvedSet, SolvingParameters, solve
from observations.engines.converter import ConvertedSet, convert
from observations.engines.measurement_set import Rows, read_header
from observations.engines.night_plan import transit
from observations.engines.simulator import Instrument, SkySource, TilePlan, antenna_gains, simulate_tile
from observations.telescope import LATITUDE_DEG, LONGITUDE_DEG, location, meridian_icrs

SPEED_OF_LIGHT_M_S = 299_792_458.0
CALIBRATOR = SkySource("3C286", 202.7845329, 30.5091550, 0.0, flux_coefficients=(1.2481, -0.4507, -0.1798, 0.0357))
MODEL = CalibratorModel(CALIBRATOR.name, CALIBRATOR.ra_deg, CALIBRATOR.dec_deg, CALIBRATOR.flux_coefficients)
# Ten antennas numbered as on the telescope: with gaps between them and before the first.
GAPPED = (1, 2, 4, 8, 21, 22, 35, 60, 101, 116)
# A twentieth of the real noise: what is wrong shows above it.
QUIET = Instrument(n_antennas=10, channels_per_subband=2, sefd_jy=300.0, seed=3)
# Enough baselines that a 256 pixel image of three sources is clean.
IMAGED = Instrument(n_antennas=14, channels_per_subband=2, n_integrations=8, sefd_jy=300.0, seed=3)
TRANSIT, STRIP_DEC_DEG = transit(CALIBRATOR, datetime(2026, 3, 20, tzinfo=UTC))


def calibrator_plan(instrument: Instrument, **changes) -> TilePlan:
    """A tile centred on the calibrator's transit."""
    start = TRANSIT - timedelta(seconds=instrument.duration_s / 2)
    return TilePlan(**{"started_at": start, "pointing_dec_deg": STRIP_DEC_DEG, "sources": (CALIBRATOR,), **changes})


def field_plan(instrument: Instrument, *, hours: float = 1.0, offsets=(), **changes) -> TilePlan:
    """A tile of the calibrator's strip some hours later; sources at (degrees east, degrees north, Jy) of its centre."""
    start = TRANSIT + timedelta(hours=hours, seconds=-instrument.duration_s / 2)
    sources = tuple(
        SkySource(f"s{number}", place.ra.deg, place.dec.deg, flux)
        for number, (place, flux) in enumerate(
            (field_centre(instrument, start).spherical_offsets_by(east * u.deg, north * u.deg), flux)
            for east, north, flux in offsets
        )
    )
    return TilePlan(**{"started_at": start, "pointing_dec_deg": STRIP_DEC_DEG, "sources": sources, **changes})


def field_centre(instrument: Instrument, started_at: datetime) -> SkyCoord:
    middle = started_at + timedelta(seconds=instrument.duration_s / 2)
    ra, dec = meridian_icrs([middle], [STRIP_DEC_DEG])
    return SkyCoord(ra[0], dec[0], unit="deg")


@dataclass(frozen=True)
class Observed:
    """A simulated tile and its raw measurement set."""

    instrument: Instrument
    plan: TilePlan
    files: Sequence[Path]
    path: Path
    converted: ConvertedSet


def observe(folder: Path, instrument: Instrument, plan: TilePlan) -> Observed:
    files = simulate_tile(instrument, plan, folder)
    converted = convert(files=files, pointing_dec_deg=plan.pointing_dec_deg, output=folder / "raw.ms")
    return Observed(instrument, plan, files, folder / "raw.ms", converted)


def edited(path: Path, folder: Path, **columns) -> Path:
    """A copy of a measurement set with columns changed by functions of (values, antenna1, antenna2)."""
    copy = folder / f"edited_{path.name}"
    shutil.copytree(path, copy)
    with table(str(copy), readonly=False, ack=False) as main:
        antennas = main.getcol("ANTENNA1"), main.getcol("ANTENNA2")
        for name, change in columns.items():
            main.putcol(name, change(main.getcol(name), *antennas))
    return copy


def renumbered(files: Sequence[Path], folder: Path, numbers: Sequence[int]) -> list[Path]:
    """Copies of subband files in which the antennas 0, 1, ... have these numbers and their old names."""
    copies = [Path(shutil.copy2(path, folder)) for path in files]
    for path in copies:
        with h5py.File(path, "r+") as file:
            for name in ("antenna_numbers", "ant_1_array", "ant_2_array"):
                file["Header"][name][...] = np.asarray(numbers)[file["Header"][name][()]]
    return copies


def with_unnamed_antennas(path: Path, folder: Path, numbers: Sequence[int]) -> Path:
    """A copy of a measurement set as pyuvdata writes one of antennas with these numbers: gaps are unnamed rows at 0."""
    copy = edited(
        path,
        folder,
        ANTENNA1=lambda values, *_: np.asarray(numbers)[values],
        ANTENNA2=lambda values, *_: np.asarray(numbers)[values],
    )
    with table(str(copy / "ANTENNA"), readonly=False, ack=False) as antenna:
        names, positions = antenna.getcol("NAME"), antenna.getcol("POSITION")
        antenna.addrows(max(numbers) + 1 - len(names))
        place = dict(zip(numbers, names, strict=True))
        antenna.putcol("NAME", [place.get(row, "") for row in range(antenna.nrows())])
        spread = np.zeros((antenna.nrows(), 3))
        spread[list(numbers)] = positions
        antenna.putcol("POSITION", spread)
    return copy


def column(path: Path, name: str) -> np.ndarray:
    with table(str(path), ack=False) as main:
        return main.getcol(name)


# --- geometry by hand: AltAz and three lines of trigonometry, none of it shared with the simulator or the converter --
def local_axes_ecef() -> np.ndarray:
    """East, north and up at the array as rows in earth-centred coordinates."""
    lon, lat = np.radians([LONGITUDE_DEG, LATITUDE_DEG])
    return np.array(
        [
            [-np.sin(lon), np.cos(lon), 0],
            [-np.sin(lat) * np.cos(lon), -np.sin(lat) * np.sin(lon), np.cos(lat)],
            [np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)],
        ]
    )


def towards_ecef(times: Time, place: SkyCoord) -> np.ndarray:
    """Unit vectors to a place at times, (time, 3), from astropy's azimuth and altitude."""
    seen = place.transform_to(AltAz(obstime=times, location=location()))
    east, north = np.cos(seen.alt.rad) * np.sin(seen.az.rad), np.cos(seen.alt.rad) * np.cos(seen.az.rad)
    return np.stack([east, north, np.sin(seen.alt.rad)], axis=-1) @ local_axes_ecef()


def meridian_ecef(dec_deg: float) -> np.ndarray:
    south = np.radians(LATITUDE_DEG - dec_deg)
    return np.array([0.0, -np.sin(south), np.cos(south)]) @ local_axes_ecef()


def true_sky(tile: Observed, rows: Rows) -> np.ndarray:
    """Noiseless, uncorrupted visibilities of the rows, (row, channel); in CASA's sign, the conjugate of the UVH5's."""
    header = read_header(tile.path)
    times = Time(header.times_s / 86400, format="mjd", scale="utc")
    centre = towards_ecef(times, SkyCoord(header.ra_rad, header.dec_rad, unit="rad"))
    baseline_m = header.antenna_positions_m[rows.antenna2] - header.antenna_positions_m[rows.antenna1]
    total = np.zeros((len(baseline_m), header.frequency_hz.size), complex)
    for source in tile.plan.sources:
        towards = towards_ecef(times, SkyCoord(source.ra_deg, source.dec_deg, unit="deg"))
        path_m = np.einsum("rx,rx->r", baseline_m, (towards - centre)[rows.time_index])
        turns = path_m[:, None] * header.frequency_hz / SPEED_OF_LIGHT_M_S
        apparent = source.flux_at(header.frequency_hz) * beam_by_hand(towards, header.frequency_hz)
        total += apparent[rows.time_index] * np.exp(-2j * np.pi * turns)
    return total


def beam_by_hand(towards: np.ndarray, frequency_hz: np.ndarray) -> np.ndarray:
    """Airy pattern of the strip, (time, channel), of unit vectors (time, 3) in earth-centred coordinates."""
    sine = np.linalg.norm(np.cross(towards, meridian_ecef(STRIP_DEC_DEG)), axis=1)
    x = np.pi * 4.65 * sine[:, None] * frequency_hz / SPEED_OF_LIGHT_M_S
    return (2 * j1(x) / x) ** 2


def true_gains(tile: Observed) -> np.ndarray:
    """Shape (antenna, channel, polarization), conjugated as a measurement set's visibilities are."""
    gains = antenna_gains(tile.instrument, tile.plan.night, read_header(tile.path).frequency_hz)
    return np.conj(np.moveaxis(gains, 1, 2))


def relative_to(gains: np.ndarray, antenna: int) -> np.ndarray:
    return gains * np.conj(gains[antenna]) / np.abs(gains[antenna])


def gains_of(tables: SolvedSet) -> tuple[np.ndarray, np.ndarray]:
    """B times G and the flags of either, shape (antenna, channel, polarization)."""
    bandpass, gain = (read_table(table.path).solution for table in tables.tables)
    return bandpass.gains * gain.gains, bandpass.flags | gain.flags


# --- made once -------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="session")
def calibrator_tile(tmp_path_factory) -> Observed:
    """24 integrations of 3C286 in transit, alone in the sky, with a twentieth of the real noise."""
    return observe(tmp_path_factory.mktemp("calibrator"), QUIET, calibrator_plan(QUIET))


@pytest.fixture(scope="session")
def calibrator_flags(calibrator_tile, tmp_path_factory) -> tuple[Path, Flagging]:
    path = tmp_path_factory.mktemp("flags") / "flags.h5"
    return path, flag(measurement_set=calibrator_tile.path, output=path, parameters=FlaggingParameters())


@pytest.fixture(scope="session")
def calibrator_tables(calibrator_tile, calibrator_flags, tmp_path_factory) -> SolvedSet:
    return solved(calibrator_tile.path, calibrator_flags[0], tmp_path_factory.mktemp("tables"))


def solved(measurement_set: Path, flags: Path, folder: Path, **changes) -> SolvedSet:
    request = {
        "measurement_set": measurement_set,
        "flag_table": flags,
        "model": MODEL,
        "pointing_dec_deg": STRIP_DEC_DEG,
        "output_folder": folder,
        "parameters": SolvingParameters(),
    }
    return solve(**{**request, **changes})


@pytest.fixture(scope="session")
def field_tile(tmp_path_factory) -> Observed:
    """Two sources an hour after the calibrator, seen through the same gains."""
    plan = field_plan(QUIET, offsets=[(0.2, 0.1, 2.0), (-0.3, -0.2, 1.0)], noise_seed=1)
    return observe(tmp_path_factory.mktemp("field"), QUIET, plan)


@pytest.fixture(scope="session")
def field_flags(field_tile, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("field_flags") / "flags.h5"
    flag(measurement_set=field_tile.path, output=path, parameters=FlaggingParameters())
    return path


@pytest.fixture
def tiny_disk(tmp_path, settings) -> Iterator[Path]:
    """A file system of half a megabyte as products root. Mounting needs root; elsewhere the test says so."""
    place = tmp_path / "tiny"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=512k,nr_inodes=64", "tmpfs", str(place)]
    if os.geteuid() != 0 or shutil.which("mount") is None or subprocess.run(command, check=False).returncode:
        pytest.skip("mounting a small file system needs root")
    settings.CONTIMG_PRODUCTS_ROOT = place
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)
