from __future__ import annotations

import numpy as np
import pytest
from matplotlib.image import imread
from scipy import ndimage

from images.engines import preview
from images.engines.fits import Beam, Truncated, open_plane
from tests.images.radio_fits import HEIGHT, PEAK, WIDTH, celestial_cards, sky, write

NO_BEAM = {"BMAJ": None, "BMIN": None, "BPA": None}
BEAM_RGB = np.array([0x7F, 0xD4, 0xFF]) / 255


def draw(tmp_path, data=None, title="tile", **cards) -> np.ndarray:
    png = tmp_path / "preview.png"
    preview.make_preview(write(tmp_path / "image.fits", data, **cards), png, title=title)
    return imread(png)[..., :3]


def beam_pixels(picture: np.ndarray) -> np.ndarray | None:
    """Rows and columns of the ellipse: the largest patch of its colour, the word beside it being letters."""
    patches, n_patches = ndimage.label(np.abs(picture - BEAM_RGB).max(axis=2) < 0.02)
    if n_patches == 0:
        return None
    return np.stack(np.nonzero(patches == 1 + np.argmax(np.bincount(patches.ravel())[1:])))


def test_a_picture_of_about_a_megapixel(tmp_path):
    picture = draw(tmp_path)
    assert picture.shape[1] == round(preview.WIDTH_IN * preview.DPI)
    assert 0.3e6 < picture.shape[0] * picture.shape[1] < 2e6


