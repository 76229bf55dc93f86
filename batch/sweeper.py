"""Remove products that no row names: those a killed run left behind, and those that a remake has replaced.

Only what the journal of a work folder of this database names is ever removed, never a file for merely being there.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

import structlog

from calibration.models import CalibrationTable, FlagTable
from contimg.products import WORK_FOLDER, database_tag, inside, noted, products_root
from images.models import Image
from observations.models import MeasurementSet, SubbandGroup

log = structlog.get_logger(__name__)

# Every column that names a product, and the way from its row to the tile.
PATH_COLUMNS = (
    (MeasurementSet, "path", "group"),
    (FlagTable, "path", "measurement_set__group"),
    (CalibrationTable, "path", "source_measurement_set__group"),
    (Image, "path", "measurement_set__group"),
    (Image, "flat_noise_path", "measurement_set__group"),
    (Image, "residual_path", "measurement_set__group"),
    (Image, "primary_beam_path", "measurement_set__group"),
    (Image, "preview_path", "measurement_set__group"),
)


def sweep() -> list[str]:
    """Clear up after dead processes; returns the products removed, relative to the products root."""
    removed = []
    for folder in _dead_work_folders():
        removed += remove_unnamed(folder)
        shutil.rmtree(folder)
        log.info("swept", work_folder=folder.name)
    return removed


def remove_unnamed(folder: Path) -> list[str]:
    """Remove those products in the journal of a work folder that no row names; returns their paths."""
    wanted = set(noted(folder))
    removed = sorted(wanted - set(_named(wanted)))
    for relative in removed:
        path = inside(products_root(), relative)
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        log.info("removed_unnamed", path=relative)
    return removed


def products_of(tile: SubbandGroup) -> Iterator[str]:
    """The paths of all products of a tile, of every version."""
    for model, column, to_tile in PATH_COLUMNS:
        rows = model._default_manager.filter(**{to_tile: tile}).exclude(**{column: ""})
        yield from rows.values_list(column, flat=True)


def _named(paths: Iterable[str]) -> Iterator[str]:
    for model, column, _ in PATH_COLUMNS:
        yield from model._default_manager.filter(**{f"{column}__in": paths}).values_list(column, flat=True)


def _dead_work_folders() -> Iterator[Path]:
    """Folders are named process-database-random; another database's are its own to clear up."""
    for folder in sorted((products_root() / WORK_FOLDER).glob(f"*-{database_tag()}-*")):
        if not _is_alive(folder.name.split("-")[0]):
            yield folder


def _is_alive(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except PermissionError:
        return True
    except (ValueError, ProcessLookupError):
        return False
    return True
