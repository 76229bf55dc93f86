from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from calibration.engines.applier import AppliedCalibration, apply
from calibration.engines.caltable import Solution, read_table, write_table
from calibration.engines.flagger import AllFlagged, FlaggingParameters, flag, read_flags
from observations.engines.converter import convert
from observations.engines.measurement_set import Header, Rows, content_checksum, read_header, read_rows
from tests.science import (
    GAPPED,
    STRIP_DEC_DEG,
    Observed,
    column,
    gains_of,
    renumbered,
    solved,
    true_gains,
    true_sky,
    with_unnamed_antennas,
)

N_CHANNELS = 32


def rows_of(path: Path) -> Rows:
    [rows] = read_rows(path, rows_at_once=10**6)
    return rows


@pytest.fixture(scope="module")
def tables(calibrator_tables) -> list[Path]:
    return [table.path for table in calibrator_tables.tables]


@pytest.fixture(scope="module")
def calibrated(field_tile, field_flags, tables, tmp_path_factory) -> tuple[Path, AppliedCalibration]:
    path = tmp_path_factory.mktemp("calibrated") / "calibrated.ms"
    return path, apply(measurement_set=field_tile.path, flag_table=field_flags, tables=tables, output=path)


def rewritten(path: Path, output: Path, header: Header, change) -> Path:
    """A table with its solution changed."""
    read = read_table(path)
    write_table(output, read.kind, change(read.solution), header, 0, "3C286")
    return output


def applied(tile: Observed, flags: Path, tables: Sequence[Path], folder: Path) -> tuple[Rows, AppliedCalibration]:
    report = apply(measurement_set=tile.path, flag_table=flags, tables=tables, output=folder / "c.ms")
    return rows_of(folder / "c.ms"), report


def test_the_true_sky_comes_back(field_tile, calibrated):
    """Through the gains of another tile: flux scale to a tenth of a percent, phases to a few tenths of a degree."""
    rows = rows_of(calibrated[0])
    used = rows.is_cross[:, None, None] & ~rows.flags
    sky = np.broadcast_to(true_sky(field_tile, rows)[..., None], rows.data.shape)

    ratio = np.vdot(sky[used], rows.data[used]) / np.vdot(sky[used], sky[used])

    assert abs(ratio) == pytest.approx(1, abs=3e-3)
    assert np.degrees(np.angle(ratio)) == pytest.approx(0, abs=0.3)
    for antenna in range(10):
        own = used & ((rows.antenna1 == antenna) | (rows.antenna2 == antenna))[:, None, None]
        assert abs(np.vdot(sky[own], rows.data[own]) / np.vdot(sky[own], sky[own]) - 1) < 0.015


def test_a_visibility_is_divided_by_both_gains_and_its_weight_kept(field_tile, calibrated, calibrator_tables):
    raw, rows = rows_of(field_tile.path), rows_of(calibrated[0])
    gains, _ = gains_of(calibrator_tables)
    pair = gains[raw.antenna1] * np.conj(gains[raw.antenna2])
    good = ~rows.flags

    assert rows.data[good] == pytest.approx((raw.data / pair)[good], rel=1e-5)
    assert (rows.weights == raw.weights).all()
    assert not rows.data[rows.flags].any()


def test_the_flags_of_the_flag_table_and_of_the_set_are_in_the_result(field_tile, field_flags, calibrated):
    raw, rows = rows_of(field_tile.path), rows_of(calibrated[0])
    wanted = raw.flags | read_flags(field_flags, 0, 10**9)

    assert np.array_equal(rows.flags, wanted)
    assert calibrated[1].flagged_fraction == pytest.approx(wanted[rows.is_cross].mean())
    assert calibrated[1].antennas_missing == ()


def test_the_input_is_untouched_and_the_result_repeats_itself(field_tile, field_flags, tables, calibrated, tmp_path):
    before = content_checksum(field_tile.path)

    _, again = applied(field_tile, field_flags, tables, tmp_path)

    assert content_checksum(field_tile.path) == before
    assert again == calibrated[1]
    assert again.checksum == content_checksum(calibrated[0]) != before
    assert np.array_equal(column(calibrated[0], "UVW"), column(field_tile.path, "UVW"))


