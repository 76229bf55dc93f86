"""A night as one HTML page that an operator reads in a minute: no script, nothing loaded, readable in print.

Plots are inlined as SVG and previews as JPEG, WORST of them at most, PREVIEW_PX wide at most.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from statistics import median
from typing import Any

from django.conf import settings
from django.template.loader import render_to_string
from django.utils.safestring import SafeString, mark_safe

from batch.models import State
from batch.night_facts import MOST_STRIPS, SHOWN, Figures, Night, night_facts, night_figures
from batch.software import software
from contimg.exceptions import MissingProduct, NotWritable, OutsideRoot
from contimg.models import Grade
from contimg.products import product_path, require_writable, write_whole
from images.engines.preview import thumbnail
from qa.drift import Point
from qa.engines import plots

PREVIEW_PX = 480
HOURS = 24
HOUR_S = 3600
CELL_PERCENT = 7.8  # the width of a cell in the page's style: tiles that follow on one another do not overlap
LETTERS = {
    Grade.EXCELLENT.value: "E",
    Grade.GOOD.value: "G",
    Grade.MARGINAL.value: "M",
    Grade.POOR.value: "P",
    Grade.UNKNOWN.value: "?",
}
OF_STATES = {
    State.FAILED.value: "✕",
    State.QUARANTINED.value: "✕",
    State.CANCELLED.value: "–",
    State.WAITING.value: "…",
    State.READY.value: "…",
    State.RUNNING.value: "…",
    "not processed": "–",
}
LABELS = {
    "flux_ratio": "flux ratio",
    "astrometric_offset_arcsec": "offset [arcsec]",
    "rms_over_thermal": "rms / thermal",
    "flagged_fraction": "flagged fraction",
    "calibration_amplitude": "gain amplitude",
    "phase_scatter_deg": "phase scatter [deg]",
}


@dataclass(frozen=True)
class Plot:
    """An SVG element, or empty with a caption that says why there is none."""

    title: str
    caption: str
    svg: str = ""
    is_wide: bool = False


def default_path(night: Night) -> Path:
    return settings.VAR_DIR / "reports" / f"night-{night}.html"


def write_night_report(*, night: Night, path: Path, now: datetime | None = None) -> dict[str, Any]:
    """Write the page in place of what was there, and give its facts. Raises NotWritable."""
    require_writable(path.parent, named_by="--out" if path != default_path(night) else "CONTIMG_VAR_DIR")
    facts = night_facts(night=night, now=now)
    page = render(facts, night_figures(night=night))
    try:
        write_whole(path, page)
    except OSError as error:
        raise NotWritable(f"{path} cannot be written ({error.strerror}); give another file as --out.") from error
    return facts


def render(facts: Mapping[str, Any], figures: Figures) -> str:
    return render_to_string(
        "batch/night_report.html",
        {
            **facts,
            "hours": _hours(facts),
            "marks": _marks(facts["tiles"]),
            "worst_images": [_shown_image(image) for image in facts["worst_images"]],
            "epochs": [_shown_epoch(epoch) for epoch in facts["epochs"]],
            "shown_failures": facts["failures"][:SHOWN],
            "shown_alerts": [_shown_alert(alert) for alert in facts["alerts"][:SHOWN]],
            "shown_quarantines": facts["quarantines"][:SHOWN],
            "shown": SHOWN,
            "plots": _plots(facts, figures) if facts["tiles"] else [],
            "software": software(),
        },
    )


# --- tiles by hour ---------------------------------------------------------------------------------------------------
def _hours(facts: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row for each hour of the day, its tiles where their minute is."""
    start = facts["observed_from"]
    rows = [
        {"hour": f"{hour:02d}", "cells": [], "is_to_come": start + timedelta(hours=hour) > facts["written_at"]}
        for hour in range(HOURS)
    ]
    for tile in facts["tiles"]:
        hour, second = divmod(int((tile["observed_at"] - start).total_seconds()), HOUR_S)
        rows[hour]["cells"].append(_cell(tile, second))
    return rows


