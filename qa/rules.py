"""Judging: rules and metrics in, findings and a grade out. Pure functions; the thresholds are rows of a policy."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from contimg.models import Grade
from qa.models import Finding, Rule

ORDER = (Grade.EXCELLENT, Grade.GOOD, Grade.MARGINAL, Grade.POOR)
OUTCOME_OF_CAP = {
    Grade.GOOD: Finding.Outcome.PASS,
    Grade.MARGINAL: Finding.Outcome.WARN,
    Grade.POOR: Finding.Outcome.FAIL,
}
COMPARED = {
    Rule.Comparison.ABOVE: operator.gt,
    Rule.Comparison.AT_LEAST: operator.ge,
    Rule.Comparison.BELOW: operator.lt,
    Rule.Comparison.AT_MOST: operator.le,
}


@dataclass(frozen=True)
class Verdict:
    grade: str
    findings: list[Finding]


def judge(
    *, rules: Iterable[Rule], metrics: Mapping[str, float | None], skipped: Mapping[str, str] | None = None
) -> Verdict:
    """Start from excellent; every rule that speaks caps the grade, the worst wins.

    A finding's grade is what its rule allows the subject: excellent where it did not speak, unknown where it could not.

    A metric that is missing or not finite makes the grade unknown, never a pass; but what failed is poor, whatever
    else was not measured. `skipped` names metrics that do not apply to this subject, with the reason; when nothing
    applies the grade is unknown.
    """
    skipped = skipped or {}
    findings = [_finding(rule, metrics.get(rule.metric), skipped.get(rule.metric)) for rule in rules]
    judged = [finding for finding in findings if finding.metric not in skipped]
    caps = [Grade(finding.grade) for finding in judged if finding.outcome != Finding.Outcome.SKIP]
    grade = max(caps, key=ORDER.index, default=Grade.EXCELLENT)
    is_incomplete = not judged or any(finding.outcome == Finding.Outcome.SKIP for finding in judged)
    return Verdict(Grade.UNKNOWN if is_incomplete and grade != Grade.POOR else grade, findings)


def known(value: float | None) -> float | None:
    """The value, or None for what is not a finite number."""
    return value if value is not None and math.isfinite(value) else None


def _finding(rule: Rule, value: float | None, skip_reason: str | None) -> Finding:
    finding = Finding(
        rule=rule.name,
        metric=rule.metric,
        value=known(value),
        comparison=rule.comparison,
        limit=rule.limit,
        grade=rule.grade,
        reason=rule.reason,
    )
    if skip_reason is not None or finding.value is None:
        finding.outcome = Finding.Outcome.SKIP
        finding.reason = skip_reason or f"{rule.metric} was not measured"
        finding.grade = Grade.UNKNOWN
    elif _speaks(rule, finding.value):
        finding.outcome = OUTCOME_OF_CAP[Grade(rule.grade)]
    else:
        finding.outcome, finding.grade = Finding.Outcome.PASS, Grade.EXCELLENT
        finding.reason = f"within the limit ({rule.reason})"
    return finding


def _speaks(rule: Rule, value: float) -> bool:
    return COMPARED[Rule.Comparison(rule.comparison)](value, rule.limit)
