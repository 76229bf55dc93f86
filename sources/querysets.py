"""Every way sources and measurements are read."""

from __future__ import annotations

from typing import Self


from contimg.sky import PositionQuerySet


class SourceQuerySet(PositionQuerySet):
    def variable(self) -> Self:
        return self.filter(is_variable=True)


class MeasurementQuerySet(PositionQuerySet):
    def forced(self) -> Self:
        return self.filter(is_forced=True)

    def fitted(self) -> Self:
        return self.filter(is_forced=False)

    def counted(self) -> Self:
        """What statistics may use: forced fluxes of current images that quality assessment did not reject."""
        return self.forced().filter(image__is_current=True).exclude(image__grade="poor")

    def with_links(self) -> Self:
        return self.select_related("source", "image")


