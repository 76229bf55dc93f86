"""Every way images are read."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Self

from django.conf import settings
from django.db.models import Exists, F, OuterRef, Q, Value

from contimg.querysets import current_assessments, current_reviews
from contimg.sky import (
    MAX_RADIUS_DEG,
    InCells,
    PositionQuerySet,
    direction,
    offset_expressions,
    separation_expression,
)

if TYPE_CHECKING:
    from images.models import Image

ARCSEC = math.radians(1 / 3600)


class ImageQuerySet(PositionQuerySet):
    def tiles(self) -> Self:
        return self.filter(kind="tile")

    def mosaics(self) -> Self:
        return self.filter(kind="mosaic")

    def current(self) -> Self:
        return self.filter(is_current=True)

    def accepted(self) -> Self:
        """Current, and not rejected by anything: no verdict on them or their epoch, and no quarantine."""
        return self.filter(is_accepted=True)

    def in_strip(self, dec_deg: float) -> Self:
        tolerance = settings.CONTIMG_DEC_STRIP_TOLERANCE_DEG
        return self.filter(pointing_dec_deg__range=(dec_deg - tolerance, dec_deg + tolerance))

    def covering(self, *, ra_deg: float, dec_deg: float) -> Self:
        """Images whose outline has the point, blank pixels included.

        Tiles are rectangles of RA---SIN with north up, so the point's offsets decide; of mosaics (RA---ZEA) and of
        external images the edges do (images.engines.outline). What has none is taken for larger than it is: a mosaic
        for such a rectangle, which holds it, an external image for its circumscribed circle. Candidates are found by
        their cells, but for the few that are larger than a cone may be.
        """
        offsets = offset_expressions(ra_deg, dec_deg)
        half = {side: F(f"{side}_px") * F("pixel_arcsec") / 2.0 * Value(ARCSEC) for side in ("width", "height")}
        inside = Q(east__gte=-half["width"], east__lte=half["width"], north__gte=-half["height"])
        every = self.model._default_manager.order_by()
        candidates = every.filter(InCells(ra_deg, dec_deg, MAX_RADIUS_DEG)).values("pk")
        wide = every.filter(radius_deg__gt=MAX_RADIUS_DEG).values("pk")
        return (
            self.filter(pk__in=candidates.union(wide))
            .alias(from_centre=separation_expression(ra_deg, dec_deg), **offsets)
            .filter(from_centre__lte=F("radius_deg"))
            .filter(Q(kind="external") | (inside & Q(north__lte=half["height"])))
            .exclude(_has_edge_short_of(ra_deg=ra_deg, dec_deg=dec_deg))
        )

    def versions_of(self, image: Image) -> Self:
        """All of its tile or mosaic, itself among them. An external image has no other."""
        if image.mosaic_of_id is not None:
            return self.filter(mosaic_of=image.mosaic_of_id)
        if image.kind == "tile" and image.measurement_set is not None:
            return self.filter(kind="tile", measurement_set__group=image.measurement_set.group_id)
        return self.filter(pk=image.pk)

    def latest_with_preview(self) -> Self:
        return self.current().exclude(preview_path="").exclude(observed_at=None).order_by("-observed_at", "-id")

    def in_review_queue(self) -> Self:
        """Disputed ones first, then those that nobody reviewed: worst first, newest first. One index has this order."""
        return self.filter(review_rank__isnull=False).order_by("review_rank", "-observed_at", "-id")

    def behind_in_review_queue(self, image: Image) -> Self:
        """What comes after this one; all, when it is not in the queue (any more)."""
        if image.review_rank is None or image.observed_at is None:
            return self
        behind = Q(review_rank__gt=image.review_rank) | Q(observed_at__lt=image.observed_at)
        behind |= Q(observed_at=image.observed_at, id__lt=image.pk)
        return self.filter(behind, review_rank__gte=image.review_rank)

    def with_links(self) -> Self:
        """What a list shows of the rows an image hangs on."""
        return self.select_related("measurement_set", "root")

    def for_listing(self) -> Self:
        return self.defer("parameters", "versions", "metrics", "missing_subbands")

    def with_comparison(self) -> Self:
        """With how it compares with the reference catalogue, but for the sources one by one."""
        return self.select_related("comparison__catalogue").defer(
            "comparison__matches", "comparison__catalogue__parameters", "comparison__catalogue__left_out"
        )

    def for_detail(self) -> Self:
        return (
            self.with_links()
            .with_comparison()
            .prefetch_related(
                "measurement_set__applied_tables__table",
                "mosaic_tiles__tile",
                current_assessments(self.model),
                current_reviews(self.model),
            )
        )


def _has_edge_short_of(*, ra_deg: float, dec_deg: float) -> Exists:
    from images.models import ImageEdge  # here: that module imports this one

    x, y, z = map(Value, direction(ra_deg, dec_deg))
    along = F("normal_x") * x + F("normal_y") * y + F("normal_z") * z
    return Exists(ImageEdge.objects.filter(image=OuterRef("pk")).alias(along=along).filter(along__lt=F("offset")))
