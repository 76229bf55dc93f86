"""Physically true drift tiles as UVH5 subband files, with the truth beside them.

The geometry is astropy's AltAz at every integration (no refraction), independent of the pyuvdata phasing that the
converter uses. Each antenna sees the sky through the same Airy beam, fixed to the meridian while the sky drifts
through. Visibilities are fringe-stopped to the meridian at each integration, as the correlator leaves them.

Not simulated: smearing within a channel (244 kHz) or an integration (12.9 s), polarized sources, the ionosphere, and
what the beam's sidelobes see.
"""

from __future__ import annotations

import functools
import warnings
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path

import astropy.units as u
import numpy as np
from astropy.coordinates import ICRS, SkyCoord
from astropy.time import Time
from pyuvdata import Telescope, UVData
from pyuvdata.utils import ECEF_from_ENU

from observations.engines.array_layout import antenna_names, antenna_positions_enu_m
from observations.engines.beam import SPEED_OF_LIGHT_M_S, airy_power
from observations.engines.failures import (
    ARTEFACT_JY,
    INTERFERENCE_JY,
    POINTING_ERROR_DEG,
    WRONG_STRIP_DEG,
    Kind,
    failing_antennas,
    gain_changes,
)
from observations.engines.geometry import directions_enu, meridian_enu
from observations.telescope import (
    CHANNEL_WIDTH_HZ,
    DISH_DIAMETER_M,
    INTEGRATION_S,
    LATITUDE_DEG,
    N_INTEGRATIONS,
    SUBBAND_WIDTH_HZ,
    TOP_FREQUENCY_HZ,
    location,
    meridian_icrs,
)

N_SUBBANDS = 16


@dataclass(frozen=True, kw_only=True)
class Instrument:
    """The array and receiver. `channels_per_subband` below 48 thins each subband: fewer channels of the true width."""

    n_antennas: int = 96
    channels_per_subband: int = 48
    n_integrations: int = N_INTEGRATIONS
    sefd_jy: float = 6500.0
    seed: int = 1

    @property
    def duration_s(self) -> float:
        return self.n_integrations * INTEGRATION_S

    def subband_frequencies_hz(self, subband: int) -> np.ndarray:
        """Channel centres of a subband, ascending, shape (channels_per_subband,); subband 0 is the highest."""
        centre = TOP_FREQUENCY_HZ - (subband + 0.5) * SUBBAND_WIDTH_HZ
        offset = np.arange(self.channels_per_subband) - (self.channels_per_subband - 1) / 2
        return centre + offset * CHANNEL_WIDTH_HZ


@dataclass(frozen=True)
class SkySource:
    """A point source; flux(nu) = flux_jy (nu / 1.4 GHz)^spectral_index, or a calibrator's published polynomial."""

    name: str
    ra_deg: float
    dec_deg: float
    flux_jy: float
    spectral_index: float = 0.0
    flux_coefficients: tuple[float, ...] = ()
    scale: float = 1.0  # this night's flux over the mean flux

    def flux_at(self, frequency_hz) -> np.ndarray:
        frequency = np.asarray(frequency_hz, dtype=float)
        if self.flux_coefficients:
            return 10 ** np.polynomial.polynomial.polyval(np.log10(frequency / 1e9), self.flux_coefficients)
        return self.scale * self.flux_jy * (frequency / 1.4e9) ** self.spectral_index


@dataclass(frozen=True, kw_only=True)
class TilePlan:
    """One tile to simulate. `night` numbers the gains; damage is what the issue of the night should be."""

    started_at: datetime
    pointing_dec_deg: float
    sources: tuple[SkySource, ...]
    night: int = 0
    noise_seed: int = 0
    missing_subbands: tuple[int, ...] = ()
    dead_antennas: tuple[int, ...] = ()
    rfi_fraction: float = 0.0
    name_skew_s: float = 0.0
    damage: tuple[str, ...] = field(default=())
    failures: tuple[Kind, ...] = ()


