"""Makes FITS files with the oddities of real radio archives."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS

NOISE = 1e-3
PEAK = 0.5
WIDTH, HEIGHT = 60, 40  # not square, so that swapped axes are seen


def sky(width: int = WIDTH, height: int = HEIGHT, seed: int = 1) -> np.ndarray:
    """Noise of 1 mJy/beam and one source of 0.5 Jy/beam right of and above the middle, as float32 (dec, ra)."""
    data = np.random.default_rng(seed).normal(0, NOISE, (height, width)).astype(np.float32)
    data[height * 3 // 4, width * 3 // 4] = PEAK
    return data


def celestial_cards(ra_deg: float = 150.0, dec_deg: float = 30.0, width: int = WIDTH, height: int = HEIGHT) -> dict:
    return {
        "CTYPE1": "RA---SIN", "CRVAL1": ra_deg, "CRPIX1": width / 2 + 0.5, "CDELT1": -2 / 3600, "CUNIT1": "deg",
        "CTYPE2": "DEC--SIN", "CRVAL2": dec_deg, "CRPIX2": height / 2 + 0.5, "CDELT2": 2 / 3600, "CUNIT2": "deg",
    }  # fmt: skip


def frequency_axis(axis: int, hz: float = 1.4e9, width_hz: float = 1e8) -> dict:
    return {
        f"CTYPE{axis}": "FREQ", f"CRVAL{axis}": hz, f"CRPIX{axis}": 1.0, f"CDELT{axis}": width_hz, f"CUNIT{axis}": "Hz",
    }  # fmt: skip


def stokes_axis(axis: int) -> dict:
    return {f"CTYPE{axis}": "STOKES", f"CRVAL{axis}": 1.0, f"CRPIX{axis}": 1.0, f"CDELT{axis}": 1.0}


BEAM = {"BMAJ": 10 / 3600, "BMIN": 8 / 3600, "BPA": 30.0}
PLAIN = {**BEAM, "BUNIT": "Jy/beam", "RESTFRQ": 1.4e9, "DATE-OBS": "2024-05-06T07:08:09.5"}


def write(path: Path, data: np.ndarray | None = None, history: list[str] | None = None, **cards) -> Path:
    """`cards` over a plain header; None leaves a card out. DATE_OBS stands for DATE-OBS and so on."""
    header = fits.Header()
    wanted = {
        **celestial_cards(),
        **PLAIN,
        **{re.sub(r"^(DATE|MJD)_", r"\1-", key): value for key, value in cards.items()},
    }
    for key, value in wanted.items():
        if value is not None:
            header[key] = value
    for line in history or []:
        header["HISTORY"] = line
    fits.PrimaryHDU(sky() if data is None else data, header).writeto(path)
    return path


def pixel_position(header: fits.Header, column: float, row: float) -> tuple[float, float]:
    """RA and dec (deg) of a pixel counted from 0."""
    ra, dec = WCS(header).wcs_pix2world([[column, row]], 0)[0]
    return float(ra), float(dec)
