"""The stages, in order, each in two halves; what every one reads, makes, needs and may use is on this screen's table.

`work` calls engines and writes files into a folder of its own, with no transaction open; it returns `record`, which
runs inside one transaction: it renames the files into place and writes the rows. `is_done` asks whether the product
of exactly these inputs and parameters exists, so what is done and unchanged is not done again. `inputs` and `outputs`
are the rows whose files are the evidence of an attempt.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from django.conf import settings
from django.db.models import Model, QuerySet
from django.utils.module_loading import import_string

from batch.models import UNFINISHED, Item, StageName
from calibration.models import CalibrationTable, FlagTable
from calibration.services import (
    CalibrationGateFailed,
    WaitingForCalibration,
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
from contimg.models import Grade
from contimg.products import is_intact
from images.models import Image
from images.mosaics import ENGINE as MOSAICKER
from images.mosaics import Choice, TooFewTiles, choose_tiles, make_mosaic, mosaic_recipe, record_mosaic
from images.services import configured_imager
from images.tiles import image_field, imaging_parameters, imaging_recipe, make_tile, record_tile
from observations.conversion import conversion_recipe, make_measurement_set, record_measurement_set
from observations.models import Epoch, MeasurementSet, SubbandGroup
from provenance.verifying import recorded_companions
from qa.services import assess_calibration_table, assess_epoch, assess_image, is_assessed, is_epoch_assessed
from sources.comparison import compare_image, comparison_recipe, record_comparison
from sources.models import Comparison, Source
from sources.services import (
    StatisticsOf,
    catalogue_recipe,
    measure_image,
    record_catalogue,
    refresh_stale,
    refresh_statistics,
)

Record = Callable[[], object]
Row = TypeVar("Row", bound=Model)
GB = 1_000_000_000
IMAGING = ("size_px", "pixel_arcsec", "robust", "niter")


class StageNotReady(ContimgError):
    """A stage was asked for before the product it needs exists."""

    code = "stage_not_ready"
    status = 409


@dataclass(frozen=True)
class Job:
    """A stage's subject and parameters: a tile, one image (of a tile or from elsewhere), or an epoch."""

    tile: SubbandGroup | None
    image: Image | None = None
    epoch: Epoch | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    progress: Callable[[float], None] = lambda fraction: None

    @classmethod
    def of(cls, item: Item, progress: Callable[[float], None]) -> Job:
        return cls(
            tile=item.tile, image=item.image, epoch=item.epoch, parameters=item.batch.parameters, progress=progress
        )

    @property
    def name(self) -> str:
        return (self.image or self.epoch or self.the_tile).name

    @property
    def the_tile(self) -> SubbandGroup:
        if self.tile is None:
            raise StageNotReady(f"{self.name} is not a tile; this stage works on tiles only.")
        return self.tile

    @property
    def the_epoch(self) -> Epoch:
        if self.epoch is None:
            raise StageNotReady(f"{self.name} is not an epoch; this stage works on epochs only.")
        return self.epoch

    @property
    def lenient(self) -> bool:
        return bool(self.parameters.get("lenient"))

    @property
    def imaging(self) -> Any:
        return imaging_parameters(**{name: self.parameters[name] for name in IMAGING if name in self.parameters})


@dataclass(frozen=True)
class Stage:
    name: StageName
    subject_kinds: tuple[str, ...]
    parameters: tuple[str, ...]
    is_done: Callable[[Job], bool]
    work: Callable[[Job, Path], Record]
    inputs: Callable[[Job], Iterable[Model]]
    outputs: Callable[[Job], Iterable[Model | StatisticsOf]]
    disk_bytes: Callable[[Job], int]  # that it may fill while it works, products included
    engine: Callable[[], str] = lambda: ""  # its name, where it has one
    try_engine: Callable[[], object] = lambda: None  # raises EngineUnavailable where it cannot run at all
    time_limit_s: float = 3600
    memory_limit_bytes: int = 12 * GB


def stages() -> dict[str, Stage]:
    """The table that the settings name, by the stages' names."""
    return {stage.name: stage for stage in import_string(settings.CONTIMG_STAGES)}


# --- what a tile has -------------------------------------------------------------------------------------------
def raw_set(job: Job) -> MeasurementSet:
    return _one(job.the_tile.measurement_sets.uncalibrated().current(), job, "convert")


