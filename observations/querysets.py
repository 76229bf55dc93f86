"""Every way raw data and measurement sets are read."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Self

from django.conf import settings
from django.db import models
from django.db.models import Exists, F, FilteredRelation, OuterRef, Q, Value
from django.utils import timezone

from contimg.mjd import mjd
from contimg.querysets import current_assessments, related
from contimg.sky import PositionQuerySet

if TYPE_CHECKING:
    from observations.models import Epoch

LONGEST_HALF = timedelta(hours=1)  # of a tile; bounds on the indexed time


def _is_processable() -> Q:
    return Q(n_subbands__gte=settings.CONTIMG_MIN_SUBBANDS, duplicate_subbands=[])


class SubbandFileQuerySet(models.QuerySet):
    def readable(self) -> Self:
        return self.filter(error_code="")

    def refused(self) -> Self:
        return self.exclude(error_code="")


class SubbandGroupQuerySet(PositionQuerySet):
    def under(self, folder: Path) -> Self:
        """Groups with at least one file below this (resolved) folder, whichever roots the files are stored under."""
        below = Q(root__path=str(folder)) | Q(root__path__startswith=f"{folder}/")
        for parent in folder.parents:
            below |= Q(root__path=str(parent), relative_path__startswith=f"{folder.relative_to(parent)}/")
        return self.filter(Exists(related(self.model, "files").filter(below, group=OuterRef("pk"))))

    def overfull(self) -> Self:
        return self.exclude(duplicate_subbands=[])

    def unprocessed(self) -> Self:
        """Never processed, or over-full: what has come for a processed one since is not processed either."""
        made = related(self.model, "measurement_sets").filter(group=OuterRef("pk"))
        return self.filter(~Exists(made) | ~Q(duplicate_subbands=[]))

    def settled(self, settle_s: float | None = None) -> Self:
        """Complete, or nothing new has come for `settle_s` seconds."""
        wait = timedelta(seconds=settings.CONTIMG_SETTLE_S if settle_s is None else settle_s)
        return self.filter(Q(is_complete=True) | Q(last_file_at__lte=timezone.now() - wait))

    def unchanged(self, for_s: float) -> Self:
        """Complete, or no scan found its files changed for so long, whatever the times of the files say."""
        return self.filter(Q(is_complete=True) | Q(files_changed_at__lte=timezone.now() - timedelta(seconds=for_s)))

    def processable(self) -> Self:
        return self.filter(_is_processable())

    def not_processable(self) -> Self:
        return self.exclude(_is_processable())

    def in_epoch(self, epoch: Epoch) -> Self:
        """The tile set of an epoch, in the order of time."""
        return (
            self.in_strip(epoch.dec_deg)
            .filter(observed_at__gte=epoch.tiles_from, observed_at__lt=epoch.tiles_until)
            .order_by("observed_at", "id")
        )

    def in_strip(self, dec_deg: float) -> Self:
        tolerance = settings.CONTIMG_DEC_STRIP_TOLERANCE_DEG
        return self.filter(pointing_dec_deg__range=(dec_deg - tolerance, dec_deg + tolerance))

    def with_files(self) -> Self:
        return self.prefetch_related("files__root", "measurement_sets")

    def with_raw_measurement_set(self) -> Self:
        """Annotates `raw_measurement_set`, the id of the current raw one (a constraint says there is one at most)."""
        current_raw = Q(measurement_sets__is_current=True, measurement_sets__calibrated_from__isnull=True)
        return self.annotate(
            raw=FilteredRelation("measurement_sets", condition=current_raw), raw_measurement_set=F("raw__id")
        )

    def for_listing(self) -> Self:
        return self.with_raw_measurement_set()

    def for_detail(self) -> Self:
        return self.with_raw_measurement_set().with_files()


class EpochQuerySet(models.QuerySet):
    def with_mosaic(self) -> Self:
        """Annotates `mosaic`, the id of the current one (a constraint says there is one at most)."""
        current = FilteredRelation("mosaics", condition=Q(mosaics__is_current=True))
        return self.annotate(current=current, mosaic=F("current__id"))

    def of_tile(self, *, observed_at: datetime, dec_deg: float) -> Self:
        """Those whose tile set has a tile observed then on this strip: one, and two near the full hour."""
        tolerance = settings.CONTIMG_DEC_STRIP_TOLERANCE_DEG
        return self.filter(
            tiles_from__lte=observed_at,
            tiles_until__gt=observed_at,
            dec_deg__range=(dec_deg - tolerance, dec_deg + tolerance),
        )

    def of_hour(self, *, hour: datetime, dec_deg: float) -> Self:
        """Of a UTC hour on this strip: one at most."""
        tolerance = settings.CONTIMG_DEC_STRIP_TOLERANCE_DEG
        return self.filter(started_at=hour, dec_deg__range=(dec_deg - tolerance, dec_deg + tolerance))

    def for_listing(self) -> Self:
        return self.with_mosaic()

    def for_detail(self) -> Self:
        return self.with_mosaic().prefetch_related(current_assessments(self.model))


class MeasurementSetQuerySet(PositionQuerySet):
    def uncalibrated(self) -> Self:
        return self.filter(calibrated_from__isnull=True)

    def calibrated(self) -> Self:
        return self.filter(calibrated_from__isnull=False)

    def current(self) -> Self:
        return self.filter(is_current=True)

    def overlapping(self, started_at: datetime, ended_at: datetime | None) -> Self:
        """With data between two times, or since the first."""
        half_days = F("duration_s") / (2 * 86_400.0)
        found = self.filter(observed_at__gt=started_at - LONGEST_HALF, mjd__gt=Value(mjd(started_at)) - half_days)
        if ended_at is None:
            return found
        return found.filter(observed_at__lt=ended_at + LONGEST_HALF, mjd__lt=Value(mjd(ended_at)) + half_days)

    def for_listing(self) -> Self:
        return self.defer("antennas", "parameters", "versions")

    def for_detail(self) -> Self:
        return self.prefetch_related("applied_tables__table", "calibrated_sets")
