from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from django.contrib.auth.models import User
from django.http import HttpResponseBase
from django.shortcuts import get_object_or_404
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.decorators import action
from rest_framework.exceptions import NotFound
from rest_framework.generics import GenericAPIView
from rest_framework.request import Request
from rest_framework.response import Response

from access.gates import IsInternal, is_inside
from access.scopes import Scope
from batch.blame import lift_and_recompute, plan, quarantine_and_recompute, reprocess
from batch.estimates import Estimates
from batch.events import stream
from batch.filters import BatchFilter, ItemFilter, PauseFilter, WorkerFilter
from batch.logs import MAX_BYTES, read_log
from batch.models import Batch, Item, Pause, StageName, Worker
from batch.policies import activate_policy
from batch.serializers import (
    ActivatedSerializer,
    AssessAgainSerializer,
    BatchDetailSerializer,
    BatchesSerializer,
    BatchSerializer,
    EventSerializer,
    ItemDetailSerializer,
    ItemSerializer,
    LogAskedSerializer,
    LogSerializer,
    NewBatchSerializer,
    NewPauseSerializer,
    PauseSerializer,
    PlanSerializer,
    PrioritySerializer,
    QuarantineMadeSerializer,
    ReimageSerializer,
    WorkerSerializer,
)
from batch.services import (
    cancel_batch,
    cancel_item,
    create_batch,
    deprecated_in,
    pause,
    reimage,
    resume,
    retry_batch,
    retry_item,
    set_priority,
)
from contimg.api.deprecation import Deprecation
from contimg.api.errors import ProblemSerializer
from contimg.api.negotiation import FileNegotiation
from contimg.api.parameters import parameters_of
from contimg.api.reuse import ALWAYS
from contimg.api.viewsets import ReadOnlyResource, WithNothingIgnored
from images.models import Image
from provenance.filters import QuarantineFilter
from provenance.models import Quarantine
from provenance.serializers import NewQuarantineSerializer, QuarantineSerializer
from qa.viewsets import AssessmentViewSet as QaAssessmentViewSet
from qa.viewsets import PolicyViewSet as QaPolicyViewSet

CONFLICT = {409: ProblemSerializer}


class _TakesQuery(ReadOnlyResource):
    asked: Mapping[str, Any] | None = None  # the query in the body

    def deprecated_used(self) -> list[Deprecation]:
        return [*super().deprecated_used(), *deprecated_in(self.asked)]


