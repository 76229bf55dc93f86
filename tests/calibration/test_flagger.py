from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

import h5py
import numpy as np
import pytest
from casacore.tables import table

from calibration.engines.flagger import AllFlagged, Flagging, FlaggingParameters, flag, read_flags
from observations.engines.measurement_set import BrokenMeasurementSet, content_checksum, read_rows
from observations.engines.simulator import Instrument
from tests.science import calibrator_plan, column, edited, field_plan, observe

NOISY = Instrument(n_antennas=10, channels_per_subband=3, n_integrations=12)
N_CHANNELS = 48


@pytest.fixture(scope="module")
def noisy(tmp_path_factory) -> Path:
    """A science tile with the real noise and nothing wrong."""
    return observe(tmp_path_factory.mktemp("noisy"), NOISY, field_plan(NOISY, offsets=[(0.2, 0.1, 0.3)])).path


@pytest.fixture(scope="module")
def bursts(tmp_path_factory) -> tuple[Path, np.ndarray]:
    """The same with bursts of 30-300 Jy, and where they are: (integration, channel)."""
    quiet = dataclasses.replace(NOISY, sefd_jy=1.0)
    plan = field_plan(NOISY, offsets=[(0.2, 0.1, 0.3)], rfi_fraction=0.1)
    folders = [tmp_path_factory.mktemp(name) for name in ("bursts", "quiet")]
    seen = observe(folders[0], NOISY, plan).path
    without_noise = observe(folders[1], quiet, plan).path
    amplitude = np.abs(column(without_noise, "DATA"))[column(seen, "ANTENNA1") != column(seen, "ANTENNA2")]
    return seen, amplitude.reshape(12, 45, N_CHANNELS, 2).min(axis=(1, 3)) > 10


def flagged(path: Path, folder: Path, **parameters) -> tuple[Flagging, np.ndarray]:
    """The report, and the flags of cross-correlations (integration, baseline, channel, polarization)."""
    output = folder / "flags.h5"
    report = flag(measurement_set=path, output=output, parameters=FlaggingParameters(**parameters))
    flags = read_flags(output, 0, 10**9)
    cross = column(path, "ANTENNA1") != column(path, "ANTENNA2")
    return report, flags[cross].reshape(12, 45, N_CHANNELS, 2)


def test_clean_data_stay_nearly_whole(noisy, tmp_path):
    report, _ = flagged(noisy, tmp_path)

    assert report.flagged_fraction < 2e-3


def test_a_bright_calibrator_drifting_through_is_not_interference(calibrator_flags):
    assert calibrator_flags[1].flagged_fraction < 1e-3


def test_a_calibrator_in_the_real_noise_is_not_interference(tmp_path):
    path = observe(tmp_path, NOISY, calibrator_plan(NOISY)).path

    assert flagged(path, tmp_path)[0].flagged_fraction < 2e-3


def test_bursts_are_found_and_little_else_is_taken(bursts, tmp_path):
    path, where = bursts

    _, flags = flagged(path, tmp_path)

    by_burst = flags.mean(axis=(1, 3))
    assert 0.05 < where.mean() < 0.15
    assert by_burst[where].mean() > 0.995
    assert by_burst[~where].mean() < 0.005


def test_one_strong_visibility_is_found(noisy, tmp_path):
    def strike(data, first, second):
        data[np.flatnonzero((first == 2) & (second == 5))[4], 7, 1] = 40 + 0j
        return data

    before = flagged(noisy, tmp_path)[1]
    after = flagged(edited(noisy, tmp_path, DATA=strike), tmp_path)[1]

    assert after.sum() - before.sum() in (1, 2)


def test_weak_interference_seen_by_the_whole_array_is_found(noisy, tmp_path):
    """5 Jy on every baseline is two sigma of each and a certainty for all."""

    def hum(data, first, second):
        times = np.arange(data.shape[0]) // (data.shape[0] // 12)
        data[(times == 5) & (first != second), 20:23] += 5.0
        return data

    _, flags = flagged(edited(noisy, tmp_path, DATA=hum), tmp_path)

    assert flags[5, :, 20:23].mean() > 0.9
    assert flags.mean() < 0.02


@pytest.mark.parametrize("value", [0, np.nan, np.inf])
def test_zero_and_non_finite_visibilities_are_flagged(noisy, tmp_path, value):
    def blank(data, first, second):
        data[(first == 1) & (second == 4), 3] = value
        return data

    report, flags = flagged(edited(noisy, tmp_path, DATA=blank), tmp_path)

    assert flags[:, :, 3].any(axis=(0, 2)).sum() >= 1
    assert flags[:, :, 3].all(axis=(0, 2)).sum() == 1
    assert report.flagged_fraction < 0.01


