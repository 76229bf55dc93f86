"""The simulator against astropy and textbook formulae, read back with h5py alone: no code of ours on the way."""

from __future__ import annotations

import dataclasses
import json
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import h5py
import numpy as np
import pytest
from astropy.coordinates import AltAz, HADec, SkyCoord
from astropy.modeling.models import AiryDisk2D
from astropy.time import Time
from scipy.stats import kstest

from observations.engines.beam import airy_power
from observations.engines.converter import convert
from observations.engines.night_plan import NightPlan, plan_nights, transit, variable_factors, write_truth
from observations.engines.simulator import Instrument, SkySource, TilePlan, antenna_gains, simulate_tile
from observations.telescope import CHANNEL_WIDTH_HZ, INTEGRATION_S, location
from tests.science import (
    CALIBRATOR,
    SPEED_OF_LIGHT_M_S,
    STRIP_DEC_DEG,
    calibrator_plan,
    field_plan,
    meridian_ecef,
    towards_ecef,
)

NOISELESS = Instrument(n_antennas=8, channels_per_subband=2, n_integrations=6, sefd_jy=0.0)
NOISY = dataclasses.replace(NOISELESS, channels_per_subband=3, sefd_jy=6500.0)
SOURCE = field_plan(NOISELESS, offsets=[(0.5, -0.4, 2.0)])  # far enough out that every sign and axis shows


class RawFile:
    """A subband file as it is on disk. Visibilities have the shape (integration, baseline, channel, polarization)."""

    def __init__(self, path: Path) -> None:
        with h5py.File(path) as file:
            header = file["Header"]
            self.times = Time(np.unique(header["time_array"][()]), format="jd", scale="utc")
            self.frequency_hz = header["freq_array"][()]
            self.positions_m = header["antenna_positions"][()]  # earth-centred axes, from the array centre
            n = self.times.size
            self.first, self.second = (header[f"ant_{i}_array"][()].reshape(n, -1)[0] for i in (1, 2))
            shape = (n, self.first.size, self.frequency_hz.size, 2)
            self.visibilities = file["Data/visdata"][()].reshape(shape)
            self.flags = file["Data/flags"][()].reshape(shape)

    @property
    def is_cross(self) -> np.ndarray:
        return self.first != self.second

    def without_gains(self, instrument: Instrument, night: int = 0) -> np.ndarray:
        gains = np.moveaxis(antenna_gains(instrument, night, self.frequency_hz), 1, 2)
        return self.visibilities / (gains[self.first] * np.conj(gains[self.second]))


def tile(folder: Path, instrument: Instrument, plan: TilePlan) -> list[RawFile]:
    return [RawFile(path) for path in simulate_tile(instrument, plan, folder)]


@pytest.fixture(scope="module")
def one_source(tmp_path_factory) -> list[RawFile]:
    return tile(tmp_path_factory.mktemp("one_source"), NOISELESS, SOURCE)


@pytest.fixture(scope="module")
def noise(tmp_path_factory) -> list[RawFile]:
    faint = dataclasses.replace(SOURCE, sources=(dataclasses.replace(SOURCE.sources[0], flux_jy=0.0),))
    return tile(tmp_path_factory.mktemp("noise"), NOISY, faint)


def place_of(source: SkySource) -> SkyCoord:
    return SkyCoord(source.ra_deg, source.dec_deg, unit="deg")


def test_the_phase_on_every_baseline_is_the_path_difference_to_where_altaz_sees_the_source(one_source):
    for raw in (one_source[0], one_source[15]):
        direction = towards_ecef(raw.times, place_of(SOURCE.sources[0])) - meridian_ecef(STRIP_DEC_DEG)
        path_m = direction @ (raw.positions_m[raw.second] - raw.positions_m[raw.first]).T
        expected = np.exp(2j * np.pi * path_m[..., None] * raw.frequency_hz / SPEED_OF_LIGHT_M_S)

        seen = raw.without_gains(NOISELESS)

        error = np.angle(seen * np.conj(expected)[..., None])
        assert np.abs(error).max() < 2e-3  # radians; a baseline is up to 10 000 wavelengths long
        assert np.ptp(path_m) > 20  # metres: the phases really turned


