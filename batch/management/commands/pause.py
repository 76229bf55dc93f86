from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from access.audit import machine_user
from batch.services import pause
from contimg.commands import ContimgCommand, not_empty


class Command(ContimgCommand):
    help = "Begin no more items of a stage, or of any; what runs goes on. `resume` ends it."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("stage", nargs="?", type=not_empty, help="all stages when not given")
        parser.add_argument("--reason", default="", help="what the others should know")

    def handle(self, *, stage: str | None, reason: str, **options: Any) -> None:
        row = pause(stage=stage or "", reason=reason, by=machine_user())
        self.stdout.write(f"Paused: {row}.")
