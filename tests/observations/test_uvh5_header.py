import random
from datetime import UTC, datetime, timedelta
from pathlib import Path

import h5py
import numpy as np
import pytest
from astropy.coordinates import EarthLocation
from pyuvdata import Telescope, UVData

from contimg.exceptions import InvalidInput, NotReadable
from observations.engines.uvh5_header import (
    SubbandEmpty,
    SubbandHeader,
    SubbandName,
    SubbandNotHdf5,
    SubbandTruncated,
    parse_name,
    read_header,
)
from observations.telescope import INTEGRATION_S
from tests.observations.subband_files import NIGHT, TILE_S, file_name, header_fields, write_header, write_subband

NAME = file_name(NIGHT, 3)


def test_the_facts_of_a_drift_scan(tmp_path):
    facts = read_header(write_subband(tmp_path, 3, skew_s=7.0, dec_deg=22.5))

    assert facts.subband == 3
    assert facts.named_at == NIGHT + timedelta(seconds=7)
    assert facts.started_at == NIGHT
    assert facts.duration_s == pytest.approx(TILE_S, abs=0.001)
    assert facts.integration_s == INTEGRATION_S
    assert facts.n_integrations == 24
    assert facts.pointing_dec_deg == 22.5
    assert facts.frequency_hz == pytest.approx(1.498e9 - 3 * 11.7e6 + 1.5 * 244140.625)
    assert (facts.n_channels, facts.n_antennas) == (4, 2)


def test_what_pyuvdata_writes_is_understood(tmp_path):
    telescope = Telescope.new(
        name="DSA-110",
        location=EarthLocation.from_geodetic(-118.2817, 37.2339, 1222.0),
        antenna_positions={0: np.zeros(3), 1: np.array([0.0, 30.0, 0.0])},
        antenna_diameters=np.full(2, 4.65),
        instrument="DSA-110",
        mount_type="fixed",
    )
    data = UVData.new(
        freq_array=np.linspace(1.40e9, 1.41e9, 8),
        polarization_array=[-5, -6],
        antpairs=[(0, 0), (0, 1), (1, 1)],
        times=2460736.5 + (np.arange(4) + 0.5) * INTEGRATION_S / 86400.0,
        telescope=telescope,
        integration_time=INTEGRATION_S,
        channel_width=1e7 / 7,
        phase_center_catalog={
            0: {"cat_name": "drift", "cat_type": "driftscan", "cat_lon": 0.0, "cat_lat": np.radians(80.0)}
        },
        do_blt_outer=True,
        time_axis_faster_than_bls=True,
        empty=True,
    )
    path = tmp_path / NAME
    data.write_uvh5(str(path))

    facts = read_header(path)

    assert facts.started_at == datetime(2025, 3, 2, tzinfo=UTC)
    assert (facts.n_integrations, facts.n_antennas, facts.n_channels) == (4, 2, 8)
    assert facts.duration_s == pytest.approx(4 * INTEGRATION_S, abs=0.001)
    assert facts.pointing_dec_deg == pytest.approx(47.2339, abs=1e-6)


def test_the_correlators_own_layout_is_understood(tmp_path):
    fields = header_fields()
    fields["freq_array"] = fields["freq_array"].reshape(1, -1)
    fields = {name: value for name, value in fields.items() if not name.startswith("phase_center_catalog")}
    fields["phase_center_app_dec"] = 0.0
    fields["extra_keywords/phase_center_dec"] = np.radians(16.3)

    facts = read_header(write_header(tmp_path / NAME, fields))

    assert facts.pointing_dec_deg == pytest.approx(16.3)
    assert facts.n_channels == 4


def test_a_zenith_entry_is_not_the_pointing(tmp_path):
    fields = header_fields() | {
        "phase_center_catalog/0/cat_type": np.bytes_("unprojected"),
        "phase_center_app_dec": np.full(72, np.radians(22.5)),
    }

    assert read_header(write_header(tmp_path / NAME, fields)).pointing_dec_deg == pytest.approx(22.5)


def test_times_in_an_unusual_order_are_read_in_full(tmp_path):
    fields = header_fields()
    fields["time_array"] = np.random.default_rng(1).permutation(fields["time_array"])

    facts = read_header(write_header(tmp_path / NAME, fields))

    assert facts.started_at == NIGHT
    assert facts.n_integrations == 24