def test_a_source_on_the_meridian_at_the_pointing_has_no_fringe(tmp_path):
    plan = field_plan(NOISELESS, offsets=[(0.0, 0.0, 1.0)])
    middle = dataclasses.replace(NOISELESS, n_integrations=1)
    plan = dataclasses.replace(plan, started_at=plan.started_at + timedelta(seconds=2.5 * INTEGRATION_S))

    [raw, *_] = tile(tmp_path, middle, plan)

    assert np.abs(np.angle(raw.without_gains(middle))).max() < 2e-3


def test_the_amplitude_follows_the_airy_pattern_as_the_source_drifts(one_source):
    raw = one_source[8]
    seen = place_of(SOURCE.sources[0]).transform_to(AltAz(obstime=raw.times, location=location()))
    axis = SkyCoord(alt=90 - (37.2339 - STRIP_DEC_DEG), az=180, unit="deg", frame=seen.frame)
    separation = np.sin(seen.separation(axis).rad)
    for channel, frequency_hz in enumerate(raw.frequency_hz):
        first_zero = 1.2196698912665045 * SPEED_OF_LIGHT_M_S / frequency_hz / 4.65
        expected = 2.0 * AiryDisk2D(radius=first_zero)(separation, 0 * separation)

        amplitude = np.abs(raw.without_gains(NOISELESS)[:, raw.is_cross, channel])

        assert amplitude == pytest.approx(np.broadcast_to(expected[:, None, None], amplitude.shape), rel=1e-4)
    assert np.ptp(expected) > 0.05  # it drifted


def test_the_beam_is_half_at_half_of_2_71_degrees():
    assert airy_power(np.radians(2.71 / 2), 1.405e9) == pytest.approx(0.5, abs=0.005)
    assert airy_power(0.0, 1.405e9) == 1.0


def test_noise_is_the_sefd_over_the_root_of_twice_bandwidth_and_time(noise):
    expected = 6500 / np.sqrt(2 * CHANNEL_WIDTH_HZ * INTEGRATION_S)
    values = np.concatenate([raw.without_gains(NOISY)[:, raw.is_cross].ravel() for raw in noise])

    for part in (values.real, values.imag):
        assert part.std() == pytest.approx(expected, rel=4 / np.sqrt(2 * values.size))
        assert part.mean() == pytest.approx(0, abs=4 * expected / np.sqrt(values.size))


def test_noise_is_new_in_every_visibility(noise):
    values = np.stack([raw.without_gains(NOISY)[:, raw.is_cross] for raw in noise])

    assert np.unique(values).size == values.size


def test_autocorrelations_are_real_and_measure_the_system_and_the_sky(tmp_path, noise):
    raw = tile(tmp_path, NOISY, dataclasses.replace(calibrator_plan(NOISY), noise_seed=SOURCE.noise_seed))[0]
    autos = raw.without_gains(NOISY)[:, ~raw.is_cross]
    expected_noise = 6500 / np.sqrt(CHANNEL_WIDTH_HZ * INTEGRATION_S)

    assert np.abs(autos.imag).max() < 1e-3 * 6500
    assert autos.real.std() == pytest.approx(expected_noise, rel=0.1)
    assert autos.real.mean() == pytest.approx(6500 + 14.6, abs=4 * expected_noise / np.sqrt(autos.size))


def test_a_missing_subband_has_no_file_and_the_others_are_as_they_were(tmp_path, one_source):
    raws = tile(tmp_path, NOISELESS, dataclasses.replace(SOURCE, missing_subbands=(0, 5)))

    assert len(raws) == 14
    assert not list(tmp_path.glob("*_sb05.hdf5"))
    assert np.array_equal(raws[0].visibilities, one_source[1].visibilities)


