"""Reference catalogues as they come, read into arrays."""

from __future__ import annotations

import gzip
from pathlib import Path

import astropy.units as u
import numpy as np
import pytest
from astropy.coordinates import FK4, FK5, Angle, SkyCoord
from astropy.io import fits
from astropy.io.votable import from_table
from astropy.io.votable.exceptions import VOTableSpecWarning
from astropy.io.votable.tree import CooSys
from astropy.table import MaskedColumn, Table

from contimg.exceptions import ContimgError
from images.engines.fits import NoSuchFile, Truncated
from sources.engines.reference import (
    BRIGHTEST_JY,
    NoSuchColumn,
    NoUsableRow,
    ReadCatalogue,
    UnknownFrame,
    WrongUnit,
    choose,
    open_catalogue,
    parsed,
    read,
)
from sources.engines.tables import NotATable
from sources.models import BRIGHTEST_JY as BRIGHTEST_STORED_JY

UNITS = {"ra": "deg", "dec": "deg", "flux": "mJy"}


def nvss(n: int = 4) -> Table:
    """As VizieR gives NVSS, in degrees."""
    table = Table({"RAJ2000": 10.0 + np.arange(n), "DEJ2000": 16.0 + np.arange(n), "S1.4": 10.0 * (1 + np.arange(n))})
    table["e_S1.4"], table["MajAxis"] = 0.5, 45.0
    table["NVSS"] = [f"00{i:04d}+160000" for i in range(n)]
    for column, unit in {
        "RAJ2000": "deg",
        "DEJ2000": "deg",
        "S1.4": "mJy",
        "e_S1.4": "mJy",
        "MajAxis": "arcsec",
    }.items():
        table[column].unit = unit
    return table


def loaded(path: Path, *, columns=None, units=None, frame=None) -> ReadCatalogue:
    with open_catalogue(path) as table:
        return read(table, choose(table, columns=columns or {}, units=units or {}, frame=frame))


def csv_of(tmp_path: Path, *lines: str, header: str = "ra,dec,flux") -> Path:
    path = tmp_path / "a.csv"
    path.write_text("\n".join([header, *lines]) + "\n")
    return path


# --- formats ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "form"), [("a.fits", "fits"), ("a.vot", "votable"), ("a.ecsv", "ascii.ecsv"), ("a.csv", "ascii.csv")]
)
def test_every_format_gives_the_same_sources(tmp_path, name, form):
    nvss().write(tmp_path / name, format=form)
    units = {**UNITS, "major": "arcsec"} if form == "ascii.csv" else {}
    found = loaded(tmp_path / name, units=units)
    sources = found.sources
    assert (found.n_rows, found.left_out) == (4, {})
    np.testing.assert_array_equal(sources.row, [1, 2, 3, 4])
    np.testing.assert_allclose(sources.ra_deg, [10, 11, 12, 13], rtol=1e-14)
    np.testing.assert_allclose(sources.dec_deg, [16, 17, 18, 19], rtol=1e-14)
    np.testing.assert_allclose(sources.flux_jy, [0.01, 0.02, 0.03, 0.04])
    np.testing.assert_allclose(sources.flux_err_jy, 0.0005)
    np.testing.assert_allclose(sources.major_arcsec, 45)
    assert np.isnan(sources.minor_arcsec).all()
    assert sources.designation.tolist() == [f"00{i:04d}+160000" for i in range(4)]


def test_a_packed_file_is_read(tmp_path):
    path = csv_of(tmp_path, "1,2,3")
    packed = tmp_path / "a.csv.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert loaded(packed, units=UNITS).sources.flux_jy == pytest.approx([0.003])


@pytest.mark.parametrize("delimiter", ["\t", ";", "|"])
def test_other_delimiters_comments_and_a_byte_order_mark_are_read(tmp_path, delimiter):
    text = '# of a paper\n\nFlux é,ra,dec,flux\nx,1,2,3\n# said between\n"y",4,5,6\n'.replace(",", delimiter)
    (tmp_path / "a.csv").write_text(text, encoding="utf-8-sig")
    assert loaded(tmp_path / "a.csv", units=UNITS).sources.ra_deg.tolist() == [1, 4]


