from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from astropy.io import fits

from contimg.exceptions import EngineFailed
from images.engines.fits import open_plane
from sources.engines.forced import ForcedFluxes, ImageFiles, RestoringBeam, force, responses
from sources.engines.noise import NoiseGrid
from tests.sources.skies import BEAM, RMS, offset, wcs_of, write_tile

CENTRE = (150.0, 30.0)
SIZE = 512


def mad(values) -> float:
    return float(1.4826 * np.median(np.abs(values - np.median(values))))


def grid(count: int, spacing_arcsec: float, jitter_arcsec: float = 0.0, seed: int = 5) -> list[tuple[float, float]]:
    rng = np.random.default_rng(seed)
    steps = (np.arange(count) - (count - 1) / 2) * spacing_arcsec
    return [
        offset(*CENTRE, *(np.array([east, north]) + rng.uniform(-jitter_arcsec, jitter_arcsec, 2)))
        for east in steps
        for north in steps
    ]


def at(files: ImageFiles, places, systematic: float = 0.0) -> ForcedFluxes:
    ra, dec = np.array(places).T
    return force(files=files, ra_deg=ra, dec_deg=dec, flux_systematic=systematic)


@pytest.fixture(scope="module")
def crowd(tmp_path_factory):
    """225 constant sources of 3 to 30 sigma at sub-pixel places, and the truth."""
    places = grid(15, 180, jitter_arcsec=20)
    flux = np.geomspace(3e-3, 30e-3, len(places))
    sources = [(ra, dec, f) for (ra, dec), f in zip(places, flux, strict=True)]
    folder = tmp_path_factory.mktemp("crowd")
    return write_tile(folder, sources, size_px=SIZE, fwhm_px=900, seed=3), places, flux


def test_fluxes_are_unbiased_and_scatter_by_their_error(crowd):
    files, places, truth = crowd
    found = at(files, places)
    assert found.is_covered.all()
    pull = (found.flux_jy - truth) / found.flux_err_jy
    assert 0.85 < mad(pull) < 1.15
    assert abs(np.median(pull)) < 0.25
    assert np.median(found.flux_jy / truth) == pytest.approx(1, abs=0.01)


def test_empty_places_scatter_by_one_error_around_zero(tmp_path):
    files = write_tile(tmp_path, [], size_px=SIZE, seed=4, fwhm_px=900)
    found = at(files, grid(38, 78, jitter_arcsec=6))
    pull = found.flux_jy / found.flux_err_jy
    assert 0.9 < mad(pull) < 1.1
    assert abs(np.mean(pull)) < 0.1
    assert np.median(found.rms_jy_per_beam) == pytest.approx(RMS, rel=0.05)


def test_a_flux_without_noise_is_exact_at_any_place_between_pixels(tmp_path):
    places = grid(5, 300, jitter_arcsec=3)
    files = write_tile(tmp_path, [(ra, dec, 1.0) for ra, dec in places], rms=0.0, fwhm_px=1e6)
    noise = fits.getdata(files.residual) + np.random.default_rng(0).normal(size=(256, 256), scale=1e-9)
    fits.writeto(files.residual, noise, fits.getheader(files.residual), overwrite=True)
    assert at(files, places).flux_jy == pytest.approx(np.ones(25), rel=1e-5)


@pytest.mark.parametrize("bpa_deg", [0.0, 30.0, 90.0, 150.0])
def test_the_position_angle_is_east_of_north(tmp_path, bpa_deg):
    beam = RestoringBeam(bmaj_arcsec=60, bmin_arcsec=15, bpa_deg=bpa_deg)
    files = write_tile(tmp_path, [(*CENTRE, 1.0)], rms=1e-4, beam=beam, fwhm_px=1e6)
    assert at(files, [CENTRE]).flux_jy[0] == pytest.approx(1, abs=2e-3)
    half_power = offset(*CENTRE, 30 * np.sin(np.radians(bpa_deg)), 30 * np.cos(np.radians(bpa_deg)))
    mirrored = dataclasses.replace(files, beam=dataclasses.replace(beam, bpa_deg=-bpa_deg))
    if bpa_deg not in (0.0, 90.0):
        assert at(mirrored, [CENTRE]).flux_jy[0] < 0.9
    # A source that lies along the major axis is separated from it by the right beam only.
    both = write_tile(tmp_path / "both", [(*CENTRE, 1.0), (*half_power, 0.5)], rms=1e-4, beam=beam, fwhm_px=1e6)
    assert at(both, [CENTRE, half_power]).flux_jy == pytest.approx([1.0, 0.5], abs=0.01)


