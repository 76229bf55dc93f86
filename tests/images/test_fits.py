"""Every oddity of radio FITS as it really comes, one row each."""

from __future__ import annotations

import gzip
import os
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits as astropy_fits
from casacore.tables import makescacoldesc, maketabdesc, table
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contimg.exceptions import InvalidInput, NotReadable
from images.engines import fits
from tests.images import radio_fits
from tests.images.radio_fits import HEIGHT, NOISE, PEAK, WIDTH, celestial_cards, frequency_axis, sky, stokes_axis, write


def moved(cards: dict, order: dict[str, str]) -> dict:
    """Celestial cards with their axis numbers exchanged."""
    return {key[:-1] + order[key[-1]]: value for key, value in cards.items()}


def cube(*shape: int) -> np.ndarray:
    """The sky in the first plane of leading axes of this shape, something else in the others."""
    data = np.full((*shape, HEIGHT, WIDTH), 9.0, np.float32)
    data[(0,) * len(shape)] = sky()
    return data


LAYOUTS = {
    "2-D": (sky(), {}),
    "3-D": (cube(3), frequency_axis(3)),
    "4-D": (cube(2, 3), {**frequency_axis(3), **stokes_axis(4)}),
    "5-D": (cube(2, 1, 3), {**frequency_axis(3), **stokes_axis(4), "CTYPE5": "BEAM"}),
    "4-D, Stokes before frequency": (cube(3, 1), {**stokes_axis(3), **frequency_axis(4)}),
    "frequency first": (
        np.moveaxis(cube(3), 0, -1),
        {**moved(celestial_cards(), {"1": "2", "2": "3"}), **frequency_axis(1)},
    ),
    "declination before right ascension": (sky().T, moved(celestial_cards(), {"1": "2", "2": "1"})),
    "frequency between the two": (
        np.moveaxis(cube(3), 0, 1),
        {**moved(celestial_cards(), {"1": "1", "2": "3"}), **frequency_axis(2)},
    ),
    "64-bit floats": (sky().astype(np.float64), {}),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_sky_is_found_in_every_layout(tmp_path, layout):
    data, cards = LAYOUTS[layout]
    path = write(tmp_path / "image.fits", np.ascontiguousarray(data), **cards)
    plane, header = fits.read_plane(path)
    np.testing.assert_array_equal(plane, sky())
    assert (header["CTYPE1"], header["CTYPE2"], header.get("NAXIS", 2)) == ("RA---SIN", "DEC--SIN", 2)
    facts = fits.read_facts(path)
    assert (facts.width_px, facts.height_px) == (WIDTH, HEIGHT)
    assert facts.ra_deg == pytest.approx(150.0, abs=1e-4)
    assert facts.dec_deg == pytest.approx(30.0, abs=1e-4)
    assert facts.pixel_arcsec == pytest.approx(2.0)
    assert facts.frequency_hz == pytest.approx(1.4e9)
    assert facts.peak_jy_per_beam == pytest.approx(PEAK)
    assert facts.rms_jy_per_beam == pytest.approx(NOISE, rel=0.1)
    assert facts.finite_fraction == 1.0
    assert fits.covers(path, 150.0, 30.0).all()


def test_the_facts_of_a_plain_image(tmp_path):
    facts = fits.read_facts(write(tmp_path / "image.fits"))
    assert facts.beam == fits.Beam(pytest.approx(10.0), pytest.approx(8.0), 30.0)
    assert facts.unit == "Jy/beam"
    assert facts.bandwidth_hz is None
    assert facts.observed_at == datetime(2024, 5, 6, 7, 8, 9, 500_000, tzinfo=UTC)
    half_diagonal = np.hypot(WIDTH / 2, HEIGHT / 2) * 2 / 3600
    assert facts.radius_deg == pytest.approx(half_diagonal, rel=1e-4)
    assert facts.size_bytes == (tmp_path / "image.fits").stat().st_size
    assert facts.notes == ()


# --- integers and blanks ------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("kind", "scale", "zero", "blank"),
    [
        ("int16", 2e-5, 0.1, -32768),
        ("int32", 1e-8, 0.0, -(2**31)),
        ("uint8", 0.004, -0.1, 255),
        ("int64", 1e-9, 0.0, -1),
    ],
)
def test_scaled_integers_and_their_blank(tmp_path, kind, scale, zero, blank):
    values = sky(seed=3) + np.float32(0.02)
    stored = np.round((values - zero) / scale).astype(kind)
    stored[0, :5] = blank
    path = write(tmp_path / "image.fits", stored)
    with astropy_fits.open(path, mode="update", do_not_scale_image_data=True) as hdus:
        hdus[0].header.update(BSCALE=scale, BZERO=zero, BLANK=blank)
    plane, _ = fits.read_plane(path)
    assert np.isnan(plane[0, :5]).all()
    np.testing.assert_allclose(plane[1:], values[1:], atol=scale)
    assert fits.read_facts(path).finite_fraction == pytest.approx(1 - 5 / (WIDTH * HEIGHT))


