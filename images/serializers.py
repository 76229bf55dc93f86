from __future__ import annotations

from typing import Any

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers
from rest_framework.reverse import reverse

from contimg.api.parameters import NumberParameter, PointSerializer
from contimg.api.serializers import FactsSerializer, ReviewReferenceSerializer, SeparationField, VerdictSerializer
from contimg.gates import gates_of
from contimg.models import Grade
from images.models import Image
from images.services import celestial_cards
from observations.models import Epoch
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


class MosaicTileSerializer(serializers.Serializer):
    """A tile that a mosaic is made of."""

    image = serializers.IntegerField(source="tile_id")
    name = serializers.CharField(source="tile.name")
    rms_jy_per_beam = serializers.FloatField(help_text="At the mosaic's beam, before primary-beam correction.")


class ComparisonSerializer(serializers.Serializer):
    """How an image compares with a reference catalogue: null, with `reason`, is what could not be said."""

    catalogue = serializers.CharField(source="catalogue.name", allow_null=True, default=None)
    n_expected = serializers.IntegerField(help_text="Sources of the catalogue that the image should show.")
    n_matched = serializers.IntegerField(help_text="Of those, sources with a flux ratio.")
    flux_ratio = serializers.FloatField(allow_null=True, help_text="Median of ours over the catalogue's.")
    flux_ratio_scatter = serializers.FloatField(allow_null=True, help_text="1.4826 x MAD.")
    flux_ratio_gradient_per_deg = serializers.FloatField(allow_null=True)
    flux_ratio_gradient_sigma = serializers.FloatField(allow_null=True, help_text="Its length over its error.")
    ra_offset_arcsec = serializers.FloatField(allow_null=True, help_text="Median of ours minus the catalogue's.")
    dec_offset_arcsec = serializers.FloatField(allow_null=True)
    completeness = serializers.FloatField(allow_null=True, help_text="Share of the expected sources above 5 sigma.")
    completeness_by_flux = serializers.JSONField(help_text="[from_jy, to_jy, n expected, n seen] by apparent flux.")
    parameters = serializers.JSONField(help_text="Limits, and the spectral index assumed.")
    reason = serializers.CharField()


class GateSerializer(serializers.Serializer):
    """One of an epoch's gates."""

    name = serializers.CharField()
    outcome = serializers.ChoiceField(["pass", "fail", "skipped"])
    why = serializers.CharField()


OF_EACH_IMAGE = ("versions", "provenance", "impact")


class ImageDetailSerializer(ImageSerializer):
    missing_subbands = serializers.ListField(child=serializers.IntegerField())
    tables_applied = AppliedTableSerializer(source="measurement_set.applied_tables", many=True, default=[])
    mosaic_tiles = MosaicTileSerializer(many=True, help_text="Empty for what is no mosaic.")
    assessment = VerdictSerializer(allow_null=True)
    reviews = ReviewReferenceSerializer(
        source="current_reviews",
        many=True,
        help_text="Of this version, newest first; the verdict of the first is the grade.",
    )
    comparison = ComparisonSerializer(allow_null=True)
    wcs = serializers.SerializerMethodField(
        help_text="The cards of the FITS header that say where the image is (`ctype1`, `crval1`, ...); null where the"
        " file is gone, or says it only behind its first header."
    )
    links = serializers.SerializerMethodField()

    class Meta(ImageSerializer.Meta):
        fields = [
            *ImageSerializer.Meta.fields[:-1], "unit", "radius_deg", "thermal_rms_jy_per_beam", "finite_fraction",
            "missing_subbands", "tables_applied", "mosaic_of", "mosaic_tiles", "assessment", "comparison", "reviews",
            "is_disputed", "wcs", "metrics", "engine", "parameters", "versions", "size_bytes", "checksum", "recipe",
            "links",
        ]  # fmt: skip

    @extend_schema_field(
        {
            "type": "object",
            "nullable": True,
            "additionalProperties": {"oneOf": [{"type": "string"}, {"type": "number"}]},
        }
    )
    def get_wcs(self, image: Image) -> dict[str, str | float] | None:
        return celestial_cards(image=image)

    @extend_schema_field({"type": "object", "additionalProperties": {"type": "string", "format": "uri"}})
    def get_links(self, image: Image) -> dict[str, str]:
        request = self.context["request"]
        links = {
            "fits": reverse("image-fits", [image.pk], request=request),
            "measurements": f"{reverse('measurement-list', request=request)}?image={image.pk}",
            **{name: reverse(f"image-{name}", [image.pk], request=request) for name in OF_EACH_IMAGE},
        }
        if image.preview_path:
            links["preview"] = reverse("image-preview", [image.pk], request=request)
        if image.noise_path:
            links["noise"] = reverse("image-noise", [image.pk], request=request)
        if image.mosaic_of_id is not None:
            links["epoch"] = reverse("epoch-detail", [image.mosaic_of_id], request=request)
        if image.measurement_set_id is not None:
            links["measurement_set"] = reverse("measurement-set-detail", [image.measurement_set_id], request=request)
        return links


