"""The main job: `manage.py process DIR` takes raw files to judged images, catalogues and light curves."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from batch.runner import RunReport, TileReport, process_tiles
from batch.stages import STAGES, Options, Stage
from contimg.exceptions import ContimgError
from observations.models import SubbandGroup
from observations.services import describe, index_subbands


class Command(BaseCommand):
    help = "Index a folder of subband files and run every settled tile through the pipeline. Safe to repeat."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("folder", type=Path, metavar="DIR")
        parser.add_argument("--lenient", action="store_true", help="also use calibration that failed its gate")
        parser.add_argument("--settle-s", type=float, help="wait so long for missing subbands (CONTIMG_SETTLE_S)")
        parser.add_argument("--json", action="store_true", dest="as_json", help="print the summary as JSON")

    def handle(self, folder: Path, *, lenient: bool, settle_s: float | None, as_json: bool, **options: Any) -> None:
        quiet = as_json or options["verbosity"] == 0
        try:
            index = index_subbands(folder=folder)
            groups = SubbandGroup.objects.under(str(folder.resolve())).with_files()
            tiles = list(groups.processable().settled(settle_s))
            bar = tqdm(total=len(tiles) * len(STAGES), desc="processing", unit="stage", disable=quiet or None)
            with logging_redirect_tqdm(), bar:

                def step(report: TileReport, stage: Stage) -> None:
                    bar.set_postfix_str(f"{report.tile.name} {stage.name}", refresh=False)
                    bar.update()

                report = process_tiles(tiles=tiles, options=Options(lenient=lenient), progress=step)
        except ContimgError as error:
            raise CommandError(f"{error} [{error.code}]") from error
        left = [group for group in groups.all() if group.pk not in {tile.pk for tile in tiles}]
        summary = _summary(report, left, index.refused)
        self.stdout.write(json.dumps(summary, indent=2) if as_json else _as_text(summary))
        if not report.is_success or index.refused or any(group.is_overfull for group in left):
            raise SystemExit(1)


def _summary(report: RunReport, left: list[SubbandGroup], refused: list) -> dict[str, Any]:
    return {
        "tiles": [
            {
                "name": tile.tile.name,
                "state": tile.state,
                "stages_run": tile.stages_run,
                "stage": tile.stage,
                "code": tile.code,
                "detail": tile.detail,
            }
            for tile in report.tiles
        ],
        "not_processed": [{"name": group.name, "reason": describe(group)} for group in left],
        "refused_files": [{"path": str(file.path), "code": file.code, "detail": file.detail} for file in refused],
    }


def _as_text(summary: dict[str, Any]) -> str:
    tiles = summary["tiles"]
    worked = sum(bool(tile["stages_run"]) for tile in tiles)
    done = sum(tile["state"] == "done" for tile in tiles)
    lines = [f"{done} of {len(tiles)} tiles done, {worked} of them with new work"]
    lines += [
        f"  {tile['name']} {tile['state']} at {tile['stage']}: {tile['detail']} [{tile['code']}]"
        for tile in tiles
        if tile["state"] != "done"
    ]
    lines += [f"  {group['name']} not processed: {group['reason']}" for group in summary["not_processed"]]
    lines += [f"  {file['path']} refused: {file['detail']} [{file['code']}]" for file in summary["refused_files"]]
    return "\n".join(lines)
