"""Stokes I visibilities of a calibrated measurement set with their imaging weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from contimg.exceptions import EngineFailed
from observations.engines.beam import SPEED_OF_LIGHT_M_S
from observations.engines.measurement_set import Header, Rows, read_header, read_rows

ROWS_AT_ONCE = 2048


class NothingToImage(EngineFailed):
    code = "nothing_to_image"


class BadVisibilities(EngineFailed):
    code = "bad_visibilities"


@dataclass
class StokesI:
    """Cross-correlations with something unflagged in them. Shapes: uvw (row, 3), the others (row, channel).

    `weights` are natural: the inverse variance of the visibility in units of one polarization of one integration.
    """

    uvw_m: np.ndarray
    frequency_hz: np.ndarray
    visibilities: np.ndarray  # complex64
    weights: np.ndarray  # float32, 0 where flagged


def load(path: Path) -> tuple[Header, StokesI]:
    """Raises NothingToImage when all is flagged and BadVisibilities when unflagged data are not finite."""
    header = read_header(path)
    uvw, visibilities, weights = [], [], []
    for rows in read_rows(path):
        mean, total = _stokes_i(rows)
        keep = rows.is_cross & total.any(axis=1)
        uvw.append(rows.uvw_m[keep])
        visibilities.append(mean[keep])
        weights.append(total[keep])
    stokes = StokesI(np.concatenate(uvw), header.frequency_hz, np.concatenate(visibilities), np.concatenate(weights))
    if not stokes.weights.any():
        raise NothingToImage("All visibilities of the measurement set are flagged; there is nothing to image.")
    if not np.isfinite(stokes.visibilities).all():
        raise BadVisibilities("Unflagged visibilities are NaN or infinite; convert and calibrate the tile again.")
    return header, stokes


def _stokes_i(rows: Rows) -> tuple[np.ndarray, np.ndarray]:
    """Weighted means over polarizations and their weights; 0 where all are flagged.

    One polarization after the other: numpy sums short last axes ten times slower.
    """
    total = np.zeros(rows.weights.shape[:2], np.float32)
    summed = np.zeros(total.shape, np.complex64)
    with np.errstate(invalid="ignore"):  # what is infinite is refused later
        for pol in range(rows.weights.shape[2]):
            weight = np.where(rows.flags[..., pol], 0, rows.weights[..., pol])
            total += weight
            summed += np.where(weight > 0, rows.data[..., pol], 0) * weight
        return summed / np.where(total > 0, total, 1), total


def briggs_weights(stokes: StokesI, *, size_px: int, pixel_rad: float, robust: float) -> np.ndarray:
    """Imaging weights, shape (row, channel): w / (1 + W_cell f^2), f^2 = (5 10^-R)^2 / (sum W^2 / sum W).

    Briggs 1995 (PhD thesis, New Mexico Tech), section 3.3; cells are one over the field wide.
    """
    cells = _UVCells(stokes, size_px, pixel_rad)
    blocks = [slice(start, start + ROWS_AT_ONCE) for start in range(0, len(stokes.uvw_m), ROWS_AT_ONCE)]
    density = np.zeros(cells.number)
    for rows in blocks:
        density += np.bincount(cells.of(rows).ravel(), stokes.weights[rows].ravel(), minlength=cells.number)
    total = density.sum()
    factor = (5 * 10.0**-robust) ** 2 / ((density**2).sum() / total)
    imaging = np.empty_like(stokes.weights)
    for rows in blocks:
        imaging[rows] = stokes.weights[rows] / (1 + density[cells.of(rows)] * factor)
    return imaging


class _UVCells:
    """Numbers the cells of a half plane (a visibility and its conjugate share one), out to the longest baseline."""

    def __init__(self, stokes: StokesI, size_px: int, pixel_rad: float) -> None:
        uv = stokes.uvw_m[:, :2] * (size_px * pixel_rad / SPEED_OF_LIGHT_M_S)
        self.per_hz = np.where(uv[:, 1:] < 0, -uv, uv)
        self.frequency_hz = stokes.frequency_hz
        self.half = int(np.abs(uv).max() * self.frequency_hz.max()) + 1
        self.number = (2 * self.half + 1) * (self.half + 1)

    def of(self, rows: slice) -> np.ndarray:
        """Cell of each visibility, shape (row, channel)."""
        column, row = (np.rint(axis[:, None] * self.frequency_hz).astype(np.int64) for axis in self.per_hz[rows].T)
        return row * (2 * self.half + 1) + column + self.half


def effective_visibilities(stokes: StokesI, imaging: np.ndarray) -> float:
    """(sum W)^2 / sum(W^2 / w): how many unit-weight visibilities would give the same noise."""
    with np.errstate(invalid="ignore", divide="ignore"):
        variance = np.where(stokes.weights > 0, imaging.astype(float) ** 2 / stokes.weights, 0).sum()
    return float(imaging.sum(dtype=float) ** 2 / variance)
