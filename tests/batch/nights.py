"""A small simulated week's beginning: a calibrator tile and a science tile on each of two nights."""

from __future__ import annotations

import socket
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from observations.engines.night_plan import NightPlan, plan_nights, write_truth
from observations.engines.simulator import Instrument, simulate_tile
from tests.science import CALIBRATOR

INSTRUMENT = Instrument(n_antennas=14, channels_per_subband=2, n_integrations=8, sefd_jy=300.0, seed=3)
PLAN = NightPlan(
    nights=2,
    tiles=2,
    start=datetime(2026, 3, 20, tzinfo=UTC),
    sources_per_tile=4,
    flux_min_jy=0.2,
    flux_max_jy=1.0,
    field_radius_deg=0.2,
    name_skew_s=20,
    seed=5,
)
# What the pipeline is told about that array, as environment and as settings.
SETTINGS = {
    "CONTIMG_SEFD_JY": 300.0,
    "CONTIMG_IMAGE_SIZE_PX": 256,
    "CONTIMG_PIXEL_ARCSEC": 8.0,
    "CONTIMG_ENGINE_THREADS": 1,
}


def simulate(folder: Path, plan: NightPlan) -> Path:
    """Raw files of all tiles of the plan, and their truth."""
    tiles = plan_nights(INSTRUMENT, plan, CALIBRATOR)
    for tile in tiles:
        simulate_tile(INSTRUMENT, tile, folder)
    write_truth(folder / "truth.json", INSTRUMENT, plan, tiles)
    return folder


@pytest.fixture(scope="session")
def night(tmp_path_factory) -> Path:
    """A folder of raw files of four tiles. A test that changes it copies it."""
    return simulate(tmp_path_factory.mktemp("night"), PLAN)


@pytest.fixture
def small_array(settings) -> None:
    for name, value in SETTINGS.items():
        setattr(settings, name, value)


def dead_process() -> str:
    """The name of a process of this machine that has ended."""
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return f"{socket.gethostname()}.{child.pid}.1"


def tiles_of(folder: Path) -> list[list[Path]]:
    """The files of each tile, by the hour and day in their names (tiles are an hour apart)."""
    groups: dict[str, list[Path]] = {}
    for path in sorted(folder.glob("*.hdf5")):
        groups.setdefault(path.name[:13], []).append(path)
    return list(groups.values())
