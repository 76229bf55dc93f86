from __future__ import annotations

from django.contrib import admin
from django.utils.html import format_html
from django.utils.safestring import SafeString

from contimg.admin import FactsAdmin, FactsInline, change_url, grade_badge, link, links
from qa.models import Alert, Assessment, Finding, Policy, Review, Rule


@admin.display(description="outcome", ordering="outcome")
def _outcome(finding: Finding) -> SafeString:
    return format_html('<span class="outcome-{}">{}</span>', finding.outcome, finding.outcome)


class RuleInline(FactsInline):
    model = Rule
    fields = ["subject_kind", "name", "metric", "comparison", "limit", "grade", "reason"]


@admin.register(Policy)
class PolicyAdmin(FactsAdmin):
    list_display = ["__str__", "is_active", "created_at", "note"]
    list_filter = ["is_active", "name"]
    search_fields = ["name", "note"]
    extra_facts = (links("assessments", "qa.assessment", "policy"),)
    inlines = [RuleInline]


@admin.register(Rule)
class RuleAdmin(FactsAdmin):
    list_display = ["name", link("policy"), "subject_kind", "metric", "comparison", "limit", grade_badge]
    list_filter = ["subject_kind", "grade", "policy"]
    list_select_related = ["policy"]
    search_fields = ["name", "metric"]


class FindingInline(FactsInline):
    model = Finding
    fields = ["rule", "metric", "value", "comparison", "limit", _outcome, "grade", "reason"]


@admin.register(Assessment)
class AssessmentAdmin(FactsAdmin):
    list_display = ["id", "subject", grade_badge, link("policy"), "is_current", "created_at"]
    list_filter = ["grade", "is_current", "policy"]
    list_select_related = ["policy", "image", "calibration_table", "epoch"]
    search_fields = ["image__name", "calibration_table__set_name"]
    inlines = [FindingInline]

    @admin.display(description="subject")
    def subject(self, assessment: Assessment) -> SafeString:
        row = assessment.image or assessment.calibration_table or assessment.epoch
        return format_html('<a href="{}">{}</a>', change_url(row), row)


@admin.register(Finding)
class FindingAdmin(FactsAdmin):
    list_display = ["id", "rule", "value", "comparison", "limit", _outcome, link("assessment"), "reason"]
    list_filter = ["outcome", "rule"]
    list_select_related = ["assessment"]
    search_fields = ["rule", "metric"]


@admin.register(Review)
class ReviewAdmin(FactsAdmin):
    list_display = ["id", "subject", "verdict", "tags", "reviewer", "is_current", "created_at"]
    list_filter = ["verdict", "is_current", "reviewer"]
    list_select_related = ["reviewer", "image", "calibration_table"]
    search_fields = ["comment", "image__name", "calibration_table__set_name"]

    @admin.display(description="subject")
    def subject(self, review: Review) -> SafeString:
        row = review.image or review.calibration_table
        return format_html('<a href="{}">{}</a>', change_url(row), row)


@admin.register(Alert)
class AlertAdmin(FactsAdmin):
    list_display = [
        "__str__", "pointing_dec_deg", "antenna", "value", "expected", "acknowledged_at", "silenced_until"
    ]  # fmt: skip
    list_filter = ["series", "kind", "acknowledged_at"]
    search_fields = ["series", "antenna", "note"]