def test_floats_may_be_scaled_too(tmp_path):
    path = write(tmp_path / "image.fits", sky() / 2)
    with astropy_fits.open(path, mode="update", do_not_scale_image_data=True) as hdus:
        hdus[0].header.update(BSCALE=2.0, BZERO=0.0)
    assert fits.read_facts(path).peak_jy_per_beam == pytest.approx(PEAK)


def test_blank_borders_are_left_out_of_the_noise_and_of_the_footprint(tmp_path):
    data = sky()
    data[:, :24] = np.nan
    data[0, 40] = np.inf
    path = write(tmp_path / "image.fits", data)
    facts = fits.read_facts(path)
    assert facts.finite_fraction == pytest.approx(0.6, abs=1e-3)
    assert facts.peak_jy_per_beam == pytest.approx(PEAK)
    assert facts.rms_jy_per_beam == pytest.approx(NOISE, rel=0.1)
    east = 20 * 2 / 3600 / np.cos(np.radians(30))  # the blank pixels are on the left, where RA is larger
    assert fits.covers(path, [150 - east, 150 + east], [30.0, 30.0]).tolist() == [True, False]


def test_an_image_of_one_value_has_no_noise(tmp_path):
    facts = fits.read_facts(write(tmp_path / "image.fits", np.zeros((HEIGHT, WIDTH), np.float32)))
    assert facts.rms_jy_per_beam is None
    assert facts.peak_jy_per_beam == 0.0
    assert "same value" in facts.notes[0]


# --- beam ---------------------------------------------------------------------------------------------------------
NO_BEAM = {"BMAJ": None, "BMIN": None, "BPA": None}
BEAMS = {
    "AIPS history": (
        ["AIPS   IMNAME='X'", "AIPS   CLEAN BMAJ=  2.7778E-03 BMIN=  2.2222E-03 BPA=  30.00"],
        (10, 8, 30),
    ),
    "the last of several": (
        [
            "AIPS   CLEAN BMAJ=  1.0000E-02 BMIN=  1.0000E-02 BPA=   0.00",
            "AIPS   CLEAN BMAJ=  2.7778E-03 BMIN=  2.2222E-03 BPA= -30.00",
        ],
        (10, 8, -30),
    ),
    "Fortran exponents": (["CLEAN BMAJ= 2.7778D-03 BMIN= 2.2222D-03 BPA= 1.0D+01"], (10, 8, 10)),
    "CASA history over two cards": (
        ["imager::clean() [] Fitted beam used in restoration: 10.0 by 8.0 (arcsec)", "        at pa 30.0 (deg)"],
        (10, 8, 30),
    ),
    "nothing": (["something about BMAJ but no number"], None),
    "nonsense": (["AIPS   CLEAN BMAJ=  0.0000E+00 BMIN=  0.0000E+00 BPA=   0.00"], None),
}


@pytest.mark.parametrize("case", BEAMS)
def test_a_beam_that_is_only_in_history(tmp_path, case):
    history, expected = BEAMS[case]
    beam = fits.read_facts(write(tmp_path / "image.fits", history=history, **NO_BEAM)).beam
    if expected is None:
        assert beam is None
    else:
        assert (beam.bmaj_arcsec, beam.bmin_arcsec, beam.bpa_deg) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("unit", "factor"), [("arcsec", 1.0), ("deg", 1 / 3600), (None, 1.0)], ids=["arcsec", "degrees", "no unit"]
)
def test_a_beam_that_is_in_a_beams_table(tmp_path, unit, factor):
    path = write(tmp_path / "image.fits", cube(2), **NO_BEAM, **frequency_axis(3))
    columns = [
        astropy_fits.Column("BMAJ", "E", unit=unit, array=[0.0, 10 * factor]),  # the first channel was blank
        astropy_fits.Column("BMIN", "E", unit=unit, array=[0.0, 8 * factor]),
        astropy_fits.Column("BPA", "E", unit="deg", array=[0.0, 30.0]),
    ]
    astropy_fits.append(path, astropy_fits.BinTableHDU.from_columns(columns, name="BEAMS").data)
    with astropy_fits.open(path, mode="update") as hdus:
        hdus[1].header["EXTNAME"] = "BEAMS"
        for index in (1, 2):
            if unit:
                hdus[1].header[f"TUNIT{index}"] = unit
    facts = fits.read_facts(path)
    assert (facts.beam.bmaj_arcsec, facts.beam.bmin_arcsec) == pytest.approx((10, 8), rel=1e-4)
    assert "BEAMS table" in facts.notes[0]


