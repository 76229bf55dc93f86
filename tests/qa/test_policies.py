"""Drafts, what is refused of them, trying them on history, and activation."""

from __future__ import annotations

import dataclasses
import json
import math
from datetime import UTC, datetime, timedelta
from importlib import import_module
from io import StringIO

import pytest
from django.apps import apps
from django.core.management import call_command

from access.models import AuditEntry
from batch.policies import activate_policy
from contimg.intervals import ReversedInterval
from qa import policies
from qa.metrics import METRICS
from qa.models import Assessment, Finding, Policy, Rule
from qa.policies import (
    ContradictoryRules,
    InvalidPolicy,
    PolicyConflict,
    PolicyImmutable,
    RuleSpec,
    UnknownMetric,
    activate,
    change_draft,
    create_draft,
    delete_draft,
    evaluate,
    refuse_wrong,
    rules_of,
)
from qa.rules import OUTCOME_OF_CAP, Measured, judge
from qa.services import assess_image
from tests.factories import AssessmentFactory, CalibrationTableFactory, EpochFactory, ImageFactory, MosaicFactory

pytestmark = pytest.mark.django_db

NOISE = RuleSpec(
    subject_kind="image", name="noise", metric="rms_over_thermal", comparison="gt", limit=1.2, grade="marginal",
    reason="a fifth above the thermal noise",
)  # fmt: skip


def rule(**changed) -> RuleSpec:
    return dataclasses.replace(NOISE, **changed)


# A policy has rules of every kind of subject, or it is not activated.
OF_OTHERS = [
    rule(subject_kind="calibration_table", metric="flagged_fraction", limit=0.4, grade="poor"),
    rule(subject_kind="epoch", metric="flux_ratio", gate="flux_scale"),
]


def active() -> Policy:
    return Policy.objects.get(is_active=True)


def image(**changed):
    return ImageFactory(**{"peak_jy_per_beam": 1.25, "grade": "unknown", **changed})


# --- limits ---------------------------------------------------------------------------------------------------------
def test_on_both_sides_of_every_limit_of_the_active_policy_the_rule_speaks_or_is_silent():
    rules = list(active().rules.all())
    assert rules
    for one in rules:
        for value, side in (
            (math.nextafter(one.limit, -math.inf), -1),
            (one.limit, 0),
            (math.nextafter(one.limit, math.inf), 1),
        ):
            speaks = {"gt": side > 0, "ge": side >= 0, "lt": side < 0, "le": side <= 0}[one.comparison]
            found = judge(rules=[one], measured=Measured({one.metric: value}))
            assert found.grade == (one.grade if speaks else "excellent"), (one, value)
            assert [(f.rule, f.outcome) for f in found.findings] == [
                (one.name, OUTCOME_OF_CAP[one.grade] if speaks else "pass")
            ]


def test_the_rules_of_the_active_policy_are_in_order_and_about_what_is_measured():
    refuse_wrong(rules_of(active()))
    measured = assess_image(image=image()).metrics
    assert set(measured) <= METRICS["image"]


# --- drafts ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("rules", "error"),
    [
        ([], InvalidPolicy),
        ([rule(limit=math.nan)], InvalidPolicy),
        ([rule(limit=math.inf)], InvalidPolicy),
        ([rule(comparison="around")], InvalidPolicy),
        ([rule(grade="excellent")], InvalidPolicy),
        ([rule(subject_kind="telescope")], InvalidPolicy),
        ([rule(gate="noise")], InvalidPolicy),
        ([rule(name=" ")], InvalidPolicy),
        ([rule(reason="x" * 301)], InvalidPolicy),
        ([NOISE, NOISE], InvalidPolicy),
        ([rule(metric="beauty")], UnknownMetric),
        ([rule(metric="median_snr")], UnknownMetric),
        ([NOISE, rule(name="worse", limit=1.1, grade="poor")], ContradictoryRules),
        ([NOISE, rule(name="same", limit=1.2, grade="poor")], ContradictoryRules),
        ([NOISE, rule(name="again", limit=1.3)], ContradictoryRules),
        ([NOISE, rule(name="quiet", comparison="lt", limit=1.2)], ContradictoryRules),
    ],
)
def test_what_makes_no_sense_is_refused_and_nothing_is_written(rules, error):
    before = (Policy.objects.count(), Rule.objects.count(), AuditEntry.objects.count())
    with pytest.raises(error) as refused:
        create_draft(name="mine", rules=rules)
    assert str(refused.value).endswith(".")
    assert (Policy.objects.count(), Rule.objects.count(), AuditEntry.objects.count()) == before


