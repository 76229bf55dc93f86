from __future__ import annotations

from contimg.api.viewsets import ReadOnlyResource
from qa.filters import AssessmentFilter, PolicyFilter
from qa.models import Assessment, Policy
from qa.serializers import (
    AssessmentDetailSerializer,
    AssessmentSerializer,
    PolicyDetailSerializer,
    PolicySerializer,
)


class AssessmentViewSet(ReadOnlyResource):
    """Verdicts on images and calibration tables."""

    queryset = Assessment.objects.for_listing()
    detail_queryset = Assessment.objects.with_findings()
    serializer_class = AssessmentSerializer
    detail_serializer_class = AssessmentDetailSerializer
    filterset_class = AssessmentFilter
    orderings = ["created_at", "id"]
    ordering = "-created_at"


class PolicyViewSet(ReadOnlyResource):
    """Versions of the rules."""

    queryset = Policy.objects.all()
    detail_queryset = Policy.objects.prefetch_related("rules")
    serializer_class = PolicySerializer
    detail_serializer_class = PolicyDetailSerializer
    filterset_class = PolicyFilter
    orderings = ["created_at", "version", "id"]
    ordering = "-created_at"
