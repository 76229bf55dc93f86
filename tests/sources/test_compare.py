from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from sources.engines.compare import Limits, Reference, compare, plane_gradient
from sources.engines.forced import centroids
from tests.sources.skies import offset, write_tile

CENTRE = (150.0, 30.0)
SIZE = 512
SPACING_ARCSEC = 300.0
LIMITS = Limits()


def places(count: int = 7, *, centre: tuple[float, float] = CENTRE) -> list[tuple[float, float, float, float]]:
    """RA, dec, and the offsets east and north in degrees, of a grid around the centre."""
    steps = (np.arange(count) - (count - 1) / 2) * SPACING_ARCSEC
    return [(*offset(*centre, east, north), east / 3600, north / 3600) for east in steps for north in steps]


def reference(rows: list[tuple[float, float, float]], **columns) -> Reference:
    """Of (RA, dec, Jy)."""
    ra, dec, flux = (np.array(column, dtype=float) for column in zip(*rows, strict=True))
    nothing = np.full(len(rows), np.nan)
    given = {"error_jy": nothing, "major_arcsec": nothing, **columns}
    return Reference(row=np.arange(len(rows)) + 1, ra_deg=ra, dec_deg=dec, expected_jy=flux, **given)


def sky(fluxes, *, centre: tuple[float, float] = CENTRE) -> list[tuple[float, float, float]]:
    return [(ra, dec, flux) for (ra, dec, _, _), flux in zip(places(centre=centre), fluxes, strict=True)]


def true_fluxes(low: float = 0.06, high: float = 0.6) -> np.ndarray:
    return np.random.default_rng(7).permutation(np.geomspace(low, high, 49))


def held(folder, seen, catalogue, *, centre=CENTRE, limits=LIMITS, **tile):
    files = write_tile(folder, seen, ra_deg=centre[0], dec_deg=centre[1], size_px=SIZE, **{"fwhm_px": 900, **tile})
    return compare(files=files, reference=catalogue, ra_deg=centre[0], dec_deg=centre[1], limits=limits)


@pytest.mark.parametrize("centre", [CENTRE, (0.02, 16.0), (200.0, 89.9)], ids=["anywhere", "RA 0", "the pole"])
def test_a_right_flux_scale_has_ratio_1_no_gradient_no_offset_and_all_sources(tmp_path, centre):
    truth = sky(true_fluxes(), centre=centre)
    found = held(tmp_path, truth, reference(truth), centre=centre)
    assert (found.n_expected, found.n_matched, found.completeness) == (49, 49, 1.0)
    assert found.flux_ratio == pytest.approx(1, abs=0.01)
    assert found.flux_ratio_scatter < 0.02
    assert found.flux_ratio_gradient_per_deg < 0.05
    assert found.flux_ratio_gradient_sigma < 4
    assert np.hypot(found.ra_offset_arcsec, found.dec_offset_arcsec) < 0.3


@pytest.mark.parametrize("factor", [0.06, 0.85, 1.15, 3.0])
def test_the_ratio_is_ours_over_the_catalogues(tmp_path, factor):
    truth = true_fluxes()
    found = held(tmp_path, sky(factor * truth), reference(sky(truth)))
    assert found.flux_ratio == pytest.approx(factor, rel=0.02)


def test_half_of_the_sources_wrong_by_ten_leave_the_median_where_the_others_are(tmp_path):
    truth = true_fluxes()
    wrong = truth * np.where(np.arange(49) % 5 == 0, 10, 1)
    assert held(tmp_path, sky(wrong), reference(sky(truth))).flux_ratio == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize(("east", "north"), [(0.3, 0.0), (0.0, -0.3), (0.2, 0.2)])
def test_a_pointing_error_is_a_gradient_while_the_median_stays_near_1(tmp_path, east, north):
    truth = true_fluxes()
    tilted = [flux * (1 + east * x + north * y) for flux, (_, _, x, y) in zip(truth, places(), strict=True)]
    found = held(tmp_path, sky(tilted), reference(sky(truth)))
    assert found.flux_ratio == pytest.approx(1, abs=0.02)
    assert found.flux_ratio_gradient_per_deg == pytest.approx(np.hypot(east, north), abs=0.04)
    assert found.flux_ratio_gradient_sigma > 5


def test_a_shift_of_all_positions_is_found_to_a_tenth_of_a_pixel(tmp_path):
    truth = sky(true_fluxes())
    shifted = [(*offset(ra, dec, 4.0, -2.5), flux) for ra, dec, flux in truth]
    found = held(tmp_path, shifted, reference(truth))
    assert (found.ra_offset_arcsec, found.dec_offset_arcsec) == (
        pytest.approx(4.0, abs=0.6),
        pytest.approx(-2.5, abs=0.6),
    )


def test_sources_that_are_not_seen_lower_completeness_and_are_counted_by_flux(tmp_path):
    truth = true_fluxes(0.012, 0.6)
    missing = np.flatnonzero(truth >= 0.05)[:7]
    seen = np.delete(np.array(sky(truth)), missing, axis=0).tolist()
    found = held(tmp_path, seen, reference(sky(truth)), fwhm_px=1e6)
    n_expected = int((truth >= 0.05).sum())
    assert (found.n_expected, found.completeness) == (n_expected, pytest.approx(1 - 7 / n_expected))
    assert [low for low, _, _, _ in found.completeness_by_flux] == [0.01, 0.02, 0.05, 0.1, 0.2, 0.5]
    assert [n for _, _, n, _ in found.completeness_by_flux] == np.histogram(
        truth, bins=[0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1]
    )[0].tolist()
    assert sum(n - n_seen for low, _, n, n_seen in found.completeness_by_flux if low >= 0.05) == 7


