"""The solver against the gains that the simulator put in, and against a general least-squares program."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
from astropy.wcs import WCS
from scipy.optimize import least_squares

from calibration.engines import model as calibrator_models
from calibration.engines.caltable import Solution, read_table
from calibration.engines.field_model import FieldModel
from calibration.engines.flagger import AllFlagged, FlaggingParameters, flag
from calibration.engines.solver import (
    NoSolution,
    SolvingParameters,
    phase_scatter_deg,
    stefcal,
    time_phase_scatter_deg,
)
from images.engines.fits_header import celestial_header
from observations.engines.measurement_set import Header, content_checksum, read_header, read_rows
from observations.engines.simulator import Instrument, SkySource
from tests.science import (
    CALIBRATOR,
    MODEL,
    QUIET,
    Observed,
    calibrator_plan,
    edited,
    field_centre,
    gains_of,
    observe,
    relative_to,
    solved,
    true_gains,
)


def no_flags(tile: Observed, folder: Path) -> Path:
    path = folder / "flags.h5"
    flag(measurement_set=tile.path, output=path, parameters=FlaggingParameters())
    return path


def flagged_where(tile: Observed, folder: Path, own) -> tuple[Path, Path]:
    """A copy with the baselines chosen by `own(first, second)` flagged, and its flag table."""
    path = edited(tile.path, folder, FLAG=lambda flags, a, b: flags | own(a, b)[:, None, None])
    flag(measurement_set=path, output=folder / "f.h5", parameters=FlaggingParameters())
    return path, folder / "f.h5"


# --- true gains ------------------------------------------------------------------------------------------------------
def test_true_gains_come_back(calibrator_tile, calibrator_tables):
    gains, flags = gains_of(calibrator_tables)
    reference = read_header(calibrator_tile.path).antenna_names.index(calibrator_tables.reference_antenna)
    true = relative_to(true_gains(calibrator_tile), reference)

    assert not flags.any()
    ratio = gains / true
    assert np.abs(ratio).mean() == pytest.approx(1, abs=5e-4)
    assert np.abs(np.abs(ratio) - 1).max() < 0.01
    assert np.degrees(np.abs(np.angle(ratio))).max() < 1


def test_the_bandpass_has_unit_mean_amplitude_and_the_gain_the_level(calibrator_tile, calibrator_tables):
    bandpass, gain = (read_table(table.path) for table in calibrator_tables.tables)
    level = np.abs(true_gains(calibrator_tile)).mean(axis=1, keepdims=True)

    assert [table.kind for table in calibrator_tables.tables] == ["B", "G"]
    assert np.abs(bandpass.solution.gains).mean(axis=1) == pytest.approx(1, abs=1e-6)
    assert np.abs(gain.solution.gains) == pytest.approx(level, rel=2e-3)


def test_phases_are_relative_to_the_reference_antenna(calibrator_tile, calibrator_flags, tmp_path):
    for name in ("pad003", "pad007"):
        folder = tmp_path / name
        folder.mkdir()
        parameters = SolvingParameters(reference_antenna=name)

        tables = solved(calibrator_tile.path, calibrator_flags[0], folder, parameters=parameters)

        gains, _ = gains_of(tables)
        assert tables.reference_antenna == name
        assert np.angle(gains[int(name[3:]) - 1]) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("wanted", ["", "pad999"])
def test_without_a_wanted_reference_one_near_the_centre_with_data_is_taken(
    calibrator_tile, calibrator_flags, tmp_path, wanted
):
    positions = read_header(calibrator_tile.path).antenna_positions_m
    distance = np.linalg.norm(positions - np.median(positions, axis=0), axis=1)

    parameters = SolvingParameters(reference_antenna=wanted)
    chosen = solved(calibrator_tile.path, calibrator_flags[0], tmp_path, parameters=parameters).reference_antenna

    assert chosen == f"pad{np.argmin(distance) + 1:03d}"


def test_a_dead_reference_antenna_is_replaced(calibrator_tile, tmp_path):
    path, flags = flagged_where(calibrator_tile, tmp_path, lambda a, b: (a == 2) | (b == 2))

    tables = solved(path, flags, tmp_path, parameters=SolvingParameters(reference_antenna="pad003"))

    assert tables.reference_antenna != "pad003"


def test_a_dead_antenna_is_flagged_and_the_others_are_solved(calibrator_tile, calibrator_tables, tmp_path):
    path, flags = flagged_where(calibrator_tile, tmp_path, lambda a, b: (a == 4) | (b == 4))

    tables = solved(path, flags, tmp_path)

    gains, bad = gains_of(tables)
    whole, _ = gains_of(calibrator_tables)
    others = np.arange(10) != 4
    assert bad[4].all()
    assert not bad[others].any()
    assert np.abs(gains[others] / whole[others] - 1).max() < 0.02
    assert [table.metrics["n_antennas"] for table in tables.tables] == [9, 9]
    assert tables.tables[0].metrics["flagged_fraction"] == 0  # it has no data, so nothing of it was to be solved


def test_flagged_channels_have_no_solution_and_spoil_no_others(calibrator_tile, calibrator_tables, tmp_path):
    def channels(flags, a, b):
        flags[:, 4:6] = True
        return flags

    path = edited(calibrator_tile.path, tmp_path, FLAG=channels)
    flag(measurement_set=path, output=tmp_path / "f.h5", parameters=FlaggingParameters())

    tables = solved(path, tmp_path / "f.h5", tmp_path)

    gains, bad = gains_of(tables)
    kept = np.delete(np.arange(32), [4, 5])
    assert bad[:, 4:6].all()
    assert not bad[:, kept].any()
    assert np.abs(gains / gains_of(calibrator_tables)[0] - 1)[:, kept].max() < 0.02
    worst = max(tables.tables[0].metrics["spectral_windows"], key=lambda window: window["flagged_fraction"])
    assert worst == {"subband": 13, "flagged_fraction": 1.0, "bad_channel_fraction": 1.0}


def test_metrics_are_of_every_subband(calibrator_tables):
    bandpass, gain = (table.metrics for table in calibrator_tables.tables)

    assert [w["subband"] for w in bandpass["spectral_windows"]] == list(range(16))
    assert {w["flagged_fraction"] for w in bandpass["spectral_windows"]} == {0.0}
    assert "spectral_windows" not in gain
    assert gain["phase_scatter_deg"] is None
    assert 0.7 < gain["median_amplitude"] < 1.4
    assert bandpass["antennas_without_solution"] == []


def test_the_signal_to_noise_is_that_of_the_scatter(tmp_path):
    """Five noise realisations of one tile: the gains scatter by what the solver says."""
    instrument = Instrument(n_antennas=8, channels_per_subband=1, n_integrations=4, sefd_jy=2000.0)
    amplitudes, snrs = [], []
    for seed in range(5):
        folder = tmp_path / str(seed)
        folder.mkdir()
        tile = observe(
            folder, instrument, calibrator_plan(instrument, noise_seed=seed, missing_subbands=tuple(range(13)))
        )
        tables = solved(tile.path, no_flags(tile, folder), folder)
        bandpass, gain = (read_table(table.path).solution for table in tables.tables)
        amplitudes.append(np.abs(bandpass.gains * gain.gains))
        snrs.append(bandpass.snr)

    scatter = np.std(amplitudes, axis=0, ddof=1) / np.mean(amplitudes, axis=0)

    assert np.sqrt((scatter**2).mean()) == pytest.approx(np.sqrt((1 / np.array(snrs) ** 2).mean()), rel=0.15)


def test_a_solution_below_the_wanted_signal_to_noise_is_flagged(calibrator_tile, calibrator_flags, tmp_path):
    tables = solved(calibrator_tile.path, calibrator_flags[0], tmp_path, parameters=SolvingParameters(min_snr=10.0))
    snr = read_table(tables.tables[0].path).solution.snr
    (tmp_path / "strict").mkdir()
    limit = float(np.median(snr))

    strict = solved(
        calibrator_tile.path, calibrator_flags[0], tmp_path / "strict", parameters=SolvingParameters(min_snr=limit)
    )

    table = read_table(strict.tables[0].path).solution
    assert np.array_equal(table.flags, snr < limit)
    assert (table.gains[table.flags] == 1).all()
    assert strict.tables[0].metrics["flagged_fraction"] == pytest.approx(0.5, abs=0.01)
    assert strict.tables[0].metrics["median_snr"] > limit


def test_noise_without_a_calibrator_has_no_solution(tmp_path):
    instrument = Instrument(n_antennas=8, channels_per_subband=1, n_integrations=4)
    tile = observe(tmp_path, instrument, calibrator_plan(instrument, sources=(SkySource("faint", 202.8, 30.5, 1e-4),)))

    with pytest.raises(NoSolution, match="is it really in this tile"):
        solved(tile.path, no_flags(tile, tmp_path), tmp_path, parameters=SolvingParameters(min_snr=10.0))


def test_a_tile_with_nothing_left_is_refused(calibrator_tile, calibrator_flags, tmp_path):
    path = edited(calibrator_tile.path, tmp_path, FLAG=lambda flags, a, b: flags | True)

    with pytest.raises(AllFlagged, match="cannot calibrate"):
        solved(path, calibrator_flags[0], tmp_path)


def test_solving_leaves_the_measurement_set_alone_and_repeats_itself(
    calibrator_tile, calibrator_flags, calibrator_tables, tmp_path
):
    before = content_checksum(calibrator_tile.path)

    again = solved(calibrator_tile.path, calibrator_flags[0], tmp_path)

    assert content_checksum(calibrator_tile.path) == before
    assert [t.checksum for t in again.tables] == [t.checksum for t in calibrator_tables.tables]


# --- what the model must hold ----------------------------------------------------------------------------------------
def test_a_model_without_the_drift_through_the_beam_is_three_percent_wrong(
    calibrator_tile, calibrator_flags, calibrator_tables, tmp_path
):
    """Gains against a calibrator that stays on the axis are low, so everything calibrated with them comes out high."""
    header = read_header(calibrator_tile.path)
    response = calibrator_models.beam_response(MODEL, header, calibrator_tile.plan.pointing_dec_deg)
    on_axis = dataclasses.replace(MODEL)
    static_flux = on_axis.flux_jy(header.frequency_hz).mean()
    mean_flux = (on_axis.flux_jy(header.frequency_hz) * response).mean()

    gains, _ = gains_of(calibrator_tables)
    true = np.abs(true_gains(calibrator_tile))

    assert static_flux / mean_flux - 1 == pytest.approx(0.035, abs=0.01)  # what a static model would be off by
    assert (np.abs(gains) ** 2 / true**2).mean() == pytest.approx(1, abs=2e-3)  # what ours is


@pytest.fixture(scope="module")
def crowded(tmp_path_factory) -> Observed:
    """The calibrator with three sources around it that add up to a quarter of its flux."""
    instrument = dataclasses.replace(QUIET, n_antennas=12)
    centre = field_centre(instrument, calibrator_plan(instrument).started_at)
    pixels = field_pixels(centre.ra.rad, centre.dec.rad)
    others = []
    for x, y, flux in [(83, 158, 1.5), (188, 158, 1.2), (98, 53, 1.0)]:  # on pixels, where a CLEAN model has them
        ra, dec = pixels.wcs_pix2world([[x, y]], 0)[0]
        others.append(SkySource(f"at {x} {y}", ra, dec, flux))
    plan = calibrator_plan(instrument, sources=(CALIBRATOR, *others))
    return observe(tmp_path_factory.mktemp("crowded"), instrument, plan)


def field_pixels(ra_rad: float, dec_rad: float) -> WCS:
    where = SimpleNamespace(ra_rad=ra_rad, dec_rad=dec_rad)
    return WCS(celestial_header(cast(Header, where), size_px=256, pixel_arcsec=12.0))


def true_field(tile: Observed) -> FieldModel:
    """The other sources' mean apparent fluxes at their pixels."""
    header = read_header(tile.path)
    wcs = field_pixels(header.ra_rad, header.dec_rad)
    components = np.zeros((256, 256), np.float32)
    for source in tile.plan.sources[1:]:
        place = dataclasses.replace(MODEL, ra_deg=source.ra_deg, dec_deg=source.dec_deg)
        response = calibrator_models.beam_response(place, header, tile.plan.pointing_dec_deg).mean()
        x, y = wcs.world_to_pixel_values(source.ra_deg, source.dec_deg)
        components[round(float(y)), round(float(x))] += source.flux_jy * response
    return FieldModel(components, np.radians(12.0 / 3600))


