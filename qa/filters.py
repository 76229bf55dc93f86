from __future__ import annotations

from contimg.api.filters import BOUNDS, NULLABLE_BOUNDS, RANGE, ChoicesFilter, IntegerFilter, ListFilter, TextFilter
from contimg.models import Grade
from qa.models import Alert, Assessment, Policy, Review, SubjectKind


class AssessmentFilter(ListFilter):
    grade = ChoicesFilter(choices=Grade)
    subject_kind = ChoicesFilter(choices=SubjectKind, method="filter_subject_kind")
    rule = TextFilter(method="filter_rule", help_text="Assessments in which this rule warned or failed.")
    image = IntegerFilter()
    calibration_table = IntegerFilter()
    epoch = IntegerFilter()

    class Meta:
        model = Assessment
        fields = {"policy": ["exact"], "is_current": ["exact"], "created_at": BOUNDS}

    def filter_subject_kind(self, queryset, name, value):
        return queryset.of_kinds(value)

    def filter_rule(self, queryset, name, value):
        return queryset.objected_by(value)


class PolicyFilter(ListFilter):
    class Meta:
        model = Policy
        fields = {"name": ["exact"], "version": ["exact"], "is_active": ["exact"]}


class ReviewFilter(ListFilter):
    reviewer = TextFilter(field_name="reviewer__username", help_text="The name of a user.")
    verdict = ChoicesFilter(choices=Grade)
    tag = ChoicesFilter(choices=Review.Tag, method="filter_tag")

    class Meta:
        model = Review
        fields = {
            "is_current": ["exact"],
            "image": ["exact"],
            "calibration_table": ["exact"],
            "created_at": BOUNDS,
        }

    def filter_tag(self, queryset, name, value):
        return queryset.tagged(value)


class AlertFilter(ListFilter):
    kind = ChoicesFilter(choices=Alert.Kind)

    class Meta:
        model = Alert
        fields = {
            "series": ["exact"],
            "antenna": ["exact"],
            "pointing_dec_deg": RANGE,
            "observed_at": BOUNDS,
            "acknowledged_at": NULLABLE_BOUNDS,
        }
