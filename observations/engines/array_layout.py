"""A DSA-110-like array: a T of closely spaced dishes and outriggers out to 1.3 km."""

from __future__ import annotations

import numpy as np

CORE_ARM_M = 200.0
OUTRIGGER_RADIUS_M = 1300.0
MIN_SPACING_M = 5.75  # dishes of 4.65 m must not touch


def antenna_names(n_antennas: int) -> list[str]:
    return [f"pad{number:03d}" for number in range(1, n_antennas + 1)]


def antenna_positions_enu_m(n_antennas: int) -> np.ndarray:
    """Positions, shape (n_antennas, 3), east-north-up in metres from the array centre; the same for the same number.

    Half of the dishes are outriggers, as many as the real array has for its size when it is thinned: with fewer the
    snapshot beam of a small array has sidelobes that no CLEAN can live with.
    """
    rng = np.random.default_rng(110)
    n_outriggers = n_antennas // 2
    n_north = (n_antennas - n_outriggers) // 3
    n_east = n_antennas - n_outriggers - n_north
    spread = max(1.0, n_east * MIN_SPACING_M / (2 * CORE_ARM_M))
    east = _arm(n_east, CORE_ARM_M * spread)
    north = _arm(n_north + 1, CORE_ARM_M * spread)
    north = north[np.argsort(np.abs(north))][1:]  # without the crossing point, which the east arm has
    core = np.concatenate([np.c_[east, 0 * east], np.c_[0 * north, north]])
    positions = np.concatenate([core, _outriggers(n_outriggers, rng)])
    up = rng.normal(0, 1.0, n_antennas)
    return np.c_[positions, up]


def _arm(number: int, half_length_m: float) -> np.ndarray:
    """Offsets along an arm, closer near the middle; never regular, which would make grating lobes."""
    x = np.linspace(-1, 1, number)
    return half_length_m * np.sign(x) * np.abs(x) ** 1.5 + np.linspace(0, 1, number) * MIN_SPACING_M * number / 4


def _outriggers(number: int, rng: np.random.Generator) -> np.ndarray:
    """Golden-angle spiral with jitter, sparser outward: every length and direction of baseline is there."""
    index = np.arange(number)
    radius = OUTRIGGER_RADIUS_M * np.sqrt((index + 1.5) / (number + 1.5)) ** 1.3
    angle = index * np.pi * (3 - np.sqrt(5)) + rng.normal(0, 0.15, number)
    return np.c_[radius * np.cos(angle), radius * np.sin(angle)]
