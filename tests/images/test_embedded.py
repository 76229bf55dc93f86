"""What is particular to the embedded imager; the contract of all imagers is in test_imagers.py."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS
from scipy.optimize import least_squares

from images.engines.clean import Beam, robust_rms
from images.engines.embedded import EmbeddedImager, clean_components
from images.engines.imager import CleanResult, ImagingParameters
from images.engines.visibilities import (
    BadVisibilities,
    NothingToImage,
    StokesI,
    briggs_weights,
    effective_visibilities,
    load,
)
from tests.images.small_sets import write_set
from tests.science import SPEED_OF_LIGHT_M_S, edited

RA, DEC = 150.0, 30.0
PARAMETERS = ImagingParameters(size_px=256, pixel_arcsec=8.0, niter=3000)
SMALL = {"ra_deg": RA, "dec_deg": DEC, "n_antennas": 14, "n_times": 4, "n_channels": 3}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("sets")


@pytest.fixture(scope="module")
def point(folder) -> Path:
    """2 Jy, 5.2 arcmin north-east of the centre and on no pixel."""
    return write_set(folder / "point.ms", sources=[(RA + 0.07, DEC + 0.061, 2.0)], noise_jy=0.05, **SMALL)


@pytest.fixture(scope="module")
def noise(folder) -> Path:
    return write_set(folder / "noise.ms", noise_jy=1.0, **SMALL)


def image(measurement_set: Path, output: Path, **changes) -> tuple[CleanResult, np.ndarray, np.ndarray]:
    output.mkdir(exist_ok=True)
    parameters = ImagingParameters(**{**vars(PARAMETERS), **changes})
    result = EmbeddedImager().make(
        measurement_set=measurement_set, output_folder=output, parameters=parameters, threads=1
    )
    return result, fits.getdata(result.image_path), fits.getdata(result.residual_path)


# --- weights ---------------------------------------------------------------------------------------------------------
def visibilities(n: int = 400, seed: int = 1) -> StokesI:
    rng = np.random.default_rng(seed)
    return StokesI(
        uvw_m=rng.normal(0, 300, (n, 3)),
        frequency_hz=np.array([1.35e9, 1.45e9]),
        visibilities=np.zeros((n, 2), np.complex64),
        weights=np.where(rng.random((n, 2)) < 0.2, 0, rng.uniform(0.5, 2, (n, 2))).astype(np.float32),
    )


PIXEL_RAD = np.radians(8 / 3600)


def weights_by_formula(stokes: StokesI, robust: float) -> np.ndarray:
    """Briggs 1995, eq. 3.11 and after, one visibility at a time; the cell of -(u, v) is that of (u, v)."""
    field = 256 * PIXEL_RAD
    density: dict[tuple[int, int], float] = defaultdict(float)
    cells = {}
    for (row, channel), weight in np.ndenumerate(stokes.weights):
        u, v = stokes.uvw_m[row, :2] * stokes.frequency_hz[channel] / SPEED_OF_LIGHT_M_S * field
        cell = (round(u), round(v)) if v >= 0 else (round(-u), round(-v))
        cells[row, channel] = cell
        density[cell] += float(weight)
    sums = np.array(list(density.values()))
    f2 = (5 * 10**-robust) ** 2 / ((sums**2).sum() / sums.sum())
    out = np.empty_like(stokes.weights)
    for place, weight in np.ndenumerate(stokes.weights):
        out[place] = weight / (1 + density[cells[place]] * f2)
    return out


@pytest.mark.parametrize("robust", [-2.0, 0.0, 0.5, 2.0])
def test_imaging_weights_are_briggs(robust):
    stokes = visibilities()

    weights = briggs_weights(stokes, size_px=256, pixel_rad=PIXEL_RAD, robust=robust)

    assert weights == pytest.approx(weights_by_formula(stokes, robust), rel=1e-5)


def test_robust_plus_five_is_natural_and_minus_five_uniform():
    stokes = visibilities()

    natural = briggs_weights(stokes, size_px=256, pixel_rad=PIXEL_RAD, robust=5)
    uniform = briggs_weights(stokes, size_px=256, pixel_rad=PIXEL_RAD, robust=-5)

    assert natural == pytest.approx(stokes.weights, rel=1e-3)
    expected = uniform * weights_by_formula(stokes, -9).sum() / uniform.sum()
    assert expected == pytest.approx(weights_by_formula(stokes, -9), rel=1e-3)


def test_baselines_longer_than_the_grid_keep_their_own_cells():
    """A pixel coarser than the beam: the outer visibilities must not share one cell at the grid's edge."""
    stokes = visibilities()
    coarse = briggs_weights(stokes, size_px=8, pixel_rad=PIXEL_RAD * 32, robust=0)

    assert coarse == pytest.approx(weights_by_formula(stokes, 0), rel=1e-5)


def test_effective_visibilities_of_equal_weights_are_their_number():
    stokes = visibilities()
    stokes.weights[:] = 2.0  # two polarizations of one integration

    assert effective_visibilities(stokes, stokes.weights) == pytest.approx(2.0 * stokes.weights.size)
    assert effective_visibilities(stokes, 7 * stokes.weights) == pytest.approx(2.0 * stokes.weights.size)


def test_weights_other_than_natural_count_for_less():
    stokes = visibilities()
    imaging = briggs_weights(stokes, size_px=256, pixel_rad=PIXEL_RAD, robust=-1)

    assert effective_visibilities(stokes, stokes.weights) == pytest.approx(stokes.weights.sum(dtype=float))
    assert effective_visibilities(stokes, imaging) < 0.9 * stokes.weights.sum()


