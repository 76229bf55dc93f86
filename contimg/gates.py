"""Gates: what several rules together say, as pass, fail or skipped with why."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol


class GateFinding(Protocol):
    """What one rule of a gate found."""

    rule: str
    gate: str
    outcome: str
    reason: str


@dataclass(frozen=True)
class Gate:
    name: str
    outcome: str  # pass, fail or skipped
    why: str


def gates_of(findings: Iterable[GateFinding]) -> list[Gate]:
    """One for each gate that the findings name, in their order.

    It fails when a rule of it failed, is skipped when none could speak, and passes else; `why` are the reasons of the
    rules that failed, that could not speak, or that warned.
    """
    by_gate: dict[str, list[GateFinding]] = {}
    for finding in findings:
        if finding.gate:
            by_gate.setdefault(finding.gate, []).append(finding)
    return [_gate(name, of_gate) for name, of_gate in by_gate.items()]


def _gate(name: str, findings: list[GateFinding]) -> Gate:
    spoken = {finding.outcome for finding in findings}
    outcome = "fail" if "fail" in spoken else "skipped" if spoken == {"skip"} else "pass"
    told = {"fail": "fail", "skipped": "skip", "pass": "warn"}[outcome]
    reasons = dict.fromkeys(finding.reason for finding in findings if finding.outcome == told)
    return Gate(name, outcome, "; ".join(reasons))
