"""Every way images are read."""

from __future__ import annotations

from typing import Self

from django.db.models import F

from contimg.querysets import current_assessments
from contimg.sky import PositionQuerySet, separation_expression


class ImageQuerySet(PositionQuerySet):
    def tiles(self) -> Self:
        return self.filter(kind="tile")

    def mosaics(self) -> Self:
        return self.filter(kind="mosaic")

    def current(self) -> Self:
        return self.filter(is_current=True)

    def covering_roughly(self, *, ra_deg: float, dec_deg: float) -> Self:
        """Images whose circumscribed circle has the point; the pixels decide (images.services.covers)."""
        return self.annotate(separation_deg=separation_expression(ra_deg, dec_deg)).filter(
            separation_deg__lte=F("radius_deg")
        )

    def latest_with_preview(self) -> Self:
        return self.current().exclude(preview_path="").exclude(observed_at=None).order_by("-observed_at", "-id")

    def with_links(self) -> Self:
        """What a list shows of the rows an image hangs on."""
        return self.select_related("measurement_set", "root")

    def for_listing(self) -> Self:
        return self.defer("parameters", "versions", "metrics", "missing_subbands")

    def for_detail(self) -> Self:
        return self.with_links().prefetch_related(
            "measurement_set__applied_tables__table", "mosaic_tiles__tile", current_assessments(self.model)
        )
