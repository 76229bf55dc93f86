from __future__ import annotations

from datetime import date

from contimg.api.deprecation import Deprecation
from contimg.api.filters import BOUNDS, NULLABLE_RANGE, RANGE, ConeFilter, IntegerFilter
from observations.models import MeasurementSet, SubbandGroup


class SubbandGroupFilter(ConeFilter):
    class Meta:
        model = SubbandGroup
        fields = {
            "observed_at": BOUNDS,
            "is_complete": ["exact"],
            "n_subbands": RANGE,
            "dec_deg": BOUNDS,
            "pointing_dec_deg": RANGE,
        }


class MeasurementSetFilter(ConeFilter):
    subband_group = IntegerFilter(field_name="group")

    deprecated = {
        "group": Deprecation(since=date(2026, 12, 1), until=date(2027, 12, 1), instead="use `subband_group`.")
    }

    class Meta:
        model = MeasurementSet
        fields = {
            "name": ["exact"],
            "observed_at": BOUNDS,
            "is_calibrated": ["exact"],
            "is_current": ["exact"],
            "is_lenient": ["exact"],
            "group": ["exact"],
            "calibrated_from": ["exact"],
            "dec_deg": BOUNDS,
            "pointing_dec_deg": RANGE,
            "flagged_fraction": NULLABLE_RANGE,
            "n_antennas": RANGE,
        }
