"""Finds sources with PyBDSF (Mohan & Rafferty 2015, ascl:1502.007) in an image before primary-beam correction.

Islands above `island_sigma` with a peak above `detection_sigma` are fitted with Gaussians, which PyBDSF groups into
sources. The noise it works with is ours (sources.engines.noise, of the residual where there is one): the same that
forced photometry uses, and measured in a tenth of the time.
"""

from __future__ import annotations

import contextlib
import gc
import io
import logging
import math
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from contimg.exceptions import EngineFailed, EngineUnavailable
from images.engines.fits import Plane, normalised_ra, open_plane
from sources.engines.forced import ImageFiles, RestoringBeam, noise_grid

NAME = "pybdsf"
FWHM_PER_SIGMA = math.sqrt(8 * math.log(2))
RESOLVED_SIGMA = 3.0
RESOLVED_FLOOR = 0.1


@dataclass(frozen=True)
class Detection:
    """One source of the image, apparent: nothing here is corrected for the primary beam.

    `flux_jy` is the peak for a source consistent with a point, whose integrated flux is noisier and, having been
    found on a noise peak, 20% high at SNR 7; the integrated flux for a resolved one. The position error is
    statistical and along the larger axis.
    """

    ra_deg: float  # ICRS, in [0, 360)
    dec_deg: float
    position_err_arcsec: float
    flux_jy: float
    flux_err_jy: float
    peak_jy_per_beam: float
    integrated_jy: float
    integrated_err_jy: float
    rms_jy_per_beam: float
    is_resolved: bool

    @property
    def snr(self) -> float:
        return self.peak_jy_per_beam / self.rms_jy_per_beam


def versions() -> dict[str, str]:
    return {"bdsf": version("bdsf")}


def find(*, files: ImageFiles, detection_sigma: float, island_sigma: float) -> list[Detection]:
    """Every source whose peak is above `detection_sigma` times the local noise, brightest first.

    Raises EngineFailed for an image that cannot be searched and EngineUnavailable when PyBDSF cannot be loaded.
    """
    bdsf = _load()
    with open_plane(files.image) as plane, tempfile.TemporaryDirectory(prefix="contimg-find-") as folder:
        noise = _noise(files, plane)
        _write(Path(folder), plane, noise, files.beam)
        sources = _run(bdsf, Path(folder), detection_sigma, island_sigma)
        places = _places(plane, [source.posn_sky_centroid for source in sources])
        found = [_detection(*each, files.beam, noise) for each in zip(sources, places, strict=True)]
    return sorted((one for one in found if one is not None), key=lambda one: -one.peak_jy_per_beam)


def is_resolved(*, integrated_jy: float, peak_jy: float, snr: float) -> bool:
    """Whether integrated over peak is above what a point source gives.

    That ratio is the fitted area over the beam's. Each axis of a point source has a relative error of 1/SNR
    (Condon 1997, PASP 109, 166, equations 20 and 21 at the beam's own size), their errors are independent, so its
    logarithm scatters by sqrt(2)/SNR: three of these, and 10% for smearing and imperfect deconvolution.
    """
    envelope = (1 + RESOLVED_FLOOR) * math.exp(RESOLVED_SIGMA * math.sqrt(2) / snr)
    return integrated_jy > envelope * peak_jy


def position_error_arcsec(*, fwhm_arcsec: float, snr: float) -> float:
    """The statistical error of one coordinate of a fitted Gaussian (Condon 1997, equations 20 and 21)."""
    return fwhm_arcsec / (FWHM_PER_SIGMA * snr)


# --- PyBDSF -------------------------------------------------------------------------------------------------------
def _load() -> ModuleType:
    try:
        import bdsf  # here: it takes a second, and an installation without it can still do everything else
    except ImportError as error:
        raise EngineUnavailable(f"PyBDSF cannot be loaded ({error}); install the `bdsf` package.") from error
    return bdsf


def _noise(files: ImageFiles, plane: Plane) -> NDArray:
    if files.residual is None:
        noise = noise_grid(plane, plane, files.beam).full()
    else:
        with open_plane(files.residual) as residual:
            noise = noise_grid(residual, plane, files.beam).full()
    if noise.shape != (plane.height_px, plane.width_px):
        raise EngineFailed(f"The residual is not on the pixels of {files.image.name}; image it again.")
    if not np.isfinite(noise).any():
        raise EngineFailed(f"{files.image.name} is blank or has no noise to compare with; it cannot be searched.")
    return noise


