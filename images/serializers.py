from __future__ import annotations

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers
from rest_framework.reverse import reverse

from contimg.api.serializers import FactsSerializer, SeparationField, VerdictSerializer
from images.models import Image
from observations.serializers import AppliedTableSerializer


class ImageSerializer(FactsSerializer):
    dynamic_range = serializers.FloatField(allow_null=True)
    separation_deg = SeparationField()

    class Meta:
        model = Image
        fields = [
            "id", "kind", "name", "observed_at", "mjd", "epoch", "ra_deg", "dec_deg", "frequency_hz", "bandwidth_hz",
            "width_px", "height_px", "pixel_arcsec", "bmaj_arcsec", "bmin_arcsec", "bpa_deg", "rms_jy_per_beam",
            "peak_jy_per_beam", "dynamic_range", "is_primary_beam_corrected", "grade", "grade_source", "is_suspect",
            "is_lenient", "is_current", "measurement_set", "created_at", "separation_deg",
        ]  # fmt: skip


class ImageDetailSerializer(ImageSerializer):
    missing_subbands = serializers.ListField(child=serializers.IntegerField())
    tables_applied = AppliedTableSerializer(source="measurement_set.applied_tables", many=True, default=[])
    assessment = VerdictSerializer(allow_null=True)
    links = serializers.SerializerMethodField()

    class Meta(ImageSerializer.Meta):
        fields = [
            *ImageSerializer.Meta.fields[:-1], "unit", "radius_deg", "thermal_rms_jy_per_beam", "finite_fraction",
            "missing_subbands", "tables_applied", "assessment", "metrics", "engine", "parameters", "versions",
            "size_bytes", "checksum", "recipe", "links",
        ]  # fmt: skip

    @extend_schema_field({"type": "object", "additionalProperties": {"type": "string", "format": "uri"}})
    def get_links(self, image: Image) -> dict[str, str]:
        request = self.context["request"]
        links = {
            "fits": reverse("image-fits", [image.pk], request=request),
            "measurements": f"{reverse('measurement-list', request=request)}?image={image.pk}",
        }
        if image.preview_path:
            links["preview"] = reverse("image-preview", [image.pk], request=request)
        if image.measurement_set_id is not None:
            links["measurement_set"] = reverse("measurement-set-detail", [image.measurement_set_id], request=request)
        return links