@pytest.mark.parametrize(
    "cards",
    [
        NO_BEAM,
        {"BMAJ": 0.0, "BMIN": 0.0},
        {"BMAJ": -1.0},
        {"BMIN": None},
        {"BMAJ": 8 / 3600, "BMIN": 10 / 3600},
        {"BMAJ": "none", "BMIN": "none"},
    ],
)
def test_a_beam_that_is_missing_or_impossible_is_none(tmp_path, cards):
    facts = fits.read_facts(write(tmp_path / "image.fits", **cards))
    assert facts.beam is None
    assert "The header has no beam." in facts.notes


@pytest.mark.parametrize(("bmaj_deg", "taken"), [(30.0, False), (10.0, False), (601 * 2 / 3600, False), (0.33, True)])
def test_a_beam_far_larger_than_the_image_is_left_out_and_noted(tmp_path, bmaj_deg, taken):
    facts = fits.read_facts(write(tmp_path / "image.fits", BMAJ=bmaj_deg))  # 60 x 40 pixels of 2 arcsec
    assert (facts.beam is not None) == taken
    said = f"BMAJ gives a beam of {bmaj_deg:g} degrees, which is far larger than these pixels are for; left out."
    assert (said not in facts.notes) == taken


def test_arcseconds_written_as_degrees_are_seen_in_a_large_image_too(tmp_path):
    path = write(tmp_path / "image.fits", sky(1200, 200), **celestial_cards(width=1200, height=200), BMAJ=4.0, BMIN=3.0)
    assert fits.read_facts(path).beam is None


def test_the_beam_of_history_stands_in_for_an_impossible_one(tmp_path):
    history = ["AIPS   CLEAN BMAJ=  2.7778E-03 BMIN=  2.2222E-03 BPA=  30.00"]
    facts = fits.read_facts(write(tmp_path / "image.fits", history=history, BMAJ=30.0, BMIN=20.0))
    assert facts.beam.bmaj_arcsec == pytest.approx(10, rel=1e-4)


def test_a_beam_without_angle_points_north(tmp_path):
    assert fits.read_facts(write(tmp_path / "image.fits", BPA=None)).beam.bpa_deg == 0.0


# --- unit ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("unit", "factor"),
    [
        ("Jy/beam", 1.0),
        ("JY/BEAM", 1.0),
        ("JY/BEAM ", 1.0),
        ("jy/beam", 1.0),
        ("Jy beam-1", 1.0),
        ("Jy beam^-1", 1.0),
        ("Jy.beam**(-1)", 1.0),
        ("beam-1 Jy", 1.0),
        ("Jy / beam", 1.0),
        ("Jy/bm", 1.0),
        ("mJy/beam", 1e-3),
        ("mJy beam-1", 1e-3),
        ("uJy/beam", 1e-6),
        ("MICROJY/BEAM", 1e-6),
        ("nJy/beam", 1e-9),
        ("MJY/BEAM", None),  # mega or a shouted milli
        ("K", None),
        ("Jy/pixel", None),
        ("MJy/sr", None),
        ("xJy/beam", None),
    ],
)
def test_units_become_jy_per_beam_or_nothing(tmp_path, unit, factor):
    facts = fits.read_facts(write(tmp_path / "image.fits", BUNIT=unit))
    assert facts.unit == unit.strip()
    assert facts.peak_jy_per_beam == (None if factor is None else pytest.approx(PEAK * factor))
    assert (facts.rms_jy_per_beam is None) == (factor is None)
    assert any("BUNIT" in note for note in facts.notes) == (factor is None)


