"""UVH5 to measurement set: what comes out is where AltAz says, and what cannot be converted is named."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from datetime import UTC, timedelta
from pathlib import Path

import h5py
import numpy as np
import pytest
from astropy.coordinates import AltAz, SkyCoord
from astropy.time import Time

from contimg.exceptions import DiskFull
from contimg.products import workspace
from observations.conversion import (
    GroupIncomplete,
    GroupOverfull,
    conversion_recipe,
    make_measurement_set,
    record_measurement_set,
)
from observations.engines.converter import (
    AllFlagged,
    ConvertedSet,
    SubbandsDisagree,
    convert,
)
from observations.engines.measurement_set import read_header, read_rows
from observations.engines.simulator import Instrument, simulate_tile
from observations.engines.subband_data import SubbandUnreadable
from observations.models import SubbandGroup
from observations.services import index_subbands
from observations.telescope import LATITUDE_DEG, location
from tests.science import (
    QUIET,
    STRIP_DEC_DEG,
    Observed,
    field_plan,
    observe,
    renumbered,
    towards_ecef,
    true_gains,
    true_sky,
)

SMALL = Instrument(n_antennas=6, channels_per_subband=2, n_integrations=4)
PLAN = field_plan(SMALL, offsets=[(0.2, 0.1, 5.0)])


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> list[Path]:
    """The 16 files of a small tile. Copy before changing."""
    return simulate_tile(SMALL, PLAN, tmp_path_factory.mktemp("small"))


@pytest.fixture
def files(small, tmp_path) -> list[Path]:
    folder = tmp_path / "night"
    folder.mkdir()
    return [Path(shutil.copy2(path, folder)) for path in small]


def rewrite(path: Path, change: Callable[[np.ndarray], object], name: str = "visdata") -> None:
    """Change a dataset of a subband file in place; shape (integration x baseline, channel, polarization)."""
    with h5py.File(path, "r+") as file:
        values = file["Data"][name][()]
        change(values)
        file["Data"][name][...] = values


def antennas_of(path: Path) -> tuple[np.ndarray, np.ndarray]:
    with h5py.File(path) as file:
        return file["Header/ant_1_array"][()], file["Header/ant_2_array"][()]


def converted_set(files: Sequence[Path], output: Path) -> ConvertedSet:
    return convert(files=files, pointing_dec_deg=PLAN.pointing_dec_deg, output=output)


def rows_of(path: Path):
    [rows] = read_rows(path, rows_at_once=10**6)
    return rows


# --- what comes out --------------------------------------------------------------------------------------------------
def test_frequencies_ascend_and_every_channel_is_there_once(calibrator_tile: Observed):
    header = read_header(calibrator_tile.path)
    expected = np.sort(np.concatenate([QUIET.subband_frequencies_hz(subband) for subband in range(16)]))

    assert header.frequency_hz == pytest.approx(expected, abs=1)
    assert header.channel_width_hz == pytest.approx(187.5e6 / 768)
    assert calibrator_tile.converted.frequency_hz == pytest.approx(1.40505e9)
    assert calibrator_tile.converted.bandwidth_hz == pytest.approx(32 * 187.5e6 / 768)


def test_the_phase_centre_is_on_the_meridian_at_mid_tile(field_tile: Observed):
    header, converted = read_header(field_tile.path), field_tile.converted
    middle = Time(field_tile.plan.started_at + timedelta(seconds=24 * 12.885 / 2))
    place = SkyCoord(header.ra_rad, header.dec_rad, unit="rad")

    seen = place.transform_to(AltAz(obstime=middle, location=location()))

    assert seen.alt.deg == pytest.approx(90 - abs(LATITUDE_DEG - STRIP_DEC_DEG), abs=1e-5)
    assert (seen.az.deg - 180) * np.cos(seen.alt.rad) == pytest.approx(0, abs=1e-5)
    assert (converted.ra_deg, converted.dec_deg) == pytest.approx((place.ra.deg, place.dec.deg))
    assert converted.mid_jd == pytest.approx(middle.jd, abs=1e-7)
    assert converted.duration_s == pytest.approx(24 * 12.885, abs=1e-3)


def test_baselines_and_phases_are_those_towards_the_phase_centre(field_tile: Observed):
    """w and the fringes by AltAz, the sign being CASA's: a measurement set holds the conjugate of the UVH5."""
    header, rows = read_header(field_tile.path), rows_of(field_tile.path)
    times = Time(header.times_s / 86400, format="mjd", scale="utc")
    centre = towards_ecef(times, SkyCoord(header.ra_rad, header.dec_rad, unit="rad"))
    baseline_m = header.antenna_positions_m[rows.antenna2] - header.antenna_positions_m[rows.antenna1]
    gains = true_gains(field_tile)
    noiseless = gains[rows.antenna1] * np.conj(gains[rows.antenna2]) * true_sky(field_tile, rows)[..., None]
    cross = rows.is_cross

    assert -rows.uvw_m[:, 2] == pytest.approx(np.einsum("rx,rx->r", baseline_m, centre[rows.time_index]), abs=2e-3)
    difference = (rows.data - noiseless)[cross]
    assert np.abs(difference).mean() / np.abs(noiseless[cross]).mean() < 0.15  # the noise is a tenth of the signal
    averaged = np.abs((difference * np.conj(noiseless[cross])).mean()) / (np.abs(noiseless[cross]) ** 2).mean()
    assert averaged < 2e-3


