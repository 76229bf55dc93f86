"""CASA calibration tables through pyuvdata's UVCal: written once, read back for applying."""

from __future__ import annotations

import hashlib
import warnings
from dataclasses import dataclass
from pathlib import Path

import astropy.units as u
import numpy as np
from astropy.coordinates import EarthLocation
from astropy.time import Time
from pyuvdata import Telescope, UVCal

from observations.engines.measurement_set import Header, open_table, require_space
from observations.telescope import DISH_DIAMETER_M, location


@dataclass(frozen=True)
class Solution:
    """Complex gains with V_observed = g_i conj(g_j) V_true; flagged ones are 1. Shapes (antenna, channel, pol)."""

    gains: np.ndarray
    flags: np.ndarray
    snr: np.ndarray


@dataclass(frozen=True)
class Table:
    """A table as read: what is needed to apply it. `frequency_hz` has one entry for a gain table."""

    kind: str
    antenna_names: tuple[str, ...]
    frequency_hz: np.ndarray
    solution: Solution


def write_table(path: Path, kind: str, solution: Solution, header: Header, reference: int, calibrator: str) -> str:
    """Write one table; returns its content checksum. Raises DiskFull before it begins."""
    require_space(path.parent, 20 * solution.gains.size)
    middle = Time(header.mid_mjd, format="mjd", scale="utc")
    wide_band = kind == "G"
    frequencies = (
        {"freq_range": header.frequency_hz[[0, -1]][None], "spw_array": np.array([0]), "wide_band": True}
        if wide_band
        else {"freq_array": header.frequency_hz, "channel_width": header.channel_width_hz, "wide_band": False}
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # uneven channel spacing where subbands are missing is meant
        cal = UVCal.new(
            telescope=_telescope(header),
            cal_style="sky",
            cal_type="gain",
            gain_convention="divide",
            jones_array=np.array([-5, -6]),
            time_array=np.array([middle.jd]),
            integration_time=np.array([header.integration_s * header.times_s.size]),
            ant_array=np.arange(len(header.antenna_names)),
            ref_antenna_name=header.antenna_names[reference],
            sky_catalog=calibrator,
            data={"gain_array": solution.gains[:, :, None, :], "flag_array": solution.flags[:, :, None, :]},
            history="contimg solver",
            **frequencies,
        )
        cal.write_ms_cal(str(path))
    with open_table(path, readonly=False) as table:
        table.putcol("SNR", solution.snr)
    return content_checksum(path)


def _telescope(header: Header) -> Telescope:
    centre: EarthLocation = location()
    return Telescope.new(
        name="DSA-110",
        location=centre,
        antenna_positions=header.antenna_positions_m - np.array([c.to_value(u.m) for c in centre.geocentric]),
        antenna_names=list(header.antenna_names),
        antenna_numbers=np.arange(len(header.antenna_names)),
        antenna_diameters=np.full(len(header.antenna_names), DISH_DIAMETER_M),
        mount_type="fixed",
        feeds=["x", "y"],
        x_orientation="east",
    )


def read_table(path: Path) -> Table:
    with open_table(path) as table:
        kind = table.getkeyword("VisCal")[0]
        order = np.argsort(table.getcol("ANTENNA1"))
        solution = Solution(
            gains=table.getcol("CPARAM")[order], flags=table.getcol("FLAG")[order], snr=table.getcol("SNR")[order]
        )
    with open_table(path, "ANTENNA") as antenna, open_table(path, "SPECTRAL_WINDOW") as window:
        names, frequency = tuple(antenna.getcol("NAME")), np.asarray(window.getcell("CHAN_FREQ", 0))
    return Table(kind=kind, antenna_names=names, frequency_hz=frequency, solution=solution)


def content_checksum(path: Path) -> str:
    """SHA-256 over the solutions; history and file dates are left out."""
    table = read_table(path)
    digest = hashlib.sha256(f"{table.kind} {table.antenna_names}".encode())
    for array in (table.frequency_hz, table.solution.gains, table.solution.flags, table.solution.snr):
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
