"""Stokes I visibilities of a calibrated measurement set with their imaging weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from contimg.exceptions import EngineFailed
from observations.engines.beam import SPEED_OF_LIGHT_M_S
from observations.engines.measurement_set import Header, read_header, read_rows


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
        weight = np.where(rows.flags, 0, rows.weights)
        keep = rows.is_cross & weight.any(axis=(1, 2))
        total = weight[keep].sum(axis=2)
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = (np.where(weight[keep] > 0, rows.data[keep], 0) * weight[keep]).sum(axis=2) / total
        uvw.append(rows.uvw_m[keep])
        visibilities.append(np.where(total > 0, mean, 0).astype(np.complex64))
        weights.append(total.astype(np.float32))
    stokes = StokesI(np.concatenate(uvw), header.frequency_hz, np.concatenate(visibilities), np.concatenate(weights))
    if not stokes.weights.any():
        raise NothingToImage("All visibilities of the measurement set are flagged; there is nothing to image.")
    if not np.isfinite(stokes.visibilities).all():
        raise BadVisibilities("Unflagged visibilities are NaN or infinite; convert and calibrate the tile again.")
    return header, stokes


def briggs_weights(stokes: StokesI, *, size_px: int, pixel_rad: float, robust: float) -> np.ndarray:
    """Imaging weights, shape (row, channel): w / (1 + W_cell f^2), f^2 = (5 10^-R)^2 / (sum W^2 / sum W).

    Briggs 1995 (PhD thesis, New Mexico Tech), section 3.3; cells are one over the field wide.
    """
    cells = _UVCells(stokes, size_px, pixel_rad)
    density = np.zeros(cells.number)
    for channel in range(stokes.frequency_hz.size):
        density += np.bincount(cells.of(channel), stokes.weights[:, channel], minlength=cells.number)
    total = density.sum()
    factor = (5 * 10.0**-robust) ** 2 / ((density**2).sum() / total)
    imaging = np.empty_like(stokes.weights)
    for channel in range(stokes.frequency_hz.size):
        imaging[:, channel] = stokes.weights[:, channel] / (1 + density[cells.of(channel)] * factor)
    return imaging


class _UVCells:
    """Numbers the cells of a half plane (a visibility and its conjugate share one), out to the longest baseline."""

    def __init__(self, stokes: StokesI, size_px: int, pixel_rad: float) -> None:
        self.per_hz = stokes.uvw_m[:, :2] * (size_px * pixel_rad / SPEED_OF_LIGHT_M_S)
        self.frequency_hz = stokes.frequency_hz
        self.half = int(np.abs(self.per_hz).max() * self.frequency_hz.max()) + 1
        self.number = (2 * self.half + 1) * (self.half + 1)

    def of(self, channel: int) -> np.ndarray:
        u, v = (self.per_hz * self.frequency_hz[channel]).T
        sign = np.where(v < 0, -1, 1)
        row = np.rint(v * sign).astype(np.int64)
        return row * (2 * self.half + 1) + np.rint(u * sign).astype(np.int64) + self.half


def effective_visibilities(stokes: StokesI, imaging: np.ndarray) -> float:
    """(sum W)^2 / sum(W^2 / w): how many unit-weight visibilities would give the same noise."""
    with np.errstate(invalid="ignore", divide="ignore"):
        variance = np.where(stokes.weights > 0, imaging.astype(float) ** 2 / stokes.weights, 0).sum()
    return float(imaging.sum(dtype=float) ** 2 / variance)
