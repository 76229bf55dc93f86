"""What the gains of each antenna still are in a calibrated set, told from its own image.

A table is solved once and applied for hours. When an antenna changes in between (its feeds are exchanged, its gain
jumps, its delay is reset), the image only gets a little noisier, but the visibilities of that antenna no longer fit
the sky that the others see. So one complex gain of each antenna and polarization is fitted to the visibilities, with
the deconvolved sky as the model:

    V_pq = g_p conj(g_q) M_pq,    g_p = sum_q A_pq g_q / sum_q B_pq |g_q|^2

with A = sum w V conj(M) and B = sum w |M|^2 over time and channel (StEFCal: Salvini & Wijnholds 2014, A&A 571, A97).
The model is the transform of the restored sky (image minus residual) over that of the restoring beam, so any imager's
products do; and what was subtracted before imaging. What CLEAN made of the errors is in the model too, so errors come
out low: an antenna that is 30% high as one of 20 to 30%.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import repeat
from pathlib import Path

import ducc0
import numpy as np

from images.engines.fits import read_plane
from observations.engines.beam import SPEED_OF_LIGHT_M_S
from observations.engines.measurement_set import read_header, read_rows

POLARIZATIONS = ("X", "Y")
MOST_CHANNELS = 64  # evenly spaced: one gain of an antenna needs no more
ACCURACY = 1e-5  # of the transform, before it is divided by that of the beam
LEAST_TAPER = 0.05  # of the restoring beam: on longer baselines the restored sky shows nothing
ITERATIONS = 200
SETTLED = 1e-6
FEWEST_ANTENNAS = 4  # three baselines of one another have no redundancy


@dataclass(frozen=True)
class AntennaGain:
    """What multiplies the gains of an antenna, relative to the median of all: 1 and 0 deg where its table still holds.

    `off` is |gain - 1| of the worse polarization, `error` its standard error from the scatter of the visibilities, and
    `mean_amplitude` is over both.
    """

    antenna: str
    polarization: str
    amplitude: float
    phase_deg: float
    off: float
    error: float
    mean_amplitude: float


def antenna_gains(
    *, measurement_set: Path, image: Path, residual: Path, threads: int, imaged: Path | None = None
) -> list[AntennaGain]:
    """Those of the antennas that have data, by the order of the array; none where the image shows nothing.

    `image` and `residual` are flat-noise products of the set, or of `imaged`: a copy without the brightest sources.
    """
    restored, header = read_plane(image)
    left, _ = read_plane(residual)
    sky = np.nan_to_num(restored - left)
    if imaged is None and not sky.any():
        return []
    beam = tuple(float(header[name]) for name in ("BMAJ", "BMIN", "BPA"))
    pixel_rad = float(np.radians(abs(header["CDELT1"])))
    names = read_header(measurement_set).antenna_names
    sums = _sums(measurement_set, imaged, len(names), sky, beam, pixel_rad, threads)
    found: dict[int, list[tuple[complex, float, str]]] = {}
    for pol, label in enumerate(POLARIZATIONS):
        for number, gain, error in _solve(*(each[pol] for each in sums)):
            found.setdefault(number, []).append((gain, error, label))
    return [_worse(names[number], found[number]) for number in sorted(found)]


def _worse(antenna: str, solutions: list[tuple[complex, float, str]]) -> AntennaGain:
    gain, error, label = max(solutions, key=lambda solution: abs(solution[0] - 1))
    mean = sum(abs(each) for each, _, _ in solutions) / len(solutions)
    return AntennaGain(antenna, label, abs(gain), float(np.degrees(np.angle(gain))), abs(gain - 1), error, mean)


def _sums(
    path: Path,
    imaged: Path | None,
    n_antennas: int,
    sky: np.ndarray,
    beam: tuple[float, ...],
    pixel_rad: float,
    threads: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """A, B, sum w |V|^2 and the number of visibilities, each (polarization, antenna, antenna), both triangles."""
    frequency_hz = read_header(path).frequency_hz
    chosen = slice(None, None, -(-frequency_hz.size // MOST_CHANNELS))
    frequency_hz = np.ascontiguousarray(frequency_hz[chosen])
    shape = (len(POLARIZATIONS), n_antennas, n_antennas)
    cross, model_power, power, number = np.zeros(shape, complex), np.zeros(shape), np.zeros(shape), np.zeros(shape)
    for rows, others in zip(read_rows(path), read_rows(imaged) if imaged else repeat(None), strict=imaged is not None):
        use = rows.is_cross
        field, usable = _predicted(sky, rows.uvw_m[use], frequency_hz, beam, pixel_rad, threads)
        first, second = rows.antenna1[use], rows.antenna2[use]
        model = field
        for pol in range(len(POLARIZATIONS)):
            weight = np.where(rows.flags[use, chosen, pol] | ~usable, 0, rows.weights[use, chosen, pol])
            data = np.where(weight > 0, rows.data[use, chosen, pol], 0)
            if others is not None:  # its sources are in the data and not in the image
                model = field + np.where(weight > 0, data - others.data[use, chosen, pol], 0)
            np.add.at(cross[pol], (first, second), (weight * data * model.conj()).sum(axis=1))
            np.add.at(model_power[pol], (first, second), (weight * np.abs(model) ** 2).sum(axis=1))
            np.add.at(power[pol], (first, second), (weight * np.abs(data) ** 2).sum(axis=1))
            np.add.at(number[pol], (first, second), (weight > 0).sum(axis=1))
    other = (0, 2, 1)
    return (
        cross + cross.transpose(other).conj(),
        model_power + model_power.transpose(other),
        power + power.transpose(other),
        number + number.transpose(other),
    )


def _predicted(
    sky: np.ndarray,
    uvw_m: np.ndarray,
    frequency_hz: np.ndarray,
    beam: tuple[float, ...],
    pixel_rad: float,
    threads: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Visibilities (row, channel) of the restored sky without its restoring beam, and where they can be told."""
    major, minor, angle = np.radians(beam)
    predicted = ducc0.wgridder.dirty2vis(
        uvw=uvw_m, freq=frequency_hz, dirty=np.ascontiguousarray(sky.T, dtype=np.float32), pixsize_x=pixel_rad,
        pixsize_y=pixel_rad, epsilon=ACCURACY, do_wgridding=True, divide_by_n=False, flip_v=True, nthreads=threads,
    )  # fmt: skip
    along = uvw_m[:, 0] * np.sin(angle) + uvw_m[:, 1] * np.cos(angle)
    across = uvw_m[:, 0] * np.cos(angle) - uvw_m[:, 1] * np.sin(angle)
    widths = (major * along) ** 2 + (minor * across) ** 2
    taper = np.exp(-(np.pi**2) / (4 * np.log(2)) * widths[:, None] * (frequency_hz / SPEED_OF_LIGHT_M_S) ** 2)
    beam_px = np.pi * major * minor / (4 * np.log(2) * pixel_rad**2)
    return predicted / (np.maximum(taper, LEAST_TAPER) * beam_px), taper >= LEAST_TAPER


