from __future__ import annotations

from typing import ClassVar

from django.contrib.auth.models import User
from django.http import HttpResponseBase
from drf_spectacular.utils import extend_schema
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.viewsets import GenericViewSet

from access.scopes import Scope
from calibration.antennas import antennas_of
from calibration.filters import AntennaFlagFilter, CalibrationTableFilter, CalibratorFilter
from calibration.models import AntennaFlag, CalibrationTable, Calibrator
from calibration.retirement import retire
from calibration.serializers import (
    AntennaFlagChangeSerializer,
    AntennaFlagSerializer,
    AntennasSerializer,
    CalibrationTableDetailSerializer,
    CalibrationTableSerializer,
    CalibratorDetailSerializer,
    CalibratorSerializer,
    NewAntennaFlagSerializer,
    RetireSerializer,
)
from calibration.staff_flags import Change, add, withdraw
from contimg.api.errors import ProblemSerializer
from contimg.api.files import file_answers, rendition_response
from contimg.api.filters import refuse_unknown
from contimg.api.negotiation import FileNegotiation
from contimg.api.reuse import ALWAYS
from contimg.api.viewsets import ReadOnlyResource
from contimg.products import product_path
from contimg.renditions import Rendition
from observations.models import MeasurementSet

PNG = "image/png"


class CalibratorViewSet(ReadOnlyResource):
    """Sources of known flux."""

    queryset = Calibrator.objects.all()
    detail_queryset = Calibrator.objects.all()
    serializer_class = CalibratorSerializer
    detail_serializer_class = CalibratorDetailSerializer
    filterset_class = CalibratorFilter
    orderings = ["name", "ra_deg", "dec_deg", "id"]
    ordering = "name"
    reusable_s = 5  # the next transits


class CalibrationTableViewSet(ReadOnlyResource):
    """Solutions: delays K, bandpass B, gains G."""

    queryset = CalibrationTable.objects.for_listing()
    detail_queryset = CalibrationTable.objects.for_detail()
    serializer_class = CalibrationTableSerializer
    detail_serializer_class = CalibrationTableDetailSerializer
    filterset_class = CalibrationTableFilter
    orderings = ["valid_from", "created_at", "id"]
    ordering = "-valid_from"
    reusable_s = ALWAYS
    required_scopes = {"retire": Scope.OPERATE}
    bodies = {"retire": RetireSerializer}

    @extend_schema(responses={200: CalibrationTableSerializer, 409: ProblemSerializer})
    @action(detail=True, methods=["post"])
    def retire(self, request: Request, pk: str) -> Response:
        """No tile is calibrated with it any more. What was made with it stays; quarantine it if that is suspect too."""
        table = retire(table=self.get_object(), actor=_user_of(request), **self.asked_of(request))
        return Response(CalibrationTableSerializer(table, context=self.get_serializer_context()).data)

    @extend_schema(responses=file_answers(PNG, is_made=True))
    @action(detail=True, url_path="solutions.png", content_negotiation_class=FileNegotiation)
    def solutions(self, request: Request, pk: str) -> HttpResponseBase:
        """Amplitude and phase of every antenna, against frequency for a bandpass; flagged ones are marked."""
        table = self.get_object()
        plot = Rendition(
            engine="calibration.engines.solutions_plot:draw",
            recipe=table.recipe,
            parameters={"name": str(table)},
            arguments={"path": str(product_path(table.path))},
            suffix=".png",
        )
        return rendition_response(request, plot, name=f"{table}.png", content_type=PNG)


class AntennaFlagViewSet(ReadOnlyResource):
    """What staff know to be bad: an antenna, or all, from when to when. The next flagging of a tile uses it."""

    queryset = AntennaFlag.objects.all()
    detail_queryset = AntennaFlag.objects.all()
    serializer_class = AntennaFlagSerializer
    detail_serializer_class = AntennaFlagSerializer
    filterset_class = AntennaFlagFilter
    orderings: ClassVar[list[str]] = ["started_at", "id"]
    ordering: ClassVar[str] = "-started_at"
    reusable_s = ALWAYS
    required_scopes = dict.fromkeys(("create", "withdraw"), Scope.OPERATE)
    bodies = {"create": NewAntennaFlagSerializer}

    @extend_schema(responses={201: AntennaFlagChangeSerializer})
    def create(self, request: Request) -> Response:
        """Tiles that were flagged keep their flags until they are processed again; the answer says how many."""
        return self._shown(add(**self.asked_of(request), actor=_user_of(request)), status=201)

    @extend_schema(responses={200: AntennaFlagChangeSerializer, 409: ProblemSerializer})
    @action(detail=True, methods=["post"])
    def withdraw(self, request: Request, pk: str) -> Response:
        """The next flagging no longer uses it; what it was used for stays recorded."""
        return self._shown(withdraw(flag=self.get_object(), actor=_user_of(request)))

    def _shown(self, change: Change, status: int = 200) -> Response:
        shown = AntennaFlagChangeSerializer(change, context=self.get_serializer_context())
        return Response(shown.data, status=status)


class MeasurementSetAntennaViewSet(GenericViewSet):
    """An action on measurement sets, which know of no flags: the wiring puts them together."""

    lookup_value_regex = ReadOnlyResource.lookup_value_regex
    queryset = MeasurementSet.objects.all()
    pagination_class = None
    filter_backends = ()

    @extend_schema(responses={200: AntennasSerializer, **dict.fromkeys((410, 422), ProblemSerializer)})
    @action(detail=True)
    def antennas(self, request: Request, pk: str) -> Response:
        """Each antenna with its place, its flagged fraction and what staff have flagged of it at that time."""
        refuse_unknown(request, ["format"])
        return Response(AntennasSerializer(antennas_of(measurement_set=self.get_object())).data)


def _user_of(request: Request) -> User | None:
    return request.user if request.user.is_authenticated else None
