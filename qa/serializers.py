from __future__ import annotations

from rest_framework import serializers

from contimg.api.parameters import ChoiceParameter, NumberParameter, WholeNumberParameter
from contimg.api.serializers import (
    FactsSerializer,
    FindingSerializer,
    PolicyReferenceSerializer,
    StrictSerializer,
    TextField,
    WordField,
)
from contimg.models import Grade
from qa.drift import SERIES
from qa.models import MOST_COMMENT_CHARACTERS, Alert, Assessment, Gate, Policy, Review, Rule, SubjectKind
from qa.policies import MOST_RULES
from qa.reviews import VERDICTS

REVIEWED_KINDS = [SubjectKind.IMAGE, SubjectKind.CALIBRATION_TABLE]
MOST_ID = 2**63 - 1  # SQLite fails on larger ones


class SubjectSerializer(serializers.Serializer):
    kind = serializers.ChoiceField(SubjectKind.choices, source="subject_kind")
    id = serializers.IntegerField(source="subject_id")


class AssessmentSerializer(FactsSerializer):
    subject = SubjectSerializer(source="*")
    policy = PolicyReferenceSerializer()

    class Meta:
        model = Assessment
        fields = ["id", "subject", "policy", "grade", "is_current", "created_at"]


class AssessmentDetailSerializer(AssessmentSerializer):
    findings = FindingSerializer(many=True)

    class Meta(AssessmentSerializer.Meta):
        fields = [*AssessmentSerializer.Meta.fields, "findings", "metrics", "circumstances"]


class RuleSerializer(FactsSerializer):
    gate = serializers.ChoiceField([("", "not of an epoch"), *Gate.choices])

    class Meta:
        model = Rule
        fields = ["subject_kind", "name", "metric", "comparison", "limit", "grade", "gate", "reason"]


class PolicySerializer(FactsSerializer):
    class Meta:
        model = Policy
        fields = ["id", "name", "version", "is_active", "note", "created_at", "activated_at"]


class PolicyDetailSerializer(PolicySerializer):
    rules = RuleSerializer(many=True)

    class Meta(PolicySerializer.Meta):
        fields = [*PolicySerializer.Meta.fields, "rules"]


class ReviewSerializer(FactsSerializer):
    subject = SubjectSerializer(source="*")
    reviewer = serializers.CharField(source="reviewer.username")
    verdict = serializers.ChoiceField(VERDICTS)
    tags = serializers.ListField(child=serializers.ChoiceField(Review.Tag.choices))

    class Meta:
        model = Review
        fields = ["id", "subject", "reviewer", "verdict", "tags", "comment", "is_current", "created_at"]


class _SaidSerializer(StrictSerializer):
    verdict = ChoiceParameter(VERDICTS)
    tags = serializers.ListField(child=ChoiceParameter(Review.Tag.choices), required=False, max_length=20)
    comment = TextField(required=False, allow_blank=True, max_length=MOST_COMMENT_CHARACTERS)


class ReviewedSubjectSerializer(StrictSerializer):
    kind = ChoiceParameter(REVIEWED_KINDS)
    id = serializers.IntegerField(min_value=1, max_value=MOST_ID)


class NewReviewSerializer(_SaidSerializer):
    subject = ReviewedSubjectSerializer()


class NewEpochReviewSerializer(_SaidSerializer):
    epoch = serializers.IntegerField(min_value=1, max_value=MOST_ID)


class AgreementSerializer(serializers.Serializer):
    reviewer = serializers.CharField()
    other = serializers.CharField(allow_null=True, help_text="Null: the policy.")
    n = serializers.IntegerField(help_text="Subjects that both judged.")
    exact = serializers.FloatField(help_text="Share of equal verdicts.")
    within_one_grade = serializers.FloatField(help_text="Share of verdicts at most one grade apart.")
    kappa = serializers.FloatField(
        allow_null=True, help_text="Cohen's kappa; null where both only ever gave one and the same grade."
    )


class AgreementsSerializer(serializers.Serializer):
    since = serializers.DateTimeField()
    reviewers = AgreementSerializer(many=True)
    with_policy = AgreementSerializer(many=True)


class AfterSerializer(serializers.Serializer):
    after = WholeNumberParameter(
        required=False, min_value=1, max_value=MOST_ID, help_text="An image that you leave for now: the next behind it."
    )


class SinceSerializer(serializers.Serializer):
    since = serializers.DateTimeField(required=False)


