"""Tiles of a known sky: point sources under a beam pattern, and noise as smooth as an interferometer's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import astropy.units as u
import numpy as np
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.wcs import WCS
from scipy.ndimage import gaussian_filter, map_coordinates
from scipy.special import j1

from images.engines.mosaic import Tile

FREQUENCY_HZ = 1.4e9
FWHM_PX = np.sqrt(8 * np.log(2))


@dataclass(frozen=True)
class Pointing:
    ra_deg: float
    dec_deg: float
    bmaj_arcsec: float = 170.0
    bmin_arcsec: float = 150.0
    bpa_deg: float = 20.0
    rms: float = 1e-3
    size_px: int = 320
    pixel_arcsec: float = 45.0


Sources = Sequence[tuple[float, float, float]]  # RA, dec, Jy


def write_tile(folder: Path, pointing: Pointing, sources: Sources = (), *, seed: int = 1) -> Tile:
    """Image, residual and primary beam as an imager of a static beam leaves them: every source CLEANed, none blank."""
    name = f"tile{seed}"
    header = _header(pointing)
    wcs = WCS(header)
    y, x = np.indices((pointing.size_px, pointing.size_px))
    sky = wcs.pixel_to_world(x, y)
    noise = _noise(pointing, seed)
    image = noise.copy()
    centre = SkyCoord(pointing.ra_deg, pointing.dec_deg, unit="deg")
    for ra, dec, flux in sources:
        place = SkyCoord(ra, dec, unit="deg")
        px, py = wcs.world_to_pixel(place)
        if np.isfinite(px):
            image += flux * airy(place.separation(centre).rad) * _gaussian(pointing, x - px, y - py)
    paths = {part: folder / f"{name}_{part}.fits" for part in ("image", "residual", "primary_beam")}
    for part, data in (("image", image), ("residual", noise), ("primary_beam", airy(sky.separation(centre).rad))):
        fits.PrimaryHDU(data.astype(np.float32), header).writeto(paths[part])
    return Tile(name=name, **paths, mjd=61000 + 309 * seed / 86400, duration_s=309.0)


def airy(angle_rad) -> np.ndarray:
    """Power pattern of a 4.65 m dish."""
    x = np.pi * 4.65 * np.sin(angle_rad) * FREQUENCY_HZ / 299_792_458.0
    return (2 * j1(np.maximum(x, 1e-9)) / np.maximum(x, 1e-9)) ** 2


def value_at(path: Path, ra_deg: float, dec_deg: float) -> float:
    """An image's value at a position, by a cubic spline through the pixels around it."""
    with fits.open(path) as hdus:
        x, y = WCS(hdus[0].header).world_to_pixel(SkyCoord(ra_deg, dec_deg, unit=u.deg))
        left, bottom = int(x) - 12, int(y) - 12
        return float(
            map_coordinates(hdus[0].data[bottom : bottom + 25, left : left + 25], [[y - bottom], [x - left]])[0]
        )


def _header(pointing: Pointing) -> fits.Header:
    header = fits.Header()
    for axis, kind, value, sign in ((1, "RA---SIN", pointing.ra_deg, -1), (2, "DEC--SIN", pointing.dec_deg, 1)):
        header[f"CTYPE{axis}"], header[f"CRVAL{axis}"], header[f"CUNIT{axis}"] = kind, value, "deg"
        header[f"CDELT{axis}"], header[f"CRPIX{axis}"] = sign * pointing.pixel_arcsec / 3600, pointing.size_px / 2 + 1
    header["BMAJ"], header["BMIN"] = pointing.bmaj_arcsec / 3600, pointing.bmin_arcsec / 3600
    header["BPA"], header["BUNIT"], header["RESTFRQ"] = pointing.bpa_deg, "Jy/beam", FREQUENCY_HZ
    return header


def _gaussian(pointing: Pointing, dx: np.ndarray, dy: np.ndarray) -> np.ndarray:
    """The beam, from its definition: full widths at half maximum, angle from north through east."""
    angle = np.radians(pointing.bpa_deg)
    along, across = dy * np.cos(angle) - dx * np.sin(angle), dy * np.sin(angle) + dx * np.cos(angle)
    widths = (along * 2 * pointing.pixel_arcsec / pointing.bmaj_arcsec) ** 2
    return 0.5 ** (widths + (across * 2 * pointing.pixel_arcsec / pointing.bmin_arcsec) ** 2)


def _noise(pointing: Pointing, seed: int) -> np.ndarray:
    """White noise seen at the geometric mean of the beam's widths."""
    white = np.random.default_rng(seed).normal(size=(pointing.size_px, pointing.size_px))
    width_px = np.sqrt(pointing.bmaj_arcsec * pointing.bmin_arcsec) / pointing.pixel_arcsec / FWHM_PX
    smooth = gaussian_filter(white, width_px, mode="wrap")
    return smooth * (pointing.rms / smooth.std())
