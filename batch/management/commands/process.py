"""The main job: `manage.py process DIR` takes raw files to judged images, catalogues and light curves."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import CommandError

from batch import transitions
from batch.display import showing
from batch.models import Batch, Item, StageName, State
from batch.runner import run_batch, run_batch_here
from batch.services import create_batch
from batch.stages import CHAIN, Job, StageNotReady, stages
from batch.sweeper import Sweeper
from calibration.services import CalibrationGateFailed, WaitingForCalibration
from contimg.commands import ContimgCommand
from contimg.exceptions import Busy
from contimg.models import Grade
from images.models import Image
from observations.models import SubbandGroup
from observations.services import describe, index_subbands


class Command(ContimgCommand):
    help = "Index a folder of subband files and run every settled tile through the pipeline. Safe to repeat."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("folder", type=Path, metavar="DIR")
        parser.add_argument("--lenient", action="store_true", help="also use calibration that failed its gate")
        parser.add_argument("--settle-s", type=float, help="wait so long for missing subbands (CONTIMG_SETTLE_S)")
        parser.add_argument("--workers", type=int, default=1, help="items at a time (1); 0: in this process, to debug")
        parser.add_argument("--json", action="store_true", dest="as_json", help="print the summary as JSON")

    def handle(
        self, folder: Path, *, lenient: bool, settle_s: float | None, workers: int, as_json: bool, **options: Any
    ) -> None:
        if not 0 <= workers <= 64:
            raise CommandError(f"--workers {workers} is not from 0 to 64.")
        index = index_subbands(folder=folder)
        if not index.n_found:
            raise CommandError(f"{folder} holds no subband files (*_sbNN.hdf5); is it the right folder?")
        groups = SubbandGroup.objects.under(folder.resolve()).with_files()
        tiles = sorted(groups.processable().settled(settle_s), key=lambda tile: (tile.started_at, tile.pk))
        parameters = {"lenient": lenient}
        _clear_the_way(tiles)
        undone = [tile for tile in tiles if not is_done(tile, parameters)]
        batch = self._run(undone, parameters, workers, quiet=as_json or options["verbosity"] == 0) if undone else None
        taken = {tile.pk for tile in tiles}
        left = [group for group in groups if group.pk not in taken and not group.measurement_sets.all()]
        summary = _summary(tiles, batch, left, index.refused)
        self.stdout.write(json.dumps(summary, indent=2) if as_json else _as_text(summary))
        if any(tile["state"] != State.DONE for tile in summary["tiles"]) or index.refused or _overfull(left):
            raise SystemExit(1)

    def _run(self, tiles: list[SubbandGroup], parameters: dict[str, Any], workers: int, *, quiet: bool) -> Batch:
        """Make the batch and run it here, with a bar on a terminal and a line for every tenth elsewhere."""
        asked = create_batch(
            stage=StageName.PROCESS, subjects=[("subband_group", tile.pk) for tile in tiles], parameters=parameters
        )
        with showing(asked.batch, quiet=quiet, write=self.stderr.write) as show:
            if workers == 0:
                return run_batch_here(batch=asked.batch, watch=show)
            return run_batch(batch=asked.batch, n_workers=workers, watch=show)


def _clear_the_way(tiles: list[SubbandGroup]) -> None:
    """What an interrupted run left in the queue is taken over by this one; a run that is alive is not disturbed.

    Raises Busy.
    """
    Sweeper().sweep()
    begun = Item.objects.unended().filter(group__in=tiles, batch__stage=StageName.PROCESS)
    running = begun.running().select_related("batch").first()
    if running is not None:
        raise Busy(
            f"{running.batch} of {running.worker} is processing these tiles; wait for it, watch it with "
            f"`batch watch {running.batch_id}`, or stop it with `batch cancel {running.batch_id}`."
        )
    transitions.cancel(begun)


def is_done(tile: SubbandGroup, parameters: dict[str, Any]) -> bool:
    """Whether every stage of the chain has made its product of the tile's present files and these parameters."""
    table, job = stages(), Job(tile=tile, parameters=parameters)
    try:
        return all(table[name].is_done(job) for name in CHAIN)
    except (StageNotReady, WaitingForCalibration, CalibrationGateFailed):
        return False