def test_files_of_one_integration_start_at_the_same_time_to_the_digit(tmp_path):
    moment = NIGHT + timedelta(milliseconds=123)

    starts = {read_header(write_subband(tmp_path, subband, moment)).started_at for subband in range(4)}

    assert starts == {moment}


@pytest.mark.parametrize(
    "name",
    [
        "2025-03-01T04:00:00_sb16.hdf5",
        "2025-03-01T04:00:00_sb3.hdf5",
        "2025-13-01T04:00:00_sb03.hdf5",
        "2025-03-01T04:00:00_sb03.h5",
        "2025-03-01T04:00:00_sb03.hdf5.part",
        "2025-03-01 04:00:00_sb03.hdf5",
        "notes.hdf5",
    ],
)
def test_another_name_is_refused(name):
    with pytest.raises(SubbandName, match="is not of the form"):
        parse_name(name)


def test_a_file_cut_off_is_truncated(tmp_path):
    path = write_subband(tmp_path, 3)
    path.write_bytes(path.read_bytes()[:-100])

    with pytest.raises(SubbandTruncated, match=f"{NAME} is cut off"):
        read_header(path)


def test_a_file_cut_off_in_its_signature_is_truncated(tmp_path):
    (tmp_path / NAME).write_bytes(b"\x89HD")

    with pytest.raises(SubbandTruncated):
        read_header(tmp_path / NAME)


def test_a_file_that_is_something_else(tmp_path):
    (tmp_path / NAME).write_text("SIMPLE  =                    T")

    with pytest.raises(SubbandNotHdf5, match="is not an HDF5 file"):
        read_header(tmp_path / NAME)


def test_a_file_of_no_bytes_is_empty(tmp_path):
    (tmp_path / NAME).touch()

    with pytest.raises(SubbandEmpty):
        read_header(tmp_path / NAME)


@pytest.mark.parametrize(("field", "what"), [("time_array", "integrations"), ("freq_array", "channels")])
def test_a_file_without_content_is_empty(tmp_path, field, what):
    with pytest.raises(SubbandEmpty, match=f"holds no {what}"):
        read_header(write_header(tmp_path / NAME, header_fields() | {field: np.empty(0)}))


@pytest.mark.parametrize("field", ["time_array", "integration_time", "Ntimes", "Nants_data", "freq_array"])
def test_a_missing_field_is_named(tmp_path, field):
    fields = header_fields()
    del fields[field]

    with pytest.raises(SubbandHeader, match=f"{field} is missing"):
        read_header(write_header(tmp_path / NAME, fields))


def test_a_missing_declination_is_named(tmp_path):
    fields = {name: value for name, value in header_fields().items() if not name.startswith("phase_center")}

    with pytest.raises(SubbandHeader, match="declination is missing"):
        read_header(write_header(tmp_path / NAME, fields))


def test_a_file_without_a_header_is_named(tmp_path):
    with h5py.File(tmp_path / NAME, "w") as file:
        file["Data/visdata"] = np.zeros(3)

    with pytest.raises(SubbandHeader, match="Header"):
        read_header(tmp_path / NAME)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("integration_time", np.zeros(72)),
        ("integration_time", np.full(72, np.nan)),
        ("time_array", np.zeros(72)),
        ("time_array", np.full(72, np.nan)),
        ("time_array", np.bytes_("yesterday")),
        ("phase_center_catalog/0/cat_lat", np.nan),
        ("freq_array", np.full(4, np.nan)),
        ("Nants_data", 0),
        ("Ntimes", np.inf),
    ],
)
def test_a_senseless_field_is_refused(tmp_path, field, value):
    with pytest.raises(SubbandHeader, match=f"header of {NAME} cannot be used"):
        read_header(write_header(tmp_path / NAME, header_fields() | {field: value}))


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(NotReadable):
        read_header(tmp_path / NAME)


def outcome(path: Path) -> tuple[str, str]:
    try:
        return "", str(read_header(path))
    except InvalidInput as error:
        return error.code, str(error)


@pytest.mark.parametrize("seed", range(40))
def test_damaged_bytes_give_a_named_error_or_facts_but_nothing_else(tmp_path: Path, seed: int):
    path = write_subband(tmp_path, 3)
    content = bytearray(path.read_bytes())
    chance = random.Random(seed)
    for _ in range(60):
        content[chance.randrange(8, len(content))] = chance.randrange(256)
    path.write_bytes(content)

    code, sentence = outcome(path)

    assert code == "" or code.startswith("subband_")
    assert str(tmp_path) not in sentence