@pytest.mark.parametrize(("flux_jy", "n"), [(0.0499, 0), (0.05, 1)])
def test_a_source_is_expected_from_50_mjy_on(tmp_path, flux_jy, n):
    truth = [(*CENTRE, flux_jy)]
    assert held(tmp_path, truth, reference(truth)).n_expected == n


@pytest.mark.parametrize(("fwhm_px", "n"), [(330, 1), (322, 0)])  # responses of 0.31 and 0.29
def test_a_source_is_expected_where_the_primary_beam_is_known(tmp_path, fwhm_px, n):
    truth = [(*offset(*CENTRE, 215 * 6.0, 0), 0.2)]
    files = write_tile(tmp_path, truth, size_px=SIZE, fwhm_px=fwhm_px)
    found = compare(files=files, reference=reference(truth), ra_deg=CENTRE[0], dec_deg=CENTRE[1], limits=LIMITS)
    assert found.n_expected == n


@pytest.mark.parametrize(("flux_jy", "completeness"), [(0.16, None), (0.17, 0.0)])  # 49 and 52 mJy at 0.308
def test_completeness_is_of_the_flux_that_the_primary_beam_leaves(tmp_path, flux_jy, completeness):
    missing = [(*offset(*CENTRE, 215 * 6.0, 0), flux_jy)]
    found = held(tmp_path, [], reference(missing), fwhm_px=330)
    assert (found.n_expected, found.completeness) == (1, completeness)


@pytest.mark.parametrize(
    ("distance_arcsec", "share", "n_matched"),
    [(59, 0.051, 0), (59, 0.049, 1), (61, 0.051, 2), (59, 1.0, 0), (61, 1.0, 2)],
)
def test_the_ratio_is_of_sources_without_a_neighbour_within_two_beams(tmp_path, distance_arcsec, share, n_matched):
    """One with less than a twentieth of the flux does not disturb; itself it is disturbed."""
    truth = [(*CENTRE, 2.0), (*offset(*CENTRE, distance_arcsec, 0), share * 2.0)]
    found = held(tmp_path, truth, reference(truth))
    assert (found.n_expected, found.n_matched) == (2, n_matched)


@pytest.mark.parametrize(("major_arcsec", "n_matched"), [(14.9, 1), (15.1, 0), (np.nan, 1)])
def test_the_ratio_is_of_sources_that_are_not_resolved(tmp_path, major_arcsec, n_matched):
    truth = [(*CENTRE, 0.2)]
    found = held(tmp_path, truth, reference(truth, major_arcsec=np.array([major_arcsec])))
    assert (found.n_expected, found.n_matched) == (1, n_matched)
    assert (found.flux_ratio is None) == (n_matched == 0)
    assert found.completeness == 1


def test_nothing_in_the_image_is_nothing_and_no_zero(tmp_path):
    far = [(*offset(*CENTRE, 3600.0, 0), 1.0)]
    found = held(tmp_path, [], reference(far))
    assert (found.n_expected, found.n_matched, found.matches) == (0, 0, [])
    assert found.flux_ratio is found.completeness is found.flux_ratio_gradient_per_deg is found.ra_offset_arcsec is None


def test_matches_are_bounded_and_begin_with_the_brightest(tmp_path):
    truth = true_fluxes()
    limits = dataclasses.replace(LIMITS, most_matches=3)
    found = held(tmp_path, sky(truth), reference(sky(truth)), limits=limits)
    assert [expected for _, _, _, expected, _, _ in found.matches] == sorted(truth, reverse=True)[:3]
    assert found.n_expected == 49


def test_a_centroid_of_noise_is_none(tmp_path):
    files = write_tile(tmp_path, [], size_px=SIZE, rms=0)
    east, _ = centroids(files=files, ra_deg=[CENTRE[0], 200.0], dec_deg=[CENTRE[1], 0.0])
    assert np.isnan(east).all()


def test_in_noise_a_gradient_is_seldom_significant():
    """Of 3 errors in 1.1% of the fields, more with few points; none of 6."""
    rng = np.random.default_rng(3)
    sigmas = []
    for n in (8, 15, 40):
        for _ in range(150):
            east, north = rng.uniform(-0.7, 0.7, (2, n))
            error = rng.uniform(0.02, 0.1, n)
            sigmas.append(plane_gradient(1 + error * rng.normal(size=n), error, east, north)[1])
    assert np.mean(np.array(sigmas) > 3) < 0.05
    assert max(sigmas) < 7


@pytest.mark.parametrize(("n", "is_known"), [(5, False), (6, True)])
def test_a_gradient_needs_six_sources(n, is_known):
    east, north = np.random.default_rng(1).uniform(-1, 1, (2, n))
    assert (plane_gradient(1 + 0.1 * east, np.full(n, 0.01), east, north) is not None) == is_known


def test_sources_on_a_line_have_no_gradient():
    east = np.linspace(-1, 1, 10)
    assert plane_gradient(1 + 0.1 * east, np.full(10, 0.01), east, 2 * east) is None