def test_the_lines_of_units_and_dashes_of_vizier_are_left_out(tmp_path):
    (tmp_path / "a.tsv").write_text(
        "#\n#   VizieR Astronomical Server\n#Column\t_RAJ2000\t(F10.6)\n\n_RAJ2000\t_DEJ2000\tNVSS\tS1.4\n"
        "deg\tdeg\t \tmJy\n---\t---\t---\t---\n000.003\t+16.5\t000000+163000\t   3.1\n"
    )
    found = loaded(tmp_path / "a.tsv", units=UNITS)
    assert (found.n_rows, found.left_out) == (3, {"no_position": 2})
    assert found.sources.flux_jy == pytest.approx([0.0031])


def test_the_first_table_with_rows_is_taken_and_arrays_in_a_cell_are_no_columns(tmp_path):
    table = nvss(2)
    table["flux"] = np.ones((2, 3)) * u.Jy
    empty, full = fits.BinTableHDU(nvss(0)), fits.BinTableHDU(table)
    fits.HDUList([fits.PrimaryHDU(), empty, full]).writeto(tmp_path / "a.fits")
    assert loaded(tmp_path / "a.fits").sources.flux_jy == pytest.approx([0.01, 0.02])
    with pytest.raises(NoSuchColumn, match=r"There is no column 'flux' .*; there are RAJ2000, DEJ2000, S1.4, "):
        loaded(tmp_path / "a.fits", columns={"flux": "flux"})


@pytest.mark.parametrize(
    ("content", "error", "sentence"),
    [
        (b"", NotATable, "a.x is empty"),
        (b"\x89HDF\r\n\x1a\n\0\0\0", NotATable, "a.x is not a table"),
        (b"nothing to see here\n", NotATable, "no line of column names"),
        (b"ra,dec,ra\n1,2,3\n", NotATable, "several columns named 'ra'"),
        (b"<?xml version='1.0'?><VOTABLE><RESOURCE><TABLE>", NotATable, "cannot be read as a table"),
        (b"<?xml version='1.0'?><VOTABLE></VOTABLE>", NotATable, "cannot be read as a table"),
        (b"# %ECSV 1.0\n# ---\n# {datatype: [\n", NotATable, "cannot be read as a table"),
        (b"SIMPLE  = nonsense", NotATable, "a.x"),
        (b"\x1f\x8bnonsense", Truncated, "broken gzip"),
    ],
)
def test_what_is_no_table_is_refused(tmp_path, content, error, sentence):
    (tmp_path / "a.x").write_bytes(content)
    with pytest.raises(error, match=sentence):
        loaded(tmp_path / "a.x")


def test_no_file_a_folder_and_a_fits_image_are_refused(tmp_path):
    with pytest.raises(NoSuchFile, match=r"b\.fits does not exist"):
        loaded(tmp_path / "b.fits")
    with pytest.raises(NotATable, match="is not a file"):
        loaded(tmp_path)
    fits.PrimaryHDU(np.ones((4, 4))).writeto(tmp_path / "image.fits")
    with pytest.raises(NotATable, match="no table with rows"):
        loaded(tmp_path / "image.fits")


@pytest.mark.parametrize("kept", [0.3, 0.7, 0.95])
@pytest.mark.parametrize(("name", "form"), [("a.fits", "fits"), ("a.vot", "votable")])
def test_a_file_that_was_cut_off_is_refused(tmp_path, name, form, kept):
    path = tmp_path / name
    nvss(2000).write(path, format=form)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(NotATable):
        loaded(path)