def test_neighbours_within_a_beam_are_told_apart_and_their_errors_grow(tmp_path):
    near = offset(*CENTRE, 25, 0)
    files = write_tile(tmp_path, [(*CENTRE, 1.0), (*near, 0.02)], fwhm_px=1e6)
    alone, together = at(files, [near]), at(files, [CENTRE, near])
    assert alone.flux_jy[0] > 0.06
    assert together.flux_jy == pytest.approx([1.0, 0.02], abs=4e-3)
    assert together.flux_err_jy[1] > alone.flux_err_jy[0]


def test_places_too_close_to_tell_apart_both_get_the_sum(tmp_path):
    near = offset(*CENTRE, 4, 0)
    files = write_tile(tmp_path, [(*CENTRE, 1.0)], fwhm_px=1e6)
    found = at(files, [CENTRE, near, CENTRE])
    assert np.isfinite(found.flux_err_jy).all()
    assert found.flux_jy == pytest.approx([1.0, 1.0, 1.0], abs=0.08)


def test_the_flux_and_its_error_are_divided_by_the_primary_beam(tmp_path):
    place = offset(*CENTRE, 600, 0)  # 100 pixels from the centre of a beam of 200 pixels: 0.5
    files = write_tile(tmp_path, [(*place, 0.2)], fwhm_px=200)
    found = at(files, [place], systematic=0.02)
    assert found.primary_beam[0] == pytest.approx(0.5, abs=1e-3)
    assert found.peak_jy_per_beam[0] == pytest.approx(0.1, abs=3 * RMS)
    assert found.flux_jy[0] == pytest.approx(0.2, abs=6 * RMS)
    statistical = at(files, [place]).flux_err_jy[0]
    assert found.flux_err_jy[0] == pytest.approx(np.hypot(statistical, 0.02 * found.flux_jy[0]))


def test_a_negative_flux_is_a_value_and_has_a_positive_error(tmp_path):
    files = write_tile(tmp_path, [(*CENTRE, -0.05)])
    found = at(files, [CENTRE], systematic=0.02)
    assert found.flux_jy[0] == pytest.approx(-0.05, abs=4 * RMS)
    assert found.flux_err_jy[0] > 0


@pytest.mark.parametrize("place", [(330.0, -30.0), (150.0, 31.0), (0.0, 90.0), offset(*CENTRE, 0, -742)])
def test_what_is_off_the_image_or_far_out_in_the_beam_is_not_covered(tmp_path, place):
    files = write_tile(tmp_path, [], fwhm_px=120)
    found = at(files, [CENTRE, place])
    assert found.is_covered.tolist() == [True, False]
    for name in ("flux_jy", "flux_err_jy", "peak_jy_per_beam", "rms_jy_per_beam", "primary_beam"):
        assert np.isnan(getattr(found, name)[1])


def test_a_blank_pixel_is_not_covered_and_blank_neighbours_are_left_out(tmp_path):
    blank, beside = offset(*CENTRE, 600, 600), offset(*CENTRE, -300, 0)
    files = write_tile(tmp_path, [(*blank, 1.0), (*beside, 1.0)], fwhm_px=1e6)
    with fits.open(files.image, mode="update") as image:
        image[0].data[220:, :] = np.nan
        image[0].data[:, 180:] = np.nan  # one pixel from the place at x = 178
    found = at(files, [blank, beside])
    assert found.is_covered.tolist() == [False, True]
    assert found.flux_jy[1] == pytest.approx(1.0, abs=5 * RMS)


