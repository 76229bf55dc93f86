from __future__ import annotations

import numpy as np
import pytest

from images.engines.clean import (
    Beam,
    fit_beam,
    grow_mask,
    minor_cycle,
    restore,
    robust_rms,
    sidelobe_level,
)

SIZE = 128


def offsets(size: int = SIZE) -> tuple[np.ndarray, np.ndarray]:
    y, x = np.mgrid[:size, :size].astype(float) - size // 2
    return y, x


def gaussian(major: float, minor: float, angle_deg: float) -> np.ndarray:
    """An elongated Gaussian by rotating its axes: angle from north (+y) towards east (-x). Not via Beam."""
    y, x = offsets()
    east, north = -x, y
    angle = np.radians(angle_deg)
    along = north * np.cos(angle) + east * np.sin(angle)
    across = -north * np.sin(angle) + east * np.cos(angle)
    return np.exp(-4 * np.log(2) * ((along / major) ** 2 + (across / minor) ** 2))


@pytest.mark.parametrize("angle_deg", [0.0, 20.0, 45.0, 90.0, 110.0, 170.0])
@pytest.mark.parametrize(("major", "minor"), [(12.0, 4.0), (6.0, 5.0), (3.0, 2.5)])
def test_the_beam_is_fitted_with_its_orientation(major, minor, angle_deg):
    beam = fit_beam(gaussian(major, minor, angle_deg))

    assert (beam.major_px, beam.minor_px) == (pytest.approx(major, rel=0.01), pytest.approx(minor, rel=0.01))
    assert abs((beam.angle_deg - angle_deg + 90) % 180 - 90) < 0.5


def test_the_fit_looks_at_the_main_lobe_only():
    psf = gaussian(6, 4, 30)
    psf = np.maximum(psf, 0.6 * np.roll(psf, (30, 20), axis=(0, 1)))  # a grating lobe

    beam = fit_beam(psf)

    assert (beam.major_px, beam.minor_px) == (pytest.approx(6, rel=0.15), pytest.approx(4, rel=0.15))


def test_the_kernel_of_a_beam_is_its_gaussian():
    y, x = offsets()

    assert Beam(9, 5, 35).kernel(y, x) == pytest.approx(gaussian(9, 5, 35))


@pytest.mark.parametrize("seed", range(3))
def test_the_robust_rms_of_noise_with_sources_is_that_of_the_noise(seed):
    rng = np.random.default_rng(seed)
    values = rng.normal(0.5, 2.0, (200, 200))
    values[:20, :20] += 1000
    values[30] = np.nan

    assert robust_rms(values) == pytest.approx(2.0, rel=0.03)


def test_the_robust_rms_of_nothing_is_not_a_number():
    assert np.isnan(robust_rms(np.full(5, np.nan)))
    assert robust_rms(np.zeros(5)) == 0


def test_the_highest_sidelobe_counts_with_either_sign():
    psf = gaussian(5, 5, 0)
    psf[20, 20], psf[100, 90] = 0.1, -0.3

    assert sidelobe_level(psf, fit_beam(psf)) == pytest.approx(0.3)


def test_the_mask_grows_by_half_a_beam_and_never_shrinks():
    residual = np.zeros((SIZE, SIZE))
    residual[64, 64] = 10
    old = np.zeros((SIZE, SIZE), bool)
    old[3, 3] = True

    mask = grow_mask(old, residual, 5.0, Beam(8, 8, 0))

    assert mask[3, 3]
    assert mask[64, 60]
    assert mask[60, 64]
    assert not mask[64, 59]
    assert mask.sum() == 1 + 49  # a disc of radius 4


# --- minor cycles ----------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def psf() -> np.ndarray:
    y, x = offsets()
    return gaussian(5, 4, 30) + 0.08 * np.cos(0.5 * x + 0.2 * y) * np.exp(-(x**2 + y**2) / 800) * (x**2 + y**2 > 50)


