"""How many visibilities count in effect under Briggs weights, for imagers that do not say what weights they gave.

WSClean's own WSCENVIS is not it: that is sum w / max w, 2.5 times less than (sum w)^2 / sum w^2 on a small array.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from images.engines.visibilities import BadVisibilities, NothingToImage
from observations.engines.beam import SPEED_OF_LIGHT_M_S
from observations.engines.measurement_set import Header, Rows, read_header, read_rows

PADDING = 1.2  # WSClean weighs on the grid of the padded image


def briggs_effective_visibilities(measurement_set: Path, *, size_px: int, pixel_arcsec: float, robust: float) -> float:
    """(sum W)^2 / sum(W^2 / w) over the unflagged cross-correlations, w the natural and W the imaging weights.

    Robust weighting of Briggs (1995, PhD thesis, chapter 3): W_i = w_i / (1 + D_k f^2) with
    f^2 = (5 * 10^-R)^2 / (sum D_k^2 / sum D_k) and D_k the summed weight of uv cell k. The factor is one per cell, so
    the cells' sums are enough and one pass in bounded memory does it. w is the sum over both polarizations of
    samples where both are unflagged: only those are in WSClean's Stokes I.

    Raises NothingToImage when no visibility is left and BadVisibilities when unflagged data are not finite.
    """
    header = read_header(measurement_set)
    cell_wavelengths = 1 / (size_px * PADDING * np.radians(pixel_arcsec / 3600))
    density = _density(measurement_set, header, cell_wavelengths)
    if not density.any():
        raise NothingToImage("All visibilities of the measurement set are flagged; there is nothing to image.")
    f_squared = (5 * 10**-robust) ** 2 * density.sum() / (density**2).sum()
    factor = 1 / (1 + density * f_squared)
    return float((density * factor).sum() ** 2 / (density * factor**2).sum())


def _density(measurement_set: Path, header: Header, cell_wavelengths: float) -> np.ndarray:
    """Summed weight per uv cell, flat, over the half plane v >= 0 (the other half is its conjugate)."""
    positions = header.antenna_positions_m
    longest_m = 2 * np.linalg.norm(positions - positions.mean(axis=0), axis=1).max()
    cells_per_m = header.frequency_hz / SPEED_OF_LIGHT_M_S / cell_wavelengths
    half = int(longest_m * cells_per_m.max()) + 2
    density = np.zeros((half + 1) * (2 * half + 1))
    for rows in read_rows(measurement_set):
        cells, weights = _cells_and_weights(rows, cells_per_m, half)
        density += np.bincount(cells, weights, density.size)
    return density


def _cells_and_weights(rows: Rows, cells_per_m: np.ndarray, half: int) -> tuple[np.ndarray, np.ndarray]:
    cross = rows.is_cross
    uv = rows.uvw_m[cross, :2]
    uv = np.where(uv[:, 1:] < 0, -uv, uv)
    column = np.rint(uv[:, :1] * cells_per_m).astype(np.int64) + half
    row = np.rint(uv[:, 1:] * cells_per_m).astype(np.int64)
    weights = np.where(rows.flags[cross].any(axis=2), 0, rows.weights[cross].sum(axis=2))
    used = weights > 0
    if not np.isfinite(rows.data[cross][used]).all():
        raise BadVisibilities("Unflagged visibilities are NaN or infinite; convert and calibrate the tile again.")
    return (row * (2 * half + 1) + column)[used], weights[used]
