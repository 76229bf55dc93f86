"""Every way calibration is read."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from typing import Self

from django.conf import settings
from django.db import models
from django.db.models import Q

from contimg.querysets import current_assessments, current_reviews
from contimg.sky import PositionQuerySet, separation_expression

HALF_POWER_RADIUS_DEG = 1.36  # of the dish's beam at 1.405 GHz (observations/engines/beam.py)


class CalibratorQuerySet(PositionQuerySet):
    def in_use(self) -> Self:
        return self.filter(is_retired=False)

    def transiting(self, when: datetime) -> Self:
        """Those within the half-power radius of the beam of the meridian at a time, whatever their declination.

        The meridian is a great circle: its points are 90 degrees from its pole (the east point of the horizon), and
        those that culminate there above, not below, the celestial pole are within 90 of where it crosses the equator.
        """
        from observations.telescope import meridian_plane_icrs

        pole, equator = meridian_plane_icrs(when)
        return self.alias(from_pole=separation_expression(*pole), from_equator=separation_expression(*equator)).filter(
            from_pole__range=(90 - HALF_POWER_RADIUS_DEG, 90 + HALF_POWER_RADIUS_DEG), from_equator__lte=90
        )


class CalibrationTableQuerySet(models.QuerySet):
    def in_use(self) -> Self:
        """Neither retired nor suspect: what may be applied."""
        return self.filter(is_retired=False, is_suspect=False)

    def valid_at(self, when: datetime) -> Self:
        return self.filter(valid_from__lte=when, valid_until__gte=when)

    def solved_on(self, calibrator: str) -> Self:
        """By the calibrator's name, or its id."""
        named = Q(calibrator__name__iexact=calibrator)
        if re.fullmatch("[0-9]{1,18}", calibrator):
            named |= Q(calibrator=int(calibrator))
        return self.filter(named)

    def in_strip(self, dec_deg: float) -> Self:
        """Tables of the strip whose apparent declination is that of the tile, within the setting's tolerance."""
        tolerance = settings.CONTIMG_DEC_STRIP_TOLERANCE_DEG
        return self.filter(dec_deg__gte=dec_deg - tolerance, dec_deg__lte=dec_deg + tolerance)

    def for_listing(self) -> Self:
        return self.defer("parameters", "versions", "metrics")

    def for_detail(self) -> Self:
        return self.select_related("source_measurement_set", "calibrator").prefetch_related(
            current_assessments(self.model), current_reviews(self.model)
        )


class AntennaFlagQuerySet(models.QuerySet):
    def in_use(self) -> Self:
        return self.filter(withdrawn_at=None)

    def of_antennas(self, names: Sequence[str]) -> Self:
        """Those of one of these antennas, or of all."""
        return self.filter(antenna__in=["", *names])

    def overlapping(self, *, started_at: datetime, ended_at: datetime) -> Self:
        return self.filter(Q(ended_at__gt=started_at) | Q(ended_at=None), started_at__lt=ended_at)
