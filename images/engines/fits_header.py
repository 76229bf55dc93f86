"""FITS products of contimg: 2-D float32 (dec, ra), RA---SIN, with everything an astronomer's tool looks for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from astropy.io import fits
from astropy.time import Time

from images.engines.imager import ImagingParameters
from observations.engines.measurement_set import Header

if TYPE_CHECKING:
    from images.engines.imager import CleanResult


def celestial_header(header: Header, *, size_px: int, pixel_arcsec: float) -> fits.Header:
    """RA---SIN around the phase centre, which is pixel N/2 + 1 (1-based), RA increasing to the left."""
    out = fits.Header()
    centre = size_px // 2 + 1
    for axis, (kind, value, step) in enumerate(
        (("RA---SIN", np.degrees(header.ra_rad) % 360, -1), ("DEC--SIN", np.degrees(header.dec_rad), 1)), start=1
    ):
        out[f"CTYPE{axis}"] = kind
        out[f"CRVAL{axis}"] = value
        out[f"CDELT{axis}"] = step * pixel_arcsec / 3600
        out[f"CRPIX{axis}"] = float(centre)
        out[f"CUNIT{axis}"] = "deg"
    out["RADESYS"] = "ICRS"
    out["EQUINOX"] = 2000.0
    return out


def write_product(
    path: Path,
    data: np.ndarray,
    *,
    header: Header,
    result: CleanResult,
    parameters: ImagingParameters,
    versions: dict[str, str],
) -> None:
    """Write one image of an imager with beam, unit, frequency, time and the history of how it was made."""
    out = celestial_header(header, size_px=parameters.size_px, pixel_arcsec=parameters.pixel_arcsec)
    out["BMAJ"] = (result.bmaj_arcsec / 3600, "deg")
    out["BMIN"] = (result.bmin_arcsec / 3600, "deg")
    out["BPA"] = (result.bpa_deg, "deg")
    out["BUNIT"] = "Jy/beam"
    out["RESTFRQ"] = (result.frequency_hz, "Hz")
    out["FREQ"] = (result.frequency_hz, "Hz")
    out["BANDWID"] = (header.channel_width_hz * header.frequency_hz.size, "Hz")
    start = header.times_s[0] / 86400 - header.integration_s / 2 / 86400
    out["DATE-OBS"] = Time(start, format="mjd", scale="utc").isot
    out["MJD-OBS"] = start
    out["DATE-AVG"] = Time(header.mid_mjd, format="mjd", scale="utc").isot
    out["MJD-AVG"] = header.mid_mjd
    out["TELESCOP"] = "DSA-110"
    out["ORIGIN"] = "contimg"
    for name, value in {**versions, **vars(parameters)}.items():
        out["HISTORY"] = f"{name} = {value}"
    fits.PrimaryHDU(np.asarray(data, dtype=np.float32), out).writeto(path)
