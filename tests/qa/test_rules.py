"""Policy version 1 as `migrate` installs it, on both sides of each of its limits."""

from __future__ import annotations

import math

import pytest
from django.db import IntegrityError

from qa.models import Policy, Rule
from qa.rules import Measured, judge
from tests.factories import RuleFactory

pytestmark = pytest.mark.django_db

EXCELLENT = {
    "image": {
        "dynamic_range": 2000.0,
        "rms_over_thermal": 1.3,
        "finite_fraction": 1.0,
        "rms_jy_per_beam": 0.001,
        "peak_jy_per_beam": 2.0,
    },
    "calibration_table": {
        "flagged_fraction": 0.02,
        "median_snr": 50.0,
        "median_amplitude": 1.0,
        "phase_scatter_deg": 3.0,
        "worst_window_flagged_fraction": 0.1,
        "worst_window_bad_channel_fraction": 0.0,
    },
}

# Rule, the value on its good side and the grade, the value on its bad side and the grade; all else is excellent.
# Where the limit itself belongs to one side it is that side's value.
EDGES = {
    "image": [
        ("dynamic_range_excellent", 1000.01, "excellent", 1000.0, "good"),
        ("dynamic_range_good", 100.01, "good", 100.0, "marginal"),
        ("dynamic_range_marginal", 30.01, "marginal", 30.0, "poor"),
        ("noise_high", 1.8, "excellent", 1.8001, "marginal"),
        ("noise_excessive", 3.0, "marginal", 3.0001, "poor"),
        ("mostly_blank", 0.5, "excellent", 0.4999, "poor"),
        ("noise_measured", 0.0, "excellent", -1e-9, "poor"),
        ("peak_measured", 0.0, "excellent", -1e-9, "poor"),
    ],
    "calibration_table": [
        ("flagged_some", 0.0999, "excellent", 0.10, "good"),
        ("flagged_many", 0.2999, "good", 0.30, "marginal"),
        ("flagged_most", 0.4999, "marginal", 0.50, "poor"),
        ("snr_low", 5.0, "excellent", 4.999, "marginal"),
        ("snr_too_low", 3.0, "marginal", 2.999, "poor"),
        ("amplitude_low", 0.1, "excellent", 0.0999, "marginal"),
        ("amplitude_high", 10.0, "excellent", 10.001, "marginal"),
        ("phase_scatter_high", 30.0, "excellent", 30.01, "marginal"),
        ("phase_scatter_random", 90.0, "marginal", 90.01, "poor"),
        ("window_flagged", 0.8, "excellent", 0.8001, "marginal"),
        ("window_channels_flagged", 0.5, "excellent", 0.5001, "marginal"),
    ],
}
ROWS = [(kind, *edge) for kind, edges in EDGES.items() for edge in edges]
METRICS = [(kind, name) for kind, metrics in EXCELLENT.items() for name in metrics]


def rules(kind: str) -> list[Rule]:
    return list(Policy.objects.get(name="standard", version=1).rules.filter(subject_kind=kind))


def verdict(kind: str, *, skipped: dict[str, str] | None = None, **changed: float | None):
    return judge(rules=rules(kind), measured=Measured({**EXCELLENT[kind], **changed}, skipped or {}))


def finding(verdict, rule: str):
    return next(finding for finding in verdict.findings if finding.rule == rule)


@pytest.mark.parametrize("kind", EDGES)
def test_every_rule_of_the_policy_has_its_edge_here(kind):
    assert [rule.name for rule in rules(kind)] == [edge[0] for edge in EDGES[kind]]
    assert {rule.metric for rule in rules(kind)} == set(EXCELLENT[kind])


@pytest.mark.parametrize(("kind", "name", "inside", "grade_inside", "outside", "grade_outside"), ROWS)
def test_a_value_on_either_side_of_a_limit_has_the_grade_of_that_side(
    kind, name, inside, grade_inside, outside, grade_outside
):
    rule = next(rule for rule in rules(kind) if rule.name == name)
    assert inside == pytest.approx(outside, rel=2e-3, abs=1e-6)
    assert min(inside, outside) <= rule.limit <= max(inside, outside)
    assert verdict(kind, **{rule.metric: inside}).grade == grade_inside

    spoken = verdict(kind, **{rule.metric: outside})
    assert spoken.grade == grade_outside == rule.grade
    outcome = {"good": "pass", "marginal": "warn", "poor": "fail"}[grade_outside]
    found = finding(spoken, name)
    assert (found.outcome, found.value, found.limit) == (outcome, outside, rule.limit)


