from __future__ import annotations

from typing import Any, ClassVar, cast

from django import forms
from django.contrib import admin
from django.contrib.auth.models import User
from django.db.models import QuerySet
from django.http import HttpRequest

from calibration.models import AntennaFlag, AppliedFlags, AppliedTable, CalibrationTable, Calibrator, FlagTable
from calibration.staff_flags import InvalidAntennaFlag, add, refuse_impossible, withdraw
from contimg.admin import FactsAdmin, Steered, grade_badge, link, links, number, put_in_quarantine, write_review


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
    extra_facts = (put_in_quarantine("flag_table"),)
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
        put_in_quarantine("calibration_table"),
    )


@admin.register(AppliedTable)
class AppliedTableAdmin(FactsAdmin):
    list_display = ["id", link("table"), link("measurement_set")]
    list_select_related = ["table", "measurement_set"]
    search_fields = ["table__set_name", "measurement_set__name"]


class AntennaFlagForm(forms.ModelForm):
    class Meta:
        model = AntennaFlag
        fields: ClassVar[list[str]] = ["antenna", "started_at", "ended_at", "reason"]

    def clean(self) -> dict[str, Any]:
        given = super().clean() or self.cleaned_data
        if set(self.Meta.fields) <= set(given):  # else what is wrong with one of them is said already
            try:
                refuse_impossible(**{name: given[name] for name in self.Meta.fields})
            except InvalidAntennaFlag as error:
                raise forms.ValidationError(str(error), code=error.code) from error
        return given


@admin.register(AntennaFlag)
class AntennaFlagAdmin(Steered):
    list_display = ["__str__", "ended_at", "reason", "created_by", "withdrawn_at"]
    list_filter = ["antenna"]
    list_select_related = ["created_by"]
    search_fields = ["antenna", "reason"]
    form = AntennaFlagForm
    actions = ["withdraw"]

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return self.has_operate_permission(request)

    def get_fields(self, request: HttpRequest, obj: Any = None) -> list[Any]:
        return AntennaFlagForm.Meta.fields if obj is None else super().get_fields(request, obj)

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> list[Any]:
        return [] if obj is None else super().get_readonly_fields(request, obj)

    def save_model(self, request: HttpRequest, obj: AntennaFlag, form: AntennaFlagForm, change: bool) -> None:
        added = add(**form.cleaned_data, actor=cast(User, request.user))
        obj.pk = added.flag.pk
        self.message_user(request, str(added))

    @admin.action(description="Withdraw", permissions=["operate"])
    def withdraw(self, request: HttpRequest, queryset: QuerySet[AntennaFlag]) -> None:
        by = cast(User, request.user)
        self.each(request, queryset, lambda flag: withdraw(flag=flag, actor=by), "antenna flags are withdrawn")


@admin.register(AppliedFlags)
class AppliedFlagsAdmin(FactsAdmin):
    list_display = ["id", link("measurement_set"), link("flag_table")]
    list_select_related = ["measurement_set", "flag_table__measurement_set"]
    search_fields = ["measurement_set__name"]
