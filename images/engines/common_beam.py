"""The smallest elliptical Gaussian that a set of images can all be smoothed to, and the smoothing.

A Gaussian beam is held as its matrix C (2 x 2, arcsec^2, axes north and east): the offsets x with x' C^-1 x = 1 are the
ellipse of its half widths. Convolving adds matrices, so a beam can be smoothed to C when C - C_i has no negative
eigenvalue.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import fft

from images.engines.fits_cards import Beam

ANGLES = np.radians(np.arange(0, 180, 2))  # the ellipses are symmetric
ITERATIONS, TOLERANCE = 5000, 1e-4
NOTHING = 1e-6  # of the beam's area: no smoothing worth a Fourier transform
REACH = 3  # kernels end after so many half widths


def matrix(beam: Beam) -> np.ndarray:
    along = np.array([np.cos(np.radians(beam.bpa_deg)), np.sin(np.radians(beam.bpa_deg))])
    across = np.array([-along[1], along[0]])
    return ((beam.bmaj_arcsec / 2) ** 2 * np.outer(along, along)) + ((beam.bmin_arcsec / 2) ** 2) * np.outer(
        across, across
    )


def beam_of(c: np.ndarray) -> Beam:
    (minor, major), vectors = np.linalg.eigh(c)
    north, east = vectors[:, 1]
    return Beam(2 * float(np.sqrt(major)), 2 * float(np.sqrt(minor)), float(np.degrees(np.arctan2(east, north)) % 180))


def common_beam(beams: Sequence[Beam]) -> Beam:
    """The smallest ellipse around all of the beams: the area is within 1e-4 of the least, and every beam fits.

    Khachiyan's algorithm for the smallest centred ellipse around points (Todd & Yildirim 2007, Discrete Applied
    Mathematics 155, 1731), on points of the beams' ellipses, then widened until each beam fits exactly. radio_beam was
    tried and left: of 20 random sets of beams that differ by 0.1% it refused 4.
    """
    matrices = [matrix(beam) for beam in beams]
    if all(np.allclose(c, matrices[0], rtol=1e-9) for c in matrices):
        return beams[0]
    circle = np.stack([np.cos(ANGLES), np.sin(ANGLES)])
    points = np.concatenate([(np.linalg.cholesky(c) @ circle).T for c in matrices])
    weights = np.full(len(points), 1 / len(points))
    for _ in range(ITERATIONS):
        spread = (points * weights[:, None]).T @ points
        reach = np.einsum("ki,ij,kj->k", points, np.linalg.inv(spread), points)
        if reach.max() <= 2 * (1 + TOLERANCE):
            break
        weights *= reach / 2
    around = 2 * spread
    inverse_root = np.linalg.inv(np.linalg.cholesky(around))
    widest = max(np.linalg.eigvalsh(inverse_root @ c @ inverse_root.T).max() for c in matrices)
    return beam_of(around * widest)


def smooth(image: np.ndarray, *, beam: Beam, target: Beam, pixel_arcsec: float, threads: int) -> np.ndarray:
    """A finite image (north up, east left) in Jy/beam of `beam`, as Jy/beam of `target`; float32.

    In Fourier space, where a kernel narrower than a pixel is as exact as a wide one. A point source keeps its peak.
    """
    before, after = matrix(beam), matrix(target)
    if np.abs(after - before).max() < NOTHING * np.sqrt(np.linalg.det(before)):
        return image.astype(np.float32, copy=False)
    kernel = (after - before) / pixel_arcsec**2
    pad = int(np.ceil(REACH * np.sqrt(np.linalg.eigvalsh(kernel).max()))) + 1
    shape = [fft.next_fast_len(size + pad, real=True) for size in image.shape]
    north = fft.fftfreq(shape[0]).astype(np.float32)[:, None]
    east = -fft.rfftfreq(shape[1]).astype(np.float32)[None, :]
    # exp(-x' C^-1 x ln 2) has the transform exp(-pi^2 k' C k / ln 2); Jy/beam grows with the beam's area.
    scale = -(np.pi**2) / np.log(2)
    spectrum = fft.rfft2(image.astype(np.float32, copy=False), shape, workers=threads)
    exponent = kernel[0, 0] * north**2 + (2 * kernel[0, 1] * north) * east + kernel[1, 1] * east**2
    spectrum *= np.exp(np.float32(scale) * exponent.astype(np.float32))
    spectrum *= np.float32(np.sqrt(np.linalg.det(after) / np.linalg.det(before)))
    return fft.irfft2(spectrum, shape, workers=threads)[: image.shape[0], : image.shape[1]]
