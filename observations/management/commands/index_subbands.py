"""Find the subband files below a folder, read the headers of new ones and group them into tiles."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from dataclasses import asdict
from pathlib import Path
from typing import Any

from django.core.management.base import CommandError
from tqdm import tqdm

from contimg.commands import ContimgCommand
from observations.models import SubbandGroup
from observations.services import IndexReport, describe, index_subbands


class Command(ContimgCommand):
    help = __doc__ or ""

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("folder", type=Path, metavar="DIR")
        parser.add_argument("--json", action="store_true", help="print the report as JSON")

    def handle(self, *, folder: Path, **options: Any) -> None:
        report = self._index(folder)
        self.stdout.write(json.dumps(_as_json(report)) if options["json"] else _as_text(report))
        if report.refused:
            raise CommandError(f"{len(report.refused)} file(s) were refused; everything else is indexed.")

    def _index(self, folder: Path) -> IndexReport:
        with tqdm(unit="file", desc="Indexing", disable=None) as bar:

            def show(done: int, total: int) -> None:
                bar.total = total
                bar.update(done - bar.n)

            return index_subbands(folder=folder, progress=show)


def _touched_groups(report: IndexReport) -> list[SubbandGroup]:
    keys = report.groups.created | report.groups.changed
    return list(SubbandGroup.objects.filter(pk__in=keys).with_files().order_by("observed_at", "pk"))


def _as_json(report: IndexReport) -> dict[str, Any]:
    groups = [{"id": group.pk, "name": group.name, "state": describe(group)} for group in _touched_groups(report)]
    return asdict(report) | {
        "groups": groups,
        "n_created": len(report.groups.created),
        "n_changed": len(report.groups.changed),
        "n_removed": len(report.groups.removed),
    }


def _as_text(report: IndexReport) -> str:
    groups = _touched_groups(report)
    return "\n".join(
        [
            *(f"refused  {file.path}  [{file.code}] {file.detail}" for file in report.refused),
            *(f"gone     {path}" for path in report.vanished),
            *(f"group    {group.name}  {describe(group)}" for group in groups if not _is_whole(group)),
            f"{report.n_found} files: {report.n_read} read, {report.n_unchanged} unchanged, "
            f"{len(report.refused)} refused, {len(report.vanished)} gone.",
            f"Groups: {len(report.groups.created)} new, {len(report.groups.changed)} changed, "
            f"{len(report.groups.removed)} removed; {sum(map(_is_whole, groups))} of these are complete.",
        ]
    )


def _is_whole(group: SubbandGroup) -> bool:
    return group.is_complete and not group.is_overfull
