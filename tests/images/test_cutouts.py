from __future__ import annotations

import gzip
import io
import tracemalloc

import numpy as np
import pytest
from astropy.io import fits as astropy_fits
from astropy.wcs import WCS
from PIL import Image as Picture

from images.engines import cutout as engine
from images.engines import fits as fits_engine
from images.models import Image
from images.services import register_external
from tests.contimg.api.test_filters import errors
from tests.factories import ImageFactory
from tests.images import radio_fits

pytestmark = [pytest.mark.django_db, pytest.mark.once]
PIXEL = 2.0  # arcsec, of radio_fits


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "archive"
    folder.mkdir()
    return radio_fits.write(folder / "field.fits", RADESYS="FK5", EQUINOX=2000.0, DATE_AVG="2024-05-06T07:10:00")


@pytest.fixture
def image(source) -> Image:
    return register_external(path=source)


def position(path, column: float, row: float) -> dict[str, float]:
    """Of a pixel, ICRS."""
    with fits_engine.open_plane(path) as plane:
        sky = plane.wcs.pixel_to_world(column, row).icrs
    return {"ra_deg": sky.ra.deg, "dec_deg": sky.dec.deg}


def ask(api, image, headers=None, **parameters):
    return api.get(f"/api/v1/images/{image.pk}/cutout/", parameters, headers=headers or {})


def body(response) -> bytes:
    assert response.status_code in (200, 206), response.content
    return b"".join(response.streaming_content)


def opened(response) -> astropy_fits.PrimaryHDU:
    assert response.headers["Content-Type"] == "application/fits"
    return astropy_fits.open(io.BytesIO(body(response)))[0]


