"""Tiles: a calibrated measurement set becomes an image, its residual, its primary beam and a preview.

`make_...` calls engines and writes files only; `record_...` moves them into place and writes the row.
Engines are imported inside the functions: web processes import this module and must never load one.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.db import transaction

from calibration.services import CalibratorMatch, calibrator_model, calibrators_in
from contimg.models import Grade, suspect_if
from contimg.products import digest, product_path, publish
from contimg.sky import healpix_index
from images.models import Image
from images.services import configured_imager
from observations.epochs import hour_of
from observations.models import Epoch, MeasurementSet

if TYPE_CHECKING:
    from calibration.engines.model import CalibratorModel
    from images.engines.antenna_gains import AntennaGain
    from images.engines.fits import FitsFacts
    from images.engines.imager import CleanResult, ImagingParameters

PEEL_ABOVE_RESPONSE = 0.1  # further out the Airy pattern says little about the real beam


@dataclass(frozen=True)
class MadeTile:
    """The files of a tile in the work folder and what was measured of them."""

    folder: Path
    parameters: ImagingParameters
    clean: CleanResult
    flat_noise: FitsFacts
    corrected: FitsFacts
    rms_jy_per_beam: float | None
    thermal_rms_jy_per_beam: float
    peeled: tuple[str, ...]
    antenna_gains: list[AntennaGain]


def imaging_parameters(**chosen: Any) -> ImagingParameters:
    """Those of the settings, but for the `chosen`."""
    from images.engines.imager import ImagingParameters

    configured = {
        "size_px": settings.CONTIMG_IMAGE_SIZE_PX,
        "pixel_arcsec": settings.CONTIMG_PIXEL_ARCSEC,
        "robust": settings.CONTIMG_ROBUST,
        "niter": settings.CONTIMG_NITER,
    }
    return ImagingParameters(**{**configured, **chosen})


def imaging_recipe(measurement_set: MeasurementSet, parameters: ImagingParameters) -> str:
    return digest("image", measurement_set.recipe, settings.CONTIMG_IMAGER, dataclasses.asdict(parameters))


def thermal_rms_jy_per_beam(*, measurement_set: MeasurementSet, n_effective_visibilities: float) -> float:
    """SEFD / sqrt(2 dnu dt) for one polarization of one visibility, over the root of their effective number."""
    channel_width_hz = measurement_set.bandwidth_hz / measurement_set.n_channels
    one = settings.CONTIMG_SEFD_JY / math.sqrt(2 * channel_width_hz * measurement_set.integration_s)
    return one / math.sqrt(n_effective_visibilities)


def image_field(
    measurement_set: Path,
    calibrator: CalibratorModel,
    pointing_dec_deg: float,
    folder: Path,
    progress: Callable[[float], None] = lambda fraction: None,
) -> Path | None:
    """The rest of a calibrator's field as CLEAN components, for solving with it (always by the embedded imager)."""
    from images.engines.peeling import write_field_model

    return write_field_model(
        measurement_set=measurement_set,
        calibrator=calibrator,
        pointing_dec_deg=pointing_dec_deg,
        folder=folder,
        parameters=imaging_parameters(),
        threads=settings.CONTIMG_ENGINE_THREADS,
        progress=progress,
    )


def make_tile(
    *,
    measurement_set: MeasurementSet,
    parameters: ImagingParameters,
    folder: Path,
    progress: Callable[[float], None] = lambda fraction: None,
) -> MadeTile:
    """Image a calibrated set into `folder`: image, residual, primary beam, corrected image, preview."""
    from images.engines import fits
    from images.engines.peeling import image_with_calibrators
    from images.engines.preview import make_preview
    from images.engines.primary_beam import write_corrected, write_primary_beam

    path = product_path(measurement_set.path)
    calibrators = [m for m in calibrators_in(measurement_set=measurement_set) if m.response >= PEEL_ABOVE_RESPONSE]
    clean, gains = image_with_calibrators(
        imager=configured_imager(),
        measurement_set=path,
        calibrators=_models(calibrators),
        pointing_dec_deg=measurement_set.pointing_dec_deg,
        output_folder=folder,
        parameters=parameters,
        threads=settings.CONTIMG_ENGINE_THREADS,
        progress=progress,
    )
    beam, corrected = folder / "primary_beam.fits", folder / "corrected.fits"
    write_primary_beam(
        measurement_set=path,
        image=clean.image_path,
        pointing_dec_deg=measurement_set.pointing_dec_deg,
        output=beam,
    )
    write_corrected(image=clean.image_path, primary_beam=beam, output=corrected)
    make_preview(clean.image_path, folder / "preview.png", title=measurement_set.name)
    residual = fits.read_facts(clean.residual_path)
    return MadeTile(
        folder=folder,
        parameters=parameters,
        clean=clean,
        flat_noise=fits.read_facts(clean.image_path),
        corrected=fits.read_facts(corrected),
        rms_jy_per_beam=residual.rms_jy_per_beam,
        thermal_rms_jy_per_beam=thermal_rms_jy_per_beam(
            measurement_set=measurement_set, n_effective_visibilities=clean.n_effective_visibilities
        ),
        peeled=tuple(match.calibrator.name for match in calibrators),
        antenna_gains=gains,
    )