def test_subband_0_is_the_highest_and_the_band_is_187_5_mhz():
    instrument = Instrument()
    centres = [instrument.subband_frequencies_hz(subband) for subband in range(16)]
    band = np.sort(np.concatenate(centres))

    assert centres[0].min() > centres[1].max()
    assert np.diff(band) == pytest.approx(187.5e6 / 768)
    assert (band[0], band[-1]) == (pytest.approx(1.3113e9 + 122070, abs=1), pytest.approx(1.4988e9 - 122070, abs=1))


def test_a_dead_antenna_is_zero_and_flagged_on_all_its_baselines_and_nowhere_else(tmp_path):
    raw = tile(tmp_path, NOISY, dataclasses.replace(SOURCE, dead_antennas=(2,)))[0]
    dead = (raw.first == 2) | (raw.second == 2)

    assert not raw.visibilities[:, dead].any()
    assert raw.flags[:, dead].all()
    assert raw.visibilities[:, ~dead].all()
    assert not raw.flags[:, ~dead].any()


def test_interference_hits_the_wanted_fraction_of_integrations_and_channels(tmp_path):
    raws = tile(tmp_path, NOISELESS, dataclasses.replace(SOURCE, rfi_fraction=0.25))
    loud = np.stack([np.abs(raw.without_gains(NOISELESS)[:, raw.is_cross]).min(axis=(1, 3)) > 10 for raw in raws])

    assert loud.mean() == pytest.approx(0.25, abs=4 * np.sqrt(0.25 * 0.75 / loud.size))


def test_names_are_skewed_and_headers_are_not(tmp_path):
    paths = simulate_tile(NOISELESS, dataclasses.replace(SOURCE, name_skew_s=90.0), tmp_path)
    named = [datetime.fromisoformat(path.name[:19]).replace(tzinfo=UTC) for path in paths]
    skews_s = [(name - SOURCE.started_at).total_seconds() for name in named]

    assert max(skews_s) - min(skews_s) > 40
    assert -1 <= min(skews_s) <= max(skews_s) <= 90
    for path in paths:
        start = RawFile(path).times[0].to_datetime(timezone=UTC) - timedelta(seconds=INTEGRATION_S / 2)
        assert abs((start - SOURCE.started_at).total_seconds()) < 1e-3


def test_gains_change_by_one_to_two_percent_from_night_to_night():
    instrument = Instrument(n_antennas=96)
    frequency_hz = np.linspace(1.31e9, 1.49e9, 32)
    ratios = [
        antenna_gains(instrument, n + 1, frequency_hz) / antenna_gains(instrument, n, frequency_hz) for n in range(6)
    ]

    assert 0.012 < np.abs(ratios).std() < 0.018
    assert 1 < np.degrees(np.angle(ratios).std()) < 4
    assert np.abs(ratios).mean() == pytest.approx(1, abs=0.005)


def test_gains_differ_between_antennas_polarizations_and_channels_and_stay_within_a_night():
    gains = antenna_gains(NOISELESS, 0, np.linspace(1.31e9, 1.49e9, 32))

    assert np.unique(gains).size == gains.size
    assert 0.5 < np.abs(gains).min() < np.abs(gains).max() < 2
    assert np.array_equal(gains, antenna_gains(NOISELESS, 0, np.linspace(1.31e9, 1.49e9, 32)))


def test_the_same_seed_gives_the_same_data_and_another_seed_others(tmp_path):
    folders = [tmp_path / name for name in ("one", "same", "noise", "gains")]
    for folder in folders:
        folder.mkdir()
    one, same, noise, gains = (
        tile(folder, instrument, plan)[0].visibilities
        for folder, instrument, plan in zip(
            folders,
            (NOISY, NOISY, NOISY, dataclasses.replace(NOISY, seed=2)),
            (SOURCE, SOURCE, dataclasses.replace(SOURCE, noise_seed=7), SOURCE),
            strict=True,
        )
    )

    assert np.array_equal(one, same)
    assert not np.isin(noise, one).any()
    assert not np.isin(gains, one).any()


