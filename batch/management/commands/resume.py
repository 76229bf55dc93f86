from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from batch.services import resume
from contimg.commands import ContimgCommand, not_empty


class Command(ContimgCommand):
    help = "End the pause of a stage, or of everything."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("stage", nargs="?", type=not_empty, help="everything that is paused when not given")

    def handle(self, *, stage: str | None, **options: Any) -> None:
        n = resume(names=None if stage is None else [stage])
        self.stdout.write(f"Resumed {n}." if n else "Nothing was paused.")
