"""An image held against a reference catalogue: its flux scale, its positions, and what of the catalogue it shows.

Fluxes are forced at the catalogue's places, so that what is not seen counts as well as what is. All that is said of
the flux scale rests on medians: a single variable source, or an artefact, moves none of it.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from itertools import pairwise

import astropy.units as u
import numpy as np
from astropy.coordinates import SkyCoord
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from images.engines.fits import robust_rms
from sources.engines.forced import ImageFiles, centroids, force

EDGES_JY = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, math.inf)  # of the bins of completeness
CLIPPED = 5.0  # robust dispersions: farther from the plane is no point of it
FITS_OF_THE_PLANE = 4
FEWEST_ON_PLANE = 6  # twice the number of its parameters


@dataclass(frozen=True)
class Limits:
    """What of a catalogue an image is held against, and how."""

    least_flux_jy: float = 0.05  # fainter sources are lost in the noise of a bad night, and scatter the ratio
    least_response: float = 0.3  # of the primary beam: further out its pattern is known to 20% only
    isolation_beams: float = 2.0
    neighbour_share: float = 0.05  # of a source's flux: a fainter neighbour does not matter
    resolved_beams: float = 0.5  # a source as wide shows four fifths of its flux in its peak
    seen_sigma: float = 5.0
    position_sigma: float = 10.0  # its place is then good to a twentieth of the beam
    flux_systematic: float = 0.02
    most_sources: int = 5000  # the brightest
    most_matches: int = 2000  # that are kept one by one


@dataclass(frozen=True)
class Reference:
    """Sources of a catalogue, an array each: NaN in `major_arcsec` and `error_jy` where the catalogue says nothing.

    `expected_jy` and its error are at the image's frequency.
    """

    row: NDArray
    ra_deg: NDArray
    dec_deg: NDArray
    expected_jy: NDArray
    error_jy: NDArray
    major_arcsec: NDArray

    def __len__(self) -> int:
        return len(self.row)

    def at(self, which: NDArray) -> Reference:
        return Reference(**{column.name: getattr(self, column.name)[which] for column in dataclasses.fields(self)})


@dataclass(frozen=True)
class Compared:
    """Null is what could not be said; `matches` are (row, RA, dec, expected Jy, Jy, error Jy), brightest first.

    The three brightest are apparent fluxes, as the primary beam leaves them: of all that the catalogue has where the
    image has a value, and of the sources with a ratio what is expected and what was measured.
    """

    n_expected: int = 0
    n_matched: int = 0
    flux_ratio: float | None = None
    flux_ratio_scatter: float | None = None
    flux_ratio_gradient_per_deg: float | None = None
    flux_ratio_gradient_sigma: float | None = None
    ra_offset_arcsec: float | None = None
    dec_offset_arcsec: float | None = None
    completeness: float | None = None
    completeness_by_flux: list[tuple[float, float | None, int, int]] = field(default_factory=list)
    matches: list[tuple[int, float, float, float, float, float]] = field(default_factory=list)
    brightest_expected_jy: float | None = None
    brightest_alone_jy: float | None = None
    brightest_measured_jy: float | None = None


def compare(*, files: ImageFiles, reference: Reference, ra_deg: float, dec_deg: float, limits: Limits) -> Compared:
    """Hold an image whose centre is given against the catalogue's sources around it.

    A source is expected where the image has a value and the primary beam is known, from `limits.least_flux_jy` on.
    The flux ratio and the offset are of those that stand alone and are not resolved. Completeness is of the apparent
    flux, which the primary beam has left of it, or the edge of a tile would look incomplete. Reads the pixels around
    the sources only. Raises EngineFailed for a primary beam of another size.
    """
    usable = _is_alone(reference, files.beam.bmaj_arcsec, limits) & ~(
        reference.major_arcsec > limits.resolved_beams * files.beam.bmaj_arcsec
    )
    bright = np.flatnonzero(reference.expected_jy >= EDGES_JY[0])
    bright = bright[np.argsort(-reference.expected_jy[bright], kind="stable")][: limits.most_sources]
    sources, usable = reference.at(bright), usable[bright]
    fluxes = force(files=files, ra_deg=sources.ra_deg, dec_deg=sources.dec_deg, flux_systematic=limits.flux_systematic)
    brightest = _largest((sources.expected_jy * fluxes.primary_beam)[fluxes.is_covered])
    inside = fluxes.is_covered & (np.nan_to_num(fluxes.primary_beam) >= limits.least_response)
    sources, usable = sources.at(inside), usable[inside]
    flux, error = fluxes.flux_jy[inside], fluxes.flux_err_jy[inside]
    snr = fluxes.peak_jy_per_beam[inside] / fluxes.rms_jy_per_beam[inside]
    expected = sources.expected_jy >= limits.least_flux_jy
    matched = expected & usable
    is_seen = snr >= limits.seen_sigma
    apparent_jy = sources.expected_jy * fluxes.primary_beam[inside]
    shown = apparent_jy >= limits.least_flux_jy
    return Compared(
        n_expected=int(expected.sum()),
        n_matched=int(matched.sum()),
        **_flux_scale(sources.at(matched), flux[matched], error[matched], ra_deg, dec_deg),
        **_offset(files, sources.at(matched & (snr >= limits.position_sigma))),
        completeness=float(is_seen[shown].mean()) if shown.any() else None,
        completeness_by_flux=_by_flux(apparent_jy, is_seen),
        matches=_matches(sources.at(expected), flux[expected], error[expected])[: limits.most_matches],
        brightest_expected_jy=brightest,
        brightest_alone_jy=_largest(apparent_jy[matched]),
        brightest_measured_jy=_largest(fluxes.peak_jy_per_beam[inside][matched]),
    )


def _largest(values: NDArray) -> float | None:
    return float(values.max()) if values.size else None


def _is_alone(reference: Reference, bmaj_arcsec: float, limits: Limits) -> NDArray:
    """Whether no other source that matters is within `limits.isolation_beams`."""
    alone = np.ones(len(reference), dtype=bool)
    if len(reference) < 2:
        return alone
    sky = SkyCoord(reference.ra_deg, reference.dec_deg, unit=u.deg, frame="icrs")
    chord = 2 * math.sin(math.radians(limits.isolation_beams * bmaj_arcsec / 3600) / 2)
    pairs = cKDTree(sky.cartesian.xyz.value.T).query_pairs(chord, output_type="ndarray")
    for one, other in (pairs.T, pairs.T[::-1]):
        disturbed = reference.expected_jy[other] >= limits.neighbour_share * reference.expected_jy[one]
        alone[one[disturbed]] = False
    return alone


def _flux_scale(
    sources: Reference, flux: NDArray, error: NDArray, ra_deg: float, dec_deg: float
) -> dict[str, float | None]:
    if not len(sources):
        return {}
    ratio = flux / sources.expected_jy
    relative = np.hypot(error, np.nan_to_num(sources.error_jy)) / sources.expected_jy
    east, north = _offsets_deg(sources, ra_deg, dec_deg)
    gradient = plane_gradient(ratio, relative, east, north)
    return {
        "flux_ratio": float(np.median(ratio)),
        "flux_ratio_scatter": robust_rms(ratio) if len(ratio) > 1 else None,
        "flux_ratio_gradient_per_deg": gradient and gradient[0],
        "flux_ratio_gradient_sigma": gradient and gradient[1],
    }


def _offsets_deg(sources: Reference, ra_deg: float, dec_deg: float) -> tuple[NDArray, NDArray]:
    """East and north of the image's centre, also across RA 0 and around a pole."""
    centre = SkyCoord(ra_deg, dec_deg, unit=u.deg, frame="icrs")
    there = SkyCoord(sources.ra_deg, sources.dec_deg, unit=u.deg, frame="icrs").transform_to(centre.skyoffset_frame())
    return there.lon.wrap_at(180 * u.deg).deg, there.lat.deg


