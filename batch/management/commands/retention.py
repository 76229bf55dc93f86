"""Show what is old enough to be deleted by the policies CONTIMG_KEEP_..._DAYS, and of all else that they look at why it
stays; delete it with --delete."""

from __future__ import annotations

import json
import re
from argparse import ArgumentParser
from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import asdict
from typing import Any

from django.utils import timezone

from batch.retention import Candidate, Policy, delete, look
from batch.state import DAY, bytes_made
from contimg.commands import ContimgCommand, StepBar, stopping_like_ctrl_c

SHOWN = 20


class Command(ContimgCommand):
    help = __doc__ or ""

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--delete", action="store_true", dest="is_meant", help="delete what may go")
        parser.add_argument(
            "--policy", action="append", dest="policies", choices=Policy.values, help="only these; may be repeated"
        )
        parser.add_argument("--json", action="store_true", dest="as_json", help="print everything as JSON")

    def handle(self, *, is_meant: bool, policies: list[str] | None, as_json: bool, **options: Any) -> None:
        chosen = [policy for policy in Policy if policy in (policies or Policy.values)]
        now = timezone.now()
        with closing(StepBar()) as bar, stopping_like_ctrl_c():
            found = look(policies=chosen, now=now, told=bar)
            gone = delete(candidates=found, now=now, told=bar) if is_meant else []
        if as_json:
            self._print_json(found, gone)
            return
        for policy in chosen:
            self._print(policy, [one for one in found if one.policy == policy])
        self.stdout.write(_summary(gone if is_meant else [one for one in found if not one.why_kept], is_meant))

    def _print_json(self, found: Iterable[Candidate], gone: Sequence[Candidate]) -> None:
        deleted = {(one.policy, one.kind, one.id) for one in gone}
        told = [{**asdict(one), "is_deleted": (one.policy, one.kind, one.id) in deleted} for one in found]
        self.stdout.write(json.dumps({"candidates": told, "deleted_bytes": _bytes(gone)}, indent=2))

    def _print(self, policy: Policy, found: Sequence[Candidate]) -> None:
        if not policy.days:
            self.stdout.write(f"{policy.label}: kept for ever, {policy.setting} is 0")
            return
        going = [one for one in found if not one.why_kept]
        self.stdout.write(f"{policy.label}: {len(going)} older than {policy.days:g} days, {_bytes(going) / 1e9:.3f} GB")
        self.stdout.writelines(f"  {one.kind} {one.id} {one.name}: {', '.join(one.files)}\n" for one in going[:SHOWN])
        if len(going) > SHOWN:
            self.stdout.write(f"  and {len(going) - SHOWN} more; --json names all")
        for why, kept in _by_reason(found).items():
            self.stdout.write(
                f"  {len(kept)} stay, {_bytes(kept) / 1e9:.3f} GB: {why} ({kept[0].kind} {kept[0].id}, ...)"
            )


def _by_reason(found: Iterable[Candidate]) -> dict[str, list[Candidate]]:
    """Whether 59 or 60 fluxes were measured in it is the same reason."""
    reasons = defaultdict(list)
    for one in found:
        if one.why_kept:
            reasons[re.sub(r"\b\d+ (?!days)", "", one.why_kept)].append(one)
    return reasons


def _bytes(candidates: Iterable[Candidate]) -> int:
    return sum(one.size_bytes for one in candidates)


def _summary(going: Sequence[Candidate], is_meant: bool) -> str:
    n_bytes, made = _bytes(going), bytes_made(since=timezone.now() - DAY)
    hours = f", {24 * n_bytes / made:.1f} h at the pace of the last day" if made else ""
    what = f"{n_bytes / 1e9:.3f} GB{hours}"
    if is_meant:
        return f"{len(going)} were deleted, {what}. Each is in the audit log."
    return f"{len(going)} may go, {what}. Nothing was deleted; --delete does it. What is current always stays."
