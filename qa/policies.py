"""Versions of the rules: drafted, tried on what was measured, activated. Once activated a policy never changes."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from itertools import pairwise
from typing import Any

from django.contrib.auth.models import User
from django.db import IntegrityError, transaction
from django.db.models import F, Max, QuerySet
from django.utils import timezone

from access.audit import audit
from contimg.exceptions import ContimgError, InvalidInput
from contimg.intervals import refuse_reversed
from contimg.models import Grade
from qa.metrics import METRICS
from qa.models import Assessment, Finding, Gate, Policy, Rule, SubjectKind
from qa.rules import OUTCOME_OF_CAP, UPWARDS, Measured, judge

CHUNK_ROWS = 2000
MOST_LISTED = 1000
MOST_RULES = 500
OBSERVED_AT = {
    SubjectKind.IMAGE: "image__observed_at",
    SubjectKind.CALIBRATION_TABLE: "calibration_table__solved_at",
    SubjectKind.EPOCH: "epoch__started_at",
}


class InvalidPolicy(InvalidInput):
    """A rule, or the rules together, make no sense."""

    code = "invalid_policy"


class UnknownMetric(InvalidInput):
    code = "unknown_metric"


class ContradictoryRules(InvalidInput):
    """The limits of a metric are not in the order of their grades, or leave no value that passes."""

    code = "contradictory_rules"


class PolicyImmutable(ContimgError):
    code = "policy_immutable"
    status = 409


class PolicyConflict(ContimgError):
    """Somebody else did the same, or activated another policy, meanwhile."""

    code = "policy_conflict"
    status = 409


@dataclass(frozen=True, kw_only=True)
class RuleSpec:
    """A rule before it is a row: the limit in the metric's unit, the grade what the subject is at best."""

    subject_kind: str
    name: str
    metric: str
    comparison: str
    limit: float
    grade: str
    reason: str
    gate: str = ""


@dataclass(frozen=True, kw_only=True)
class Change:
    """A subject whose grade would be another; `rules` are those that warn or fail."""

    id: int
    observed_at: datetime | None
    old: str
    new: str
    rules: list[str]


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What a policy would say of what was measured; nothing was written.

    `confusion[old][new]` counts subjects; `by_rule` counts outcomes by rule. `n_not_judged` have verdicts from before
    all that judging needs was kept, and are in no other count. `never_measured` counts, by metric, subjects of which
    the metric was never measured: `n_incomplete` of them have such a rule, and are unknown or poor.
    `changes` are the first MOST_LISTED of `n_changed`.
    """

    kind: str
    n_judged: int
    n_not_judged: int
    n_incomplete: int
    n_changed: int
    confusion: dict[str, dict[str, int]]
    by_rule: dict[str, dict[str, int]]
    never_measured: dict[str, int]
    changes: list[Change]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


# --- drafts --------------------------------------------------------------------------------------------------------
@transaction.atomic
def create_draft(
    *, name: str, rules: Sequence[RuleSpec], note: str = "", author: User | None = None, based_on: Policy | None = None
) -> Policy:
    """The next version of this name, not yet active.

    With `based_on` it has that policy's rules, and those given replace the ones of the same kind and name. Raises
    InvalidPolicy, UnknownMetric and ContradictoryRules for the rules; PolicyConflict when the version was just taken.
    """
    whole = _on_top_of(based_on, rules) if based_on is not None else list(rules)
    refuse_wrong(whole)
    newest = Policy.objects.filter(name=name).aggregate(newest=Max("version"))["newest"] or 0
    try:
        with transaction.atomic():
            draft = Policy.objects.create(name=name, version=newest + 1, note=note, author=author)
    except IntegrityError as error:
        raise PolicyConflict(
            f"Version {newest + 1} of {name} was drafted just now; look at it, then try again."
        ) from error
    _write_rules(draft, whole)
    audit(action="policy.draft", subject=draft, details={"policy": str(draft), "rules": len(whole)})
    return draft


@transaction.atomic
def change_draft(*, policy: Policy, rules: Sequence[RuleSpec] | None = None, note: str | None = None) -> Policy:
    """Other rules in place of all of a draft's, or another note. Raises PolicyImmutable once it was activated."""
    draft = _locked_draft(policy)
    if rules is not None:
        refuse_wrong(rules)
        draft.rules.all().delete()
        _write_rules(draft, rules)
    if note is not None:
        draft.note = note
        draft.save(update_fields=["note"])
    changed = [name for name, given in (("rules", rules), ("note", note)) if given is not None]
    audit(action="policy.change", subject=draft, details={"policy": str(draft), "changed": changed})
    return draft


@transaction.atomic
def delete_draft(*, policy: Policy) -> None:
    """Raises PolicyImmutable once it was activated."""
    draft = _locked_draft(policy)
    audit(action="policy.delete", subject=draft, details={"policy": str(draft)})
    draft.delete()


def rules_of(policy: Policy) -> list[RuleSpec]:
    return [
        RuleSpec(**values) for values in policy.rules.order_by("id").values(*RuleSpec.__dataclass_fields__)
    ]  # fmt: skip