def _models(matches: Sequence[CalibratorMatch]) -> list[CalibratorModel]:
    return [calibrator_model(match.calibrator) for match in matches]


@transaction.atomic
def record_tile(*, measurement_set: MeasurementSet, made: MadeTile) -> Image:
    """Publish the tile's files and write its row; the newest version of the tile becomes the current one."""
    imager = configured_imager()
    Image.objects.tiles().current().filter(measurement_set__group=measurement_set.group).update(is_current=False)
    name = measurement_set.name
    hour = hour_of(measurement_set.observed_at)
    epoch = Epoch.objects.of_hour(hour=hour, dec_deg=measurement_set.pointing_dec_deg).first()
    clean, corrected = made.clean, made.corrected
    stem = f"images/{measurement_set.observed_at:%Y-%m-%d}/{name}"
    image, _ = Image.objects.update_or_create(
        recipe=imaging_recipe(measurement_set, made.parameters),
        defaults={
            "kind": Image.Kind.TILE,
            "name": name,
            "measurement_set": measurement_set,
            "path": publish(made.folder / "corrected.fits", f"{stem}_corrected.fits"),
            "flat_noise_path": publish(clean.image_path, f"{stem}.fits"),
            "residual_path": publish(clean.residual_path, f"{stem}_residual.fits"),
            "primary_beam_path": publish(made.folder / "primary_beam.fits", f"{stem}_beam.fits"),
            "preview_path": publish(made.folder / "preview.png", f"{stem}.png"),
            "size_bytes": corrected.size_bytes,
            "checksum": corrected.checksum,
            "parameters": dataclasses.asdict(made.parameters),
            "versions": imager.versions(),
            "engine": imager.name,
            "observed_at": measurement_set.observed_at,
            "mjd": measurement_set.mjd,
            "epoch": hour,
            "pointing_dec_deg": measurement_set.pointing_dec_deg,
            "ra_deg": corrected.ra_deg,
            "dec_deg": corrected.dec_deg,
            "healpix": healpix_index(corrected.ra_deg, corrected.dec_deg),
            "radius_deg": corrected.radius_deg,
            "frequency_hz": clean.frequency_hz,
            "bandwidth_hz": measurement_set.bandwidth_hz,
            "width_px": corrected.width_px,
            "height_px": corrected.height_px,
            "pixel_arcsec": corrected.pixel_arcsec,
            "bmaj_arcsec": clean.bmaj_arcsec,
            "bmin_arcsec": clean.bmin_arcsec,
            "bpa_deg": clean.bpa_deg,
            "unit": corrected.unit,
            "rms_jy_per_beam": made.rms_jy_per_beam,
            "peak_jy_per_beam": made.flat_noise.peak_jy_per_beam,
            "thermal_rms_jy_per_beam": made.thermal_rms_jy_per_beam,
            "finite_fraction": made.flat_noise.finite_fraction,
            "is_primary_beam_corrected": True,
            "missing_subbands": measurement_set.missing_subbands,
            "metrics": {
                "n_iterations": clean.n_iterations,
                "n_major_cycles": clean.n_major_cycles,
                "clean_threshold_jy_per_beam": clean.clean_threshold_jy_per_beam,
                "n_effective_visibilities": clean.n_effective_visibilities,
                "calibrators_restored": list(made.peeled),
                "lowest_jy_per_beam": made.flat_noise.lowest_jy_per_beam,
                "antenna_gains": [dataclasses.asdict(gain) for gain in made.antenna_gains],
            },
            # Until its epoch is judged again the verdict on it holds for this version too.
            "is_epoch_rejected": epoch is not None and epoch.grade == Grade.POOR and not epoch.is_lenient,
            "is_lenient": measurement_set.is_lenient or (epoch is not None and epoch.is_lenient),
            "is_current": True,
            **suspect_if(measurement_set.is_suspect),
        },
    )
    return image
