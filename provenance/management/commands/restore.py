"""Put a backup into an empty database, all of it or nothing, and name the products that are missing on disk. Stop the
services before, and start them after."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

from django.db import DEFAULT_DB_ALIAS, connections

from contimg.commands import ContimgCommand, StepBar, stopping_like_ctrl_c, unreachable_database_named
from provenance.backups import Restored, restore

SHOWN = 10


class Command(ContimgCommand):
    needs_migrated_database = False  # it has to be empty
    help = __doc__ or ""

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("backup", type=Path, metavar="BACKUP", help="the folder that `backup` named")
        parser.add_argument("--json", action="store_true", dest="as_json", help="print the result as JSON")

    def handle(self, *, backup: Path, as_json: bool, **options: Any) -> None:
        with unreachable_database_named():
            connections[DEFAULT_DB_ALIAS].ensure_connection()
        with closing(StepBar()) as bar, stopping_like_ctrl_c():
            restored = restore(path=backup, told=bar)
        if as_json:
            facts = {"missing": restored.missing, "unapplied": restored.unapplied, **asdict(restored.manifest)}
            self.stdout.write(json.dumps(facts, indent=2))
        else:
            self._print(restored)

    def _print(self, restored: Restored) -> None:
        manifest = restored.manifest
        self.stdout.write(f"{sum(manifest.rows.values())} rows of {manifest.made_at} were restored and counted.")
        if restored.unapplied:
            self.stdout.write(f"It is of contimg {manifest.contimg}: run `manage.py migrate` now.")
        if not restored.missing:
            self.stdout.write(
                f"All {manifest.n_products} files of products are on disk; `manage.py verify` reads them."
            )
            return
        self.stdout.write(
            f"{len(restored.missing)} of {manifest.n_products} files of products are missing or have another size:"
        )
        self.stdout.writelines(f"  {path}\n" for path in restored.missing[:SHOWN])
        self.stdout.write(
            "Mount or copy them to where they were (CONTIMG_PRODUCTS_ROOT). `manage.py verify` names each with what "
            "rests on it, and `process` makes again what stays away while its raw files are there."
        )
