from __future__ import annotations

import json
from argparse import ArgumentParser
from typing import Any

from asgiref.sync import async_to_sync

from contimg.commands import ContimgCommand
from contimg.diagnoses import DEGRADED, READY
from contimg.health import answer_of, name_of, results, state_of

STYLES = {"ok": "SUCCESS", "warning": "WARNING", "unavailable": "ERROR"}


class Command(ContimgCommand):
    help = (
        "Looks at everything the service depends on, and says of each finding what to do. It only reads. Ends with 0"
        " when nothing was found, with 1 otherwise."
    )
    needs_migrated_database = False  # it says so itself

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--json", action="store_true", dest="as_json", help="print it as JSON")

    def handle(self, *, as_json: bool, **options: Any) -> None:
        found = async_to_sync(results)([check() for check in (*READY, *DEGRADED)])
        if as_json:
            self.stdout.write(json.dumps(answer_of(found), indent=2))
        else:
            for result in found:
                state = state_of(result)
                said = result.error.message if result.error else f"{1000 * result.time_taken:.0f} ms"
                self.stdout.write(f"{self._styled(state):12} {name_of(result):13} {said}")
        if any(result.error for result in found):
            raise SystemExit(1)

    def _styled(self, state: str) -> str:
        return getattr(self.style, STYLES[state])(f"{state:12}")