def test_nothing_half_written_is_left_beside_the_files(tmp_path):
    (tmp_path / "night").mkdir()

    paths = simulate_tile(NOISELESS, SOURCE, tmp_path / "night")

    assert sorted((tmp_path / "night").iterdir()) == sorted(paths)


def test_pyuvdata_and_the_converter_read_the_files(tmp_path):
    paths = simulate_tile(NOISELESS, SOURCE, tmp_path)

    converted = convert(files=paths, pointing_dec_deg=SOURCE.pointing_dec_deg, output=tmp_path / "raw.ms")

    assert converted.n_channels == 32


# --- plans -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "calibrator", [CALIBRATOR, SkySource("3C48", 24.4220808, 33.1597594, 16.0)], ids=lambda s: s.name
)
@pytest.mark.parametrize("hour", [0.0, 5.5, 11.0, 17.3, 23.9])
def test_transit_is_the_first_time_afterwards_that_the_hour_angle_is_zero(calibrator, hour):
    after = datetime(2026, 3, 20, tzinfo=UTC) + timedelta(hours=hour)

    moment, dec_deg = transit(calibrator, after)

    seen = place_of(calibrator).transform_to(HADec(obstime=Time(moment), location=location()))
    assert seen.ha.wrap_at("180d").deg == pytest.approx(0, abs=1e-3)  # 0.24 s
    assert seen.dec.deg == pytest.approx(dec_deg, abs=1e-3)
    assert 0 <= (moment - after).total_seconds() < 86165


def test_a_transit_just_missed_is_not_the_first_one_afterwards():
    moment, _ = transit(CALIBRATOR, datetime(2026, 3, 20, tzinfo=UTC))

    following, _ = transit(CALIBRATOR, moment + timedelta(seconds=10))

    assert (following - moment).total_seconds() == pytest.approx(86164.1, abs=1)


@pytest.mark.parametrize("nights", [2, 3, 6, 11])
def test_the_variable_source_varies_by_0_4(nights):
    factors = variable_factors(NightPlan(nights=nights))

    assert factors.std(ddof=1) / factors.mean() == pytest.approx(0.4)
    assert factors.min() > 0


def test_only_the_variable_source_changes_and_tiles_come_back_after_a_sidereal_day():
    plan = NightPlan(nights=3, sources_per_tile=4)
    tiles = plan_nights(NOISELESS, plan, CALIBRATOR)
    science = tiles[1::2]

    assert [len(tile.sources) for tile in tiles] == [5, 4] * 3
    assert all(CALIBRATOR in tile.sources for tile in tiles[::2])
    assert len({tile.sources[0].scale for tile in science}) == 3
    assert len({tile.sources[1:] for tile in science}) == 1
    assert len({tile.noise_seed for tile in tiles}) == 6
    apart = [(b.started_at - a.started_at).total_seconds() for a, b in pairwise(science)]
    assert apart == pytest.approx([86164.0905] * 2, abs=1e-3)


def test_tiles_whose_beams_overlap_see_the_same_sky():
    plan = NightPlan(nights=2, tiles=3, spacing_s=310, sources_per_tile=20)
    first, second, last = plan_nights(NOISELESS, plan, CALIBRATOR)[:3]

    assert {source.name for source in second.sources} == {CALIBRATOR.name} | {
        f"t{tile}s{number:03d}" for tile in range(3) for number in range(20)
    }
    assert {s for s in last.sources if s.name.startswith("t1")} <= set(second.sources)
    assert {s.scale for tile in (first, second, last) for s in tile.sources if s.name == "t2s000"} == {
        variable_factors(plan)[0]
    }
    places = SkyCoord([s.ra_deg for s in second.sources], [s.dec_deg for s in second.sources], unit="deg")
    apart = places[:, None].separation(places[None]).arcsec + 1e6 * np.eye(len(places))
    assert apart.min() >= plan.min_separation_arcsec


