"""What is known to be bad. The edges from product to product are foreign keys where the products live."""

from __future__ import annotations

from functools import reduce
from operator import or_

from django.conf import settings
from django.db import models
from django.db.models import Q

from calibration.models import CalibrationTable, FlagTable
from images.models import Image
from observations.models import MeasurementSet, SubbandGroup
from provenance.querysets import QuarantineQuerySet

NODE_COLUMNS = ("subband_group", "measurement_set", "flag_table", "calibration_table", "image")


def _only(column: str) -> Q:
    return Q(**{f"{other}__isnull": other != column for other in NODE_COLUMNS})


class Quarantine(models.Model):
    """That a product is not to be trusted: it and everything made from it is suspect until this is lifted."""

    subband_group = models.ForeignKey(
        SubbandGroup, null=True, blank=True, on_delete=models.PROTECT, related_name="quarantines"
    )
    measurement_set = models.ForeignKey(
        MeasurementSet, null=True, blank=True, on_delete=models.PROTECT, related_name="quarantines"
    )
    flag_table = models.ForeignKey(
        FlagTable, null=True, blank=True, on_delete=models.PROTECT, related_name="quarantines"
    )
    calibration_table = models.ForeignKey(
        CalibrationTable, null=True, blank=True, on_delete=models.PROTECT, related_name="quarantines"
    )
    image = models.ForeignKey(Image, null=True, blank=True, on_delete=models.PROTECT, related_name="quarantines")
    reason = models.CharField(max_length=300)
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.PROTECT, related_name="quarantines"
    )
    created_at = models.DateTimeField(auto_now_add=True)
    lifted_at = models.DateTimeField(null=True, blank=True)
    lifted_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.PROTECT, related_name="lifted_quarantines"
    )

    objects = QuarantineQuerySet.as_manager()

    class Meta:
        ordering = ["-created_at", "-id"]
        constraints = [
            models.CheckConstraint(
                condition=reduce(or_, (_only(column) for column in NODE_COLUMNS)), name="quarantine_exactly_one_node"
            ),
            models.CheckConstraint(condition=~Q(reason=""), name="quarantine_has_a_reason"),
            *(
                models.UniqueConstraint(
                    fields=[column], condition=Q(lifted_at__isnull=True), name=f"quarantine_once_per_{column}"
                )
                for column in NODE_COLUMNS
            ),
        ]
        indexes = [models.Index(fields=["created_at", "id"], name="quarantine_created")]

    def __str__(self) -> str:
        return f"quarantine of {self.node}"

    @property
    def node_kind(self) -> str:
        return next(column for column in NODE_COLUMNS if getattr(self, f"{column}_id") is not None)

    @property
    def node(self) -> models.Model:
        return getattr(self, self.node_kind)
