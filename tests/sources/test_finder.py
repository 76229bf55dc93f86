from __future__ import annotations

import builtins
import dataclasses
import logging
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from astropy.io import fits

from contimg.exceptions import EngineFailed, EngineUnavailable
from sources.engines import finder
from sources.engines.finder import find, is_resolved, position_error_arcsec
from sources.engines.forced import ImageFiles
from tests.sources.skies import BEAM, RMS, gaussian, offset, write_tile

CENTRE = (150.0, 30.0)


def search(files: ImageFiles):
    return find(files=files, detection_sigma=5.0, island_sigma=3.5)


def separation_arcsec(detection, place) -> float:
    east = (detection.ra_deg - place[0] + 180) % 360 - 180
    return 3600 * float(np.hypot(east * np.cos(np.radians(place[1])), detection.dec_deg - place[1]))


@pytest.fixture(scope="module")
def field(tmp_path_factory):
    """25 point sources of 5.6 to 200 sigma, apparent."""
    flux = np.geomspace(200, 5.6, 25) * RMS
    steps = [-600, -300, 0, 300, 600]
    places = [offset(*CENTRE, east + 2, north + 1) for east in steps for north in steps]
    sources = [(ra, dec, f) for (ra, dec), f in zip(places, flux, strict=True)]
    files = write_tile(tmp_path_factory.mktemp("field"), sources, fwhm_px=1e6, seed=11)
    return files, places, flux, search(files)


def test_all_strong_sources_are_found_and_nothing_else(field):
    _, places, flux, found = field
    nearest = [min(range(25), key=lambda k: separation_arcsec(one, places[k])) for one in found]
    assert len(set(nearest)) == len(found)
    assert {k for k in range(25) if flux[k] > 8 * RMS} <= set(nearest)
    for one, k in zip(found, nearest, strict=True):
        assert separation_arcsec(one, places[k]) < max(5 * one.position_err_arcsec, 0.3)
        assert one.flux_jy == pytest.approx(flux[k], abs=4 * RMS)
        assert one.rms_jy_per_beam == pytest.approx(RMS, rel=0.15)
        assert not one.is_resolved
        assert one.flux_jy == one.peak_jy_per_beam
        assert one.flux_err_jy == one.rms_jy_per_beam


def test_the_brightest_comes_first(field):
    peaks = [one.peak_jy_per_beam for one in field[3]]
    assert peaks == sorted(peaks, reverse=True)


def test_the_same_image_gives_the_same_sources(field):
    assert search(field[0]) == field[3]


def test_nothing_is_left_behind(field, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "scratch"))
    (tmp_path / "scratch").mkdir()
    before = set(Path(field[0].image.parent).iterdir())
    search(field[0])
    assert set(Path(field[0].image.parent).iterdir()) == before
    assert list((tmp_path / "scratch").iterdir()) == []
    assert logging.getLogger("PyBDSF").handlers == []


def test_an_extended_source_has_its_integrated_flux(tmp_path):
    files = write_tile(tmp_path, [], fwhm_px=1e6)
    wide = dataclasses.replace(BEAM, bmaj_arcsec=80, bmin_arcsec=60)
    area = 80 * 60 / (BEAM.bmaj_arcsec * BEAM.bmin_arcsec)
    with fits.open(files.image, mode="update") as image:
        image[0].data += (0.05 * gaussian(128.3, 120.6, 256, wide)).astype(np.float32)
    (one,) = search(files)
    assert one.is_resolved
    assert one.flux_jy == one.integrated_jy == pytest.approx(0.05 * area, rel=0.1)
    assert one.flux_err_jy == one.integrated_err_jy > one.rms_jy_per_beam


def test_two_sources_of_one_island_are_two(tmp_path):
    places = [CENTRE, offset(*CENTRE, 0, 45)]
    files = write_tile(tmp_path, [(*places[0], 0.1), (*places[1], 0.05)], fwhm_px=1e6)
    found = search(files)
    assert [separation_arcsec(one, place) < 1 for one, place in zip(found, places, strict=True)] == [True, True]
    assert [one.flux_jy for one in found] == pytest.approx([0.1, 0.05], rel=0.06)


def test_right_ascension_is_within_the_circle_on_both_sides_of_zero(tmp_path):
    places = [offset(0.0, 30.0, east, 0) for east in (-300, 300)]
    files = write_tile(tmp_path, [(ra, dec, 0.1) for ra, dec in places], ra_deg=0.0, fwhm_px=1e6)
    found = search(files)
    assert sorted(round(one.ra_deg, 3) for one in found) == sorted(round(ra, 3) for ra, _ in places)


