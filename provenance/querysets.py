"""Every way quarantines are read."""

from __future__ import annotations

from typing import Self

from django.db import models


class QuarantineQuerySet(models.QuerySet):
    def in_force(self) -> Self:
        return self.filter(lifted_at=None)

    def with_links(self) -> Self:
        return self.select_related(
            "subband_group", "measurement_set", "flag_table", "calibration_table", "image", "created_by", "lifted_by"
        )