@pytest.mark.parametrize(("cards", "peak"), [({}, PEAK), (NO_BEAM, None)], ids=["with a beam", "without"])
def test_a_missing_unit_is_taken_as_jy_per_beam_only_beside_a_beam(tmp_path, cards, peak):
    facts = fits.read_facts(write(tmp_path / "image.fits", BUNIT=None, **cards))
    assert facts.unit == ""
    assert facts.peak_jy_per_beam == (None if peak is None else pytest.approx(peak))
    assert any("BUNIT is missing" in note for note in facts.notes)


# --- frequency ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("cards", "expected"),
    [
        ({"RESTFRQ": 1.4e9}, 1.4e9),
        ({"RESTFRQ": None, "RESTFREQ": 1.3e9}, 1.3e9),
        ({"RESTFRQ": None, "FREQ": 1.2e9}, 1.2e9),
        ({"RESTFRQ": "1.4E9"}, 1.4e9),
        ({"RESTFRQ": None}, None),
        ({"RESTFRQ": 1.4}, None),  # GHz, presumably; not ours to guess
        ({"RESTFRQ": 1400.0}, None),
        ({"RESTFRQ": 0.0, "RESTFREQ": 1.3e9}, 1.3e9),
        ({"RESTFRQ": 5e14}, None),
        ({"RESTFRQ": -1.4e9}, None),
        ({"RESTFRQ": "unknown"}, None),
        ({"RESTFRQ": True}, None),
    ],
)
def test_frequency_of_a_flat_image(tmp_path, cards, expected):
    facts = fits.read_facts(write(tmp_path / "image.fits", **cards))
    assert facts.frequency_hz == expected
    assert (facts.frequency_hz is None) == ("The frequency is unknown." in facts.notes)


@pytest.mark.parametrize(
    ("axis", "expected"),
    [
        ({}, (1.4e9, 1e8)),
        ({"CUNIT3": "GHz", "CRVAL3": 1.4, "CDELT3": 0.1}, (1.4e9, 1e8)),
        ({"CUNIT3": None}, (1.4e9, 1e8)),
        ({"CRPIX3": 3.0}, (1.2e9, 1e8)),  # the first plane is two channels below the reference
        ({"CDELT3": -1e8}, (1.4e9, 1e8)),
        ({"CRVAL3": 1.4}, (2e9, None)),  # implausible: RESTFRQ it is
        ({"CRVAL3": 0.0, "CDELT3": 0.0}, (2e9, None)),
        ({"CDELT3": 0.0}, (1.4e9, None)),
        ({"CUNIT3": "furlong"}, (2e9, None)),
        ({"CTYPE3": "VOPT-F2W", "CUNIT3": "m/s", "RESTFRQ": None}, (None, None)),
        ({"CTYPE3": "VRAD", "CUNIT3": "m/s", "CRVAL3": 0.0, "CDELT3": 1e3}, (2e9, None)),
    ],
)
def test_frequency_axis_goes_before_restfrq(tmp_path, axis, expected):
    cards = {**frequency_axis(3), "RESTFRQ": 2e9, **axis}
    facts = fits.read_facts(write(tmp_path / "image.fits", cube(3), **cards))
    assert (facts.frequency_hz, facts.bandwidth_hz) == expected


# --- time ---------------------------------------------------------------------------------------------------------
MAY = datetime(2024, 5, 6, tzinfo=UTC)


@pytest.mark.parametrize(
    ("cards", "expected"),
    [
        ({"DATE_OBS": "2024-05-06T12:00:00"}, MAY.replace(hour=12)),
        ({"DATE_OBS": "2024-05-06T12:00:00Z"}, MAY.replace(hour=12)),
        ({"DATE_OBS": "2024-05-06T12:00"}, MAY.replace(hour=12)),
        ({"DATE_OBS": "2024-05-06"}, MAY),
        ({"DATE_OBS": "2024-05-06", "DATE_AVG": "2024-05-06T03:00:00"}, MAY.replace(hour=3)),
        ({"DATE_OBS": "06/05/94"}, MAY.replace(year=1994)),
        ({"DATE_OBS": None, "MJD_OBS": 60436.5}, MAY.replace(hour=12)),
        ({"DATE_OBS": "", "MJD_OBS": 60436.0}, MAY),
        ({"DATE_OBS": "last night", "MJD_OBS": 60436.0}, MAY),
        ({"DATE_OBS": "2024-05-06T00:00:37", "TIMESYS": "TAI"}, MAY),
        ({"DATE_OBS": None}, None),
        ({"DATE_OBS": "last night"}, None),
        ({"DATE_OBS": "2024-13-45"}, None),
        ({"DATE_OBS": None, "MJD_OBS": 0.0}, None),
        ({"DATE_OBS": "9999-01-01"}, None),
    ],
)
def test_date_of_observation(tmp_path, cards, expected):
    facts = fits.read_facts(write(tmp_path / "image.fits", **cards))
    assert facts.observed_at == expected
    assert (expected is None) == ("The time of observation is unknown." in facts.notes)