def test_the_source_is_bright_and_where_it_belongs(tmp_path):
    picture = draw(tmp_path, **NO_BEAM)
    page_height = picture.shape[0] / preview.DPI
    width = preview.WIDTH_IN - preview.LEFT - preview.RIGHT
    height = page_height - preview.TOP - preview.BOTTOM
    x = (preview.LEFT + (WIDTH * 3 // 4 + 0.5) / WIDTH * width) * preview.DPI
    y = (page_height - preview.BOTTOM - (HEIGHT * 3 // 4 + 0.5) / HEIGHT * height) * preview.DPI
    assert picture[round(y), round(x)].sum() > 2.0  # the light end of the map
    assert picture[round(y), round(x) - 60].sum() < 1.2  # noise


def test_the_beam_has_its_true_size_and_angle(tmp_path):
    cards = {"BMAJ": 20 / 3600, "BMIN": 5 / 3600, "BPA": 60.0}
    rows, columns = beam_pixels(draw(tmp_path, **cards)).astype(float)
    screen_per_arcsec = (preview.WIDTH_IN - preview.LEFT - preview.RIGHT) * preview.DPI / (WIDTH * 2)
    assert rows.size == pytest.approx(np.pi / 4 * 20 * 5 * screen_per_arcsec**2, rel=0.1)
    east, north = -(columns - columns.mean()), -(rows - rows.mean())
    angle = 0.5 * np.degrees(np.arctan2(2 * (east * north).mean(), (north**2).mean() - (east**2).mean()))
    assert angle == pytest.approx(60.0, abs=2)


def test_without_a_beam_none_is_drawn(tmp_path):
    assert beam_pixels(draw(tmp_path, **NO_BEAM)) is None


@pytest.mark.parametrize(("cdelt1", "mirrored"), [(-2 / 3600, False), (2 / 3600, True)])
def test_the_beam_follows_the_axes(cdelt1, mirrored):
    outline = preview._beam_outline_px(np.diag([cdelt1, 2 / 3600]), Beam(20.0, 5.0, 45.0))
    longest = outline[np.argmax(np.hypot(*outline.T))]
    assert np.hypot(*longest) == pytest.approx(5.0, rel=1e-3)  # half of 20 arcsec in pixels of 2
    assert (longest[0] * longest[1] > 0) == mirrored  # north-east is up and left


ODD = {
    "a blank border": ({}, lambda d: np.where(np.hypot(*np.indices(d.shape)) < 30, np.nan, d)),
    "across right ascension 0": (celestial_cards(0.0, 40.0), None),
    "at the north pole": (celestial_cards(0.0, 90.0), None),
    "at the south pole": (celestial_cards(0.0, -90.0), None),
    "all sky": ({"CDELT1": -4.0, "CDELT2": 4.0}, None),
    "galactic": ({"CTYPE1": "GLON-CAR", "CTYPE2": "GLAT-CAR", "CRVAL2": 0.0}, None),
    "no unit, no beam, no date, no frequency": ({**NO_BEAM, "BUNIT": None, "DATE_OBS": None, "RESTFRQ": None}, None),
    "one value": ({}, np.zeros_like),
    "negative": ({}, lambda d: d - 100),
    "very faint": ({}, lambda d: d * 1e-12),
    "very bright": ({}, lambda d: d * 1e12),
    "one source far above the noise": ({}, lambda d: np.where(d == np.float32(PEAK), 1e6, d)),
    "no noise": ({}, lambda d: np.where(d == np.float32(PEAK), 1, 0)),
    "one pixel finite": ({}, lambda d: np.where(d == np.float32(PEAK), d, np.nan)),
}


@pytest.mark.parametrize("case", ODD)
def test_odd_images_are_drawn_too(tmp_path, case, recwarn):
    cards, change = ODD[case]
    picture = draw(tmp_path, sky() if change is None else change(sky()).astype(np.float32), **cards)
    assert np.ptp(picture) > 0.5
    assert not recwarn.list


@pytest.mark.parametrize(("pole", "sign"), [(90.0, "+"), (89.995, "+"), (-90.0, "−")])
def test_around_a_pole_every_meridian_and_parallel_is_named_where_it_is(tmp_path, pole, sign):
    cards = celestial_cards(120.0, pole, width=100, height=100)
    with open_plane(write(tmp_path / "image.fits", sky(100, 100), **cards)) as plane:
        _, axes = preview._figure(plane)
        preview._draw_grid(axes, plane)
        texts = {text.get_text(): text.get_position() for text in axes.texts}
        for hour in range(0, 24, 2):
            ra, _ = plane.wcs.wcs_pix2world([texts[f"{hour}ʰ"]], 0)[0]
            assert abs((ra - hour * 15 + 180) % 360 - 180) < 0.5
    parallels = [text for text in texts if text.startswith(sign)]
    assert 2 <= len(parallels) <= 8
    assert all(0 < coordinate < 99 for place in texts.values() for coordinate in place)


@pytest.mark.parametrize("dec_deg", [76.0, 85.0, 89.0, -85.0])
def test_near_a_pole_labels_are_below_and_not_over_the_titles(tmp_path, dec_deg):
    def at(dec_deg: float) -> np.ndarray:
        folder = tmp_path / str(dec_deg)
        folder.mkdir()
        size = {"width": 600, "height": 600}
        wide = {**celestial_cards(120.0, dec_deg, **size), "CDELT1": -6 / 3600, "CDELT2": 6 / 3600}
        return draw(folder, sky(600, 600), **wide)

    usual, polar = at(30.0), at(dec_deg)
    titles = round((preview.TOP - 0.1) * preview.DPI)
    np.testing.assert_array_equal(polar[:titles], usual[:titles])
    below = round((preview.BOTTOM - 0.1) * preview.DPI)
    assert (polar[-below:].max(axis=2) > 0.8).sum() > 50  # ink


@pytest.mark.parametrize("shape", [(30, 3000), (3000, 30), (1, 1), (2, 900)])
def test_odd_shapes_are_drawn_too(tmp_path, shape):
    picture = draw(tmp_path, sky(3000, 3000)[: shape[0], : shape[1]])
    assert picture.shape[0] < 2000


@pytest.mark.parametrize("title", ["", "$10^{broken", "x" * 300, "Ünïcode ☃", "a\nb"])
def test_any_name_makes_a_title(tmp_path, title):
    draw(tmp_path, title=title)


def test_it_refuses_what_the_reader_refuses(tmp_path):
    (tmp_path / "image.fits").touch()
    with pytest.raises(Truncated):
        preview.make_preview(tmp_path / "image.fits", tmp_path / "preview.png")


# --- large images ----------------------------------------------------------------------------------------------------
def test_squeezing_keeps_the_noise_a_mean_and_the_sources_a_peak(tmp_path):
    data = sky(400, 300)
    data[:, :10] = np.nan
    with open_plane(write(tmp_path / "image.fits", data)) as plane:
        squeezed = preview.decimated(plane, 7, rms=1e-3)
    assert squeezed.shape == (43, 58)  # the last ones of fewer pixels
    assert squeezed[300 * 3 // 4 // 7, 400 * 3 // 4 // 7] == pytest.approx(PEAK)
    assert np.isnan(squeezed[:, 0]).all()
    assert np.isfinite(squeezed[:, 1:]).all()
    assert np.median(np.abs(squeezed[:, 2:])) * 1.48 == pytest.approx(1e-3 / 7, rel=0.1)


def test_squeezing_in_blocks_is_squeezing_at_once(tmp_path, monkeypatch):
    path = write(tmp_path / "image.fits", sky(300, 200))
    with open_plane(path) as plane:
        whole = preview.decimated(plane, 6, rms=1e-3)
        monkeypatch.setattr("images.engines.fits.BLOCK_PX", 2500)
        np.testing.assert_array_equal(preview.decimated(plane, 6, rms=1e-3), whole)
