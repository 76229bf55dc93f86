"""Small files with the header of a UVH5 subband file, written without pyuvdata, a millisecond each."""

from __future__ import annotations

import math
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from observations.telescope import INTEGRATION_S, LATITUDE_DEG, N_INTEGRATIONS

NIGHT = datetime(2025, 3, 1, 4, 0, 0, tzinfo=UTC)
TILE_S = N_INTEGRATIONS * INTEGRATION_S
DEC_DEG = 22.5


def file_name(named_at: datetime, subband: int) -> str:
    return f"{named_at:%Y-%m-%dT%H:%M:%S}_sb{subband:02d}.hdf5"


def header_fields(
    started_at: datetime = NIGHT,
    *,
    subband: int = 0,
    dec_deg: float = DEC_DEG,
    n_integrations: int = N_INTEGRATIONS,
    n_baselines: int = 3,
) -> dict[str, Any]:
    """What pyuvdata writes for a drift scan, with the fields that grouping does not use left out."""
    seconds = (started_at - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds()
    mid = seconds + INTEGRATION_S * (np.arange(n_integrations) + 0.5)
    return {
        "time_array": np.repeat(2440587.5 + mid / 86400.0, n_baselines),
        "integration_time": np.full(n_integrations * n_baselines, INTEGRATION_S),
        "Ntimes": n_integrations,
        "Nants_data": 2,
        "freq_array": 1.498e9 - 11.7e6 * subband + 244140.625 * np.arange(4),
        "latitude": LATITUDE_DEG,
        "phase_center_catalog/0/cat_type": np.bytes_("driftscan"),
        "phase_center_catalog/0/cat_lon": math.pi,
        "phase_center_catalog/0/cat_lat": math.radians(90.0 - LATITUDE_DEG + dec_deg),
    }


def write_header(path: Path, fields: dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        header = file.create_group("Header")
        for name, value in fields.items():
            header[name] = value
    return path


def write_subband(
    folder: Path, subband: int, started_at: datetime = NIGHT, *, skew_s: float = 0.0, **fields: Any
) -> Path:
    """One file whose name is `skew_s` later than its header."""
    name = file_name(started_at + timedelta(seconds=skew_s), subband)
    return write_header(folder / name, header_fields(started_at, subband=subband, **fields))


def write_tile(folder: Path, started_at: datetime = NIGHT, *, subbands: Any = range(16), **fields: Any) -> list[Path]:
    return [write_subband(folder, subband, started_at, **fields) for subband in subbands]


def touch(path: Path, *, seconds_ago: float) -> None:
    """Make the file as old as that."""
    moment = datetime.now(tz=UTC).timestamp() - seconds_ago
    os.utime(path, (moment, moment))