# --- where on the sky ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("ra", "dec", "expected"),
    [(0.0, 0.0, 0.0), (-90.0, 10.0, 270.0), (359.999, -45.0, 359.999), (-1e-13, 20.0, 0.0), (360.0, 5.0, 0.0)],
)
def test_right_ascension_is_normalised_once(tmp_path, ra, dec, expected):
    facts = fits.read_facts(write(tmp_path / "image.fits", **celestial_cards(ra, dec)))
    assert 0 <= facts.ra_deg < 360
    assert abs((facts.ra_deg - expected + 180) % 360 - 180) < 1e-6
    assert facts.dec_deg == pytest.approx(dec, abs=1e-6)


def test_the_smallest_negative_right_ascension_does_not_become_360():
    assert fits.normalised_ra(-1e-15) == 0.0
    assert fits.normalised_ra(0.0) == 0.0
    assert fits.normalised_ra(359.5) == 359.5


def test_footprint_across_right_ascension_zero(tmp_path):
    path = write(tmp_path / "image.fits", **celestial_cards(0.0, 10.0))
    assert fits.covers(path, [0.01, 359.99, 1.0, 180.0], [10.0, 10.0, 10.0, -10.0]).tolist() == [
        True,
        True,
        False,
        False,
    ]


@pytest.mark.parametrize("dec", [90.0, -90.0])
def test_an_image_of_the_pole(tmp_path, dec):
    path = write(tmp_path / "image.fits", **celestial_cards(0.0, dec))
    facts = fits.read_facts(path)
    assert facts.dec_deg == pytest.approx(dec, abs=1e-3)
    assert facts.radius_deg == pytest.approx(np.hypot(WIDTH / 2, HEIGHT / 2) * 2 / 3600, rel=1e-3)
    assert fits.covers(path, [0, 90, 180, 270, 0], [dec * (1 - 1e-4)] * 4 + [-dec]).tolist() == [True] * 4 + [False]


def test_positions_behind_the_tangent_plane_are_not_covered(tmp_path):
    for projection in ("SIN", "TAN"):
        cards = {"CTYPE1": f"RA---{projection}", "CTYPE2": f"DEC--{projection}"}
        path = write(tmp_path / f"{projection}.fits", **cards)
        assert not fits.covers(path, 330.0, -30.0).any()


def test_an_all_sky_image_whose_corners_are_off_the_sky(tmp_path):
    path = write(tmp_path / "image.fits", CDELT1=-3.0, CDELT2=3.0)
    facts = fits.read_facts(path)
    assert facts.radius_deg == 180.0
    assert fits.covers(path, [150.0, 330.0], [30.0, -30.0]).tolist() == [True, False]


@pytest.mark.parametrize(
    ("cards", "expected"),
    [
        ({"CTYPE1": "GLON-SIN", "CTYPE2": "GLAT-SIN", "CRVAL1": 0.0, "CRVAL2": 90.0}, (192.85948, 27.12825)),
        ({"RADESYS": "FK4", "EQUINOX": 1950.0}, (150.7197, 29.7581)),
        ({"EPOCH": 2000.0}, (150.0, 30.0)),
        ({"RADESYS": "ICRS"}, (150.0, 30.0)),
    ],
    ids=["galactic", "B1950", "old J2000", "ICRS"],
)
def test_the_position_is_icrs_whatever_the_frame(tmp_path, cards, expected):
    facts = fits.read_facts(write(tmp_path / "image.fits", **cards))
    assert (facts.ra_deg, facts.dec_deg) == pytest.approx(expected, abs=2e-3)


