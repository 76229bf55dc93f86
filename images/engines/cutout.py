"""A square of pixels around a point, of an image that stays on disk: the file is memory-mapped, and what is read of it
is the square."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS, Sip
from PIL import Image as Picture

from contimg.exceptions import InvalidInput
from images.engines import fits_cards as cards
from images.engines.fits import Plane, largest, open_plane, pixels_of, robust_rms

# Of the original header: what it shows, in what, when. Not HISTORY, which may name places on the disk.
KEPT_CARDS = (
    "BUNIT", "RESTFRQ", "RESTFREQ", "FREQ", "BANDWID", "SPECSYS", "DATE-OBS", "DATE-AVG", "DATE-BEG", "DATE-END",
    "TIMESYS", "MJD-OBS", "MJD-AVG", "TELESCOP", "INSTRUME", "OBJECT", "ORIGIN",
)  # fmt: skip
BELOW_MEDIAN_RMS, BRIGHTEST_RMS, SOFTENING_RMS = 2.5, 300, 4  # grey scale: linear about the noise, logarithmic above
SAMPLED_PX = 200_000  # of which the noise is told


class OutsideImage(InvalidInput):
    """The image does not cover the point that was asked for."""

    code = "outside_image"


@dataclass(frozen=True)
class Cutout:
    pixels: np.ndarray  # (dec, ra), NaN where blank and beyond the image
    header: fits.Header


def cut(path: Path, *, ra_deg: float, dec_deg: float, size_px: int) -> Cutout:
    """The square whose pixel `size_px // 2` holds the point (ICRS).

    Raises OutsideImage and what open_plane raises.
    """
    with open_plane(path) as plane:
        x, y, inside = pixels_of(plane, ra_deg, dec_deg)
        if not inside[0]:
            raise OutsideImage(
                f"The point {ra_deg:.5f} {dec_deg:+.5f} is not in this image; `?covers_ra_deg=&covers_dec_deg=` of the"
                " list of images finds those that have it."
            )
        column, row = round(float(x[0])) - size_px // 2, round(float(y[0])) - size_px // 2
        return Cutout(_square(plane, column, row, size_px), _header(plane, column, row))


def as_fits(cutout: Cutout, *, origin: Mapping[str, str | int]) -> bytes:
    """`origin` are cards that say which image it is from."""
    header = cutout.header.copy()
    for keyword, value in origin.items():
        header[keyword] = value.encode("ascii", "replace").decode() if isinstance(value, str) else value
    out = BytesIO()
    fits.PrimaryHDU(cutout.pixels, header).writeto(out)
    return out.getvalue()


def as_png(cutout: Cutout) -> bytes:
    """Grey from below the noise to the peak, blank pixels transparent; rows as on the sky, the first at the bottom."""
    grey, is_blank = stretched(cutout.pixels)
    out = BytesIO()
    picture = Picture.fromarray(np.dstack([grey, np.where(is_blank, 0, 255).astype(np.uint8)])[::-1], "LA")
    picture.save(out, "PNG", compress_level=1)  # six times as fast as the default; noise does not compress
    return out.getvalue()


def stretched(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pixels as 0 to 255, and which of them are blank."""
    is_blank = ~np.isfinite(pixels)
    values = np.where(is_blank, 0.0, pixels).astype(np.float64)
    seen = values[~is_blank]
    if seen.size == 0:
        return np.zeros(pixels.shape, np.uint8), is_blank
    sample = seen[:: max(1, seen.size // SAMPLED_PX)]
    unit = robust_rms(sample) or largest(seen) or 1.0
    with np.errstate(over="ignore"):
        above = np.clip(values / unit - np.median(sample / unit), -BELOW_MEDIAN_RMS, BRIGHTEST_RMS) + BELOW_MEDIAN_RMS
    height = np.arcsinh(above / SOFTENING_RMS)
    highest = max(float(height[~is_blank].max()), np.arcsinh(2 * BELOW_MEDIAN_RMS / SOFTENING_RMS))
    return np.round(255 * height / highest).astype(np.uint8), is_blank


def _square(plane: Plane, column: int, row: int, size_px: int) -> np.ndarray:
    columns = slice(max(column, 0), min(column + size_px, plane.width_px))
    rows = slice(max(row, 0), min(row + size_px, plane.height_px))
    there = plane.values(rows, columns)
    pixels = np.full((size_px, size_px), np.nan, there.dtype)
    pixels[rows.start - row : rows.stop - row, columns.start - column : columns.stop - column] = there
    return pixels


def _header(plane: Plane, column: int, row: int) -> fits.Header:
    header = _moved(plane.wcs, column, row).to_header(relax=True)
    for keyword in KEPT_CARDS:
        if keyword not in header and keyword in plane.header:
            header[keyword] = plane.header[keyword]
    notes: list[str] = []
    beam = plane.beam(notes)  # also of a table, or of the HISTORY, which are not here any more
    if beam is not None:
        header["BMAJ"], header["BMIN"], header["BPA"] = beam.bmaj_arcsec / 3600, beam.bmin_arcsec / 3600, beam.bpa_deg
    frequency_hz, _ = cards.frequency(plane.header, notes)
    if frequency_hz is not None and "FREQ" not in header:
        header["FREQ"] = frequency_hz  # it may have been on an axis
    return header


def _moved(wcs: WCS, column: int, row: int) -> WCS:
    """The same sky seen from another first pixel. A slice of a WCS would not begin before the image does."""
    moved = wcs.deepcopy()
    moved.wcs.crpix = moved.wcs.crpix - (column, row)
    if wcs.sip is not None:
        moved.sip = Sip(wcs.sip.a, wcs.sip.b, wcs.sip.ap, wcs.sip.bp, moved.wcs.crpix)
    return moved
