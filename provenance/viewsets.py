"""Actions on the resources of the apps to the left, which know nothing of provenance: the wiring puts them together."""

from __future__ import annotations

from typing import Any, ClassVar

from django.http import HttpResponse, HttpResponseBase
from django.shortcuts import get_object_or_404
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema
from rest_framework.decorators import action
from rest_framework.exceptions import NotFound
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView
from rest_framework.viewsets import GenericViewSet

from contimg.api.filters import refuse_unknown
from contimg.api.negotiation import FileNegotiation
from contimg.api.parameters import parameters_of
from contimg.api.viewsets import ReadOnlyResource
from observations.models import Epoch
from provenance import impact
from provenance.drawing import draw
from provenance.graph import graph_of
from provenance.reach import KINDS
from provenance.serializers import GraphSerializer, ImpactAskedSerializer, ImpactSerializer

SVG = "image/svg+xml"


class _OfProduct(GenericViewSet):
    """Where a product is from, what was made from it, and what it has touched."""

    lookup_value_regex = ReadOnlyResource.lookup_value_regex
    pagination_class = None
    filter_backends = ()
    kind: ClassVar[str]

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        super().initial(request, *args, **kwargs)
        if self.action not in (None, "metadata"):
            refuse_unknown(request, ["format"])

    def _key(self, pk: str) -> int:
        return get_object_or_404(KINDS[self.kind]._default_manager.only("pk"), pk=pk).pk

    @extend_schema(responses=GraphSerializer)
    @action(detail=True)
    def provenance(self, request: Request, pk: str) -> Response:
        """Everything that it was made from and that was made from it, with what made each."""
        return Response(GraphSerializer(graph_of(kind=self.kind, pk=self._key(pk))).data)

    @extend_schema(responses={(200, SVG): OpenApiTypes.STR})
    @action(detail=True, url_path="provenance.svg", content_negotiation_class=FileNegotiation)
    def drawing(self, request: Request, pk: str) -> HttpResponseBase:
        """The same as a picture."""
        key = self._key(pk)
        return HttpResponse(draw(graph_of(kind=self.kind, pk=key), asked=(self.kind, key)), content_type=SVG)

    @extend_schema(responses=ImpactSerializer)
    @action(detail=True)
    def impact(self, request: Request, pk: str) -> Response:
        """What it has touched: products, points of light curves, published verdicts."""
        return Response(ImpactSerializer(impact.of_node(kind=self.kind, pk=self._key(pk))).data)


class ImageProvenanceViewSet(_OfProduct):
    kind = "image"
    queryset = KINDS[kind]._default_manager.all()


class MeasurementSetProvenanceViewSet(_OfProduct):
    kind = "measurement_set"
    queryset = KINDS[kind]._default_manager.all()


class CalibrationTableProvenanceViewSet(_OfProduct):
    kind = "calibration_table"
    queryset = KINDS[kind]._default_manager.all()


class SubbandGroupProvenanceViewSet(_OfProduct):
    kind = "subband_group"
    queryset = KINDS[kind]._default_manager.all()


class EpochProvenanceViewSet(_OfProduct):
    """An epoch's is that of its current mosaic; without one it is a 404."""

    kind = "image"
    queryset = Epoch.objects.all()

    def _key(self, pk: str) -> int:
        mosaic = get_object_or_404(Epoch.objects.only("pk"), pk=pk).mosaics.current().first()
        if mosaic is None:
            raise NotFound("This epoch has no mosaic yet.")
        return mosaic.pk


class ImpactView(APIView):
    """What an antenna's data, the data of a time, or a version of software has touched."""

    @extend_schema(parameters=[ImpactAskedSerializer], responses=ImpactSerializer, operation_id="impact")
    def get(self, request: Request) -> Response:
        """Say an antenna, a time range, both, or a version of software."""
        asked = parameters_of(request, ImpactAskedSerializer)
        return Response(ImpactSerializer(impact.asked(**asked)).data)
