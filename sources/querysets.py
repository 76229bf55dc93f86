"""Every way sources and measurements are read."""

from __future__ import annotations

from typing import Any, Self

from django.db.models import Model, Prefetch, QuerySet

from contimg.querysets import related
from contimg.sky import PositionQuerySet


class SourceQuerySet(PositionQuerySet):
    def variable(self) -> Self:
        return self.filter(is_variable=True)

    def of_image(self, image: Model) -> Self:
        """Those with a flux in it."""
        measured = related(self.model, "measurements").filter(image=image).order_by().values("source")
        return self.filter(pk__in=measured)

    def for_detail(self) -> Self:
        """With `forced_measurements`: which images have a flux of it."""
        forced = related(self.model, "measurements").forced()
        return self.prefetch_related(
            Prefetch("measurements", forced.only("source", "image").order_by("image_id"), to_attr="forced_measurements")
        )


class MeasurementQuerySet(PositionQuerySet):
    def forced(self) -> Self:
        return self.filter(is_forced=True)

    def fitted(self) -> Self:
        return self.filter(is_forced=False)

    def accepted(self) -> Self:
        """In current images that nothing rejected: no verdict on them or their epoch, and no quarantine."""
        return self.filter(image__is_accepted=True)

    def of_tiles(self) -> Self:
        """Of current tiles: a mosaic holds the same photons again, and an external image another flux scale."""
        return self.filter(image__is_current=True, image__kind="tile")

    def counted(self) -> Self:
        """What statistics may use: forced fluxes of current tiles that nothing rejected."""
        return self.forced().of_tiles().accepted()

    def with_links(self) -> Self:
        return self.select_related("source", "image")

    def for_light_curve(self) -> QuerySet[Any, Any]:
        """What a point of a light curve says, in its order, as named tuples."""
        own = ("image_id", "is_forced", "observed_at", "mjd", "flux_jy", "flux_err_jy", "upper_limit_jy", "snr")
        return self.values_list(*own, "image__is_accepted", "image__grade", named=True).order_by("observed_at", "id")


class ReferenceSourceQuerySet(PositionQuerySet):
    def of_catalogue(self, name: str) -> Self:
        return self.filter(catalogue__name=name)

    def brighter_than(self, flux_jy: float) -> Self:
        return self.filter(flux_jy__gte=flux_jy)
