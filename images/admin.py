from __future__ import annotations

from django.contrib import admin
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from contimg.admin import FactsAdmin, grade_badge, link, links, number, preview_picture, put_in_quarantine, write_review
from images.models import Image, ImageEdge, MosaicTile


@admin.register(Image)
class ImageAdmin(FactsAdmin):
    list_display = [
        "thumbnail",
        "name",
        "kind",
        grade_badge,
        "observed_at",
        number("rms_jy_per_beam", ".3g", scale=1e3, description="rms (mJy/beam)"),
        number("dynamic_range", ".0f", description="dynamic range"),
        link("measurement_set"),
        "is_current",
        "is_suspect",
    ]
    list_display_links = ["thumbnail", "name"]
    list_filter = [
        "kind",
        "grade",
        "is_current",
        "is_suspect",
        "is_lenient",
        "grade_source",
        "is_disputed",
        "observed_at",
    ]
    list_select_related = ["measurement_set"]
    search_fields = ["name", "path"]
    extra_facts = (
        "preview",
        grade_badge,
        "fits",
        links("tiles", "images.mosaictile", "mosaic"),
        links("assessments", "qa.assessment", "image"),
        write_review,
        links("reviews", "qa.review", "image"),
        links("comparison", "sources.comparison", "image"),
        links("measurements", "sources.measurement", "image"),
        put_in_quarantine("image"),
    )

    @admin.display(description="preview")
    def thumbnail(self, image: Image) -> SafeString | str:
        return preview_picture(image, "preview-small")

    @admin.display(description="preview")
    def preview(self, image: Image) -> SafeString | str:
        return preview_picture(image, "preview-large")

    @admin.display(description="FITS")
    def fits(self, image: Image) -> SafeString:
        return format_html('<a href="{}">download</a>', reverse("image-fits", args=[image.pk]))


@admin.register(MosaicTile)
class MosaicTileAdmin(FactsAdmin):
    list_display = [
        link("mosaic"),
        link("tile"),
        number("rms_jy_per_beam", ".3g", scale=1e3, description="rms at the common beam (mJy/beam)"),
    ]
    list_select_related = ["mosaic", "tile"]


@admin.register(ImageEdge)
class ImageEdgeAdmin(FactsAdmin):
    list_display = [link("image"), "number", "normal_x", "normal_y", "normal_z", "offset"]
    list_select_related = ["image"]