def calibrated_set(job: Job) -> MeasurementSet:
    return _one(job.the_tile.measurement_sets.calibrated().current(), job, "apply")


def flags_of(job: Job) -> FlagTable:
    return _one(FlagTable.objects.filter(recipe=flagging_recipe(raw_set(job))), job, "calibrate")


def image_of(job: Job) -> Image:
    """The subject, a tile's current image, or an epoch's current mosaic."""
    if job.image is not None:
        return job.image
    if job.epoch is not None:
        return _one(job.epoch.mosaics.current(), job, "mosaic")
    return _one(Image.objects.tiles().current().filter(measurement_set__group=job.the_tile), job, "image")


def _one(rows: QuerySet[Row], job: Job, stage: str) -> Row:
    row = rows.first()
    if row is None:
        raise StageNotReady(f"{job.name} has no product of the stage {stage!r} yet; run that stage first.")
    return row


def _exists(queryset: QuerySet, recipe: str) -> bool:
    """Whether the product of this recipe is recorded, current where that is said, and whole on disk."""
    row = queryset.filter(recipe=recipe).values_list("path", "size_bytes").first()
    return row is not None and is_intact(*row)


# --- convert -----------------------------------------------------------------------------------------------------
def _convert_is_done(job: Job) -> bool:
    tile = job.the_tile
    return _exists(tile.measurement_sets.current(), conversion_recipe(tile))


def _convert(job: Job, folder: Path) -> Record:
    tile = job.the_tile
    converted = make_measurement_set(group=tile, folder=folder)
    return lambda: record_measurement_set(group=tile, converted=converted, folder=folder)


# --- calibrate ---------------------------------------------------------------------------------------------------
def _calibrate_is_done(job: Job) -> bool:
    if not _exists(FlagTable.objects.all(), flagging_recipe(raw_set(job))):
        return False
    flags = flags_of(job)
    if flags.calibrator is None:
        return True
    recipes = [solving_recipe(flag_table=flags, calibrator=flags.calibrator, kind=kind) for kind in "BG"]
    return all(_exists(CalibrationTable.objects.all(), recipe) for recipe in recipes)


