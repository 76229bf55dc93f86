"""What goes wrong with a simulated array, by kind: seeded, so that the same antennas fail from tile to tile."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np

PHASE_NOISE_DEG = 60.0
GAIN_JUMP = 1.3
FLUX_SCALE_STEP = 1.15
POINTING_ERROR_DEG = 0.7
INTERFERENCE_JY = 1000.0
ARTEFACT_JY = 100.0
WRONG_STRIP_DEG = 3.0
DECORRELATION_DEG = 45.0


class Kind(StrEnum):
    DEAD_ANTENNA = "dead_antenna"
    PHASE_NOISY_ANTENNA = "phase_noisy_antenna"
    SWAPPED_FEEDS = "swapped_feeds"
    GAIN_JUMP = "gain_jump"
    RFI = "rfi"
    POINTING_ERROR = "pointing_error"
    FLUX_SCALE_STEP = "flux_scale_step"
    ARTEFACT = "artefact"
    TRUNCATED_TILE = "truncated_tile"
    WRONG_STRIP = "wrong_strip"
    DECORRELATION = "decorrelation"


MEANING = {
    Kind.DEAD_ANTENNA: "one antenna has noise and no sky",
    Kind.PHASE_NOISY_ANTENNA: f"the phase of one antenna jumps by {PHASE_NOISE_DEG:.0f} deg rms at each integration",
    Kind.SWAPPED_FEEDS: "X and Y of one antenna are exchanged",
    Kind.GAIN_JUMP: f"the gains of a fifth of the antennas are {GAIN_JUMP} times what they were",
    Kind.RFI: f"{INTERFERENCE_JY:.0f} Jy from the horizon, at all frequencies, in a quarter of the integrations",
    Kind.POINTING_ERROR: f"the dishes point {POINTING_ERROR_DEG} deg north of what the files say",
    Kind.FLUX_SCALE_STEP: f"everything is {FLUX_SCALE_STEP} times as bright, the noise too",
    Kind.ARTEFACT: f"{ARTEFACT_JY:.0f} Jy that no catalogue knows stand in the field",
    Kind.TRUNCATED_TILE: "half of the integrations are missing",
    Kind.WRONG_STRIP: f"the array observes {WRONG_STRIP_DEG:.0f} deg south of what the files say, so tables of another "
    "strip are applied",
    Kind.DECORRELATION: f"the phases of all antennas jump by {DECORRELATION_DEG:.0f} deg rms at each integration",
}


@dataclass(frozen=True)
class Failure:
    """Of the tiles `from_tile` to `to_tile` (or the last), counted from 0 over all nights."""

    kind: Kind
    from_tile: int = 1
    to_tile: int | None = None

    def concerns(self, tile: int) -> bool:
        return self.from_tile <= tile and (self.to_tile is None or tile <= self.to_tile)


def failing_antennas(kind: Kind, n_antennas: int, seed: int) -> np.ndarray:
    """Numbers of those that a failure is of: a fifth for a gain jump, one for others of antennas, none else."""
    shuffled = np.random.default_rng([seed, 5]).permutation(n_antennas)
    if kind is Kind.GAIN_JUMP:
        return shuffled[: max(1, n_antennas // 5)]
    return shuffled[: 1 if kind in (Kind.DEAD_ANTENNA, Kind.PHASE_NOISY_ANTENNA, Kind.SWAPPED_FEEDS) else 0]


def gain_changes(kinds: tuple[Kind, ...], *, n_times: int, n_antennas: int, seed: int, noise_seed: int) -> np.ndarray:
    """What the gains are multiplied by, shape (integration, antenna)."""
    change = np.ones((n_times, n_antennas), complex)
    if Kind.GAIN_JUMP in kinds:
        change[:, failing_antennas(Kind.GAIN_JUMP, n_antennas, seed)] *= GAIN_JUMP
    if Kind.FLUX_SCALE_STEP in kinds:
        change *= np.sqrt(FLUX_SCALE_STEP)
    if Kind.PHASE_NOISY_ANTENNA in kinds:
        phase_deg = np.random.default_rng([seed, 6, noise_seed]).normal(0, PHASE_NOISE_DEG, (n_times, 1))
        change[:, failing_antennas(Kind.PHASE_NOISY_ANTENNA, n_antennas, seed)] *= np.exp(1j * np.radians(phase_deg))
    if Kind.DECORRELATION in kinds:
        phase_deg = np.random.default_rng([seed, 8, noise_seed]).normal(0, DECORRELATION_DEG, change.shape)
        change *= np.exp(1j * np.radians(phase_deg))
    return change
