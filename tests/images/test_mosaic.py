"""The mosaicker against skies whose truth is known."""

from __future__ import annotations

from dataclasses import replace

import astropy.units as u
import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.wcs import WCS

from images.engines.common_beam import common_beam, matrix, smooth
from images.engines.fits import content_checksum, read_facts
from images.engines.fits_cards import Beam
from images.engines.mosaic import TileUnusable, make_mosaic
from images.engines.primary_beam import BLANK_BELOW
from tests.images.skies import Pointing, airy, value_at, write_tile

STEP_DEG = 1.29  # a tile's length of sky at declination 0
# Of one night, but with beams that differ, as flagged antennas make them.
NIGHT = [
    Pointing(359.0, 16.0),
    Pointing(359.0 + STEP_DEG - 360, 16.0, bmaj_arcsec=185.0, bpa_deg=28.0, rms=2e-3),
    Pointing(359.0 + 2 * STEP_DEG - 360, 16.02, bmin_arcsec=158.0, rms=0.7e-3),
]
# East and north of the middle tile's centre: in the overlaps, beside the edges of tiles, at the rim, faint and bright.
OFFSETS = [
    (0, 0),
    (-1.1, 0.6),
    (0.9, -0.7),
    (1.995, 0.1),
    (-2.01, -0.3),
    (0.7, 1.6),
    (-2.9, 0.4),
    (2.8, -1.0),
    (0.3, 1.0),
]


def sources_about(pointing: Pointing) -> list[tuple[float, float, float]]:
    centre = SkyCoord(pointing.ra_deg, pointing.dec_deg, unit="deg")
    places = [centre.spherical_offsets_by(east * u.deg, north * u.deg) for east, north in OFFSETS]
    return [(place.ra.deg, place.dec.deg, 1.0 + number) for number, place in enumerate(places)]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mosaic")
    sources = sources_about(NIGHT[1])
    tiles = [write_tile(folder, pointing, sources, seed=n) for n, pointing in enumerate(NIGHT, start=1)]
    return tiles, sources, make_mosaic(tiles=tiles, folder=folder, threads=1)


def grid_of(path):
    with fits.open(path) as hdus:
        data, wcs = np.array(hdus[0].data, float), WCS(hdus[0].header)
    y, x = np.indices(data.shape)
    return data, wcs.pixel_to_world(x, y)


def seen_by(sky: SkyCoord, pointing: Pointing, slack: float = 1.0) -> np.ndarray:
    """The beam where the tile has pixels and its beam is above a tenth, else 0; `slack` makes it reach further."""
    centre = SkyCoord(pointing.ra_deg, pointing.dec_deg, unit="deg")
    response = airy(sky.separation(centre).rad)
    east, north = centre.spherical_offsets_to(sky)
    half_deg = slack * pointing.size_px / 2 * pointing.pixel_arcsec / 3600
    inside = (np.abs(east.deg) < half_deg) & (np.abs(north.deg) < half_deg)
    return np.where(inside & (response >= BLANK_BELOW / slack), response, 0)


@pytest.mark.parametrize("number", range(len(OFFSETS)))
def test_fluxes_are_the_true_ones_also_where_tiles_end(made, number):
    _, sources, mosaic = made
    ra, dec, flux = sources[number]
    assert value_at(mosaic.image, ra, dec) == pytest.approx(flux, rel=0.02)


def test_one_beam_holds_that_of_every_tile(made):
    _, _, mosaic = made
    target = matrix(mosaic.beam)
    for pointing in NIGHT:
        own = matrix(Beam(pointing.bmaj_arcsec, pointing.bmin_arcsec, pointing.bpa_deg))
        assert np.linalg.eigvalsh(target - own).min() > -1e-6
    assert read_facts(mosaic.image).beam.bmaj_arcsec == pytest.approx(mosaic.beam.bmaj_arcsec)


def test_the_noise_is_what_sigma_says(made):
    """In empty regions: of one tile, of two and of three, and near the middle and near the rim."""
    _, sources, mosaic = made
    data, sky = grid_of(mosaic.image)
    sigma, _ = grid_of(mosaic.noise)
    empty = np.isfinite(data)
    for ra, dec, _ in sources:
        empty &= sky.separation(SkyCoord(ra, dec, unit="deg")).arcsec > 4 * mosaic.beam.bmaj_arcsec
    n_tiles = sum((seen_by(sky, pointing) > 0).astype(int) for pointing in NIGHT)
    ratio = data / sigma
    assert ratio[empty].std() == pytest.approx(1, abs=0.05)
    for n in (1, 2, 3):
        region = empty & (n_tiles == n)
        assert region.sum() > 10_000
        assert ratio[region].std() == pytest.approx(1, abs=0.05)
    assert mosaic.noise_ratio == pytest.approx(1, abs=0.05)