def test_another_threshold_is_a_new_version_by_data_alone():
    subject = image()
    assert assess_image(image=subject).grade == "excellent"
    high = next(one for one in rules_of(active()) if one.name == "noise_high")
    draft = create_draft(
        name=active().name, based_on=active(), rules=[dataclasses.replace(high, limit=1.2)], note="stricter"
    )
    assert draft.version == Policy.objects.filter(name=draft.name).exclude(pk=draft.pk).latest("version").version + 1
    assert draft.rules.count() == active().rules.count()
    activate(policy=draft)
    found = assess_image(image=subject)
    assert (found.grade, found.policy) == ("marginal", draft)
    assert [one.rule for one in found.findings.filter(outcome="warn")] == ["noise_high"]
    assert list(AuditEntry.objects.order_by("id").values_list("action", flat=True)) == [
        "policy.draft",
        "policy.activate",
    ]


def test_a_draft_changes_and_goes_and_what_was_activated_does_neither():
    draft = create_draft(name="mine", rules=[NOISE])
    change_draft(policy=draft, rules=[rule(limit=1.4), *OF_OTHERS], note="laxer")
    draft.refresh_from_db()
    assert (draft.note, draft.rules.get(subject_kind="image").limit) == ("laxer", 1.4)
    activate(policy=draft)
    activate(policy=Policy.objects.filter(name="standard").latest("version"))
    for act in (lambda: change_draft(policy=draft, note="x"), lambda: delete_draft(policy=draft)):
        with pytest.raises(PolicyImmutable):
            act()
    other = create_draft(name="mine", rules=[NOISE])
    delete_draft(policy=other)
    assert not Policy.objects.filter(pk=other.pk).exists()
    with pytest.raises(PolicyConflict):
        activate(policy=other)


# --- evaluating -----------------------------------------------------------------------------------------------------
def contents() -> list[str]:
    return [
        json.dumps(list(model.objects.order_by("pk").values()), default=str)
        for model in (Assessment, Finding, Policy, Rule, AuditEntry)
    ]


def test_evaluating_says_what_would_change_and_changes_nothing(monkeypatch):
    start = datetime(2026, 1, 1, tzinfo=UTC)
    quiet, loud, late = (
        image(rms_jy_per_beam=rms, observed_at=start + timedelta(hours=hours))
        for rms, hours in ((0.00044, 0), (0.0005, 1), (0.0005, 2))
    )
    for one in (quiet, loud, late):
        assess_image(image=one)
    AssessmentFactory(image=image(observed_at=start), policy=active(), grade="good", circumstances={})
    draft = create_draft(
        name="mine", rules=[NOISE, rule(name="sky", metric="finite_fraction", comparison="lt", limit=0.9, grade="poor")]
    )
    before = contents()
    monkeypatch.setattr(policies, "CHUNK_ROWS", 1)
    found = evaluate(policy=draft, observed_from=start, observed_until=start + timedelta(hours=2))
    assert contents() == before
    assert (found.n_judged, found.n_not_judged, found.n_changed, found.n_incomplete) == (2, 1, 1, 0)
    assert found.confusion["excellent"]["excellent"] == found.confusion["excellent"]["marginal"] == 1
    assert [(one.id, one.old, one.new, one.rules) for one in found.changes] == [
        (loud.pk, "excellent", "marginal", ["noise"])
    ]
    assert found.by_rule["noise"] == {"pass": 1, "warn": 1, "fail": 0, "skip": 0}
    assert evaluate(policy=draft).n_judged == 3


def test_a_metric_that_was_never_measured_makes_unknown_and_is_counted():
    found = assess_image(image=image())
    del found.metrics["finite_fraction"]
    found.save()
    tried = evaluate(policy=create_draft(name="mine", rules=[rule(metric="finite_fraction")]))
    assert (tried.n_incomplete, tried.never_measured) == (1, {"finite_fraction": 1})
    assert tried.confusion["excellent"]["unknown"] == 1


def test_the_list_of_changes_is_bounded_and_the_count_is_not(monkeypatch):
    for _ in range(3):
        assess_image(image=image())
    monkeypatch.setattr(policies, "MOST_LISTED", 2)
    found = evaluate(policy=create_draft(name="mine", rules=[NOISE]))
    assert (found.n_changed, len(found.changes)) == (3, 2)


def test_history_that_ends_before_it_begins_is_refused():
    draft, end = create_draft(name="mine", rules=[NOISE]), datetime(2026, 1, 1, tzinfo=UTC)
    with pytest.raises(ReversedInterval):
        evaluate(policy=draft, observed_from=end, observed_until=end)


@pytest.mark.parametrize("kind", ["telescope", "epoch"])
def test_a_kind_without_rules_is_not_evaluated(kind):
    with pytest.raises(InvalidPolicy):
        evaluate(policy=create_draft(name="mine", rules=[NOISE]), kind=kind)


