"""Forced photometry: the flux at a known place, whether or not anything can be seen there.

    F = sum(d k / n^2) / sum(k^2 / n^2)

with d the data, k the restoring beam centred on the position and n the noise (Condon 1997, PASP 109, 166), over the
pixels where the beam is above one half. There n is one number, the local noise. The half-power aperture and not more:
imaging has already filtered the data with the beam, so pixels further out add neighbours and noise, not signal.
Positions closer than BLENDED beams are solved together.

The error is that of noise correlated over one beam, n sqrt(k C k) / sum(k^2) with C the beam as the correlation of
two pixels: 1.04 n (4000 empty places of a CLEAN residual scatter by 0.97 of it). It lies between 1/sqrt(sum k^2/n^2),
which takes pixels for independent (0.3 of the scatter), and sum(k/n) / sum(k^2/n^2), which takes them for one and
the same (1.3 of it for this aperture, 2 for the whole beam).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import astropy.units as u
import numpy as np
from astropy.coordinates import SkyCoord
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from contimg.exceptions import EngineFailed
from images.engines.fits import Plane, open_plane
from sources.engines.noise import NoiseGrid

PRIMARY_BEAM_LIMIT = 0.1
APERTURE = 0.5  # of the beam's peak
BLENDED = 2.0  # beams: beyond, a neighbour leaves less than 0.01% of its flux
CENTROID_STEPS = 20
CENTROID_SETTLED_PX = 1e-3
INSEPARABLE = 0.4  # beams: closer than this two fluxes cannot be told apart, and each position gets the flux of both


@dataclass(frozen=True)
class RestoringBeam:
    """Full widths at half maximum; the position angle is east of north."""

    bmaj_arcsec: float
    bmin_arcsec: float
    bpa_deg: float


@dataclass(frozen=True)
class ImageFiles:
    """What is measured: without a residual the noise is of the image, without a primary beam the response is 1."""

    image: Path
    beam: RestoringBeam
    residual: Path | None = None
    primary_beam: Path | None = None


@dataclass(frozen=True)
class ForcedFluxes:
    """One value per position; NaN where `is_covered` is false.

    `flux_jy` and its error are corrected for the primary beam, `peak_jy_per_beam` and `rms_jy_per_beam` are apparent.
    """

    is_covered: NDArray
    flux_jy: NDArray
    flux_err_jy: NDArray
    peak_jy_per_beam: NDArray
    rms_jy_per_beam: NDArray
    primary_beam: NDArray


def force(*, files: ImageFiles, ra_deg: ArrayLike, dec_deg: ArrayLike, flux_systematic: float) -> ForcedFluxes:
    """The flux at every ICRS position that the image covers: on it, finite, and not below 0.1 of the primary beam.

    Reads the pixels around the positions, never a whole image. Raises EngineFailed for a primary beam of another size.
    """
    with open_plane(files.image) as plane:
        x, y = pixels(plane, ra_deg, dec_deg)
        beam = _BeamOnPixels.of(plane, files.beam)
        response = primary_beam_at(files, plane, x, y)
        is_covered = (response >= PRIMARY_BEAM_LIMIT) & _is_finite(plane, x, y)
        rms = np.full(x.shape, np.nan)
        rms[is_covered] = noise_at(files, plane, x[is_covered], y[is_covered])
        is_covered &= np.isfinite(rms)
        peak, error = np.full(x.shape, np.nan), np.full(x.shape, np.nan)
        peak[is_covered], relative = _amplitudes(plane, beam, x[is_covered], y[is_covered])
        error[is_covered] = relative * rms[is_covered]
    response, rms = np.where(is_covered, response, np.nan), np.where(is_covered, rms, np.nan)
    return ForcedFluxes(
        is_covered=is_covered,
        flux_jy=peak / response,
        flux_err_jy=np.hypot(error, flux_systematic * peak) / response,
        peak_jy_per_beam=peak,
        rms_jy_per_beam=rms,
        primary_beam=response,
    )


def centroids(*, files: ImageFiles, ra_deg: ArrayLike, dec_deg: ArrayLike) -> tuple[NDArray, NDArray]:
    """Where the peaks at these ICRS positions really are, as offsets east and north in arcsec; NaN where none is found.

    The restoring beam is fitted with its place free (Gauss-Newton), over the pixels where it is above one half. What
    moves by more than half a beam has found something else.
    """
    with open_plane(files.image) as plane:
        x, y = pixels(plane, ra_deg, dec_deg)
        beam = _BeamOnPixels.of(plane, files.beam)
        fitted_x, fitted_y = np.full(x.shape, np.nan), np.full(x.shape, np.nan)
        on_image = np.flatnonzero(np.isfinite(x))
        if on_image.size:
            data, _, columns, rows = _stamps(plane, beam, x[on_image], y[on_image])
            for index, *stamp in zip(on_image, data, columns, rows, strict=True):
                fitted_x[index], fitted_y[index] = _centroid(beam, x[index], y[index], *stamp)
        found = np.flatnonzero(np.isfinite(fitted_x))
        east, north = np.full(x.shape, np.nan), np.full(x.shape, np.nan)
        if found.size:
            asked = SkyCoord(np.atleast_1d(ra_deg)[found], np.atleast_1d(dec_deg)[found], unit=u.deg, frame="icrs")
            there = plane.wcs.pixel_to_world(fitted_x[found], fitted_y[found]).icrs
            offsets = asked.spherical_offsets_to(there)
            east[found], north[found] = (angle.to_value(u.arcsec) for angle in offsets)
    return east, north


def responses(*, files: ImageFiles, ra_deg: ArrayLike, dec_deg: ArrayLike) -> NDArray:
    """The primary beam at ICRS positions; NaN off the image."""
    with open_plane(files.image) as plane:
        return primary_beam_at(files, plane, *pixels(plane, ra_deg, dec_deg))


# --- where --------------------------------------------------------------------------------------------------------
def pixels(plane: Plane, ra_deg: ArrayLike, dec_deg: ArrayLike) -> tuple[NDArray, NDArray]:
    """0-based pixel positions; NaN for what is off the image or behind the tangent plane."""
    sky = SkyCoord(np.atleast_1d(ra_deg), np.atleast_1d(dec_deg), unit=u.deg, frame="icrs")
    if sky.size == 0:
        return np.empty(0), np.empty(0)
    x, y = (np.array(axis, dtype=float) for axis in plane.wcs.world_to_pixel(sky))
    with np.errstate(invalid="ignore"):
        inside = (x >= -0.5) & (x < plane.width_px - 0.5) & (y >= -0.5) & (y < plane.height_px - 0.5)
    # A zenithal projection gives positions behind the tangent plane a pixel too; only a true one leads back.
    back = plane.wcs.pixel_to_world(np.where(inside, x, 0.0), np.where(inside, y, 0.0)).icrs
    inside &= back.separation(sky).arcsec < 1.0
    return np.where(inside, x, np.nan), np.where(inside, y, np.nan)


def primary_beam_at(files: ImageFiles, plane: Plane, x: NDArray, y: NDArray) -> NDArray:
    """The response at pixel positions of the image; NaN off it."""
    if files.primary_beam is None:
        return np.where(np.isfinite(x), 1.0, np.nan)
    with open_plane(files.primary_beam) as beam:
        if (beam.width_px, beam.height_px) != (plane.width_px, plane.height_px):
            raise EngineFailed(f"{files.primary_beam.name} is not on the pixels of {files.image.name}; image it again.")
        return _nearest(beam, x, y)


def noise_at(files: ImageFiles, plane: Plane, x: NDArray, y: NDArray) -> NDArray:
    """The local rms at pixel positions, from the residual when there is one."""
    if files.residual is None:
        return noise_grid(plane, plane, files.beam).at(x, y)
    with open_plane(files.residual) as residual:
        return noise_grid(residual, plane, files.beam).at(x, y)


def noise_grid(noise_plane: Plane, plane: Plane, beam: RestoringBeam) -> NoiseGrid:
    return NoiseGrid(noise_plane, _BeamOnPixels.of(plane, beam).geometric_mean_px)


def _is_finite(plane: Plane, x: NDArray, y: NDArray) -> NDArray:
    return np.isfinite(_nearest(plane, x, y))


def _nearest(plane: Plane, x: NDArray, y: NDArray) -> NDArray:
    """The nearest pixel's value; NaN where the position is."""
    values = np.full(x.shape, np.nan)
    for index in np.flatnonzero(np.isfinite(x)):
        row, column = round(float(y[index])), round(float(x[index]))
        values[index] = plane.values(slice(row, row + 1), slice(column, column + 1))[0, 0]
    return values