def _locked(policy: Policy) -> Policy:
    found = Policy.objects.select_for_update().filter(pk=policy.pk).first()
    if found is None:
        raise PolicyConflict(f"{policy} was deleted meanwhile; see the list of policies.")
    return found


def _locked_draft(policy: Policy) -> Policy:
    draft = _locked(policy)
    if draft.activated_at is not None:
        raise PolicyImmutable(f"{draft} was activated and never changes again; draft a new version based on it.")
    return draft


def _on_top_of(policy: Policy, rules: Sequence[RuleSpec]) -> list[RuleSpec]:
    _refuse_twice(rules)
    changed = {(rule.subject_kind, rule.name): rule for rule in rules}
    kept = [changed.pop((rule.subject_kind, rule.name), rule) for rule in rules_of(policy)]
    return [*kept, *changed.values()]


def _write_rules(policy: Policy, rules: Iterable[RuleSpec]) -> None:
    Rule.objects.bulk_create(Rule(policy=policy, **asdict(rule)) for rule in rules)


# --- what rules have to be -------------------------------------------------------------------------------------------
def _refuse_silent(policy: Policy) -> None:
    judged = set(policy.rules.values_list("subject_kind", flat=True))
    if silent := [kind.value for kind in SubjectKind if kind not in judged]:
        raise InvalidPolicy(
            f"{policy} has no rules of {' and '.join(silent)}, which all would be unknown; draft it with `based_on`."
        )


def refuse_wrong(rules: Sequence[RuleSpec]) -> None:
    """Raises InvalidPolicy, UnknownMetric or ContradictoryRules for the first thing that is wrong."""
    if not rules:
        raise InvalidPolicy("A policy without rules would grade nothing; give it at least one.")
    if len(rules) > MOST_RULES:
        raise InvalidPolicy(f"{len(rules)} rules are more than a policy takes ({MOST_RULES}); give fewer.")
    for rule in rules:
        _refuse_rule(rule)
    _refuse_twice(rules)
    ladders: dict[tuple[str, ...], list[RuleSpec]] = defaultdict(list)
    for rule in rules:
        ladders[rule.subject_kind, rule.gate, rule.metric].append(rule)
    for ladder in ladders.values():
        _refuse_contradictions(ladder)


def _refuse_rule(rule: RuleSpec) -> None:
    words = {
        "subject_kind": SubjectKind.values,
        "comparison": Rule.Comparison.values,
        "grade": list(OUTCOME_OF_CAP),
        "gate": ["", *Gate.values] if rule.subject_kind == SubjectKind.EPOCH else [""],
    }
    for name, possible in words.items():
        if getattr(rule, name) not in possible:
            listed = ", ".join(word or "none" for word in possible)
            raise InvalidPolicy(f"The {name} of {rule.name!r} is {getattr(rule, name)!r}; it can be {listed}.")
    for name, most in (("name", 60), ("reason", 300)):
        if not 1 <= len(getattr(rule, name).strip()) <= most:
            raise InvalidPolicy(f"The {name} of the rule {rule.name[:60]!r} has to be text of 1 to {most} characters.")
    if not math.isfinite(rule.limit):
        raise InvalidPolicy(f"The limit of {rule.name!r} is {rule.limit}; give a finite number.")
    if rule.metric not in METRICS[rule.subject_kind]:
        known = ", ".join(sorted(METRICS[rule.subject_kind])) or "none"
        raise UnknownMetric(
            f"{rule.name!r}: of a {rule.subject_kind} no {rule.metric!r} is measured; there are {known}."
        )


def _refuse_twice(rules: Iterable[RuleSpec]) -> None:
    for (kind, name), n in Counter((rule.subject_kind, rule.name) for rule in rules).items():
        if n > 1:
            raise InvalidPolicy(
                f"The rule {name!r} of {kind} is there {n} times; a finding names its rule, so give it once."
            )


def _refuse_contradictions(rules: Sequence[RuleSpec]) -> None:
    """Of one metric: a worse grade has to be farther out, and some value has to pass."""
    above = sorted((rule for rule in rules if rule.comparison in UPWARDS), key=lambda rule: rule.limit)
    below = sorted((rule for rule in rules if rule.comparison not in UPWARDS), key=lambda rule: -rule.limit)
    order = list(OUTCOME_OF_CAP)
    for ladder in (above, below):
        for inner, outer in pairwise(ladder):
            if inner.limit == outer.limit or order.index(inner.grade) >= order.index(outer.grade):
                raise ContradictoryRules(
                    f"{outer.name!r} gives {outer.grade} at {outer.limit:g} and {inner.name!r} {inner.grade} at "
                    f"{inner.limit:g}: of {inner.metric} the limit of a worse grade has to be farther out."
                )
    if above and below and below[0].limit >= above[0].limit:
        raise ContradictoryRules(
            f"{below[0].name!r} objects up to {below[0].limit:g} and {above[0].name!r} from {above[0].limit:g} on: no "
            f"{above[0].metric} would pass."
        )