# --- columns ------------------------------------------------------------------------------------------------------
def test_columns_are_found_by_their_ucd_whatever_their_names(tmp_path):
    table = nvss(1)
    table.rename_columns(["RAJ2000", "DEJ2000", "S1.4", "e_S1.4"], ["x", "y", "f", "g"])
    document = from_table(table)
    fields = document.get_first_table().fields
    for field, ucd in zip(
        fields,
        ["pos.eq.ra;meta.main", "pos.eq.dec;meta.main", "phot.flux.density;em.radio.750-1500MHz",
         "stat.error;phot.flux.density", "phys.angSize.smajAxis", "meta.id;meta.main"],
        strict=True,
    ):  # fmt: skip
        field.ucd = ucd
    document.to_xml(str(tmp_path / "a.vot"))
    sources = loaded(tmp_path / "a.vot").sources
    assert (sources.ra_deg[0], sources.dec_deg[0]) == (10, 16)
    assert (sources.flux_jy[0], sources.flux_err_jy[0]) == pytest.approx((0.01, 0.0005))


def test_named_columns_go_before_usual_ones_without_regard_to_case(tmp_path):
    path = csv_of(tmp_path, "1,2,3,4", header="ra,dec,flux_jy,Peak_mJy")
    assert loaded(path, units={"ra": "deg", "dec": "deg"}).sources.flux_jy == pytest.approx([3])
    named = loaded(path, columns={"flux": "peak_mjy"}, units={"ra": "deg", "dec": "deg"})
    assert named.sources.flux_jy == pytest.approx([0.004])


def test_a_column_that_is_not_there_is_refused_with_those_that_are(tmp_path):
    path = csv_of(tmp_path, "1,2,3", header="ra,dec,brightness")
    with pytest.raises(NoSuchColumn, match=r"clearly the flux density; name it with --flux-column.* ra, dec, bright"):
        loaded(path, units=UNITS)
    with pytest.raises(NoSuchColumn, match=r"no column 'S1.4' .* there are ra, dec, brightness"):
        loaded(path, columns={"flux": "S1.4"}, units=UNITS)


def test_a_unit_for_a_column_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(NoSuchColumn, match=r"clearly the major axis; name it with --major-column"):
        loaded(csv_of(tmp_path, "1,2,3"), units={**UNITS, "major": "arcsec"})


def test_one_of_two_fluxes_by_ucd_is_not_guessed(tmp_path):
    table = nvss(1)["RAJ2000", "DEJ2000"]
    table["S74"], table["S325"] = [1.0] * u.Jy, [2.0] * u.Jy
    document = from_table(table)
    for field in document.get_first_table().fields[2:]:
        field.ucd = "phot.flux.density"
    document.to_xml(str(tmp_path / "a.vot"))
    with pytest.raises(NoSuchColumn, match="clearly the flux density"):
        loaded(tmp_path / "a.vot")
    assert loaded(tmp_path / "a.vot", columns={"flux": "S325"}).sources.flux_jy == [2.0]


# --- units --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("unit", "jy"), [("Jy", 3), ("mJy", 3e-3), ("uJy", 3e-6), ("JY", 3), ("mJy/beam", 3e-3), ("W m-2 Hz-1", 3e26)]
)
def test_fluxes_become_jansky(tmp_path, unit, jy):
    if jy > BRIGHTEST_JY:
        with pytest.raises(NoUsableRow, match="1 flux_out_of_range"):
            loaded(csv_of(tmp_path, "1,2,3"), units={**UNITS, "flux": unit})
    else:
        assert loaded(csv_of(tmp_path, "1,2,3"), units={**UNITS, "flux": unit}).sources.flux_jy == pytest.approx([jy])


@pytest.mark.parametrize("unit", ["mJy beam-1", "mJy.beam-1", "mJy/beam", "mJy beam^-1", "MJy", "h", "Degrees"])
def test_units_are_read_as_people_write_them(unit):
    assert parsed(unit) is not None


@pytest.mark.parametrize("ra_unit", ["hourangle", "h"])
def test_right_ascensions_in_hours(tmp_path, ra_unit):
    sources = loaded(csv_of(tmp_path, "1.5,2,3"), units={**UNITS, "ra": ra_unit}).sources
    assert sources.ra_deg == pytest.approx([22.5])


