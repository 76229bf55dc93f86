from __future__ import annotations

from typing import Any

from django.http import HttpResponseBase
from django.shortcuts import get_object_or_404
from drf_spectacular.utils import extend_schema
from rest_framework.decorators import action
from rest_framework.exceptions import NotFound
from rest_framework.request import Request
from rest_framework.response import Response

from contimg.api import pagination
from contimg.api.files import content_response, file_answers, file_response, not_modified
from contimg.api.negotiation import FileNegotiation, FormNegotiation
from contimg.api.parameters import parameters_of
from contimg.api.renderers import FitsRenderer, PngRenderer
from contimg.api.reuse import ALWAYS, passing
from contimg.api.viewsets import ReadOnlyResource
from contimg.exceptions import MissingProduct
from contimg.products import product_path
from images.cutouts import Square, cutout
from images.filters import EpochFilter, ImageFilter
from images.models import Image
from images.mosaics import tiles_of
from images.serializers import (
    CutoutAskedSerializer,
    EpochDetailSerializer,
    EpochSerializer,
    ImageDetailSerializer,
    ImageSerializer,
    ImageVersionSerializer,
)
from images.services import image_file
from observations.models import Epoch

FITS = "application/fits"
PNG = "image/png"


class ImageViewSet(ReadOnlyResource):
    """Images of the sky: tiles, mosaics and external ones."""

    queryset = Image.objects.for_listing()
    detail_queryset = Image.objects.for_detail()
    serializer_class = ImageSerializer
    detail_serializer_class = ImageDetailSerializer
    filterset_class = ImageFilter
    orderings = ["observed_at", "rms_jy_per_beam", "dynamic_range", "name", "created_at", "id"]
    ordering = "-observed_at"
    reusable_s = ALWAYS
    is_exported = True

    def make_detail(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Without its file an image has no `wcs`; with the file it has, and no commit would say so."""
        response = super().make_detail(request, *args, **kwargs)
        return passing(response) if response.data["wcs"] is None else response

    @extend_schema(responses=file_answers(FITS))
    @action(detail=True, content_negotiation_class=FileNegotiation)
    def fits(self, request: Request, pk: str) -> HttpResponseBase:
        """The FITS file, whole or by byte range."""
        image = self.get_object()
        path = image_file(image=image)
        if path.stat().st_size != image.size_bytes:  # what its ETag promises is the checksum
            raise MissingProduct(f"The file {path.name} is not as long as it was; `verify` says what else is broken.")
        return file_response(request, path, content_type=FITS, etag=image.checksum)

    @extend_schema(parameters=[CutoutAskedSerializer], responses=file_answers(FITS, PNG, is_made=True))
    @action(
        detail=True,
        renderer_classes=[FitsRenderer, PngRenderer],
        content_negotiation_class=FormNegotiation,
        query_parameters=None,
    )
    def cutout(self, request: Request, pk: str) -> HttpResponseBase:
        """A square around a point as FITS (by default) or PNG, 16 to 2048 pixels a side, NaN beyond the image."""
        image = self.get_object()
        square = Square(image=image, **parameters_of(request, CutoutAskedSerializer))
        form = request.accepted_renderer.format
        etag = square.recipe(form)
        return not_modified(request, etag=etag) or content_response(
            request,
            cutout(square=square, form=form),
            name=f"{image.name}_{etag[:8]}.{form}",
            content_type=request.accepted_renderer.media_type,
            etag=etag,
        )

    @extend_schema(responses=ImageVersionSerializer(many=True), filters=False)
    @action(detail=True, query_parameters=pagination.PARAMETERS)
    def versions(self, request: Request, pk: str) -> Response:
        """All versions of this tile or mosaic, this one among them, the newest first."""
        image = get_object_or_404(Image.objects.select_related("measurement_set"), pk=pk)
        versions = Image.objects.versions_of(image).for_listing().order_by("-created_at", "-id")
        rows = ImageVersionSerializer(self.paginate_queryset(versions), many=True)
        return self.get_paginated_response(rows.data)

    @extend_schema(responses=file_answers(FITS))
    @action(detail=True, content_negotiation_class=FileNegotiation)
    def noise(self, request: Request, pk: str) -> HttpResponseBase:
        """The FITS file of a mosaic's noise at each pixel."""
        image = self.get_object()
        if not image.noise_path:
            raise NotFound("This image has no map of its noise; mosaics have one.")
        return file_response(request, product_path(image.noise_path), content_type=FITS, etag=image.recipe)

    @extend_schema(responses=file_answers(PNG))
    @action(detail=True, url_path="preview.png", content_negotiation_class=FileNegotiation)
    def preview(self, request: Request, pk: str) -> HttpResponseBase:
        """A picture of the image with its grid, colour bar and beam."""
        image = self.get_object()
        if not image.preview_path:
            raise NotFound("This image has no preview: none was made with it.")
        return file_response(request, product_path(image.preview_path), content_type=PNG, etag=image.recipe)


class EpochViewSet(ReadOnlyResource):
    """UTC hours of a dec strip, whose tiles make one mosaic."""

    queryset = Epoch.objects.for_listing()
    detail_queryset = Epoch.objects.for_detail()
    serializer_class = EpochSerializer
    detail_serializer_class = EpochDetailSerializer
    filterset_class = EpochFilter
    orderings = ["started_at", "id"]
    ordering = "-started_at"
    reusable_s = ALWAYS

    def make_detail(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        epoch = self.get_object()
        mosaic = epoch.mosaics.current().with_comparison().first()
        comparison = getattr(mosaic, "comparison", None)
        context = {**self.get_serializer_context(), "tiles": tiles_of(epoch=epoch), "comparison": comparison}
        return Response(EpochDetailSerializer(epoch, context=context).data)