def test_the_edge_of_the_footprint_is_the_edge_of_the_outer_pixels(tmp_path):
    path = write(tmp_path / "image.fits", **celestial_cards(0.0, 0.0))
    edge = HEIGHT / 2 * 2 / 3600
    assert fits.covers(path, [0.0, 0.0], [edge * 0.99, edge * 1.01]).tolist() == [True, False]


@pytest.mark.parametrize(
    ("cards", "turned_deg"),
    [
        ({"CROTA2": 90.0}, 90),
        ({"PC1_1": 0.0, "PC1_2": -1.0, "PC2_1": 1.0, "PC2_2": 0.0}, 90),
        ({"PC01_01": 0.0, "PC01_02": -1.0, "PC02_01": 1.0, "PC02_02": 0.0, "PC03_03": 1.0}, 90),
        ({"CD1_1": 0.0, "CD1_2": 2 / 3600, "CD2_1": 2 / 3600, "CD2_2": 0.0, "CDELT1": None, "CDELT2": None}, 90),
        ({}, 0),
    ],
    ids=["CROTA", "PC", "CASA's PC", "CD of the sky axes alone", "none"],
)
def test_rotated_images_of_four_axes(tmp_path, cards, turned_deg):
    path = write(tmp_path / "image.fits", cube(1, 1), **frequency_axis(3), **stokes_axis(4), **cards)
    along = 25 * 2 / 3600  # inside along the 60-pixel axis only
    east = (150 + along / np.cos(np.radians(30)), 30.0)
    north = (150.0, 30 + along)
    covered = fits.covers(path, [east[0], north[0]], [east[1], north[1]]).tolist()
    assert covered == ([False, True] if turned_deg else [True, False])


# --- where in the file --------------------------------------------------------------------------------------------
def test_an_image_behind_an_empty_primary(tmp_path):
    header = astropy_fits.getheader(write(tmp_path / "plain.fits"))
    path = tmp_path / "extension.fits"
    hdus = [astropy_fits.PrimaryHDU(), astropy_fits.ImageHDU(np.zeros(7)), astropy_fits.ImageHDU(sky(), header)]
    astropy_fits.HDUList(hdus).writeto(path)
    assert fits.read_facts(path).peak_jy_per_beam == pytest.approx(PEAK)


def test_a_tile_compressed_image(tmp_path):
    header = astropy_fits.getheader(write(tmp_path / "plain.fits"))
    path = tmp_path / "compressed.fits"
    astropy_fits.CompImageHDU(sky(), header).writeto(path)
    assert fits.read_facts(path).peak_jy_per_beam == pytest.approx(PEAK, rel=1e-3)


@pytest.mark.parametrize("name", ["image.fits.gz", "image.fits"], ids=["named so", "not named so"])
def test_gzip_is_seen_by_its_first_bytes(tmp_path, name):
    plain = write(tmp_path / "plain.fits")
    packed = tmp_path / name
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    assert fits.read_facts(packed).checksum == fits.read_facts(plain).checksum


def test_fifty_thousand_history_cards_cost_no_time(tmp_path):
    path = write(tmp_path / "image.fits")
    header = astropy_fits.getheader(path)
    lines = [("HISTORY", f"AIPS  task {i} did something") for i in range(50_000)]
    header.extend(lines, end=True)
    astropy_fits.PrimaryHDU(sky(), header).writeto(path, overwrite=True)
    started = time.process_time()
    facts = fits.read_facts(path)
    assert time.process_time() - started < 3
    assert facts.peak_jy_per_beam == pytest.approx(PEAK)


def test_a_card_that_cannot_be_parsed_is_passed_over(tmp_path):
    path = write(tmp_path / "image.fits", OBSERVER="somebody")
    text = path.read_bytes()
    path.write_bytes(text.replace(b"OBSERVER= 'somebody'", b"OBSERVER= 'some\xffod~ "))
    assert fits.read_facts(path).peak_jy_per_beam == pytest.approx(PEAK)


# --- refused ------------------------------------------------------------------------------------------------------
def truncated_data(folder: Path) -> Path:
    path = write(folder / "image.fits")
    path.write_bytes(path.read_bytes()[:-5000])
    return path


def truncated_header(folder: Path) -> Path:
    path = write(folder / "image.fits")
    path.write_bytes(path.read_bytes()[:700])
    return path


def truncated_gzip(folder: Path) -> Path:
    path = folder / "image.fits.gz"
    path.write_bytes(gzip.compress(write(folder / "plain.fits").read_bytes())[:-2000])
    return path


