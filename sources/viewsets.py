from __future__ import annotations

from django.http import HttpResponseBase
from django.shortcuts import get_object_or_404
from drf_spectacular.utils import extend_schema
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.viewsets import GenericViewSet

from contimg.api.reuse import ALWAYS, reused
from contimg.api.viewsets import ReadOnlyResource
from images.models import Image
from sources import services
from sources.filters import (
    MeasurementFilter,
    MeasurementOfImageFilter,
    ReferenceCatalogueFilter,
    ReferenceSourceFilter,
    SourceFilter,
)
from sources.models import Measurement, ReferenceCatalogue, ReferenceSource, Source
from sources.serializers import (
    LightCurveSerializer,
    MeasurementDetailSerializer,
    MeasurementSerializer,
    ReferenceCatalogueDetailSerializer,
    ReferenceCatalogueSerializer,
    ReferenceSourceDetailSerializer,
    ReferenceSourceSerializer,
    SourceDetailSerializer,
    SourceSerializer,
)


class SourceViewSet(ReadOnlyResource):
    """Objects on the sky with the statistics of their fluxes."""

    queryset = Source.objects.all()
    detail_queryset = Source.objects.for_detail()
    serializer_class = SourceSerializer
    detail_serializer_class = SourceDetailSerializer
    filterset_class = SourceFilter
    orderings = ["name", "flux_mean_jy", "eta", "v", "last_seen_at", "id"]
    ordering = "name"
    reusable_s = ALWAYS

    @extend_schema(responses=LightCurveSerializer)
    @action(detail=True, url_path="light-curve")
    def light_curve(self, request: Request, pk: str) -> HttpResponseBase:
        """Every epoch that covered the source, and the statistics of those that count."""
        return reused(request, lambda: Response(services.light_curve(source=self.get_object())), for_s=self.reusable_s)


class MeasurementViewSet(ReadOnlyResource):
    """Fluxes of sources in images, fitted or forced."""

    queryset = Measurement.objects.all()
    detail_queryset = Measurement.objects.with_links()
    serializer_class = MeasurementSerializer
    detail_serializer_class = MeasurementDetailSerializer
    filterset_class = MeasurementFilter
    orderings = ["observed_at", "snr", "id"]
    ordering = "-observed_at"
    reusable_s = ALWAYS


class ImageMeasurementViewSet(GenericViewSet):
    """The list of measurements as an action on images, which know nothing of it: the wiring puts them together."""

    lookup_value_regex = MeasurementViewSet.lookup_value_regex
    queryset = Measurement.objects.all()
    serializer_class = MeasurementSerializer
    filterset_class = MeasurementOfImageFilter
    orderings = MeasurementViewSet.orderings
    ordering = MeasurementViewSet.ordering

    @extend_schema(responses=MeasurementSerializer(many=True))
    @action(detail=True)
    def measurements(self, request: Request, pk: str) -> Response:
        """Fluxes measured in this image, fitted and forced; filtered, ordered and paged as all measurements are."""
        image = get_object_or_404(Image.objects.only("pk"), pk=pk)
        rows = self.paginate_queryset(self.filter_queryset(Measurement.objects.filter(image=image)))
        return self.get_paginated_response(self.get_serializer(rows, many=True).data)


class ReferenceCatalogueViewSet(ReadOnlyResource):
    """Catalogues of other telescopes that were imported, such as NVSS."""

    queryset = ReferenceCatalogue.objects.all()
    detail_queryset = ReferenceCatalogue.objects.all()
    serializer_class = ReferenceCatalogueSerializer
    detail_serializer_class = ReferenceCatalogueDetailSerializer
    filterset_class = ReferenceCatalogueFilter
    orderings = ["name", "id"]
    ordering = "name"
    reusable_s = ALWAYS


class ReferenceSourceViewSet(ReadOnlyResource):
    """Their sources, each with the row of the file that it is from."""

    queryset = ReferenceSource.objects.all()
    detail_queryset = ReferenceSource.objects.select_related("catalogue")
    serializer_class = ReferenceSourceSerializer
    detail_serializer_class = ReferenceSourceDetailSerializer
    filterset_class = ReferenceSourceFilter
    orderings = ["flux_jy", "id"]
    ordering = "id"
    reusable_s = ALWAYS
