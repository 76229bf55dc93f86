from __future__ import annotations

import hashlib

from django.db.models import F
from django.http import HttpResponseBase
from django.shortcuts import get_object_or_404
from drf_spectacular.utils import extend_schema
from rest_framework.decorators import action
from rest_framework.exceptions import NotFound
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.settings import api_settings
from rest_framework.viewsets import GenericViewSet

from contimg.api import pagination
from contimg.api.files import content_response, file_answers, rendition_response
from contimg.api.parameters import parameters_of
from contimg.api.renderers import CsvRenderer, PngRenderer, VoTableRenderer
from contimg.api.reuse import ALWAYS, reused
from contimg.api.viewsets import ReadOnlyResource
from images.cutouts import Square, fitting_arcsec, sheet
from images.models import Image
from images.querysets import ImageQuerySet
from sources import light_curve_files, services
from sources.filters import (
    MeasurementFilter,
    MeasurementOfImageFilter,
    ReferenceCatalogueFilter,
    ReferenceSourceFilter,
    SourceFilter,
)
from sources.models import Measurement, ReferenceCatalogue, ReferenceSource, Source
from sources.serializers import (
    CutoutOfSourceSerializer,
    CutoutsAskedSerializer,
    LightCurveSerializer,
    MeasurementDetailSerializer,
    MeasurementSerializer,
    NeighboursAskedSerializer,
    NeighbourSerializer,
    ReferenceCatalogueDetailSerializer,
    ReferenceCatalogueSerializer,
    ReferenceSourceDetailSerializer,
    ReferenceSourceSerializer,
    SheetAskedSerializer,
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
    is_exported = True

    @extend_schema(
        responses={
            (200, "application/json"): LightCurveSerializer,
            **file_answers(CsvRenderer.media_type, VoTableRenderer.media_type, PngRenderer.media_type, is_made=True),
        }
    )
    @action(
        detail=True,
        url_path="light-curve",
        renderer_classes=[*api_settings.DEFAULT_RENDERER_CLASSES, CsvRenderer, VoTableRenderer, PngRenderer],
    )
    def light_curve(self, request: Request, pk: str) -> HttpResponseBase:
        """Every epoch that covered the source, and the statistics of those that count; or its points as a file."""

        def made() -> Response:
            return Response(services.light_curve(source=self.get_object()))

        is_file = request.accepted_renderer.format in ("csv", "votable", "png")
        return self._light_curve_file(request) if is_file else reused(request, made, for_s=self.reusable_s)

    def _light_curve_file(self, request: Request) -> HttpResponseBase:
        source, form = self.get_object(), request.accepted_renderer.format
        curve = services.light_curve(source=source)
        if form == "png":
            plot = light_curve_files.plot(source=source, light_curve=curve)
            return rendition_response(request, plot, name=f"{source.name}.png", content_type=PngRenderer.media_type)
        content = (
            light_curve_files.as_csv(light_curve=curve)
            if form == "csv"
            else light_curve_files.as_votable(source=source, light_curve=curve)
        )
        return content_response(
            request,
            content,
            name=f"{source.name}.{'csv' if form == 'csv' else 'xml'}",
            content_type=f"{request.accepted_renderer.media_type}; charset=utf-8",
            etag=hashlib.sha256(content).hexdigest(),
        )

    @extend_schema(
        parameters=[SheetAskedSerializer],
        responses={
            (200, "application/json"): CutoutOfSourceSerializer(many=True),
            **file_answers(PngRenderer.media_type, is_made=True),
        },
        filters=False,
    )
    @action(
        detail=True,
        renderer_classes=[*api_settings.DEFAULT_RENDERER_CLASSES, PngRenderer],
        query_parameters=None,
    )
    def cutouts(self, request: Request, pk: str) -> Response | HttpResponseBase:
        """The current images that cover the source with the cutout of each, newest first; or the newest as a sheet."""
        source = self.get_object()
        images = Image.objects.current().covering(ra_deg=source.ra_deg, dec_deg=source.dec_deg)
        if request.accepted_renderer.format == "png":
            return self._sheet(request, source, images)
        asked = parameters_of(request, CutoutsAskedSerializer, besides=pagination.PARAMETERS)
        page = self.paginate_queryset(images.for_listing().order_by("-observed_at", "-id"))
        context = {**self.get_serializer_context(), "source": source, **asked}
        return self.get_paginated_response(CutoutOfSourceSerializer(page, many=True, context=context).data)

    def _sheet(self, request: Request, source: Source, images: ImageQuerySet) -> HttpResponseBase:
        asked = parameters_of(request, SheetAskedSerializer)
        newest = images.select_related("root").order_by(F("observed_at").desc(nulls_last=True), "-id")[: asked["n"]]
        squares = [
            Square(
                image=image,
                ra_deg=source.ra_deg,
                dec_deg=source.dec_deg,
                size_arcsec=fitting_arcsec(image=image, size_arcsec=asked["size_arcsec"]),
            )
            for image in newest
        ]
        if not squares:
            raise NotFound("No current image covers this source.")
        name = f"{source.name}_cutouts.png"
        return rendition_response(request, sheet(squares=squares), name=name, content_type=PngRenderer.media_type)

    @extend_schema(parameters=[NeighboursAskedSerializer], responses=NeighbourSerializer(many=True), filters=False)
    @action(detail=True, query_parameters=None)
    def neighbours(self, request: Request, pk: str) -> Response:
        """Other sources near this one, the nearest first."""
        source = self.get_object()
        asked = parameters_of(request, NeighboursAskedSerializer, besides=pagination.PARAMETERS)
        near = Source.objects.within_cone(
            ra_deg=source.ra_deg, dec_deg=source.dec_deg, radius_deg=asked["radius_arcsec"] / 3600
        ).exclude(pk=source.pk)
        return self.get_paginated_response(NeighbourSerializer(self.paginate_queryset(near), many=True).data)


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
    is_exported = True


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
