from __future__ import annotations

import shutil

import numpy as np
import pytest
from casacore.tables import table
from pyuvdata import UVCal

from calibration.engines.caltable import Solution, content_checksum, read_table, write_table
from observations.engines.measurement_set import BrokenMeasurementSet, Header, read_header


@pytest.fixture(scope="module")
def header(calibrator_tile) -> Header:
    return read_header(calibrator_tile.path)


def solution(header: Header, kind: str, seed: int = 1) -> Solution:
    rng = np.random.default_rng(seed)
    shape = (len(header.antenna_names), 1 if kind == "G" else header.frequency_hz.size, 2)
    flags = rng.random(shape) < 0.1
    gains = rng.uniform(0.5, 1.5, shape) * np.exp(1j * rng.uniform(-np.pi, np.pi, shape))
    return Solution(np.where(flags, 1, gains).astype(np.complex64), flags, rng.uniform(1, 99, shape).astype(np.float32))


@pytest.mark.parametrize("kind", ["B", "G"])
def test_what_was_written_is_read(header, tmp_path, kind):
    written = solution(header, kind)

    checksum = write_table(tmp_path / "x.cal", kind, written, header, 2, "3C286")

    read = read_table(tmp_path / "x.cal")
    assert (read.kind, read.antenna_names) == (kind, header.antenna_names)
    assert np.array_equal(read.solution.gains, written.gains)
    assert np.array_equal(read.solution.flags, written.flags)
    assert np.array_equal(read.solution.snr, written.snr)
    if kind == "B":
        assert np.array_equal(read.frequency_hz, header.frequency_hz)
    assert checksum == content_checksum(tmp_path / "x.cal")


@pytest.mark.parametrize("kind", ["B", "G"])
def test_pyuvdata_reads_the_table_as_casa_would(header, tmp_path, kind):
    written = solution(header, kind)
    write_table(tmp_path / "x.cal", kind, written, header, 2, "3C286")

    cal = UVCal.from_file(str(tmp_path / "x.cal"), file_type="ms")

    assert (cal.cal_type, cal.cal_style, cal.gain_convention) == ("gain", "sky", "divide")
    assert np.array_equal(cal.gain_array[:, :, 0], np.where(written.flags, cal.gain_array[:, :, 0], written.gains))
    assert np.array_equal(cal.flag_array[:, :, 0], written.flags)
    assert list(cal.telescope.antenna_names) == list(header.antenna_names)
    assert cal.ref_antenna_name == "pad003"
    assert cal.wide_band is (kind == "G")


def test_the_table_is_of_casas_type(header, tmp_path):
    write_table(tmp_path / "x.cal", "B", solution(header, "B"), header, 2, "3C286")

    with table(str(tmp_path / "x.cal"), ack=False) as opened:
        assert opened.getkeyword("VisCal") == "B Jones"
        assert opened.getkeyword("ParType") == "Complex"
        assert set(opened.getcol("ANTENNA2")) <= {2, -1}


def test_the_checksum_sees_one_flag_and_not_the_date(header, tmp_path):
    first = write_table(tmp_path / "1.cal", "B", solution(header, "B"), header, 2, "3C286")
    other = solution(header, "B")
    other.flags[3, 4, 1] ^= True

    assert write_table(tmp_path / "2.cal", "B", other, header, 2, "3C286") != first
    assert write_table(tmp_path / "3.cal", "B", solution(header, "B"), header, 2, "3C286") == first


def test_an_incomplete_band_keeps_its_frequencies(header, tmp_path):
    kept = np.delete(np.arange(32), [10, 11])
    narrow = Header(**{**vars(header), "frequency_hz": header.frequency_hz[kept]})

    write_table(tmp_path / "x.cal", "B", solution(narrow, "B"), narrow, 0, "3C286")

    assert np.array_equal(read_table(tmp_path / "x.cal").frequency_hz, header.frequency_hz[kept])


def test_a_broken_table_is_named(header, tmp_path):
    write_table(tmp_path / "x.cal", "B", solution(header, "B"), header, 0, "3C286")
    shutil.rmtree(tmp_path / "x.cal" / "ANTENNA")

    with pytest.raises(BrokenMeasurementSet, match=r"x\.cal"):
        read_table(tmp_path / "x.cal")
