"""Reads radio FITS as it really comes.

Whatever the file holds (2-D to 5-D with axes in any order, scaled integers, an empty primary, gzip) is seen as one
`Plane`: 2-D (dec, ra), native floats, NaN where blank. Data stay memory-mapped and are taken in blocks of rows, so a
reader's memory does not grow with the file.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import math
import os
import re
import shutil
import tempfile
import warnings
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TypeAlias

import astropy.units as u
import numpy as np
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.io.fits.hdu.compressed._compression import CfitsioException
from astropy.wcs import WCS, WcsError
from astropy.wcs.utils import proj_plane_pixel_scales, wcs_to_celestial_frame

from contimg.exceptions import InvalidInput, NotReadable
from images.engines import fits_cards as cards
from images.engines.fits_cards import Beam
from images.engines.outline import Edge, border, outline

BLOCK_PX = 4_000_000
MEDIAN_PX = 16_000_000  # above this the median and MAD are of every k-th pixel: their error stays below 0.05 %
MAD_TO_RMS = 1.4826  # of a normal distribution
# Magnitudes between which sums, differences and ratios of float32 neither overflow nor vanish, and all flux densities.
USUAL = (1e-30, 1e30)
PIXEL_DEG = (1e-12, 180.0)  # beyond, no pixel is
# A beam is some pixels wide, and wider than the image only in a cutout; arcsec written as degrees are 3600 times it.
LARGEST_BEAM_PX, LARGEST_BEAM_IMAGES = 1000, 10
MAX_AXES = 999  # of the FITS standard, for axes and for columns
# What astropy and wcslib are seen to raise on headers that contradict themselves (tests/images/test_odd_fits.py).
_PARSING_FAILURES = (
    fits.VerifyError, WcsError, CfitsioException, zlib.error, OSError, ArithmeticError, AssertionError,
    AttributeError, LookupError, MemoryError, RuntimeError, TypeError, ValueError,
)  # fmt: skip
ImageHDU: TypeAlias = fits.PrimaryHDU | fits.ImageHDU | fits.CompImageHDU
GZIP_MAGIC, FITS_MAGIC = b"\x1f\x8b", b"SIMPLE  ="

# What a content checksum covers besides the pixels: coordinates, beam, unit, frequency. Never dates, never history.
_CONTENT_CARDS = re.compile(
    r"NAXIS\d*|(CTYPE|CRVAL|CRPIX|CDELT|CUNIT|CROTA)\d+|(PC|CD|PV)\d+_\d+|LONPOLE|LATPOLE|RADESYS|EQUINOX|EPOCH"
    r"|BMAJ|BMIN|BPA|BUNIT|RESTFRQ|RESTFREQ|FREQ|SPECSYS"
)


class NoSuchFile(InvalidInput):
    code = "no_such_file"


class NotFits(InvalidInput):
    code = "fits_not_fits"


class Truncated(InvalidInput):
    """The file ends before its data do."""

    code = "fits_truncated"


class Corrupt(InvalidInput):
    """The header contradicts itself or cannot be parsed."""

    code = "fits_corrupt"


class NoImage(InvalidInput):
    """Tables, spectra or visibilities only."""

    code = "fits_no_image"


class NoWcs(InvalidInput):
    """The image does not say where on the sky it is."""

    code = "fits_no_wcs"


class OtherFrame(InvalidInput):
    """A map of the Sun, a planet or the Earth, or of coordinates that astropy does not turn into ICRS."""

    code = "fits_other_frame"


class AllBlank(InvalidInput):
    code = "fits_all_blank"


class CasaDirectory(InvalidInput):
    """A CASA table (a folder) where a file was expected."""

    code = "casa_image_directory"


@dataclass(frozen=True, kw_only=True)
class FitsFacts:
    """What one image says and what was measured of it, in contimg's units; `notes` are sentences on what was odd."""

    checksum: str
    size_bytes: int
    width_px: int
    height_px: int
    pixel_arcsec: float
    ra_deg: float  # ICRS, image centre, in [0, 360)
    dec_deg: float
    radius_deg: float  # centre to the farthest of its border
    edges: tuple[Edge, ...]  # four, or none where they do not bound it
    beam: Beam | None
    unit: str  # BUNIT as written
    frequency_hz: float | None
    bandwidth_hz: float | None
    observed_at: datetime | None
    rms_jy_per_beam: float | None  # 1.4826 x MAD; None when the unit is not known
    peak_jy_per_beam: float | None
    lowest_jy_per_beam: float | None  # of the finite pixels
    finite_fraction: float
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Plane:
    """The celestial plane of an image, still on disk."""

    raw: np.ndarray  # (dec, ra), memory-mapped, as stored
    scale: float
    zero: float
    blank: int | None
    header: fits.Header  # of the whole image, without HISTORY and COMMENT
    history: tuple[str, ...]
    wcs: WCS  # celestial, 2-D
    beams_table: fits.FITS_rec | None

    @property
    def height_px(self) -> int:
        return self.raw.shape[0]

    @property
    def width_px(self) -> int:
        return self.raw.shape[1]

    def values(self, rows: slice, columns: slice = slice(None)) -> np.ndarray:
        """Part of the plane as native floats: float32 where that is exact, else float64."""
        stored = self.raw[rows, columns]
        if stored.dtype.kind == "f":
            values = stored.astype(stored.dtype.newbyteorder("="))
            return values if (self.scale, self.zero) == (1.0, 0.0) else values * self.scale + self.zero
        values = stored * np.float64(self.scale) + self.zero
        if self.blank is not None:
            values[stored == self.blank] = np.nan
        return values

    def beam(self, notes: list[str]) -> Beam | None:
        largest_px = min(LARGEST_BEAM_PX, LARGEST_BEAM_IMAGES * max(self.width_px, self.height_px))
        largest_arcsec = largest_px * pixel_arcsec(self.wcs)
        return cards.beam(self.header, self.history, self.beams_table, largest_arcsec, notes)

    def blocks(self, multiple_of: int = 1) -> Iterator[np.ndarray]:
        """All rows in turn, some 4 Mpx at once, each block (but the last) a multiple of so many rows high."""
        step = max(1, BLOCK_PX // self.width_px // multiple_of) * multiple_of
        for first in range(0, self.height_px, step):
            yield self.values(slice(first, first + step))

    def celestial_header(self) -> fits.Header:
        """A 2-D header: the celestial WCS and the cards that describe the image."""
        header = self.wcs.to_header()
        for keyword in ("BMAJ", "BMIN", "BPA", "BUNIT", "RESTFRQ", "FREQ", "DATE-OBS", "DATE-AVG", "OBJECT"):
            if keyword in self.header:
                header[keyword] = self.header[keyword]
        return header


@contextlib.contextmanager
def open_plane(path: Path) -> Iterator[Plane]:
    """The first celestial plane of the first image in a file; gzip is expanded into a temporary file.

    Raises the refusals of this module, each a sentence that names the file, and NotReadable.
    """
    with tempfile.TemporaryDirectory(prefix="contimg-fits-") as folder:
        plain = uncompressed(path, Path(folder))
        with _open_fits(path, plain) as hdus:
            yield _plane(path, hdus, plain.stat().st_size)


def uncompressed(path: Path, folder: Path) -> Path:
    """The file itself, or what it expands to (a megabyte at a time) in `folder` when it is gzip by its first bytes."""
    _refuse_what_is_no_file(path)
    if not _first_bytes(path).startswith(GZIP_MAGIC):
        return path
    target = folder / path.name.removesuffix(".gz")
    try:
        with gzip.open(path) as packed, target.open("wb") as out:
            shutil.copyfileobj(packed, out, 1 << 20)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise Truncated(f"{path.name} is a broken gzip file ({error}); fetch it again.") from error
    return target


def read_facts(path: Path) -> FitsFacts:
    """Everything that a row of `Image` says about a file. Two passes over the pixels, in blocks."""
    with open_plane(path) as plane:
        notes: list[str] = []
        beam = plane.beam(notes)
        unit = str(plane.header.get("BUNIT", "")).strip()
        factor = cards.jy_per_beam_factor(unit, has_beam=beam is not None, notes=notes)
        frequency_hz, bandwidth_hz = cards.frequency(plane.header, notes)
        finite_fraction, peak, lowest, rms = _measure(path, plane, notes)
        centre, radius_deg, edges = _position(path, plane)
        return FitsFacts(
            checksum=_checksum(plane),
            size_bytes=Path(path).stat().st_size,
            width_px=plane.width_px,
            height_px=plane.height_px,
            pixel_arcsec=pixel_arcsec(plane.wcs),
            ra_deg=normalised_ra(centre.ra.deg),
            dec_deg=float(centre.dec.deg),
            radius_deg=radius_deg,
            edges=edges,
            beam=beam,
            unit=unit,
            frequency_hz=frequency_hz,
            bandwidth_hz=bandwidth_hz,
            observed_at=cards.observed_at(plane.header, notes),
            rms_jy_per_beam=_in_jy_per_beam(rms, factor, "rms", notes),
            peak_jy_per_beam=_in_jy_per_beam(peak, factor, "peak", notes),
            lowest_jy_per_beam=_in_jy_per_beam(lowest, factor, "lowest pixel", notes),
            finite_fraction=finite_fraction,
            notes=tuple(notes),
        )


def content_checksum(path: Path) -> str:
    """SHA-256 of the pixels and of the cards that give them meaning; dates and history are left out."""
    with open_plane(path) as plane:
        return _checksum(plane)


def read_plane(path: Path) -> tuple[np.ndarray, fits.Header]:
    """The whole plane (dec, ra) as native floats, NaN where blank, and its 2-D header."""
    with open_plane(path) as plane:
        return plane.values(slice(None)), plane.celestial_header()


def covers(path: Path, ra_deg, dec_deg) -> np.ndarray:
    """For each ICRS position whether the image has a finite pixel there, as a boolean array."""
    with open_plane(path) as plane:
        x, y, inside = pixels_of(plane, ra_deg, dec_deg)
        for i in np.flatnonzero(inside):
            column, row = round(float(x[i])), round(float(y[i]))
            inside[i] = np.isfinite(plane.values(slice(row, row + 1), slice(column, column + 1))).all()
    return inside


def pixels_of(plane: Plane, ra_deg, dec_deg) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each ICRS position its column and row (from 0, with fractions), and whether that is inside of the image."""
    position = SkyCoord(np.atleast_1d(ra_deg), np.atleast_1d(dec_deg), unit=u.deg, frame="icrs")
    x, y = plane.wcs.world_to_pixel(position)
    with np.errstate(invalid="ignore"):
        inside = (x >= -0.5) & (x < plane.width_px - 0.5) & (y >= -0.5) & (y < plane.height_px - 0.5)
    # A zenithal projection gives positions behind the tangent plane a pixel too; only a true one leads back.
    back = plane.wcs.pixel_to_world(np.where(inside, x, 0.0), np.where(inside, y, 0.0))
    inside &= back.icrs.separation(position).deg < 2 * pixel_arcsec(plane.wcs) / 3600
    return x, y, inside


def is_casa_table(path: Path) -> bool:
    """CASA images and measurement sets are folders with a `table.dat`."""
    return os.path.isfile(path / "table.dat")  # unlike Path.is_file, False also where it may not look


def is_casa_image(path: Path) -> bool:
    try:
        return is_casa_table(path) and "Type = Image" in (path / "table.info").read_text(errors="replace")
    except OSError:
        return False


def normalised_ra(ra_deg: float) -> float:
    """RA in [0, 360): a plain modulo turns -1e-15 into 360.0."""
    wrapped = float(ra_deg) % 360.0
    return 0.0 if wrapped >= 360.0 else wrapped


def pixel_arcsec(wcs: WCS) -> float:
    """The side of a square of one pixel's area at the reference position, without the noise of its last digits."""
    return round(float(np.sqrt(np.prod(proj_plane_pixel_scales(wcs)))) * 3600, 9)


# --- opening ------------------------------------------------------------------------------------------------------
def _refuse_what_is_no_file(path: Path) -> None:
    try:
        if is_casa_table(path):
            name = path.name
            raise CasaDirectory(
                f"{name} is a CASA table (a folder), not a FITS file; in CASA run"
                f" exportfits(imagename='{name}', fitsimage='{path.stem}.fits') and register that."
            )
        if path.is_dir():
            raise NotFits(f"{path.name} is a folder, not a FITS file.")
        if not path.exists():
            raise NoSuchFile(f"{path.name} does not exist; check the path.")
        if not path.is_file():
            raise NotFits(f"{path.name} is not a regular file.")
    except OSError as error:
        raise _not_readable(path, error) from error


def _not_readable(path: Path, error: OSError) -> NotReadable:
    return NotReadable(f"{path.name} cannot be read ({os.strerror(error.errno or 0)}); check its permissions.")


def _first_bytes(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(len(FITS_MAGIC))
    except OSError as error:
        raise _not_readable(path, error) from error


@contextlib.contextmanager
def _open_fits(path: Path, plain: Path) -> Iterator[fits.HDUList]:
    start = _first_bytes(plain)
    if not start:
        raise Truncated(f"{path.name} is empty; fetch it again.")
    if start != FITS_MAGIC:
        raise NotFits(f"{path.name} is not a FITS file: it does not begin with SIMPLE.")
    with _parsing(path):
        _refuse_endless_headers(path, plain)
        try:
            hdus = fits.open(plain, memmap=True, do_not_scale_image_data=True, uint=False)
        except OSError as error:
            raise Truncated(f"{path.name} ends inside its first header; fetch it again.") from error
    with hdus:
        yield hdus


@contextlib.contextmanager
def _parsing(path: Path) -> Iterator[None]:
    """Around all that makes astropy parse: a header that contradicts itself surfaces in many ways and gets one name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # astropy and wcslib repair and report much that is common in radio FITS
        try:
            yield
        except _PARSING_FAILURES as error:
            raise Corrupt(f"{path.name} has a header that cannot be used ({_one_line(error)}).") from error


def _refuse_endless_headers(path: Path, plain: Path) -> None:
    """astropy looks for as many axes and columns as a header claims; for 2^31 of them that takes hours and all memory.

    The headers are looked at one after the other, as far as they can be read; the rest is for `fits.open` to refuse.
    """
    with plain.open("rb") as file:
        while True:
            try:
                header = fits.Header.fromfile(file, endcard=True)
            except (EOFError, OSError, ValueError):
                return
            for keyword in ("NAXIS", "TFIELDS", "WCSAXES", "ZNAXIS"):
                if not 0 <= (cards.number(header, keyword) or 0) <= MAX_AXES:
                    raise Corrupt(f"{path.name} has a header with {keyword} = {header[keyword]}, which none has.")
            file.seek(header.data_size_padded, os.SEEK_CUR)


def _plane(path: Path, hdus: fits.HDUList, size_bytes: int) -> Plane:
    with _parsing(path):
        hdu, header, history, sky_axes = _image(path, hdus)
        wcs = _wcs(path, header, sky_axes)
        _refuse_truncated(path, hdu, size_bytes)
        return Plane(
            raw=_celestial_view(hdu.data, sky_axes),
            scale=float(hdu.header.get("BSCALE", 1.0)),
            zero=float(hdu.header.get("BZERO", 0.0)),
            blank=hdu.header.get("BLANK"),
            header=header,
            history=tuple(history),
            wcs=wcs,
            beams_table=_beams_table(hdus, header),
        )


def _refuse_truncated(path: Path, hdu: ImageHDU, size_bytes: int) -> None:
    if isinstance(hdu, fits.CompImageHDU):
        return  # its size is that of the image it expands to
    end = hdu.fileinfo()["datLoc"] + hdu.size
    if end > size_bytes:
        raise Truncated(f"{path.name} is truncated: it has {size_bytes} of the {end} bytes its header promises.")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__


def _image(path: Path, hdus: fits.HDUList) -> tuple[ImageHDU, fits.Header, list[str], tuple[int, int]]:
    """The first image with both sky axes: the primary, or an extension behind an empty primary."""
    has_image, other = False, ""
    for hdu in hdus:
        if not hdu.is_image or len(hdu.shape) < 2 or 0 in hdu.shape:
            continue
        has_image = True
        header, history = cards.split(hdu.header)
        sky_axes = cards.sky_axes(header)
        if sky_axes:
            return hdu, header, history, sky_axes
        other = other or " and ".join(cards.axes_of_another_sky(header))
    if other:
        raise OtherFrame(
            f"{path.name} is a map in {other}, which leads to no ICRS position; only right ascension and declination,"
            " or galactic coordinates do."
        )
    if has_image:
        raise NoWcs(f"{path.name} has no celestial WCS (CTYPE such as RA---SIN), so nobody knows what it shows.")
    raise NoImage(f"{path.name} holds no image of two or more axes.")


def _wcs(path: Path, header: fits.Header, sky_axes: tuple[int, int]) -> WCS:
    sky = cards.sky_header(header, sky_axes)
    gaps = cards.gaps(sky, sky_axes)
    if gaps:
        raise NoWcs(f"{path.name} does not say where it is: {', '.join(gaps)} is missing or not a number.")
    try:
        wcs = WCS(sky)
        wcs.wcs_pix2world([[0.0, 0.0]], 0)  # computes what the constructor leaves for later
    except (WcsError, ValueError) as error:
        raise NoWcs(f"{path.name} has a WCS that cannot be computed ({_one_line(error)}).") from error
    scales = proj_plane_pixel_scales(wcs)
    if not ((scales >= PIXEL_DEG[0]) & (scales <= PIXEL_DEG[1])).all():
        raise NoWcs(f"{path.name} has pixels of {scales[0]:g} x {scales[1]:g} degrees, which none are.")
    try:
        wcs_to_celestial_frame(wcs)
    except ValueError as error:
        frame = f"RADESYS {wcs.wcs.radesys!r} and EQUINOX {wcs.wcs.equinox:g}"
        raise OtherFrame(f"{path.name} is in a frame that astropy does not turn into ICRS ({frame}).") from error
    return wcs


def _celestial_view(data: np.ndarray, sky_axes: tuple[int, int]) -> np.ndarray:
    """(dec, ra) of the first frequency, Stokes and whatever else; FITS axis k is numpy axis NAXIS - k."""
    if data is None or data.size == 0:  # the header's axes may not be what astropy makes of the data
        raise ValueError("no data behind the header")
    longitude, latitude = (data.ndim - axis for axis in sky_axes)
    view = data[tuple(slice(None) if axis in (longitude, latitude) else 0 for axis in range(data.ndim))]
    return view if latitude < longitude else view.T


def _beams_table(hdus: fits.HDUList, header: fits.Header) -> fits.FITS_rec | None:
    if cards.number(header, "BMAJ") is not None or "BEAMS" not in hdus:
        return None
    return hdus["BEAMS"].data


# --- measuring ----------------------------------------------------------------------------------------------------
def _measure(path: Path, plane: Plane, notes: list[str]) -> tuple[float, float, float, float | None]:
    """Finite fraction, highest and lowest pixel and robust rms, the last three in the file's unit."""
    n_pixels = plane.width_px * plane.height_px
    step = _sampling_step(n_pixels, plane.width_px)
    n_finite, peak, lowest, samples, offset = 0, -math.inf, math.inf, [], 0
    for block in plane.blocks():
        finite = np.isfinite(block)
        n_finite += int(finite.sum())
        peak = max(peak, float(block.max(initial=-math.inf, where=finite)))
        lowest = min(lowest, float(block.min(initial=math.inf, where=finite)))
        sample = block.ravel()[-offset % step :: step]
        sample = sample[np.isfinite(sample)]
        samples.append(sample.astype(np.float32) if is_usual(largest(sample)) else sample)
        offset += block.size
    if n_finite == 0:
        raise AllBlank(f"{path.name} has no finite pixel in its first plane: there is nothing to look at.")
    rms = robust_rms(np.concatenate(samples)) or None
    if rms is None:
        notes.append("More than half of the pixels have the same value; the noise is unknown.")
    return n_finite / n_pixels, peak, lowest, rms


def _in_jy_per_beam(value: float | None, factor: float | None, what: str, notes: list[str]) -> float | None:
    """None when the unit is not known, and for what no telescope measures and no database could divide."""
    if value is None or factor is None:
        return None
    if not is_usual(value * factor):
        notes.append(f"The {what} is {value:g}, which is no flux density; left out.")
        return None
    return value * factor


def is_usual(magnitude: float) -> bool:
    return magnitude == 0 or USUAL[0] <= abs(magnitude) <= USUAL[1]


def largest(values: np.ndarray) -> float:
    """The largest magnitude of finite values; 0 for no values."""
    return max(float(values.max()), -float(values.min())) if values.size else 0.0


def robust_rms(values: np.ndarray) -> float:
    """1.4826 x the median absolute deviation from the median; 0 for no values, infinite beyond a float's range."""
    if values.size == 0:
        return 0.0
    scale = largest(values)
    if not is_usual(scale):
        return robust_rms(values.astype(np.float64) / scale) * scale
    deviations = np.abs(values - np.median(values))
    return float(np.median(deviations)) * MAD_TO_RMS


def _sampling_step(n_pixels: int, width_px: int) -> int:
    """Every how many pixels to sample; without a common divisor with the width, so that all columns are seen."""
    step = -(-n_pixels // MEDIAN_PX)
    while math.gcd(step, width_px) > 1:
        step += 1
    return step


def _position(path: Path, plane: Plane) -> tuple[SkyCoord, float, tuple[Edge, ...]]:
    """The ICRS position of the image's centre, the distance to the farthest of its border, and its edges.

    180 degrees for an image whose border is in part off the sky, as that of an all-sky image is.
    """
    size = plane.width_px, plane.height_px
    centre = plane.wcs.pixel_to_world((size[0] - 1) / 2, (size[1] - 1) / 2).icrs
    if not np.isfinite([centre.ra.deg, centre.dec.deg]).all():
        raise NoWcs(f"{path.name} has a WCS whose image centre is not on the sky.")
    distances = centre.separation(border(plane.wcs, *size)).deg
    radius_deg = float(distances.max()) if np.isfinite(distances).all() else 180.0
    return centre, radius_deg, outline(plane.wcs, *size, pixel_arcsec(plane.wcs), centre)


def _checksum(plane: Plane) -> str:
    """Pixels as big-endian floats with one kind of NaN, after the content cards in canonical JSON."""
    content = {key: plane.header[key] for key in plane.header if _CONTENT_CARDS.fullmatch(key)}
    digest = hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode())
    for block in plane.blocks():
        block[np.isnan(block)] = np.nan
        digest.update(np.ascontiguousarray(block, dtype=block.dtype.newbyteorder(">")).data)
    return digest.hexdigest()
