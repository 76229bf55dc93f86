"""Judging: rules and metrics in, findings and a grade out. Pure functions; the thresholds are rows of a policy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from contimg.models import Grade
from qa.models import Finding, Rule

ORDER = (Grade.EXCELLENT, Grade.GOOD, Grade.MARGINAL, Grade.POOR)
OUTCOME_OF_CAP = {Grade.GOOD: "pass", Grade.MARGINAL: "warn", Grade.POOR: "fail"}


@dataclass(frozen=True)
class Verdict:
    grade: str
    findings: list[Finding]


def judge(
    *, rules: Iterable[Rule], metrics: Mapping[str, float | None], skipped: Mapping[str, str] | None = None
) -> Verdict:
    """Start from excellent; every rule that speaks caps the grade, the worst wins.

    A metric that is missing or NaN makes the grade unknown, never a pass. `skipped` names metrics that do not apply to
    this subject, with the reason; when nothing applies the grade is unknown.
    """
    skipped = skipped or {}
    findings = [_finding(rule, metrics.get(rule.metric), skipped.get(rule.metric)) for rule in rules]
    judged = [finding for finding in findings if finding.metric not in skipped]
    if not judged or any(finding.outcome == Finding.Outcome.SKIP for finding in judged):
        return Verdict(Grade.UNKNOWN, findings)
    grade = Grade.EXCELLENT
    for finding in judged:
        if _speaks(finding, finding.value):
            grade = worse(grade, Grade(finding.grade))
    return Verdict(grade, findings)


def worse(one: Grade, other: Grade) -> Grade:
    return max(one, other, key=ORDER.index)


def _finding(rule: Rule, value: float | None, skip_reason: str | None) -> Finding:
    known = value is not None and value == value  # NaN is not known
    finding = Finding(
        rule=rule.name,
        metric=rule.metric,
        value=value if known else None,
        comparison=rule.comparison,
        limit=rule.limit,
        grade=rule.grade,
        reason=rule.reason,
    )
    if skip_reason is not None or not known:
        finding.outcome = Finding.Outcome.SKIP
        finding.reason = skip_reason or f"{rule.metric} was not measured"
    else:
        finding.outcome = OUTCOME_OF_CAP[Grade(rule.grade)] if _speaks(rule, value) else Finding.Outcome.PASS
    return finding


def _speaks(rule: Rule | Finding, value: float) -> bool:
    return value > rule.limit if rule.comparison == Rule.Comparison.ABOVE else value < rule.limit
