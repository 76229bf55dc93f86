"""Conversion as a service: a subband group becomes a raw measurement set.

`make_...` calls the engine and writes files only; `record_...` moves them into place and writes the rows.
Engines are imported inside the functions: web processes import this module and must never load one.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from django.conf import settings
from django.db import transaction

from contimg.exceptions import EngineFailed
from contimg.products import digest, publish, size_bytes
from contimg.sky import healpix_index
from observations.models import MeasurementSet, SubbandGroup, name_files

if TYPE_CHECKING:
    from observations.engines.converter import ConvertedSet

MJD_OF_JD_ZERO = 2_400_000.5


class GroupOverfull(EngineFailed):
    code = "group_overfull"


class GroupIncomplete(EngineFailed):
    code = "group_incomplete"


def conversion_recipe(group: SubbandGroup) -> str:
    """Changes when a file is added, replaced or taken away."""
    files = sorted(
        (file.root.path, file.relative_path, file.size_bytes, file.modified_at.isoformat())
        for file in group.files.all()
    )
    return digest("convert", files)


def make_measurement_set(*, group: SubbandGroup, folder: Path) -> ConvertedSet:
    """Write `folder/raw.ms`. Raises GroupOverfull and GroupIncomplete, and the converter's errors."""
    from observations.engines.converter import convert

    _refuse_unprocessable(group)
    paths = [Path(file.root.path, file.relative_path) for file in group.files.all()]
    return convert(files=sorted(paths), pointing_dec_deg=group.pointing_dec_deg, output=folder / "raw.ms")


def _refuse_unprocessable(group: SubbandGroup) -> None:
    if group.is_overfull:
        twice = ", ".join(f"sb{number:02d}" for number in group.duplicate_subbands)
        raise GroupOverfull(
            f"{group.name} has {group.n_files} files with {twice} more than once and the headers cannot tell which is "
            f"meant; take the wrong ones of {name_files(group.duplicate_files)} away and index again."
        )
    if group.n_subbands < settings.CONTIMG_MIN_SUBBANDS:
        raise GroupIncomplete(
            f"{group.name} has {group.n_subbands} of 16 subbands and {settings.CONTIMG_MIN_SUBBANDS} are needed; it is "
            "processed when the missing ones arrive."
        )


@transaction.atomic
def record_measurement_set(*, group: SubbandGroup, converted: ConvertedSet, folder: Path) -> MeasurementSet:
    """Publish `folder/raw.ms` and write its row; the newest version of the tile becomes the current one."""
    from observations.engines.converter import versions

    made = folder / "raw.ms"
    group.measurement_sets.uncalibrated().current().update(is_current=False)
    measurement_set, _ = MeasurementSet.objects.update_or_create(
        recipe=conversion_recipe(group),
        defaults={
            "group": group,
            "name": group.name,
            "size_bytes": size_bytes(made),
            "path": publish(made, f"measurement_sets/{group.name}.ms"),
            "checksum": converted.checksum,
            "versions": versions(),
            "parameters": {
                "antennas_left_out": list(converted.antennas_left_out),
                "nan_fraction": converted.nan_fraction,
                "missing_subbands": group.missing_subbands,
            },
            "observed_at": group.observed_at,
            "mjd": converted.mid_jd - MJD_OF_JD_ZERO,
            "duration_s": converted.duration_s,
            "integration_s": converted.integration_s,
            "ra_deg": converted.ra_deg,
            "dec_deg": converted.dec_deg,
            "pointing_dec_deg": group.pointing_dec_deg,
            "healpix": healpix_index(converted.ra_deg, converted.dec_deg),
            "frequency_hz": converted.frequency_hz,
            "bandwidth_hz": converted.bandwidth_hz,
            "n_antennas": len(converted.antennas),
            "n_channels": converted.n_channels,
            "antennas": list(converted.antennas),
            "flagged_fraction": converted.flagged_fraction,
            "is_current": True,
        },
    )
    return measurement_set
