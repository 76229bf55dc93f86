from __future__ import annotations

from contimg.api.reuse import ALWAYS
from contimg.api.viewsets import ReadOnlyResource
from observations.filters import MeasurementSetFilter, SubbandGroupFilter
from observations.models import MeasurementSet, SubbandGroup
from observations.serializers import (
    MeasurementSetDetailSerializer,
    MeasurementSetSerializer,
    SubbandGroupDetailSerializer,
    SubbandGroupSerializer,
)


class SubbandGroupViewSet(ReadOnlyResource):
    """A tile's up-to-16 subband files."""

    queryset = SubbandGroup.objects.for_listing()
    detail_queryset = SubbandGroup.objects.for_detail()
    serializer_class = SubbandGroupSerializer
    detail_serializer_class = SubbandGroupDetailSerializer
    filterset_class = SubbandGroupFilter
    orderings = ["observed_at", "id"]
    ordering = "-observed_at"
    reusable_s = ALWAYS


class MeasurementSetViewSet(ReadOnlyResource):
    """Visibilities in CASA format, raw or calibrated."""

    queryset = MeasurementSet.objects.for_listing()
    detail_queryset = MeasurementSet.objects.for_detail()
    serializer_class = MeasurementSetSerializer
    detail_serializer_class = MeasurementSetDetailSerializer
    filterset_class = MeasurementSetFilter
    orderings = ["observed_at", "flagged_fraction", "id"]
    ordering = "-observed_at"
    reusable_s = ALWAYS
