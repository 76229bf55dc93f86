"""The other sources of a calibrator's field: seen by subtracting the calibrator, predicted to solve with them.

Gains solved per channel against the calibrator alone absorb part of every source that the model lacks: they come out
2/(N-1) low in that tile for N antennas (measured: 5% for 40). So the field is imaged once with the first solution and
goes into the model of the second. The field's drift through the beam is left out of its model: second order in a
correction of a few percent.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import ducc0
import numpy as np
from astropy.io import fits

from calibration.engines.model import CalibratorModel, beam_response, fringe
from observations.engines.measurement_set import Header, Rows, copy_with, read_header, read_rows

ACCURACY = 1e-4


@dataclass(frozen=True)
class FieldModel:
    """Apparent component fluxes in Jy on a RA---SIN grid [y, x] centred on the phase centre."""

    components_jy: np.ndarray
    pixel_rad: float

    @classmethod
    def read(cls, path: Path) -> FieldModel:
        with fits.open(path) as hdus:
            return cls(_without_border(hdus[0].data), float(np.radians(hdus[0].header["CDELT2"])))

    def predict(self, uvw_m: np.ndarray, frequency_hz: np.ndarray, threads: int = 1) -> np.ndarray:
        """Visibilities, shape (row, channel), complex64."""
        return ducc0.wgridder.dirty2vis(
            uvw=uvw_m,
            freq=frequency_hz,
            dirty=np.ascontiguousarray(self.components_jy.T),
            pixsize_x=self.pixel_rad,
            pixsize_y=self.pixel_rad,
            epsilon=ACCURACY,
            do_wgridding=True,
            divide_by_n=False,
            flip_v=True,
            nthreads=threads,
        )


def _without_border(components: np.ndarray) -> np.ndarray:
    """The smallest square about the same centre that has all components: predicting takes less than half the time."""
    half = components.shape[0] // 2
    reach = int(np.abs(np.argwhere(components) - half).max(initial=15)) + 1  # ducc0 wants 32 pixels
    inner = slice(max(half - reach, 0), half + reach)
    return components[inner, inner].astype(np.float32)


def subtract(
    *, measurement_set: Path, models: Sequence[CalibratorModel], pointing_dec_deg: float, output: Path
) -> list[float]:
    """Write `output`, a calibrated set less the models drifting through the beam.

    Returns each model's mean apparent flux in Jy, over unflagged weights: what an image of the set would show.
    """
    header = read_header(measurement_set)
    amplitudes = [
        model.flux_jy(header.frequency_hz) * beam_response(model, header, pointing_dec_deg) for model in models
    ]
    sums, weight = np.zeros(len(models)), _Sum()
    copy_with(measurement_set, output, _less(measurement_set, header, models, amplitudes, sums, weight))
    return [float(value / weight.value) for value in sums]


class _Sum:
    value = 0.0


def _less(
    path: Path,
    header: Header,
    models: Sequence[CalibratorModel],
    amplitudes: Sequence[np.ndarray],
    sums: np.ndarray,
    weight: _Sum,
) -> Iterator[tuple[Rows, np.ndarray, np.ndarray]]:
    for rows in read_rows(path):
        data = rows.data.copy()
        used = np.where(rows.flags | ~rows.is_cross[:, None, None], 0, rows.weights).sum(axis=2)
        weight.value += float(used.sum(dtype=float))
        for index, (model, amplitude) in enumerate(zip(models, amplitudes, strict=True)):
            apparent = amplitude[rows.time_index]
            predicted = (fringe(model, header, rows.uvw_m) * apparent).astype(np.complex64)
            data -= np.where(rows.is_cross[:, None], predicted, 0)[..., None]
            sums[index] += float((used * apparent).sum())
        yield rows, np.where(rows.flags, 0, data), rows.flags
