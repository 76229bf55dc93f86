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
from batch.outcomes import items_by_tile, outcome_line, outcomes
from batch.runner import run_batch, run_batch_here
from batch.services import create_batch
from batch.stages import is_processed
from batch.sweeper import Sweeper
from contimg.commands import ContimgCommand
from contimg.exceptions import Busy
from contimg.models import Grade
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
        undone = [tile for tile in tiles if not is_processed(tile, parameters)]
        batch = self._run(undone, parameters, workers, quiet=as_json or options["verbosity"] == 0) if undone else None
        taken = {tile.pk for tile in tiles}
        left = [group for group in groups if group.pk not in taken and not group.measurement_sets.all()]
        reasons = [{"name": group.name, "reason": describe(group, settle_s)} for group in left]
        summary = _summary(tiles, batch, reasons, index.refused)
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


def _overfull(groups: list[SubbandGroup]) -> bool:
    return any(group.is_overfull for group in groups)


def _summary(
    tiles: list[SubbandGroup], batch: Batch | None, left: list[dict[str, str]], refused: list
) -> dict[str, Any]:
    items = items_by_tile(batch.items.all()) if batch else {}
    return {
        "batch": batch and batch.pk,
        "tiles": outcomes(tiles, items),
        "not_processed": left,
        "refused_files": [{"path": str(file.path), "code": file.code, "detail": file.detail} for file in refused],
    }


def _as_text(summary: dict[str, Any]) -> str:
    tiles = summary["tiles"]
    worked = sum(bool(tile["stages_run"]) for tile in tiles)
    done = [tile for tile in tiles if tile["state"] == "done"]
    lines = [f"  {outcome_line(tile)}" for tile in done]
    lines.append(f"{len(done)} of {len(tiles)} tiles done, {worked} of them with new work")
    poor = sum(tile["grade"] == Grade.POOR for tile in done)
    if poor:
        lines.append(f"  {poor} graded poor: kept, but they make no new sources and stay out of statistics")
    lines += [f"  {outcome_line(tile)}" for tile in tiles if tile["state"] != "done"]
    lines += [f"  {group['name']} not processed: {group['reason']}" for group in summary["not_processed"]]
    lines += [f"  {file['path']} refused: {file['detail']} [{file['code']}]" for file in summary["refused_files"]]
    return "\n".join(lines)
