"""The visibilities of one UVH5 subband file, in the one form that the converter works on, whatever the writer's.

The phases are those towards the phase centre that the object says it has; frequencies ascend; the polarizations
are XX and YY; rows are ordered by time, then baseline, and every baseline is there at every integration.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from pyuvdata import UVData
from pyuvdata.utils import polnum2str

from contimg.exceptions import EngineFailed
from observations.telescope import horizontal_deg

XX, YY = -5, -6  # AIPS Memo 117
PHASE_CENTRE = (
    "phase_center_catalog", "phase_center_id_array", "phase_center_app_ra", "phase_center_app_dec",
    "phase_center_frame_pa", "uvw_array",
)  # fmt: skip


class SubbandUnreadable(EngineFailed):
    code = "subband_unreadable"


class PhaseCentreUnknown(EngineFailed):
    """Which direction the visibilities are phased to is not said, or is none that a drift scan can have."""

    code = "phase_centre_unknown"


class NotXXAndYY(EngineFailed):
    code = "subband_polarizations"


class BaselinesLacking(EngineFailed):
    """A baseline that is not there exactly once at some integration."""

    code = "subband_baselines"


def read_subband(path: Path) -> UVData:
    """The whole file in memory.

    Raises SubbandUnreadable for a truncated or foreign file, NotXXAndYY for one that lacks one of the two,
    BaselinesLacking for one without some rows, and PhaseCentreUnknown for one without a phase centre.
    """
    uv = UVData()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            uv.read(
                str(path),
                file_type="uvh5",
                run_check=False,
                check_extra=False,
                run_check_acceptability=False,
                fix_autos=False,
                background_lsts=False,
            )
        _refuse_other_shapes(uv)
        _choose_polarizations(path.name, uv)
        _sort_rows(path.name, uv)
        _know_phase_centre(path.name, uv)
        _sort_channels(uv)
    except (OSError, KeyError, ValueError) as error:
        raise SubbandUnreadable(
            f"{path.name} cannot be read as UVH5 (truncated or damaged); replace it or take it away and index again."
        ) from error
    return uv


def _choose_polarizations(name: str, uv: UVData) -> None:
    """XX and YY, in this order: the gains are solved for two linear feeds, and Stokes I is the mean of the two."""
    there = uv.polarization_array.tolist()
    if [there.count(XX), there.count(YY)] != [1, 1]:
        raise NotXXAndYY(
            f"{name} has the polarizations {', '.join(map(_name_polarization, there))} and XX and YY are needed, each "
            "once; write it with both, or take it away, and index again."
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if len(there) > 2:
            uv.select(polarizations=[XX, YY], run_check=False)
        uv.reorder_pols(order=np.argsort(-uv.polarization_array), run_check=False)


def _name_polarization(number: int) -> str:
    try:
        return polnum2str(number).upper() if number < 0 else polnum2str(number)
    except KeyError:
        return str(number)


def _sort_rows(name: str, uv: UVData) -> None:
    """By time, then baseline: the flagger sees an array of integrations and baselines in the rows of a set."""
    baseline = uv.ant_1_array.astype(np.int64) * 2**32 + uv.ant_2_array
    order = np.lexsort((baseline, uv.time_array))
    times, baselines = np.unique(uv.time_array), np.unique(baseline)
    is_whole = np.array_equal(uv.time_array[order], np.repeat(times, baselines.size))
    if not (is_whole and np.array_equal(baseline[order], np.tile(baselines, times.size))):
        raise BaselinesLacking(
            f"{name} has not each of its {baselines.size} baselines once at each of its {times.size} integrations; "
            "fetch it again, or take it away, and index again."
        )
    if not np.array_equal(order, np.arange(uv.Nblts)):
        uv.reorder_blts(order=order, run_check=False)


def _know_phase_centre(name: str, uv: UVData) -> None:
    """Make sure that the phases of the visibilities are those towards the phase centre that `uv` says it has.

    The correlator itself writes no catalogue; its visibilities are stopped on the meridian at
    `extra_keywords/phase_center_dec`. pyuvdata takes such a file for one that is not phased at all.
    """
    used = [uv.phase_center_catalog[number] for number in np.unique(uv.phase_center_id_array)]
    kinds = {entry["cat_type"] for entry in used}
    if kinds == {"unprojected"} and "phase_center_dec" in uv.extra_keywords:
        _declare_stopped_on_meridian(uv, np.degrees(float(uv.extra_keywords["phase_center_dec"])))
    elif len(used) > 1 or not kinds <= {"driftscan", "sidereal"}:
        what = f"{len(used)} phase centres" if len(used) > 1 else f"a phase centre of the type {used[0]['cat_type']}"
        raise PhaseCentreUnknown(
            f"{name} has {what}, so that it is not known where its visibilities are phased to; write it with one fixed "
            "phase centre or with extra_keywords/phase_center_dec, and index again."
        )


def _declare_stopped_on_meridian(uv: UVData, dec_deg: float) -> None:
    """State the phase centre; the visibilities are left as they are."""
    azimuth, elevation = np.radians(horizontal_deg(dec_deg, uv.telescope.location.lat.deg))
    stated = uv.copy(metadata_only=True)  # phasing this turns no visibilities
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        stated.phase(cat_name="meridian", cat_type="driftscan", phase_frame="altaz", lon=azimuth, lat=elevation)
    for name in PHASE_CENTRE:
        setattr(uv, name, getattr(stated, name))


def _sort_channels(uv: UVData) -> None:
    """Frequency ascending; some writers give descending channels a negative width."""
    uv.channel_width = np.abs(uv.channel_width)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        uv.reorder_freqs(channel_order="freq", run_check=False)


def _refuse_other_shapes(uv: UVData) -> None:
    """pyuvdata believes the header; its own check would look at every value."""
    shape = (uv.Nblts, uv.Nfreqs, uv.Npols)
    for array in (uv.data_array, uv.flag_array, uv.nsample_array):
        if array.shape != shape:
            raise ValueError(f"the header promises {shape}, the data are {array.shape}")
