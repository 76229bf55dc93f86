from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from casacore.tables import table, taql

from contimg.exceptions import DiskFull
from observations.engines.measurement_set import (
    BrokenMeasurementSet,
    content_checksum,
    copy_with,
    read_header,
    read_rows,
)
from observations.engines.simulator import Instrument
from tests.science import column, edited, field_plan, observe, with_unnamed_antennas

SMALL = Instrument(n_antennas=4, channels_per_subband=2, n_integrations=3)


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    return observe(tmp_path_factory.mktemp("small"), SMALL, field_plan(SMALL, offsets=[(0, 0, 1.0)])).path


def one_more(values: np.ndarray, *antennas) -> np.ndarray:
    """The last number changed by the least that can be stored."""
    flat = values.reshape(-1)
    if values.dtype == bool:
        flat[-1] = not flat[-1]
    elif np.iscomplexobj(values):
        flat.real[-1] = np.nextafter(flat.real[-1], np.float32(np.inf))
    else:
        flat[-1] = np.nextafter(flat[-1], np.inf, dtype=values.dtype)
    return values


@pytest.mark.parametrize("name", ["DATA", "FLAG", "UVW", "WEIGHT_SPECTRUM", "TIME"])
def test_the_checksum_sees_the_smallest_change_of(small, tmp_path, name):
    assert content_checksum(edited(small, tmp_path, **{name: one_more})) != content_checksum(small)


def test_the_checksum_leaves_history_and_dates_out(small, tmp_path):
    copy = edited(small, tmp_path)
    with table(f"{copy}::HISTORY", readonly=False, ack=False) as history:
        history.addrows(1)
        history.putcell("MESSAGE", history.nrows() - 1, "looked at on a Tuesday")
    with table(f"{copy}::OBSERVATION", readonly=False, ack=False) as observation:
        observation.putcell("OBSERVER", 0, "somebody else")
    for path in copy.rglob("*"):
        path.touch()

    assert content_checksum(copy) == content_checksum(small)


def test_the_checksum_does_not_depend_on_where_the_set_is(small, tmp_path):
    shutil.copytree(small, tmp_path / "elsewhere.ms")

    assert content_checksum(tmp_path / "elsewhere.ms") == content_checksum(small)


def doubled(path: Path):
    for rows in read_rows(path, rows_at_once=7):
        yield rows, rows.data * 2, ~rows.flags


def test_a_copy_has_the_new_columns_and_the_original_its_own(small, tmp_path):
    before, data, files = content_checksum(small), column(small, "DATA"), stamps(small)

    copy_with(small, tmp_path / "copy.ms", doubled(small))

    assert content_checksum(small) == before
    assert stamps(small) == files
    assert np.array_equal(column(tmp_path / "copy.ms", "DATA"), data * 2)
    assert column(tmp_path / "copy.ms", "FLAG").all()
    assert np.array_equal(column(tmp_path / "copy.ms", "WEIGHT_SPECTRUM"), column(small, "WEIGHT_SPECTRUM"))
    assert np.array_equal(column(tmp_path / "copy.ms", "UVW"), column(small, "UVW"))


def stamps(path: Path) -> dict[str, tuple[int, int]]:
    """Sizes and times of the files; casacore's lock files are no data."""
    files = (file for file in path.rglob("*") if file.is_file() and file.name != "table.lock")
    return {str(file): (file.stat().st_size, file.stat().st_mtime_ns) for file in files}


def test_a_copy_stands_by_itself(small, tmp_path):
    shutil.copytree(small, tmp_path / "original.ms")
    copy_with(tmp_path / "original.ms", tmp_path / "copy.ms", doubled(small))
    shutil.rmtree(tmp_path / "original.ms")

    assert read_header(tmp_path / "copy.ms").antenna_names == ("pad001", "pad002", "pad003", "pad004")
    assert taql("SELECT FROM $1 WHERE ALL(FLAG)", tables=[table(str(tmp_path / "copy.ms"), ack=False)]).nrows() == 30


def test_gaps_in_the_antenna_numbers_of_an_older_set_have_names_and_a_place(small, tmp_path):
    gapped = read_header(with_unnamed_antennas(small, tmp_path, [1, 2, 4, 6]))

    assert gapped.antenna_names == ("gap0", "pad001", "pad002", "gap3", "pad003", "gap5", "pad004")
    names, positions = read_header(small).antenna_names, read_header(small).antenna_positions_m
    assert [gapped.antenna_names[row] for row in (1, 2, 4, 6)] == list(names)
    assert np.array_equal(gapped.antenna_positions_m[[1, 2, 4, 6]], positions)
    assert np.abs(gapped.antenna_positions_m - positions.mean(axis=0)).max() < 3000  # the array is 2.7 km long


def test_a_copy_that_would_fill_the_disk_is_not_begun(small, tiny_disk):
    with pytest.raises(DiskFull, match="Free some space"):
        copy_with(small, tiny_disk / "copy.ms", doubled(small))

    assert list(tiny_disk.iterdir()) == []


def emptied(path: Path) -> None:
    (path / "table.dat").write_bytes(b"")


def without_data_file(path: Path) -> None:
    for file in path.glob("table.f*"):
        file.unlink()


@pytest.mark.parametrize(
    "damage",
    [shutil.rmtree, emptied, without_data_file],
    ids=["gone", "emptied", "no columns"],
)
@pytest.mark.parametrize(
    "read",
    [read_header, content_checksum, lambda path: list(read_rows(path))],
    ids=["header", "checksum", "rows"],
)
def test_a_broken_measurement_set_is_named(small, tmp_path, damage, read):
    broken = edited(small, tmp_path)
    damage(broken)

    with pytest.raises(BrokenMeasurementSet, match=r"^edited_raw\.ms is not a readable measurement set"):
        read(broken)


def test_a_measurement_set_without_its_antennas_is_broken(small, tmp_path):
    broken = edited(small, tmp_path)
    shutil.rmtree(broken / "ANTENNA")

    with pytest.raises(BrokenMeasurementSet):
        read_header(broken)


def test_a_file_is_no_measurement_set(tmp_path):
    (tmp_path / "x.ms").write_text("hello")

    with pytest.raises(BrokenMeasurementSet):
        read_header(tmp_path / "x.ms")
