from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from django.core.management.base import CommandParser
from django.core.serializers.json import DjangoJSONEncoder

from batch.night_facts import night_of
from batch.night_report import default_path, write_night_report
from contimg.commands import ContimgCommand


class Command(ContimgCommand):
    help = "Write one HTML page about a night, from 00:00 to 24:00 UTC. It reads the database and changes nothing."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("date", metavar="DATE", help="2026-03-20 (UTC), `yesterday` or `today`")
        parser.add_argument(
            "--out", type=Path, metavar="FILE", help="default: night-DATE.html in the folder reports of CONTIMG_VAR_DIR"
        )
        parser.add_argument("--json", action="store_true", dest="as_json", help="print the facts of the page as JSON")

    def handle(self, *, date: str, out: Path | None, as_json: bool, **options: Any) -> None:
        night = night_of(date)
        path = out or default_path(night)
        facts = write_night_report(night=night, path=path)
        if as_json:
            self.stdout.write(json.dumps({"path": str(path), **facts}, cls=DjangoJSONEncoder, indent=2))
            return
        self.stdout.write(str(path))
        self.stdout.write(facts["headline"])