def _cell(tile: Mapping[str, Any], second: int) -> dict[str, Any]:
    is_done = tile["state"] == State.DONE
    grade = tile["grade"] if is_done else ""
    rms = tile["rms_jy_per_beam"]
    told = [
        tile["name"],
        f"{grade} by {tile['grade_source']}" if is_done else tile["state"],
        f"rms {1e3 * rms:.3g} mJy/beam" if rms is not None else "",
        f"{len(tile['missing_subbands'])} subbands missing" if tile["missing_subbands"] else "",
        "suspect" if tile["is_suspect"] else "",
        "held back with its epoch" if tile["is_epoch_rejected"] else "",
    ]
    return {
        "left": f"{(100 - CELL_PERCENT) * second / HOUR_S:.2f}",
        "letter": LETTERS[grade] if is_done else OF_STATES[tile["state"]],
        "kind": grade or ("failed" if OF_STATES[tile["state"]] == "✕" else "open"),
        "is_marked": tile["is_suspect"] or tile["is_epoch_rejected"],
        "title": ", ".join(filter(None, told)),
    }


def _marks(tiles: Iterable[Mapping[str, Any]]) -> list[str]:
    """What the grades do not say, each with how often."""
    counts = {
        "lack subbands": sum(bool(tile["missing_subbands"]) for tile in tiles),
        "graded by a reviewer": sum(tile["grade_source"] == "review" for tile in tiles),
        "suspect (quarantine)": sum(tile["is_suspect"] for tile in tiles),
        "held back with their epoch": sum(tile["is_epoch_rejected"] for tile in tiles),
    }
    return [f"{n} {what}" for what, n in counts.items() if n]


def _shown_image(image: Mapping[str, Any]) -> dict[str, Any]:
    rms = image["rms_jy_per_beam"]
    return {**image, **_preview(image["preview_path"]), "rms_mjy": "" if rms is None else f"{1e3 * rms:.3g}"}


def _shown_epoch(epoch: Mapping[str, Any]) -> dict[str, Any]:
    """What all of its gates say for one reason is said once."""
    reasons = {gate["why"] for gate in epoch["gates"]}
    if len(reasons) == 1:
        return {**epoch, "why": list(filter(None, reasons))}
    why = [f"{gate['name'].replace('_', ' ')}: {gate['why']}" for gate in epoch["gates"] if gate["why"]]
    return {**epoch, "why": why}


def _shown_alert(alert: Mapping[str, Any]) -> dict[str, Any]:
    limits = alert["lower_limit"], alert["upper_limit"]
    told = {
        "value": f"{alert['value']:.4g}",
        "expected": f"{alert['expected']:.4g}",
        "limits": "–" if None in limits else f"{limits[0]:.4g} to {limits[1]:.4g}",
    }
    return {**alert, "told": told}


def _preview(relative: str) -> dict[str, str]:
    """The picture as a data URI, or why there is none."""
    if not relative:
        return {"picture": "", "no_picture": "It has no preview."}
    try:
        jpeg = thumbnail(product_path(relative), longest_side_px=PREVIEW_PX)
    except (OSError, MissingProduct, OutsideRoot):
        return {"picture": "", "no_picture": "Its preview is not on disk any more, or no picture."}
    return {"picture": f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}", "no_picture": ""}


# --- plots -----------------------------------------------------------------------------------------------------------
def _plots(facts: Mapping[str, Any], figures: Figures) -> list[Plot]:
    strips = [_drift_plot(facts, dec_deg, series) for dec_deg, series in figures.drift.items()]
    if figures.n_strips > MOST_STRIPS:
        strips.append(Plot("More dec strips", f"{figures.n_strips - MOST_STRIPS} more strips: see drift/ of the API."))
    return [
        _ratio_plot(figures),
        _completeness_plot(figures),
        _noise_plot(facts),
        _antenna_plot(figures),
        *(strips or [Plot("Drift", "No tile of the night has an image, so no series has a value of it.")]),
    ]


def _ratio_plot(figures: Figures) -> Plot:
    ratios, limits = figures.ratios, figures.ratio_limits
    if not ratios:
        return Plot("Flux ratios", "No source of a reference catalogue was measured in the night's tiles.")
    n_off = sum(ratio < plots.LOWEST_RATIO or ratio > plots.HIGHEST_RATIO for ratio in ratios)
    said = [f"Median {median(ratios):.3f} (line) of {len(ratios)} sources in single tiles"]
    if limits:
        n_out = sum(not limits[0] <= ratio <= limits[-1] for ratio in ratios)
        said.append(f"{n_out} outside the gate's {limits[0]:g} to {limits[-1]:g} (dashed; the gate asks the median)")
    if n_off:
        said.append(f"{n_off} beyond the axis, in its last bars")
    caption = "; ".join(said) + "."
    return Plot("Flux ratios", caption, _safe(plots.ratio_histogram(ratios=ratios, limits=limits, alt=caption)))


