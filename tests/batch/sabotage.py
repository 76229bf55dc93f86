"""The real stages, whose products are spoilt in the moment they are recorded: `settings.CONTIMG_STAGES = PATH`."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

from batch import stages
from batch.stages import Job, Stage
from contimg.products import products_root
from qa.models import Assessment
from sources.models import Catalogue

PATH = "tests.batch.sabotage.STAGES"
HOW: dict[str, str] = {}  # by stage: "nothing", "empty" or "old"; a test fills it
YEARS_AGO = (1_577_836_800, 1_577_836_800)  # 2020-01-01


def _spoilt(stage: Stage) -> Stage:
    def work(job: Job, folder: Path):
        record = stage.work(job, folder)
        how = HOW.get(stage.name)

        def spoil() -> None:
            if how == "nothing" or (how == "old" and stage.name in ("assess", "photometry")):
                return  # nothing recorded; and what was there before stays
            record()
            for row in stage.outputs(job):
                SPOIL_ROW[type(row)](row) if type(row) in SPOIL_ROW else SPOIL_FILE[how](products_root() / row.path)

        return spoil if how else record

    return replace(stage, work=work)


def _empty(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
        path.mkdir()
    else:
        path.write_bytes(b"")


def _gone(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def _old(path: Path) -> None:
    for one in [path, *path.rglob("*")]:
        os.utime(one, YEARS_AGO)


SPOIL_FILE = {"empty": _empty, "gone": _gone, "old": _old}
SPOIL_ROW = {
    Assessment: lambda row: row.findings.all().delete(),
    Catalogue: lambda row: row.image.measurements.all().delete(),
}
STAGES = tuple(map(_spoilt, stages.STAGES))
