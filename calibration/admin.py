from __future__ import annotations

from django.contrib import admin

from calibration.models import AntennaFlag, AppliedFlags, AppliedTable, CalibrationTable, Calibrator, FlagTable
from contimg.admin import FactsAdmin, grade_badge, link, links, number, write_review


@admin.register(Calibrator)
class CalibratorAdmin(FactsAdmin):
    list_display = [
        "name",
        number("ra_deg", ".5f", description="RA (deg)"),
        number("dec_deg", "+.5f", description="dec (deg)"),
        "reference",
        "is_retired",
    ]
    list_filter = ["is_retired"]
    search_fields = ["name"]
    extra_facts = (links("tables", "calibration.calibrationtable", "calibrator"),)


@admin.register(FlagTable)
class FlagTableAdmin(FactsAdmin):
    list_display = [
        "id",
        link("measurement_set"),
        number("flagged_fraction", ".1%", description="flagged"),
        "created_at",
    ]
    list_select_related = ["measurement_set"]
    search_fields = ["measurement_set__name"]


@admin.register(CalibrationTable)
class CalibrationTableAdmin(FactsAdmin):
    list_display = [
        "set_name",
        "kind",
        grade_badge,
        "valid_from",
        "valid_until",
        number("dec_deg", ".3f", description="dec strip (deg)"),
        link("calibrator"),
        link("source_measurement_set"),
        "is_retired",
    ]
    list_filter = ["kind", "grade", "is_retired", "calibrator"]
    list_select_related = ["calibrator", "source_measurement_set"]
    search_fields = ["set_name"]
    extra_facts = (
        links("assessments", "qa.assessment", "calibration_table"),
        write_review,
        links("reviews", "qa.review", "calibration_table"),
        links("applied to", "calibration.appliedtable", "table"),
    )


@admin.register(AppliedTable)
class AppliedTableAdmin(FactsAdmin):
    list_display = ["id", link("table"), link("measurement_set")]
    list_select_related = ["table", "measurement_set"]
    search_fields = ["table__set_name", "measurement_set__name"]


@admin.register(AntennaFlag)
class AntennaFlagAdmin(FactsAdmin):
    list_display = ["__str__", "ended_at", "reason", "created_by", "withdrawn_at"]
    list_filter = ["antenna"]
    list_select_related = ["created_by"]
    search_fields = ["antenna", "reason"]


@admin.register(AppliedFlags)
class AppliedFlagsAdmin(FactsAdmin):
    list_display = ["id", link("measurement_set"), link("flag_table")]
    list_select_related = ["measurement_set", "flag_table__measurement_set"]
    search_fields = ["measurement_set__name"]