def _write(folder: Path, plane: Plane, noise: NDArray, beam: RestoringBeam) -> None:
    """What PyBDSF reads: one plane with its beam, and maps of its noise and mean. Blank where either is blank."""
    header = plane.wcs.to_header()
    header["BMAJ"], header["BMIN"] = beam.bmaj_arcsec / 3600, beam.bmin_arcsec / 3600
    header["BPA"] = beam.bpa_deg
    data = plane.values(slice(None)).astype(np.float32)
    data[~np.isfinite(noise)] = np.nan
    if not np.isfinite(data).any():
        raise EngineFailed("The image is blank wherever its noise is known; it cannot be searched.")
    usable = np.where(np.isfinite(noise), noise, np.nanmax(noise))
    for name, values in (("image", data), ("rms", usable), ("mean", np.zeros_like(usable))):
        fits.PrimaryHDU(values.astype(np.float32), header).writeto(folder / f"{name}.fits")


def _run(bdsf: ModuleType, folder: Path, detection_sigma: float, island_sigma: float) -> list:
    with _quiet(), _without_garbage_collection():
        try:
            result = bdsf.process_image(
                str(folder / "image.fits"),
                outdir=str(folder),
                quiet=True,
                ncores=1,  # so it neither forks nor depends on the machine
                frequency=1.4e9,  # it wants one; nothing we take from it depends on it
                thresh="hard",
                thresh_pix=detection_sigma,
                thresh_isl=island_sigma,
                rms_map=True,
                mean_map="map",
                rmsmean_map_filename=["mean.fits", "rms.fits"],
                # Off: it drops the fit of a faint source that noise made narrow (2 of 60 at 7-10 sigma, measured).
                flag_maxsize_fwhm=0.0,
            )
        except (RuntimeError, ValueError, IndexError) as error:
            reason = " ".join(str(error).split())[:200]
            raise EngineFailed(f"PyBDSF could not search the image ({reason}).") from error
    return [*result.sources, *result.dsources]  # the latter: islands that no Gaussian fits, as their highest pixel


@contextlib.contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """PyBDSF collects garbage 16 times a run, each over everything the process holds: 1.3 of 1.6 s. Spare it that."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep PyBDSF's log out of ours and off the screen, and close the handlers it leaves on a file that is gone."""
    logger = logging.getLogger("PyBDSF")
    logger.propagate = False
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # `quiet` is not about its warnings
            yield
    finally:
        for handler in list(logger.handlers):
            logger.removeHandler(handler)
            handler.close()


class _Place(NamedTuple):
    x: float  # 0-based pixels
    y: float
    ra_deg: float  # ICRS
    dec_deg: float


def _places(plane: Plane, centroids: list) -> list[_Place]:
    """PyBDSF's positions, which are in the frame of the image, that may be another than ICRS."""
    if not centroids:
        return []
    x, y = plane.wcs.wcs_world2pix(centroids, 0).T
    sky = plane.wcs.pixel_to_world(x, y).icrs
    return [
        _Place(*each) for each in zip(x.tolist(), y.tolist(), sky.ra.deg.tolist(), sky.dec.deg.tolist(), strict=True)
    ]


def _detection(source, place: _Place, beam: RestoringBeam, noise: NDArray) -> Detection | None:
    """A PyBDSF source in our terms; None for one whose fit has no place or no flux."""
    peak, integrated = float(source.peak_flux_max), float(source.total_flux)
    if not (all(map(math.isfinite, place)) and peak > 0 and math.isfinite(integrated)):
        return None
    rms = float(noise[_clip(place.y, noise.shape[0]), _clip(place.x, noise.shape[1])])
    if not math.isfinite(rms):
        return None
    resolved = is_resolved(integrated_jy=integrated, peak_jy=peak, snr=peak / rms)
    integrated_err = max(float(source.total_fluxE), rms)
    width_arcsec = max(source.size_sky[0] * 3600, beam.bmaj_arcsec) if resolved else beam.bmaj_arcsec
    return Detection(
        ra_deg=normalised_ra(place.ra_deg),
        dec_deg=place.dec_deg,
        position_err_arcsec=position_error_arcsec(fwhm_arcsec=width_arcsec, snr=peak / rms),
        flux_jy=integrated if resolved else peak,
        flux_err_jy=integrated_err if resolved else rms,
        peak_jy_per_beam=peak,
        integrated_jy=integrated,
        integrated_err_jy=integrated_err,
        rms_jy_per_beam=rms,
        is_resolved=resolved,
    )


def _clip(pixel: float, size_px: int) -> int:
    return min(max(round(pixel), 0), size_px - 1)