class BatchViewSet(_TakesQuery):
    """Work that was asked for: one stage, or the chain `process`, on many subjects."""

    queryset = Batch.objects.for_listing()
    detail_queryset = Batch.objects.for_detail()
    serializer_class = BatchSerializer
    detail_serializer_class = BatchDetailSerializer
    filterset_class = BatchFilter
    orderings: ClassVar[list[str]] = ["created_at", "id"]
    ordering: ClassVar[str] = "-created_at"
    reusable_s = 5  # the ETA
    required_scopes = dict.fromkeys(("create", "cancel", "retry", "priority"), Scope.OPERATE)
    bodies = {"create": NewBatchSerializer, "priority": PrioritySerializer}

    def get_serializer(self, *args: Any, **kwargs: Any) -> Any:
        if args:
            eta_s = Estimates().eta_s(args[0] if kwargs.get("many") else [args[0]])
            kwargs["context"] = {**self.get_serializer_context(), "eta_s": eta_s}
            return self.get_serializer_class()(*args, **kwargs)
        return super().get_serializer(*args, **kwargs)

    @extend_schema(
        responses={201: BatchDetailSerializer, 200: BatchDetailSerializer, **CONFLICT},
    )
    def create(self, request: Request) -> Response:
        """Everything or nothing. 201 with the new batch; 200 with the earlier one of the same `idempotency_key`."""
        given = self.asked_of(request)
        subjects = given.pop("subjects", None)
        self.asked = given.get("query")
        made = create_batch(
            **{"query": None, **given},
            subjects=None if subjects is None else [(subject["kind"], subject["id"]) for subject in subjects],
            owner=_caller(request),
        )
        return self._shown(made.batch.pk, status=201 if made.is_new else 200)

    @extend_schema(responses={200: BatchDetailSerializer, **CONFLICT})
    @action(detail=True, methods=["post"])
    def cancel(self, request: Request, pk: str) -> Response:
        """What has not begun ends now; what runs is stopped within seconds."""
        cancel_batch(batch=self.get_object())
        return self._shown(pk)

    @extend_schema(responses={200: BatchDetailSerializer, **CONFLICT})
    @action(detail=True, methods=["post"])
    def retry(self, request: Request, pk: str) -> Response:
        """What failed, was cancelled or is quarantined runs again."""
        retry_batch(batch=self.get_object())
        return self._shown(pk)

    @extend_schema(responses=BatchDetailSerializer)
    @action(detail=True, methods=["post"])
    def priority(self, request: Request, pk: str) -> Response:
        """Of what has not ended; higher runs first."""
        set_priority(batch=self.get_object(), **self.asked_of(request))
        return self._shown(pk)

    @extend_schema(responses=ItemSerializer(many=True))
    @action(
        detail=True, queryset=Item.objects.for_listing(), filterset_class=ItemFilter,
        serializer_class=ItemSerializer, orderings=["id"], ordering="id", query_parameters=None,
    )  # fmt: skip
    def items(self, request: Request, pk: str) -> Response:
        """The items of this batch: the same list as `items/?batch=`."""
        batch = get_object_or_404(Batch.objects.only("pk"), pk=pk)
        found = GenericAPIView.filter_queryset(self, self.get_queryset().filter(batch=batch))
        shown = ItemSerializer(self.paginate_queryset(found), many=True, context={"is_inside": is_inside(self.request)})
        return self.get_paginated_response(shown.data)

    @extend_schema(
        parameters=[
            OpenApiParameter("Last-Event-ID", str, OpenApiParameter.HEADER, description="Go on after this event.")
        ],
        responses={(200, "text/event-stream"): EventSerializer},
    )
    @action(detail=True, content_negotiation_class=FileNegotiation, permission_classes=[IsInternal])
    def events(self, request: Request, pk: str) -> HttpResponseBase:
        """Server-sent events `batch`, `item`, `log` and `end`, for at most 15 s; clients come again by themselves."""
        return stream(batch=get_object_or_404(Batch.objects.for_detail(), pk=pk), last_event_id=_last_event_id(request))

    def _shown(self, pk: int | str, status: int = 200) -> Response:
        return _shown_batch(self, pk, status)


def _shown_batch(view: Any, pk: int | str, status: int) -> Response:
    batch = Batch.objects.for_detail().get(pk=pk)
    context = {**view.get_serializer_context(), "eta_s": Estimates().eta_s([batch])}
    return Response(BatchDetailSerializer(batch, context=context).data, status=status)


def _last_event_id(request: Request) -> str:
    return request.headers.get("Last-Event-ID", "")


