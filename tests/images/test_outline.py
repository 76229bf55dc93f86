"""Which images cover a point, in the database against the WCS of astropy, from which only the edges are taken."""

from __future__ import annotations

import gzip

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS

from contimg.products import product_path
from images.models import Image, ImageEdge
from images.services import register_external
from tests.images.radio_fits import write
from tests.images.test_mosaics import epoch, make, tile_image  # noqa: F401

pytestmark = pytest.mark.django_db
CHANCE = np.random.default_rng(5)


def field(projection="SIN", ra=10.0, dec=20.0, *, width=200, height=120, arcsec=5.0, turned=0.0, **cards):
    """The cards of a field; `crpix` may be far outside of it."""
    cosine, sine = np.cos(np.radians(turned)), np.sin(np.radians(turned))
    return {
        "NAXIS1": width, "NAXIS2": height, "CTYPE1": f"RA---{projection}", "CTYPE2": f"DEC--{projection}",
        "CRVAL1": ra, "CRVAL2": dec, "CRPIX1": width / 2 + 0.5, "CRPIX2": height / 2 + 0.5,
        "CDELT1": -arcsec / 3600, "CDELT2": arcsec / 3600,
        "PC1_1": cosine, "PC1_2": -sine, "PC2_1": sine, "PC2_2": cosine, **cards,
    }  # fmt: skip


FIELDS = {
    "as found": field(height=200),
    "gnomonic, turned": field("TAN", turned=37.0),
    "across RA 0": field("TAN", ra=0.0, turned=-12.0),
    "over the north pole": field("TAN", dec=90.0, turned=20.0),
    "by the south pole": field("SIN", dec=-89.95, turned=120.0),
    "orthographic, 10 degrees, turned": field(arcsec=180.0, turned=64.0),
    "gnomonic, 10 degrees": field("TAN", arcsec=180.0),
    "cut out far from the reference pixel": field(arcsec=60.0, turned=5.0, CRPIX1=1500.0, CRPIX2=-900.0),
    "slant orthographic": field(arcsec=120.0, PV2_1=0.3, PV2_2=-0.2),
    "stereographic": field("STG", arcsec=120.0, turned=10.0),
    "equidistant, 5 degrees": field("ARC", arcsec=90.0, turned=10.0),
    "equal-area, 10 degrees": field("ZEA", arcsec=180.0, turned=10.0),
    "plate carree": field("CAR", dec=0.0, arcsec=60.0, CRPIX2=-2000.0),
    "plate carree, 180 degrees": field("CAR", dec=0.0, arcsec=3200.0, height=80),
    "galactic": field("TAN", turned=45.0) | {"CTYPE1": "GLON-TAN", "CTYPE2": "GLAT-TAN"},
    "very long baselines": field(arcsec=5e-5, turned=10.0),
    "one pixel": field(width=1, height=1),
}


def near_edges(cards, off_px: float, n: int = 6) -> np.ndarray:
    """Pixel positions so far outside (or, below 0, inside) of the border, some right at the corners."""
    width, height = cards["NAXIS1"], cards["NAXIS2"]
    along = np.concatenate([[0.0, 1.0], CHANCE.random(n)])
    x, y = along * (width + 2 * off_px) - 0.5 - off_px, along * (height + 2 * off_px) - 0.5 - off_px
    low, right, top = np.full(along.size, -0.5 - off_px), width - 0.5 + off_px, height - 0.5 + off_px
    return np.concatenate([
        np.c_[x, low], np.c_[x, np.full_like(x, top)], np.c_[low, y], np.c_[np.full_like(y, right), y]
    ])  # fmt: skip


def covered(cards, pixels) -> list[bool]:
    sky = WCS(fits.Header(cards)).pixel_to_world(*pixels.T).icrs
    return [
        Image.objects.covering(ra_deg=float(ra) % 360, dec_deg=float(dec)).exists()
        for ra, dec in zip(sky.ra.deg, sky.dec.deg, strict=True)
    ]


def register(tmp_path, cards) -> Image:
    return register_external(path=written(tmp_path / "image.fits", cards))


def written(path, cards):
    data = CHANCE.normal(0, 1e-3, (cards["NAXIS2"], cards["NAXIS1"])).astype(np.float32)
    return write(path, data, **{key: value for key, value in cards.items() if not key.startswith("NAXIS")})


@pytest.mark.parametrize("name", FIELDS)
def test_an_external_image_covers_what_is_within_its_edges_and_nothing_else(tmp_path, name):
    cards = FIELDS[name]
    assert register(tmp_path, cards).edges.count() == 4
    assert all(covered(cards, near_edges(cards, -0.1)))
    assert not any(covered(cards, near_edges(cards, 0.1)))
    assert covered(cards, np.array([[(cards["NAXIS1"] - 1) / 2, (cards["NAXIS2"] - 1) / 2]])) == [True]


def test_an_image_covers_nothing_on_the_other_side_of_the_sky(tmp_path):
    image = register(tmp_path, field("TAN"))
    there = {"ra_deg": (image.ra_deg + 180) % 360, "dec_deg": -image.dec_deg}
    assert not Image.objects.covering(**there).exists()


def test_a_point_just_off_the_edge_but_in_the_circle_is_not_covered(tmp_path):
    register(tmp_path, field(height=200))
    assert not Image.objects.covering(ra_deg=10.2, dec_deg=20.0).exists()
    assert Image.objects.covering(ra_deg=10.14, dec_deg=20.0).exists()


@pytest.mark.parametrize("cards", [
    field("CAR", dec=0.0, width=360, height=180, arcsec=3600.0),  # the whole sky
    field("SIN", width=400, height=400, arcsec=3600.0),  # corners off the hemisphere
])  # fmt: skip
def test_an_image_that_four_circles_do_not_bound_is_registered_and_covers_its_circle(tmp_path, cards):
    image = register(tmp_path, cards)
    assert (image.edges.count(), image.radius_deg) == (0, 180.0)
    assert Image.objects.covering(ra_deg=200.0, dec_deg=-40.0).get() == image


@pytest.mark.parametrize("packed", [False, True])
def test_an_image_registered_before_edges_were_gets_them_when_registered_again(tmp_path, packed):
    path = written(tmp_path / "image.fits", field(height=200))
    if packed:
        plain, path = path, tmp_path / "packed.fits.gz"
        path.write_bytes(gzip.compress(plain.read_bytes()))
    image = register_external(path=path)
    ImageEdge.objects.all().delete()
    point = {"ra_deg": 10.2, "dec_deg": 20.0}
    assert Image.objects.covering(**point).get() == image
    assert register_external(path=path) == image
    assert register_external(path=path).edges.count() == 4
    assert not Image.objects.covering(**point).exists()


def test_numbers_next_to_zero_are_zero_to_every_database(tmp_path):
    image = register(tmp_path, field("TAN", ra=0.0, dec=0.0))
    for dust in (5e-324, 1e-200, 1e-30):
        assert Image.objects.covering(ra_deg=dust, dec_deg=-dust).get() == image


def test_a_mosaic_of_an_hour_covers_what_is_within_its_edges(epoch):  # noqa: F811
    for number in (0, 1):
        tile_image(number, on_disk=True)
    image = make(epoch)
    Image.objects.tiles().update(ra_deg=200.0, healpix=0)  # out of the way
    with fits.open(product_path(image.path)) as hdus:
        cards = {key: value for key, value in hdus[0].header.items() if key != "HISTORY"}
    assert all(covered(cards, near_edges(cards, -0.1)))
    assert not any(covered(cards, near_edges(cards, 0.1)))
    assert image.edges.count() == 4