@pytest.mark.parametrize("form", ["{} {} {}", "{}:{}:{}", "{}h{}m{}s"])
@pytest.mark.parametrize("units", [{}, {"ra": "sexagesimal", "dec": "sexagesimal"}, {"ra": "hourangle", "dec": "deg"}])
def test_sexagesimal_positions_are_hours_and_degrees(tmp_path, form, units):
    ra, dec = form.format("23", "59", "59.99"), "-" + form.format("00", "30", "36").replace("h", "d")
    sources = loaded(csv_of(tmp_path, f"{ra},{dec},3"), units={"flux": "mJy", **units}).sources
    assert sources.ra_deg == pytest.approx([Angle("23h59m59.99s").deg], abs=1e-12)
    assert sources.dec_deg == pytest.approx([-0.51], abs=1e-12)


def test_sexagesimal_positions_with_the_units_of_vizier(tmp_path):
    table = Table({"RAJ2000": ["01 30 00.0", "x"], "DEJ2000": ["+16 30 00", "+1 2 3"], "S1.4": [1.0, 2.0] * u.mJy})
    table["e_RAJ2000"] = [0.03, 0.03] * u.s
    table["RAJ2000"].unit, table["DEJ2000"].unit = u.Unit('"h:m:s"', parse_strict="silent"), None
    with pytest.warns(VOTableSpecWarning):
        table.write(tmp_path / "a.vot", format="votable")
    found = loaded(tmp_path / "a.vot")
    assert (found.sources.ra_deg[0], found.sources.dec_deg[0]) == pytest.approx((22.5, 16.5), abs=1e-12)
    assert found.left_out == {"no_position": 1}


@pytest.mark.parametrize(
    ("units", "sentence"),
    [
        ({"ra": "deg", "dec": "deg"}, r"does not say the unit of 'flux'; give it with --flux-unit\."),
        ({}, r"does not say the unit of 'ra', 'dec', 'flux'; give it with --ra-unit, --dec-unit, --flux-unit\."),
        ({"dec": "deg", "flux": "Jy"}, r"does not say the unit of 'ra'; give it with --ra-unit\."),
        ({**UNITS, "flux": "mag"}, r"unit of 'flux' is 'mag', which is no unit of a flux density \(such as Jy\)"),
        ({**UNITS, "flux": "deg"}, r"unit of 'flux' is 'deg'"),
        ({**UNITS, "flux": "furlong"}, r"unit of 'flux' is 'furlong'"),
        ({**UNITS, "ra": "Jy"}, r"unit of 'ra' is 'Jy', .* right ascension \(such as deg\)"),
        ({**UNITS, "dec": "h"}, r"unit of 'dec' is 'h'"),
    ],
)
def test_a_missing_unit_or_one_of_another_kind_is_refused(tmp_path, units, sentence):
    with pytest.raises(WrongUnit, match=sentence):
        loaded(csv_of(tmp_path, "1,2,3"), units=units)


def test_a_unit_of_another_kind_in_the_file_is_refused_where_the_column_is_needed(tmp_path):
    table = nvss(1)
    table["S1.4"].unit, table["MajAxis"].unit = "deg", "mJy"
    table.write(tmp_path / "a.fits")
    with pytest.raises(WrongUnit, match=r"'S1\.4' is 'deg'"):
        loaded(tmp_path / "a.fits")
    sources = loaded(tmp_path / "a.fits", units={"flux": "mJy"}).sources
    assert np.isnan(sources.major_arcsec).all()
    with pytest.raises(WrongUnit, match="'MajAxis' is 'mJy'"):
        loaded(tmp_path / "a.fits", units={"flux": "mJy"}, columns={"major": "MajAxis"})


# --- frames -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("frame", "sky"), [("fk5", FK5(equinox="J2000")), ("fk4", FK4(equinox="B1950"))])
def test_other_frames_become_icrs(tmp_path, frame, sky):
    found = loaded(csv_of(tmp_path, "187.0,12.6,3"), units=UNITS, frame=frame).sources
    want = SkyCoord(187.0 * u.deg, 12.6 * u.deg, frame=sky).icrs
    got = SkyCoord(found.ra_deg * u.deg, found.dec_deg * u.deg)
    assert got.separation(want).arcsec[0] < 1e-6
    moved = got.separation(SkyCoord(187.0 * u.deg, 12.6 * u.deg)).arcsec[0]
    assert (0.001 < moved < 0.1) if frame == "fk5" else moved > 1000