def truncated_inside_gzip(folder: Path) -> Path:
    path = folder / "image.fits.gz"
    path.write_bytes(gzip.compress(truncated_data(folder).read_bytes()))
    return path


def empty(folder: Path) -> Path:
    path = folder / "image.fits"
    path.touch()
    return path


def web_page(folder: Path) -> Path:
    path = folder / "image.fits"
    path.write_text("<html>404 not found</html>")
    return path


def all_nan(folder: Path) -> Path:
    return write(folder / "image.fits", np.full((HEIGHT, WIDTH), np.nan, np.float32))


def without_wcs(folder: Path) -> Path:
    return write(folder / "image.fits", **dict.fromkeys(celestial_cards()))


def half_a_wcs(folder: Path) -> Path:
    return write(folder / "image.fits", CTYPE2="LINEAR")


def linear_wcs(folder: Path) -> Path:
    return write(folder / "image.fits", CTYPE1="RA", CTYPE2="DEC")


def singular_wcs(folder: Path) -> Path:
    return write(folder / "image.fits", CDELT1=0.0)


def wcs_off_the_sky(folder: Path) -> Path:
    return write(folder / "image.fits", CRPIX1=1e7)


def table_only(folder: Path) -> Path:
    path = folder / "image.fits"
    astropy_fits.BinTableHDU.from_columns([astropy_fits.Column("A", "E", array=[1.0])]).writeto(path)
    return path


def spectrum(folder: Path) -> Path:
    path = folder / "image.fits"
    astropy_fits.PrimaryHDU(np.zeros(100, np.float32)).writeto(path)
    return path


def axis_missing(folder: Path) -> Path:
    path = write(folder / "image.fits")
    path.write_bytes(path.read_bytes().replace(b"NAXIS1  =", b"NAXISX  ="))
    return path


def casa_image(folder: Path) -> Path:
    path = folder / "tile.image"
    table(str(path), maketabdesc([makescacoldesc("map", 0.0)]), nrow=1, ack=False).close()
    (path / "table.info").write_text("Type = Image\nSubType = \n")
    return path


def a_folder(folder: Path) -> Path:
    path = folder / "image.fits"
    path.mkdir()
    return path


def a_pipe(folder: Path) -> Path:
    os.mkfifo(folder / "image.fits")
    return folder / "image.fits"


def nothing(folder: Path) -> Path:
    return folder / "image.fits"


REFUSED = [
    (truncated_data, "fits_truncated"),
    (truncated_header, "fits_truncated"),
    (truncated_gzip, "fits_truncated"),
    (truncated_inside_gzip, "fits_truncated"),
    (empty, "fits_truncated"),
    (web_page, "fits_not_fits"),
    (a_folder, "fits_not_fits"),
    (a_pipe, "fits_not_fits"),
    (all_nan, "fits_all_blank"),
    (without_wcs, "fits_no_wcs"),
    (half_a_wcs, "fits_no_wcs"),
    (linear_wcs, "fits_no_wcs"),
    (singular_wcs, "fits_no_wcs"),
    (wcs_off_the_sky, "fits_no_wcs"),
    (table_only, "fits_no_image"),
    (spectrum, "fits_no_image"),
    (axis_missing, "fits_corrupt"),
    (casa_image, "casa_image_directory"),
    (nothing, "no_such_file"),
]


@pytest.mark.parametrize(("make", "code"), REFUSED, ids=[make.__name__ for make, _ in REFUSED])
def test_refused_by_name_with_a_reason_and_without_the_path(tmp_path, make, code):
    path = make(tmp_path)
    with pytest.raises(InvalidInput) as refusal:
        fits.read_facts(path)
    assert refusal.value.code == code
    assert path.name.removesuffix(".gz") in str(refusal.value)
    assert str(tmp_path) not in str(refusal.value)


def test_the_refusal_of_a_casa_image_says_how_to_export_it(tmp_path):
    with pytest.raises(fits.CasaDirectory, match=r"exportfits\(imagename='tile.image', fitsimage='tile.fits'\)"):
        fits.read_facts(casa_image(tmp_path))


@pytest.fixture
def as_nobody():
    """Permissions do not hold root back, so give the rights away for a moment."""
    if os.geteuid() == 0:
        os.seteuid(65534)
        yield
        os.seteuid(0)
    else:
        yield


