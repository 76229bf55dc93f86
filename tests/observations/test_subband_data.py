"""Whatever form a writer gave the visibilities, the measurement set is that of the tile; what cannot be, is refused."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import astropy.units as u
import numpy as np
import pytest
from astropy.coordinates import SkyCoord

from contimg.products import workspace
from observations.conversion import make_measurement_set, record_measurement_set
from observations.engines.converter import ConvertedSet, SubbandsDisagree, convert
from observations.engines.measurement_set import read_header, read_rows
from observations.engines.simulator import Instrument, simulate_tile
from observations.engines.subband_data import BaselinesLacking, NotXXAndYY, PhaseCentreUnknown
from observations.models import SubbandGroup
from observations.services import index_subbands
from tests.observations.raw_forms import as_the_correlator_writes, rewrite_by_pyuvdata
from tests.science import Observed, field_centre, field_plan, true_gains, true_sky

SMALL = Instrument(n_antennas=6, channels_per_subband=3, n_integrations=4, sefd_jy=10.0)
PLAN = field_plan(SMALL, offsets=[(0.2, 0.1, 5.0)])


@pytest.fixture(scope="module")
def tile(tmp_path_factory) -> list[Path]:
    """The 16 files as our simulator writes them. Copy before changing."""
    return simulate_tile(SMALL, PLAN, tmp_path_factory.mktemp("tile"))


@pytest.fixture(scope="module")
def expected(tile, tmp_path_factory) -> Path:
    """The measurement set of the tile, whose geometry test_converter.py holds against AltAz."""
    output = tmp_path_factory.mktemp("expected") / "raw.ms"
    converted_set(tile, output)
    return output


@pytest.fixture
def files(tile, tmp_path) -> list[Path]:
    folder = tmp_path / "night"
    folder.mkdir()
    return [Path(shutil.copy2(path, folder)) for path in tile]


def converted_set(files: list[Path], output: Path) -> ConvertedSet:
    return convert(files=files, pointing_dec_deg=PLAN.pointing_dec_deg, output=output)


def assert_same_set(made: Path, expected: Path) -> None:
    [ours], [theirs] = read_rows(made, 10**6), read_rows(expected, 10**6)
    one, other = read_header(made), read_header(expected)
    assert (one.ra_rad, one.dec_rad) == pytest.approx((other.ra_rad, other.dec_rad), abs=1e-8)
    assert one.frequency_hz == pytest.approx(other.frequency_hz)
    assert one.channel_width_hz == pytest.approx(other.channel_width_hz)
    for name in ("antenna1", "antenna2", "time_index", "flags"):
        assert np.array_equal(getattr(ours, name), getattr(theirs, name)), name
    assert ours.uvw_m == pytest.approx(theirs.uvw_m, abs=1e-4)
    assert ours.weights == pytest.approx(theirs.weights)
    assert np.abs(ours.data - theirs.data).max() < 2e-3 * np.abs(theirs.data[theirs.is_cross]).mean()


def assert_on_sky(files: list[Path], path: Path) -> None:
    """The fringes are those of the source seen by AltAz; a beam a degree off would leave nothing of them."""
    rows, tile = next(read_rows(path, 10**6)), Observed(SMALL, PLAN, files, path, None)
    gains = true_gains(tile)
    noiseless = gains[rows.antenna1] * np.conj(gains[rows.antenna2]) * true_sky(tile, rows)[..., None]
    difference = np.abs(rows.data - noiseless)[rows.is_cross]
    assert difference.mean() / np.abs(noiseless[rows.is_cross]).mean() < 0.01


# --- the phase centre ------------------------------------------------------------------------------------------------
def phased_to(place: SkyCoord) -> Callable:
    return lambda uv: uv.phase(lon=place.ra.rad, lat=place.dec.rad, phase_frame="icrs", cat_name="x")


@pytest.mark.django_db
def test_files_of_the_correlator_are_phased_to_the_pointing_that_their_group_has(files, expected, products_root):
    for path in files:
        as_the_correlator_writes(path, PLAN.pointing_dec_deg)
    index_subbands(folder=files[0].parent)
    group = SubbandGroup.objects.get()

    with workspace() as folder:
        converted = make_measurement_set(group=group, folder=folder)
        row = record_measurement_set(group=group, converted=converted, folder=folder)

    assert (row.ra_deg, row.dec_deg) == pytest.approx((group.ra_deg, group.dec_deg), abs=1e-5)
    assert_same_set(products_root / row.path, expected)
    assert_on_sky(files, products_root / row.path)


def test_files_phased_to_a_position_are_phased_on_from_there(files, expected, tmp_path):
    elsewhere = field_centre(SMALL, PLAN.started_at).spherical_offsets_by(0.7 * u.deg, -0.4 * u.deg)
    for path in files:
        rewrite_by_pyuvdata(path, phased_to(elsewhere))

    converted_set(files, tmp_path / "raw.ms")

    assert_same_set(tmp_path / "raw.ms", expected)
    assert_on_sky(files, tmp_path / "raw.ms")


def test_one_file_phased_elsewhere_is_named(files, tmp_path):
    rewrite_by_pyuvdata(files[3], phased_to(field_centre(SMALL, PLAN.started_at)))

    with pytest.raises(SubbandsDisagree, match=f"^{files[3].name} and .* are phased to other directions"):
        converted_set(files, tmp_path / "raw.ms")


def unprojected(uv) -> None:
    uv.phase(cat_type="unprojected", cat_name="zenith", lon=None, lat=None, phase_frame="altaz")


def two_phase_centres(uv) -> None:
    place = field_centre(SMALL, PLAN.started_at)
    first = uv.time_array < np.median(uv.time_array)
    uv.phase(lon=place.ra.rad, lat=place.dec.rad, phase_frame="icrs", cat_name="x", select_mask=first)


@pytest.mark.parametrize(
    ("change", "what"),
    [(unprojected, "a phase centre of the type unprojected"), (two_phase_centres, "2 phase centres")],
)
def test_a_file_that_does_not_say_where_it_is_phased_to_is_refused(files, tmp_path, change, what):
    rewrite_by_pyuvdata(files[3], change)

    with pytest.raises(PhaseCentreUnknown, match=f"^{files[3].name} has {what}"):
        converted_set(files, tmp_path / "raw.ms")

    assert not (tmp_path / "raw.ms").exists()


def test_a_file_of_the_correlator_without_declination_is_refused(files, tmp_path):
    as_the_correlator_writes(files[0], None)

    with pytest.raises(PhaseCentreUnknown, match="extra_keywords/phase_center_dec"):
        converted_set(files, tmp_path / "raw.ms")


# --- channels --------------------------------------------------------------------------------------------------------
def descending(uv) -> None:
    uv.reorder_freqs(channel_order="-freq", run_check=False)


def spoil_a_channel(uv) -> None:
    """Flags, weights and widths that are other in each channel."""
    uv.flag_array[5, 0, 1] = uv.flag_array[6, 2, 0] = True
    uv.nsample_array *= np.array([0.25, 0.5, 1.0])[:, None]


def test_channels_that_descend_are_turned_with_all_that_belongs_to_them(files, tmp_path):
    for path in files:
        rewrite_by_pyuvdata(path, spoil_a_channel)
    converted_set(files, tmp_path / "ascending.ms")
    for path in files[::2]:
        rewrite_by_pyuvdata(path, descending)

    converted_set(files, tmp_path / "raw.ms")

    assert_same_set(tmp_path / "raw.ms", tmp_path / "ascending.ms")
    [rows] = read_rows(tmp_path / "raw.ms", 10**6)
    assert (np.diff(read_header(tmp_path / "raw.ms").frequency_hz) > 0).all()
    assert rows.flags.sum() == 32
    assert len(np.unique(rows.weights)) == 3


def test_channels_of_negative_width_have_a_width(files, tmp_path):
    def negative(uv) -> None:
        descending(uv)
        uv.channel_width = -uv.channel_width

    for path in files:
        rewrite_by_pyuvdata(path, negative)

    assert converted_set(files, tmp_path / "raw.ms").bandwidth_hz == pytest.approx(48 * 187.5e6 / 768)


@pytest.mark.parametrize("shift_hz", [0.0, 100e3])
def test_a_subband_that_is_there_twice_by_its_frequencies_is_named(files, tmp_path, shift_hz):
    def shift(uv) -> None:
        uv.freq_array = uv.freq_array + shift_hz

    shutil.copy(files[4], files[3])
    rewrite_by_pyuvdata(files[3], shift)

    with pytest.raises(SubbandsDisagree, match=f"{files[4].name} .*MHz more than once") as refused:
        converted_set(files, tmp_path / "raw.ms")

    assert files[3].name in str(refused.value)


def test_a_file_with_one_frequency_twice_is_named(files, tmp_path):
    def repeat(uv) -> None:
        uv.freq_array[1] = uv.freq_array[0]

    rewrite_by_pyuvdata(files[3], repeat)

    with pytest.raises(SubbandsDisagree, match=f"^{files[3].name} has a frequency near"):
        converted_set(files, tmp_path / "raw.ms")


def test_files_whose_names_contradict_their_frequencies_are_named(files, tmp_path):
    aside = files[0].rename(tmp_path / "aside")
    files[3].rename(files[0])
    aside.rename(files[3])

    with pytest.raises(SubbandsDisagree, match=f"^The subband numbers of {files[0].name}, {files[3].name} are not"):
        converted_set(files, tmp_path / "raw.ms")


# --- polarizations ---------------------------------------------------------------------------------------------------
def polarizations(numbers: list[int]) -> Callable:
    """XX and YY as they were, any others a thousand times as loud."""

    def change(uv) -> None:
        place = {-5: 0, -6: 1}
        uv.data_array = np.stack(
            [uv.data_array[..., place[n]] if n in place else 1000 * uv.data_array[..., 0] for n in numbers], axis=-1
        )
        for name in ("flag_array", "nsample_array"):
            setattr(uv, name, np.repeat(getattr(uv, name)[..., :1], len(numbers), axis=-1))
        uv.polarization_array, uv.Npols = np.array(numbers), len(numbers)

    return change


@pytest.mark.parametrize("numbers", [[-5, -6, -7, -8], [-5, -7, -8, -6], [-6, -5]])
def test_xx_and_yy_are_taken_in_whatever_order(files, expected, tmp_path, numbers):
    for path in files[:9]:
        rewrite_by_pyuvdata(path, polarizations(numbers))

    converted_set(files, tmp_path / "raw.ms")

    assert_same_set(tmp_path / "raw.ms", expected)


@pytest.mark.parametrize(
    ("numbers", "named"), [([-5], "XX"), ([-5, -7], "XX, XY"), ([-1, -2], "RR, LL"), ([1], "pI"), ([-5, -6, -5], "XX")]
)
def test_other_polarizations_are_refused(files, tmp_path, numbers, named):
    rewrite_by_pyuvdata(files[3], polarizations(numbers))

    with pytest.raises(NotXXAndYY, match=f"^{files[3].name} has the polarizations {named}.* and XX and YY are needed"):
        converted_set(files, tmp_path / "raw.ms")


# --- rows ------------------------------------------------------------------------------------------------------------
def baseline_after_baseline(uv) -> None:
    uv.reorder_blts(order="baseline", minor_order="time", run_check=False)


def second_antenna_first(uv) -> None:
    uv.reorder_blts(order="time", minor_order="ant2", run_check=False)


def shuffled(uv) -> None:
    uv.reorder_blts(order=np.random.default_rng(1).permutation(uv.Nblts), run_check=False)


@pytest.mark.parametrize("change", [baseline_after_baseline, second_antenna_first, shuffled])
def test_rows_in_another_order_are_sorted(files, expected, tmp_path, change):
    for path in files[:9]:
        rewrite_by_pyuvdata(path, change)

    converted_set(files, tmp_path / "raw.ms")

    assert_same_set(tmp_path / "raw.ms", expected)


def without_a_row(uv) -> None:
    uv.select(blt_inds=np.delete(np.arange(uv.Nblts), 30), run_check=False)


def a_row_twice(uv) -> None:
    uv.ant_1_array[30], uv.ant_2_array[30] = uv.ant_1_array[31], uv.ant_2_array[31]


@pytest.mark.parametrize("change", [without_a_row, a_row_twice])
def test_a_file_without_some_rows_is_named(files, tmp_path, change):
    for path in files:  # also where all of them lack the same
        rewrite_by_pyuvdata(path, change)

    with pytest.raises(BaselinesLacking, match=f"^{files[0].name} has not each of its 21 baselines once at each of"):
        converted_set(files, tmp_path / "raw.ms")