class RuleSpecSerializer(StrictSerializer):
    """Types only: what the words and numbers have to be `qa.policies.refuse_wrong` says."""

    subject_kind = WordField(SubjectKind.choices)
    name = TextField()
    metric = TextField()
    comparison = WordField(Rule.Comparison.choices)
    limit = serializers.FloatField()
    grade = WordField(Grade.choices, help_text="What the subject is at best where the comparison is true.")
    gate = WordField(Gate.choices, required=False, default="", allow_blank=True, help_text="Of an epoch.")
    reason = TextField(help_text="Why this limit, and its source.")


class DraftChangeSerializer(StrictSerializer):
    rules = serializers.ListField(
        child=RuleSpecSerializer(), required=False, max_length=MOST_RULES, help_text="In place of all."
    )
    note = TextField(required=False, allow_blank=True)


class NewPolicySerializer(StrictSerializer):
    name = TextField(max_length=50)
    note = TextField(required=False, default="", allow_blank=True)
    based_on = serializers.PrimaryKeyRelatedField(
        queryset=Policy.objects.all(), required=False, default=None, allow_null=True,
        help_text="It has that policy's rules; those given replace the ones of the same kind and name.",
    )  # fmt: skip
    rules = serializers.ListField(child=RuleSpecSerializer(), required=False, default=list, max_length=MOST_RULES)


class AskedEvaluationSerializer(StrictSerializer):
    kind = ChoiceParameter(SubjectKind.choices, required=False, default=SubjectKind.IMAGE)
    observed_from = serializers.DateTimeField(required=False, default=None, allow_null=True)
    observed_until = serializers.DateTimeField(required=False, default=None, allow_null=True, help_text="Exclusive.")


class EvaluationSerializer(serializers.Serializer):
    """What a policy would say of what was measured."""

    class Change(serializers.Serializer):
        id = serializers.IntegerField()
        observed_at = serializers.DateTimeField(allow_null=True)
        old = serializers.CharField()
        new = serializers.CharField()
        rules = serializers.ListField(child=serializers.CharField(), help_text="Those that warn or fail.")

        class Meta:
            ref_name = "GradeChange"

    kind = serializers.CharField()
    n_judged = serializers.IntegerField()
    n_not_judged = serializers.IntegerField(help_text="Verdicts from before all that judging needs was kept.")
    n_incomplete = serializers.IntegerField(help_text="Of which some metric was never measured.")
    n_changed = serializers.IntegerField()
    confusion = serializers.DictField(
        child=serializers.DictField(child=serializers.IntegerField()), help_text="Subjects by old grade, by new grade."
    )
    by_rule = serializers.DictField(
        child=serializers.DictField(child=serializers.IntegerField()), help_text="Subjects by rule, by outcome."
    )
    never_measured = serializers.DictField(child=serializers.IntegerField(), help_text="Subjects by metric.")
    changes = Change(many=True, help_text="The first 1000 of `n_changed`.")


class AlertSerializer(FactsSerializer):
    acknowledged_by = serializers.CharField(source="acknowledged_by.username", default=None, allow_null=True)

    class Meta:
        model = Alert
        fields = [
            "id", "series", "pointing_dec_deg", "antenna", "kind", "observed_at", "value", "expected", "lower_limit",
            "upper_limit", "n", "created_at", "acknowledged_at", "acknowledged_by", "note", "silenced_until",
        ]  # fmt: skip


class AcknowledgeSerializer(StrictSerializer):
    note = TextField(required=False, default="", allow_blank=True, max_length=500)


class SilenceSerializer(StrictSerializer):
    until = serializers.DateTimeField(help_text="For what is observed before then no alert of its kind is raised.")


class DriftAskedSerializer(serializers.Serializer):
    series = ChoiceParameter(list(SERIES))
    pointing_dec_deg = NumberParameter(min_value=-90, max_value=90, help_text="Of the dec strip.")
    observed_from = serializers.DateTimeField(help_text="Inclusive.")
    observed_until = serializers.DateTimeField(help_text="Exclusive.")
    antenna = TextField(required=False, default="", max_length=20, help_text="For series of antennas.")


class PointSerializer(serializers.Serializer):
    """A value and the control limits of those before it; null where too few came before."""

    observed_at = serializers.DateTimeField()
    value = serializers.FloatField()
    expected = serializers.FloatField(allow_null=True)
    lower_limit = serializers.FloatField(allow_null=True)
    upper_limit = serializers.FloatField(allow_null=True)
    n = serializers.IntegerField()
    is_out = serializers.BooleanField()
    is_step = serializers.BooleanField()
