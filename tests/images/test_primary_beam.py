from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.time import Time
from astropy.wcs import WCS

from images.engines.fits_header import celestial_header
from images.engines.primary_beam import BLANK_BELOW, tile_beam, write_corrected, write_primary_beam
from observations.engines.measurement_set import read_header
from tests.science import STRIP_DEC_DEG, Observed, beam_by_hand, edited, towards_ecef

SIZE_PX, PIXEL_ARCSEC = 256, 60.0  # out to where the beam is below a tenth


@pytest.fixture(scope="module")
def flat(field_tile, tmp_path_factory) -> Path:
    """An image of ones with the tile's coordinates."""
    path = tmp_path_factory.mktemp("flat") / "flat.fits"
    header = celestial_header(read_header(field_tile.path), size_px=SIZE_PX, pixel_arcsec=PIXEL_ARCSEC)
    header["BMAJ"], header["BMIN"], header["BPA"], header["BUNIT"] = 0.01, 0.01, 0.0, "Jy/beam"
    fits.PrimaryHDU(np.ones((SIZE_PX, SIZE_PX), np.float32), header).writeto(path)
    return path


@pytest.fixture(scope="module")
def beam(field_tile, flat, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("beam") / "beam.fits"
    write_primary_beam(measurement_set=field_tile.path, image=flat, pointing_dec_deg=STRIP_DEC_DEG, output=path)
    return path


def mean_beam_by_hand(tile: Observed, place: SkyCoord, channels=slice(None), times=slice(None)) -> float:
    header = read_header(tile.path)
    moments = Time(header.times_s[times] / 86400, format="mjd", scale="utc")
    return float(beam_by_hand(towards_ecef(moments, place), header.frequency_hz[channels]).mean())


# Pixels (x, y): the middle, along the axes, the corners of the inner field, far out.
PIXELS = [(128, 128), (128, 170), (90, 128), (166, 166), (60, 100), (200, 128), (128, 40)]


@pytest.mark.parametrize("pixel", PIXELS)
def test_the_mean_beam_is_the_airy_pattern_averaged_over_time_and_frequency(field_tile, flat, beam, pixel):
    ra, dec = WCS(fits.getheader(flat)).pixel_to_world_values(*pixel)

    expected = mean_beam_by_hand(field_tile, SkyCoord(ra, dec, unit="deg"))

    assert fits.getdata(beam)[pixel[1], pixel[0]] == pytest.approx(expected, abs=1e-4)


def test_a_static_beam_would_be_four_percent_off_on_axis_and_the_other_way_far_out(field_tile, flat):
    wcs = WCS(fits.getheader(flat))
    header = read_header(field_tile.path)
    middle = Time([header.mid_mjd], format="mjd", scale="utc")
    ratio = {}
    for pixel in [(128, 128), (128 - 84, 128)]:  # the centre and 1.4 degrees east
        place = SkyCoord(*wcs.pixel_to_world_values(*pixel), unit="deg")
        static = beam_by_hand(towards_ecef(middle, place), header.frequency_hz).mean()
        ratio[pixel] = static / mean_beam_by_hand(field_tile, place)

    assert ratio[128, 128] == pytest.approx(1.041, abs=0.008)
    assert ratio[44, 128] == pytest.approx(0.986, abs=0.008)


def test_only_unflagged_channels_and_integrations_count(field_tile, flat, tmp_path):
    def some(flags, first, second):
        flags[:, :16] = True
        flags[: flags.shape[0] // 2] = True
        return flags

    path = edited(field_tile.path, tmp_path, FLAG=some)
    wcs = WCS(fits.getheader(flat))
    place = SkyCoord(*wcs.pixel_to_world_values(90, 150), unit="deg")

    found = tile_beam(path, wcs, STRIP_DEC_DEG, SIZE_PX)[150, 90]

    expected = mean_beam_by_hand(field_tile, place, slice(16, None), slice(12, None))
    assert found == pytest.approx(expected, abs=1e-4)
    assert expected != pytest.approx(mean_beam_by_hand(field_tile, place), abs=5e-3)


def test_the_beam_file_has_the_coordinates_and_no_restoring_beam(flat, beam):
    image, header = fits.getheader(flat), fits.getheader(beam)

    assert {k: image[k] for k in ("CRVAL1", "CRVAL2", "CDELT1", "CRPIX1")} == {
        k: header[k] for k in ("CRVAL1", "CRVAL2", "CDELT1", "CRPIX1")
    }
    assert "BMAJ" not in header
    assert fits.getdata(beam).dtype == np.dtype(">f4")


def test_the_corrected_image_is_divided_by_the_beam_and_blank_below_a_tenth(flat, beam, tmp_path):
    write_corrected(image=flat, primary_beam=beam, output=tmp_path / "corrected.fits")

    corrected, response = fits.getdata(tmp_path / "corrected.fits"), fits.getdata(beam)
    inside = response >= BLANK_BELOW
    assert 0.3 < inside.mean() < 0.9
    assert np.array_equal(np.isfinite(corrected), inside)
    assert corrected[inside] == pytest.approx(1 / response[inside], rel=1e-6)
    header = fits.getheader(tmp_path / "corrected.fits")
    assert (header["BMAJ"], header["BUNIT"]) == (0.01, "Jy/beam")
    assert "blank below 0.1" in str(header["HISTORY"])


def test_a_field_wider_than_the_sky_has_no_beam_beyond_it(field_tile):
    """Corners of a 180 degree SIN projection are no place on the sky."""
    header = celestial_header(read_header(field_tile.path), size_px=64, pixel_arcsec=3.0 * 3600)

    response = tile_beam(field_tile.path, WCS(header), STRIP_DEC_DEG, 64)

    assert np.isfinite(response).all()
    assert response[0, 0] == pytest.approx(0, abs=0.01)