# --- how much -----------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class _BeamOnPixels:
    """The restoring beam as exp(-(dx, dy) shape (dx, dy)) of an offset in pixels."""

    shape: NDArray
    fwhm_px: float  # along the major axis
    geometric_mean_px: float

    @classmethod
    def of(cls, plane: Plane, beam: RestoringBeam) -> _BeamOnPixels:
        """The WCS matrix takes pixels to degrees east and north, whatever its signs and rotation."""
        to_sky = plane.wcs.pixel_scale_matrix * 3600
        angle = np.radians(beam.bpa_deg)
        to_axes = np.array([[np.sin(angle), np.cos(angle)], [np.cos(angle), -np.sin(angle)]]) @ to_sky
        widths = np.array([[beam.bmaj_arcsec], [beam.bmin_arcsec]])
        scaled = to_axes / widths
        pixel = np.sqrt(abs(np.linalg.det(to_sky)))
        mean = np.sqrt(beam.bmaj_arcsec * beam.bmin_arcsec)
        return cls(4 * np.log(2) * scaled.T @ scaled, beam.bmaj_arcsec / pixel, float(mean / pixel))

    def at(self, dx: NDArray, dy: NDArray) -> NDArray:
        (xx, xy), (_, yy) = self.shape
        return np.exp(-(xx * dx * dx + 2 * xy * dx * dy + yy * dy * dy))