@pytest.mark.parametrize(
    ("system", "equinox", "frame"), [("eq_FK4", "B1950", "fk4"), ("eq_FK5", "J2000", "fk5"), ("ICRS", None, "icrs")]
)
def test_the_frame_is_that_of_the_votable(tmp_path, system, equinox, frame):
    document = from_table(nvss(1))
    document.coordinate_systems.append(CooSys(ID="J", system=system, equinox=equinox))
    document.to_xml(str(tmp_path / "a.vot"))
    with open_catalogue(tmp_path / "a.vot") as table:
        assert choose(table, columns={}, units={}).frame == frame
        assert choose(table, columns={}, units={}, frame="icrs").frame == "icrs"


def test_the_frame_is_that_of_the_fits_header(tmp_path):
    hdu = fits.table_to_hdu(nvss(1))
    hdu.header["RADESYS"], hdu.header["EQUINOX"] = "FK4", 1950.0
    hdu.writeto(tmp_path / "a.fits")
    with open_catalogue(tmp_path / "a.fits") as table:
        assert choose(table, columns={}, units={}).frame == "fk4"


def test_a_frame_that_is_not_read_is_refused_unless_the_command_says_another(tmp_path):
    document = from_table(nvss(1))
    document.coordinate_systems.append(CooSys(ID="J", system="galactic"))
    document.to_xml(str(tmp_path / "a.vot"))
    with pytest.raises(UnknownFrame, match=r"'galactic'.* icrs, fk5, fk4 .*--frame"):
        loaded(tmp_path / "a.vot")
    assert len(loaded(tmp_path / "a.vot", frame="icrs").sources) == 1


# --- rows ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("ra", "wrapped"), [("-10", 350), ("370", 10), ("360", 0), ("-1e-15", 0), ("-0.0", 0), ("359.999", 359.999)]
)
def test_right_ascensions_are_wrapped(tmp_path, ra, wrapped):
    assert loaded(csv_of(tmp_path, f"{ra},2,3"), units=UNITS).sources.ra_deg.tolist() == [wrapped]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("nan,2,3", "no_position"),
        (",2,3", "no_position"),
        ("1,--,3", "no_position"),
        ("1_0,2,3", "no_position"),
        ("1,2", "no_position"),
        ("1,2,3,4", "no_position"),
        ("5400,2,3", "ra_out_of_range"),
        ("1,90.001,3", "dec_out_of_range"),
        ("1,-91,3", "dec_out_of_range"),
        ("1,2,", "no_flux"),
        ("1,2,inf", "no_flux"),
        ("1,2,0", "flux_not_positive"),
        ("1,2,-3", "flux_not_positive"),
        ("1,2,1e13", "flux_out_of_range"),
    ],
)
def test_rows_without_a_place_or_a_flux_are_left_out_and_counted(tmp_path, row, reason):
    path = csv_of(tmp_path, "1,90,3", row, "2,-90,3,")
    found = loaded(path, units=UNITS)
    assert (found.n_rows, found.left_out) == (3, {reason: 1})
    assert found.sources.row.tolist() == [1, 3]
    with pytest.raises(NoUsableRow, match=rf"None of the 1 rows can be used \(1 {reason}\)"):
        loaded(csv_of(tmp_path, row), units=UNITS)


@pytest.mark.parametrize(("name", "form"), [("a.fits", "fits"), ("a.vot", "votable"), ("a.ecsv", "ascii.ecsv")])
def test_masked_values_are_none(tmp_path, name, form):
    table = nvss(4)
    for column, row in (("RAJ2000", 0), ("S1.4", 1), ("e_S1.4", 2), ("NVSS", 3)):
        table[column] = MaskedColumn(table[column], mask=np.arange(4) == row)
    table["id"] = MaskedColumn([7, 8, 9, 10], mask=[False, False, True, False])
    table.write(tmp_path / name, format=form)
    found = loaded(tmp_path / name)
    assert found.left_out == {"no_position": 1, "no_flux": 1}
    assert np.isnan(found.sources.flux_err_jy).tolist() == [True, False]
    assert found.sources.designation.tolist() == ["000002+160000", ""]
    numbered = loaded(tmp_path / name, columns={"designation": "id"})
    assert numbered.sources.designation.tolist() == ["", "10"]


