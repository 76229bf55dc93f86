from __future__ import annotations

from django.contrib import admin

from contimg.admin import EMPTY, FactsAdmin, FactsInline, link, links, number, write_review
from observations.models import DataRoot, Epoch, MeasurementSet, SubbandFile, SubbandGroup


@admin.register(DataRoot)
class DataRootAdmin(FactsAdmin):
    list_display = ["path", "created_at"]
    search_fields = ["path"]
    extra_facts = (links("subband files", "observations.subbandfile", "root"), links("images", "images.image", "root"))


class SubbandFileInline(FactsInline):
    model = SubbandFile
    fields = ["relative_path", "subband", "started_at", "frequency_hz", "size_bytes"]
    ordering = ["subband", "id"]


@admin.register(SubbandGroup)
class SubbandGroupAdmin(FactsAdmin):
    list_display = [
        "name",
        "observed_at",
        number("pointing_dec_deg", ".3f", description="dec strip (deg)"),
        "n_subbands",
        "missing",
        "duplicates",
        "is_complete",
    ]
    list_filter = ["is_complete", "observed_at"]
    extra_facts = (links("measurement sets", "observations.measurementset", "group"),)
    inlines = [SubbandFileInline]

    @admin.display(description="missing")
    def missing(self, group: SubbandGroup) -> str:
        return _subbands(group.missing_subbands)

    @admin.display(description="twice")
    def duplicates(self, group: SubbandGroup) -> str:
        return _subbands(group.duplicate_subbands)


@admin.register(Epoch)
class EpochAdmin(FactsAdmin):
    list_display = ["name", "started_at", number("dec_deg", ".3f", description="dec strip (deg)"), "created_at"]
    list_filter = ["started_at"]
    extra_facts = (links("mosaics", "images.image", "mosaic_of"), write_review)


def _subbands(numbers: list[int]) -> str:
    return ", ".join(f"sb{number:02d}" for number in numbers) or EMPTY


@admin.register(SubbandFile)
class SubbandFileAdmin(FactsAdmin):
    list_display = ["__str__", "subband", "started_at", link("group"), "size_bytes", "error_code"]
    list_filter = ["subband", "error_code", "root"]
    list_select_related = ["group"]
    search_fields = ["relative_path"]


@admin.register(MeasurementSet)
class MeasurementSetAdmin(FactsAdmin):
    list_display = [
        "name",
        "observed_at",
        "is_calibrated",
        "is_current",
        "is_lenient",
        number("flagged_fraction", ".1%", description="flagged"),
        "n_antennas",
        link("group"),
    ]
    list_filter = ["is_calibrated", "is_current", "is_lenient", "observed_at"]
    list_select_related = ["group"]
    search_fields = ["name", "path"]
    extra_facts = (
        links("images", "images.image", "measurement_set"),
        links("tables applied", "calibration.appliedtable", "measurement_set"),
        links("calibrated sets", "observations.measurementset", "calibrated_from"),
    )