def _amplitudes(plane: Plane, beam: _BeamOnPixels, x: NDArray, y: NDArray) -> tuple[NDArray, NDArray]:
    """The fitted peaks, and their errors in units of the noise."""
    if x.size == 0:
        return np.empty(0), np.empty(0)
    data, kernel, columns, rows = _stamps(plane, beam, x, y)
    weight = np.where((kernel >= APERTURE) & np.isfinite(data), kernel, 0.0)
    norm = (weight * kernel).sum(axis=1)
    amplitude = (weight * np.nan_to_num(data)).sum(axis=1) / norm
    relative = _relative_errors(beam, weight, columns, rows) / norm
    for group in _blends(beam, x, y):
        dx = columns[group][:, :, None] - x[group][None, None, :]
        dy = rows[group][:, :, None] - y[group][None, None, :]
        mixing = np.einsum("ip,ipj->ij", weight[group], beam.at(dx, dy)) / norm[group][:, None]
        inverse = np.linalg.inv(mixing)
        amplitude[group] = inverse @ amplitude[group]
        relative[group] *= np.sqrt(np.diag(inverse @ beam.at(*_offsets(x[group], y[group])) @ inverse.T))
    return amplitude, relative


def _centroid(
    beam: _BeamOnPixels, x: float, y: float, data: NDArray, columns: NDArray, rows: NDArray
) -> tuple[float, float]:
    """The fitted 0-based pixel position; NaN where the fit does not settle within half a beam."""
    (xx, xy), (_, yy) = beam.shape
    at_x, at_y = x, y
    for _ in range(CENTROID_STEPS):
        dx, dy = columns - at_x, rows - at_y
        kernel = beam.at(dx, dy)
        used = (kernel >= APERTURE) & np.isfinite(data)
        if used.sum() < 4:
            break
        slope_x, slope_y = 2 * kernel * (xx * dx + xy * dy), 2 * kernel * (xy * dx + yy * dy)
        design = np.column_stack([kernel, slope_x, slope_y])[used]
        peak, moved_x, moved_y = np.linalg.lstsq(design, data[used], rcond=None)[0]
        if peak <= 0:
            break
        step_x, step_y = moved_x / peak, moved_y / peak
        at_x, at_y = at_x + step_x, at_y + step_y
        if np.hypot(at_x - x, at_y - y) > beam.fwhm_px / 2:
            break
        if np.hypot(step_x, step_y) < CENTROID_SETTLED_PX:
            return at_x, at_y
    return np.nan, np.nan


def _stamps(plane: Plane, beam: _BeamOnPixels, x: NDArray, y: NDArray) -> tuple[NDArray, NDArray, NDArray, NDArray]:
    """Data, beam, column and row of the pixels around every position, each (positions, pixels).

    A stamp that would leave the image is moved back onto it: the beam is that of the true offsets anyhow.
    """
    half = int(np.ceil(beam.fwhm_px / 2)) + 1
    width, height = min(2 * half + 1, plane.width_px), min(2 * half + 1, plane.height_px)
    left = np.clip(np.rint(x).astype(int) - half, 0, plane.width_px - width)
    bottom = np.clip(np.rint(y).astype(int) - half, 0, plane.height_px - height)
    down, across = (axis.ravel() for axis in np.mgrid[:height, :width])
    columns, rows = left[:, None] + across, bottom[:, None] + down
    data = [
        plane.values(slice(row, row + height), slice(column, column + width)).ravel()
        for row, column in zip(bottom.tolist(), left.tolist(), strict=True)
    ]
    return np.array(data, dtype=float), beam.at(columns - x[:, None], rows - y[:, None]), columns, rows


def _relative_errors(beam: _BeamOnPixels, weight: NDArray, columns: NDArray, rows: NDArray) -> NDArray:
    """sqrt(k C k) of every position. C is that of one stamp: all have the same pixels relative to one another."""
    correlation = beam.at(*_offsets(columns[0], rows[0]))
    return np.sqrt(np.einsum("ip,ip->i", weight @ correlation, weight))


def _offsets(x: NDArray, y: NDArray) -> tuple[NDArray, NDArray]:
    return x[:, None] - x[None, :], y[:, None] - y[None, :]


def _blends(beam: _BeamOnPixels, x: NDArray, y: NDArray) -> list[NDArray]:
    """Groups of positions that overlap, as index arrays; a group with an inseparable pair is left as it is."""
    points = np.column_stack([x, y])
    pairs = cKDTree(points).query_pairs(BLENDED * beam.fwhm_px, output_type="ndarray")
    if len(pairs) == 0:
        return []
    graph = coo_matrix((np.ones(len(pairs)), pairs.T), shape=(len(x), len(x)))
    _, label = connected_components(graph, directed=False)
    groups = [np.flatnonzero(label == number) for number in np.unique(label[pairs[:, 0]])]
    return [group for group in groups if not _has_inseparable(beam, points[group])]


def _has_inseparable(beam: _BeamOnPixels, points: NDArray) -> bool:
    return len(cKDTree(points).query_pairs(INSEPARABLE * beam.geometric_mean_px)) > 0