class ItemViewSet(ReadOnlyResource):
    """One stage on one subject, and every attempt at it."""

    queryset = Item.objects.for_listing()
    detail_queryset = Item.objects.for_detail()
    serializer_class = ItemSerializer
    detail_serializer_class = ItemDetailSerializer
    filterset_class = ItemFilter
    orderings: ClassVar[list[str]] = ["id"]
    ordering: ClassVar[str] = "-id"
    reusable_s = ALWAYS
    required_scopes = dict.fromkeys(("cancel", "retry"), Scope.OPERATE)

    def audience(self) -> bool:
        return is_inside(self.request)

    def get_serializer_context(self) -> dict[str, Any]:
        return {**super().get_serializer_context(), "is_inside": is_inside(self.request)}

    @extend_schema(responses={200: ItemDetailSerializer, **CONFLICT})
    @action(detail=True, methods=["post"])
    def cancel(self, request: Request, pk: str) -> Response:
        """With what was to follow it."""
        cancel_item(item=self.get_object())
        return self._shown(pk)

    @extend_schema(responses={200: ItemDetailSerializer, **CONFLICT})
    @action(detail=True, methods=["post"])
    def retry(self, request: Request, pk: str) -> Response:
        """With what ended because of it. What ended because of another is refused, and names that one."""
        retry_item(item=self.get_object())
        return self._shown(pk)

    @extend_schema(
        parameters=[LogAskedSerializer],
        responses=LogSerializer,
    )
    @action(detail=True, permission_classes=[IsInternal], query_parameters=None)
    def log(self, request: Request, pk: str) -> Response:
        """The end of an attempt's log, or what came after `offset`."""
        item = self.get_object()
        asked = parameters_of(request, LogAskedSerializer)
        number = asked.get("attempt", item.attempt)
        attempt = item.attempts.filter(number=number).first()
        if attempt is None:
            raise NotFound(f"This item has no attempt {number}." if number else "This item was not begun yet.")
        offset = asked.get("offset")
        most = min(asked["tail"], MAX_BYTES) if offset is None else MAX_BYTES
        return Response(LogSerializer(read_log(attempt=attempt, offset=offset, most_bytes=most)).data)

    def _shown(self, pk: str) -> Response:
        item = self.detail_queryset.get(pk=pk)
        return Response(ItemDetailSerializer(item, context=self.get_serializer_context()).data)


class PauseViewSet(ReadOnlyResource):
    """Stages of which nothing is begun for now. Delete a pause to resume."""

    queryset = Pause.objects.all()
    detail_queryset = Pause.objects.all()
    serializer_class = PauseSerializer
    detail_serializer_class = PauseSerializer
    filterset_class = PauseFilter
    orderings: ClassVar[list[str]] = ["id"]
    ordering: ClassVar[str] = "id"
    required_scopes = dict.fromkeys(("create", "destroy"), Scope.OPERATE)
    bodies = {"create": NewPauseSerializer}

    @extend_schema(responses={201: PauseSerializer, **CONFLICT})
    def create(self, request: Request) -> Response:
        """What runs goes on to its end."""
        asked = self.asked_of(request)
        by = request.user.get_username() if request.user.is_authenticated else ""
        return Response(PauseSerializer(pause(**asked, by=by)).data, status=201)

    @extend_schema(responses={204: None})
    def destroy(self, request: Request, pk: str) -> Response:
        """Resume."""
        resume(names=[self.get_object().stage])
        return Response(status=204)


class QuarantineViewSet(ReadOnlyResource):
    """Products that are not to be trusted: they and everything made from them are suspect until this is lifted."""

    queryset = Quarantine.objects.with_links()
    detail_queryset = Quarantine.objects.with_links()
    serializer_class = QuarantineSerializer
    detail_serializer_class = QuarantineSerializer
    filterset_class = QuarantineFilter
    orderings: ClassVar[list[str]] = ["created_at", "id"]
    ordering: ClassVar[str] = "-created_at"
    required_scopes = dict.fromkeys(("create", "lift", "reprocess"), Scope.OPERATE)
    bodies = {"create": NewQuarantineSerializer}

    @extend_schema(responses={201: QuarantineMadeSerializer, **CONFLICT})
    def create(self, request: Request) -> Response:
        """In one transaction all that was made from it leaves light curves and statistics."""
        given = self.asked_of(request)
        made, batches = quarantine_and_recompute(
            kind=given["kind"], pk=given["id"], reason=given["reason"], actor=_caller(request)
        )
        return self._shown(made, batches, status=201)

    @extend_schema(responses={200: QuarantineMadeSerializer, **CONFLICT})
    @action(detail=True, methods=["post"])
    def lift(self, request: Request, pk: str) -> Response:
        """What is under no other quarantine is trusted again."""
        return self._shown(*lift_and_recompute(row=self.get_object(), actor=_caller(request)))

    @extend_schema(responses=PlanSerializer)
    @action(detail=True)
    def plan(self, request: Request, pk: str) -> Response:
        """The least that rebuilds what is suspect by it, and what cannot be rebuilt and why. Changes nothing."""
        planned = plan(row=self.get_object())
        tiles, epochs = ([row.pk for row in rows] for rows in (planned.tiles, planned.epochs))
        return Response(PlanSerializer({"tiles": tiles, "epochs": epochs, "not_rebuilt": planned.not_rebuilt}).data)

    @extend_schema(responses={201: BatchesSerializer, **CONFLICT})
    @action(detail=True, methods=["post"])
    def reprocess(self, request: Request, pk: str) -> Response:
        """Run its plan."""
        batches = reprocess(row=self.get_object(), owner=_caller(request))
        return Response({"batches": [batch.pk for batch in batches]}, status=201)

    def _shown(self, row: Quarantine, batches: list[Batch], status: int = 200) -> Response:
        shown = QuarantineSerializer(self.detail_queryset.get(pk=row.pk), context=self.get_serializer_context()).data
        return Response({**shown, "batches": [batch.pk for batch in batches]}, status=status)