# --- trying --------------------------------------------------------------------------------------------------------
def evaluate(
    *,
    policy: Policy,
    kind: str = SubjectKind.IMAGE,
    observed_from: datetime | None = None,
    observed_until: datetime | None = None,
) -> Evaluation:
    """Judge by this policy the stored figures of subjects observed in [from, until), against their current verdicts.

    Reads in chunks and writes nothing. Old grades are the policy's, not a reviewer's. Raises InvalidPolicy for an
    unknown kind, and for one that the policy has no rules of; ReversedInterval.
    """
    refuse_reversed(observed_from, observed_until)
    if kind not in SubjectKind.values:
        raise InvalidPolicy(f"There is no kind {kind!r}; there are {', '.join(SubjectKind.values)}.")
    rules = list(policy.rules.filter(subject_kind=kind).order_by("id"))
    if not rules:
        raise InvalidPolicy(f"{policy} has no rules of {kind}; it would grade none.")
    tally = _Tally(rules)
    for row in stored_verdicts(kind, observed_from, observed_until).iterator(chunk_size=CHUNK_ROWS):
        tally.add(*row)
    return tally.result(kind)


def stored_verdicts(
    kind: str, observed_from: datetime | None, observed_until: datetime | None
) -> QuerySet[Assessment, Any]:
    """Tuples of subject, time of observation, grade, metrics and circumstances of current verdicts, by subject."""
    time = OBSERVED_AT[SubjectKind(kind)]
    found = Assessment.objects.current().filter(**{f"{kind}__isnull": False})
    if observed_from is not None:
        found = found.filter(**{f"{time}__gte": observed_from})
    if observed_until is not None:
        found = found.filter(**{f"{time}__lt": observed_until})
    return found.order_by(f"{kind}_id").values_list(f"{kind}_id", F(time), "grade", "metrics", "circumstances")


class _Tally:
    def __init__(self, rules: list[Rule]) -> None:
        self.rules = rules
        self.asked = {rule.metric for rule in rules}
        self.confusion: Counter[tuple[str, str]] = Counter()
        self.outcomes: Counter[tuple[str, str]] = Counter()
        self.never: Counter[str] = Counter()
        self.changes: list[Change] = []
        self.n_changed = self.n_incomplete = self.n_not_judged = 0

    def add(
        self, pk: int, observed_at: datetime | None, old: str, metrics: Mapping[str, Any], kept: Mapping[str, Any]
    ) -> None:
        if not kept:
            self.n_not_judged += 1
            return
        verdict = judge(rules=self.rules, measured=Measured.stored(metrics, kept))
        missing = self.asked.difference(metrics, kept.get("skipped", ()))
        self.never.update(missing)
        self.n_incomplete += bool(missing)
        self.confusion[old, verdict.grade] += 1
        self.outcomes.update((found.rule, found.outcome) for found in verdict.findings)
        if old != verdict.grade:
            self.n_changed += 1
            if len(self.changes) < MOST_LISTED:
                objecting = [found.rule for found in verdict.findings if found.outcome in ("warn", "fail")]
                self.changes.append(
                    Change(id=pk, observed_at=observed_at, old=old, new=str(verdict.grade), rules=objecting)
                )

    def result(self, kind: str) -> Evaluation:
        return Evaluation(
            kind=kind,
            n_judged=self.confusion.total(),
            n_not_judged=self.n_not_judged,
            n_incomplete=self.n_incomplete,
            n_changed=self.n_changed,
            confusion={old: {new: self.confusion[old, new] for new in Grade.values} for old in Grade.values},
            by_rule={
                rule.name: {outcome: self.outcomes[rule.name, outcome] for outcome in Finding.Outcome.values}
                for rule in self.rules
            },
            never_measured=dict(sorted(self.never.items())),
            changes=self.changes,
        )


# --- activating ----------------------------------------------------------------------------------------------------
@transaction.atomic
def activate(*, policy: Policy, actor: User | None = None) -> Policy:
    """From now on this one judges. Of two at once one wins; the other has PolicyConflict, as for the active one again.

    Verdicts stay those of the policy before until they are made again: see `batch.policies`. Raises what is wrong with
    the rules, and InvalidPolicy where a kind of subject has none: all of that kind would be unknown, tables too, and
    no tile could be calibrated.
    """
    before = Policy.objects.select_for_update().filter(is_active=True).first()
    chosen = _locked(policy)
    if chosen.is_active:
        raise PolicyConflict(f"{chosen} is active already; nothing was changed.")
    refuse_wrong(rules_of(chosen))
    _refuse_silent(chosen)
    try:
        with transaction.atomic():
            if before is not None:
                Policy.objects.filter(pk=before.pk).update(is_active=False)
            chosen.is_active, chosen.activated_at = True, chosen.activated_at or timezone.now()
            chosen.save(update_fields=["is_active", "activated_at"])
    except IntegrityError as error:
        raise PolicyConflict("Another policy was activated just now; look at it, then try again.") from error
    details = {"policy": str(chosen), "before": str(before) if before else None}
    audit(action="policy.activate", subject=chosen, details=details, actor=actor)
    return chosen
