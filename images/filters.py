from __future__ import annotations

from datetime import date

from contimg.api.deprecation import Deprecation
from contimg.api.filters import (
    BOUNDS,
    NULLABLE_BOUNDS,
    NULLABLE_RANGE,
    RANGE,
    ChoicesFilter,
    CoversFilter,
    ListFilter,
)
from contimg.models import Grade, GradeSource
from images.models import Image
from observations.models import Epoch


class ImageFilter(CoversFilter):
    kind = ChoicesFilter(choices=Image.Kind)
    grade = ChoicesFilter(choices=Grade)
    grade_source = ChoicesFilter(choices=GradeSource)

    deprecated = {
        "mosaic_of__isnull": Deprecation(
            since=date(2026, 12, 1), until=date(2027, 12, 1), instead="use `kind=mosaic`, or `kind=tile,external`."
        )
    }

    class Meta:
        model = Image
        fields = {
            "name": ["exact"],
            "observed_at": NULLABLE_BOUNDS,
            "epoch": ["exact", *NULLABLE_BOUNDS],
            "dec_deg": BOUNDS,
            "frequency_hz": NULLABLE_RANGE,
            "rms_jy_per_beam": NULLABLE_RANGE,
            "peak_jy_per_beam": NULLABLE_RANGE,
            "dynamic_range": NULLABLE_RANGE,
            "finite_fraction": RANGE,
            "is_primary_beam_corrected": ["exact"],
            "is_suspect": ["exact"],
            "is_lenient": ["exact"],
            "is_disputed": ["exact"],
            "is_current": ["exact"],
            "measurement_set": ["exact", "isnull"],
            "mosaic_of": ["exact", "isnull"],
        }


class EpochFilter(ListFilter):
    grade = ChoicesFilter(choices=Grade)

    class Meta:
        model = Epoch
        fields = {"started_at": ["exact", *BOUNDS], "dec_deg": RANGE}
