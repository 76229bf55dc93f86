"""The main job: `manage.py process DIR` takes raw files to judged images, catalogues and light curves."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from django.core.management.base import CommandError
from django.db.models import Model
from django.utils import timezone

from batch import transitions
from batch.display import how_far, showing
from batch.models import Batch, Item, StageName, State
from batch.outcomes import epoch_line, epoch_outcome, in_brackets, items_by_tile, outcome_line, outcomes
from batch.querysets import ItemQuerySet
from batch.runner import run_batch, run_batch_here
from batch.services import NothingToCancel, cancel_batch, create_batch
from batch.stages import is_processed, wants_mosaic
from batch.sweeper import Sweeper
from contimg.commands import INTERRUPTED, ContimgCommand, seconds, stopping_like_ctrl_c
from contimg.exceptions import Busy
from contimg.models import Grade
from contimg.products import is_gone, this_process
from observations.models import Epoch, SubbandGroup
from observations.services import describe, index_subbands, why_not


class Command(ContimgCommand):
    help = "Index a folder of subband files and run every settled tile through the pipeline. Safe to repeat."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("folder", type=Path, metavar="DIR")
        parser.add_argument("--lenient", action="store_true", help="also use calibration that failed its gate")
        parser.add_argument("--settle-s", type=seconds, help="wait so long for missing subbands (CONTIMG_SETTLE_S)")
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
        elsewhere = _in_work_elsewhere(tiles)
        ours = [tile for tile in tiles if tile.pk not in elsewhere]
        with stopping_like_ctrl_c():
            how: dict[str, Any] = {"workers": workers, "quiet": as_json or options["verbosity"] == 0}
            batches = self._run_all(ours, {"lenient": lenient}, **how)
            epochs = _whole_epochs(ours, {"lenient": lenient})
            if epochs:
                batches.append(self._run(StageName.MOSAIC, "epoch", epochs, {"lenient": lenient}, **how).pk)
        left = groups.exclude(pk__in=[tile.pk for tile in tiles]).unprocessed()
        summary: dict[str, Any] = {
            "batches": batches,
            "tiles": _outcomes(tiles, batches, elsewhere),
            "epochs": _outcomes_of_epochs(epochs, batches),
            "not_processed": [
                {"name": group.name, "reason": describe(group, settle_s), "code": why_not(group)} for group in left
            ],
            "refused_files": [
                {"path": str(file.path), "code": file.code, "detail": file.detail} for file in index.refused
            ],
        }
        self.stdout.write(json.dumps(summary, indent=2) if as_json else _as_text(summary))
        stuck = left.settled(settle_s).exists() or left.overfull().exists()  # which no further file mends
        if stuck or index.refused or any(one["state"] != State.DONE for one in summary["tiles"] + summary["epochs"]):
            raise SystemExit(1)

    def _run_all(
        self, tiles: list[SubbandGroup], parameters: dict[str, Any], *, workers: int, quiet: bool
    ) -> list[int]:
        """Runs what is to be done, in rounds: a calibrator that is solved again asks for tiles that were done.

        Returns the keys of the batches.
        """
        batches: list[int] = []
        asked: set[int] = set()
        while undone := [tile for tile in tiles if tile.pk not in asked and not is_processed(tile, parameters)]:
            asked |= {tile.pk for tile in undone}
            how: dict[str, Any] = {"workers": workers, "quiet": quiet}
            batches.append(self._run(StageName.PROCESS, "subband_group", undone, parameters, **how).pk)
        return batches

    def _run(
        self, stage: StageName, kind: str, subjects: Sequence[Model], parameters: dict[str, Any], *, workers: int,
        quiet: bool,
    ) -> Batch:  # fmt: skip
        """Make the batch and run it here, with a bar on a terminal and a line for every tenth elsewhere."""
        asked = create_batch(
            stage=stage, subjects=[(kind, subject.pk) for subject in subjects], parameters=parameters,
            run_by=this_process(),
        )  # fmt: skip
        try:
            with showing(asked.batch, quiet=quiet, write=self.stderr.write) as show:
                if workers == 0:
                    return run_batch_here(batch=asked.batch, watch=show)
                return run_batch(batch=asked.batch, n_workers=workers, watch=show)
        except KeyboardInterrupt:
            asked.batch.refresh_from_db()
            self.stderr.write(f"Stopped; batch {asked.batch.pk}: {how_far(asked.batch)}. Run it again to go on.")
            raise SystemExit(INTERRUPTED) from None


def _whole_epochs(tiles: list[SubbandGroup], parameters: dict[str, Any]) -> list[Epoch]:
    """Epochs of these tiles that are over, have nothing open, and lack their mosaic, its verdict or its catalogue.

    What a run of this command left in the queue for them is cancelled, for this one does it.
    """
    if not tiles:
        return []
    times = [tile.observed_at for tile in tiles]
    over = Epoch.objects.filter(tiles_from__lte=max(times), tiles_until__gt=min(times), tiles_until__lte=timezone.now())
    epochs = [epoch for epoch in over.order_by("started_at", "id") if any(epoch.has(tile) for tile in tiles)]
    for batch in _left_behind(Item.objects.unended().filter(epoch__in=epochs, batch__stage=StageName.MOSAIC)):
        with suppress(NothingToCancel):  # it has ended in this moment
            cancel_batch(batch=batch)
    busy = transitions.open_tiles(epochs)
    return [epoch for epoch in epochs if epoch.pk not in busy and wants_mosaic(epoch, parameters)]


def _outcomes_of_epochs(epochs: list[Epoch], batches: list[int]) -> list[dict[str, Any]]:
    """How far each came, and what its gates gave it."""
    items = items_by_tile(Item.objects.filter(batch__in=batches, epoch__in=epochs))
    now = Epoch.objects.filter(pk__in=[epoch.pk for epoch in epochs])
    return [epoch_outcome(epoch, items.get(epoch.pk, [])) for epoch in now.order_by("started_at", "id")]


def _in_work_elsewhere(tiles: list[SubbandGroup]) -> dict[int, int]:
    """The batches of tiles that somebody else has asked for, or is processing; that work is left to them.

    What a run of this command left in the queue when it was interrupted is cancelled, for this one does it.
    """
    Sweeper().sweep()
    begun = Item.objects.unended().filter(group__in=tiles, batch__stage=StageName.PROCESS)
    left = _left_behind(begun)
    for batch in left:
        with suppress(NothingToCancel):  # it has ended in this moment
            cancel_batch(batch=batch, tiles=tiles)
    return dict(begun.exclude(batch__in=left).values_list("group", "batch"))


def _left_behind(items: ItemQuerySet) -> list[Batch]:
    """The batches of these items whose process is gone, or is this one."""
    theirs = Batch.objects.filter(items__in=items).exclude(run_by="").distinct()
    return [batch for batch in theirs if batch.run_by == this_process() or is_gone(batch.run_by)]


def _outcomes(tiles: list[SubbandGroup], batches: list[int], elsewhere: dict[int, int]) -> list[dict[str, Any]]:
    items = items_by_tile(Item.objects.filter(batch__in={*batches, *elsewhere.values()}, group__in=tiles))
    found = outcomes(tiles, items)
    for tile, outcome in zip(tiles, found, strict=True):
        if tile.pk in elsewhere and outcome["state"] != State.DONE and not outcome["code"]:
            batch = elsewhere[tile.pk]
            outcome["code"] = Busy.code
            outcome["detail"] = (
                f"batch {batch} has it, of a worker or of another `process`: `batch watch {batch}` shows it, "
                f"`batch cancel {batch}` frees the tile."
            )
    return found


def _as_text(summary: dict[str, Any]) -> str:
    tiles = summary["tiles"]
    worked = sum(bool(tile["stages_run"]) for tile in tiles)
    done = [tile for tile in tiles if tile["state"] == "done"]
    lines = [f"  {outcome_line(tile)}" for tile in done]
    lines.append(f"{len(done)} of {len(tiles)} tiles done, {worked} of them with new work")
    lines += [f"  {epoch_line(epoch)}" for epoch in summary["epochs"]]
    poor = sum(tile["grade"] == Grade.POOR for tile in done)
    if poor:
        lines.append(f"  {poor} graded poor: kept, but they make no new sources and stay out of statistics")
    lines += [f"  {outcome_line(tile)}" for tile in tiles if tile["state"] != "done"]
    lines += [
        f"  {group['name']} not processed: {group['reason']}{in_brackets(group['code'])}"
        for group in summary["not_processed"]
    ]
    lines += [f"  {file['path']} refused: {file['detail']} [{file['code']}]" for file in summary["refused_files"]]
    return "\n".join(lines)
