from __future__ import annotations

from typing import Any

from django.contrib.auth.models import User
from django.shortcuts import get_object_or_404
from drf_spectacular.utils import extend_schema
from rest_framework.decorators import action
from rest_framework.exceptions import NotFound
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from access.models import Token
from access.permissions import InsufficientScope
from access.scopes import Scope, is_allowed
from contimg.api.errors import ProblemSerializer
from contimg.api.parameters import parameters_of
from contimg.api.reuse import ALWAYS
from contimg.api.viewsets import ReadOnlyResource
from images.models import Image
from images.serializers import ImageDetailSerializer
from observations.models import Epoch
from qa.agreement import agreements
from qa.drift import Strip, acknowledge, points, silence
from qa.filters import AlertFilter, AssessmentFilter, PolicyFilter, ReviewFilter
from qa.models import Alert, Assessment, Policy, Review
from qa.policies import RuleSpec, change_draft, create_draft, delete_draft, evaluate
from qa.reviews import find_subject, queue, review, review_epoch, withdraw
from qa.serializers import (
    AcknowledgeSerializer,
    AfterSerializer,
    AgreementsSerializer,
    AlertSerializer,
    AskedEvaluationSerializer,
    AssessmentDetailSerializer,
    AssessmentSerializer,
    DraftChangeSerializer,
    DriftAskedSerializer,
    EvaluationSerializer,
    NewEpochReviewSerializer,
    NewPolicySerializer,
    NewReviewSerializer,
    PointSerializer,
    PolicyDetailSerializer,
    PolicySerializer,
    ReviewSerializer,
    SilenceSerializer,
    SinceSerializer,
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
    reusable_s = ALWAYS


class PolicyViewSet(ReadOnlyResource):
    """Versions of the rules."""

    queryset = Policy.objects.all()
    detail_queryset = Policy.objects.prefetch_related("rules")
    serializer_class = PolicySerializer
    detail_serializer_class = PolicyDetailSerializer
    filterset_class = PolicyFilter
    orderings = ["created_at", "version", "id"]
    ordering = "-created_at"
    reusable_s = ALWAYS
    required_scopes = dict.fromkeys(("create", "partial_update", "destroy", "evaluate", "activate"), Scope.ADMIN)
    bodies = {
        "create": NewPolicySerializer,
        "partial_update": DraftChangeSerializer,
        "evaluate": AskedEvaluationSerializer,
    }

    @extend_schema(responses={201: PolicyDetailSerializer, 409: ProblemSerializer})
    def create(self, request: Request) -> Response:
        """A draft: the next version of its name."""
        given = self.asked_of(request)
        rules = [RuleSpec(**rule) for rule in given.pop("rules")]
        author = request.user if request.user.is_authenticated else None
        return self._shown(create_draft(**given, rules=rules, author=author), status=201)

    @extend_schema(responses={200: PolicyDetailSerializer, 409: ProblemSerializer})
    def partial_update(self, request: Request, pk: str) -> Response:
        """Of a draft: other rules in place of all, another note."""
        given = self.asked_of(request)
        if "rules" in given:
            given["rules"] = [RuleSpec(**rule) for rule in given["rules"]]
        return self._shown(change_draft(policy=self.get_object(), **given))

    @extend_schema(responses={204: None, 409: ProblemSerializer})
    def destroy(self, request: Request, pk: str) -> Response:
        """Of a draft."""
        delete_draft(policy=self.get_object())
        return Response(status=204)

    @extend_schema(responses=EvaluationSerializer)
    @action(detail=True, methods=["post"])
    def evaluate(self, request: Request, pk: str) -> Response:
        """What it would say of everything that was measured. Nothing is changed; 100 000 images take seconds."""
        return Response(EvaluationSerializer(evaluate(policy=self.get_object(), **self.asked_of(request))).data)

    def _shown(self, policy: Policy, status: int = 200) -> Response:
        return Response(PolicyDetailSerializer(self.detail_queryset.get(pk=policy.pk)).data, status=status)


class ReviewViewSet(ReadOnlyResource):
    """What people say of images and calibration tables. A review's verdict is the grade; it changes no assessment."""

    queryset = Review.objects.with_reviewer()
    detail_queryset = Review.objects.with_reviewer()
    serializer_class = ReviewSerializer
    detail_serializer_class = ReviewSerializer
    filterset_class = ReviewFilter
    orderings = ["created_at", "id"]
    ordering = "-created_at"
    reusable_s = ALWAYS
    required_scopes = dict.fromkeys(("create", "withdraw", "next", "epoch", "agreement"), Scope.REVIEW)
    bodies = {"create": NewReviewSerializer, "epoch": NewEpochReviewSerializer}

    @extend_schema(responses={201: ReviewSerializer, 404: ProblemSerializer})
    def create(self, request: Request) -> Response:
        """In place of your earlier review of the same subject, which stays as history."""
        said = self.asked_of(request)
        subject = said.pop("subject")
        made = review(
            subject=find_subject(kind=subject["kind"], key=subject["id"]), reviewer=_reviewer(request), **said
        )
        return Response(ReviewSerializer(made).data, status=201)

    @extend_schema(responses={200: ReviewSerializer, 409: ProblemSerializer})
    @action(detail=True, methods=["post"])
    def withdraw(self, request: Request, pk: str) -> Response:
        """Your own, or with the scope `admin` anybody's. The grade is then another reviewer's, or the policy's."""
        row = get_object_or_404(Review.objects.with_links(), pk=pk)
        token = request.auth if isinstance(request.auth, Token) else None
        if row.reviewer != request.user and not is_allowed(user=request.user, token=token, scope=Scope.ADMIN):
            raise InsufficientScope(needed=Scope.ADMIN, token=token)
        return Response(ReviewSerializer(withdraw(review=row)).data)

    @extend_schema(
        parameters=[AfterSerializer], responses={200: ImageDetailSerializer, 204: None, 404: ProblemSerializer}
    )
    @action(detail=False, query_parameters=None)
    def next(self, request: Request) -> Response:
        """The image that waits for you: a disputed one, else the worst that nobody reviewed. 204 when there is none."""
        waiting = queue(reviewer=_reviewer(request), after=parameters_of(request, AfterSerializer).get("after"))
        first = waiting.values_list("pk", flat=True).first()
        if first is None:
            return Response(status=204)
        image = Image.objects.for_detail().get(pk=first)
        return Response(ImageDetailSerializer(image, context=self.get_serializer_context()).data)

    @extend_schema(
        filters=False,
        responses={201: ReviewSerializer(many=True), **dict.fromkeys((404, 409), ProblemSerializer)},
    )
    @action(detail=False, methods=["post"], pagination_class=None, filterset_class=None)
    def epoch(self, request: Request) -> Response:
        """One review for each current tile of the epoch's own hour and strip, and its mosaic; all or none."""
        said = self.asked_of(request)
        key = said.pop("epoch")
        epoch = Epoch.objects.filter(pk=key).first()
        if epoch is None:
            raise NotFound(f"There is no epoch {key}; look at the list of what there is.")
        made = review_epoch(epoch=epoch, reviewer=_reviewer(request), **said)
        return Response(ReviewSerializer(made, many=True).data, status=201)

    @extend_schema(parameters=[SinceSerializer], responses=AgreementsSerializer)
    @action(detail=False, query_parameters=None)
    def agreement(self, request: Request) -> Response:
        """Of each two reviewers, and of each with the policy, by current reviews of the last year or since a time."""
        since = parameters_of(request, SinceSerializer).get("since")
        return Response(AgreementsSerializer(agreements(since=since)).data)


class AlertViewSet(ReadOnlyResource):
    """Series of a dec strip that left their control limits or stepped."""

    queryset = Alert.objects.select_related("acknowledged_by")
    detail_queryset = Alert.objects.select_related("acknowledged_by")
    serializer_class = AlertSerializer
    detail_serializer_class = AlertSerializer
    filterset_class = AlertFilter
    orderings = ["observed_at", "id"]
    ordering = "-observed_at"
    reusable_s = ALWAYS
    required_scopes = dict.fromkeys(("acknowledge", "silence"), Scope.OPERATE)
    bodies = {"acknowledge": AcknowledgeSerializer, "silence": SilenceSerializer}

    @extend_schema(responses={200: AlertSerializer, 409: ProblemSerializer})
    @action(detail=True, methods=["post"])
    def acknowledge(self, request: Request, pk: str) -> Response:
        """Somebody has seen it."""
        alert = acknowledge(alert=self.get_object(), actor=_reviewer(request), **self.asked_of(request))
        return Response(AlertSerializer(alert, context=self.get_serializer_context()).data)

    @extend_schema(responses=AlertSerializer)
    @action(detail=True, methods=["post"])
    def silence(self, request: Request, pk: str) -> Response:
        """No new alert of its series, strip and antenna for a while."""
        alert = silence(alert=self.get_object(), **self.asked_of(request))
        return Response(AlertSerializer(alert, context=self.get_serializer_context()).data)


class DriftView(APIView):
    """A series of a dec strip with its control limits and steps."""

    @extend_schema(parameters=[DriftAskedSerializer], responses=PointSerializer(many=True), operation_id="drift")
    def get(self, request: Request) -> Response:
        """In the order of time."""
        given = dict(parameters_of(request, DriftAskedSerializer))
        found = points(series=given.pop("series"), strip=Strip(**given))
        return Response(PointSerializer(found, many=True).data)


def _reviewer(request: Request) -> User:
    """Whoever has the scope is a user."""
    user: Any = request.user
    return user
