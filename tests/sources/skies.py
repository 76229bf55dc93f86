"""Small simulated tiles: point sources of a stated flux, a primary beam, noise with the correlation of the beam."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import astropy.units as u
import numpy as np
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.wcs import WCS

from images.models import Image
from sources.engines.forced import ImageFiles, RestoringBeam
from tests.factories import ImageFactory

PIXEL_ARCSEC = 6.0
BEAM = RestoringBeam(bmaj_arcsec=30.0, bmin_arcsec=21.0, bpa_deg=40.0)
FIRST = datetime(2026, 11, 20, 14, 0, tzinfo=UTC)
RMS = 1e-3


def wcs_of(ra_deg: float, dec_deg: float, size_px: int) -> WCS:
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---SIN", "DEC--SIN"]
    wcs.wcs.crval = [ra_deg, dec_deg]
    wcs.wcs.cdelt = [-PIXEL_ARCSEC / 3600, PIXEL_ARCSEC / 3600]
    wcs.wcs.crpix = [size_px // 2 + 1, size_px // 2 + 1]
    wcs.wcs.radesys = "ICRS"
    return wcs


def gaussian(x: float, y: float, size_px: int, beam: RestoringBeam) -> np.ndarray:
    """The beam at a 0-based pixel position, written independently of the engine: east is to the left."""
    down, across = np.mgrid[:size_px, :size_px]
    east, north = -(across - x) * PIXEL_ARCSEC, (down - y) * PIXEL_ARCSEC
    angle = np.radians(beam.bpa_deg)
    along = east * np.sin(angle) + north * np.cos(angle)
    aside = east * np.cos(angle) - north * np.sin(angle)
    return np.exp(-4 * np.log(2) * ((along / beam.bmaj_arcsec) ** 2 + (aside / beam.bmin_arcsec) ** 2))


def correlated_noise(size_px: int, rms: float, beam: RestoringBeam, seed: int) -> np.ndarray:
    """Noise whose autocorrelation is the beam, as that of an image is."""
    white = np.random.default_rng(seed).normal(size=(size_px, size_px))
    centred = np.fft.ifftshift(gaussian(size_px // 2, size_px // 2, size_px, beam))
    power = np.clip(np.fft.fft2(centred).real, 0, None)
    noise = np.fft.ifft2(np.fft.fft2(white) * np.sqrt(power)).real
    return noise * (rms / noise.std())


def primary_beam(size_px: int, fwhm_px: float) -> np.ndarray:
    down, across = np.mgrid[:size_px, :size_px] - size_px // 2
    return np.exp(-4 * np.log(2) * (down**2 + across**2) / fwhm_px**2)


def write_tile(
    folder: Path,
    sources: Iterable[tuple[float, float, float]],
    *,
    ra_deg: float = 150.0,
    dec_deg: float = 30.0,
    size_px: int = 256,
    rms: float = RMS,
    seed: int = 0,
    beam: RestoringBeam = BEAM,
    fwhm_px: float = 400.0,
) -> ImageFiles:
    """Files of a tile with sources of (RA, Dec, flux in Jy at the sky)."""
    wcs = wcs_of(ra_deg, dec_deg, size_px)
    noise = correlated_noise(size_px, rms, beam, seed) if rms > 0 else np.zeros((size_px, size_px))
    response = primary_beam(size_px, fwhm_px)
    image = noise.copy()
    for ra, dec, flux in sources:
        x, y = (float(axis) for axis in wcs.world_to_pixel(SkyCoord(ra * u.deg, dec * u.deg)))
        add_source(image, x, y, flux * wcs_response(response, x, y), beam)
    header = wcs.to_header()
    header["BMAJ"], header["BMIN"], header["BPA"] = beam.bmaj_arcsec / 3600, beam.bmin_arcsec / 3600, beam.bpa_deg
    header["BUNIT"] = "Jy/beam"
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in (("image", image), ("residual", noise), ("pb", response)):
        fits.PrimaryHDU(data.astype(np.float32), header).writeto(folder / f"{name}.fits", overwrite=True)
    return ImageFiles(folder / "image.fits", beam, folder / "residual.fits", folder / "pb.fits")


def add_source(image: np.ndarray, x: float, y: float, peak: float, beam: RestoringBeam) -> None:
    """Into the pixels around it, out to ten times the beam's dispersion and more."""
    half = int(5 * beam.bmaj_arcsec / PIXEL_ARCSEC)
    left, bottom = max(0, round(x) - half), max(0, round(y) - half)
    stamp = image[bottom : round(y) + half + 1, left : round(x) + half + 1]
    if stamp.size:
        side = max(stamp.shape)
        stamp += peak * gaussian(x - left, y - bottom, side, beam)[: stamp.shape[0], : stamp.shape[1]]


def wcs_response(response: np.ndarray, x: float, y: float) -> float:
    row, column = round(y), round(x)
    inside = 0 <= row < response.shape[0] and 0 <= column < response.shape[1]
    return float(response[row, column]) if inside else 0.0


def make_tile(
    root: Path, sources: Sequence[tuple[float, float, float]], *, day: int = 0, grade: str = "good", **sky
) -> Image:
    """The files under the products root and the row of a tile; `day` is its epoch and its noise."""
    number = Image.objects.count()
    files = write_tile(root / f"tile{number}", sources, seed=100 + day, **sky)
    return ImageFactory(
        name=f"tile of day {day}",
        path=f"tile{number}/corrected.fits",
        flat_noise_path=f"tile{number}/image.fits",
        residual_path=f"tile{number}/residual.fits",
        primary_beam_path=f"tile{number}/pb.fits",
        observed_at=FIRST + timedelta(days=day),
        ra_deg=sky.get("ra_deg", 150.0),
        dec_deg=sky.get("dec_deg", 30.0),
        radius_deg=sky.get("size_px", 256) * PIXEL_ARCSEC / 3600 / np.sqrt(2),
        width_px=sky.get("size_px", 256),
        height_px=sky.get("size_px", 256),
        pixel_arcsec=PIXEL_ARCSEC,
        bmaj_arcsec=files.beam.bmaj_arcsec,
        bmin_arcsec=files.beam.bmin_arcsec,
        bpa_deg=files.beam.bpa_deg,
        grade=grade,
    )


def offset(ra_deg: float, dec_deg: float, east_arcsec: float, north_arcsec: float) -> tuple[float, float]:
    """The ICRS position so far from another, on the great circle."""
    start = SkyCoord(ra_deg * u.deg, dec_deg * u.deg)
    angle = np.arctan2(east_arcsec, north_arcsec) * u.rad
    place = start.directional_offset_by(angle, np.hypot(east_arcsec, north_arcsec) * u.arcsec)
    return float(place.ra.deg), float(place.dec.deg)
