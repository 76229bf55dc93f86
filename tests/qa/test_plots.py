"""Plots of a night: whole SVG with words beside the picture, whatever the names and figures are."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime, timedelta
from xml.etree import ElementTree

import pytest

from qa.engines import plots

START = datetime(2026, 3, 1, tzinfo=UTC)
DAY = {"observed_from": START, "observed_until": START + timedelta(days=1)}
HOSTILE = "<script>$x$</script>\"&'"
ALT = f"three of {HOSTILE}"


def tile(number: int, *, rms: float = 0.5, is_poor: bool = False) -> plots.TilePoint:
    return plots.TilePoint(START + number * timedelta(minutes=5), 1.3 * number, 16.1, rms, is_poor)


def point(number: int, value: float = 1.0, **of: object) -> plots.SeriesPoint:
    known = {"lower_limit": None, "upper_limit": None, "is_out": False, "is_step": False}
    return plots.SeriesPoint(START + number * timedelta(minutes=5), value, **(known | of))


DRAWN = {
    "ratios": lambda: plots.ratio_histogram(ratios=[0.9, 1.0, 40.0, math.nan], limits=[0.8, 1.2], alt=ALT),
    "no limits": lambda: plots.ratio_histogram(ratios=[1.0], limits=[], alt=ALT),
    "completeness": lambda: plots.completeness(bins=[(0.05, 0.1, 9, 8), (1.0, None, 1, 1)], limit=0.6, alt=ALT),
    "noise": lambda: plots.noise(tiles=[tile(0), tile(1, rms=30.0, is_poor=True)], **DAY, alt=ALT),
    "one tile": lambda: plots.noise(tiles=[tile(0)], **DAY, alt=ALT),
    "antennas": lambda: plots.antenna_health(
        antennas=[plots.AntennaPoint(HOSTILE, 0.97, None), plots.AntennaPoint("pad2", 0.0, math.nan)], alt=ALT
    ),
    "drift": lambda: plots.drift(
        series={
            "flux ratio": [point(0), point(1, 1.2, lower_limit=0.9, upper_limit=1.1, is_out=True, is_step=True)],
            "empty": [],
            "third": [point(3)],
        },
        title=HOSTILE,
        **DAY,
        alt=ALT,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", DRAWN)
def test_a_plot_is_an_element_with_a_text_alternative_that_loads_nothing(name):
    svg = DRAWN[name]()
    root = ElementTree.fromstring(svg)  # noqa: S314
    assert root.get("role") == "img"
    assert ALT in root.get("aria-label")
    assert ALT in root.find("{http://www.w3.org/2000/svg}title").text
    assert "<script" not in svg
    assert all(address.startswith(("#", "data:")) for address in re.findall(r'(?:href|src)="([^"]*)', svg))
    assert root.get("width") is None, "it is as wide as its place on the page"


@pytest.mark.parametrize("name", DRAWN)
def test_the_same_figures_are_the_same_text(name):
    assert DRAWN[name]() == DRAWN[name]()


def test_axes_have_units():
    assert "rms [mJy/beam]" in DRAWN["noise"]()
    assert "right ascension [deg]" in DRAWN["noise"]()
    assert "apparent flux density [mJy]" in DRAWN["completeness"]()


def test_the_worst_antenna_is_named_and_what_was_not_measured_is_said():
    healthy = [plots.AntennaPoint(f"pad{number}", 0.04, None) for number in range(30)]
    svg = plots.antenna_health(
        antennas=[*healthy, healthy[0], plots.AntennaPoint("pad117", 0.97, None), *healthy[:2]], alt=""
    )
    assert svg.count(">pad117<") == 1, "no tick is there, so it is the name at its bar"
    assert "not measured" in svg


def test_names_of_neighbours_do_not_lie_on_each_other():
    bad = [plots.AntennaPoint(f"dead{number}", 0.9, None) for number in range(3)]
    good = [plots.AntennaPoint(f"pad{number}", 0.01, None) for number in range(60)]
    svg = plots.antenna_health(antennas=[*good[:30], *bad, *good[30:]], alt="")
    assert svg.count(">dead") == 2, "one is named, and one has a tick"


def test_two_plots_on_a_page_share_no_identifier():
    def ids(svg: str) -> set[str]:
        return set(re.findall(r' id="([pmh]\w{9,})"', svg))

    assert ids(DRAWN["ratios"]())
    assert not ids(DRAWN["ratios"]()) & ids(DRAWN["completeness"]())
