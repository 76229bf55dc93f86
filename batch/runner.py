"""The main job: every settled tile through every stage. One bad tile never stops the others."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import structlog
from django.db import transaction

from batch.stages import CALIBRATING, IMAGING, Options, Stage
from batch.sweeper import products_of, remove_unnamed, sweep
from calibration.services import WaitingForCalibration
from contimg.exceptions import Busy, ContimgError
from contimg.products import note, products_root, workspace
from observations.models import SubbandGroup

log = structlog.get_logger(__name__)

UNEXPECTED = "internal_error"  # the code of an error that is none of ours


@dataclass
class TileReport:
    """How far one tile came in this run. `stages_run` are those that did work, not those found done."""

    tile: SubbandGroup
    stages_run: list[str] = field(default_factory=list)
    state: str = "done"  # done, failed or waiting
    stage: str = ""
    code: str = ""
    detail: str = ""

    @property
    def is_open(self) -> bool:
        return self.state == "done"


@dataclass
class RunReport:
    tiles: list[TileReport] = field(default_factory=list)

    def in_state(self, state: str) -> list[TileReport]:
        return [report for report in self.tiles if report.state == state]

    @property
    def is_success(self) -> bool:
        return not self.in_state("failed") and not self.in_state("waiting")


Progress = Callable[[TileReport, Stage], None]


def process_tiles(
    *, tiles: Iterable[SubbandGroup], options: Options | None = None, progress: Progress | None = None
) -> RunReport:
    """Run all stages of the tiles in order of time; what is done and unchanged is not done again.

    A tile that fails, or that waits for calibration, leaves the run there and is named in the report.
    Raises Busy when another run has the products root.
    """
    options = options or Options()
    report = RunReport([TileReport(tile) for tile in sorted(tiles, key=lambda tile: (tile.started_at, tile.pk))])
    with _alone():
        sweep()
        for stages in (CALIBRATING, IMAGING):
            for tile_report in report.tiles:
                _run_stages(tile_report, stages, options, progress)
    return report


def _run_stages(report: TileReport, stages: Sequence[Stage], options: Options, progress: Progress | None) -> None:
    for stage in stages:
        if report.is_open:
            _run_stage(report, stage, options)
        if progress:
            progress(report, stage)


def _run_stage(report: TileReport, stage: Stage, options: Options) -> None:
    try:
        if stage.is_done(report.tile, options):
            return
        run_one(stage, report.tile, options)
    except ContimgError as error:
        waits = isinstance(error, WaitingForCalibration)
        _stop(report, stage, state="waiting" if waits else "failed", code=error.code, detail=str(error))
    # The worker's edge: a fault of ours or of a library, met in one tile's data, must not take the night with it.
    except Exception as error:
        log.exception("stage_broke", tile=report.tile.name, stage=stage.name)
        _stop(report, stage, state="failed", code=UNEXPECTED, detail=f"{type(error).__name__}: {error}")
    else:
        report.stages_run.append(stage.name)
        log.info("stage_done", tile=report.tile.name, stage=stage.name)


def _stop(report: TileReport, stage: Stage, *, state: str, code: str, detail: str) -> None:
    report.state, report.stage, report.code, report.detail = state, stage.name, code, detail
    log.warning("stage_stopped", tile=report.tile.name, stage=stage.name, code=code, detail=detail)


def run_one(stage: Stage, tile: SubbandGroup, options: Options) -> None:
    """Work in a folder of its own, then record in one transaction.

    Afterwards what no row names goes: on success the files that a remake replaced, on failure those just published.
    """
    with workspace() as folder:
        record = stage.work(tile, options, folder)
        note(folder, products_of(tile))
        try:
            with transaction.atomic():
                record()
        finally:
            remove_unnamed(folder)


@contextmanager
def _alone() -> Iterator[None]:
    """One run at a time on a products root; the lock goes with the process, however it ends."""
    root = products_root()
    root.mkdir(parents=True, exist_ok=True)
    with open(Path(root, ".lock"), "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Busy("Another run is processing into this products root; wait for it to end.") from error
        lock.write(str(os.getpid()))
        lock.flush()
        yield
