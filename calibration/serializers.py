from __future__ import annotations

from typing import Any

from django.utils import timezone
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from calibration.models import AntennaFlag, CalibrationTable, Calibrator
from calibration.services import next_transits
from calibration.staff_flags import MOST_REASON_CHARACTERS, Change
from contimg.api.serializers import (
    FactsSerializer,
    ReviewReferenceSerializer,
    SeparationField,
    StrictSerializer,
    TextField,
    VerdictSerializer,
)
from observations.serializers import MeasurementSetReferenceSerializer


class CalibratorSerializer(FactsSerializer):
    separation_deg = SeparationField()

    class Meta:
        model = Calibrator
        fields = ["id", "name", "ra_deg", "dec_deg", "reference", "is_retired", "separation_deg"]


class CalibratorDetailSerializer(CalibratorSerializer):
    flux_coefficients = serializers.ListField(
        child=serializers.FloatField(), help_text=Calibrator._meta.get_field("flux_coefficients").help_text
    )

    next_transits = serializers.SerializerMethodField(help_text="Of the DSA-110's meridian, the next three, UTC.")

    class Meta(CalibratorSerializer.Meta):
        fields = [*CalibratorSerializer.Meta.fields[:-1], "flux_coefficients", "next_transits"]

    @extend_schema_field(serializers.ListField(child=serializers.DateTimeField()))
    def get_next_transits(self, calibrator: Calibrator) -> list[str]:
        times = next_transits(calibrator=calibrator, after=timezone.now())
        return [serializers.DateTimeField().to_representation(time) for time in times]


class CalibrationTableSerializer(FactsSerializer):
    class Meta:
        model = CalibrationTable
        fields = [
            "id", "kind", "set_name", "valid_from", "valid_until", "dec_deg", "reference_antenna",
            "source_measurement_set", "grade", "grade_source", "is_retired", "created_at",
        ]  # fmt: skip


class CalibrationTableDetailSerializer(CalibrationTableSerializer):
    source_measurement_set = MeasurementSetReferenceSerializer()
    calibrator = serializers.CharField()
    assessment = VerdictSerializer(allow_null=True)
    reviews = ReviewReferenceSerializer(
        source="current_reviews", many=True, help_text="Newest first; the verdict of the first is the grade."
    )

    class Meta(CalibrationTableSerializer.Meta):
        fields = [
            *CalibrationTableSerializer.Meta.fields, "calibrator", "solved_at", "solver", "version", "metrics",
            "assessment", "reviews", "parameters", "versions", "size_bytes", "checksum", "recipe",
        ]  # fmt: skip


class AntennaFlagSerializer(FactsSerializer):
    class Meta:
        model = AntennaFlag
        fields = [
            "id", "antenna", "started_at", "ended_at", "reason", "created_by", "created_at", "withdrawn_at",
            "withdrawn_by",
        ]  # fmt: skip


class NewAntennaFlagSerializer(StrictSerializer):
    antenna = TextField(required=False, default="", allow_blank=True, help_text="Empty: all antennas.")
    started_at = serializers.DateTimeField(help_text="UTC, inclusive.")
    ended_at = serializers.DateTimeField(
        required=False, default=None, allow_null=True, help_text="UTC, exclusive. Without it: until withdrawn."
    )
    reason = TextField(max_length=MOST_REASON_CHARACTERS)


class AntennaFlagChangeSerializer(AntennaFlagSerializer):
    n_tiles = serializers.IntegerField(help_text="Raw sets of its time, which keep their flags until asked for.")
    advice = serializers.CharField(help_text="What to do about them.")

    class Meta(AntennaFlagSerializer.Meta):
        fields = [*AntennaFlagSerializer.Meta.fields, "n_tiles", "advice"]

    def to_representation(self, change: Change) -> dict[str, Any]:
        shown = AntennaFlagSerializer(change.flag, context=self.context).data
        return {**shown, "n_tiles": change.n_tiles, "advice": str(change)}


class StaffFlagOfAntennaSerializer(FactsSerializer):
    class Meta:
        model = AntennaFlag
        fields = ["id", "started_at", "ended_at", "reason"]


class AntennaOfSetSerializer(serializers.Serializer):
    name = serializers.CharField()
    number = serializers.IntegerField(help_text="Its row in the set's ANTENNA table.")
    itrf_m = serializers.ListField(child=serializers.FloatField(), help_text="x, y, z of ITRF, geocentric.")
    has_data = serializers.BooleanField()
    flagged_fraction = serializers.FloatField(
        allow_null=True, help_text="Of its cross-correlations; null for one that has none."
    )
    staff_flags = StaffFlagOfAntennaSerializer(
        many=True, help_text="In use now, of the set's time, also of all antennas."
    )


class AntennasSerializer(serializers.Serializer):
    measurement_set = serializers.IntegerField(source="measurement_set.pk")
    flag_table = serializers.IntegerField(
        source="flag_table.pk", allow_null=True, default=None,
        help_text="Whose the flagged fractions are; null: they were counted in the set.",
    )  # fmt: skip
    antennas = AntennaOfSetSerializer(many=True)


class RetireSerializer(StrictSerializer):
    reason = TextField(max_length=300)