def test_autocorrelations_are_kept_as_rows(calibrator_tile: Observed):
    rows = rows_of(calibrator_tile.path)

    assert (~rows.is_cross).sum() == 24 * 10
    assert rows.is_cross.sum() == 24 * 45
    assert np.abs(rows.data[~rows.is_cross]).min() > 100 > np.abs(rows.data[rows.is_cross]).max()


def test_two_halves_of_the_block_reader_are_the_whole(calibrator_tile: Observed):
    parts = list(read_rows(calibrator_tile.path, rows_at_once=1000))
    whole = rows_of(calibrator_tile.path)

    assert [part.first_row for part in parts] == [0, 1000]
    assert np.array_equal(np.concatenate([part.data for part in parts]), whole.data)
    assert np.array_equal(np.concatenate([part.time_index for part in parts]), whole.time_index)


@pytest.mark.parametrize("how", ["flagged", "zero", "NaN"])
def test_an_antenna_without_data_is_left_out_by_name(files, tmp_path, how):
    first, second = antennas_of(files[0])
    own = (first == 3) | (second == 3)

    def spoil(values: np.ndarray) -> None:
        values[own] = {"flagged": True, "zero": 0, "NaN": np.nan}[how]

    for path in files:
        rewrite(path, spoil, "flags" if how == "flagged" else "visdata")

    converted = converted_set(files, tmp_path / "raw.ms")

    rows = rows_of(tmp_path / "raw.ms")
    names = read_header(tmp_path / "raw.ms").antenna_names
    used = {names[i] for i in np.union1d(rows.antenna1, rows.antenna2)}
    assert converted.antennas_left_out == ("pad004",)
    assert set(converted.antennas) == used == {"pad001", "pad002", "pad003", "pad005", "pad006"}
    assert converted.flagged_fraction == 0


def test_an_antenna_dead_in_one_subband_stays(files, tmp_path):
    first, second = antennas_of(files[0])
    rewrite(files[0], lambda values: values.__setitem__((first == 3) | (second == 3), 0))

    assert converted_set(files, tmp_path / "raw.ms").antennas_left_out == ()


def test_nan_and_infinite_visibilities_are_flagged_and_blanked(files, tmp_path):
    def spoil(values: np.ndarray) -> None:
        values[1, 0, 0], values[2, 1, 1] = np.nan, np.inf  # both are cross-correlations of the first integration

    rewrite(files[15], spoil)  # the lowest subband: the first channels of the set

    converted = converted_set(files, tmp_path / "raw.ms")

    rows = rows_of(tmp_path / "raw.ms")
    assert list(zip(*np.nonzero(rows.flags), strict=True)) == [(1, 0, 0), (2, 1, 1)]
    assert np.isfinite(rows.data).all()
    assert converted.nan_fraction == pytest.approx(2 / rows.data.size)
    assert converted.flagged_fraction == pytest.approx(2 / rows.data[rows.is_cross].size)


def test_a_tile_of_15_subbands_keeps_the_gap(files, tmp_path):
    converted = converted_set([path for path in files if "_sb05" not in path.name], tmp_path / "raw.ms")

    steps = np.diff(read_header(tmp_path / "raw.ms").frequency_hz)
    assert converted.n_channels == 30
    assert steps.min() > 0
    assert converted.bandwidth_hz == pytest.approx(30 * 187.5e6 / 768)


