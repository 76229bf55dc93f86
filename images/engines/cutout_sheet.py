"""Cutouts of many images side by side, as a PNG."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from contimg.exceptions import ContimgError
from images.engines.cutout import cut, stretched

CELL_IN, TITLE_IN, DPI = 2.4, 0.25, 100
GROUND, INK, MARK = "#0c0f15", "#e6e9ef", "#7fd4ff"


def draw(*, out: Path, cells: Sequence[Mapping[str, Any]], paths: Sequence[str | None]) -> None:
    """`cells` have `title`, `ra_deg`, `dec_deg` and `size_px`; where a path is None or cannot be cut, words are."""
    columns = math.ceil(math.sqrt(len(cells)))
    rows = math.ceil(len(cells) / columns)
    size_in = columns * CELL_IN, rows * (CELL_IN + TITLE_IN)
    figure = Figure(figsize=size_in, dpi=DPI, facecolor=GROUND, layout="constrained")
    FigureCanvasAgg(figure)
    for number, axes in enumerate(figure.subplots(rows, columns, squeeze=False).flat):
        axes.set_axis_off()
        if number < len(cells):
            axes.set_title(cells[number]["title"], fontsize=8, color=INK, parse_math=False)
            _draw_cell(axes, cells[number], paths[number])
    figure.savefig(out, format="png", metadata={"Software": None})


def _draw_cell(axes: Axes, cell: Mapping[str, Any], path: str | None) -> None:
    size_px = cell["size_px"]
    if path is None:
        _say(axes, "the file is gone")
        return
    try:
        made = cut(Path(path), ra_deg=cell["ra_deg"], dec_deg=cell["dec_deg"], size_px=size_px)
    except ContimgError as error:
        _say(axes, error.code.replace("_", " "))
        return
    grey, is_blank = stretched(made.pixels)
    axes.imshow(grey, cmap="gray", origin="lower", vmin=0, vmax=255, alpha=(~is_blank).astype(float))
    middle, arm = size_px // 2, size_px / 16
    for dx, dy in ((1, 0), (0, 1)):  # beside the place, not on it
        axes.plot(
            [middle + arm * dx, middle + 2 * arm * dx], [middle + arm * dy, middle + 2 * arm * dy], color=MARK, lw=1
        )


def _say(axes: Axes, text: str) -> None:
    axes.text(0.5, 0.5, text, color=INK, fontsize=9, ha="center", va="center", transform=axes.transAxes)