def test_blank_pixels_are_not_searched(tmp_path):
    seen, blank = offset(*CENTRE, 300, 0), offset(*CENTRE, -300, 0)
    files = write_tile(tmp_path, [(*seen, 0.1), (*blank, 0.1)], fwhm_px=1e6)
    with fits.open(files.image, mode="update") as image:
        image[0].data[:, 140:] = np.nan
    assert [separation_arcsec(one, seen) < 1 for one in search(files)] == [True]


def test_noise_alone_gives_next_to_nothing(tmp_path):
    assert len(search(write_tile(tmp_path, [], size_px=512, seed=2))) <= 1


def test_an_image_without_a_residual_is_searched_by_its_own_noise(field):
    files, _, flux, _ = field
    found = search(ImageFiles(files.image, BEAM))
    assert len(found) >= np.sum(flux > 10 * RMS)


@pytest.mark.parametrize("which", ["image", "residual"])
def test_a_blank_image_is_refused_by_name(tmp_path, which):
    files = write_tile(tmp_path, [])
    with fits.open(getattr(files, which), mode="update") as product:
        product[0].data[:] = np.nan
    with pytest.raises(EngineFailed, match="cannot be searched"):
        search(files)


def test_a_residual_on_other_pixels_is_refused(tmp_path):
    files, other = write_tile(tmp_path / "a", []), write_tile(tmp_path / "b", [], size_px=128)
    with pytest.raises(EngineFailed, match="not on the pixels"):
        search(dataclasses.replace(files, residual=other.residual))


def test_a_missing_engine_is_unavailable_and_not_a_failure_of_the_data(field, monkeypatch):
    genuine = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name == "bdsf":
            raise ImportError("No module named 'bdsf'")
        return genuine(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(EngineUnavailable, match="install the `bdsf` package"):
        search(field[0])


@pytest.mark.parametrize(
    ("ratio", "snr", "expected"),
    [(1.2, 7, False), (2.0, 7, False), (2.1, 7, True), (1.14, 100, False), (1.16, 100, True), (0.8, 10, False)],
)
def test_the_envelope_of_point_sources_narrows_with_the_signal(ratio, snr, expected):
    assert is_resolved(integrated_jy=ratio * 0.01, peak_jy=0.01, snr=snr) is expected


def test_the_position_error_is_half_a_beam_over_the_signal():
    assert position_error_arcsec(fwhm_arcsec=23.548, snr=10) == pytest.approx(1.0, rel=1e-4)


def test_the_engine_says_its_version():
    assert finder.versions()["bdsf"]


def test_a_faint_source_that_no_gaussian_fits_is_still_found(tmp_path):
    """PyBDSF drops a fit that noise made narrow, or keeps the island as its highest pixel; neither loses the source."""
    places = [offset(*CENTRE, east, north) for east in range(-600, 601, 200) for north in range(-600, 601, 200)]
    files = write_tile(tmp_path, [(ra, dec, 9 * RMS) for ra, dec in places], fwhm_px=1e6, seed=21)
    found = search(files)
    seen = [any(separation_arcsec(one, place) < 10 for one in found) for place in places]
    assert np.mean(seen) >= 0.95
    assert all(one.flux_jy > 0 for one in found)


@pytest.mark.parametrize("change", [{"peak_flux_max": 0.0}, {"peak_flux_max": np.nan}, {"total_flux": np.inf}])
def test_a_fit_without_a_flux_is_not_a_detection(change):
    fit = SimpleNamespace(
        **{"peak_flux_max": 0.1, "total_flux": 0.1, "total_fluxE": 0.0, "size_sky": (0, 0, 0)} | change
    )
    place = finder._Place(3.0, 3.0, 150.0, 30.0)
    assert finder._detection(fit, place, BEAM, np.full((8, 8), RMS)) is None


def test_a_fit_whose_place_is_blank_or_off_the_sky_is_not_a_detection():
    fit = SimpleNamespace(peak_flux_max=0.1, total_flux=0.1, total_fluxE=0.0, size_sky=(0, 0, 0))
    noise = np.full((8, 8), np.nan)
    assert finder._detection(fit, finder._Place(3.0, 3.0, 150.0, 30.0), BEAM, noise) is None
    assert finder._detection(fit, finder._Place(3.0, 3.0, np.nan, np.nan), BEAM, np.ones((8, 8))) is None


def test_what_pybdsf_refuses_is_a_failure_in_one_line(tmp_path):
    with pytest.raises(EngineFailed, match=r"PyBDSF could not search the image \(File .* not found"):
        finder._run(finder._load(), tmp_path, 5.0, 3.5)
