"""The solutions of a calibration table as a PNG: amplitude and phase of every antenna, and what is flagged."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection, PatchCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from calibration.engines.caltable import Table, read_table

COLOURS = ("#0b5394", "#c0504d")  # X, Y
HANDS = ("X", "Y")
INK, FAINT, DEAD, FLAGGED = "#222222", "#bbbbbb", "#ececec", "#e69f00"
CELL_IN, DPI = (1.5, 1.15), 100
AMPLITUDE, PHASE, MARKS = (0.52, 0.80), (0.08, 0.46), 0.03  # heights in a cell of 1
MOST_NAMES = 60
FEWEST_COLUMNS = 6  # so that there is room for what is written above


def draw(*, out: Path, path: str, name: str) -> None:
    """A gain table, which has one solution for a whole tile, against the antennas; a bandpass against frequency, a cell
    for each antenna."""
    table = read_table(Path(path))
    figure = _gains(table, name) if table.frequency_hz.size == 1 else _bandpass(table, name)
    FigureCanvasAgg(figure)
    figure.savefig(out, format="png", metadata={"Software": None})


# --- gains ---------------------------------------------------------------------------------------------------------
def _gains(table: Table, name: str) -> Figure:
    figure = Figure(figsize=(11, 6.5), dpi=DPI, facecolor="white", layout="constrained")
    above, below = figure.subplots(2, sharex=True)
    gains, flags = table.solution.gains[:, 0], table.solution.flags[:, 0]
    numbers = np.arange(len(table.antenna_names))
    for hand in range(gains.shape[1]):
        good = ~flags[:, hand]
        style = {"color": COLOURS[hand], "marker": "ox"[hand], "linestyle": "none", "label": HANDS[hand]}
        above.plot(numbers[good], np.abs(gains[good, hand]), **style)
        below.plot(numbers[good], np.degrees(np.angle(gains[good, hand])), **style)
    for axes in (above, below):
        for number in numbers[flags.all(axis=1)]:
            axes.axvspan(number - 0.5, number + 0.5, color=DEAD, zorder=0)
        for number in numbers[flags.any(axis=1) & ~flags.all(axis=1)]:
            axes.axvline(number, color=FLAGGED, linewidth=1, zorder=0)
        axes.grid(axis="y", color=DEAD)
        axes.spines[["top", "right"]].set_visible(False)
    above.set_ylabel("amplitude")
    below.set_ylabel("phase [degrees]")
    below.set_ylim(-185, 185)
    below.set_yticks([-180, -90, 0, 90, 180])
    shown = numbers[:: max(1, -(-numbers.size // MOST_NAMES))]
    below.set_xticks(shown, [table.antenna_names[number] for number in shown], rotation=90, fontsize=7)
    below.set_xlim(-0.7, numbers.size - 0.3)
    above.set_title(name, loc="left", fontsize=11, fontweight="bold", color=INK, parse_math=False)
    above.set_title(f"{_flagged(flags)}; grey: antenna flagged, yellow: one polarization", loc="right", fontsize=9)
    above.legend(loc="upper right", fontsize=8)
    return figure


# --- bandpass --------------------------------------------------------------------------------------------------------
def _bandpass(table: Table, name: str) -> Figure:
    """One pair of axes for all cells: a hundred antennas with axes of their own would take ten seconds."""
    n = len(table.antenna_names)
    columns = max(FEWEST_COLUMNS, math.ceil(math.sqrt(n)))
    rows = math.ceil(n / columns)
    width, height = columns * CELL_IN[0], rows * CELL_IN[1] + 0.7
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
    axes = figure.add_axes((0.005, 0.005, 0.99, 1 - 0.7 / height))
    flags = table.solution.flags
    dead = np.asarray(flags.all(axis=(1, 2)))
    highest = float(np.abs(table.solution.gains)[~flags].max(initial=0.0)) or 1.0
    corners = np.array([(number % columns, rows - 1 - number // columns) for number in range(n)], dtype=float)
    _frames(axes, corners, dead)
    for hand in range(flags.shape[2]):
        _curves(axes, table, corners, hand, highest)
    for number, (x, y) in enumerate(corners):
        state = " flagged" if dead[number] else ""
        axes.text(x + 0.04, y + 0.93, table.antenna_names[number] + state, fontsize=7, color=INK, va="top")
    axes.set_xlim(0, columns)
    axes.set_ylim(0, rows)
    axes.set_axis_off()
    low, high = table.frequency_hz[[0, -1]] / 1e6
    figure.text(0.01, 1 - 0.22 / height, name, fontsize=11, fontweight="bold", color=INK, parse_math=False)
    figure.text(
        0.01, 1 - 0.48 / height,
        f"{low:.1f} to {high:.1f} MHz; above amplitude, 0 to {highest:.3g}; below phase, -180 to 180 degrees;"
        f" blue X, red Y, yellow: flagged. {_flagged(flags)}",
        fontsize=8, color=INK,
    )  # fmt: skip
    return figure


def _frames(axes: Axes, corners: np.ndarray, dead: np.ndarray) -> None:
    frames = [Rectangle((x + 0.02, y + 0.02), 0.96, 0.96) for x, y in corners]
    faces = [DEAD if is_dead else "white" for is_dead in dead]
    axes.add_collection(PatchCollection(frames, facecolor=faces, edgecolor=FAINT, linewidth=0.6))
    middles = [[(x + 0.04, y + at), (x + 0.96, y + at)] for x, y in corners for at in (AMPLITUDE[0], sum(PHASE) / 2)]
    axes.add_collection(LineCollection(middles, colors=FAINT, linewidths=0.4))


def _curves(axes: Axes, table: Table, corners: np.ndarray, hand: int, highest: float) -> None:
    frequency = table.frequency_hz
    across = 0.04 + 0.92 * (frequency - frequency[0]) / (frequency[-1] - frequency[0])
    lines, points, marks = [], [], []
    for (x, y), gains, flags in zip(
        corners, table.solution.gains[:, :, hand], table.solution.flags[:, :, hand], strict=True
    ):
        amplitude = y + AMPLITUDE[0] + (AMPLITUDE[1] - AMPLITUDE[0]) * np.abs(gains) / highest
        phase = y + PHASE[0] + (PHASE[1] - PHASE[0]) * (np.degrees(np.angle(gains)) + 180) / 360
        lines.append(np.column_stack([x + across, np.where(flags, np.nan, amplitude)]))
        points.append(np.column_stack([x + across, phase])[~flags])
        marks.append(np.column_stack([x + across, np.full(across.size, y + MARKS + 0.02 * hand)])[flags])
    axes.add_collection(LineCollection(lines, colors=COLOURS[hand], linewidths=0.8))
    axes.plot(*np.concatenate(points).T, ".", markersize=1.5, color=COLOURS[hand])
    axes.plot(*np.concatenate(marks).T, ".", markersize=1.5, color=FLAGGED)


def _flagged(flags: np.ndarray) -> str:
    return f"{100 * flags.mean():.1f}% of the solutions are flagged"
