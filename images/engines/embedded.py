"""The embedded imager: ducc0's w-gridder and Cotton-Schwab CLEAN with an automatic mask."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import ducc0
import numpy as np

from images.engines.clean import (
    Beam,
    fit_beam,
    grow_mask,
    minor_cycle,
    restore,
    robust_rms,
    sidelobe_level,
)
from images.engines.fits_header import write_product
from images.engines.imager import CleanProgress, CleanResult, Imager, ImagingParameters
from images.engines.visibilities import StokesI, briggs_weights, effective_visibilities, load
from observations.engines.measurement_set import Header

ACCURACY = 1e-4  # of the gridder; the noise of a visibility is 1e4 times that of the image
MAX_MAJOR_CYCLES = 30


@dataclass
class _Gridder:
    """Visibilities to images and back, normalised so that a point source of S Jy peaks at S Jy/beam."""

    stokes: StokesI
    imaging: np.ndarray
    size_px: int
    pixel_rad: float
    threads: int

    def __post_init__(self) -> None:
        self.weight_sum = float(self.imaging.sum(dtype=float))
        self.options = {
            "uvw": self.stokes.uvw_m,
            "freq": self.stokes.frequency_hz,
            "wgt": self.imaging,
            "pixsize_x": self.pixel_rad,
            "pixsize_y": self.pixel_rad,
            "epsilon": ACCURACY,
            "do_wgridding": True,
            "divide_by_n": False,
            "flip_v": True,
            "nthreads": self.threads,
        }

    def image(self, visibilities: np.ndarray) -> np.ndarray:
        """Dirty image [y, x]."""
        dirty = ducc0.wgridder.vis2dirty(vis=visibilities, npix_x=self.size_px, npix_y=self.size_px, **self.options)
        return np.ascontiguousarray(dirty.T) / np.float32(self.weight_sum)

    def psf(self) -> np.ndarray:
        return self.image(np.ones_like(self.stokes.visibilities))

    def residual(self, model: np.ndarray) -> np.ndarray:
        """The dirty image of what the model [y, x] leaves."""
        options = {key: value for key, value in self.options.items() if key != "wgt"}
        predicted = ducc0.wgridder.dirty2vis(dirty=np.ascontiguousarray(model.T), **options)
        np.subtract(self.stokes.visibilities, predicted, out=predicted)
        return self.image(predicted)


class EmbeddedImager(Imager):
    name = "embedded"

    def versions(self) -> dict[str, str]:
        return {"embedded": "1", **{name: version(name) for name in ("ducc0", "numpy", "scipy", "astropy")}}

    def make(
        self,
        *,
        measurement_set: Path,
        output_folder: Path,
        parameters: ImagingParameters,
        threads: int,
        progress: Callable[[float], None] = lambda fraction: None,
    ) -> CleanResult:
        header, deconvolution = _deconvolve(measurement_set, parameters, threads, progress)
        stokes, imaging, beam = deconvolution.gridder.stokes, deconvolution.gridder.imaging, deconvolution.beam
        result = CleanResult(
            image_path=output_folder / "image.fits",
            residual_path=output_folder / "residual.fits",
            bmaj_arcsec=beam.major_px * parameters.pixel_arcsec,
            bmin_arcsec=beam.minor_px * parameters.pixel_arcsec,
            bpa_deg=beam.angle_deg,
            frequency_hz=_mean_frequency_hz(stokes, imaging),
            n_effective_visibilities=effective_visibilities(stokes, imaging),
            n_iterations=deconvolution.n_iterations,
            n_major_cycles=deconvolution.n_major_cycles,
            clean_threshold_jy_per_beam=deconvolution.threshold,
        )
        image = restore(deconvolution.residual, deconvolution.model, beam)
        for path, data in ((result.image_path, image), (result.residual_path, deconvolution.residual)):
            write_product(path, data, header=header, result=result, parameters=parameters, versions=self.versions())
        return result


def clean_components(
    *,
    measurement_set: Path,
    parameters: ImagingParameters,
    threads: int,
    progress: Callable[[float], None] = lambda fraction: None,
) -> tuple[Header, np.ndarray]:
    """The CLEAN components [y, x] of a measurement set in Jy."""
    header, deconvolution = _deconvolve(measurement_set, parameters, threads, progress)
    return header, deconvolution.model


def _deconvolve(
    measurement_set: Path, parameters: ImagingParameters, threads: int, progress: Callable[[float], None]
) -> tuple[Header, _Deconvolution]:
    header, stokes = load(measurement_set)
    pixel_rad = np.radians(parameters.pixel_arcsec / 3600)
    imaging = briggs_weights(stokes, size_px=parameters.size_px, pixel_rad=pixel_rad, robust=parameters.robust)
    gridder = _Gridder(stokes, imaging, parameters.size_px, pixel_rad, threads)
    psf = gridder.psf()
    deconvolution = _Deconvolution(gridder, psf, fit_beam(psf), parameters)
    deconvolution.run(CleanProgress(progress))
    return header, deconvolution


def _mean_frequency_hz(stokes: StokesI, imaging: np.ndarray) -> float:
    """Mean of the channels by imaging weight: the frequency that the image's fluxes are at."""
    by_channel = imaging.sum(axis=0, dtype=float)
    return float((by_channel * stokes.frequency_hz).sum() / by_channel.sum())


class _Deconvolution:
    """Major cycles: image what the model leaves, widen the mask, CLEAN within it, until only noise is left."""

    def __init__(self, gridder: _Gridder, psf: np.ndarray, beam: Beam, parameters: ImagingParameters) -> None:
        self.gridder, self.psf, self.beam, self.parameters = gridder, psf, beam, parameters
        self.sidelobe = sidelobe_level(psf, beam)
        self.model = np.zeros_like(psf)
        self.residual = gridder.image(gridder.stokes.visibilities)
        self.mask = np.zeros(psf.shape, bool)
        self.threshold: float | None = None
        self.n_iterations = 0
        self.n_major_cycles = 0

    def run(self, progress: CleanProgress) -> None:
        for floor in self._floors(progress):
            left = self.parameters.niter - self.n_iterations
            found = minor_cycle(
                self.residual, self.psf, self.mask, threshold=floor, gain=self.parameters.gain, niter=left
            )
            if found.n_iterations == 0:
                break
            self.model[found.y, found.x] += found.flux_jy
            self.n_iterations += found.n_iterations
            self.n_major_cycles += 1
            self.residual = self.gridder.residual(self.model)

    def _floors(self, progress: CleanProgress) -> Iterator[float]:
        """How deep each minor cycle may go; ends when nothing in the mask is above the final threshold."""
        while self.n_major_cycles < MAX_MAJOR_CYCLES and self.n_iterations < self.parameters.niter:
            rms = robust_rms(self.residual)
            peak = float(self.residual.max())
            level = max(self.parameters.auto_mask_sigma * rms, 1.5 * self.sidelobe * peak)
            self.mask = grow_mask(self.mask, self.residual, level, self.beam)
            self.threshold = self.parameters.auto_threshold_sigma * rms
            inside = np.abs(self.residual[self.mask])
            if not inside.size or inside.max() <= self.threshold * 1.05:
                return
            progress.cycle(peak=float(inside.max()), threshold=self.threshold)
            yield max(self.threshold, (1 - self.parameters.mgain) * float(inside.max()))
