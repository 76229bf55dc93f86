from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers
from rest_framework.reverse import reverse

from contimg.api.parameters import NumberParameter, WholeNumberParameter
from contimg.api.serializers import FactsSerializer, SeparationField
from contimg.models import Grade
from images.cutouts import fitting_arcsec
from images.models import Image
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
    links = serializers.SerializerMethodField()

    class Meta(SourceSerializer.Meta):
        fields = [
            *SourceSerializer.Meta.fields[:-1], "position_err_arcsec", "statistics_reason", "images", "created_at",
            "links",
        ]  # fmt: skip

    def get_images(self, source: Any) -> list[int]:
        return [measurement.image_id for measurement in source.forced_measurements]

    @extend_schema_field({"type": "object", "additionalProperties": {"type": "string", "format": "uri"}})
    def get_links(self, source: Any) -> dict[str, str]:
        request = self.context["request"]
        return {
            "measurements": f"{reverse('measurement-list', request=request)}?source={source.pk}",
            "light_curve": reverse("source-light-curve", [source.pk], request=request),
            "cutouts": reverse("source-cutouts", [source.pk], request=request),
            "neighbours": reverse("source-neighbours", [source.pk], request=request),
        }


class NeighboursAskedSerializer(serializers.Serializer):
    radius_arcsec = NumberParameter(above=0, max_value=3600, default=60.0, help_text="(0, 3600].")


class NeighbourSerializer(SourceSerializer):
    """Another source near one."""

    separation_arcsec = serializers.SerializerMethodField()

    class Meta(SourceSerializer.Meta):
        fields = [*SourceSerializer.Meta.fields[:-1], "separation_arcsec"]

    def get_separation_arcsec(self, source: Any) -> float:
        return 3600 * source.separation_deg


class CutoutsAskedSerializer(serializers.Serializer):
    size_arcsec = NumberParameter(
        above=0,
        max_value=36_000,
        default=300.0,
        help_text="(0, 36000], side of the cutouts; of each image as near as its pixels allow.",
    )


class SheetAskedSerializer(CutoutsAskedSerializer):
    n = WholeNumberParameter(min_value=1, max_value=16, default=16, help_text="Of the newest; for `format=png`.")


class CutoutOfSourceSerializer(serializers.Serializer):
    """An image that covers a source, and where its cutout is."""

    image = serializers.IntegerField(source="pk")
    kind = serializers.ChoiceField(Image.Kind.choices)
    name = serializers.CharField()
    observed_at = serializers.DateTimeField(allow_null=True)
    grade = serializers.ChoiceField(Grade.choices)
    size_arcsec = serializers.SerializerMethodField(help_text="Of the cutout.")
    cutout = serializers.SerializerMethodField(help_text="As FITS.")
    picture = serializers.SerializerMethodField(help_text="As PNG.")

    def get_size_arcsec(self, image: Image) -> float:
        return fitting_arcsec(image=image, size_arcsec=self.context["size_arcsec"])

    @extend_schema_field({"type": "string", "format": "uri"})
    def get_cutout(self, image: Image) -> str:
        return self._link(image)

    @extend_schema_field({"type": "string", "format": "uri"})
    def get_picture(self, image: Image) -> str:
        return self._link(image, format="png")

    def _link(self, image: Image, **more: str) -> str:
        source = self.context["source"]
        place = {"ra_deg": source.ra_deg, "dec_deg": source.dec_deg, "size_arcsec": self.get_size_arcsec(image)}
        return f"{reverse('image-cutout', [image.pk], request=self.context['request'])}?{urlencode({**place, **more})}"


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

    class Meta:
        ref_name = "LightCurvePoint"


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