def plane_gradient(ratio: NDArray, error: NDArray, east: NDArray, north: NDArray) -> tuple[float, float] | None:
    """The slope of a plane through the ratios, per degree, and how many of its errors that is.

    Weighted least squares; points farther than CLIPPED from the plane are left out in turn. The errors are those given,
    or larger where the points scatter by more. None where fewer than FEWEST_ON_PLANE points are left, or they lie on
    one line. In noise the slope exceeds 3 of its errors in 1 field of 90, and 5 in 1 of 270 000 (two dimensions).
    """
    design = np.column_stack([np.ones_like(ratio), east, north]) / error[:, None]
    values = ratio / error
    keep = np.abs(ratio - np.median(ratio)) <= CLIPPED * max(robust_rms(ratio), float(np.median(error)))
    for _ in range(FITS_OF_THE_PLANE):
        if keep.sum() < FEWEST_ON_PLANE:
            return None
        solution, _, rank, _ = np.linalg.lstsq(design[keep], values[keep], rcond=1e-9)
        if rank < 3:
            return None
        residual = values - design @ solution
        scatter = robust_rms(residual[keep]) * math.sqrt(keep.sum() / (keep.sum() - 3))
        scale = max(1.0, scatter)
        kept, keep = keep, np.abs(residual) <= CLIPPED * scale
        if (kept == keep).all():
            break
    covariance = np.linalg.inv(design[kept].T @ design[kept])[1:, 1:] * scale**2
    length = float(np.hypot(*solution[1:]))
    if length == 0:
        return 0.0, 0.0
    along = solution[1:] / length
    return length, length / math.sqrt(along @ covariance @ along)


def _offset(files: ImageFiles, sources: Reference) -> dict[str, float | None]:
    """The median of ours minus the catalogue's, on the sky."""
    if not len(sources):
        return {}
    east, north = centroids(files=files, ra_deg=sources.ra_deg, dec_deg=sources.dec_deg)
    found = np.isfinite(east)
    if not found.any():
        return {}
    return {"ra_offset_arcsec": float(np.median(east[found])), "dec_offset_arcsec": float(np.median(north[found]))}


def _by_flux(apparent_jy: NDArray, is_seen: NDArray) -> list[tuple[float, float | None, int, int]]:
    """(from Jy, to Jy, number expected, number seen) of each bin that has a source; the last bin has no end."""
    rows = []
    for low, high in pairwise(EDGES_JY):
        inside = (apparent_jy >= low) & (apparent_jy < high)
        if inside.any():
            rows.append((low, high if math.isfinite(high) else None, int(inside.sum()), int(is_seen[inside].sum())))
    return rows


def _matches(sources: Reference, flux: NDArray, error: NDArray) -> list[tuple[int, float, float, float, float, float]]:
    columns = (sources.row, sources.ra_deg, sources.dec_deg, sources.expected_jy, flux, error)
    return list(zip(*(column.tolist() for column in columns), strict=True))
