"""A light curve as a PNG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import matplotlib.dates as mdates
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

DETECTED, FORCED, REJECTED, MEAN = "#0b5394", "#5b9bd5", "#9a9a9a", "#c0504d"
INK, PALE = "#222222", "#e6e6e6"


def draw(*, light_curve: Mapping[str, Any], name: str, is_variable: bool, path: Path) -> None:
    """Write the PNG of what `sources.services.light_curve` gives: fluxes in mJy with errors against UTC.

    Detections are filled, forced fluxes open, upper limits arrows, epochs that were rejected hollow and grey.
    """
    figure = Figure(figsize=(9, 4.8), dpi=150, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    points = [point for point in light_curve["points"] if point["observed_at"] is not None]
    _fluxes(axes, [point for point in points if _kind(point) == "detected"], _STYLES["detected"])
    _fluxes(axes, [point for point in points if _kind(point) == "forced"], _STYLES["forced"])
    _limits(axes, [point for point in points if _kind(point) == "limit"])
    _mean(axes, light_curve["statistics"])
    _rejected(axes, [point for point in points if _kind(point) == "rejected"])
    _decorate(axes, points)
    axes.set_title(name, loc="left", fontsize=13, fontweight="bold", color=INK)
    axes.set_title(_verdict(light_curve["statistics"], is_variable), loc="right", fontsize=10, color=INK)
    figure.savefig(path, format="png", metadata={"Software": None})


def draw_order(*, out: Path, light_curve: Mapping[str, Any], name: str, is_variable: bool) -> None:
    """The same of a light curve that was JSON, as a child process gets it."""
    points = [
        {**point, "observed_at": point["observed_at"] and datetime.fromisoformat(point["observed_at"])}
        for point in light_curve["points"]
    ]
    draw(light_curve={**light_curve, "points": points}, name=name, is_variable=is_variable, path=out)


_STYLES: dict[str, dict[str, Any]] = {
    "detected": {"color": DETECTED, "marker": "o", "mec": "white", "mew": 0.6, "label": "detected"},
    "forced": {"color": FORCED, "marker": "s", "mfc": "white", "mew": 1.4, "label": "forced"},
    "rejected": {"color": REJECTED, "marker": "o", "mfc": "white", "mew": 1.2, "label": "rejected by QA"},
}


def _kind(point: Mapping[str, Any]) -> str:
    if point["status"] == "rejected":
        return "rejected"
    return "limit" if point["upper_limit_jy"] is not None else point["status"]


def _fluxes(axes: Axes, points: Sequence[Mapping[str, Any]], style: dict[str, Any]) -> None:
    if not points:
        return
    axes.errorbar(
        [point["observed_at"] for point in points],
        [1e3 * point["flux_jy"] for point in points],
        yerr=[1e3 * point["flux_err_jy"] for point in points],
        linestyle="none",
        markersize=6.5,
        elinewidth=1.3,
        capsize=3,
        zorder=3,
        **style,
    )


def _rejected(axes: Axes, points: Sequence[Mapping[str, Any]]) -> None:
    """Whatever a rejected epoch says, the others set the scale; what is off it is a triangle at the edge."""
    if not axes.has_data():
        _fluxes(axes, points, _STYLES["rejected"])
        return
    low, high = axes.get_ylim()
    margin = 0.12 * (high - low)
    low, high = low - margin, high + margin
    _fluxes(axes, [point for point in points if low < 1e3 * point["flux_jy"] < high], _STYLES["rejected"])
    for is_off, marker, edge in ((lambda flux: flux >= high, "^", 0.97), (lambda flux: flux <= low, "v", 0.03)):
        times = [point["observed_at"] for point in points if is_off(1e3 * point["flux_jy"])]
        if times:
            label = "rejected by QA, off the scale"
            height = [low + edge * (high - low)] * len(times)
            axes.scatter(times, height, marker=marker, s=60, facecolor="white", edgecolor=REJECTED, label=label)
    axes.set_ylim(low, high)


def _limits(axes: Axes, points: Sequence[Mapping[str, Any]]) -> None:
    if not points:
        return
    times = [point["observed_at"] for point in points]
    limits = [1e3 * point["upper_limit_jy"] for point in points]
    axes.scatter(times, limits, marker="_", s=140, linewidths=1.8, color=FORCED, zorder=3, label="3σ upper limit")
    for time, limit in zip(times, limits, strict=True):
        axes.annotate(
            "",
            xy=(time, limit),
            xytext=(0, -22),
            textcoords="offset points",
            arrowprops={"arrowstyle": "<|-", "color": FORCED, "lw": 1.4, "shrinkA": 0, "shrinkB": 0},
        )


def _mean(axes: Axes, statistics: Mapping[str, Any]) -> None:
    if statistics["mean_jy"] is None:
        return
    mean = 1e3 * statistics["mean_jy"]
    axes.axhline(mean, color=MEAN, linewidth=1.2, linestyle=(0, (6, 3)), zorder=1, label=f"mean {mean:.3g} mJy")
    if statistics["std_jy"] is not None:
        half = 1e3 * statistics["std_jy"]
        axes.axhspan(mean - half, mean + half, color=MEAN, alpha=0.08, linewidth=0, zorder=0)


def _decorate(axes: Axes, points: Sequence[Mapping[str, Any]]) -> None:
    axes.set_ylabel("flux density [mJy]", color=INK)
    axes.set_xlabel("UTC", color=INK)
    if points:
        locator = mdates.AutoDateLocator(minticks=3, maxticks=9)
        axes.xaxis.set_major_locator(locator)
        axes.xaxis.set_major_formatter(mdates.ConciseDateFormatter(locator))
        times = mdates.date2num([point["observed_at"] for point in points])
        margin = 0.06 * (max(times) - min(times)) or 0.5  # days
        axes.set_xlim(min(times) - margin, max(times) + margin)
        axes.legend(loc="best", fontsize=8.5, framealpha=0.9, edgecolor=PALE)
    else:
        axes.text(0.5, 0.5, "no epoch covers this source", transform=axes.transAxes, ha="center", color=REJECTED)
    axes.grid(color=PALE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=INK)


def _verdict(statistics: Mapping[str, Any], is_variable: bool) -> str:
    eta = "η undefined" if statistics["eta"] is None else f"η = {statistics['eta']:.3g}"
    v = "V undefined" if statistics["v"] is None else f"V = {statistics['v']:.3g}"
    return f"{eta}   {v}   N = {statistics['n']}   {'variable' if is_variable else 'not variable'}"