def _calibrate(job: Job, folder: Path) -> Record:
    """Flag; where the tile has a calibrator, solve on it."""
    measurement_set = raw_set(job)
    flagging = make_flags(measurement_set=measurement_set, folder=folder)
    match = calibrator_to_solve_on(measurement_set=measurement_set)
    job.progress(0.1 if match else 0.9)
    calibrator = match.calibrator if match else None
    solved = (
        make_tables(
            measurement_set=measurement_set,
            flags=folder / "flags.h5",
            calibrator=calibrator,
            folder=folder,
            image_field=partial(image_field, progress=lambda part: job.progress(0.3 + 0.5 * part)),
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


def _calibration_of(job: Job) -> list[Model]:
    flags = flags_of(job)
    if flags.calibrator is None:
        return [flags]
    recipes = [solving_recipe(flag_table=flags, calibrator=flags.calibrator, kind=kind) for kind in "BG"]
    tables = list(CalibrationTable.objects.filter(recipe__in=recipes).order_by("kind"))
    if len(tables) < len(recipes):
        raise StageNotReady(f"{job.name} has no tables of its calibrator yet; run the stage 'calibrate' first.")
    return [flags, *tables]


# --- apply -------------------------------------------------------------------------------------------------------
def _tables_for(job: Job) -> list[CalibrationTable]:
    return choose_tables(measurement_set=raw_set(job), lenient=job.lenient)


def _apply_is_done(job: Job) -> bool:
    recipe = applying_recipe(flag_table=flags_of(job), tables=_tables_for(job), lenient=job.lenient)
    return _exists(job.the_tile.measurement_sets.current(), recipe)


def _apply(job: Job, folder: Path) -> Record:
    measurement_set, flags, tables = raw_set(job), flags_of(job), _tables_for(job)
    applied = make_calibrated_set(measurement_set=measurement_set, flag_table=flags, tables=tables, folder=folder)
    return lambda: record_calibrated_set(
        measurement_set=measurement_set,
        flag_table=flags,
        tables=tables,
        applied=applied,
        lenient=job.lenient,
        folder=folder,
    )


# --- image, assess, photometry -----------------------------------------------------------------------------------
def _image_is_done(job: Job) -> bool:
    return _is_whole(Image.objects.tiles().current(), imaging_recipe(calibrated_set(job), job.imaging))


def _is_whole(images: QuerySet[Image], recipe: str) -> bool:
    """The image and what comes with it, each of its recorded size."""
    if not _exists(images, recipe):
        return False
    companions = recorded_companions(images.prefetch_related("made_by__attempt").get(recipe=recipe))
    return all(is_intact(path, recorded.get("size_bytes")) for path, recorded in companions.items())


def _image(job: Job, folder: Path) -> Record:
    measurement_set = calibrated_set(job)
    made = make_tile(
        measurement_set=measurement_set,
        parameters=job.imaging,
        folder=folder,
        progress=lambda part: job.progress(0.9 * part),
    )

    def record() -> None:
        versions = Image.objects.tiles().filter(measurement_set__group=job.tile)
        before = set(versions.current())
        record_tile(measurement_set=measurement_set, made=made)
        # The light curves change now, not when the new version was measured: it may never be.
        refresh_statistics(images=before ^ set(versions.current()))

    return record


def _assess_is_done(job: Job) -> bool:
    image = image_of(job)
    if not Comparison.objects.filter(image=image, recipe=comparison_recipe(image=image)).exists():
        return False
    if job.epoch is None:
        return is_assessed(image)
    asked_for = job.lenient and job.epoch.grade == Grade.POOR
    return is_epoch_assessed(epoch=job.epoch, mosaic=image) and job.epoch.is_lenient == asked_for


def _assess(job: Job, folder: Path) -> Record:
    """Hold the image against the sky, then judge it; an epoch with its mosaic."""
    image = image_of(job)
    comparison = compare_image(image=image)

    def record() -> None:
        record_comparison(comparison=comparison)
        if job.epoch is not None:
            assess_epoch(epoch=job.epoch, mosaic=image, lenient=job.lenient)
        else:
            assess_image(image=image)

    return record


def _assessments_of(job: Job) -> list[Model]:
    verdicts: list[Model] = [image_of(job).assessments.current().get()]
    if job.epoch is not None:
        verdicts.append(job.epoch.assessments.current().get())
    return verdicts


def _photometry_is_done(job: Job) -> bool:
    image = image_of(job)
    return hasattr(image, "catalogue") and image.catalogue.recipe == catalogue_recipe(image=image)


def _photometry(job: Job, folder: Path) -> Record:
    image = image_of(job)
    measured = measure_image(image=image)
    return lambda: record_catalogue(image=image, measured=measured)


def _finder_name() -> str:
    from sources.engines.finder import NAME  # only workers load engines

    return NAME


# --- statistics --------------------------------------------------------------------------------------------------
def _statistics_are_done(job: Job) -> bool:
    return not Source.objects.of_image(image_of(job)).filter(is_stale=True).exists()


def _statistics(job: Job, folder: Path) -> Record:
    image = image_of(job)
    return lambda: refresh_stale(image=image)


# --- mosaic ------------------------------------------------------------------------------------------------------
def _choice(job: Job) -> Choice:
    """The epoch's good tiles; of those without an image it says what went wrong last."""
    tiles = SubbandGroup.objects.in_epoch(job.the_epoch)
    failed = Item.objects.filter(group__in=tiles, state__in=UNFINISHED).exclude(error_code="dependency_failed")
    failures = dict(failed.order_by("id").values_list("group", "error_code"))
    return choose_tiles(epoch=job.the_epoch, failures=failures)


def _mosaic_is_done(job: Job) -> bool:
    return _is_whole(job.the_epoch.mosaics.current(), mosaic_recipe(_choice(job).used))


def _mosaic(job: Job, folder: Path) -> Record:
    epoch = job.the_epoch
    made = make_mosaic(epoch=epoch, choice=_choice(job), folder=folder, progress=lambda part: job.progress(0.8 * part))
    return lambda: record_mosaic(epoch=epoch, made=made)


def _mosaic_bytes(job: Job) -> int:
    """Two sums and two images of 4 bytes, on a grid that is no larger than its tiles together."""
    return 16 * sum(image.width_px * image.height_px for image in _choice(job).used)


def _pixels_bytes(job: Job) -> int:
    return 4 * job.imaging.size_px**2


# --- the table ---------------------------------------------------------------------------------------------------
STAGES = (
    Stage(
        StageName.CONVERT, ("subband_group",), (),
        _convert_is_done, _convert,
        inputs=lambda job: job.the_tile.files.select_related("root"),
        outputs=lambda job: [raw_set(job)],
        disk_bytes=lambda job: 3 * job.the_tile.size_bytes,
    ),
    Stage(
        StageName.CALIBRATE, ("subband_group", "measurement_set"), (),
        _calibrate_is_done, _calibrate,
        inputs=lambda job: [raw_set(job)],
        outputs=_calibration_of,
        disk_bytes=lambda job: int(1.2 * raw_set(job).size_bytes) + 20 * _pixels_bytes(job),
    ),
    Stage(
        StageName.APPLY, ("subband_group", "measurement_set"), ("lenient",),
        _apply_is_done, _apply,
        inputs=lambda job: [raw_set(job), flags_of(job), *_tables_for(job)],
        outputs=lambda job: [calibrated_set(job)],
        disk_bytes=lambda job: int(1.2 * raw_set(job).size_bytes),
    ),
    Stage(
        StageName.IMAGE, ("subband_group", "measurement_set"), IMAGING,
        _image_is_done, _image,
        inputs=lambda job: [calibrated_set(job)],
        outputs=lambda job: [image_of(job)],
        disk_bytes=lambda job: int(1.2 * calibrated_set(job).size_bytes) + 20 * _pixels_bytes(job),
        engine=lambda: settings.CONTIMG_IMAGER,
        try_engine=lambda: configured_imager().versions(),
    ),
    Stage(
        StageName.ASSESS, ("subband_group", "image", "epoch"), ("lenient",),
        _assess_is_done, _assess,
        inputs=lambda job: [image_of(job)],
        outputs=_assessments_of,
        disk_bytes=lambda job: 0,
        time_limit_s=300,
    ),
    Stage(
        StageName.PHOTOMETRY, ("subband_group", "image", "epoch"), (),
        _photometry_is_done, _photometry,
        inputs=lambda job: [image_of(job)],
        outputs=lambda job: [Image.objects.select_related("catalogue").get(pk=image_of(job).pk).catalogue],
        disk_bytes=lambda job: 32 * image_of(job).width_px * image_of(job).height_px,
        engine=_finder_name,
        time_limit_s=1800,
    ),
    Stage(
        StageName.MOSAIC, ("epoch",), (),
        _mosaic_is_done, _mosaic,
        inputs=lambda job: _choice(job).used,
        outputs=lambda job: [job.the_epoch.mosaics.current().get()],
        disk_bytes=_mosaic_bytes,
        engine=lambda: MOSAICKER,
    ),
    Stage(
        StageName.STATISTICS, ("image",), (),
        _statistics_are_done, _statistics,
        inputs=lambda job: [],
        outputs=lambda job: [StatisticsOf(image_of(job))],
        disk_bytes=lambda job: 0,
        time_limit_s=300,
    ),
)  # fmt: skip
# What `process` does to a tile, in this order.
CHAIN = tuple(stage.name for stage in STAGES if "subband_group" in stage.subject_kinds)


def follow_a_mosaic(table: Mapping[str, Stage]) -> list[Stage]:
    """What is done to an epoch once it has its mosaic, in order: the verdict of its gates, its catalogue."""
    return [stage for stage in table.values() if "epoch" in stage.subject_kinds and stage.name != StageName.MOSAIC]


def wants_mosaic(epoch: Epoch, parameters: Mapping[str, Any]) -> bool:
    """Whether it has tiles enough for a mosaic, and lacks that, its verdict or its catalogue.

    That somebody let its tiles count is no reason to judge it again: it was asked for by name.
    """
    lenient = bool(parameters.get("lenient")) or epoch.is_lenient
    table, job = stages(), Job(tile=None, epoch=epoch, parameters={**parameters, "lenient": lenient})
    if StageName.MOSAIC not in table:
        return False
    try:
        return not all(stage.is_done(job) for stage in (table[StageName.MOSAIC], *follow_a_mosaic(table)))
    except TooFewTiles:
        return False
    except StageNotReady:
        return True


def is_processed(tile: SubbandGroup, parameters: Mapping[str, Any]) -> bool:
    """Whether every stage of the chain has made its product of the tile's present files and these parameters."""
    table, job = stages(), Job(tile=tile, parameters=parameters)
    try:
        return all(table[name].is_done(job) for name in CHAIN)
    except (StageNotReady, WaitingForCalibration, CalibrationGateFailed):
        return False
