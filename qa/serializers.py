from __future__ import annotations

from rest_framework import serializers

from contimg.api.serializers import FactsSerializer, FindingSerializer, PolicyReferenceSerializer
from qa.models import Assessment, Policy, Rule, SubjectKind


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
