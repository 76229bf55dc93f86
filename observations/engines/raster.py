"""A picture of a measurement set: amplitude, phase or flags over two of its axes, averaged over the others."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
from astropy.time import Time
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from scipy.sparse import csr_array

from observations.engines.measurement_set import Header, Rows, read_header, read_rows

VALUES_AT_ONCE = 4_000_000
DPI = 100
MOST_NAMES = 24
INK, BLANK = "#222222", "#d9d9d9"
LABELS = {"amplitude": "amplitude", "phase": "phase [degrees]", "flags": "flagged fraction"}


@dataclass(frozen=True)
class Raster:
    """`values` (y, x); NaN where nothing is, or all is flagged. `places` are the indices on the axes that have data."""

    values: np.ndarray
    x_places: np.ndarray
    y_places: np.ndarray


def draw(
    *, out: Path, path: str, name: str, x: str, y: str, quantity: str, colormap: str, width_px: int, height_px: int
) -> None:
    """Write a PNG. `x` and `y` are two of time, channel, baseline and antenna."""
    header = read_header(Path(path))
    raster = gather(Path(path), header, x=x, y=y, quantity=quantity)
    figure = Figure(figsize=(width_px / DPI, height_px / DPI), dpi=DPI, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(facecolor=BLANK)
    low, high = _range(raster.values, quantity)
    picture = axes.imshow(
        raster.values, origin="lower", aspect="auto", cmap=colormap, vmin=low, vmax=high, interpolation="nearest"
    )
    figure.colorbar(picture, ax=axes, label=LABELS[quantity], pad=0.01)
    _label(axes, header, "x", x, raster.x_places)
    _label(axes, header, "y", y, raster.y_places)
    axes.set_title(name, loc="left", fontsize=10, color=INK, parse_math=False)
    figure.savefig(out, format="png", metadata={"Software": None})


def gather(path: Path, header: Header, *, x: str, y: str, quantity: str) -> Raster:
    """Cross-correlations of all polarizations: the mean amplitude, the phase of the mean, or the fraction flagged.

    In bounded memory. Visibilities that are flagged or not finite count in no mean.
    """
    sizes = {
        "time": header.times_s.size,
        "channel": header.frequency_hz.size,
        "antenna": len(header.antenna_names),
        "baseline": len(header.antenna_names) * (len(header.antenna_names) - 1) // 2,
    }
    shape = sizes[y], sizes[x]
    total, count, everything = np.zeros(shape, complex), np.zeros(shape), np.zeros(shape)
    for rows in read_rows(path, max(1, VALUES_AT_ONCE // (2 * header.frequency_hz.size))):
        cross = rows.is_cross
        if not cross.any():
            continue
        sums = _over_polarizations(rows, cross, quantity)
        for of_y, of_x in _bins(rows, cross, header, y, x):
            for target, values in zip((total, count, everything), sums, strict=True):
                target += _binned(values, of_y, of_x, shape)
    with np.errstate(invalid="ignore", divide="ignore"):
        values = {
            "amplitude": lambda: (total / count).real,
            "phase": lambda: np.degrees(np.angle(np.where(count > 0, total / count, np.nan))),
            "flags": lambda: np.where(everything > 0, 1 - count / everything, np.nan),
        }[quantity]()
    x_places, y_places = (_seen(name, everything.sum(axis=axis) > 0) for name, axis in ((x, 0), (y, 1)))
    return Raster(values[np.ix_(y_places, x_places)], x_places, y_places)


def _seen(name: str, has_data: np.ndarray) -> np.ndarray:
    """Times and channels are all shown, also empty ones; antennas and baselines that the array lacks are not."""
    return np.flatnonzero(has_data) if name in ("antenna", "baseline") else np.arange(has_data.size)


def _over_polarizations(rows: Rows, cross: np.ndarray, quantity: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each row and channel: the sum of what counts, how much that is, and how much there is."""
    data, good = rows.data[cross], ~rows.flags[cross]
    everything = np.full(good.shape[:2], float(good.shape[2]))
    if quantity != "flags":
        good &= np.isfinite(data)
    values = np.abs(data) if quantity == "amplitude" else data
    return np.where(good, values, 0).sum(axis=2, dtype=complex), good.sum(axis=2, dtype=float), everything


_Bins = np.ndarray | None  # of each row; None: its channels are the bins


def _bins(rows: Rows, cross: np.ndarray, header: Header, y: str, x: str) -> Iterator[tuple[_Bins, _Bins]]:
    """Where each row belongs; a row belongs to both of its antennas."""
    first, second = rows.antenna1[cross], rows.antenna2[cross]
    low, high = np.minimum(first, second), np.maximum(first, second)
    n = len(header.antenna_names)
    of: dict[str, list[_Bins]] = {
        "time": [rows.time_index[cross]],
        "channel": [None],
        "antenna": [first, second],
        "baseline": [low * (2 * n - low - 1) // 2 + high - low - 1],
    }
    yield from product(of[y], of[x])


def _binned(values: np.ndarray, of_y: _Bins, of_x: _Bins, shape: tuple[int, int]) -> np.ndarray:
    if of_y is None:
        assert of_x is not None  # noqa: S101 - for mypy: two different axes
        return _binned(values, of_x, None, shape[::-1]).T
    ones, numbers = np.ones(of_y.size), np.arange(of_y.size)
    if of_x is None:
        return csr_array((ones, (of_y, numbers)), shape=(shape[0], of_y.size)) @ values
    return csr_array((values.sum(axis=1), (of_y, of_x)), shape=shape).toarray()


def _range(values: np.ndarray, quantity: str) -> tuple[float, float]:
    """Of the colours: a few bright values do not make the rest one colour."""
    finite = values[np.isfinite(values)]
    if quantity == "phase":
        return -180.0, 180.0
    if quantity == "flags":
        return 0.0, 1.0
    if finite.size == 0:
        return 0.0, 1.0
    low, high = np.percentile(finite, [0.5, 99.5])
    return (float(low), float(high)) if high > low else (float(low), float(low) + max(1.0, abs(float(low))))


def _label(axes: Axes, header: Header, which: str, name: str, places: np.ndarray) -> None:
    text = {
        "time": f"integration from {Time(header.times_s[0] / 86400, format='mjd').strftime('%Y-%m-%d %H:%M:%S')} UTC",
        "channel": f"channel from {header.frequency_hz[0] / 1e6:.2f} to {header.frequency_hz[-1] / 1e6:.2f} MHz",
        "antenna": "antenna",
        "baseline": "baseline, by the first of its antennas",
    }[name]
    getattr(axes, f"set_{which}label")(text, color=INK)
    if name == "antenna" and places.size:
        step = -(-places.size // MOST_NAMES)
        shown = np.arange(0, places.size, step)
        names = [header.antenna_names[places[place]] for place in shown]
        getattr(axes, f"set_{which}ticks")(shown, names, fontsize=7, rotation=90 if which == "x" else 0)
