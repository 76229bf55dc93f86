from __future__ import annotations

from typing import Any

from rest_framework import serializers

from contimg.api.serializers import FactsSerializer, SeparationField
from sources.models import Measurement, ReferenceCatalogue, ReferenceSource, Source


class SourceSerializer(FactsSerializer):
    separation_deg = SeparationField()

    class Meta:
        model = Source
        fields = [
            "id", "name", "ra_deg", "dec_deg", "n_measurements", "flux_mean_jy", "flux_max_jy", "eta", "v",
            "is_variable", "first_seen_at", "last_seen_at", "separation_deg",
        ]  # fmt: skip


class SourceDetailSerializer(SourceSerializer):
    images = serializers.SerializerMethodField(help_text="Ids of the images that cover it and have its forced flux.")

    class Meta(SourceSerializer.Meta):
        fields = [
            *SourceSerializer.Meta.fields[:-1], "position_err_arcsec", "statistics_reason", "images", "created_at",
        ]  # fmt: skip

    def get_images(self, source: Any) -> list[int]:
        return [measurement.image_id for measurement in source.forced_measurements]


class MeasurementSerializer(FactsSerializer):
    snr = serializers.FloatField(allow_null=True)
    separation_deg = SeparationField()

    class Meta:
        model = Measurement
        fields = [
            "id", "source", "image", "observed_at", "mjd", "ra_deg", "dec_deg", "flux_jy", "flux_err_jy",
            "peak_jy_per_beam", "rms_jy_per_beam", "snr", "is_forced", "upper_limit_jy", "separation_deg",
        ]  # fmt: skip


class MeasurementDetailSerializer(MeasurementSerializer):
    source_name = serializers.CharField(source="source.name")
    image_name = serializers.CharField(source="image.name")
    image_grade = serializers.CharField(source="image.grade")

    class Meta(MeasurementSerializer.Meta):
        fields = [
            *MeasurementSerializer.Meta.fields[:-1], "position_err_arcsec", "primary_beam", "source_name",
            "image_name", "image_grade",
        ]  # fmt: skip


class ReferenceCatalogueSerializer(FactsSerializer):
    class Meta:
        model = ReferenceCatalogue
        fields = ["id", "name", "frequency_hz", "epoch_jyear", "note", "n_sources", "created_at", "imported_at"]


class ReferenceCatalogueDetailSerializer(ReferenceCatalogueSerializer):
    class Meta(ReferenceCatalogueSerializer.Meta):
        fields = [*ReferenceCatalogueSerializer.Meta.fields, "checksum", "parameters", "n_rows", "left_out"]


class ReferenceSourceSerializer(FactsSerializer):
    separation_deg = SeparationField()

    class Meta:
        model = ReferenceSource
        fields = [
            "id", "catalogue", "row", "designation", "ra_deg", "dec_deg", "position_err_arcsec", "flux_jy",
            "flux_err_jy", "spectral_index", "major_arcsec", "minor_arcsec", "separation_deg",
        ]  # fmt: skip


class ReferenceSourceDetailSerializer(ReferenceSourceSerializer):
    catalogue_name = serializers.CharField(source="catalogue.name")

    class Meta(ReferenceSourceSerializer.Meta):
        fields = [*ReferenceSourceSerializer.Meta.fields[:-1], "catalogue_name"]


class _StatisticsSerializer(serializers.Serializer):
    n = serializers.IntegerField()
    mean_jy = serializers.FloatField(allow_null=True)
    std_jy = serializers.FloatField(allow_null=True)
    eta = serializers.FloatField(allow_null=True)
    v = serializers.FloatField(allow_null=True)
    reason = serializers.CharField(allow_blank=True, allow_null=True)


class _PointSerializer(serializers.Serializer):
    observed_at = serializers.DateTimeField(allow_null=True)
    mjd = serializers.FloatField(allow_null=True)
    status = serializers.ChoiceField(["detected", "forced", "rejected"])
    flux_jy = serializers.FloatField(allow_null=True)
    flux_err_jy = serializers.FloatField(allow_null=True)
    upper_limit_jy = serializers.FloatField(allow_null=True)
    snr = serializers.FloatField(allow_null=True)
    image = serializers.IntegerField()
    grade = serializers.CharField()


class _NotCoveredSerializer(serializers.Serializer):
    image = serializers.IntegerField()
    name = serializers.CharField()
    observed_at = serializers.DateTimeField(allow_null=True)
    reason = serializers.CharField()


class LightCurveSerializer(serializers.Serializer):
    """What `sources.services.light_curve` gives, for the schema."""

    source = serializers.IntegerField()  # type: ignore[assignment]
    points = _PointSerializer(many=True)
    not_covered = _NotCoveredSerializer(many=True)
    statistics = _StatisticsSerializer()
