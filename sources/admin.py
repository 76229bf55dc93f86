from __future__ import annotations

from django.contrib import admin
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from contimg.admin import FactsAdmin, link, links, number
from sources.models import Catalogue, Comparison, Measurement, ReferenceCatalogue, ReferenceSource, Source


@admin.register(Source)
class SourceAdmin(FactsAdmin):
    list_display = [
        "name",
        number("ra_deg", ".5f", description="RA (deg)"),
        number("dec_deg", "+.5f", description="dec (deg)"),
        "n_measurements",
        number("flux_mean_jy", ".2f", scale=1e3, description="mean flux (mJy)"),
        number("eta", ".2f", description="eta"),
        number("v", ".3f", description="V"),
        "is_variable",
        "last_seen_at",
    ]
    list_filter = ["is_variable"]
    search_fields = ["name"]
    extra_facts = ("light_curve", links("measurements", "sources.measurement", "source"))

    @admin.display(description="light curve")
    def light_curve(self, source: Source) -> SafeString:
        return format_html('<a href="{}">show</a>', reverse("source-light-curve", args=[source.pk]))


@admin.register(Measurement)
class MeasurementAdmin(FactsAdmin):
    list_display = [
        "id",
        link("source"),
        link("image"),
        "observed_at",
        "is_forced",
        number("flux_jy", ".2f", scale=1e3, description="flux (mJy)"),
        number("flux_err_jy", ".2f", scale=1e3, description="error (mJy)"),
        number("snr", ".1f", description="SNR"),
    ]
    list_filter = ["is_forced", "observed_at"]
    list_select_related = ["source", "image"]
    search_fields = ["source__name", "image__name"]


@admin.register(Catalogue)
class CatalogueAdmin(FactsAdmin):
    list_display = ["id", link("image"), "engine", "n_detected", "n_forced", "n_new_sources", "created_at"]
    list_filter = ["engine"]
    list_select_related = ["image"]
    search_fields = ["image__name"]


@admin.register(ReferenceCatalogue)
class ReferenceCatalogueAdmin(FactsAdmin):
    list_display = [
        "name",
        number("frequency_hz", ".0f", scale=1e-6, description="frequency (MHz)"),
        number("epoch_jyear", ".1f", description="epoch"),
        "n_sources",
        "imported_at",
        "note",
    ]
    search_fields = ["name", "note"]
    extra_facts = (links("sources", "sources.referencesource", "catalogue"),)


@admin.register(ReferenceSource)
class ReferenceSourceAdmin(FactsAdmin):
    list_display = [
        "id",
        link("catalogue"),
        "designation",
        number("ra_deg", ".5f", description="RA (deg)"),
        number("dec_deg", "+.5f", description="dec (deg)"),
        number("flux_jy", ".2f", scale=1e3, description="flux (mJy)"),
        number("flux_err_jy", ".2f", scale=1e3, description="error (mJy)"),
    ]
    list_filter = ["catalogue"]
    list_select_related = ["catalogue"]
    search_fields = ["designation"]


@admin.register(Comparison)
class ComparisonAdmin(FactsAdmin):
    list_display = ["id", link("image"), link("catalogue"), "n_matched", "flux_ratio", "completeness", "created_at"]
    list_filter = ["catalogue"]
    list_select_related = ["image", "catalogue"]
    search_fields = ["image__name"]