@pytest.mark.parametrize("robust", [-1.0, 0.5, 2.0])
def test_effective_visibilities_predict_the_noise_of_the_image(noise, tmp_path, robust):
    """Each part of a visibility has 1/sqrt(2) of its noise; the image is of the real part only."""
    result, _, residual = image(noise, tmp_path, robust=robust, niter=0)

    assert robust_rms(residual) == pytest.approx(1.0 / np.sqrt(result.n_effective_visibilities), rel=0.05)


# --- images ----------------------------------------------------------------------------------------------------------
def test_a_point_source_has_its_flux_and_its_place(point, tmp_path):
    result, plane, residual = image(point, tmp_path)
    wcs = WCS(fits.getheader(result.image_path))
    x, y = (float(v) for v in wcs.world_to_pixel_values(RA + 0.07, DEC + 0.061))
    beam = Beam(result.bmaj_arcsec / 8, result.bmin_arcsec / 8, result.bpa_deg)
    rows, columns = np.mgrid[round(y) - 2 : round(y) + 3, round(x) - 2 : round(x) + 3]

    def misfit(p: np.ndarray) -> np.ndarray:
        return (p[0] * beam.kernel(rows - p[2], columns - p[1]) - plane[rows, columns]).ravel()

    flux, x_found, y_found = least_squares(misfit, [1.0, round(x), round(y)]).x
    assert flux == pytest.approx(2.0, rel=0.02)
    assert (x_found, y_found) == (pytest.approx(x, abs=0.05), pytest.approx(y, abs=0.05))  # 0.4 arcsec
    beam_px = np.pi * result.bmaj_arcsec * result.bmin_arcsec / (4 * np.log(2)) / 8.0**2
    wide = plane[round(y) - 12 : round(y) + 13, round(x) - 12 : round(x) + 13]
    assert wide.sum() / beam_px == pytest.approx(2.0, rel=0.03)
    assert robust_rms(residual) < 0.01
    assert result.n_iterations > 0
    assert result.clean_threshold_jy_per_beam is not None


def test_the_psf_makes_a_source_on_a_pixel_peak_at_its_flux(folder, tmp_path):
    centred = write_set(folder / "centred.ms", sources=[(RA, DEC, 2.0)], **SMALL)

    _, plane, _ = image(centred, tmp_path, niter=0)

    assert np.unravel_index(plane.argmax(), plane.shape) == (128, 128)
    assert plane.max() == pytest.approx(2.0, rel=1e-3)


def test_east_is_left_and_north_is_up(point, tmp_path):
    _, plane, _ = image(point, tmp_path)

    y, x = np.unravel_index(plane.argmax(), plane.shape)
    assert x < 128 < y


def test_the_frequency_is_the_weighted_mean_of_what_is_unflagged(point, tmp_path):
    def lowest(flags, first, second):
        flags[:, 0] = True
        return flags

    result, _, _ = image(edited(point, tmp_path, FLAG=lowest), tmp_path / "image", robust=2.0)

    assert result.frequency_hz == pytest.approx(1.403e9, abs=0.1e6)  # of 1.400, 1.402 and 1.404 the upper two


def test_flagged_visibilities_may_hold_anything(point, tmp_path):
    def spoil(data, first, second):
        data[(first == 1) & (second == 2)] = np.nan
        return data

    def flagged(flags, first, second):
        flags[(first == 1) & (second == 2)] = True
        return flags

    _, plane, _ = image(edited(point, tmp_path, DATA=spoil, FLAG=flagged), tmp_path / "image")

    assert plane.max() == pytest.approx(2.0, rel=0.1)


def test_one_polarization_flagged_leaves_the_other(point, tmp_path):
    def first_polarization(flags, first, second):
        flags[..., 0] = True
        return flags

    path = edited(point, tmp_path, FLAG=first_polarization)

    _, both = load(point)
    _, one = load(path)
    assert one.weights.sum() == pytest.approx(both.weights.sum() / 2)
    assert np.abs(one.visibilities).mean() == pytest.approx(2.0, rel=0.01)


def test_autocorrelations_are_not_imaged(point):
    _, stokes = load(point)

    assert stokes.uvw_m.shape[0] == 4 * 14 * 13 // 2
    assert np.abs(stokes.visibilities).max() < 3


def test_nothing_unflagged_is_refused(point, tmp_path):
    path = edited(point, tmp_path, FLAG=lambda flags, a, b: flags | True)

    with pytest.raises(NothingToImage, match="nothing to image"):
        image(path, tmp_path / "image")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_unflagged_visibilities_that_are_no_numbers_are_refused(point, tmp_path, value):
    def spoil(data, first, second):
        data[5, 1, 0] = value
        return data

    with pytest.raises(BadVisibilities, match="NaN or infinite"):
        image(edited(point, tmp_path, DATA=spoil), tmp_path / "image")


def test_one_thread_gives_the_same_bits_every_time(point, tmp_path):
    one, other = (image(point, tmp_path / name) for name in ("one", "other"))

    assert one[1].tobytes() == other[1].tobytes()
    assert one[2].tobytes() == other[2].tobytes()


def test_noise_alone_is_not_cleaned(noise, tmp_path):
    result, plane, residual = image(noise, tmp_path)

    assert result.n_iterations < 50
    assert robust_rms(plane) == pytest.approx(robust_rms(residual), rel=0.01)


def test_components_are_the_model_that_the_image_was_restored_from(point):
    header, components = clean_components(measurement_set=point, parameters=PARAMETERS, threads=1)

    assert components.sum() == pytest.approx(2.0, rel=0.02)
    assert (components != 0).sum() < 200
    assert np.degrees(header.ra_rad) == pytest.approx(RA)