def _solve(
    cross: np.ndarray, model_power: np.ndarray, power: np.ndarray, number: np.ndarray
) -> list[tuple[int, complex, float]]:
    """(antenna, gain over the median one, error of that) of one polarization."""
    present = np.flatnonzero(model_power.any(axis=1))
    if present.size < FEWEST_ANTENNAS:
        return []
    own = np.ix_(present, present)
    cross, model_power = cross[own], model_power[own]
    gains = np.ones(present.size, complex)
    for _ in range(ITERATIONS):
        updated = cross @ gains / (model_power @ np.abs(gains) ** 2)
        moved = np.abs(updated - gains).max()
        gains = (gains + updated) / 2
        if moved < SETTLED * np.abs(gains).max():
            break
    pair = gains[:, None] * gains.conj()
    misfit = power[own].sum() - 2 * (pair.conj() * cross).real.sum() + (np.abs(pair) ** 2 * model_power).sum()
    variance = max(float(misfit), 0.0) / number[own].sum()  # of a visibility of weight 1
    error = np.sqrt(variance / (model_power @ np.abs(gains) ** 2))
    usual = np.median(np.abs(gains)) * np.exp(1j * np.angle(np.median(gains.real) + 1j * np.median(gains.imag)))
    relative, relative_error = gains / usual, error / abs(usual)
    return list(zip(present.tolist(), relative.tolist(), relative_error.tolist(), strict=True))
