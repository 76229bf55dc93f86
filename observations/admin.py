from __future__ import annotations

from django.contrib import admin
from django.utils.html import format_html_join
from django.utils.safestring import SafeString

from contimg.admin import (
    EMPTY,
    FactsAdmin,
    FactsInline,
    grade_badge,
    link,
    links,
    number,
    put_in_quarantine,
    write_review,
)
from contimg.gates import gates_of
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
    extra_facts = (
        links("measurement sets", "observations.measurementset", "group"),
        put_in_quarantine("subband_group"),
    )
    inlines = [SubbandFileInline]

    @admin.display(description="missing")
    def missing(self, group: SubbandGroup) -> str:
        return _subbands(group.missing_subbands)

    @admin.display(description="twice")
    def duplicates(self, group: SubbandGroup) -> str:
        return _subbands(group.duplicate_subbands)


@admin.register(Epoch)
class EpochAdmin(FactsAdmin):
    list_display = [
        "name",
        "started_at",
        number("dec_deg", ".3f", description="dec strip (deg)"),
        grade_badge,
        "is_lenient",
        "created_at",
    ]
    list_filter = ["grade", "is_lenient", "started_at"]
    extra_facts = (
        grade_badge,
        "gates",
        links("mosaics", "images.image", "mosaic_of"),
        links("assessments", "qa.assessment", "epoch"),
        write_review,
    )

    @admin.display(description="gates")
    def gates(self, epoch: Epoch) -> SafeString | str:
        """Of the current assessment, a line each."""
        verdicts = epoch.assessments.current().with_findings()
        findings = [finding for verdict in verdicts for finding in verdict.findings.all()]
        told = [(gate.name, gate.outcome, gate.why) for gate in gates_of(findings)]
        return format_html_join("", "<div>{}: <b>{}</b> {}</div>", told) or EMPTY


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
        put_in_quarantine("measurement_set"),
    )
