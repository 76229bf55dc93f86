"""Judging: rules and metrics in, findings and a grade out. Pure functions; the thresholds are rows of a policy."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from contimg.models import Grade
from qa.models import Finding, Rule

ORDER = (Grade.EXCELLENT, Grade.GOOD, Grade.MARGINAL, Grade.POOR)
OUTCOME_OF_CAP: dict[str, str] = {
    Grade.GOOD: Finding.Outcome.PASS,
    Grade.MARGINAL: Finding.Outcome.WARN,
    Grade.POOR: Finding.Outcome.FAIL,
}
COMPARED: dict[str, Callable[[float, float], bool]] = {
    Rule.Comparison.ABOVE: operator.gt,
    Rule.Comparison.AT_LEAST: operator.ge,
    Rule.Comparison.BELOW: operator.lt,
    Rule.Comparison.AT_MOST: operator.le,
}
UPWARDS = (Rule.Comparison.ABOVE, Rule.Comparison.AT_LEAST)


class Found(NamedTuple):
    """What a rule said, with the fields of a Finding; no row, so that 100 000 images are judged again in seconds."""

    rule: str
    metric: str
    value: float | None
    comparison: str
    limit: float
    gate: str
    outcome: str
    grade: str
    reason: str
    where: str


@dataclass(frozen=True)
class Verdict:
    grade: str
    findings: list[Found]


@dataclass(frozen=True)
class Measured:
    """What the rules judge of a subject: a figure of each metric, None where it was not measured.

    `skipped` names metrics that do not apply to this subject, with the reason. `where` says what a worst value is of
    ("antenna 103").
    """

    metrics: Mapping[str, float | None]
    skipped: Mapping[str, str] = field(default_factory=dict)
    where: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def stored(cls, metrics: Mapping[str, float | None], circumstances: Mapping[str, Any]) -> Measured:
        """As an assessment has kept it."""
        return cls(metrics, circumstances.get("skipped", {}), circumstances.get("where", {}))

    def circumstances(self) -> dict[str, Any]:
        """What besides the metrics is kept, so that any rules can judge it again."""
        return {"skipped": dict(self.skipped), "where": dict(self.where)}


def judge(*, rules: Sequence[Rule], measured: Measured) -> Verdict:
    """Start from excellent; every rule that speaks caps the grade, the worst wins.

    A rule that asks for more dynamic range than a healthy image has in this field does not apply.

    A finding's grade is what its rule allows the subject: excellent where it did not speak, unknown where it could not.

    A metric that is missing or not finite makes the grade unknown, never a pass; but what failed is poor, whatever
    else was not measured. When no rule applies the grade is unknown.
    """
    findings, applied = [], []
    healthy = _healthy_dynamic_range(rules, measured)
    for rule in rules:
        reason = measured.skipped.get(rule.metric) or _beyond_reach(rule, healthy)
        findings.append(_found(rule, measured, reason))
        if reason is None:
            applied.append(findings[-1])
    caps = [Grade(finding.grade) for finding in applied if finding.outcome != Finding.Outcome.SKIP]
    grade = max(caps, key=ORDER.index, default=Grade.EXCELLENT)
    is_incomplete = not applied or any(finding.outcome == Finding.Outcome.SKIP for finding in applied)
    return Verdict(Grade.UNKNOWN if is_incomplete and grade != Grade.POOR else grade, findings)


def _healthy_dynamic_range(rules: Iterable[Rule], measured: Measured) -> float | None:
    """That of the brightest source over the noise from where these rules warn: up to there an image is healthy.

    So a rule of the dynamic range only speaks where one of the noise does too: the same image is not graded lower for a
    source that is a little brighter. None where the flux or the thermal noise is not known, or no rule warns of noise.
    """
    at_thermal_noise = known(measured.metrics.get("dynamic_range_at_thermal_noise"))
    warning = (
        rule.limit
        for rule in rules
        if (rule.metric, rule.grade) == ("rms_over_thermal", Grade.MARGINAL) and rule.comparison in UPWARDS
    )
    healthy_noise = min(warning, default=None)
    return at_thermal_noise / healthy_noise if at_thermal_noise is not None and healthy_noise else None


def _beyond_reach(rule: Rule, healthy: float | None) -> str | None:
    if healthy is None or rule.metric != "dynamic_range" or rule.comparison in UPWARDS or rule.limit < healthy:
        return None
    return f"the brightest source here gives a healthy image a dynamic range of {healthy:.0f}"


def known(value: float | None) -> float | None:
    """The value, or None for what is not a finite number."""
    return value if value is not None and math.isfinite(value) else None


def _found(rule: Rule, measured: Measured, skip_reason: str | None) -> Found:
    value = known(measured.metrics.get(rule.metric))
    outcome: str
    if skip_reason is not None or value is None:
        outcome, grade = Finding.Outcome.SKIP, Grade.UNKNOWN
        reason = skip_reason or f"{rule.metric} was not measured"
    elif COMPARED[rule.comparison](value, rule.limit):
        outcome, grade, reason = OUTCOME_OF_CAP[rule.grade], Grade(rule.grade), rule.reason
    else:
        outcome, grade, reason = Finding.Outcome.PASS, Grade.EXCELLENT, f"within the limit ({rule.reason})"
    where = measured.where.get(rule.metric, "")
    return Found(
        rule.name, rule.metric, value, rule.comparison, rule.limit, rule.gate, outcome, grade, reason, where
    )  # fmt: skip
