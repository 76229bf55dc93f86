"""Tiny calibrated measurement sets of point sources, made by the textbook formula and not by our simulator."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import astropy.units as u
import numpy as np
from astropy.coordinates import EarthLocation
from astropy.time import Time
from pyuvdata import Telescope, UVData, utils

from observations.telescope import use_bundled_iers

SPEED_OF_LIGHT_M_S = 299_792_458.0
INTEGRATION_S = 12.885
AUTOCORRELATION_JY = 1000.0  # would dominate every image that used it


def write_set(
    path: Path,
    *,
    ra_deg: float,
    dec_deg: float,
    sources: Sequence[tuple[float, float, float]] = (),
    noise_jy: float = 0.0,
    n_antennas: int = 30,
    n_times: int = 6,
    n_channels: int = 8,
    seed: int = 1,
    all_flagged: bool = False,
    nan_everywhere: bool = False,
) -> Path:
    """Two polarizations (XX, YY) of unpolarized `sources` (RA, dec, Jy); `noise_jy` is per visibility, |real|^2 mean.

    No primary beam, no smearing, antennas scattered over 2 km.
    """
    use_bundled_iers()
    rng = np.random.default_rng(seed)
    uv = UVData.new(
        freq_array=1.40e9 + 2e6 * np.arange(n_channels),
        channel_width=2e6,
        polarization_array=[-5, -6],
        times=_times_at_transit(ra_deg, n_times),
        integration_time=INTEGRATION_S,
        telescope=_telescope(n_antennas, rng),
        do_blt_outer=True,
        empty=True,
        vis_units="Jy",
    )
    uv.phase(lon=np.radians(ra_deg), lat=np.radians(dec_deg), phase_frame="icrs", cat_name="field")
    noise = rng.normal(0, noise_jy, (2, *uv.data_array.shape))
    uv.data_array = _visibilities(uv, ra_deg, dec_deg, sources) + noise[0] + 1j * noise[1]
    uv.data_array[uv.ant_1_array == uv.ant_2_array] = AUTOCORRELATION_JY
    if nan_everywhere:
        uv.data_array[:] = np.nan
    uv.flag_array[:] = all_flagged
    uv.nsample_array[:] = 1.0
    uv.write_ms(str(path), clobber=True)
    return path


def _location() -> EarthLocation:
    return EarthLocation.from_geodetic(-118.2817 * u.deg, 37.2339 * u.deg, 1222 * u.m)


def _times_at_transit(ra_deg: float, n_times: int) -> np.ndarray:
    start = Time(60000.0, format="mjd", scale="utc", location=_location())
    wait_days = ((ra_deg - start.sidereal_time("apparent").deg) % 360) / 360 * 0.99727
    offsets_s = (np.arange(n_times) - (n_times - 1) / 2) * INTEGRATION_S
    return (start + wait_days * u.day + offsets_s * u.s).jd


def _telescope(n_antennas: int, rng: np.random.Generator) -> Telescope:
    radius, angle = rng.uniform(30, 1000, n_antennas), rng.uniform(0, 2 * np.pi, n_antennas)
    enu = np.stack([radius * np.cos(angle), radius * np.sin(angle), np.zeros(n_antennas)], axis=1)
    location = _location()
    centre = np.array([axis.to_value(u.m) for axis in location.geocentric])
    return Telescope.new(
        name="DSA-110",
        instrument="DSA-110",
        location=location,
        antenna_positions=utils.ECEF_from_ENU(enu, center_loc=location) - centre,
        antenna_names=[f"pad{i}" for i in range(n_antennas)],
        antenna_numbers=np.arange(n_antennas),
        antenna_diameters=np.full(n_antennas, 4.65),
        feeds=["x", "y"],
        feed_angle=np.tile([np.pi / 2, 0.0], (n_antennas, 1)),
        mount_type="fixed",
    )


def _visibilities(uv: UVData, ra_deg: float, dec_deg: float, sources) -> np.ndarray:
    """S exp(2 pi i (u l + v m + w (n - 1))) in pyuvdata's convention, all polarizations alike."""
    total = np.zeros(uv.data_array.shape, dtype=complex)
    for source_ra, source_dec, flux_jy in sources:
        direction = _direction_cosines(source_ra, source_dec, ra_deg, dec_deg)
        turns = (uv.uvw_array @ direction)[:, None] * uv.freq_array / SPEED_OF_LIGHT_M_S
        total += (flux_jy * np.exp(2j * np.pi * turns))[..., None]
    return total


def _direction_cosines(ra_deg, dec_deg, centre_ra_deg, centre_dec_deg) -> np.ndarray:
    dra, dec, dec0 = np.radians(ra_deg - centre_ra_deg), np.radians(dec_deg), np.radians(centre_dec_deg)
    l_cosine = np.cos(dec) * np.sin(dra)
    m_cosine = np.sin(dec) * np.cos(dec0) - np.cos(dec) * np.sin(dec0) * np.cos(dra)
    return np.array([l_cosine, m_cosine, np.sqrt(1 - l_cosine**2 - m_cosine**2) - 1])