def test_the_edge_of_the_image_is_measured_as_any_place(tmp_path):
    places = [offset(*CENTRE, 0, 753), offset(*CENTRE, 765, 0), offset(*CENTRE, 0, -765)]
    files = write_tile(tmp_path, [(ra, dec, 0.1) for ra, dec in places], fwhm_px=1e6)
    assert at(files, places).flux_jy == pytest.approx([0.1] * 3, abs=5 * RMS)


def test_no_positions_give_no_fluxes(tmp_path):
    files = write_tile(tmp_path, [])
    found = force(files=files, ra_deg=[], dec_deg=[], flux_systematic=0.02)
    assert found.flux_jy.size == 0
    assert responses(files=files, ra_deg=[], dec_deg=[]).size == 0


def test_a_position_gets_the_same_values_alone_and_among_others(crowd):
    files, places, _ = crowd
    among, alone = at(files, places), at(files, places[100:101])
    assert alone.flux_jy[0] == pytest.approx(among.flux_jy[100], rel=1e-9)
    assert alone.rms_jy_per_beam[0] == among.rms_jy_per_beam[100]


def test_without_a_primary_beam_the_response_is_one_and_without_a_residual_the_noise_is_of_the_image(tmp_path):
    files = write_tile(tmp_path, [(*CENTRE, 0.05)], fwhm_px=1e6)
    found = at(ImageFiles(files.image, BEAM), [CENTRE])
    assert found.primary_beam[0] == 1
    assert found.rms_jy_per_beam[0] == pytest.approx(RMS, rel=0.1)
    assert found.flux_jy[0] == pytest.approx(0.05, abs=4 * RMS)


def test_a_primary_beam_on_other_pixels_is_refused(tmp_path):
    files = write_tile(tmp_path / "a", [])
    other = write_tile(tmp_path / "b", [], size_px=128)
    with pytest.raises(EngineFailed, match="not on the pixels"):
        at(dataclasses.replace(files, primary_beam=other.primary_beam), [CENTRE])


def test_an_image_without_any_noise_covers_nothing(tmp_path):
    assert not at(write_tile(tmp_path, [], rms=0.0), [CENTRE]).is_covered[0]


def test_the_noise_follows_the_image_and_the_grid_is_the_map(tmp_path):
    files = write_tile(tmp_path, [], size_px=SIZE)
    with fits.open(files.residual, mode="update") as residual:
        residual[0].data *= np.linspace(1, 3, SIZE, dtype=np.float32)
        residual[0].data[:40, :40] = np.nan
    with open_plane(files.residual) as plane:
        noise = NoiseGrid(plane, 4.2)
        full = noise.full()
        x, y = np.random.default_rng(1).uniform(0, SIZE - 1, (2, 200)).round()
        assert noise.at(x, y) == pytest.approx(full[y.astype(int), x.astype(int)], rel=1e-5)
    assert full[256, 128] == pytest.approx(1.5 * RMS, rel=0.1)
    assert full[256, 400] == pytest.approx(2.57 * RMS, rel=0.1)
    assert np.isfinite(full).all()


def test_a_rotated_image_is_measured_by_its_own_axes(tmp_path):
    """An image from elsewhere may have north to the right and east up."""
    beam = RestoringBeam(bmaj_arcsec=60, bmin_arcsec=15, bpa_deg=30)
    files = write_tile(tmp_path, [(*CENTRE, 1.0)], rms=1e-4, beam=beam, fwhm_px=1e6)
    data, header = fits.getdata(files.image), wcs_of(*CENTRE, 256).to_header()
    header["PC1_1"], header["PC1_2"], header["PC2_1"], header["PC2_2"] = 0.0, 1.0, 1.0, 0.0
    fits.writeto(tmp_path / "turned.fits", np.ascontiguousarray(data.T), header)
    found = at(ImageFiles(tmp_path / "turned.fits", beam), [CENTRE])
    assert found.flux_jy[0] == pytest.approx(1.0, abs=0.01)