def test_an_antenna_missing_from_the_tables_is_flagged_and_named(field_tile, field_flags, tables, tmp_path):
    header = read_header(field_tile.path)
    keep = np.delete(np.arange(10), 4)
    fewer = dataclasses.replace(
        header,
        antenna_names=tuple(header.antenna_names[i] for i in keep),
        antenna_positions_m=header.antenna_positions_m[keep],
    )

    def without(solution: Solution) -> Solution:
        return Solution(solution.gains[keep], solution.flags[keep], solution.snr[keep])

    short = [rewritten(path, tmp_path / path.name, fewer, without) for path in tables]

    rows, report = applied(field_tile, field_flags, short, tmp_path)

    own = (rows.antenna1 == 4) | (rows.antenna2 == 4)
    assert report.antennas_missing == ("pad005",)
    assert rows.flags[own].all()
    assert rows.flags[~own].mean() < 0.01
    assert report.flagged_fraction == pytest.approx(9 / 45, abs=0.01)
    sky = true_sky(field_tile, rows)[..., None]
    assert np.abs((rows.data - sky)[~own & rows.is_cross]).mean() < 0.3  # the others still got their own gains


def test_antennas_are_matched_by_name_whatever_their_order(field_tile, field_flags, tables, calibrated, tmp_path):
    header = read_header(field_tile.path)
    order = np.random.default_rng(1).permutation(10)
    shuffled = dataclasses.replace(
        header,
        antenna_names=tuple(header.antenna_names[i] for i in order),
        antenna_positions_m=header.antenna_positions_m[order],
    )

    def reorder(solution: Solution) -> Solution:
        return Solution(solution.gains[order], solution.flags[order], solution.snr[order])

    mixed = [rewritten(path, tmp_path / path.name, shuffled, reorder) for path in tables]

    assert applied(field_tile, field_flags, mixed, tmp_path)[1] == calibrated[1]


@pytest.fixture(scope="module")
def gapped_tables(calibrator_tile, tmp_path_factory) -> list[Path]:
    """The calibrator's tile through conversion, flagging and solving, from antenna numbers with many gaps."""
    folder = tmp_path_factory.mktemp("gapped")
    files = renumbered(calibrator_tile.files, folder, GAPPED)
    convert(files=files, pointing_dec_deg=STRIP_DEC_DEG, output=folder / "raw.ms")
    flag(measurement_set=folder / "raw.ms", output=folder / "flags.h5", parameters=FlaggingParameters())
    return [table.path for table in solved(folder / "raw.ms", folder / "flags.h5", folder).tables]


def test_gaps_in_the_antenna_numbers_change_neither_tables_nor_what_they_are_applied_to(
    field_tile, field_flags, tables, gapped_tables, calibrated, tmp_path
):
    files = renumbered(field_tile.files, tmp_path, GAPPED)
    convert(files=files, pointing_dec_deg=STRIP_DEC_DEG, output=tmp_path / "raw.ms")

    _, report = applied(dataclasses.replace(field_tile, path=tmp_path / "raw.ms"), field_flags, gapped_tables, tmp_path)

    for gapped, plain in zip(map(read_table, gapped_tables), map(read_table, tables), strict=True):
        assert gapped.antenna_names == plain.antenna_names
        assert gapped.solution.gains == pytest.approx(plain.solution.gains, rel=1e-6)
        assert np.array_equal(gapped.solution.flags, plain.solution.flags)
    assert report == calibrated[1]


