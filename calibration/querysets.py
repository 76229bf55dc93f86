"""Every way calibration is read."""

from __future__ import annotations

from datetime import datetime
from typing import Self

from django.conf import settings
from django.db import models

from contimg.querysets import current_assessments
from contimg.sky import PositionQuerySet


class CalibratorQuerySet(PositionQuerySet):
    pass


class CalibrationTableQuerySet(models.QuerySet):
    def in_use(self) -> Self:
        return self.filter(is_retired=False)

    def valid_at(self, when: datetime) -> Self:
        return self.filter(valid_from__lte=when, valid_until__gte=when)

    def in_strip(self, dec_deg: float) -> Self:
        """Tables of the strip whose apparent declination is that of the tile, within the setting's tolerance."""
        tolerance = settings.CONTIMG_DEC_STRIP_TOLERANCE_DEG
        return self.filter(dec_deg__gte=dec_deg - tolerance, dec_deg__lte=dec_deg + tolerance)

    def for_listing(self) -> Self:
        return self.defer("parameters", "versions", "metrics")

    def for_detail(self) -> Self:
        return self.select_related("source_measurement_set", "calibrator").prefetch_related(
            current_assessments(self.model)
        )