def test_converting_again_gives_the_same_content(files, tmp_path):
    one = converted_set(files, tmp_path / "one.ms")
    other = converted_set(files[::-1], tmp_path / "other.ms")

    assert one == other


@pytest.mark.parametrize("numbers", [(1, 2, 4, 8, 21, 116), (0, 1, 2, 3, 4, 6)], ids=["many gaps", "one gap"])
def test_gaps_in_the_antenna_numbers_make_no_difference(files, tmp_path, numbers):
    """The set has the telescope's names, each in the row that its baselines point to, and no others."""
    (tmp_path / "gaps").mkdir()
    gapped = renumbered(files, tmp_path / "gaps", numbers)

    one, other = converted_set(files, tmp_path / "one.ms"), converted_set(gapped, tmp_path / "other.ms")

    assert other == one
    headers = [read_header(tmp_path / name) for name in ("one.ms", "other.ms")]
    assert headers[1].antenna_names == headers[0].antenna_names == one.antennas
    assert np.array_equal(headers[1].antenna_positions_m, headers[0].antenna_positions_m)


def test_a_telescope_that_lists_its_antennas_in_another_order_makes_the_same_set(files, tmp_path):
    expected = converted_set(files, tmp_path / "one.ms")
    for path in files:
        with h5py.File(path, "r+") as file:
            for name in ("antenna_numbers", "antenna_names", "antenna_positions"):
                file["Header"][name][...] = file["Header"][name][()][::-1]

    assert converted_set(files, tmp_path / "other.ms") == expected
    assert read_header(tmp_path / "other.ms").antenna_names == expected.antennas


# --- what cannot be converted ----------------------------------------------------------------------------------------
def test_a_file_with_another_number_of_antennas_is_named(files, tmp_path):
    other = simulate_tile(Instrument(n_antennas=5, channels_per_subband=2, n_integrations=4), PLAN, tmp_path)
    for subband in (0, 7):  # also where the first of the files is the wrong one
        wrong = [other[subband] if i == subband else path for i, path in enumerate(files)]
        with pytest.raises(SubbandsDisagree, match=f"^{other[subband].name} has 5 antennas .* with 6;"):
            converted_set(wrong, tmp_path / f"{subband}.ms")
        assert not (tmp_path / f"{subband}.ms").exists()


def test_a_file_of_another_time_is_named(files, tmp_path):
    later = field_plan(SMALL, hours=1.01, offsets=[(0.2, 0.1, 5.0)])
    wrong = simulate_tile(SMALL, later, tmp_path)[7]

    with pytest.raises(SubbandsDisagree, match=f"^{wrong.name} and .* other times"):
        converted_set([*files[:7], wrong, *files[8:]], tmp_path / "raw.ms")