def test_sets_with_unnamed_antennas_are_still_solved_and_calibrated(
    calibrator_tile, calibrator_flags, field_tile, field_flags, tables, calibrated, tmp_path
):
    """Their flags and the tables of other sets fit them: rows are the same and antennas are matched by name."""
    older = with_unnamed_antennas(calibrator_tile.path, tmp_path, GAPPED)
    of_older = [table.path for table in solved(older, calibrator_flags[0], tmp_path).tables]
    (tmp_path / "field").mkdir()
    older_field = with_unnamed_antennas(field_tile.path, tmp_path / "field", GAPPED)

    of_their_tables, by_older = applied(field_tile, field_flags, of_older, tmp_path)
    of_their_data, of_others = applied(
        dataclasses.replace(field_tile, path=older_field), field_flags, tables, tmp_path / "field"
    )

    expected = rows_of(calibrated[0]).data
    assert np.abs(of_their_tables.data - expected).max() < 1e-5 * np.abs(expected).max()  # rows of zeros in the sums
    assert np.array_equal(of_their_data.data, expected)
    for report in (by_older, of_others):
        assert (report.antennas_missing, report.flagged_fraction) == ((), calibrated[1].flagged_fraction)


@pytest.mark.parametrize("missing", [[0, 1], [14, 15], [30, 31]], ids=["lowest", "middle", "highest"])
def test_a_subband_missing_from_the_bandpass_is_flagged(field_tile, field_flags, tables, tmp_path, missing):
    """Channels are matched by frequency: the others must not slip into the gap."""
    header = read_header(field_tile.path)
    keep = np.delete(np.arange(N_CHANNELS), missing)

    def without(solution: Solution) -> Solution:
        return Solution(solution.gains[:, keep], solution.flags[:, keep], solution.snr[:, keep])

    narrow = dataclasses.replace(header, frequency_hz=header.frequency_hz[keep])
    bandpass = rewritten(tables[0], tmp_path / "B.cal", narrow, without)

    rows, report = applied(field_tile, field_flags, [bandpass, tables[1]], tmp_path)

    assert rows.flags[:, missing].all()
    assert rows.flags[:, keep].mean() < 0.01
    assert report.flagged_fraction == pytest.approx(2 / N_CHANNELS, abs=0.01)
    assert report.antennas_missing == ()
    whole = (rows_of(field_tile.path).data / _pairs(field_tile))[rows.is_cross][:, keep]
    assert rows.data[rows.is_cross][:, keep] == pytest.approx(whole, rel=0.05, abs=0.05)


def _pairs(tile: Observed) -> np.ndarray:
    gains, rows = true_gains(tile), rows_of(tile.path)
    return gains[rows.antenna1] * np.conj(gains[rows.antenna2])


def test_an_antenna_flagged_in_one_table_is_flagged_and_named(field_tile, field_flags, tables, tmp_path):
    header = read_header(field_tile.path)

    def dead(solution: Solution) -> Solution:
        solution.flags[6] = True
        return solution

    gain = rewritten(tables[1], tmp_path / "G.cal", header, dead)

    rows, report = applied(field_tile, field_flags, [tables[0], gain], tmp_path)

    assert report.antennas_missing == ("pad007",)
    assert rows.flags[(rows.antenna1 == 6) | (rows.antenna2 == 6)].all()


def test_tables_that_leave_nothing_are_refused(field_tile, field_flags, tables, tmp_path):
    header = read_header(field_tile.path)

    def all_flagged(solution: Solution) -> Solution:
        solution.flags[:] = True
        return solution

    bandpass = rewritten(tables[0], tmp_path / "B.cal", header, all_flagged)

    with pytest.raises(AllFlagged, match="the tables do not fit this tile"):
        applied(field_tile, field_flags, [bandpass, tables[1]], tmp_path)


def test_tables_of_another_band_leave_nothing(field_tile, field_flags, tables, tmp_path):
    header = read_header(field_tile.path)
    other = dataclasses.replace(header, frequency_hz=header.frequency_hz + 300e6)
    bandpass = rewritten(tables[0], tmp_path / "B.cal", other, lambda solution: solution)

    with pytest.raises(AllFlagged):
        applied(field_tile, field_flags, [bandpass, tables[1]], tmp_path)