def test_sigma_follows_the_formula(made):
    _, _, mosaic = made
    sigma, sky = grid_of(mosaic.noise)
    terms = [(seen_by(sky, p) / s) ** 2 for p, s in zip(NIGHT, mosaic.tile_rms_jy_per_beam, strict=True)]
    away_from_edges = np.all([(seen_by(sky, p, 0.98) > 0) == (seen_by(sky, p, 1.02) > 0) for p in NIGHT], axis=0)
    somewhere = away_from_edges & (np.sum(terms, axis=0) > 0)
    np.testing.assert_allclose(sigma[somewhere], np.sum(terms, axis=0)[somewhere] ** -0.5, rtol=2e-3)
    assert somewhere.mean() > 0.7
    assert mosaic.rms_jy_per_beam == pytest.approx(np.nanmedian(sigma), rel=0.01)


def test_pixels_below_a_tenth_of_every_beam_are_blank_and_others_are_not(made):
    _, _, mosaic = made
    data, sky = grid_of(mosaic.image)
    response = np.max([seen_by(sky, pointing, 0.98) for pointing in NIGHT], axis=0)
    anywhere = np.max([airy(sky.separation(SkyCoord(p.ra_deg, p.dec_deg, unit="deg")).rad) for p in NIGHT], axis=0)
    assert np.isnan(data[anywhere < 0.99 * BLANK_BELOW]).all()
    assert np.isfinite(data[response > 0]).all()
    assert 0 < (anywhere < 0.99 * BLANK_BELOW).mean() < 0.2


def test_a_field_over_right_ascension_zero_is_as_small_as_elsewhere(made, tmp_path):
    _, _, mosaic = made
    elsewhere = [replace(pointing, ra_deg=(pointing.ra_deg + 100) % 360) for pointing in NIGHT]
    tiles = [write_tile(tmp_path, pointing, seed=n) for n, pointing in enumerate(elsewhere, start=1)]
    other = read_facts(make_mosaic(tiles=tiles, folder=tmp_path, threads=1).image)
    facts = read_facts(mosaic.image)
    assert (facts.width_px, facts.height_px) == pytest.approx((other.width_px, other.height_px), abs=2)
    assert facts.ra_deg == pytest.approx((other.ra_deg - 100) % 360, abs=0.02)


def test_the_same_tiles_give_the_same_bits(made, tmp_path):
    tiles, _, mosaic = made
    folder = tmp_path / "again"
    folder.mkdir()
    again = make_mosaic(tiles=tiles, folder=folder, threads=1)
    assert content_checksum(again.image) == content_checksum(mosaic.image)
    assert content_checksum(again.noise) == content_checksum(mosaic.noise)
    assert {path.name for path in folder.iterdir()} == {"mosaic.fits", "mosaic_noise.fits"}


def test_the_header_says_what_it_was_made_of(made):
    tiles, _, mosaic = made
    header = fits.getheader(mosaic.image)
    history = "\n".join(header["HISTORY"])
    assert all(tile.name in history for tile in tiles)
    assert "reproject = " in history
    assert header["BUNIT"] == "Jy/beam"
    assert header["MJD-OBS"] < tiles[0].mjd < header["MJD-AVG"] < tiles[-1].mjd < header["MJD-END"]
    assert header["RESTFRQ"] == pytest.approx(1.4e9)


def test_blank_pixels_of_a_tile_are_left_to_the_others(tmp_path):
    source = (10.9, 0.5, 1.0)
    tiles = [write_tile(tmp_path, Pointing(10 + STEP_DEG * n, 0.0), [source], seed=n + 1) for n in range(2)]
    with fits.open(tiles[0].image, mode="update") as hdus:
        x, y = (int(at) for at in WCS(hdus[0].header).world_to_pixel(SkyCoord(*source[:2], unit="deg")))
        hdus[0].data[y - 5 : y + 5, x - 5 : x + 5] = np.nan
    mosaic = make_mosaic(tiles=tiles, folder=tmp_path, threads=1)
    assert value_at(mosaic.image, *source[:2]) == pytest.approx(1.0, rel=0.02)