def test_what_the_model_lacks_is_absorbed_and_the_field_model_gives_it_back(crowded, tmp_path):
    """Gains solved per channel on a few baselines fit what is not in the model, so its visibilities come out low."""
    flags = no_flags(crowded, tmp_path)
    true = true_gains(crowded)
    field = true_field(crowded)
    header = read_header(crowded.path)
    absorbed = {}
    for name, used in (("alone", None), ("with field", field)):
        folder = tmp_path / name
        folder.mkdir()
        gains, _ = gains_of(solved(crowded.path, flags, folder, field=used))
        absorbed[name] = _share_of_field_left(crowded, header, field, relative_to(true, 0), relative_to(gains, 0))

    assert absorbed["alone"] < 1 - 2 / 12  # more than the mean of random fields: the core's baselines see it alike
    assert absorbed["with field"] == pytest.approx(1, abs=0.01)


def _share_of_field_left(tile: Observed, header, field: FieldModel, true: np.ndarray, gains: np.ndarray) -> float:
    """How much of the field's visibilities is left after calibrating with `gains` and subtracting the calibrator."""
    amplitude = MODEL.flux_jy(header.frequency_hz) * calibrator_models.beam_response(
        MODEL, header, tile.plan.pointing_dec_deg
    )
    top = bottom = 0.0
    for rows in read_rows(tile.path):
        cross = rows.is_cross
        pair = gains[rows.antenna1] * np.conj(gains[rows.antenna2])
        calibrator = calibrator_models.fringe(MODEL, header, rows.uvw_m) * amplitude[rows.time_index]
        left = (rows.data / pair).mean(axis=2) - calibrator
        wanted = field.predict(rows.uvw_m, header.frequency_hz)
        top += (left[cross] * np.conj(wanted[cross])).real.sum()
        bottom += (np.abs(wanted[cross]) ** 2).sum()
    return top / bottom