def _overfull(groups: list[SubbandGroup]) -> bool:
    return any(group.is_overfull for group in groups)


def _summary(tiles: list[SubbandGroup], batch: Batch | None, left: list[SubbandGroup], refused: list) -> dict[str, Any]:
    made, items = _results(tiles), _items(batch)
    return {
        "batch": batch and batch.pk,
        "tiles": [_tile(tile, items.get(tile.pk, []), made.get(tile.pk, NOTHING)) for tile in tiles],
        "not_processed": [{"name": group.name, "reason": describe(group)} for group in left],
        "refused_files": [{"path": str(file.path), "code": file.code, "detail": file.detail} for file in refused],
    }


def _items(batch: Batch | None) -> dict[int, list[Any]]:
    """The items of each tile, in the order of the chain."""
    found: dict[int, list[Any]] = {}  # items with `did_work`
    for item in batch.items.order_by("id").with_latest_attempt() if batch else ():
        found.setdefault(item.subject_id, []).append(item)
    return found


def _tile(tile: SubbandGroup, items: list[Any], made: dict[str, Any]) -> dict[str, Any]:
    """How far one tile came; `stages_run` are those that did work, not those found done."""
    stopped = next((item for item in items if item.state != State.DONE), None)
    return {
        "name": tile.name,
        "state": stopped.state if stopped else State.DONE.value,
        "stages_run": [item.stage for item in items if item.state == State.DONE and item.did_work],
        "stage": stopped.stage if stopped else "",
        "code": stopped.error_code if stopped else "",
        "detail": stopped.error_detail if stopped else "",
        "missing_subbands": tile.missing_subbands,
        **(NOTHING if stopped else made),
    }


NOTHING = {"grade": None, "rms_jy_per_beam": None, "dynamic_range": None, "n_detected": None}


def _results(tiles: list[SubbandGroup]) -> dict[int, dict[str, Any]]:
    """What came out of each tile, by the tile's key."""
    images = Image.objects.tiles().current().filter(measurement_set__group__in=tiles)
    columns = ("measurement_set__group", "grade", "rms_jy_per_beam", "dynamic_range", "catalogue__n_detected")
    return {row[0]: dict(zip(NOTHING, row[1:], strict=True)) for row in images.values_list(*columns)}


def _as_text(summary: dict[str, Any]) -> str:
    tiles = summary["tiles"]
    worked = sum(bool(tile["stages_run"]) for tile in tiles)
    done = [tile for tile in tiles if tile["state"] == "done"]
    lines = [_result_line(tile) for tile in done]
    lines.append(f"{len(done)} of {len(tiles)} tiles done, {worked} of them with new work")
    poor = sum(tile["grade"] == Grade.POOR for tile in done)
    if poor:
        lines.append(f"  {poor} graded poor: kept, but they make no new sources and stay out of statistics")
    lines += [
        f"  {tile['name']} {tile['state']} at {tile['stage']}: {tile['detail']} [{tile['code']}]"
        for tile in tiles
        if tile["state"] != "done"
    ]
    lines += [f"  {group['name']} not processed: {group['reason']}" for group in summary["not_processed"]]
    lines += [f"  {file['path']} refused: {file['detail']} [{file['code']}]" for file in summary["refused_files"]]
    return "\n".join(lines)


def _result_line(tile: dict[str, Any]) -> str:
    missing = ", ".join(f"sb{number:02d}" for number in tile["missing_subbands"])
    return (
        f"  {tile['name']} {tile['grade']:9}  rms {1e3 * (tile['rms_jy_per_beam'] or 0):.2f} mJy/beam  "
        f"dynamic range {tile['dynamic_range'] or 0:.0f}  {tile['n_detected']} detections"
        f"{f'  without {missing}' if missing else ''}"
    )
