"""Which subband files make one tile: a pure function of the set of files, whatever order they came in.

1. A gap of more than half a tile ends a *neighbourhood*: what happens on one side never touches the other.
2. Inside one, files of one declination are gathered in *windows*: the first file and all that started at most half a
   tile later. Real tiles start 309 s apart, so a window holds one tile, or tiles of runs that overlapped.
3. The files of one run share the correlator's integration grid, so their header times agree within half an
   integration. A window with such a *run* is taken apart, also where no subband is repeated or a lone file is left.
4. What the headers cannot tell apart stays together and is reported: a subband that is there twice makes the group
   over-full, and an over-full group is not processed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise

from observations.telescope import INTEGRATION_S

N_SUBBANDS = 16
HALF_TILE_S = 154.0
SAME_DEC_DEG = 0.1
HALF_INTEGRATION_S = INTEGRATION_S / 2

# What counts as evidence that a window holds exact header times: (spread of one run, share of the files in such runs).
# Scattered header times look like several runs by chance in 0.5% (first) and 1.4% (second) of windows of 16 files
# scattered over 82 s; half the files within half an integration would be 24%.
RUN_EVIDENCE = ((1.0, 0.5), (HALF_INTEGRATION_S, 0.9))


@dataclass(frozen=True, slots=True)
class FileFacts:
    """What grouping knows of a file; `key` is its row's primary key or anything else that identifies it."""

    key: int
    subband: int
    started_at: datetime
    pointing_dec_deg: float


Files = list[FileFacts]


def group_files(files: Iterable[FileFacts]) -> list[Files]:
    """Every file in exactly one group; groups and their files in order of time."""
    groups = [
        group
        for neighbourhood in split_neighbourhoods(files)
        for strip in _strips(neighbourhood)
        for window in _windows(_clusters(strip))
        for group in _runs_of(window)
    ]
    return sorted((_in_order(group) for group in groups), key=lambda group: _order(group[0]))


def split_neighbourhoods(files: Iterable[FileFacts]) -> list[Files]:
    """Files in order of time, cut at every gap longer than half a tile."""
    return _cut(_in_order(files), HALF_TILE_S)


def missing_subbands(subbands: Iterable[int]) -> list[int]:
    return sorted(set(range(N_SUBBANDS)) - set(subbands))


def duplicate_subbands(subbands: Iterable[int]) -> list[int]:
    return sorted(subband for subband, n in Counter(subbands).items() if n > 1)


def seconds_between(earlier: FileFacts, later: FileFacts) -> float:
    return (later.started_at - earlier.started_at).total_seconds()


def _order(file: FileFacts) -> tuple[datetime, float, int]:
    return file.started_at, file.pointing_dec_deg, file.subband


def _in_order(files: Iterable[FileFacts]) -> Files:
    return sorted(files, key=_order)


def _cut(ordered: Files, gap_s: float) -> list[Files]:
    """Runs of files in which no step is longer than `gap_s`."""
    if not ordered:
        return []
    cuts = [i for i, (one, two) in enumerate(pairwise(ordered), start=1) if seconds_between(one, two) > gap_s]
    return [ordered[first:end] for first, end in pairwise([0, *cuts, len(ordered)])]


def _strips(files: Files) -> list[Files]:
    """Files by declination: each strip reaches SAME_DEC_DEG up from its lowest."""
    strips: list[Files] = []
    for file in sorted(files, key=lambda file: (file.pointing_dec_deg, *_order(file))):
        if strips and file.pointing_dec_deg - strips[-1][0].pointing_dec_deg <= SAME_DEC_DEG:
            strips[-1].append(file)
        else:
            strips.append([file])
    return [_in_order(strip) for strip in strips]


def _clusters(strip: Files) -> list[Files]:
    """Files whose starts follow within half an integration; none longer than half a tile."""
    clusters: list[Files] = []
    for cluster in _cut(strip, HALF_INTEGRATION_S):
        clusters.append([])
        for file in cluster:
            if clusters[-1] and seconds_between(clusters[-1][0], file) > HALF_TILE_S:
                clusters.append([])
            clusters[-1].append(file)
    return clusters


def _windows(clusters: Sequence[Files]) -> list[list[Files]]:
    """Clusters anchored at the first file: a window ends half a tile after it.

    A cluster goes whole to one window, the next one where it crosses the end: cutting it would tear a run in two.
    """
    windows: list[list[Files]] = []
    for cluster in clusters:
        if windows and seconds_between(windows[-1][0][0], cluster[-1]) <= HALF_TILE_S:
            windows[-1].append(cluster)
        else:
            windows.append([cluster])
    return windows


def _runs_of(window: list[Files]) -> list[Files]:
    """The groups of one window: itself, or its runs where the header times show them."""
    runs = _evident_runs(window)
    if not runs:
        return [[file for cluster in window for file in cluster]]
    # Beside a run a lone file is of another one too: conversion refuses a tile whose files were integrated at other
    # times, so that with it the run could not be processed.
    return window


def _evident_runs(window: list[Files]) -> list[Files]:
    n_files = sum(len(cluster) for cluster in window)
    for spread_s, share in RUN_EVIDENCE:
        runs = [cluster for cluster in window if _is_run(cluster, spread_s)]
        if runs and sum(len(run) for run in runs) >= share * n_files:
            return runs
    return []


def _is_run(cluster: Files, spread_s: float) -> bool:
    """Two subbands or more that started together; copies of one file prove nothing."""
    return len({file.subband for file in cluster}) > 1 and seconds_between(cluster[0], cluster[-1]) <= spread_s