# --- StefCal by itself -----------------------------------------------------------------------------------------------
def test_stefcal_agrees_with_a_general_least_squares_program():
    rng = np.random.default_rng(5)
    n = 5
    true = rng.uniform(0.7, 1.3, n) * np.exp(1j * rng.uniform(-np.pi, np.pi, n))
    model = rng.normal(3, 0.2, (n, n)) * np.exp(1j * rng.uniform(-np.pi, np.pi, (n, n)))
    weight = rng.uniform(0.5, 2, (n, n))
    pairs = list(itertools.combinations(range(n), 2))
    visibility = {
        (i, j): true[i] * np.conj(true[j]) * model[i, j] + 0.2 * (rng.normal() + 1j * rng.normal()) for i, j in pairs
    }

    def misfit(p: np.ndarray) -> np.ndarray:
        g = p[:n] + 1j * p[n:]
        residual = [np.sqrt(weight[i, j]) * (visibility[i, j] - g[i] * np.conj(g[j]) * model[i, j]) for i, j in pairs]
        return np.concatenate([np.real(residual), np.imag(residual)])

    best = least_squares(misfit, np.r_[true.real, true.imag], xtol=1e-14, ftol=1e-14, gtol=1e-14).x
    expected = relative_to(best[:n] + 1j * best[n:], 0)
    coherency, squares = np.zeros((n, n), complex), np.zeros((n, n))
    for i, j in pairs:
        coherency[i, j] = weight[i, j] * visibility[i, j] * np.conj(model[i, j])
        squares[i, j] = weight[i, j] * np.abs(model[i, j]) ** 2
    coherency, squares = coherency + coherency.conj().T, squares + squares.T

    found = relative_to(stefcal(coherency, squares, tolerance=1e-12, max_iterations=2000), 0)

    assert np.abs(found - expected).max() < 1e-6


