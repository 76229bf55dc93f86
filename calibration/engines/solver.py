"""Solve bandpass and gains against a calibrator with StefCal, and write them as CASA calibration tables.

Corrupted visibilities are V_ij = g_i conj(g_j) M_ij (CASA's convention). The bandpass B is solved per antenna,
polarization and channel over the whole tile and normalised to unit mean amplitude; the gain G, per antenna and
polarization, takes the level. Salvini & Wijnholds 2014 (A&A 571, A97) is the iteration; CASA and DP3 were the
alternatives: CASA has no wheel for it without a 1 GB installation, DP3's wants four correlations.
"""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np

from calibration.engines.caltable import Solution, write_table
from calibration.engines.field_model import FieldModel
from calibration.engines.flagger import AllFlagged, read_flags
from calibration.engines.model import CalibratorModel, beam_response, fringe
from contimg.exceptions import EngineFailed
from observations.engines.measurement_set import Header, read_header, read_rows
from observations.telescope import subband_of_frequency

NAME = "stefcal"
VERSION = "1"
TRIAL_DELAYS_S = np.arange(-200, 201) * 0.25e-9


class NoSolution(EngineFailed):
    code = "no_solution"


@dataclass(frozen=True, kw_only=True)
class SolvingParameters:
    """`reference_antenna` empty: the antenna with most data nearest to the array's centre."""

    reference_antenna: str = ""
    min_snr: float = 3.0
    max_iterations: int = 200
    tolerance: float = 1e-6


@dataclass(frozen=True, kw_only=True)
class SolvedTable:
    kind: str
    path: Path
    checksum: str
    metrics: dict = dataclasses.field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class SolvedSet:
    reference_antenna: str
    tables: tuple[SolvedTable, ...]


def versions() -> dict[str, str]:
    return {NAME: VERSION, **{name: version(name) for name in ("numpy", "pyuvdata", "python-casacore")}}


def solve(
    *,
    measurement_set: Path,
    flag_table: Path,
    model: CalibratorModel,
    pointing_dec_deg: float,
    output_folder: Path,
    parameters: SolvingParameters,
    field: FieldModel | None = None,
) -> SolvedSet:
    """Write `B.cal` and `G.cal` to the folder; `field` adds the sources around the calibrator to its model.

    Raises AllFlagged when nothing is left to solve on, NoSolution when no antenna could be solved.
    """
    header = read_header(measurement_set)
    coherency, weight, power, number = _accumulate(measurement_set, flag_table, model, pointing_dec_deg, header, field)
    if not weight.any():
        raise AllFlagged("All visibilities of the calibrator's tile are flagged; it cannot calibrate.")
    reference = _reference_antenna(header, weight, parameters.reference_antenna)
    bandpass = _solution(coherency, weight, reference, parameters)
    if bandpass.flags.all():
        raise NoSolution(f"No antenna could be solved against {model.name}; is it really in this tile?")
    bandpass, level = _normalise(bandpass)
    corrected, corrected_weight = _average_channels(coherency, weight, bandpass)
    gain = _solution(corrected, corrected_weight, reference, parameters, start=level)
    unsteady = time_phase_scatter_deg(coherency, weight, power, number)
    tables = []
    for kind, solution in (("B", bandpass), ("G", gain)):
        path = output_folder / f"{kind}.cal"
        checksum = write_table(path, kind, solution, header, reference, model.name)
        tables.append(
            SolvedTable(kind=kind, path=path, checksum=checksum, metrics=_metrics(solution, header, kind, unsteady))
        )
    return SolvedSet(reference_antenna=header.antenna_names[reference], tables=tuple(tables))


