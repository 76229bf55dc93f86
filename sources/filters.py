from __future__ import annotations

from contimg.api.filters import BOUNDS, NULLABLE_BOUNDS, NULLABLE_RANGE, RANGE, ConeFilter, ListFilter
from sources.models import Measurement, ReferenceCatalogue, ReferenceSource, Source


class SourceFilter(ConeFilter):
    class Meta:
        model = Source
        fields = {
            "name": ["exact", "startswith"],
            "dec_deg": BOUNDS,
            "flux_mean_jy": NULLABLE_RANGE,
            "flux_max_jy": NULLABLE_RANGE,
            "eta": NULLABLE_RANGE,
            "v": NULLABLE_RANGE,
            "n_measurements": RANGE,
            "is_variable": ["exact"],
            "first_seen_at": NULLABLE_BOUNDS,
            "last_seen_at": NULLABLE_BOUNDS,
        }


class MeasurementFilter(ConeFilter):
    class Meta:
        model = Measurement
        fields = {
            "source": ["exact"],
            "image": ["exact"],
            "is_forced": ["exact"],
            "observed_at": NULLABLE_BOUNDS,
            "dec_deg": BOUNDS,
            "flux_jy": RANGE,
            "snr": NULLABLE_RANGE,
            "upper_limit_jy": NULLABLE_RANGE,
        }


class MeasurementOfImageFilter(MeasurementFilter):
    class Meta(MeasurementFilter.Meta):
        fields = {name: lookups for name, lookups in MeasurementFilter.Meta.fields.items() if name != "image"}


class ReferenceCatalogueFilter(ListFilter):
    class Meta:
        model = ReferenceCatalogue
        fields = {
            "name": ["exact", "startswith"],
            "frequency_hz": NULLABLE_RANGE,
            "epoch_jyear": NULLABLE_RANGE,
            "n_sources": RANGE,
        }


class ReferenceSourceFilter(ConeFilter):
    class Meta:
        model = ReferenceSource
        fields = {
            "catalogue": ["exact"],
            "designation": ["exact", "startswith"],
            "dec_deg": BOUNDS,
            "flux_jy": RANGE,
            "flux_err_jy": NULLABLE_RANGE,
            "spectral_index": NULLABLE_RANGE,
            "major_arcsec": NULLABLE_RANGE,
            "minor_arcsec": NULLABLE_RANGE,
        }
