from __future__ import annotations

from calibration.models import AntennaFlag, CalibrationTable, Calibrator
from contimg.api.filters import (
    BOUNDS,
    NULLABLE_BOUNDS,
    RANGE,
    ChoicesFilter,
    ConeFilter,
    ListFilter,
    StrictBooleanFilter,
    TextFilter,
    TimeFilter,
)
from contimg.models import Grade, GradeSource


class CalibratorFilter(ConeFilter):
    name = TextFilter(lookup_expr="iexact")
    transiting_at = TimeFilter(
        method="filter_transiting_at",
        help_text="Within the beam's half-power radius of the meridian at this time (UTC), at any declination.",
    )

    class Meta:
        model = Calibrator
        fields = {"dec_deg": BOUNDS, "is_retired": ["exact"]}

    def filter_transiting_at(self, queryset, name, value):
        return queryset.transiting(value)


class CalibrationTableFilter(ListFilter):
    kind = ChoicesFilter(choices=CalibrationTable.Kind)
    grade = ChoicesFilter(choices=Grade)
    grade_source = ChoicesFilter(choices=GradeSource)
    valid_at = TimeFilter(method="filter_valid_at", help_text="Valid at this time (UTC).")
    calibrator = TextFilter(method="filter_calibrator", help_text="Its name, as the detail has it, or its id.")

    class Meta:
        model = CalibrationTable
        fields = {
            "set_name": ["exact"],
            "dec_deg": RANGE,
            "valid_from": BOUNDS,
            "valid_until": BOUNDS,
            "source_measurement_set": ["exact"],
            "is_retired": ["exact"],
        }

    def filter_valid_at(self, queryset, name, value):
        return queryset.valid_at(value)

    def filter_calibrator(self, queryset, name, value):
        return queryset.solved_on(value)


class AntennaFlagFilter(ListFilter):
    in_use = StrictBooleanFilter(field_name="withdrawn_at", lookup_expr="isnull", help_text="Not withdrawn.")

    class Meta:
        model = AntennaFlag
        fields = {"antenna": ["exact"], "started_at": BOUNDS, "ended_at": NULLABLE_BOUNDS}