@pytest.mark.parametrize("n", [8, 20, 40])
def test_gains_absorb_two_over_the_number_of_antennas_of_what_the_model_lacks(n):
    """2N - 1 real unknowns take their share of N (N - 1) real data."""
    rng = np.random.default_rng(n)
    lacking = 0.01 * np.exp(2j * np.pi * rng.uniform(size=(n, n, 300)))
    upper = np.triu(np.ones((n, n)), 1)[..., None]
    coherency = (1 + lacking) * upper
    coherency = coherency + np.conj(np.swapaxes(coherency, 0, 1))
    weight = np.broadcast_to(upper + np.swapaxes(upper, 0, 1), coherency.shape)

    gains = stefcal(coherency, weight, tolerance=1e-9)

    left = (coherency / (gains[:, None] * np.conj(gains[None])) - 1) * upper
    share = (left * np.conj(lacking)).real.sum() / (np.abs(lacking * upper) ** 2).sum()
    assert 1 - share == pytest.approx((2 * n - 1) / (n * (n - 1)), rel=0.05)


def test_stefcal_solves_channels_and_polarizations_by_themselves():
    rng = np.random.default_rng(6)
    gains = rng.uniform(0.5, 1.5, (6, 4, 2)) * np.exp(1j * rng.uniform(-np.pi, np.pi, (6, 4, 2)))
    off_diagonal = (1 - np.eye(6))[:, :, None, None]
    coherency = gains[:, None] * np.conj(gains[None]) * off_diagonal

    found = stefcal(coherency, np.broadcast_to(off_diagonal, coherency.shape), tolerance=1e-10)

    assert np.abs(relative_to(found, 0) - relative_to(gains, 0)).max() < 1e-5