def _completeness_plot(figures: Figures) -> Plot:
    bins, limit = figures.completeness, figures.completeness_limit
    if not bins:
        return Plot("Completeness", "No source of a reference catalogue was expected in the night's tiles.")
    seen, expected = sum(row[3] for row in bins), sum(row[2] for row in bins)
    caption = f"{seen} of {expected} expected sources were seen in the tiles (above each bar: seen of expected)"
    caption += f"; dashed: the gate's {100 * limit:g}%." if limit is not None else "."
    return Plot("Completeness", caption, _safe(plots.completeness(bins=bins, limit=limit, alt=caption)))


def _noise_plot(facts: Mapping[str, Any]) -> Plot:
    known = [tile for tile in facts["tiles"] if tile["rms_jy_per_beam"]]
    if not known:
        return Plot("Noise", "No tile of the night has a measured noise.", is_wide=True)
    tiles = [
        plots.TilePoint(
            tile["observed_at"],
            tile["ra_deg"],
            tile["dec_deg"],
            1e3 * tile["rms_jy_per_beam"],
            tile["grade"] == Grade.POOR,
        )
        for tile in known
    ]
    rms = [tile.rms_mjy_per_beam for tile in tiles]
    worst = max(known, key=lambda tile: tile["rms_jy_per_beam"])
    caption = (
        f"Median {median(rms):.3g} mJy/beam, from {min(rms):.3g} to {max(rms):.3g} (tile {worst['name']}); "
        f"{len(facts['tiles']) - len(known)} tiles have none. Below, where on the sky: the darker, the noisier."
    )
    between = {"observed_from": facts["observed_from"], "observed_until": facts["observed_until"]}
    return Plot("Noise", caption, _safe(plots.noise(tiles=tiles, **between, alt=caption)), is_wide=True)


def _antenna_plot(figures: Figures) -> Plot:
    if not figures.antennas:
        return Plot("Antennas", "No tile of the night was flagged and no bandpass solved.", is_wide=True)
    antennas = [plots.AntennaPoint(*figures_of_one) for figures_of_one in figures.antennas]
    flagged = _worst_of([(one.name, one.flagged_fraction) for one in antennas], lambda value: f"{100 * value:.1f}%")
    scatter = _worst_of([(one.name, one.phase_scatter_deg) for one in antennas], lambda value: f"{value:.1f} deg")
    caption = (
        f"{len(antennas)} antennas. Most flagged (median of the night's tiles): {flagged}. "
        f"Largest phase scatter of a bandpass: {scatter}."
    )
    return Plot("Antennas", caption, _safe(plots.antenna_health(antennas=antennas, alt=caption)), is_wide=True)


def _worst_of(antennas: Iterable[tuple[str, float | None]], told: Callable[[float], str]) -> str:
    known = [(name, value) for name, value in antennas if value is not None]
    worst = sorted(known, key=lambda one: -one[1])[:3]
    return ", ".join(f"{name} {told(value)}" for name, value in worst) or "none was measured"


def _drift_plot(facts: Mapping[str, Any], dec_deg: float, series: Mapping[str, Sequence[Point]]) -> Plot:
    title = f"Drift of the dec strip at {dec_deg:.2f} deg"
    drawn = {
        LABELS[name]: [
            plots.SeriesPoint(one.observed_at, one.value, one.lower_limit, one.upper_limit, one.is_out, one.is_step)
            for one in points
        ]
        for name, points in series.items()
    }
    told = [_told(LABELS[name], points, facts) for name, points in series.items()]
    caption = (
        f"In the night (grey): {', '.join(filter(None, told)) or 'every value within its control limits'}. "
        "Dashed: control limits, where enough values came before; cross: outside; dotted: a step."
    )
    between = {"observed_from": facts["observed_from"], "observed_until": facts["observed_until"]}
    return Plot(title, caption, _safe(plots.drift(series=drawn, title=title, **between, alt=caption)), is_wide=True)


def _told(label: str, points: Sequence[Point], facts: Mapping[str, Any]) -> str:
    tonight = [point for point in points if point.observed_at >= facts["observed_from"]]
    n_out, n_steps = sum(point.is_out for point in tonight), sum(point.is_step for point in tonight)
    if not tonight:
        return f"{label.partition(' [')[0]} has no value"
    counted = [f"{n_out} outside" * bool(n_out), f"{n_steps} step{'s' * (n_steps != 1)}" * bool(n_steps)]
    told = " and ".join(filter(None, counted))
    return f"{label.partition(' [')[0]} {told}" if told else ""


def _safe(svg: str) -> SafeString:
    """What qa.engines.plots draws has every name of ours escaped."""
    return mark_safe(svg)  # noqa: S308
