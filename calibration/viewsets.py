from __future__ import annotations

from calibration.filters import CalibrationTableFilter, CalibratorFilter
from calibration.models import CalibrationTable, Calibrator
from calibration.serializers import (
    CalibrationTableDetailSerializer,
    CalibrationTableSerializer,
    CalibratorDetailSerializer,
    CalibratorSerializer,
)
from contimg.api.viewsets import ReadOnlyResource


class CalibratorViewSet(ReadOnlyResource):
    """Sources of known flux."""

    queryset = Calibrator.objects.all()
    detail_queryset = Calibrator.objects.all()
    serializer_class = CalibratorSerializer
    detail_serializer_class = CalibratorDetailSerializer
    filterset_class = CalibratorFilter
    orderings = ["name", "ra_deg", "dec_deg", "id"]
    ordering = "name"


class CalibrationTableViewSet(ReadOnlyResource):
    """Solutions: delays K, bandpass B, gains G."""

    queryset = CalibrationTable.objects.for_listing()
    detail_queryset = CalibrationTable.objects.for_detail()
    serializer_class = CalibrationTableSerializer
    detail_serializer_class = CalibrationTableDetailSerializer
    filterset_class = CalibrationTableFilter
    orderings = ["valid_from", "created_at", "id"]
    ordering = "-valid_from"
