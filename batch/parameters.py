"""What a batch may be asked for: typed, with ranges and defaults, shown in OpenAPI. A stage names those it takes."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from contimg.api.serializers import StrictSerializer


def _from_setting(name: str) -> dict[str, Any]:
    return {"required": False, "help_text": f"Default: the setting {name} ({getattr(settings, name)})."}


@extend_schema_field({"type": "integer", "multipleOf": 2, "minimum": 64, "maximum": 8192})
class EvenField(serializers.IntegerField):
    def to_internal_value(self, data: Any) -> int:
        value = super().to_internal_value(data)
        if value % 2:
            raise serializers.ValidationError("An image has an even number of pixels on a side.", code="invalid")
        return value


class ImagingParametersSerializer(StrictSerializer):
    size_px = EvenField(min_value=64, max_value=8192, **_from_setting("CONTIMG_IMAGE_SIZE_PX"))
    pixel_arcsec = serializers.FloatField(min_value=0.1, max_value=60, **_from_setting("CONTIMG_PIXEL_ARCSEC"))
    robust = serializers.FloatField(min_value=-2, max_value=2, **_from_setting("CONTIMG_ROBUST"))
    niter = serializers.IntegerField(min_value=0, max_value=1_000_000, **_from_setting("CONTIMG_NITER"))

    class Meta:
        ref_name = "ImagingParameters"


class ParametersSerializer(ImagingParametersSerializer):
    lenient = serializers.BooleanField(
        required=False,
        help_text="Also use calibration that failed its gate, and count the tiles of epochs that failed theirs; every"
        " product then says so. Default: false.",
    )

    class Meta:
        ref_name = "Parameters"


def defaults() -> dict[str, Any]:
    """What each parameter is when nobody says; read when a batch is made, so that it keeps what it was made with."""
    return {
        "lenient": False,
        "size_px": settings.CONTIMG_IMAGE_SIZE_PX,
        "pixel_arcsec": settings.CONTIMG_PIXEL_ARCSEC,
        "robust": settings.CONTIMG_ROBUST,
        "niter": settings.CONTIMG_NITER,
    }
