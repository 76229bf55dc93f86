"""Remove what a killed run left behind: work folders of dead processes, and products that no row names."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import structlog

from calibration.models import CalibrationTable, FlagTable
from contimg.products import WORK_FOLDER, products_root
from images.models import Image
from observations.models import MeasurementSet

log = structlog.get_logger(__name__)

# Between the rename of a product and the commit of its row lie milliseconds; younger files are left alone.
GRACE_S = 60
PATH_COLUMNS = (
    (MeasurementSet, "path"),
    (FlagTable, "path"),
    (CalibrationTable, "path"),
    (Image, "path"),
    (Image, "flat_noise_path"),
    (Image, "residual_path"),
    (Image, "primary_beam_path"),
    (Image, "preview_path"),
)


def sweep(*, grace_s: float = GRACE_S) -> list[str]:
    """Remove left-overs below the products root; returns their paths relative to it."""
    removed = [*_dead_work_folders(), *_orphans(grace_s)]
    for relative in removed:
        path = products_root() / relative
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        log.info("swept", path=relative)
    return removed


def _dead_work_folders() -> Iterator[str]:
    for folder in sorted((products_root() / WORK_FOLDER).glob("*-*")):
        if not _is_alive(folder.name.split("-")[0]):
            yield str(folder.relative_to(products_root()))


def _is_alive(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except (ValueError, ProcessLookupError):
        return False
    except PermissionError:
        return True
    return True


def _orphans(grace_s: float) -> Iterator[str]:
    named = {path for model, column in PATH_COLUMNS for path in _named(model, column)}
    latest = time.time() - grace_s
    for path in _products(products_root()):
        relative = str(path.relative_to(products_root()))
        if relative not in named and path.stat().st_ctime < latest:
            yield relative


def _named(model: type[MeasurementSet | FlagTable | CalibrationTable | Image], column: str) -> Iterator[str]:
    return model.objects.values_list(column, flat=True).iterator()


def _products(folder: Path) -> Iterator[Path]:
    """Files, and CASA tables (folders with a table.dat) as one product each; hidden entries are not products."""
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if path.is_dir() and not (path / "table.dat").exists():
            yield from _products(path)
        else:
            yield path
