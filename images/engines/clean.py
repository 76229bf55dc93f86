"""CLEAN minor cycles and the restoring beam, on plain arrays.

Images are indexed [y, x] with y = declination up; fluxes in Jy/beam. scipy, astropy and photutils have no CLEAN;
CASA's and WSClean's are inside their programs, and ducc0 has the gridder only.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import label
from scipy.optimize import least_squares

MAD_TO_SIGMA = 1.4826
FWHM_TO_SIGMA = 1 / np.sqrt(8 * np.log(2))


def robust_rms(values: np.ndarray) -> float:
    """1.4826 x the median absolute deviation of the finite values."""
    finite = values[np.isfinite(values)]
    return float(MAD_TO_SIGMA * np.median(np.abs(finite - np.median(finite)))) if finite.size else float("nan")


@dataclass(frozen=True)
class Beam:
    """Full widths at half maximum in pixels, and the position angle from north (+y) through east (-x)."""

    major_px: float
    minor_px: float
    angle_deg: float

    def kernel(self, dy: np.ndarray, dx: np.ndarray) -> np.ndarray:
        """Unit-peak Gaussian at offsets in pixels."""
        angle = np.radians(self.angle_deg)
        along = dy * np.cos(angle) - dx * np.sin(angle)
        across = dy * np.sin(angle) + dx * np.cos(angle)
        major, minor = self.major_px * FWHM_TO_SIGMA, self.minor_px * FWHM_TO_SIGMA
        return np.exp(-0.5 * ((along / major) ** 2 + (across / minor) ** 2))


def fit_beam(psf: np.ndarray) -> Beam:
    """The Gaussian that fits the main lobe of the point spread function, above 35% of its peak."""
    centre = psf.shape[0] // 2
    core, dy, dx = _main_lobe(psf, centre)

    def misfit(p: np.ndarray) -> np.ndarray:
        return np.exp(-(p[0] * dy**2 + 2 * p[1] * dx * dy + p[2] * dx**2)) - core

    spread = max(np.sqrt(core.size / np.pi), 1.0)
    a, b, c = least_squares(misfit, [1 / spread**2, 0, 1 / spread**2]).x
    values, vectors = np.linalg.eigh([[a, b], [b, c]])
    major, minor = np.sqrt(np.log(2) / values) * 2
    vy, vx = vectors[:, 0]
    return Beam(float(major), float(minor), float(np.degrees(np.arctan2(-vx, vy)) % 180))


def _main_lobe(psf: np.ndarray, centre: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    regions, _ = label(psf > 0.35)
    y, x = np.nonzero(regions == regions[centre, centre])
    return psf[y, x], (y - centre).astype(float), (x - centre).astype(float)


def sidelobe_level(psf: np.ndarray, beam: Beam) -> float:
    """The highest absolute sidelobe outside the main lobe."""
    centre = psf.shape[0] // 2
    reach = int(np.ceil(2 * beam.major_px))
    outside = np.abs(psf)
    outside[centre - reach : centre + reach + 1, centre - reach : centre + reach + 1] = 0
    return float(outside.max())


def grow_mask(mask: np.ndarray, residual: np.ndarray, level: float, beam: Beam) -> np.ndarray:
    """The mask with everything above `level` added, out to half a beam around it."""
    radius = max(1, round(beam.major_px / 2))
    dy, dx = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    disc = dy**2 + dx**2 <= radius**2
    y, x = np.nonzero(residual > level)
    height, width = mask.shape
    grown = mask.copy()
    # few pixels are above the level; scipy's dilation would visit all
    grown[np.clip(y[:, None] + dy[disc], 0, height - 1), np.clip(x[:, None] + dx[disc], 0, width - 1)] = True
    return grown


@dataclass
class MinorCycle:
    """What one minor cycle found: components (y, x, flux) and how many steps it took."""

    y: np.ndarray
    x: np.ndarray
    flux_jy: np.ndarray
    n_iterations: int


def minor_cycle(
    residual: np.ndarray, psf: np.ndarray, mask: np.ndarray, *, threshold: float, gain: float, niter: int
) -> MinorCycle:
    """Hogbom CLEAN on the pixels of the mask only (Clark 1980: a list of pixels, not an image, is updated).

    Exact for the listed pixels out to the reach of the PSF; the major cycle that follows makes up for the rest.
    """
    y, x = np.nonzero(mask & (np.abs(residual) > 0))
    values = residual[y, x].astype(np.float32)
    half = psf.shape[0] // 2
    flat_psf = np.ascontiguousarray(psf, dtype=np.float32).ravel()
    place = (y * psf.shape[1] + x).astype(np.int64)
    origin = half * psf.shape[1] + half
    flux = np.zeros(values.size, np.float32)
    steps = 0
    while values.size and steps < niter:
        peak = int(np.abs(values).argmax())
        if abs(values[peak]) <= threshold:
            break
        step = gain * values[peak]
        near = (np.abs(y - y[peak]) < half) & (np.abs(x - x[peak]) < half)
        values[near] -= step * flat_psf[place[near] - place[peak] + origin]
        flux[peak] += step
        steps += 1
    found = flux != 0
    return MinorCycle(y[found], x[found], flux[found], steps)


def restore(residual: np.ndarray, model: np.ndarray, beam: Beam) -> np.ndarray:
    """The residual plus the model's components convolved with the restoring beam."""
    image = residual.copy()
    reach = int(np.ceil(3 * beam.major_px))
    dy, dx = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    stamp = beam.kernel(dy.astype(float), dx.astype(float)).astype(residual.dtype)
    height, width = image.shape
    for y, x in zip(*np.nonzero(model), strict=True):
        top, left = max(0, y - reach), max(0, x - reach)
        bottom, right = min(height, y + reach + 1), min(width, x + reach + 1)
        piece = stamp[top - y + reach : bottom - y + reach, left - x + reach : right - x + reach]
        image[top:bottom, left:right] += model[y, x] * piece
    return image
