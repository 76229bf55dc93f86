"""Read the products and compare them with what was recorded; name what is missing, changed or unreadable, and what
rests on it. Nothing is changed."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from django.core.management.base import CommandError
from django.utils import timezone
from tqdm import tqdm

from contimg.commands import ContimgCommand, positive, utc_time
from provenance.verifying import Fault, Kind, Scope, Verified, verify


class Command(ContimgCommand):
    help = __doc__ or ""

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--kind", action="append", dest="kinds", choices=Kind.values, help="only these; may be given repeatedly"
        )
        parser.add_argument("--since", type=utc_time, metavar="DATE", help="only what was recorded since (UTC)")
        parser.add_argument("--limit", type=positive, metavar="N", help="at most so many, the newest first")
        parser.add_argument(
            "--weeks", type=positive, default=1, metavar="N",
            help="an Nth of them, another one each week: run weekly, it reads all of them in N weeks",
        )  # fmt: skip
        parser.add_argument("--json", action="store_true", dest="as_json", help="print the result as JSON")

    def handle(self, *, as_json: bool, **options: Any) -> None:
        scope = Scope(
            kinds=tuple(Kind(kind) for kind in dict.fromkeys(options["kinds"] or Kind.values)),
            since=options["since"],
            limit=options["limit"],
            turn=timezone.now().date().toordinal() // 7,
            turns=options["weeks"],
        )
        n, n_bytes, faults = 0, 0, list[Fault]()
        for verified in self._with_bar(verify(scope=scope), scope):
            n, n_bytes = n + 1, n_bytes + verified.size_bytes
            faults += verified.faults
            if not as_json:
                self._print(verified.faults)
        if as_json:
            facts = {"n_products": n, "size_bytes": n_bytes, "faults": [_as_dict(fault) for fault in faults]}
            self.stdout.write(json.dumps(facts, indent=2))
        else:
            self.stdout.write(f"{n} products of {n_bytes / 1e9:.1f} GB were read.")
        if faults:
            raise CommandError(
                f"{len(faults)} files are not what was recorded. `process` makes again what is missing or of another"
                " size; delete what else has changed, then it does that too."
            )

    def _print(self, faults: Iterable[Fault]) -> None:
        """As they are found: a run that is stopped has told what it saw."""
        with tqdm.external_write_mode():
            for fault in faults:
                self.stdout.write(_line(fault))

    def _with_bar(self, verified: Iterable[Verified], scope: Scope) -> Iterable[Verified]:
        return tqdm(verified, total=scope.count(), desc="Verifying", unit="product", disable=None)


def _line(fault: Fault) -> str:
    kind = fault.kind.replace("_", " ")
    return f"{fault.damage} {kind} {fault.id} ({fault.name}): {fault.path} {fault.detail}; {fault.consequences}."


def _as_dict(fault: Fault) -> dict[str, Any]:
    return {**asdict(fault), "consequence": str(fault.consequences)}