class ImageVersionSerializer(FactsSerializer):
    """One version of a tile or mosaic among the others."""

    dynamic_range = serializers.FloatField(allow_null=True)

    class Meta:
        model = Image
        fields = [
            "id", "name", "created_at", "is_current", "is_suspect", "is_lenient", "grade", "grade_source",
            "rms_jy_per_beam", "peak_jy_per_beam", "dynamic_range", "engine", "measurement_set", "recipe",
        ]  # fmt: skip


class CutoutAskedSerializer(PointSerializer):
    size_arcsec = NumberParameter(help_text="Side of the square: 16 to 2048 of the image's pixels.")


class EpochSerializer(FactsSerializer):
    mosaic = serializers.IntegerField(allow_null=True, help_text="The current one; null before the first.")
    grade = serializers.ChoiceField(Grade.choices, help_text="Of its gates; poor: it did not pass.")

    class Meta:
        model = Epoch
        fields = [
            "id", "name", "started_at", "dec_deg", "tiles_from", "tiles_until", "mosaic", "grade", "is_lenient",
            "created_at",
        ]  # fmt: skip


class EpochTileSerializer(serializers.Serializer):
    """A tile of an epoch and its current image."""

    subband_group = serializers.IntegerField(source="group.pk")
    name = serializers.CharField(source="group.name")
    observed_at = serializers.DateTimeField(source="group.observed_at")
    image = serializers.IntegerField(source="image.pk", allow_null=True, default=None)
    grade = serializers.ChoiceField(Grade.choices, source="image.grade", allow_null=True, default=None)
    rms_jy_per_beam = serializers.FloatField(source="image.rms_jy_per_beam", allow_null=True, default=None)


class EpochDetailSerializer(EpochSerializer):
    """`tiles` and `comparison` (of the mosaic) come from the context, where the view puts them: tiles belong by time
    and strip, not by a key.
    """

    tiles = serializers.SerializerMethodField()
    assessment = VerdictSerializer(allow_null=True)
    gates = serializers.SerializerMethodField(help_text="Of the current assessment; empty before the first.")
    comparison = serializers.SerializerMethodField(help_text="Of the current mosaic; null before there is one.")

    class Meta(EpochSerializer.Meta):
        fields = [*EpochSerializer.Meta.fields, "assessment", "gates", "comparison", "tiles"]

    @extend_schema_field(GateSerializer(many=True))
    def get_gates(self, epoch: Any) -> Any:
        findings = [finding for verdict in epoch.current_assessments for finding in verdict.findings.all()]
        return GateSerializer(gates_of(findings), many=True).data

    @extend_schema_field(ComparisonSerializer(allow_null=True))
    def get_comparison(self, epoch: Epoch) -> Any:
        comparison = self.context["comparison"]
        return None if comparison is None else ComparisonSerializer(comparison).data

    @extend_schema_field(EpochTileSerializer(many=True))
    def get_tiles(self, epoch: Epoch) -> Any:
        return EpochTileSerializer(self.context["tiles"], many=True).data
