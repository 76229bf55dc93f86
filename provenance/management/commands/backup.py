"""Copy the database as it is at one moment, while it is in use, with the list of the products that it names; read it
back, and say where it is."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

from django.db import DEFAULT_DB_ALIAS, connections

from contimg.commands import (
    ContimgCommand,
    StepBar,
    positive,
    stopping_like_ctrl_c,
    unreachable_database_named,
)
from provenance.backups import remove_older, take_backup


class Command(ContimgCommand):
    needs_migrated_database = False  # before `migrate` is when a backup is wanted most
    help = __doc__ or ""

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("folder", type=Path, metavar="FOLDER", help="each backup is a folder in it")
        parser.add_argument(
            "--keep",
            type=positive,
            metavar="N",
            help="then remove all but the newest N backups of this installation there",
        )
        parser.add_argument("--json", action="store_true", dest="as_json", help="print the result as JSON")

    def handle(self, *, folder: Path, keep: int | None, as_json: bool, **options: Any) -> None:
        with unreachable_database_named():
            connections[DEFAULT_DB_ALIAS].ensure_connection()
        with closing(StepBar()) as bar, stopping_like_ctrl_c():
            backup = take_backup(folder=folder, told=bar)
            installation = backup.manifest.installation
            removed = [] if keep is None else remove_older(folder=folder, keep=keep, installation=installation)
        if as_json:
            facts = {"path": str(backup.path), "removed": [str(path) for path in removed], **asdict(backup.manifest)}
            self.stdout.write(json.dumps(facts, indent=2))
            return
        self.stdout.write(str(backup.path))
        rows, n_products = sum(backup.manifest.rows.values()), backup.manifest.n_products
        self.stdout.write(
            f"{rows} rows and the names of {n_products} files of products, {backup.size_bytes / 1e6:.1f} MB, read back."
            + (f" {len(removed)} older backups were removed." if removed else "")
        )