def test_flags_that_came_with_the_data_stay(noisy, tmp_path):
    def dead(flags, first, second):
        flags[(first == 3) | (second == 3)] = True
        return flags

    report, _ = flagged(edited(noisy, tmp_path, FLAG=dead), tmp_path)

    assert report.antenna_fractions["pad004"] == 1.0
    assert report.antenna_fractions["pad001"] == pytest.approx(1 / 9, abs=0.01)
    assert report.flagged_fraction == pytest.approx(9 / 45, abs=0.01)
    assert len(report.antenna_fractions) == 10


@pytest.mark.parametrize(("share", "whole"), [(0.5, False), (0.7, True)])
def test_a_channel_of_which_too_little_is_left_is_flagged_whole(noisy, tmp_path, share, whole):
    def spoil(flags, first, second):
        flags[: int(share * len(flags)), 10] = True
        return flags

    report, flags = flagged(edited(noisy, tmp_path, FLAG=spoil), tmp_path)

    assert bool(flags[:, :, 10].all()) is whole
    assert report.channel_fractions[10] == pytest.approx(1.0 if whole else share, abs=0.05)
    assert report.channel_fractions[11] < 0.01


@pytest.mark.parametrize(("share", "whole"), [(0.7, False), (0.9, True)])
def test_an_antenna_of_which_too_little_is_left_is_flagged_whole(noisy, tmp_path, share, whole):
    def spoil(flags, first, second):
        own = (first == 6) | (second == 6)
        flags[own, : int(share * N_CHANNELS)] = True
        return flags

    report, _ = flagged(edited(noisy, tmp_path, FLAG=spoil), tmp_path)

    assert (report.antenna_fractions["pad007"] == 1.0) is whole


def test_the_fractions_agree_with_the_flags(bursts, tmp_path):
    report, flags = flagged(bursts[0], tmp_path)

    assert report.flagged_fraction == pytest.approx(flags.mean())
    assert report.channel_fractions == pytest.approx(flags.mean(axis=(0, 1, 3)), abs=1e-6)
    assert np.mean(list(report.antenna_fractions.values())) == pytest.approx(flags.mean(), abs=1e-6)


def test_the_measurement_set_is_not_touched(noisy, tmp_path):
    before = content_checksum(noisy)

    flagged(noisy, tmp_path)

    assert content_checksum(noisy) == before


def test_the_checksum_is_of_the_flags(noisy, tmp_path):
    one, again = flagged(noisy, tmp_path)[0], flagged(noisy, tmp_path)[0]
    flags = read_flags(tmp_path / "flags.h5", 0, 10**9)

    assert one == again
    assert one.checksum == hashlib.sha256(np.packbits(flags).tobytes()).hexdigest()
    assert flagged(noisy, tmp_path, baseline_sigma=3.0)[0].checksum != one.checksum


def test_flags_are_read_for_the_rows_asked_for(noisy, tmp_path):
    flagged(noisy, tmp_path)
    with h5py.File(tmp_path / "flags.h5") as file:
        whole = file["flags"][()]

    parts = [read_flags(tmp_path / "flags.h5", r.first_row, len(r.data)) for r in read_rows(noisy, rows_at_once=100)]

    assert np.array_equal(np.concatenate(parts), whole)


@pytest.mark.parametrize(
    "spoil", [{"FLAG": lambda f, a, b: f | True}, {"DATA": lambda d, a, b: d * 0}], ids=["flagged", "zero"]
)
def test_a_tile_with_nothing_left_is_refused_and_no_flags_are_written(noisy, tmp_path, spoil):
    path = edited(noisy, tmp_path, **spoil)

    with pytest.raises(AllFlagged, match="All visibilities of the tile are flagged"):
        flag(measurement_set=path, output=tmp_path / "none.h5", parameters=FlaggingParameters())

    assert not (tmp_path / "none.h5").exists()


def test_baselines_that_come_and_go_are_refused(noisy, tmp_path):
    path = tmp_path / "short.ms"
    with table(str(noisy), ack=False) as main:
        main.query("ROWNUMBER() != 4").copy(str(path), deep=True).close()

    with pytest.raises(BrokenMeasurementSet, match="not there at every integration"):
        flagged(path, tmp_path)


def test_baselines_in_another_order_at_some_integration_are_refused(noisy, tmp_path):
    def swap(antenna, first, second):
        antenna[[60, 61]] = antenna[[61, 60]]
        return antenna

    path = edited(noisy, tmp_path, ANTENNA1=swap, ANTENNA2=swap)

    with pytest.raises(BrokenMeasurementSet, match="another order at some integration"):
        flagged(path, tmp_path)
