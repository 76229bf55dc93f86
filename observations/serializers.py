from __future__ import annotations

from typing import Any

from rest_framework import serializers

from contimg.api.parameters import ChoiceParameter, WholeNumberParameter
from contimg.api.serializers import FactsSerializer, MjdField, SeparationField
from observations.models import MeasurementSet, SubbandFile, SubbandGroup


class SubbandFileSerializer(FactsSerializer):
    class Meta:
        model = SubbandFile
        fields = [
            "id", "relative_path", "subband", "named_at", "started_at", "duration_s", "frequency_hz",
            "n_antennas", "n_channels", "n_integrations", "size_bytes", "modified_at",
        ]  # fmt: skip


class MeasurementSetReferenceSerializer(FactsSerializer):
    class Meta:
        model = MeasurementSet
        fields = ["id", "name", "is_calibrated", "is_current", "created_at"]


class SubbandGroupSerializer(FactsSerializer):
    mjd = MjdField(source="observed_at")
    missing_subbands = serializers.ListField(child=serializers.IntegerField())
    duplicate_subbands = serializers.ListField(child=serializers.IntegerField())
    is_complete = serializers.BooleanField()
    measurement_set = serializers.IntegerField(
        source="raw_measurement_set", allow_null=True, help_text="The current raw one made of this group."
    )
    separation_deg = SeparationField()

    class Meta:
        model = SubbandGroup
        fields = [
            "id", "name", "observed_at", "mjd", "ra_deg", "dec_deg", "n_subbands", "missing_subbands",
            "duplicate_subbands", "is_complete", "size_bytes", "measurement_set", "created_at", "separation_deg",
        ]  # fmt: skip


class SubbandGroupDetailSerializer(SubbandGroupSerializer):
    duplicate_files = serializers.ListField(
        child=serializers.CharField(), help_text="Paths of the files of the duplicate subbands; some of them are wrong."
    )
    files = SubbandFileSerializer(many=True)
    measurement_sets = MeasurementSetReferenceSerializer(many=True)

    class Meta(SubbandGroupSerializer.Meta):
        fields = [
            *SubbandGroupSerializer.Meta.fields[:-1], "started_at", "duration_s", "pointing_dec_deg", "n_files",
            "is_overfull", "duplicate_files", "last_file_at", "files", "measurement_sets",
        ]  # fmt: skip


class AppliedTableSerializer(serializers.Serializer):
    """A calibration table that was applied, from a row of `applied_tables`."""

    id = serializers.IntegerField(source="table_id")
    kind = serializers.CharField(source="table.kind")
    set_name = serializers.CharField(source="table.set_name")
    grade = serializers.CharField(source="table.grade")


class MeasurementSetSerializer(FactsSerializer):
    is_calibrated = serializers.BooleanField()
    subband_group: Any = serializers.PrimaryKeyRelatedField(source="group", read_only=True)
    separation_deg = SeparationField()

    class Meta:
        model = MeasurementSet
        fields = [
            "id", "name", "observed_at", "mjd", "duration_s", "ra_deg", "dec_deg", "frequency_hz", "n_antennas",
            "n_channels", "flagged_fraction", "size_bytes", "is_calibrated", "calibrated_from", "subband_group",
            "group", "is_current", "is_lenient", "created_at", "separation_deg",
        ]  # fmt: skip


class MeasurementSetDetailSerializer(MeasurementSetSerializer):
    antennas = serializers.ListField(child=serializers.CharField())
    tables_applied = AppliedTableSerializer(source="applied_tables", many=True)
    calibrated_sets = MeasurementSetReferenceSerializer(many=True)

    class Meta(MeasurementSetSerializer.Meta):
        fields = [
            *MeasurementSetSerializer.Meta.fields[:-1], "integration_s", "pointing_dec_deg", "bandwidth_hz",
            "antennas", "tables_applied", "calibrated_sets", "parameters", "versions", "checksum", "recipe",
        ]  # fmt: skip


AXES = ("time", "channel", "baseline", "antenna")
QUANTITIES = ("amplitude", "phase", "flags")
COLORMAPS = ("viridis", "cividis", "inferno", "gray", "twilight")


class RasterAskedSerializer(serializers.Serializer):
    x = ChoiceParameter(AXES, default="time")
    y = ChoiceParameter(AXES, default="channel", help_text="Another axis than `x`.")
    quantity = ChoiceParameter(QUANTITIES, default="amplitude", help_text="Mean over the other axes.")
    colormap = ChoiceParameter(COLORMAPS, default="viridis")
    width_px = WholeNumberParameter(min_value=200, max_value=2000, default=900)
    height_px = WholeNumberParameter(min_value=200, max_value=2000, default=600)

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if attrs["x"] == attrs["y"]:
            others = ", ".join(axis for axis in AXES if axis != attrs["x"])
            raise serializers.ValidationError(
                {"y": f"x and y are the same; others are {others}."}, code="invalid_choice"
            )
        return attrs