def test_damage_is_one_tile_of_each_kind():
    tiles = plan_nights(Instrument(n_antennas=40), NightPlan(sources_per_tile=2, damage=True), CALIBRATOR)
    damaged = [tile for tile in tiles if tile.damage]

    assert [tile.missing_subbands for tile in damaged] == [(5,), (), ()]
    assert [tile.rfi_fraction for tile in damaged] == [0, 0.1, 0]
    assert [len(tile.dead_antennas) for tile in damaged] == [0, 0, 3]


@pytest.fixture(scope="module")
def many_sources() -> list[SkySource]:
    plan = NightPlan(nights=1, tiles=4, sources_per_tile=60, variable=False, min_separation_arcsec=100.0)
    return [source for tile in plan_nights(NOISELESS, plan, CALIBRATOR) for source in tile.sources if source.flux_jy]


def test_as_many_sources_are_above_a_flux_as_its_inverse_says(many_sources):
    low, high = 0.015, 0.5
    fluxes = np.array([source.flux_jy for source in many_sources])

    def below(flux):
        return 1 - (low / flux - low / high) / (1 - low / high)

    assert fluxes.size == 240
    assert low <= fluxes.min() <= fluxes.max() <= high
    assert kstest(fluxes, below).pvalue > 0.01


def test_sources_fill_the_disc_evenly_and_keep_their_distance(many_sources):
    tiles = plan_nights(NOISELESS, NightPlan(nights=1, sources_per_tile=30, variable=False), CALIBRATOR)
    for one in tiles:
        places = SkyCoord([s.ra_deg for s in one.sources], [s.dec_deg for s in one.sources], unit="deg")
        apart = places[:, None].separation(places[None]).arcsec + 1e6 * np.eye(len(places))
        assert apart.min() >= 150
    indices = np.array([source.spectral_index for source in many_sources])
    assert indices.mean() == pytest.approx(-0.7, abs=4 * 0.2 / np.sqrt(indices.size))
    assert indices.std() == pytest.approx(0.2, rel=0.2)


def test_too_full_a_field_is_refused_and_not_searched_for_ever():
    with pytest.raises(ValueError, match="ask for fewer sources"):
        plan_nights(NOISELESS, NightPlan(nights=1, sources_per_tile=3, min_separation_arcsec=9000.0), CALIBRATOR)


def test_the_truth_file_says_what_was_put_in(tmp_path):
    plan = NightPlan(nights=2, sources_per_tile=3, damage=True)
    tiles = plan_nights(NOISELESS, plan, CALIBRATOR)

    write_truth(tmp_path / "truth.json", NOISELESS, plan, tiles)

    truth = json.loads((tmp_path / "truth.json").read_text())
    assert truth["instrument"]["sefd_jy"] == 0.0
    assert [datetime.fromisoformat(tile["started_at"]) for tile in truth["tiles"]] == [t.started_at for t in tiles]
    assert truth["tiles"][3]["missing_subbands"] == [5]
    for told, real in zip(truth["tiles"], tiles, strict=True):
        read = [SkySource(**{**s, "flux_coefficients": tuple(s["flux_coefficients"])}) for s in told["sources"]]
        assert tuple(read) == real.sources
    assert [path.name for path in tmp_path.glob("truth*")] == ["truth.json"]


@pytest.mark.parametrize(
    ("source", "frequency_hz", "flux_jy"),
    [
        (SkySource("flat", 0, 0, 2.0), 1.31e9, 2.0),
        (SkySource("steep", 0, 0, 2.0, spectral_index=-1.0), 0.7e9, 4.0),
        (SkySource("tonight", 0, 0, 2.0, scale=1.5), 1.4e9, 3.0),
        (SkySource("3C286", 0, 0, 0.0, flux_coefficients=(1.2481, -0.4507, -0.1798, 0.0357)), 1e9, 17.7051),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_a_source_has_the_flux_of_its_spectrum(source, frequency_hz, flux_jy):
    assert float(source.flux_at(frequency_hz)) == pytest.approx(flux_jy, rel=1e-5)
