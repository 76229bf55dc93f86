"""The main job: `manage.py process DIR` takes raw files to judged images, catalogues and light curves."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import CommandError
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from batch.runner import RunReport, TileReport, process_tiles
from batch.stages import STAGES, Options, Stage
from contimg.commands import ContimgCommand
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
        parser.add_argument("--json", action="store_true", dest="as_json", help="print the summary as JSON")

    def handle(self, folder: Path, *, lenient: bool, settle_s: float | None, as_json: bool, **options: Any) -> None:
        quiet = as_json or options["verbosity"] == 0
        index = index_subbands(folder=folder)
        if not index.n_found:
            raise CommandError(f"{folder} holds no subband files (*_sbNN.hdf5); is it the right folder?")
        groups = SubbandGroup.objects.under(folder.resolve()).with_files()
        tiles = list(groups.processable().settled(settle_s))
        bar = tqdm(total=len(tiles) * len(STAGES), desc="processing", unit="stage", disable=quiet or None)
        with logging_redirect_tqdm(), bar:

            def step(report: TileReport, stage: Stage) -> None:
                bar.set_postfix_str(f"{report.tile.name} {stage.name}", refresh=False)
                bar.update()

            report = process_tiles(tiles=tiles, options=Options(lenient=lenient), progress=step)
        taken = {tile.pk for tile in tiles}
        left = [group for group in groups if group.pk not in taken and not group.measurement_sets.all()]
        summary = _summary(report, left, index.refused)
        self.stdout.write(json.dumps(summary, indent=2) if as_json else _as_text(summary))
        if not report.is_success or index.refused or any(group.is_overfull for group in left):
            raise SystemExit(1)


def _summary(report: RunReport, left: list[SubbandGroup], refused: list) -> dict[str, Any]:
    made = _results([tile.tile for tile in report.tiles])
    return {
        "tiles": [
            {
                "name": tile.tile.name,
                "state": tile.state,
                "stages_run": tile.stages_run,
                "stage": tile.stage,
                "code": tile.code,
                "detail": tile.detail,
                "missing_subbands": tile.tile.missing_subbands,
                **(made.get(tile.tile.pk, NOTHING) if tile.state == "done" else NOTHING),
            }
            for tile in report.tiles
        ],
        "not_processed": [{"name": group.name, "reason": describe(group)} for group in left],
        "refused_files": [{"path": str(file.path), "code": file.code, "detail": file.detail} for file in refused],
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