def moved(psf: np.ndarray, y: int, x: int) -> np.ndarray:
    return np.roll(psf, (y - SIZE // 2, x - SIZE // 2), axis=(0, 1))


def clean(residual, psf, mask=None, **options):
    mask = np.ones(residual.shape, bool) if mask is None else mask
    return minor_cycle(residual, psf, mask, **{"threshold": 1e-3, "gain": 0.1, "niter": 10_000, **options})


def test_points_on_a_known_psf_are_found_with_their_fluxes(psf):
    true = {(64, 64): 1.0, (70, 75): 0.5, (50, 40): -0.2}
    residual = sum(flux * moved(psf, y, x) for (y, x), flux in true.items())

    found = clean(residual, psf)

    fluxes = dict(zip(zip(found.y, found.x, strict=True), found.flux_jy, strict=True))
    for place, flux in true.items():
        assert fluxes[place] == pytest.approx(flux, abs=5e-3)
    assert sum(abs(flux) for place, flux in fluxes.items() if place not in true) < 0.02


def test_what_is_subtracted_is_what_was_found(psf):
    residual = moved(psf, 64, 64) + 0.5 * moved(psf, 72, 60)

    found = clean(residual, psf, threshold=0.01)

    left = residual - sum(flux * moved(psf, y, x) for y, x, flux in zip(found.y, found.x, found.flux_jy, strict=True))
    assert np.abs(left[32:96, 32:96]).max() <= 0.0101


@pytest.mark.parametrize("gain", [0.05, 0.1, 0.5])
def test_it_stops_at_the_threshold(psf, gain):
    found = clean(moved(psf, 64, 64), psf, threshold=0.1, gain=gain)

    assert 0.9 <= found.flux_jy.sum() < 0.9 + gain
    assert found.n_iterations == np.ceil(np.log(0.1) / np.log(1 - gain))


def test_it_stops_at_the_iteration_limit(psf):
    assert clean(moved(psf, 64, 64), psf, niter=3).n_iterations == 3
    assert clean(moved(psf, 64, 64), psf, niter=0).n_iterations == 0


def test_nothing_outside_the_mask_is_touched(psf):
    mask = np.zeros((SIZE, SIZE), bool)
    mask[60:69, 60:69] = True

    found = clean(moved(psf, 64, 64) + 5 * moved(psf, 100, 100), psf, mask)

    assert ((found.y >= 60) & (found.y < 69) & (found.x >= 60) & (found.x < 69)).all()


def test_an_empty_mask_finds_nothing(psf):
    found = clean(psf, psf, np.zeros((SIZE, SIZE), bool))

    assert (found.n_iterations, found.y.size) == (0, 0)


def test_a_source_at_the_corner_is_cleaned_too(psf):
    residual = np.zeros_like(psf)
    residual[:64, :64] = psf[64:, 64:]

    found = clean(residual, psf, threshold=0.05)

    assert (found.y[0], found.x[0]) == (0, 0)
    assert found.flux_jy.sum() == pytest.approx(0.95, abs=0.1)


# --- restoring -------------------------------------------------------------------------------------------------------
def test_components_are_restored_as_beams_of_their_flux():
    model = np.zeros((SIZE, SIZE), np.float32)
    model[64, 64], model[30, 90] = 2.0, -1.0
    residual = np.full((SIZE, SIZE), 0.25, np.float32)

    image = restore(residual, model, Beam(6, 4, 70))

    beam = gaussian(6, 4, 70)
    assert image == pytest.approx(0.25 + 2 * beam - np.roll(beam, (-34, 26), axis=(0, 1)), abs=1e-4)
    assert (residual == 0.25).all()


@pytest.mark.parametrize("place", [(0, 0), (0, 127), (127, 64)])
def test_a_component_at_the_edge_is_cut_there(place):
    model = np.zeros((SIZE, SIZE), np.float32)
    model[place] = 1.0

    image = restore(np.zeros_like(model), model, Beam(6, 4, 0))

    assert image[place] == 1
    assert np.unravel_index(image.argmax(), image.shape) == place
