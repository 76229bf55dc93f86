"""Nights of file facts to be grouped, drawn by hypothesis: what the correlator wrote and which tile each file is of."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from hypothesis import strategies as st

from observations.grouping import FileFacts
from tests.observations.subband_files import DEC_DEG, NIGHT, TILE_S

Tile = tuple[int, int]  # run, number


@dataclass(frozen=True)
class Night:
    files: list[FileFacts]
    tile_of: dict[int, Tile]

    def tiles(self, group: list[FileFacts]) -> set[Tile]:
        return {self.tile_of[file.key] for file in group}


def keys(groups: list[list[FileFacts]]) -> set[frozenset[int]]:
    return {frozenset(file.key for file in group) for group in groups}


def fact(key: int, subband: int, seconds: float, dec_deg: float = DEC_DEG) -> FileFacts:
    return FileFacts(key, subband, NIGHT + timedelta(seconds=seconds), dec_deg)


def run_of(seconds: float, subbands, *, first_key: int = 0, dec_deg: float = DEC_DEG) -> list[FileFacts]:
    return [fact(first_key + i, subband, seconds, dec_deg) for i, subband in enumerate(subbands)]


@st.composite
def nights(draw: st.DrawFn, *, n_runs: int = 1, min_subbands: int = 1, decs: tuple[float, ...] = (DEC_DEG,)) -> Night:
    """Runs of tiles, each run with its own start, gaps and declination; missing subbands; copies of some files.

    Runs at one declination start at least an integration apart, modulo a tile, so that their headers tell them apart.
    """
    files: list[FileFacts] = []
    tile_of: dict[int, Tile] = {}
    offsets = draw(
        st.lists(st.integers(0, 22), min_size=n_runs, max_size=n_runs, unique=True)  # in integrations; a tile has 24
    )
    for run, offset in enumerate(offsets):
        dec_deg = decs[run % len(decs)]
        start = offset * 13.0
        for number in range(draw(st.integers(1, 5))):
            start += TILE_S * draw(st.sampled_from([1, 1, 1, 1, 2, 7]))
            subbands = draw(st.lists(st.integers(0, 15), min_size=min_subbands, max_size=16, unique=True))
            copies = draw(st.lists(st.sampled_from(subbands), max_size=2)) if draw(st.booleans()) else []
            for subband in [*subbands, *copies]:
                jitter_s = draw(st.sampled_from([0.0, 0.0, 0.001, 0.04]))
                tile_of[len(files)] = (run, number)
                files.append(fact(len(files), subband, start + jitter_s, dec_deg + jitter_s / 10))
    return Night(files, tile_of)
