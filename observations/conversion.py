"""Conversion as a service: a subband group becomes a raw measurement set.

`make_...` calls the engine and writes files only; `record_...` moves them into place and writes the rows.
Engines are imported inside the functions: web processes import this module and must never load one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from django.conf import settings
from django.db import transaction

from contimg.exceptions import EngineFailed
from contimg.models import suspect_if
from contimg.products import digest, publish, size_bytes
from contimg.sky import healpix_index
from observations.models import MeasurementSet, SubbandFile, SubbandGroup, name_files, names_of

if TYPE_CHECKING:
    from observations.engines.converter import ConvertedSet

MJD_OF_JD_ZERO = 2_400_000.5


class GroupOverfull(EngineFailed):
    code = "group_overfull"


class GroupIncomplete(EngineFailed):
    code = "group_incomplete"


@dataclass(frozen=True)
class Conversion:
    """A measurement set in the work folder, and of which files it is; the group may have others by now."""

    facts: ConvertedSet
    recipe: str
    pointing_dec_deg: float
    missing_subbands: list[int]


def conversion_recipe(group: SubbandGroup) -> str:
    """Of the files that the group has now: changes when one is added, replaced or taken away."""
    return _recipe(_files_of(group))


def _files_of(group: SubbandGroup) -> list[SubbandFile]:
    """Asked anew, whatever the row in memory has loaded."""
    return list(group.files.select_related("root"))


def _recipe(files: Sequence[SubbandFile]) -> str:
    """Without the folders, so that moving raw files makes no night anew. Time and declination tell tiles apart whose
    files happen to have the same names, sizes and times."""
    facts = [
        (str(file), str(file.started_at), file.pointing_dec_deg, file.size_bytes, file.modified_at.isoformat())
        for file in files
    ]
    return digest("convert", sorted(facts))


def make_measurement_set(*, group: SubbandGroup, folder: Path) -> Conversion:
    """Write `folder/raw.ms`. Raises GroupOverfull and GroupIncomplete, and the converter's errors."""
    from observations.engines.converter import convert
    from observations.grouping import missing_subbands

    files = _files_of(group)
    _refuse_unprocessable(group, files)
    paths = sorted(file.path for file in files)
    facts = convert(files=paths, pointing_dec_deg=group.pointing_dec_deg, output=folder / "raw.ms")
    return Conversion(
        facts=facts,
        recipe=_recipe(files),
        pointing_dec_deg=group.pointing_dec_deg,
        missing_subbands=missing_subbands(_subbands(files)),
    )


def _subbands(files: Sequence[SubbandFile]) -> list[int]:
    return [file.subband for file in files if file.subband is not None]


def _refuse_unprocessable(group: SubbandGroup, files: Sequence[SubbandFile]) -> None:
    from observations.grouping import duplicate_subbands

    subbands = _subbands(files)
    if repeated := duplicate_subbands(subbands):
        twice = ", ".join(f"sb{number:02d}" for number in repeated)
        raise GroupOverfull(
            f"{group.name} has {len(files)} files with {twice} more than once and the headers cannot tell which is "
            f"meant; take the wrong ones of {name_files(names_of(files, repeated))} away and index again."
        )
    n_subbands = len(subbands)
    if n_subbands < settings.CONTIMG_MIN_SUBBANDS:
        raise GroupIncomplete(
            f"{group.name} has {n_subbands} of 16 subbands and {settings.CONTIMG_MIN_SUBBANDS} are needed; it is "
            "processed when the missing ones arrive."
        )


@transaction.atomic
def record_measurement_set(*, group: SubbandGroup, converted: Conversion, folder: Path) -> MeasurementSet:
    """Publish `folder/raw.ms` and write its row; the newest version of the tile becomes the current one."""
    from observations.engines.converter import versions

    made, facts = folder / "raw.ms", converted.facts
    group.measurement_sets.uncalibrated().current().update(is_current=False)
    measurement_set, _ = MeasurementSet.objects.update_or_create(
        recipe=converted.recipe,
        defaults={
            "group": group,
            "name": group.name,
            "size_bytes": size_bytes(made),
            "path": publish(made, f"measurement_sets/{group.name}.ms"),
            "checksum": facts.checksum,
            "versions": versions(),
            "parameters": {
                "antennas_left_out": list(facts.antennas_left_out),
                "nan_fraction": facts.nan_fraction,
                "missing_subbands": converted.missing_subbands,
            },
            "observed_at": group.observed_at,
            "mjd": facts.mid_jd - MJD_OF_JD_ZERO,
            "duration_s": facts.duration_s,
            "integration_s": facts.integration_s,
            "ra_deg": facts.ra_deg,
            "dec_deg": facts.dec_deg,
            "pointing_dec_deg": converted.pointing_dec_deg,
            "healpix": healpix_index(facts.ra_deg, facts.dec_deg),
            "frequency_hz": facts.frequency_hz,
            "bandwidth_hz": facts.bandwidth_hz,
            "n_antennas": len(facts.antennas),
            "n_channels": facts.n_channels,
            "antennas": list(facts.antennas),
            "flagged_fraction": facts.flagged_fraction,
            "is_current": True,
            **suspect_if(group.is_suspect),
        },
    )
    return measurement_set
