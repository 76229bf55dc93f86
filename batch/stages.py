"""The stages of a tile, in order, each in two halves.

`work` calls engines and writes files into a folder of its own, with no transaction open; it returns `record`, which
runs inside one transaction: it renames the files into place and writes the rows. `is_done` asks whether the product
of exactly these inputs and parameters exists, so what is done and unchanged is not done again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from django.db.models import Model, QuerySet

from calibration.models import CalibrationTable, FlagTable
from calibration.services import (
    applying_recipe,
    calibrator_to_solve_on,
    choose_tables,
    flagging_recipe,
    make_calibrated_set,
    make_flags,
    make_tables,
    record_calibrated_set,
    record_flags,
    record_tables,
    solving_recipe,
)
from contimg.exceptions import ContimgError
from contimg.products import is_intact
from images.models import Image
from images.tiles import image_field, imaging_recipe, make_tile, record_tile
from observations.conversion import conversion_recipe, make_measurement_set, record_measurement_set
from observations.models import MeasurementSet, SubbandGroup
from qa.services import assess_calibration_table, assess_image, is_assessed
from sources.services import catalogue_recipe, measure_image, record_catalogue

Record = Callable[[], object]
Row = TypeVar("Row", bound=Model)


class StageNotReady(ContimgError):
    """A stage was asked for before the product it needs exists."""

    code = "stage_not_ready"
    permanent = False


@dataclass(frozen=True)
class Options:
    lenient: bool = False


@dataclass(frozen=True)
class Stage:
    name: str
    is_done: Callable[[SubbandGroup, Options], bool]
    work: Callable[[SubbandGroup, Options, Path], Record]


# --- what a tile has -------------------------------------------------------------------------------------------------
def raw_set(tile: SubbandGroup) -> MeasurementSet:
    return _one(tile.measurement_sets.uncalibrated().current(), tile, "convert")


def calibrated_set(tile: SubbandGroup) -> MeasurementSet:
    return _one(tile.measurement_sets.calibrated().current(), tile, "apply")


def flags_of(tile: SubbandGroup) -> FlagTable:
    return _one(FlagTable.objects.filter(recipe=flagging_recipe(raw_set(tile))), tile, "calibrate")


def image_of(tile: SubbandGroup) -> Image:
    return _one(Image.objects.tiles().current().filter(measurement_set__group=tile), tile, "image")


def _one(rows: QuerySet[Row], tile: SubbandGroup, stage: str) -> Row:
    row = rows.first()
    if row is None:
        raise StageNotReady(f"{tile.name} has no product of the stage {stage!r} yet; run that stage first.")
    return row


def _exists(queryset: QuerySet, recipe: str) -> bool:
    """Whether the product of this recipe is recorded, current where that is said, and whole on disk."""
    row = queryset.filter(recipe=recipe).values_list("path", "size_bytes").first()
    return row is not None and is_intact(*row)


# --- the stages ------------------------------------------------------------------------------------------------------
def _convert_is_done(tile: SubbandGroup, options: Options) -> bool:
    return _exists(tile.measurement_sets.current(), conversion_recipe(tile))


def _convert(tile: SubbandGroup, options: Options, folder: Path) -> Record:
    converted = make_measurement_set(group=tile, folder=folder)
    return lambda: record_measurement_set(group=tile, converted=converted, folder=folder)


def _calibrate_is_done(tile: SubbandGroup, options: Options) -> bool:
    recipe = flagging_recipe(raw_set(tile))
    if not _exists(FlagTable.objects.all(), recipe):
        return False
    flags = flags_of(tile)
    if flags.calibrator is None:
        return True
    tables = CalibrationTable.objects.all()
    return all(
        _exists(tables, solving_recipe(flag_table=flags, calibrator=flags.calibrator, kind=kind)) for kind in "BG"
    )


def _calibrate(tile: SubbandGroup, options: Options, folder: Path) -> Record:
    """Flag; where the tile has a calibrator, solve on it."""
    measurement_set = raw_set(tile)
    flagging = make_flags(measurement_set=measurement_set, folder=folder)
    match = calibrator_to_solve_on(measurement_set=measurement_set)
    calibrator = match.calibrator if match else None
    solved = (
        make_tables(
            measurement_set=measurement_set,
            flags=folder / "flags.h5",
            calibrator=calibrator,
            folder=folder,
            image_field=image_field,
        )
        if calibrator
        else None
    )

    def record() -> None:
        flags = record_flags(measurement_set=measurement_set, flagging=flagging, calibrator=calibrator, folder=folder)
        if solved and calibrator:
            for table in record_tables(
                measurement_set=measurement_set, flag_table=flags, calibrator=calibrator, solved=solved
            ):
                assess_calibration_table(table=table)

    return record


def _apply_is_done(tile: SubbandGroup, options: Options) -> bool:
    tables = choose_tables(measurement_set=raw_set(tile), lenient=options.lenient)
    recipe = applying_recipe(flag_table=flags_of(tile), tables=tables, lenient=options.lenient)
    return _exists(tile.measurement_sets.current(), recipe)


def _apply(tile: SubbandGroup, options: Options, folder: Path) -> Record:
    measurement_set, flags = raw_set(tile), flags_of(tile)
    tables = choose_tables(measurement_set=measurement_set, lenient=options.lenient)
    applied = make_calibrated_set(measurement_set=measurement_set, flag_table=flags, tables=tables, folder=folder)
    return lambda: record_calibrated_set(
        measurement_set=measurement_set,
        flag_table=flags,
        tables=tables,
        applied=applied,
        lenient=options.lenient,
        folder=folder,
    )


COMPANIONS = ("flat_noise_path", "residual_path", "primary_beam_path", "preview_path")


def _image_is_done(tile: SubbandGroup, options: Options) -> bool:
    images, recipe = Image.objects.tiles().current(), imaging_recipe(calibrated_set(tile))
    return _exists(images, recipe) and all(
        is_intact(path) for path in images.filter(recipe=recipe).values_list(*COMPANIONS).get()
    )


def _image(tile: SubbandGroup, options: Options, folder: Path) -> Record:
    measurement_set = calibrated_set(tile)
    made = make_tile(measurement_set=measurement_set, folder=folder)
    return lambda: record_tile(measurement_set=measurement_set, made=made)


def _assess_is_done(tile: SubbandGroup, options: Options) -> bool:
    return is_assessed(image_of(tile))


def _assess(tile: SubbandGroup, options: Options, folder: Path) -> Record:
    image = image_of(tile)
    return lambda: assess_image(image=image)


def _photometry_is_done(tile: SubbandGroup, options: Options) -> bool:
    image = image_of(tile)
    return hasattr(image, "catalogue") and image.catalogue.recipe == catalogue_recipe(image=image)


def _photometry(tile: SubbandGroup, options: Options, folder: Path) -> Record:
    image = image_of(tile)
    measured = measure_image(image=image)
    return lambda: record_catalogue(image=image, measured=measured)


# All tiles are calibrated before the first table is chosen, so that each gets the nearest one of the whole run.
CALIBRATING = (
    Stage("convert", _convert_is_done, _convert),
    Stage("calibrate", _calibrate_is_done, _calibrate),
)
IMAGING = (
    Stage("apply", _apply_is_done, _apply),
    Stage("image", _image_is_done, _image),
    Stage("assess", _assess_is_done, _assess),
    Stage("photometry", _photometry_is_done, _photometry),
)
STAGES = CALIBRATING + IMAGING
