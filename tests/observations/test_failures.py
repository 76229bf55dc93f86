"""Each failure of the simulator against the same tile without it."""

from __future__ import annotations

import dataclasses
import json

import h5py
import numpy as np
import pytest

from observations.engines.failures import Failure, Kind, failing_antennas
from observations.engines.night_plan import NightPlan, plan_nights, write_truth
from observations.engines.simulator import Instrument, antenna_gains, simulate_tile
from tests.science import CALIBRATOR, field_plan

ARRAY = Instrument(n_antennas=10, channels_per_subband=1, n_integrations=8, sefd_jy=0.0)
PLAN = field_plan(ARRAY, offsets=[(0.3, 0.3, 2.0)])
FIRST, SECOND = np.triu_indices(10)
CROSS = FIRST != SECOND


def visibilities(folder, *kinds: Kind) -> np.ndarray:
    """Of the highest subband: (integration, baseline, polarization)."""
    folder.mkdir()
    path = simulate_tile(ARRAY, dataclasses.replace(PLAN, failures=kinds), folder)[0]
    with h5py.File(path) as file:
        return file["Data/visdata"][()].reshape(-1, FIRST.size, 2)


@pytest.fixture(scope="module")
def clean(tmp_path_factory) -> np.ndarray:
    return visibilities(tmp_path_factory.mktemp("clean") / "tile")


def with_failing(kind: Kind) -> np.ndarray:
    """How many of a baseline's antennas fail."""
    failing = failing_antennas(kind, 10, ARRAY.seed)
    return np.isin(FIRST, failing).astype(int) + np.isin(SECOND, failing)


def test_a_dead_antenna_sees_no_sky_and_the_others_do(clean, tmp_path):
    seen = visibilities(tmp_path / "tile", Kind.DEAD_ANTENNA)

    own = with_failing(Kind.DEAD_ANTENNA) > 0
    assert np.abs(seen[:, own]).max() == 0
    np.testing.assert_array_equal(seen[:, ~own], clean[:, ~own])


def test_a_phase_noisy_antenna_changes_its_phases_only_and_at_each_integration(clean, tmp_path):
    seen = visibilities(tmp_path / "tile", Kind.PHASE_NOISY_ANTENNA)

    own = (with_failing(Kind.PHASE_NOISY_ANTENNA) == 1) & CROSS
    turned_deg = np.degrees(np.angle(seen[:, own] / clean[:, own]))
    assert 25 < np.std(turned_deg[:, 0, 0]) < 120
    np.testing.assert_allclose(np.abs(seen), np.abs(clean), rtol=1e-4)
    np.testing.assert_allclose(seen[:, ~own & CROSS], clean[:, ~own & CROSS], rtol=1e-4)


def test_swapped_feeds_have_each_others_gains(clean, tmp_path):
    seen = visibilities(tmp_path / "tile", Kind.SWAPPED_FEEDS)

    [swapped] = failing_antennas(Kind.SWAPPED_FEEDS, 10, ARRAY.seed)
    x, y = antenna_gains(ARRAY, 0, ARRAY.subband_frequencies_hz(0))[swapped, :, 0]
    as_first = (swapped == FIRST) & CROSS
    np.testing.assert_allclose(seen[:, as_first, 0], clean[:, as_first, 0] * y / x, rtol=1e-3)
    np.testing.assert_allclose(seen[:, as_first, 1], clean[:, as_first, 1] * x / y, rtol=1e-3)


@pytest.mark.parametrize(("kind", "factor"), [(Kind.GAIN_JUMP, 1.3), (Kind.FLUX_SCALE_STEP, 1.15)])
def test_amplitudes_step_by_what_is_said(clean, tmp_path, kind, factor):
    seen = visibilities(tmp_path / "tile", kind)

    expected = factor ** with_failing(kind) if kind is Kind.GAIN_JUMP else np.full(FIRST.size, factor)
    np.testing.assert_allclose(seen / clean, np.broadcast_to(expected[:, None], clean.shape), rtol=1e-4)


def test_interference_is_in_a_quarter_of_the_integrations(clean, tmp_path):
    seen = visibilities(tmp_path / "tile", Kind.RFI)

    assert (np.abs(seen - clean)[:, CROSS].min(axis=(1, 2)) > 100).sum() == 2


def test_a_pointing_error_changes_what_the_beam_does_and_no_phase(clean, tmp_path):
    seen = visibilities(tmp_path / "tile", Kind.POINTING_ERROR)

    ratio = (seen / clean)[:, CROSS]
    assert np.abs(ratio).max() < 0.98  # 0.3 deg north of the middle is 0.4 deg south of where they point
    assert np.abs(np.angle(ratio)).max() < 1e-3


def test_an_artefact_outshines_the_field(clean, tmp_path):
    seen = visibilities(tmp_path / "tile", Kind.ARTEFACT)

    assert np.median(np.abs(seen[:, CROSS])) > 30 * np.median(np.abs(clean[:, CROSS]))


def test_on_another_strip_other_sources_are_seen(clean, tmp_path):
    seen = visibilities(tmp_path / "tile", Kind.WRONG_STRIP)

    assert np.median(np.abs(seen[:, CROSS])) == pytest.approx(np.median(np.abs(clean[:, CROSS])), rel=0.2)
    assert np.std(np.angle(seen[:, CROSS] / clean[:, CROSS])) > 1


def test_decorrelation_turns_all_antennas_at_each_integration(clean, tmp_path):
    seen = visibilities(tmp_path / "tile", Kind.DECORRELATION)

    turned_deg = np.degrees(np.angle(seen / clean))[:, CROSS]
    assert 50 < np.sqrt((turned_deg**2).mean()) < 75  # the root of two times 45
    np.testing.assert_allclose(np.abs(seen), np.abs(clean), rtol=1e-4)


def test_a_truncated_tile_has_half_of_its_integrations(clean, tmp_path):
    assert visibilities(tmp_path / "tile", Kind.TRUNCATED_TILE).shape[0] == clean.shape[0] / 2


def test_failures_are_of_the_tiles_that_the_plan_says_and_the_truth_names_them(tmp_path):
    failures = Failure(Kind.RFI, 1, 2), Failure(Kind.GAIN_JUMP, 3)
    plan = NightPlan(nights=2, tiles=3, sources_per_tile=2, failures=failures)
    tiles = plan_nights(ARRAY, plan, CALIBRATOR)

    write_truth(tmp_path / "truth.json", ARRAY, plan, tiles)

    truth = json.loads((tmp_path / "truth.json").read_text())
    assert [tile["failures"] for tile in truth["tiles"]] == [[], ["rfi"], ["rfi"], *3 * [["gain_jump"]]]