def test_stefcal_gives_zero_where_there_are_no_data():
    weight = 1 - np.eye(4)
    weight[2, :] = weight[:, 2] = 0

    found = stefcal(weight.astype(complex), weight)

    assert found[2] == 0
    assert np.abs(np.delete(found, 2)) == pytest.approx(1, abs=1e-5)


# --- phase scatter ---------------------------------------------------------------------------------------------------
def scatter(phases_rad: np.ndarray, flags=None, frequency_hz=None) -> float | None:
    """Of gains with phases of shape (antenna, channel)."""
    gains = np.exp(1j * np.asarray(phases_rad))[..., None].repeat(2, axis=-1)
    flags = np.zeros(gains.shape, bool) if flags is None else flags
    frequency_hz = np.linspace(1.31e9, 1.498e9, gains.shape[1]) if frequency_hz is None else frequency_hz
    return phase_scatter_deg(Solution(gains, flags, np.ones(gains.shape)), frequency_hz)


@pytest.mark.parametrize("delay_ns", [0.0, 0.1, -7.3, 31.0, -48.0])
def test_a_pure_delay_has_no_phase_scatter(delay_ns):
    offset_hz = np.linspace(0, 0.188e9, 192)

    assert scatter(2 * np.pi * delay_ns * 1e-9 * offset_hz[None] + 3.0) == pytest.approx(0, abs=0.1)


@pytest.mark.parametrize("n_channels", [32, 64, 768])
def test_random_phases_scatter_by_104_degrees(n_channels):
    phases = np.random.default_rng(1).uniform(-np.pi, np.pi, (20, n_channels))

    assert scatter(phases) == pytest.approx(104, abs=4)


@pytest.mark.parametrize("scatter_deg", [1.0, 10.0, 29.0])
def test_phase_noise_on_a_delay_is_measured_as_it_is(scatter_deg):
    rng = np.random.default_rng(2)
    phases = np.radians(rng.normal(0, scatter_deg, (20, 768))) + np.linspace(0, 30, 768)

    assert scatter(phases) == pytest.approx(scatter_deg, rel=0.05)


def test_flagged_channels_do_not_count():
    phases = np.zeros((3, 64))
    phases[:, ::2] = 2.0
    flags = np.zeros((3, 64, 2), bool)
    flags[:, ::2] = True

    assert scatter(phases, flags) == pytest.approx(0, abs=1e-6)
    assert scatter(phases, np.ones((3, 64, 2), bool)) is None


@pytest.mark.parametrize("scatter_deg", [0.0, 20.0, 60.0])
def test_an_antenna_whose_phase_jumps_in_time_is_told_from_noise(scatter_deg):
    rng = np.random.default_rng(1)
    n_antennas, n_times, n_channels = 20, 24, 32
    shape = (n_antennas, n_antennas, n_times, n_channels, 1)
    phases = np.zeros((n_antennas, n_times))
    phases[4] = np.radians(rng.normal(0, scatter_deg, n_times))
    turn = np.exp(1j * (phases[:, None] - phases[None]))[..., None, None]
    data = 14.0 * turn + 2.6 * (rng.normal(size=shape) + 1j * rng.normal(size=shape))
    upper = np.triu(np.ones((n_antennas, n_antennas)), 1)[:, :, None, None, None] * np.ones(shape)
    coherency, weight = (14.0 * data * upper).sum(axis=2), (14.0**2 * upper).sum(axis=2)
    power, number = (np.abs(data) ** 2 * upper).sum(axis=2), upper.sum(axis=2)
    both = [each + np.conj(np.swapaxes(each, 0, 1)) for each in (coherency, weight, power, number)]

    found = time_phase_scatter_deg(both[0], *(each.real for each in both[1:]))

    true_deg = np.degrees(np.std(phases[4]))
    assert found[4] == pytest.approx(true_deg, abs=max(4.0, 0.15 * true_deg))
    assert np.delete(found, 4).max() < 5
