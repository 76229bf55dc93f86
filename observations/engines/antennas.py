"""The antennas of a measurement set: where they stand and how much of their data is flagged."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from observations.engines.measurement_set import read_header, read_rows


def write(*, out: Path, path: str, counts_flags: bool) -> None:
    """JSON: for each antenna `name`, `number`, `itrf_m`, and `flagged_fraction` over cross-correlations if asked.

    Null is the fraction of one that has no cross-correlation.
    """
    header = read_header(Path(path))
    fractions = _fractions(Path(path), len(header.antenna_names)) if counts_flags else {}
    antennas = [
        {"name": name, "number": number, "itrf_m": place.tolist(), "flagged_fraction": fractions.get(number)}
        for number, (name, place) in enumerate(zip(header.antenna_names, header.antenna_positions_m, strict=True))
    ]
    out.write_text(json.dumps(antennas))


def _fractions(path: Path, n_antennas: int) -> dict[int, float]:
    flagged, total = np.zeros(n_antennas), np.zeros(n_antennas)
    for rows in read_rows(path, 2000):
        cross = rows.is_cross
        flags = rows.flags[cross]
        counts, of_row = flags.sum(axis=(1, 2)), flags[:1].size
        for numbers in (rows.antenna1[cross], rows.antenna2[cross]):
            flagged += np.bincount(numbers, counts, n_antennas)
            total += np.bincount(numbers, minlength=n_antennas) * of_row
    return {int(number): float(flagged[number] / total[number]) for number in np.flatnonzero(total)}