def test_masked_integers_are_no_flux(tmp_path):
    table = nvss(2)["RAJ2000", "DEJ2000"]
    table["flux"] = MaskedColumn([5, 6], mask=[True, False], unit="Jy", fill_value=-99)
    table.write(tmp_path / "a.fits")
    found = loaded(tmp_path / "a.fits")
    assert (found.sources.flux_jy.tolist(), found.left_out) == ([6.0], {"no_flux": 1})


def test_a_column_of_text_that_is_no_number_leaves_no_row(tmp_path):
    with pytest.raises(NoUsableRow, match="2 no_flux"):
        loaded(csv_of(tmp_path, "1,2,bright", "3,4,faint"), units=UNITS)


@pytest.mark.parametrize("form", ["fits", "votable", "ascii.ecsv", "ascii.csv"])
def test_no_row_at_all(tmp_path, form):
    nvss(0).write(tmp_path / "a", format=form)
    with pytest.raises(ContimgError) as failure:
        loaded(tmp_path / "a", units=UNITS)
    assert failure.value.code == ("catalogue_not_a_table" if form == "fits" else "catalogue_no_rows")


def test_a_row_that_repeats_another_counts_once(tmp_path):
    arcsec = 1 / 3600
    rows = [
        (10, 20, 3),
        (10, 20, 3),  # exactly
        (10, 20 + 0.09 * arcsec, 3),  # nearly
        (10, 20 + 0.25 * arcsec, 3),  # another
        (10, 20, 4),  # another flux
        (360 - 0.04 * arcsec, 0, 5),
        (0.04 * arcsec, 0, 5),  # beyond the wrap
        (100, 90 - 0.01 * arcsec, 6),
        (280, 90 - 0.01 * arcsec, 6),  # beyond the pole
    ]
    found = loaded(csv_of(tmp_path, *(f"{ra!r},{dec!r},{flux}" for ra, dec, flux in rows)), units=UNITS)
    assert found.left_out == {"duplicate": 4}
    assert found.sources.row.tolist() == [1, 4, 5, 6, 8]


def test_many_fluxes_at_one_place_are_not_compared_with_each_other(tmp_path):
    path = csv_of(tmp_path, *(f"1,2,{flux}" for flux in range(1, 30_001)))
    assert len(loaded(path, units=UNITS).sources) == 30_000


def test_blocks_join_into_one_catalogue(tmp_path, monkeypatch):
    monkeypatch.setattr("sources.engines.tables.BLOCK_ROWS", 3)
    for name, form in (("a.fits", "fits"), ("a.csv", "ascii.csv")):
        nvss(10).write(tmp_path / name, format=form)
        found = loaded(tmp_path / name, units=UNITS)
        assert found.sources.row.tolist() == list(range(1, 11))
        assert found.n_rows == 10


def test_what_is_impossible_of_the_rest_is_unknown(tmp_path):
    header = "ra,dec,flux,flux_err_jy,position_err_arcsec,spectral_index,major_arcsec"
    sources = loaded(csv_of(tmp_path, "1,2,3,-1,-1,-0.7,-5", "2,2,3,0,0,x,0", header=header), units=UNITS).sources
    assert np.isnan(sources.flux_err_jy).all()
    assert np.isnan(sources.position_err_arcsec).tolist() == [True, False]
    assert sources.spectral_index.tolist()[:1] == [-0.7]
    assert np.isnan(sources.spectral_index[1])
    assert np.isnan(sources.major_arcsec).tolist() == [True, False]


def test_the_database_takes_what_the_engine_gives():
    assert BRIGHTEST_JY == BRIGHTEST_STORED_JY
