"""Plots of a night as SVG, to stand inside an HTML page: text stays text, and colour is never all there is.

Each function takes plain figures and gives one `<svg>` element with a text alternative. What is not finite is left out;
who calls says in words what is shown, and draws nothing where there is nothing.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from statistics import median
from typing import Any
from xml.sax.saxutils import escape, quoteattr

import matplotlib as mpl
import matplotlib.dates as mdates
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

INK, PALE, BAR, LIMIT, GROUND, MARK = "#222222", "#e3e3e3", "#5a86b5", "#9c2b1f", "#f0f0f0", "#0b3d6e"
FONTS = ["Helvetica", "Arial", "Liberation Sans", "DejaVu Sans"]
LOWEST_RATIO, HIGHEST_RATIO, RATIO_STEP = 0.4, 1.6, 0.05
NAMED_ANTENNAS = 4  # the worst of each panel
NAMES_ABREAST = 12
SMALLEST_RANGE = 5.0  # of percent or degrees: less than that is no difference to look at
MOST_TICKS = 24
COLOUR_MAP = "cividis_r"  # its lightness changes evenly, in print too; noisy is dark


@dataclass(frozen=True)
class TilePoint:
    """What the plot of the noise shows of a tile. RA in degrees (ICRS), dec of the strip in degrees."""

    observed_at: datetime
    ra_deg: float
    dec_deg: float
    rms_mjy_per_beam: float
    is_poor: bool


@dataclass(frozen=True)
class AntennaPoint:
    """An antenna over a night: its median flagged fraction, and the largest phase scatter of its bandpasses."""

    name: str
    flagged_fraction: float | None
    phase_scatter_deg: float | None


@dataclass(frozen=True)
class SeriesPoint:
    """A value of a drift series with its control limits, None where too few came before."""

    observed_at: datetime
    value: float
    lower_limit: float | None
    upper_limit: float | None
    is_out: bool
    is_step: bool


def ratio_histogram(*, ratios: Sequence[float], limits: Sequence[float], alt: str) -> str:
    """Of flux ratios to the reference catalogue; what is beyond the axis is in its last bars. The limits are lines."""
    figure, axes = _figure(5.2, 3.0)
    shown = [min(max(ratio, LOWEST_RATIO), HIGHEST_RATIO) for ratio in _finite(ratios)]
    n_bins = round((HIGHEST_RATIO - LOWEST_RATIO) / RATIO_STEP)
    axes.hist(shown, bins=n_bins, range=(LOWEST_RATIO, HIGHEST_RATIO), color=BAR, edgecolor="white", linewidth=0.6)
    for limit in limits:
        _limit_line(axes.axvline, limit)
    if shown:
        axes.axvline(median(_finite(ratios)), color=INK, linewidth=1.4)
    axes.set_xlim(LOWEST_RATIO, HIGHEST_RATIO)
    axes.set_xlabel("flux density over the catalogue's")
    axes.set_ylabel("sources")
    axes.yaxis.set_major_locator(ticker.MaxNLocator(integer=True))
    return _svg(figure, axes, "Flux ratios of single sources", alt)


def completeness(*, bins: Sequence[tuple[float, float | None, int, int]], limit: float | None, alt: str) -> str:
    """The share of expected sources that were seen, by apparent flux; bins are (from Jy, to Jy, expected, seen)."""
    figure, axes = _figure(5.2, 3.0)
    places = range(len(bins))
    axes.bar(places, [100 * seen / n for _, _, n, seen in bins], color=BAR, width=0.8)
    for place, (_, _, n, seen) in zip(places, bins, strict=True):
        axes.annotate(
            f"{seen}/{n}", (place, 100 * seen / n), xytext=(0, 2), textcoords="offset points", ha="center", fontsize=8
        )
    if limit is not None:
        _limit_line(axes.axhline, 100 * limit)
    axes.set_xticks(list(places), [_bin_name(low, high) for low, high, _, _ in bins])
    axes.set_ylim(0, 115)
    axes.set_yticks(range(0, 101, 20))
    axes.set_xlabel("apparent flux density [mJy]")
    axes.set_ylabel("seen above 5 sigma [%]")
    return _svg(figure, axes, "Completeness", alt)


def _bin_name(low_jy: float, high_jy: float | None) -> str:
    return f"≥ {1e3 * low_jy:g}" if high_jy is None else f"{1e3 * low_jy:g}–{1e3 * high_jy:g}"


def noise(*, tiles: Sequence[TilePoint], observed_from: datetime, observed_until: datetime, alt: str) -> str:
    """The noise of the tiles of a night against time, and where on the sky they are. Poor tiles are crosses."""
    figure = Figure(figsize=(9.6, 3.5), layout="constrained")
    upper, lower = figure.subplots(2, 1, height_ratios=(2.2, 1))
    for is_poor, marker, label in ((False, "o", "tile"), (True, "X", "graded poor")):
        chosen = [tile for tile in tiles if tile.is_poor == is_poor]
        if chosen:
            upper.plot(
                [mdates.date2num(tile.observed_at) for tile in chosen],
                [tile.rms_mjy_per_beam for tile in chosen],
                marker, color=LIMIT if is_poor else MARK, markersize=6 if is_poor else 4, label=label,
            )  # fmt: skip
    _time_axis(upper, observed_from, observed_until)
    upper.set_yscale("log")
    upper.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    upper.yaxis.set_major_formatter(ticker.FormatStrFormatter("%g"))
    upper.yaxis.set_minor_formatter(ticker.NullFormatter())
    _room(upper, [tile.rms_mjy_per_beam for tile in tiles])
    upper.set_ylabel("rms [mJy/beam]")
    if any(tile.is_poor for tile in tiles):
        upper.legend(fontsize=8, frameon=False, ncols=2, loc="lower right", bbox_to_anchor=(1, 1))
    colour = [math.log10(tile.rms_mjy_per_beam) for tile in tiles]
    places = lower.scatter(
        [tile.ra_deg for tile in tiles], [tile.dec_deg for tile in tiles], c=colour, cmap=COLOUR_MAP, s=34, marker="s",
        edgecolor=INK, linewidth=0.4,
    )  # fmt: skip
    lower.set_xlim(360, 0)
    lower.set_xticks(range(360, -1, -30))
    decs = [tile.dec_deg for tile in tiles]
    lower.set_ylim(min(decs) - 1.5, max(decs) + 1.5)
    lower.set_xlabel("right ascension [deg]")
    lower.set_ylabel("dec [deg]")
    _dress(lower)
    bar = figure.colorbar(places, ax=lower, pad=0.01, aspect=8, format=lambda power, _: f"{10**power:.3g}")
    bar.set_label("rms\n[mJy/beam]", fontsize=8)
    bar.ax.tick_params(labelsize=8)
    bar.locator = ticker.MaxNLocator(3)
    return _svg(figure, upper, "Noise over the night, and over the sky", alt)


def antenna_health(*, antennas: Sequence[AntennaPoint], alt: str) -> str:
    """Bars of flagged fraction and phase scatter for each antenna in the order given; the worst are named."""
    figure = Figure(figsize=(9.6, 3.5), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True)
    flagged = [None if one.flagged_fraction is None else 100 * one.flagged_fraction for one in antennas]
    _bars(upper, antennas, flagged, "flagged [%]")
    _bars(lower, antennas, [one.phase_scatter_deg for one in antennas], "phase scatter [deg]")
    step = math.ceil(len(antennas) / MOST_TICKS)
    lower.set_xticks(range(0, len(antennas), step))
    lower.set_xticklabels([one.name for one in antennas[::step]], rotation=45, ha="right", parse_math=False)
    lower.set_xlim(-0.8, len(antennas) - 0.2)
    lower.set_xlabel("antenna")
    _dress(lower)
    return _svg(figure, upper, "Antennas", alt)


def _bars(axes: Axes, antennas: Sequence[AntennaPoint], values: Sequence[float | None], label: str) -> None:
    known = [(place, value) for place, value in enumerate(values) if value is not None and math.isfinite(value)]
    axes.bar([place for place, _ in known], [value for _, value in known], color=BAR, width=0.75)
    axes.set_ylim(0, 1.25 * max([SMALLEST_RANGE, *(value for _, value in known)]))
    axes.set_ylabel(label)
    for place, value in _worst(known, n_places=len(values)):
        axes.annotate(
            antennas[place].name, (place, value), xytext=(0, 2), textcoords="offset points", ha="center", fontsize=8,
            fontweight="bold", parse_math=False,
        )  # fmt: skip
    little = SMALLEST_RANGE / 10
    if all(value < little for _, value in known):  # bars that nobody would see
        words = f"none above {little:g}" if known else "not measured"
        axes.text(0.5, 0.5, words, transform=axes.transAxes, ha="center", va="center", color=INK)


def _worst(known: Sequence[tuple[int, float]], *, n_places: int) -> list[tuple[int, float]]:
    """Those to be named: well above the others, and far enough apart for their names."""
    usual = median([value for _, value in known]) if known else 0.0
    named: list[tuple[int, float]] = []
    for place, value in sorted(known, key=lambda one: -one[1]):
        if value <= max(1.5 * usual, SMALLEST_RANGE / 2) or len(named) == NAMED_ANTENNAS:
            break
        if all(abs(place - other) > n_places / NAMES_ABREAST for other, _ in named):
            named.append((place, value))
    return named


def drift(
    *,
    series: Mapping[str, Sequence[SeriesPoint]],
    title: str,
    observed_from: datetime,
    observed_until: datetime,
    alt: str,
) -> str:
    """A panel for each series (by the label of its axis) with its control limits; the night that is asked for is grey.

    What is out of its limits is a cross, a step a vertical line.
    """
    n_rows = math.ceil(len(series) / 2)
    figure = Figure(figsize=(9.6, 0.3 + 1.6 * n_rows), layout="constrained")
    panels = figure.subplots(n_rows, 2, squeeze=False)
    for axes, (label, points) in zip(panels.flat, series.items(), strict=False):
        _drift_panel(axes, points, label)
        if points:
            axes.axvspan(_day(observed_from), _day(observed_until), color=GROUND, zorder=0, linewidth=0)
            axes.set_xlim(_day(min(points[0].observed_at, observed_from)), _day(observed_until))
    for axes in panels.flat[len(series) :]:
        axes.set_visible(False)
    figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold", color=INK)
    return _svg(figure, None, title, alt)


def _drift_panel(axes: Axes, points: Sequence[SeriesPoint], label: str) -> None:
    axes.set_ylabel(label, fontsize=8)
    _dress(axes)
    if not points:
        axes.text(0.5, 0.5, "no value", transform=axes.transAxes, ha="center", va="center", color=INK)
        axes.set_xticks([])
        axes.set_yticks([])
        return
    times = [_day(point.observed_at) for point in points]
    values = [point.value for point in points]
    axes.plot(times, values, color=MARK, linewidth=0.9, marker="o" if len(points) < 60 else "", markersize=3)
    limited = [point for point in points if point.lower_limit is not None and point.upper_limit is not None]
    if limited:
        lows, highs = ([getattr(point, name) for point in limited] for name in ("lower_limit", "upper_limit"))
        for edge in (lows, highs):
            axes.plot([_day(point.observed_at) for point in limited], edge, color=LIMIT, linewidth=0.8, linestyle="--")
    out = [point for point in points if point.is_out]
    axes.plot([_day(one.observed_at) for one in out], [one.value for one in out], "X", color=LIMIT, markersize=6)
    for point in points:
        if point.is_step:
            axes.axvline(_day(point.observed_at), color=INK, linewidth=1.4, linestyle=":")
    axes.xaxis.set_major_locator(mdates.DayLocator())
    axes.xaxis.set_major_formatter(mdates.DateFormatter("%m-%d"))
    axes.tick_params(labelsize=8)


# --- what all have in common -----------------------------------------------------------------------------------------
def _figure(width_in: float, height_in: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width_in, height_in), layout="constrained")
    return figure, figure.add_subplot()


def _finite(values: Sequence[float]) -> list[float]:
    return [value for value in values if math.isfinite(value)]


def _day(time: datetime) -> float:
    return float(mdates.date2num(time))


def _limit_line(draw: Any, at: float) -> None:
    draw(at, color=LIMIT, linewidth=1.4, linestyle="--")


def _time_axis(axes: Axes, observed_from: datetime, observed_until: datetime) -> None:
    axes.set_xlim(_day(observed_from), _day(observed_until))
    axes.xaxis.set_major_locator(mdates.HourLocator(byhour=range(0, 24, 3)))
    axes.xaxis.set_major_formatter(mdates.DateFormatter("%H:%M"))
    axes.set_xlabel("UTC")


def _room(axes: Axes, values: Sequence[float]) -> None:
    """About the values of a logarithmic axis: at least a factor of two, so that a quiet night does not look wild."""
    middle = math.sqrt(min(values) * max(values))
    axes.set_ylim(min(0.8 * min(values), middle / 2), max(1.4 * max(values), 2 * middle))


def _dress(axes: Axes) -> None:
    axes.grid(color=PALE, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _svg(figure: Figure, titled: Axes | None, title: str, alt: str) -> str:
    """The element, with the title above an axes and, for who does not see it, in the text alternative."""
    if titled is not None:
        titled.set_title(title, loc="left", fontsize=11, fontweight="bold", color=INK)
        _dress(titled)
    out = io.StringIO()
    # Identifiers in the file are digests with this salt: two plots on a page must not share them.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": title + alt, "font.family": FONTS}):
        no_date = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        FigureCanvasSVG(figure).print_svg(out, metadata=no_date)
    drawn = out.getvalue()
    element = re.sub(r' (?:width|height)="[\d.]+pt"', "", drawn[drawn.index("<svg") :], count=2)
    start, rest = element.split(">", 1)
    told = f"{title}: {alt}"
    return f'{start} role="img" aria-label={quoteattr(told)}><title>{escape(told)}</title>{rest}'