# --- what it holds ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("column", "row"), [(30, 20), (45, 30), (0, 0), (59, 39), (0, 39), (59, 0), (-0.45, 20.4), (59.45, 39.45)]
)
@pytest.mark.parametrize("size_px", [16, 17, 64, 301])
def test_a_cutout_has_the_pixels_of_the_image_at_their_places_and_nan_beyond_it(
    api, image, source, column, row, size_px
):
    hdu = opened(ask(api, image, **position(source, column, row), size_arcsec=size_px * PIXEL))
    assert hdu.data.shape == (size_px, size_px)
    original, wcs = astropy_fits.getdata(source), WCS(hdu.header)
    whole = WCS(astropy_fits.getheader(source))
    rows, columns = np.indices(hdu.data.shape)
    x, y = whole.world_to_pixel(wcs.pixel_to_world(columns, rows))
    assert np.abs(x - np.round(x)).max() < 1e-5
    x, y = np.round(x).astype(int), np.round(y).astype(int)
    inside = (x >= 0) & (x < 60) & (y >= 0) & (y < 40)
    np.testing.assert_array_equal(hdu.data[inside], original[y[inside], x[inside]])
    assert np.isnan(hdu.data[~inside]).all()
    assert original[round(row), round(column)] == hdu.data[size_px // 2, size_px // 2]


def test_a_cutout_says_beam_unit_frequency_date_and_which_image_it_is_from(api, image, source):
    header = opened(ask(api, image, **position(source, 30, 20), size_arcsec=40)).header
    original = astropy_fits.getheader(source)
    for keyword in ("BMAJ", "BMIN", "BPA", "BUNIT", "DATE-OBS", "DATE-AVG", "RADESYS", "EQUINOX"):
        assert header[keyword] == original[keyword], keyword
    assert header["RESTFRQ"] == header["FREQ"] == 1.4e9
    assert (header["IMAGEID"], header["IMGNAME"], header["IMGSUM"]) == (image.pk, "field", image.checksum)


def test_the_beam_of_the_history_and_the_frequency_of_an_axis_are_not_lost(api, tmp_path):
    cube = radio_fits.write(
        tmp_path / "Käse.fits", radio_fits.sky()[None], BMAJ=None, BMIN=None, BPA=None, RESTFRQ=None,
        history=["AIPS   CLEAN BMAJ=  2.7778E-03 BMIN=  2.2222E-03 BPA=  30.00"], **radio_fits.frequency_axis(3),
    )  # fmt: skip
    hdu = opened(ask(api, register_external(path=cube), ra_deg=150, dec_deg=30, size_arcsec=40))
    assert (hdu.data.shape, hdu.header["FREQ"], hdu.header["IMGNAME"]) == ((20, 20), 1.4e9, "K?se")
    assert hdu.header["BMAJ"] * 3600 == pytest.approx(10, rel=1e-4)
    assert "HISTORY" not in hdu.header


def test_other_forms_of_fits_are_cut_as_the_plain_one_is(api, image, source, tmp_path):
    plain = opened(ask(api, image, **position(source, 45, 30), size_arcsec=64)).data
    packed = tmp_path / "archive" / "packed.fits.gz"
    packed.write_bytes(gzip.compress(source.read_bytes()))
    copied = register_external(path=packed)
    given = {"kind": "external", "measurement_set": None, "root": image.root, "pixel_arcsec": PIXEL}
    in_place = ImageFactory(path=packed.name, **given)
    for other in (copied, in_place):
        found = opened(ask(api, other, **position(source, 45, 30), size_arcsec=64)).data
        np.testing.assert_array_equal(found, plain)


def test_the_picture_is_grey_noise_with_a_white_source_and_nothing_where_it_is_blank(api, image, source):
    response = ask(api, image, **position(source, 45, 30), size_arcsec=64, format="png")
    assert response.headers["Content-Type"] == "image/png"
    picture = np.asarray(Picture.open(io.BytesIO(body(response))))
    assert picture.shape == (32, 32, 2)
    grey, opacity = picture[::-1, :, 0], picture[::-1, :, 1]
    assert (grey.max(), grey[16, 16]) == (255, 255)
    assert 5 < np.median(grey[opacity == 255]) < 80
    assert (opacity[26:] == 0).all()
    assert (opacity[:25, :30] == 255).all()


@pytest.mark.parametrize(
    "pixels",
    [
        np.full((16, 16), np.nan), np.zeros((16, 16)), np.full((16, 16), np.inf), np.full((16, 16), 3e38, np.float32),
        np.linspace(-1e300, 1e300, 256).reshape(16, 16), np.linspace(0, 1e-300, 256).reshape(16, 16),
    ],
)  # fmt: skip
def test_odd_pixels_make_a_picture_too(pixels):
    grey, is_blank = engine.stretched(pixels)
    assert grey.shape == pixels.shape
    assert (is_blank == ~np.isfinite(pixels)).all()


def test_a_large_image_is_not_read_into_memory(tmp_path):
    path = tmp_path / "large.fits"
    header = astropy_fits.Header(
        [("SIMPLE", True), ("BITPIX", -32), ("NAXIS", 2), ("NAXIS1", 30000), ("NAXIS2", 30000)]
    )
    for keyword, value in radio_fits.celestial_cards(width=30000, height=30000).items():
        header[keyword] = value
    with path.open("wb") as file:  # 3.6 GB with nothing in it
        file.write(header.tostring().encode())
        file.truncate(file.tell() + -(-4 * 30000**2 // 2880) * 2880)
    tracemalloc.start()
    made = engine.cut(path, ra_deg=150, dec_deg=30, size_px=2048)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert made.pixels.shape == (2048, 2048)
    assert peak < 100e6


# --- HTTP ------------------------------------------------------------------------------------------------------------
def test_who_has_a_cutout_does_not_get_it_again_and_every_parameter_is_another_one(api, image, source):
    place = position(source, 30, 20)
    first = ask(api, image, **place, size_arcsec=40)
    etag = first.headers["ETag"]
    assert etag.startswith('"')
    assert etag == ask(api, image, **place, size_arcsec="40.0", format="fits").headers["ETag"]
    again = ask(api, image, {"if-none-match": etag}, **place, size_arcsec=40)
    assert (again.status_code, again.headers["ETag"]) == (304, etag)
    for changed in ({"size_arcsec": 42}, {"format": "png"}, {"ra_deg": place["ra_deg"] + 1e-9}):
        other = ask(api, image, {"if-none-match": etag}, **{**place, "size_arcsec": 40, **changed})
        assert (other.status_code, other.headers["ETag"] != etag) == (200, True)


def test_a_part_of_a_cutout_is_served(api, image):
    place = {"ra_deg": 150, "dec_deg": 30, "size_arcsec": 40}
    whole = body(ask(api, image, **place))
    part = ask(api, image, {"range": "bytes=0-8"}, **place)
    assert (part.status_code, body(part)) == (206, b"SIMPLE  =")
    assert part.headers["Content-Range"] == f"bytes 0-8/{len(whole)}"
    assert ask(api, image, {"range": f"bytes={len(whole)}-"}, **place).status_code == 416


def test_head_has_the_headers_of_get(api, image):
    url = f"/api/v1/images/{image.pk}/cutout/?ra_deg=150&dec_deg=30&size_arcsec=40"
    got, headed = api.get(url), api.head(url)
    for name in ("ETag", "Content-Length", "Content-Type"):
        assert headed.headers[name] == got.headers[name]


NO_NUMBERS = ("nan", "inf", "-inf", "x", "1_0", "٣", "1e", "0x10")
GOOD = {"ra_deg": "150", "dec_deg": "30", "size_arcsec": "40"}


@pytest.mark.parametrize(
    ("given", "wrong"),
    [
        ({"ra_deg": "360"}, {"ra_deg": "max_value"}),
        ({"ra_deg": "-1e-9"}, {"ra_deg": "min_value"}),
        ({"dec_deg": "90.0001"}, {"dec_deg": "max_value"}),
        ({"dec_deg": "-90.0001"}, {"dec_deg": "min_value"}),
        *(({name: value}, {name: "invalid"}) for name in GOOD for value in NO_NUMBERS),
        ({"ra_deg": "1e999"}, {"ra_deg": "invalid"}),
        *(({name: ""}, {name: "empty_parameter"}) for name in GOOD),
        *(({name: [GOOD[name], GOOD[name]]}, {name: "repeated_parameter"}) for name in GOOD),
        *(({name: None}, {name: "required"}) for name in GOOD),
        ({"size": "40"}, {"size": "unknown_parameter"}),
        ({"format": "jpg"}, {"format": "unknown_format"}),
        ({"format": ""}, {"format": "unknown_format"}),
        ({"format": ["fits", "png"]}, {"format": "repeated_parameter"}),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_refused_and_named(api, given, wrong):
    image = ImageFactory()
    parameters = {name: value for name, value in {**GOOD, **given}.items() if value is not None}
    response = ask(api, image, **parameters)
    assert errors(response) == wrong
    assert response.headers["Content-Type"] == "application/problem+json"


@pytest.mark.parametrize(
    ("size_px", "status"),
    [(15.99, 400), (16, 200), (2048, 200), (2048.1, 400), (1e300, 400), (0, 400), (-20, 400)],
)
def test_a_cutout_has_16_to_2048_pixels(api, image, size_px, status):
    response = ask(api, image, ra_deg=150, dec_deg=30, size_arcsec=repr(float(size_px * PIXEL)))
    assert response.status_code == status
    if status == 400:
        assert response.json()["code"] == "cutout_size"
        assert "32 to 4096 arcsec" in response.json()["detail"]


@pytest.mark.parametrize(
    ("column", "row", "status"),
    [(-0.51, 20, 400), (-0.49, 20, 200), (59.51, 20, 400), (30, -0.51, 400), (30, 39.51, 400), (30, 39.49, 200)],
)
def test_a_point_beyond_the_edge_is_refused(api, image, source, column, row, status):
    response = ask(api, image, **position(source, column, row), size_arcsec=40)
    assert response.status_code == status
    if status == 400:
        assert response.json()["code"] == "outside_image"


@pytest.mark.parametrize(("ra_deg", "dec_deg"), [(330, -30), (150, -30), (0, 90), (0, -90)])
def test_a_point_on_the_other_side_of_the_sky_is_refused(api, image, ra_deg, dec_deg):
    assert ask(api, image, ra_deg=ra_deg, dec_deg=dec_deg, size_arcsec=40).json()["code"] == "outside_image"


@pytest.mark.parametrize("spoil", ["delete", "truncate", "empty", "header", "replace"])
def test_a_file_that_is_gone_or_spoilt_is_410_and_its_place_is_not_told(api, image, source, spoil):
    content = source.read_bytes()
    source.unlink()
    left = {"truncate": content[:6000], "empty": b"", "header": content[:800], "replace": b"\x89PNG" * 1000}
    if spoil in left:
        source.write_bytes(left[spoil])
    for form in ("fits", "png"):
        response = ask(api, image, **GOOD, format=form)
        assert (response.status_code, response.json()["code"]) == (410, "missing_product")
        assert str(source.parent) not in response.content.decode()
    assert ask(api, ImageFactory(path="../x.fits"), **{**GOOD, "size_arcsec": "200"}).json()["code"] == "outside_root"
