"""The same visibilities in the forms that other writers of UVH5 give them."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
from pyuvdata import UVData

NEWER_THAN_THE_CORRELATOR = (
    "phase_center_catalog", "phase_center_id_array", "phase_center_app_ra", "phase_center_app_dec",
    "phase_center_frame_pa", "Nphase", "mount_type", "Nfeeds", "feed_array", "feed_angle", "flex_spw_id_array",
    "blts_are_rectangular", "time_axis_faster_than_bls", "version",
)  # fmt: skip


def as_the_correlator_writes(path: Path, dec_deg: float | None) -> None:
    """UVH5 0.1: no catalogue, an axis of spectral windows, one channel width, and the declination as a keyword."""
    with h5py.File(path, "r+") as file:
        header, data = file["Header"], file["Data"]
        for name in NEWER_THAN_THE_CORRELATOR:
            del header[name]
        for group, name, change in (
            (data, "visdata", lambda values: values[:, None]),
            (data, "flags", lambda values: values[:, None]),
            (data, "nsamples", lambda values: values[:, None]),
            (header, "freq_array", lambda values: values[None]),
            (header, "channel_width", lambda values: values[0]),
        ):
            values = group[name][()]
            del group[name]
            group[name] = change(values)
        header["phase_type"], header["version"] = np.bytes_("drift"), np.bytes_("0.1")
        if dec_deg is not None:
            header["extra_keywords/phase_center_dec"] = np.radians(dec_deg)


def rewrite_by_pyuvdata(path: Path, change: Callable[[UVData], object]) -> None:
    """Read, change and write a file."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        uv = UVData.from_file(str(path), file_type="uvh5", run_check=False)
        change(uv)
        uv.write_uvh5(str(path), clobber=True, run_check=False, chunks=None)
