from __future__ import annotations

from django.http import HttpResponseBase
from drf_spectacular.utils import extend_schema
from rest_framework.decorators import action
from rest_framework.request import Request

from contimg.api.files import file_answers, rendition_response
from contimg.api.negotiation import FileNegotiation
from contimg.api.parameters import parameters_of
from contimg.api.reuse import ALWAYS
from contimg.api.viewsets import ReadOnlyResource
from contimg.products import product_path
from contimg.renditions import Rendition
from observations.filters import MeasurementSetFilter, SubbandGroupFilter
from observations.models import MeasurementSet, SubbandGroup
from observations.serializers import (
    MeasurementSetDetailSerializer,
    MeasurementSetSerializer,
    RasterAskedSerializer,
    SubbandGroupDetailSerializer,
    SubbandGroupSerializer,
)

PNG = "image/png"


class SubbandGroupViewSet(ReadOnlyResource):
    """A tile's up-to-16 subband files."""

    queryset = SubbandGroup.objects.for_listing()
    detail_queryset = SubbandGroup.objects.for_detail()
    serializer_class = SubbandGroupSerializer
    detail_serializer_class = SubbandGroupDetailSerializer
    filterset_class = SubbandGroupFilter
    orderings = ["observed_at", "id"]
    ordering = "-observed_at"
    reusable_s = ALWAYS


class MeasurementSetViewSet(ReadOnlyResource):
    """Visibilities in CASA format, raw or calibrated."""

    queryset = MeasurementSet.objects.for_listing()
    detail_queryset = MeasurementSet.objects.for_detail()
    serializer_class = MeasurementSetSerializer
    detail_serializer_class = MeasurementSetDetailSerializer
    filterset_class = MeasurementSetFilter
    orderings = ["observed_at", "flagged_fraction", "id"]
    ordering = "-observed_at"
    reusable_s = ALWAYS

    @extend_schema(parameters=[RasterAskedSerializer], responses=file_answers(PNG, is_made=True))
    @action(detail=True, url_path="raster.png", content_negotiation_class=FileNegotiation, query_parameters=None)
    def raster(self, request: Request, pk: str) -> HttpResponseBase:
        """Amplitude, phase or flags of the set itself over two of its axes, cross-correlations of all polarizations.

        The first time it takes as long as reading the set.
        """
        measurement_set = self.get_object()
        raster = Rendition(
            engine="observations.engines.raster:draw",
            recipe=measurement_set.recipe,
            parameters={"name": measurement_set.name, **parameters_of(request, RasterAskedSerializer)},
            arguments={"path": str(product_path(measurement_set.path))},
            suffix=".png",
        )
        return rendition_response(request, raster, name=f"{measurement_set.name}_raster.png", content_type=PNG)