def test_a_file_with_fewer_integrations_is_named(files, tmp_path):
    short = Instrument(n_antennas=6, channels_per_subband=2, n_integrations=3)
    wrong = simulate_tile(short, PLAN, tmp_path)[7]

    with pytest.raises(SubbandsDisagree, match=f"^{wrong.name} "):
        converted_set([*files[:7], wrong, *files[8:]], tmp_path / "raw.ms")


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def without_data(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        del file["Data/visdata"]


def half_the_rows(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        values = file["Data/visdata"][()]
        del file["Data/visdata"]
        file["Data/visdata"] = values[: len(values) // 2]


@pytest.mark.parametrize(
    "damage",
    [
        truncate,
        without_data,
        half_the_rows,
        lambda path: path.write_text("not HDF5 at all"),
        lambda path: path.write_bytes(b""),
        lambda path: path.unlink(),
    ],
    ids=["truncated", "without data", "half the rows", "text", "empty", "gone"],
)
def test_a_damaged_file_is_named(files, tmp_path, damage):
    damage(files[3])

    with pytest.raises(SubbandUnreadable, match=f"^{files[3].name} cannot be read"):
        converted_set(files, tmp_path / "raw.ms")


@pytest.mark.parametrize("value", [0, np.nan])
def test_a_tile_without_any_data_is_refused(files, tmp_path, value):
    for path in files:
        rewrite(path, lambda values: values.fill(value))

    with pytest.raises(AllFlagged, match="nothing to convert"):
        converted_set(files, tmp_path / "raw.ms")


def test_a_tile_with_everything_flagged_is_refused(files, tmp_path):
    for path in files:
        rewrite(path, lambda values: values.fill(True), "flags")

    with pytest.raises(AllFlagged):
        converted_set(files, tmp_path / "raw.ms")


def test_a_full_disk_is_met_before_casacore_meets_it(files, tiny_disk):
    """casacore aborts the process when a flush fails, so that no `except` would ever see it."""
    with pytest.raises(DiskFull, match="Free some space"):
        converted_set(files, tiny_disk / "raw.ms")

    assert list(tiny_disk.iterdir()) == []


# --- groups ----------------------------------------------------------------------------------------------------------
def group_of(folder: Path) -> SubbandGroup:
    index_subbands(folder=folder)
    return SubbandGroup.objects.get()


@pytest.mark.django_db
class TestGroups:
    def test_15_of_16_are_converted_and_the_set_says_which_is_missing(self, files, products_root):
        files[5].unlink()
        group = group_of(files[0].parent)

        row = self.made(group)

        row.refresh_from_db()
        assert row.parameters["missing_subbands"] == [5]
        assert (row.n_channels, row.n_antennas, row.is_calibrated, row.is_current) == (30, 6, False, True)
        assert (products_root / row.path / "table.dat").exists()
        of_mjd = Time(row.mjd, format="mjd").to_datetime(timezone=UTC)
        assert abs((row.observed_at - of_mjd).total_seconds()) < 0.1

    def test_11_of_16_wait_for_more(self, files, tmp_path):
        for path in files[:5]:
            path.unlink()

        with pytest.raises(GroupIncomplete, match="11 of 16 subbands and 12 are needed"):
            make_measurement_set(group=group_of(files[0].parent), folder=tmp_path)

    def test_12_of_16_are_enough(self, files, tmp_path):
        for path in files[:4]:
            path.unlink()

        assert make_measurement_set(group=group_of(files[0].parent), folder=tmp_path).facts.n_channels == 24

    def test_17_files_are_refused_and_the_double_named(self, files, tmp_path):
        shutil.copy(files[3], files[3].with_name(files[3].name[:17] + "59_sb03.hdf5"))

        with pytest.raises(GroupOverfull, match="17 files with sb03 more than once"):
            make_measurement_set(group=group_of(files[0].parent), folder=tmp_path)

    def test_a_late_subband_makes_a_second_version_and_the_same_files_none(self, files, tmp_path, products_root):
        late = files[5].rename(tmp_path / files[5].name)
        group = group_of(files[0].parent)
        first = self.made(group)
        again = self.made(group)
        late.rename(files[5])
        second = self.made(group_of(files[0].parent))

        assert again.pk == first.pk
        assert second.pk != first.pk
        first.refresh_from_db()
        assert (first.is_current, second.is_current) == (False, True)
        assert (products_root / second.path).exists()

    def test_a_subband_that_comes_during_the_conversion_is_converted_next(self, files, tmp_path):
        late = files[5].rename(tmp_path / files[5].name)
        group = group_of(files[0].parent)
        with workspace() as folder:
            converted = make_measurement_set(group=group, folder=folder)
            shutil.move(late, files[5])
            now = group_of(files[0].parent)
            row = record_measurement_set(group=group, converted=converted, folder=folder)

        assert (now.n_files, row.n_channels, row.missing_subbands) == (16, 30, [5])
        assert row.recipe != conversion_recipe(now)
        second = self.made(now)
        assert (second.n_channels, second.missing_subbands) == (32, [])
        assert second.recipe == conversion_recipe(group)

    def test_what_came_twice_since_the_group_was_read_is_refused(self, files, tmp_path):
        group = group_of(files[0].parent)
        shutil.copy(files[3], files[3].with_name(files[3].name[:17] + "59_sb03.hdf5"))
        index_subbands(folder=files[0].parent)

        with pytest.raises(GroupOverfull, match="17 files with sb03 more than once"):
            make_measurement_set(group=group, folder=tmp_path)

    @staticmethod
    def made(group: SubbandGroup):
        with workspace() as folder:
            converted = make_measurement_set(group=group, folder=folder)
            return record_measurement_set(group=group, converted=converted, folder=folder)


def test_a_tile_with_heavy_damage_of_every_kind_still_converts(tmp_path):
    plan = field_plan(
        SMALL, offsets=[(0, 0, 5.0)], missing_subbands=(1, 9), dead_antennas=(0,), rfi_fraction=0.3, name_skew_s=60.0
    )

    tile = observe(tmp_path, SMALL, plan)

    assert tile.converted.antennas_left_out == ("pad001",)
    assert tile.converted.n_channels == 28
