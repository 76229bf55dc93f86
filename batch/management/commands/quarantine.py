from __future__ import annotations

import json
from typing import Any

from django.core.management.base import CommandParser
from django.core.serializers.json import DjangoJSONEncoder

from batch.blame import lift_and_recompute, plan, quarantine_and_recompute, reprocess
from batch.models import Batch
from contimg.commands import ContimgCommand
from contimg.exceptions import InvalidInput
from provenance.models import NODE_COLUMNS, Quarantine
from provenance.serializers import QuarantineSerializer


class UnknownQuarantine(InvalidInput):
    code = "unknown_quarantine"
    status = 404


class Command(ContimgCommand):
    help = "Take what is bad, and everything made from it, out of light curves and statistics; lift that; rebuild."

    def add_arguments(self, parser: CommandParser) -> None:
        verbs = parser.add_subparsers(dest="verb", required=True)
        add = verbs.add_parser("add", help="From now on a product and all that was made from it is suspect.")
        add.add_argument("kind", choices=NODE_COLUMNS)
        add.add_argument("id", type=int)
        add.add_argument("--reason", required=True)
        listing = verbs.add_parser("list", help="Those in force, the newest first.")
        listing.add_argument("--all", action="store_true", dest="lifted_too", help="the lifted ones too")
        for verb, what in (
            ("lift", "What is under no other quarantine is trusted again."),
            ("plan", "The least that rebuilds what is suspect, and what cannot be rebuilt and why. Changes nothing."),
            ("reprocess", "Run the plan."),
        ):
            verbs.add_parser(verb, help=what).add_argument("id", type=int)
        for parser_of_verb in verbs.choices.values():
            parser_of_verb.add_argument("--json", action="store_true", dest="as_json", help="print it as JSON")

    def handle(self, *, verb: str, as_json: bool, **options: Any) -> None:
        said, facts = getattr(self, f"_{verb}")(**options)
        self.stdout.write(json.dumps(facts, cls=DjangoJSONEncoder) if as_json else said)

    def _add(self, *, kind: str, id: int, reason: str, **options: Any) -> tuple[str, Any]:
        row, batches = quarantine_and_recompute(kind=kind, pk=id, reason=reason)
        plan_it = f"`quarantine plan {row.pk}` shows what can be rebuilt."
        return f"Quarantine {row.pk} of {row.node}. {_recomputed(batches)} {plan_it}", _facts(row, batches)

    def _lift(self, *, id: int, **options: Any) -> tuple[str, Any]:
        row, batches = lift_and_recompute(row=_row(id))
        is_suspect = type(row.node)._default_manager.filter(pk=row.node.pk, is_suspect=True).exists()
        now = (
            "stays suspect: it, or what it was made from, is under another quarantine"
            if is_suspect
            else "is trusted again"
        )
        return f"Lifted: {row.node} {now}. {_recomputed(batches)}", _facts(row, batches)

    def _list(self, *, lifted_too: bool, **options: Any) -> tuple[str, Any]:
        rows = Quarantine.objects.with_links().order_by("-created_at", "-id")
        if not lifted_too:
            rows = rows.in_force()
        lines = [f"{row.pk:>6}  {row.created_at:%Y-%m-%d %H:%M}  {row}: {row.reason}" for row in rows]
        return "\n".join(lines) or "Nothing is quarantined.", QuarantineSerializer(rows, many=True).data

    def _plan(self, *, id: int, **options: Any) -> tuple[str, Any]:
        planned = plan(row=_row(id))
        lines = [
            *_listed("tiles to process again", [tile.name for tile in planned.tiles]),
            *_listed("mosaics to make again", [epoch.name for epoch in planned.epochs]),
            *_listed("tiles stay suspect", [f"{one.tile.name}: {one.reason}" for one in planned.not_rebuilt]),
        ]
        return "\n".join(lines), {
            "tiles": [tile.name for tile in planned.tiles],
            "epochs": [epoch.name for epoch in planned.epochs],
            "not_rebuilt": [{"tile": one.tile.name, "reason": one.reason} for one in planned.not_rebuilt],
        }

    def _reprocess(self, *, id: int, **options: Any) -> tuple[str, Any]:
        batches = reprocess(row=_row(id))
        keys = [batch.pk for batch in batches]
        return f"Batches {' and '.join(map(str, keys))}; a worker runs them, `batch watch` shows how far.", {
            "batches": keys
        }


def _listed(what: str, names: list[str]) -> list[str]:
    return [f"{len(names)} {what}{':' if names else '.'}", *(f"  {name}" for name in names)]


def _row(pk: int) -> Quarantine:
    row = Quarantine.objects.with_links().filter(pk=pk).first()
    if row is None:
        raise UnknownQuarantine(f"There is no quarantine {pk}; `quarantine list --all` has them all.")
    return row


def _recomputed(batches: list[Batch]) -> str:
    if not batches:
        return "No source was measured in what changed."
    keys = " and ".join(str(batch.pk) for batch in batches)
    return f"Statistics are withdrawn; batch {keys} computes them again, which a worker runs."


def _facts(row: Quarantine, batches: list[Batch]) -> dict[str, Any]:
    return {**QuarantineSerializer(row).data, "batches": [batch.pk for batch in batches]}
