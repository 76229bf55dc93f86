from __future__ import annotations

from rest_framework import serializers

from contimg.api.serializers import FactsSerializer, FindingSerializer, PolicyReferenceSerializer, StrictSerializer
from qa.models import MOST_COMMENT_CHARACTERS, Assessment, Policy, Review, Rule, SubjectKind
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
        fields = [*AssessmentSerializer.Meta.fields, "findings", "metrics"]


class RuleSerializer(FactsSerializer):
    class Meta:
        model = Rule
        fields = ["subject_kind", "name", "metric", "comparison", "limit", "grade", "reason"]


class PolicySerializer(FactsSerializer):
    class Meta:
        model = Policy
        fields = ["id", "name", "version", "is_active", "note", "created_at"]


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
    verdict = serializers.ChoiceField(VERDICTS)
    tags = serializers.ListField(child=serializers.ChoiceField(Review.Tag.choices), required=False, max_length=20)
    comment = serializers.CharField(required=False, allow_blank=True, max_length=MOST_COMMENT_CHARACTERS)


class ReviewedSubjectSerializer(StrictSerializer):
    kind = serializers.ChoiceField(REVIEWED_KINDS)
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
    after = serializers.IntegerField(
        required=False, min_value=1, max_value=MOST_ID, help_text="An image that you leave for now: the next behind it."
    )


class SinceSerializer(serializers.Serializer):
    since = serializers.DateTimeField(required=False)