# --- activating -----------------------------------------------------------------------------------------------------
def test_activating_judges_tables_at_once_and_current_images_by_a_batch():
    image(is_current=False)
    current, table = image(), CalibrationTableFactory(metrics={"flagged_fraction": 0.5})
    done = activate_policy(policy=create_draft(name="mine", rules=[NOISE, *OF_OTHERS]))
    assert done.n_tables == 1
    assert table.assessments.current().get().policy == done.policy
    assert [item.image_id for batch in done.batches for item in batch.items.all()] == [current.pk]
    with pytest.raises(PolicyConflict):
        activate_policy(policy=done.policy)


def test_activating_judges_a_mosaic_with_its_epoch_which_stays_lenient_where_it_was():
    strict, lenient = EpochFactory(), EpochFactory(is_lenient=True)
    for epoch in (strict, lenient):
        MosaicFactory(mosaic_of=epoch)
    done = activate_policy(policy=create_draft(name="mine", rules=[NOISE, *OF_OTHERS]))
    asked = {
        (item.epoch_id, batch.parameters["lenient"]) for batch in done.batches for item in batch.items.all()
    }  # fmt: skip
    assert asked == {(strict.pk, False), (lenient.pk, True)}


@pytest.mark.parametrize("silent", ["calibration_table", "epoch"])
def test_a_policy_that_says_nothing_of_a_kind_is_not_activated(silent):
    before = active()
    kept = [one for one in OF_OTHERS if one.subject_kind != silent]
    with pytest.raises(InvalidPolicy, match=f"no rules of {silent}"):
        activate_policy(policy=create_draft(name="mine", rules=[NOISE, *kept]))
    assert active() == before


# --- doors ----------------------------------------------------------------------------------------------------------
def run(*arguments: str):
    out = StringIO()
    call_command("policy", *arguments, stdout=out)
    return out.getvalue()


def test_the_command_drafts_shows_tries_and_activates(tmp_path):
    assess_image(image=image())
    file = tmp_path / "draft.json"
    file.write_text(json.dumps({"name": "mine", "rules": [dataclasses.asdict(one) for one in (NOISE, *OF_OTHERS)]}))
    key = str(json.loads(run("draft", str(file), "--json"))["id"])
    assert "rms_over_thermal > 1.2" in run("show", key)
    assert "draft" in run("list")
    assert json.loads(run("evaluate", key, "--json"))["confusion"]["excellent"]["marginal"] == 1
    assert "excellent -> marginal (noise)" in run("evaluate", key)
    assert "is active" in run("activate", key)
    assert run("show") == run("show", key)
    assert Policy.objects.get(is_active=True).pk == int(key)


def test_the_api_drafts_changes_tries_and_activates(admin_client):
    def send(method: str, address: str, body: object = ""):
        return getattr(admin_client, method)(f"/api/v1/policies/{address}", body, content_type="application/json")

    assess_image(image=image())
    made = send("post", "", {"name": "mine", "rules": [dataclasses.asdict(one) for one in (NOISE, *OF_OTHERS)]})
    assert made.status_code == 201, made.content
    key = made.json()["id"]
    assert send("patch", f"{key}/", {"note": "n"}).json()["note"] == "n"
    assert send("post", f"{key}/evaluate/", {}).json()["n_changed"] == 1
    assert len(send("post", f"{key}/activate/").json()["batches"]) == 1
    for method, address in (("patch", f"{key}/"), ("delete", f"{key}/"), ("post", f"{key}/activate/")):
        assert send(method, address, {} if method != "delete" else "").status_code == 409
    wrong = send("post", "", {"name": "mine", "rules": [{**dataclasses.asdict(NOISE), "metric": "beauty"}]})
    assert (wrong.status_code, wrong.json()["code"]) == (400, "unknown_metric")


def test_what_an_older_verdict_kept_with_its_policys_noise_limit_is_kept_without_it():
    keep = import_module("qa.migrations.0005_dynamic_range_at_thermal_noise").keep_without_the_policy
    kept = {"skipped": {}, "reach": {"dynamic_range": [50.0, "the brightest source here"]}, "where": {}}
    old = AssessmentFactory(image=image(), policy=active(), circumstances=kept, metrics={"dynamic_range": 40.0})
    bare = AssessmentFactory(image=image(), policy=active(), circumstances={"skipped": {}, "reach": {}, "where": {}})
    keep(apps, None)
    for row in (old, bare):
        row.refresh_from_db()
        assert row.circumstances == {"skipped": {}, "where": {}}
    assert old.metrics == {"dynamic_range": 40.0, "dynamic_range_at_thermal_noise": pytest.approx(50 * 1.8)}
    assert bare.metrics == AssessmentFactory.build().metrics