def _accumulate(
    path: Path,
    flag_table: Path,
    model: CalibratorModel,
    pointing_dec_deg: float,
    header: Header,
    field: FieldModel | None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Sums over time, shape (antenna, antenna, channel, polarization), both triangles.

    Of w V conj(M), of w |M|^2, of w |V|^2, and the number of visibilities.
    """
    amplitude = model.flux_jy(header.frequency_hz) * beam_response(model, header, pointing_dec_deg)
    n = len(header.antenna_names)
    shape = (n, n, header.frequency_hz.size, 2)
    coherency, weight = np.zeros(shape, np.complex64), np.zeros(shape, np.float32)
    power, number = np.zeros(shape, np.float32), np.zeros(shape, np.uint16)
    for rows in read_rows(path):
        flags = rows.flags | read_flags(flag_table, rows.first_row, rows.data.shape[0])
        row_weight = np.where(flags | ~rows.is_cross[:, None, None], 0, rows.weights)
        predicted = fringe(model, header, rows.uvw_m) * amplitude.astype(np.float32)[rows.time_index]
        if field is not None:
            predicted += field.predict(rows.uvw_m, header.frequency_hz)
        predicted = predicted[..., None]
        for index in np.unique(rows.time_index):  # an integration has a baseline once, so fancy indexing loses no sum
            own = rows.time_index == index
            pair = rows.antenna1[own], rows.antenna2[own]
            coherency[pair] += row_weight[own] * rows.data[own] * predicted[own].conj()
            weight[pair] += row_weight[own] * np.abs(predicted[own]) ** 2
            power[pair] += row_weight[own] * np.abs(rows.data[own]) ** 2
            number[pair] += row_weight[own] > 0
    return (
        coherency + np.conj(np.swapaxes(coherency, 0, 1)),
        weight + np.swapaxes(weight, 0, 1),
        power + np.swapaxes(power, 0, 1),
        number + np.swapaxes(number, 0, 1),
    )


def _reference_antenna(header: Header, weight: np.ndarray, wanted: str) -> int:
    """The wanted antenna when it has data, else the one nearest to the array's centre among those with most data."""
    data = weight.sum(axis=(1, 2, 3))
    if wanted in header.antenna_names and data[header.antenna_names.index(wanted)] > 0:
        return header.antenna_names.index(wanted)
    has_data = data > 0
    centre = np.median(header.antenna_positions_m[has_data], axis=0)
    distance = np.linalg.norm(header.antenna_positions_m - centre, axis=1)
    return int(np.argmin(np.where(data >= 0.95 * np.median(data[has_data]), distance, np.inf)))


def _solution(
    coherency: np.ndarray,
    weight: np.ndarray,
    reference: int,
    parameters: SolvingParameters,
    start: np.ndarray | None = None,
) -> Solution:
    """Gains with their signal to noise, phases relative to the reference antenna; bad ones flagged."""
    gains = stefcal(coherency, weight, parameters.max_iterations, parameters.tolerance, start)
    error = _errors(coherency, weight, gains)
    with np.errstate(divide="ignore", invalid="ignore"):
        snr = np.where(error > 0, np.abs(gains) / error, 0)
        turn = np.conj(gains[reference]) / np.abs(gains[reference])
    gains = gains * np.where(np.isfinite(turn), turn, 1)
    flags = ~np.isfinite(gains) | (gains == 0) | (snr < parameters.min_snr) | ~np.isfinite(turn)
    return Solution(gains=np.where(flags, 1, gains).astype(np.complex64), flags=flags, snr=snr.astype(np.float32))


def stefcal(
    coherency: np.ndarray,
    weight: np.ndarray,
    max_iterations: int = 200,
    tolerance: float = 1e-6,
    start: np.ndarray | None = None,
) -> np.ndarray:
    """Gains, shape (antenna, ...), of sums w V conj(M) and w |M|^2, shape (antenna, antenna, ...); 0 without data.

    Every second step is averaged with the one before it, which makes the iteration converge (Salvini & Wijnholds).
    """
    has_data = weight.sum(axis=1) > 0
    gains = np.where(has_data, 1.0 if start is None else start, 0).astype(np.complex128)
    for iteration in range(max_iterations):
        top = np.einsum("ij...,j...->i...", coherency, gains)
        bottom = np.einsum("ij...,j...->i...", weight, np.abs(gains) ** 2)
        updated = np.where(bottom > 0, top / np.where(bottom > 0, bottom, 1), 0)
        if iteration % 2:
            updated = (updated + gains) / 2
        change = float(np.linalg.norm(updated - gains)) / max(float(np.linalg.norm(updated)), 1e-30)
        gains = updated
        if iteration % 2 and change < tolerance:
            break
    return gains


def _errors(coherency: np.ndarray, weight: np.ndarray, gains: np.ndarray) -> np.ndarray:
    """Standard error of each gain's amplitude, from the scatter of the residuals over its channel's baselines."""
    model = gains[:, None] * np.conj(gains[None])
    with np.errstate(divide="ignore", invalid="ignore"):
        residual = np.where(weight > 0, coherency / weight - model, 0)
        n_baselines = (weight > 0).sum(axis=(0, 1)) / 2
        freedom = np.maximum(n_baselines - (weight.sum(axis=1) > 0).sum(axis=0), 1)
        # per real component and unit weight; each baseline is there twice
        variance = (weight * np.abs(residual) ** 2).sum(axis=(0, 1)) / (4 * freedom)
        information = np.einsum("ij...,j...->i...", weight, np.abs(gains) ** 2)
        return np.sqrt(variance / information)


def _normalise(bandpass: Solution) -> tuple[Solution, np.ndarray]:
    """The bandpass at unit mean amplitude over channels, and the level taken out, shape (antenna, 1, polarization)."""
    good = ~bandpass.flags
    count = np.maximum(good.sum(axis=1, keepdims=True), 1)
    level = (np.abs(bandpass.gains) * good).sum(axis=1, keepdims=True) / count
    level = np.where(level > 0, level, 1)
    gains = np.where(bandpass.flags, 1, bandpass.gains / level).astype(np.complex64)
    return Solution(gains=gains, flags=bandpass.flags, snr=bandpass.snr), level


def _average_channels(coherency: np.ndarray, weight: np.ndarray, bandpass: Solution) -> tuple[np.ndarray, np.ndarray]:
    """Bandpass-corrected sums over channels, shape (antenna, antenna, 1, polarization)."""
    gains = np.where(bandpass.flags, 0, bandpass.gains)
    model = gains[:, None] * np.conj(gains[None])
    top = (coherency * np.conj(model)).sum(axis=2, keepdims=True)
    bottom = (weight * np.abs(model) ** 2).sum(axis=2, keepdims=True)
    return top, bottom


def time_phase_scatter_deg(
    coherency: np.ndarray, weight: np.ndarray, power: np.ndarray, number: np.ndarray
) -> np.ndarray:
    """How the phase of each antenna scatters from integration to integration, shape (antenna,); NaN without data.

    A solution over the whole tile does not show it: phases that scatter by s leave exp(-s^2/2) of the amplitude. What
    they take from the mean is found in the power of the visibilities: beyond the noise, which is the median of all
    baselines, the share 1 - exp(-s^2) of a baseline's power is not in its mean. An antenna's share is the median of
    its baselines'.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        in_mean = np.where(weight > 0, np.abs(coherency) ** 2 / weight, 0).sum(axis=(2, 3), dtype=float)
        freedom = np.where(number > 1, number - 1.0, 0).sum(axis=(2, 3))
        left = np.where(number > 1, power, 0).sum(axis=(2, 3), dtype=float) - in_mean
        noise = np.nanmedian(np.where(freedom > 0, left / freedom, np.nan)) if freedom.any() else np.nan
        lost = left - noise * freedom
        share = np.where(freedom > 0, lost / (lost + in_mean), np.nan)
        known = np.flatnonzero(np.isfinite(share).any(axis=1))
        scatter = np.full(len(share), np.nan)
        scatter[known] = np.sqrt(-np.log1p(-np.clip(np.nanmedian(share[known], axis=1), 0, 0.999)))
    return np.degrees(scatter)


def _metrics(solution: Solution, header: Header, kind: str, unsteady_deg: np.ndarray) -> dict:
    """What the assessment judges; amplitude and phase statistics are of unflagged solutions only."""
    used = ~solution.flags.all(axis=(1, 2))
    in_data = solution.snr.max(axis=(1, 2)) > 0
    good = ~solution.flags
    metrics: dict = {
        "flagged_fraction": float(solution.flags[in_data].mean()) if in_data.any() else 1.0,
        "median_snr": float(np.median(solution.snr[good])) if good.any() else 0.0,
        "median_amplitude": float(np.median(np.abs(solution.gains[good]))) if good.any() else None,
        "phase_scatter_deg": phase_scatter_deg(solution, header.frequency_hz) if kind != "G" else None,
        "n_antennas": int(used.sum()),
        "antennas_without_solution": [header.antenna_names[i] for i in np.flatnonzero(in_data & ~used)],
    }
    if kind != "G":
        metrics["spectral_windows"] = _spectral_windows(solution, header, in_data)
        metrics["antennas"] = _antennas(solution, header, in_data, unsteady_deg)
    return metrics


def _antennas(solution: Solution, header: Header, in_data: np.ndarray, unsteady_deg: np.ndarray) -> list[dict]:
    """Of each antenna with data: its flagged fraction and phase scatter over channels and over time.

    None where too few solutions are left.
    """
    figures = []
    for index in np.flatnonzero(in_data):
        of_one = slice(index, index + 1)
        own = Solution(gains=solution.gains[of_one], flags=solution.flags[of_one], snr=solution.snr[of_one])
        figures.append(
            {
                "antenna": header.antenna_names[index],
                "flagged_fraction": float(own.flags.mean()),
                "phase_scatter_deg": phase_scatter_deg(own, header.frequency_hz),
                "time_phase_scatter_deg": float(unsteady_deg[index])
                if np.isfinite(unsteady_deg[index]) and not own.flags.all()
                else None,
            }
        )
    return figures


def _spectral_windows(solution: Solution, header: Header, in_data: np.ndarray) -> list[dict]:
    """Per subband: mean flagged fraction and the share of channels flagged above one half."""
    by_channel = solution.flags[in_data].mean(axis=(0, 2))
    subband = subband_of_frequency(header.frequency_hz)
    return [
        {
            "subband": int(number),
            "flagged_fraction": float(by_channel[subband == number].mean()),
            "bad_channel_fraction": float((by_channel[subband == number] > 0.5).mean()),
        }
        for number in np.unique(subband)
    ]


def phase_scatter_deg(solution: Solution, frequency_hz: np.ndarray) -> float | None:
    """Median over antennas and polarizations of the phase scatter after removing each one's mean and delay slope.

    Each half of the channels is compared with the delay of the other half. A delay fitted to the same channels fits
    random phases too well: with 64 channels they came out at 86 degrees and not at 104, and passed the gate at 90.
    """
    scatters = []
    for gains, flags in zip(solution.gains, solution.flags, strict=True):
        for pol in range(gains.shape[-1]):
            good = ~flags[:, pol]
            if good.sum() >= 4:
                scatters.append(_scatter_about_delay(gains[good, pol], frequency_hz[good]))
    return float(np.median(scatters)) if scatters else None


def _scatter_about_delay(gains: np.ndarray, frequency_hz: np.ndarray) -> float:
    unit = gains / np.abs(gains)
    offset = frequency_hz - frequency_hz.mean()
    half = np.random.default_rng(0).permutation(unit.size) % 2 == 0  # random: every second would be a coarse comb
    misfit = [unit[~used] * np.conj(_delay(unit[used], offset[used], offset[~used])) for used in (half, ~half)]
    return float(np.degrees(np.sqrt((np.angle(np.concatenate(misfit)) ** 2).mean())))


def _delay(unit: np.ndarray, offset_hz: np.ndarray, wanted_hz: np.ndarray) -> np.ndarray:
    """The delay that unit gains have, as unit gains at other frequencies. A search over delays needs no unwrapping."""
    turns = _turns(offset_hz.tobytes())
    spectrum = turns @ unit
    best = np.argmax(np.abs(spectrum))
    flat = unit * turns[best] * np.conj(spectrum[best]) / np.abs(spectrum[best])
    slope = np.polyfit(offset_hz, np.angle(flat), 1)
    phase = 2 * np.pi * TRIAL_DELAYS_S[best] * wanted_hz + np.angle(spectrum[best]) + np.polyval(slope, wanted_hz)
    return np.exp(1j * phase)


@functools.lru_cache(maxsize=4)
def _turns(offset_hz: bytes) -> np.ndarray:
    """What undoes each trial delay, shape (delay, channel): the same for all antennas with the same channels."""
    return np.exp(-2j * np.pi * np.outer(TRIAL_DELAYS_S, np.frombuffer(offset_hz)))