@pytest.mark.parametrize("kind", EDGES)
def test_every_rule_speaks_or_passes_in_the_findings(kind):
    found = verdict(kind)
    assert {found.grade, *(f.grade for f in found.findings)} == {"excellent"}
    assert [(f.rule, f.outcome, f.comparison, f.limit, f.reason) for f in found.findings] == [
        (rule.name, "pass", rule.comparison, rule.limit, f"within the limit ({rule.reason})") for rule in rules(kind)
    ]


@pytest.mark.parametrize("value", [None, math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(("kind", "metric"), METRICS)
def test_what_was_not_measured_is_unknown_and_never_a_pass(kind, metric, value):
    found = verdict(kind, **{metric: value})
    assert found.grade == "unknown"
    silent = [f for f in found.findings if f.metric == metric]
    assert {(f.outcome, f.value, f.reason) for f in silent} == {("skip", None, f"{metric} was not measured")}
    assert {f.outcome for f in found.findings if f.metric != metric} == {"pass"}


@pytest.mark.parametrize(("kind", "metric"), METRICS)
def test_a_metric_that_nobody_gave_is_as_one_that_was_not_measured(kind, metric):
    given = {name: value for name, value in EXCELLENT[kind].items() if name != metric}
    assert judge(rules=rules(kind), measured=Measured(given)).grade == "unknown"


def test_what_failed_is_poor_whatever_else_was_not_measured():
    assert verdict("calibration_table", flagged_fraction=1.0, median_amplitude=None).grade == "poor"
    assert verdict("calibration_table", flagged_fraction=0.4, median_amplitude=None).grade == "unknown"


@pytest.mark.parametrize("value", [None, 5.0])
def test_a_metric_that_does_not_apply_is_left_out_with_its_reason(value):
    found = verdict("image", dynamic_range=value, skipped={"dynamic_range": "a dim field"})
    assert found.grade == "excellent"
    left_out = [f for f in found.findings if f.metric == "dynamic_range"]
    assert len(left_out) == 3
    assert {(f.outcome, f.value, f.reason) for f in left_out} == {("skip", value, "a dim field")}


@pytest.mark.parametrize(
    ("reach", "dynamic_range", "grade", "n_left_out"),
    [
        (1000.01, 1000.0, "good", 0),
        (1000.0, 1000.0, "excellent", 1),
        (100.01, 100.0, "marginal", 1),
        (100.0, 100.0, "excellent", 2),
        (30.01, 30.0, "poor", 2),
        (30.0, 30.0, "excellent", 3),
        (50.0, 20.0, "poor", 2),
    ],
)
def test_a_rule_that_asks_for_more_than_a_healthy_image_could_have_is_left_out(reach, dynamic_range, grade, n_left_out):
    warns_at = next(rule.limit for rule in rules("image") if rule.name == "noise_high")
    found = verdict("image", dynamic_range=dynamic_range, dynamic_range_at_thermal_noise=reach * warns_at)
    assert found.grade == grade
    reason = f"the brightest source here gives a healthy image a dynamic range of {reach:.0f}"
    assert [f.reason for f in found.findings if f.outcome == "skip"] == [reason] * n_left_out


def test_how_much_a_healthy_image_could_have_follows_from_the_rules_that_judge():
    """And not from those that judged when it was measured: a draft is tried as it will judge."""
    measured = Measured({**EXCELLENT["image"], "dynamic_range": 90.0, "dynamic_range_at_thermal_noise": 150.0})
    strict, lenient = rules("image"), rules("image")
    for rule in strict:
        if rule.name == "noise_high":
            rule.limit = 1.2
    assert judge(rules=lenient, measured=measured).grade == "excellent"  # 83 at its 1.8 times the noise
    assert judge(rules=strict, measured=measured).grade == "marginal"  # 125
    silent = [rule for rule in strict if rule.metric != "rms_over_thermal"]
    assert judge(rules=silent, measured=measured).grade == "marginal"


@pytest.mark.parametrize(
    ("changed", "grade"),
    [
        ({"dynamic_range": 500.0, "rms_over_thermal": 2.0}, "marginal"),
        ({"dynamic_range": 50.0, "rms_over_thermal": 2.0}, "marginal"),
        ({"dynamic_range": 50.0, "finite_fraction": 0.1}, "poor"),
        ({"dynamic_range": 20.0, "rms_over_thermal": 2.0}, "poor"),
    ],
)
def test_the_worst_wins(changed, grade):
    assert verdict("image", **changed).grade == grade


def test_where_nothing_was_judged_the_grade_is_unknown():
    assert judge(rules=[], measured=Measured(EXCELLENT["image"])).grade == "unknown"
    assert verdict("image", skipped=dict.fromkeys(EXCELLENT["image"], "of another telescope")).grade == "unknown"


@pytest.mark.parametrize("grade", ["excellent", "unknown"])
def test_a_rule_that_caps_nothing_is_refused_by_the_database(grade):
    with pytest.raises(IntegrityError):
        RuleFactory(grade=grade)