def antenna_gains(instrument: Instrument, night: int, frequency_hz: np.ndarray) -> np.ndarray:
    """True gains, shape (antenna, polarization, channel): delay, ripple, level; other by 1.5% and 2 deg each night."""
    rng = np.random.default_rng([instrument.seed, 1])
    shape = (instrument.n_antennas, 2, 1)
    level = np.exp(rng.normal(0, 0.1, shape)) * np.exp(1j * rng.uniform(-np.pi, np.pi, shape))
    delay_s = rng.normal(0, 3e-9, shape)
    ripple, ripple_phase = rng.uniform(0, 0.08, shape), rng.uniform(0, 2 * np.pi, shape)
    offset = frequency_hz - 1.405e9
    bandpass = (1 + ripple * np.cos(2 * np.pi * offset / 90e6 + ripple_phase)) * np.exp(2j * np.pi * delay_s * offset)
    nightly = np.random.default_rng([instrument.seed, 2, night])
    # two nights differ by the root of two times this
    change = np.exp(nightly.normal(0, 0.0106, shape)) * np.exp(1j * np.radians(nightly.normal(0, 1.41, shape)))
    return level * bandpass * change


def integration_times(instrument: Instrument, started_at: datetime) -> Time:
    """The middles of the integrations, shape (n_integrations,)."""
    start = Time(started_at, scale="utc")
    return start + (np.arange(instrument.n_integrations) + 0.5) * INTEGRATION_S * u.s


