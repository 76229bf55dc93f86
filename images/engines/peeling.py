"""Image a set in two parts: calibrators by their model, everything else by CLEAN.

A source of 15 Jy that drifts through the beam and has a spectrum is no constant point: what CLEAN cannot fit of it is
a few mJy over the whole field (measured: the residual of a noiseless tile falls from 2.0 to 0.3 mJy/beam). Its model
is known, so it is taken out of the visibilities, and put back into the image as a restored point at its mean flux.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS

from calibration.engines.field_model import subtract
from calibration.engines.model import CalibratorModel
from images.engines.antenna_gains import AntennaGain, antenna_gains
from images.engines.clean import Beam
from images.engines.embedded import clean_components
from images.engines.fits_header import celestial_header
from images.engines.imager import CleanResult, Imager, ImagingParameters


def image_with_calibrators(
    *,
    imager: Imager,
    measurement_set: Path,
    calibrators: Sequence[CalibratorModel],
    pointing_dec_deg: float,
    output_folder: Path,
    parameters: ImagingParameters,
    threads: int,
    progress: Callable[[float], None] = lambda fraction: None,
) -> tuple[CleanResult, list[AntennaGain]]:
    """As `imager.make`, with the calibrators subtracted before and restored after; and the gains of antennas."""
    imaged, fluxes = measurement_set, []
    if calibrators:
        imaged = output_folder / "peeled.ms"
        fluxes = subtract(
            measurement_set=measurement_set, models=calibrators, pointing_dec_deg=pointing_dec_deg, output=imaged
        )
    result = imager.make(
        measurement_set=imaged,
        output_folder=output_folder,
        parameters=parameters,
        threads=threads,
        progress=progress,
    )
    gains = antenna_gains(
        measurement_set=measurement_set,
        image=result.image_path,
        residual=result.residual_path,
        threads=threads,
        imaged=imaged if calibrators else None,
    )
    if not calibrators:
        return result, gains
    with fits.open(result.image_path, mode="update") as hdus:
        for calibrator, flux in zip(calibrators, fluxes, strict=True):
            _restore(hdus[0], calibrator, flux, result, parameters.pixel_arcsec)
    return result, gains


def _restore(
    hdu: fits.PrimaryHDU, calibrator: CalibratorModel, flux_jy: float, result: CleanResult, pixel_arcsec: float
) -> None:
    beam = Beam(result.bmaj_arcsec / pixel_arcsec, result.bmin_arcsec / pixel_arcsec, result.bpa_deg)
    x, y = (float(value) for value in WCS(hdu.header).all_world2pix(calibrator.ra_deg, calibrator.dec_deg, 0))
    reach = int(np.ceil(3 * beam.major_px))
    height, width = hdu.data.shape
    bottom, top = max(0, int(y) - reach), min(height, int(y) + reach + 2)
    left, right = max(0, int(x) - reach), min(width, int(x) + reach + 2)
    if bottom < top and left < right:
        rows, columns = np.mgrid[bottom:top, left:right]
        hdu.data[bottom:top, left:right] += flux_jy * beam.kernel(rows - y, columns - x)
    hdu.header["HISTORY"] = f"{calibrator.name} subtracted before CLEAN and restored at its model's {flux_jy:.4f} Jy"


def write_field_model(
    *,
    measurement_set: Path,
    calibrator: CalibratorModel,
    pointing_dec_deg: float,
    folder: Path,
    parameters: ImagingParameters,
    threads: int,
    progress: Callable[[float], None] = lambda fraction: None,
) -> Path | None:
    """CLEAN components of everything but the calibrator, as FITS; None when nothing stands out of the noise."""
    peeled = folder / "field.ms"
    subtract(measurement_set=measurement_set, models=[calibrator], pointing_dec_deg=pointing_dec_deg, output=peeled)
    header, components = clean_components(
        measurement_set=peeled, parameters=parameters, threads=threads, progress=progress
    )
    if not components.any():
        return None
    path = folder / "field_model.fits"
    wcs = celestial_header(header, size_px=parameters.size_px, pixel_arcsec=parameters.pixel_arcsec)
    fits.PrimaryHDU(components, wcs).writeto(path)
    return path