@pytest.mark.parametrize("locked", ["file", "folder"])
def test_what_may_not_be_read_says_so(tmp_path, locked, as_nobody):
    with pytest.raises(NotReadable, match=r"image\.fits cannot be read \(Permission denied\)"):
        fits.read_facts(_locked(tmp_path, locked))


def _locked(tmp_path: Path, locked: str) -> Path:
    nobody = os.geteuid()
    if os.getuid() == 0:
        os.seteuid(0)
    path = write(tmp_path / "image.fits")
    for folder in [tmp_path, *tmp_path.parents][:3]:
        folder.chmod(folder.stat().st_mode | 0o055)
    (path if locked == "file" else tmp_path).chmod(0)
    os.seteuid(nobody)
    return path


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(position=st.integers(0, 2879), byte=st.integers(0, 255), cut=st.none() | st.integers(0, 14_399))
def test_a_damaged_file_is_read_or_refused_and_nothing_else(tmp_path, position, byte, cut):
    whole = tmp_path / "whole.fits"
    if not whole.exists():
        write(whole)
    text = bytearray(whole.read_bytes())
    text[position] = byte
    damaged = tmp_path / "damaged.fits"
    damaged.write_bytes(bytes(text[:cut]))
    try:
        facts = fits.read_facts(damaged)
    except InvalidInput:
        return
    assert 0 <= facts.ra_deg < 360
    assert -90 <= facts.dec_deg <= 90


# --- checksum -----------------------------------------------------------------------------------------------------
def test_dates_and_history_are_not_content(tmp_path):
    one = write(tmp_path / "one.fits")
    other = write(
        tmp_path / "other.fits", history=["made again"], DATE_OBS="2025-01-01", DATE="2025-01-02", OBSERVER="x"
    )
    assert fits.content_checksum(one) == fits.content_checksum(other) == fits.read_facts(one).checksum


@pytest.mark.parametrize(
    "cards", [{"CRVAL1": 150.001}, {"BMAJ": 0.01}, {"BUNIT": "mJy/beam"}, {"RESTFRQ": 1.5e9}, {"CDELT2": 1 / 3600}]
)
def test_coordinates_beam_unit_and_frequency_are_content(tmp_path, cards):
    plain = fits.content_checksum(write(tmp_path / "one.fits"))
    assert fits.content_checksum(write(tmp_path / "other.fits", **cards)) != plain


def test_one_pixel_is_content_and_the_kind_of_nan_is_not(tmp_path):
    data = sky()
    data[0, 0] = np.nan
    odd = data.copy()
    odd.view(np.uint32)[0, 0] = 0x7FC00001  # also a NaN
    changed = data.copy()
    changed[5, 5] += 1e-6
    checksums = [fits.content_checksum(write(tmp_path / f"{i}.fits", d)) for i, d in enumerate((data, odd, changed))]
    assert checksums[0] == checksums[1] != checksums[2]


# --- size ---------------------------------------------------------------------------------------------------------
def test_a_large_image_is_sampled_and_still_measured_right(tmp_path, monkeypatch):
    monkeypatch.setattr(fits, "MEDIAN_PX", 20_000)
    monkeypatch.setattr(fits, "BLOCK_PX", 7_000)
    path = write(tmp_path / "image.fits", sky(600, 400), **celestial_cards(width=600, height=400))
    facts = fits.read_facts(path)
    assert facts.rms_jy_per_beam == pytest.approx(NOISE, rel=0.03)
    assert facts.peak_jy_per_beam == pytest.approx(PEAK)
    assert facts.finite_fraction == 1.0


def test_the_sampling_step_sees_every_column(monkeypatch):
    monkeypatch.setattr(fits, "MEDIAN_PX", 100)
    step = fits._sampling_step(60 * 40, 60)
    assert len({i % 60 for i in range(0, 60 * 40, step)}) == len(range(0, 60 * 40, step)) or step % 2 == 1


def test_the_brightest_pixel_is_where_the_header_says(tmp_path):
    path = write(tmp_path / "image.fits")
    plane, header = fits.read_plane(path)
    row, column = np.unravel_index(np.argmax(plane), plane.shape)
    ra, dec = radio_fits.pixel_position(header, column, row)
    assert ra < 150.0 < dec * 6  # right of the middle is west
    assert fits.covers(path, ra, dec).all()