def simulate_tile(instrument: Instrument, plan: TilePlan, folder: Path) -> list[Path]:
    """Write the subband files of one tile (temporary name, then rename). Returns their paths, subband ascending."""
    if Kind.TRUNCATED_TILE in plan.failures:
        instrument = replace(instrument, n_integrations=max(1, instrument.n_integrations // 2))
    simulation = _Simulation(instrument, plan)
    written = []
    for subband in range(N_SUBBANDS):
        if subband in plan.missing_subbands:
            continue
        path = folder / _file_name(plan, subband)
        temporary = path.with_suffix(".writing")
        simulation.write(subband, temporary)
        temporary.rename(path)
        written.append(path)
    return written


def _file_name(plan: TilePlan, subband: int) -> str:
    skew = np.random.default_rng([plan.noise_seed, 3, subband]).uniform(0, plan.name_skew_s) if plan.name_skew_s else 0
    return f"{plan.started_at + timedelta(seconds=float(skew)):%Y-%m-%dT%H:%M:%S}_sb{subband:02d}.hdf5"


class _Simulation:
    """What the subbands of one tile share: geometry, beam angles and the UVH5 metadata."""

    def __init__(self, instrument: Instrument, plan: TilePlan) -> None:
        self.instrument, self.plan = instrument, plan
        self.times = integration_times(instrument, plan.started_at)
        positions = antenna_positions_enu_m(instrument.n_antennas)
        strip_dec_deg = plan.pointing_dec_deg - (WRONG_STRIP_DEG if Kind.WRONG_STRIP in plan.failures else 0.0)
        pointing = meridian_enu(strip_dec_deg)
        self.sources = (*_sources_of_strip(plan), *_unknown_sources(plan, instrument))
        sky = SkyCoord([s.ra_deg for s in self.sources] * u.deg, [s.dec_deg for s in self.sources] * u.deg, frame=ICRS)
        towards = directions_enu(self.times, sky)
        off_deg = POINTING_ERROR_DEG if Kind.POINTING_ERROR in plan.failures else 0.0
        self.separation_rad = np.arccos(  # (time, source)
            np.clip(towards @ meridian_enu(strip_dec_deg + off_deg), -1, 1)
        )
        self.delay_s = np.einsum("ax,tsx->tas", positions, towards - pointing) / SPEED_OF_LIGHT_M_S
        horizon = np.array([0.8, 0.6, 0.0])  # interference comes from one place on the horizon
        self.rfi_delay_s = positions @ (horizon - pointing) / SPEED_OF_LIGHT_M_S
        self.first, self.second = np.triu_indices(instrument.n_antennas)
        self.metadata = _metadata(instrument, plan, self.times, positions)

    def write(self, subband: int, path: Path) -> None:
        uv = self.metadata.copy(metadata_only=True)
        frequency = self.instrument.subband_frequencies_hz(subband)
        uv.freq_array = frequency
        uv.data_array = self.visibilities(subband, frequency)
        uv.flag_array = np.repeat(self._dead_rows()[:, None, None], frequency.size, 1).repeat(2, 2)
        uv.nsample_array = np.ones(uv.data_array.shape, np.float32)
        uv.write_uvh5(str(path), clobber=True, run_check=False, chunks=None)

    def visibilities(self, subband: int, frequency: np.ndarray) -> np.ndarray:
        """Raw visibilities, shape (time x baseline, channel, polarization), complex64."""
        rng = np.random.default_rng([self.instrument.seed, 4, self.plan.noise_seed, subband])
        gains = antenna_gains(self.instrument, self.plan.night, frequency)
        swapped = self._failing(Kind.SWAPPED_FEEDS)
        gains[swapped] = gains[swapped, ::-1]
        sky = np.stack([self._sky(c, f, rng) for c, f in enumerate(frequency)], axis=2)  # (time, baseline, channel)
        sky[:, np.isin(self.first, blind := self._failing(Kind.DEAD_ANTENNA)) | np.isin(self.second, blind)] = 0
        out = np.empty((*sky.shape, 2), np.complex64)
        for pol in range(2):
            g = gains[:, pol, :]
            pair = g[self.first] * np.conj(g[self.second])
            out[..., pol] = pair * (sky + self._noise(sky.shape, rng))
        if self.plan.failures:
            out *= self._gain_changes()[..., None, None]
        out[:, np.isin(self.first, self.plan.dead_antennas) | np.isin(self.second, self.plan.dead_antennas)] = 0
        return out.reshape(-1, frequency.size, 2)

    def _failing(self, kind: Kind) -> np.ndarray:
        """Numbers of the antennas that fail in this way."""
        known = failing_antennas(kind, self.instrument.n_antennas, self.instrument.seed)
        return known if kind in self.plan.failures else known[:0]

    def _gain_changes(self) -> np.ndarray:
        """Of each baseline at each integration, shape (time, baseline)."""
        change = gain_changes(
            self.plan.failures,
            n_times=self.instrument.n_integrations,
            n_antennas=self.instrument.n_antennas,
            seed=self.instrument.seed,
            noise_seed=self.plan.noise_seed,
        )
        return change[:, self.first] * np.conj(change[:, self.second])

    def _sky(self, channel: int, frequency: float, rng: np.random.Generator) -> np.ndarray:
        """Noiseless cross- and autocorrelations of one channel, shape (time, baseline).

        V_12 = sum_s S_s B_s exp(2 pi i nu (r_2 - r_1).(s - s_0) / c), the product of one factor per antenna.
        """
        flux = np.array([float(source.flux_at(frequency)) for source in self.sources])
        apparent = flux * airy_power(self.separation_rad, frequency)  # (time, source)
        phasor = np.exp(2j * np.pi * frequency * self.delay_s)  # (time, antenna, source)
        matrix = np.matmul(np.conj(phasor) * apparent[:, None, :], np.swapaxes(phasor, 1, 2))
        visibilities = matrix[:, self.first, self.second]
        if self.plan.rfi_fraction:
            visibilities = visibilities + self._rfi(frequency, rng)
        if Kind.RFI in self.plan.failures:
            visibilities = visibilities + self._interference(frequency)
        return visibilities

    def _interference(self, frequency: float) -> np.ndarray:
        """Of the same strength at all frequencies in a quarter of the integrations."""
        rng = np.random.default_rng([self.instrument.seed, 7, self.plan.noise_seed])
        n = self.instrument.n_integrations
        amplitude = np.zeros(n)
        amplitude[rng.permutation(n)[: max(1, n // 4)]] = INTERFERENCE_JY
        phasor = np.exp(2j * np.pi * frequency * self.rfi_delay_s)
        return amplitude[:, None] * (np.conj(phasor[self.first]) * phasor[self.second])

    def _rfi(self, frequency: float, rng: np.random.Generator) -> np.ndarray:
        """Bursts of 30-300 Jy through the far sidelobes in a fraction of the integrations of this channel."""
        n = self.instrument.n_integrations
        amplitude = np.where(rng.random(n) < self.plan.rfi_fraction, rng.uniform(30, 300, n), 0.0)
        phasor = np.exp(2j * np.pi * frequency * self.rfi_delay_s)
        return amplitude[:, None] * (np.conj(phasor[self.first]) * phasor[self.second])

    def _noise(self, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
        """Receiver noise: SEFD / sqrt(2 dnu dt) in each of the real and imaginary part; autocorrelations add SEFD."""
        sigma = self.instrument.sefd_jy / np.sqrt(2 * CHANNEL_WIDTH_HZ * INTEGRATION_S)
        noise = np.empty(shape, np.complex64)
        noise.real, noise.imag = (rng.standard_normal(shape, dtype=np.float32) * sigma for _ in range(2))
        auto = self.first == self.second
        noise[:, auto] = self.instrument.sefd_jy + np.sqrt(2) * noise[:, auto].real
        return noise

    def _dead_rows(self) -> np.ndarray:
        dead = np.isin(self.first, self.plan.dead_antennas) | np.isin(self.second, self.plan.dead_antennas)
        return np.tile(dead, self.instrument.n_integrations)


def _sources_of_strip(plan: TilePlan) -> tuple[SkySource, ...]:
    """What stands where the array observes: on another strip as many as on the plan's, at other places."""
    if Kind.WRONG_STRIP not in plan.failures:
        return plan.sources
    middle_deg = float(np.median([source.ra_deg for source in plan.sources]))
    return tuple(
        replace(source, ra_deg=(2 * middle_deg - source.ra_deg) % 360, dec_deg=source.dec_deg - WRONG_STRIP_DEG)
        for source in plan.sources
        if not source.flux_coefficients
    )


def _unknown_sources(plan: TilePlan, instrument: Instrument) -> list[SkySource]:
    """What the sky of the tile has besides its plan: the truth does not list it among the sources."""
    if Kind.ARTEFACT not in plan.failures:
        return []
    middle = plan.started_at + timedelta(seconds=instrument.duration_s / 2)
    ra_deg, dec_deg = meridian_icrs([middle], [plan.pointing_dec_deg])
    return [SkySource("artefact", float(ra_deg[0]), float(dec_deg[0]) + 0.1, ARTEFACT_JY)]


def _metadata(instrument: Instrument, plan: TilePlan, times: Time, positions_enu_m: np.ndarray) -> UVData:
    """A UVData without data arrays: drift scan, fringe-stopped to the meridian at the pointing's declination."""
    first, second = np.triu_indices(instrument.n_antennas)
    zenith_angle_deg = LATITUDE_DEG - plan.pointing_dec_deg
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pyuvdata warns of the autocorrelations' missing uvw and of thinned channels
        return UVData.new(
            freq_array=instrument.subband_frequencies_hz(0),
            channel_width=CHANNEL_WIDTH_HZ,
            polarization_array=np.array([-5, -6]),
            times=times.jd,
            integration_time=INTEGRATION_S,
            antpairs=np.c_[first, second],
            time_axis_faster_than_bls=False,
            do_blt_outer=True,
            telescope=_telescope(instrument.n_antennas, positions_enu_m.tobytes()),
            phase_center_catalog={
                0: {
                    "cat_name": "meridian",
                    "cat_type": "driftscan",
                    "cat_lon": np.pi if zenith_angle_deg >= 0 else 0.0,
                    "cat_lat": np.radians(90 - abs(zenith_angle_deg)),
                    "cat_frame": "altaz",
                    "cat_epoch": 2000.0,
                }
            },
            vis_units="Jy",
            history="contimg simulator",
        )


@functools.lru_cache(maxsize=4)
def _telescope(n_antennas: int, positions: bytes) -> Telescope:
    enu = np.frombuffer(positions).reshape(n_antennas, 3)
    centre = location()
    xyz = ECEF_from_ENU(enu, center_loc=centre) - np.array([c.to_value("m") for c in centre.geocentric])
    return Telescope.new(
        name="DSA-110",
        location=centre,
        antenna_positions=xyz,
        antenna_names=antenna_names(n_antennas),
        antenna_numbers=np.arange(n_antennas),
        antenna_diameters=np.full(n_antennas, DISH_DIAMETER_M),
        mount_type="fixed",
        feeds=["x", "y"],
        x_orientation="east",
        instrument="DSA-110 (simulated)",
    )
