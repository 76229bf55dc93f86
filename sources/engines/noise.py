"""The local noise of an image, measured on a coarse grid where it is asked for."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from images.engines.fits import Plane, robust_rms

BOX_BEAMS = 30  # across: some 800 independent beams, so the noise is good to 3%
SAMPLES_PER_BEAM = 2  # along each axis; closer pixels of a correlated image tell nothing new
SMALLEST_SHARE = 0.1  # of a box that must be finite


class NoiseGrid:
    """Robust rms in boxes of BOX_BEAMS around nodes half a box apart, bilinear between the nodes.

    A node is measured when a position first needs it, so a single position reads four boxes and not the image, and
    gets the same value as one of thousands.
    """

    def __init__(self, plane: Plane, beam_px: float) -> None:
        self._plane = plane
        self._half = max(8, round(BOX_BEAMS * beam_px / 2))
        self._step = max(1, int(beam_px / SAMPLES_PER_BEAM))
        self._columns = _nodes(plane.width_px, self._half)
        self._rows = _nodes(plane.height_px, self._half)
        self._measured: dict[tuple[int, int], float] = {}

    def at(self, x: NDArray, y: NDArray) -> NDArray:
        """The rms at 0-based pixel positions; NaN where all around is blank."""
        i, fx = _cell(self._columns, x)
        j, fy = _cell(self._rows, y)
        corners = [(j, i), (j, i + 1), (j + 1, i), (j + 1, i + 1)]
        weights = np.stack([(1 - fy) * (1 - fx), (1 - fy) * fx, fy * (1 - fx), fy * fx])
        values = np.stack([self._values(row, column) for row, column in corners])
        finite = np.isfinite(values)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(finite, values * weights, 0).sum(axis=0) / np.where(finite, weights, 0).sum(axis=0)

    def full(self) -> NDArray:
        """The rms at every pixel, (dec, ra) float32."""
        nodes = np.array([[self._node(j, i) for i in range(len(self._columns))] for j in range(len(self._rows))])
        down, across = _weights(self._rows, self._plane.height_px), _weights(self._columns, self._plane.width_px)
        finite = np.isfinite(nodes)
        total = down @ finite.astype(np.float32) @ across.T
        with np.errstate(invalid="ignore", divide="ignore"):
            return (down @ np.where(finite, nodes, 0).astype(np.float32) @ across.T) / total

    def _values(self, rows: NDArray, columns: NDArray) -> NDArray:
        n_columns = len(self._columns)
        wanted, inverse = np.unique(rows * n_columns + columns, return_inverse=True)
        return np.array([self._node(*divmod(int(key), n_columns)) for key in wanted])[inverse.reshape(rows.shape)]

    def _node(self, row: int, column: int) -> float:
        key = (row, column)
        if key not in self._measured:
            self._measured[key] = self._box_rms(round(self._rows[row]), round(self._columns[column]))
        return self._measured[key]

    def _box_rms(self, y: int, x: int) -> float:
        rows = slice(max(0, y - self._half), y + self._half + 1, self._step)
        columns = slice(max(0, x - self._half), x + self._half + 1, self._step)
        box = self._plane.values(rows, columns)
        finite = box[np.isfinite(box)]
        if finite.size < SMALLEST_SHARE * box.size:
            return np.nan
        return robust_rms(finite) or np.nan


def _nodes(size_px: int, spacing: int) -> NDArray:
    return np.linspace(0, size_px - 1, max(2, round(size_px / spacing) + 1))


def _cell(nodes: NDArray, position: NDArray) -> tuple[NDArray, NDArray]:
    """Index of the node before each position and the fraction of the way to the next."""
    place = np.clip(np.asarray(position, dtype=float) / (nodes[1] - nodes[0]), 0, len(nodes) - 1)
    index = np.minimum(place.astype(int), len(nodes) - 2)
    return index, place - index


def _weights(nodes: NDArray, size_px: int) -> NDArray:
    """(pixels, nodes) float32: how much of each node is in each pixel."""
    index, fraction = _cell(nodes, np.arange(size_px))
    weights = np.zeros((size_px, len(nodes)), dtype=np.float32)
    weights[np.arange(size_px), index] = 1 - fraction
    weights[np.arange(size_px), index + 1] += fraction
    return weights