def _caller(request: Request) -> User | None:
    return request.user if request.user.is_authenticated else None


class WorkerViewSet(ReadOnlyResource):
    """Supervisors of worker processes, those that stopped too."""

    queryset = Worker.objects.for_listing()
    detail_queryset = Worker.objects.for_listing()
    serializer_class = WorkerSerializer
    detail_serializer_class = WorkerSerializer
    filterset_class = WorkerFilter
    orderings: ClassVar[list[str]] = ["seen_at", "id"]
    ordering: ClassVar[str] = "-seen_at"


class PolicyViewSet(QaPolicyViewSet):
    """Versions of the rules. Activating one makes batches, which only this app does."""

    @extend_schema(responses={200: ActivatedSerializer, **CONFLICT})
    @action(detail=True, methods=["post"])
    def activate(self, request: Request, pk: str) -> Response:
        """It judges from now on: tables at once, current images and epochs by the batches in the answer."""
        actor = request.user if request.user.is_authenticated else None
        return Response(ActivatedSerializer(activate_policy(policy=self.get_object(), actor=actor)).data)


class AssessmentViewSet(_TakesQuery, QaAssessmentViewSet):
    """Verdicts on images, calibration tables and epochs. A batch, which only this app makes, gives new ones."""

    required_scopes = {"create": Scope.OPERATE}
    bodies = {"create": AssessAgainSerializer}
    makes = "batch"

    @extend_schema(responses={201: BatchDetailSerializer})
    def create(self, request: Request) -> Response:
        """Judge images or epochs again by the active policy: the batch that does it. Earlier verdicts stay."""
        asked = self.asked_of(request)
        subjects = asked.get("subjects")
        self.asked = asked.get("query")
        made = create_batch(
            stage=StageName.ASSESS,
            subjects=None if subjects is None else [(subject["kind"], subject["id"]) for subject in subjects],
            query=self.asked,
            owner=_caller(request),
        )
        return _shown_batch(self, made.batch.pk, status=201)


class ImageBatchViewSet(WithNothingIgnored):
    """What makes batches of an image, which images know nothing of: the wiring puts them together."""

    lookup_value_regex = QaAssessmentViewSet.lookup_value_regex
    queryset = Image.objects.select_related("measurement_set")
    serializer_class = ReimageSerializer
    filter_backends = []
    required_scopes = {"reimage": Scope.OPERATE}
    bodies = {"reimage": ReimageSerializer}
    makes = "batch"

    @extend_schema(responses={201: BatchDetailSerializer, **CONFLICT})
    @action(detail=True, methods=["post"])
    def reimage(self, request: Request, pk: str) -> Response:
        """Make a tile again from its measurement set, with other parameters; the same ones give the same image."""
        made = reimage(image=self.get_object(), owner=_caller(request), **self.asked_of(request))
        return _shown_batch(self, made.pk, status=201)