def remove(path):
    path.unlink()


def cut(path):
    path.write_bytes(path.read_bytes()[:-50_000])


def scribble(path):
    path.write_bytes(b"not a picture")


def empty(path):
    with fits.open(path, mode="update") as hdus:
        hdus[0].data[:] = np.nan


def shrink(path):
    with fits.open(path) as hdus:
        hdu = fits.PrimaryHDU(hdus[0].data[:100, :100], hdus[0].header)
    hdu.writeto(path, overwrite=True)


def forget_beam(path):
    with fits.open(path, mode="update") as hdus:
        for keyword in ("BMAJ", "BMIN", "BPA"):
            del hdus[0].header[keyword]


@pytest.mark.parametrize(
    ("part", "harm", "says"),
    [
        ("image", remove, "does not exist"),
        ("image", cut, "truncated"),
        ("image", scribble, "not a FITS file"),
        ("image", forget_beam, "does not say its beam"),
        ("residual", cut, "truncated"),
        ("residual", shrink, "another size"),
        ("residual", empty, "noise"),
        ("primary_beam", remove, "does not exist"),
        ("primary_beam", empty, "below 0.1 everywhere"),
    ],
)
def test_a_tile_that_is_missing_or_broken_is_named_with_the_reason(tmp_path, part, harm, says):
    tiles = [write_tile(tmp_path, Pointing(10 + n, 0.0, size_px=200), seed=n + 1) for n in range(2)]
    harm(getattr(tiles[1], part))
    with pytest.raises(TileUnusable, match=rf"^The tile tile2 cannot go into a mosaic: .*{says}"):
        make_mosaic(tiles=tiles, folder=tmp_path, threads=1)


# --- beams -----------------------------------------------------------------------------------------------------------
def test_the_common_beam_of_equal_beams_is_that_beam():
    beam = Beam(30.0, 20.0, 175.0)
    assert common_beam([beam] * 16) == beam


def test_a_beam_that_holds_the_others_is_the_common_one():
    widest = Beam(40.0, 35.0, 10.0)
    common = common_beam([Beam(30.0, 20.0, 90.0), widest, Beam(30.0, 25.0, 0.0)])
    assert (common.bmaj_arcsec, common.bmin_arcsec) == pytest.approx((40.0, 35.0), rel=2e-3)
    assert common.bpa_deg == pytest.approx(10.0, abs=0.5)


def test_crossed_beams_have_a_round_common_beam():
    """By hand: the smallest ellipse around two equal ellipses at right angles is the circle around both."""
    common = common_beam([Beam(30.0, 20.0, 0.0), Beam(30.0, 20.0, 90.0)])
    assert (common.bmaj_arcsec, common.bmin_arcsec) == pytest.approx((30.0, 30.0), rel=1e-3)


@pytest.mark.parametrize("spread", [1e-3, 0.02, 0.3])
def test_nearly_equal_beams_have_a_common_beam_little_larger(spread):
    rng = np.random.default_rng(7)
    for _ in range(10):
        beams = [Beam(30 * (1 + spread * a), 20 * (1 + spread * b), 100 * spread * c) for a, b, c in rng.random((9, 3))]
        common = matrix(common_beam(beams))
        assert min(np.linalg.eigvalsh(common - matrix(beam)).min() for beam in beams) > -1e-9
        assert np.sqrt(np.linalg.det(common)) < 30 / 2 * 20 / 2 * (1 + spread) ** 2 * (1 + 4 * spread)


@pytest.mark.parametrize("target", [Beam(200.0, 160.0, 30.0), Beam(171.0, 151.0, 20.0)])
def test_smoothing_keeps_a_point_sources_peak_and_gives_it_the_new_shape(tmp_path, target):
    """Also where the kernel is narrower than a pixel."""
    before = Pointing(10.0, 20.0, rms=1e-9)
    after = replace(before, bmaj_arcsec=target.bmaj_arcsec, bmin_arcsec=target.bmin_arcsec, bpa_deg=target.bpa_deg)
    images = [
        fits.getdata(write_tile(tmp_path, pointing, [(10.0, 20.0, 1.0)], seed=n).image).astype(float)
        for n, pointing in enumerate((before, after))
    ]
    smoothed = smooth(images[0], beam=Beam(170.0, 150.0, 20.0), target=target, pixel_arcsec=45.0, threads=1)
    np.testing.assert_allclose(smoothed, images[1], atol=2e-4)
