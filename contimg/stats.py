"""One page of totals: by state, by grade, by day. Wiring: sees every app.

Every count is exact up to 10 000 and an estimate above (contimg/api/counts.py), so that it costs the same at ten
million rows; the days are read in one query over the index on time.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from django.db.models import Count, Q
from django.http import HttpResponseBase
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from batch.models import Batch, BatchState, Item, State
from calibration.models import CalibrationTable
from contimg.api.counts import count_each
from contimg.api.filters import refuse_unknown
from contimg.api.reuse import ALWAYS, reused
from contimg.models import Grade
from images.models import Image
from images.serializers import ImageSerializer
from observations.models import MeasurementSet, SubbandGroup
from sources.models import Measurement, Source

N_DAYS, N_RECENT = 7, 10
DAY = timedelta(days=1)
RESOURCES = {
    "subband_groups": SubbandGroup.objects.all(),
    "measurement_sets": MeasurementSet.objects.all(),
    "calibration_tables": CalibrationTable.objects.all(),
    "images": Image.objects.all(),
    "sources": Source.objects.all(),
    "measurements": Measurement.objects.all(),
}


class TotalSerializer(serializers.Serializer):
    count = serializers.IntegerField()
    count_is_estimate = serializers.BooleanField(help_text="Above 10 000.")


class DaySerializer(serializers.Serializer):
    """The images of a UTC day, by grade; a grade that none has is left out."""

    day = serializers.DateField()
    n_images = serializers.IntegerField()
    by_grade = serializers.DictField(child=serializers.IntegerField())


class StatsSerializer(serializers.Serializer):
    totals = serializers.DictField(child=TotalSerializer(), help_text="By resource.")
    images_by_grade = serializers.DictField(child=TotalSerializer())
    batches_by_state = serializers.DictField(child=TotalSerializer())
    items_by_state = serializers.DictField(child=TotalSerializer())
    days = DaySerializer(many=True, help_text=f"The last {N_DAYS} UTC days up to the newest image, the newest first.")
    recent_images = ImageSerializer(many=True, help_text=f"The {N_RECENT} newest by time of observation.")


class StatsView(APIView):
    """One page of totals."""

    @extend_schema(responses=StatsSerializer, operation_id="stats")
    def get(self, request: Request) -> HttpResponseBase:
        """By resource, state, grade and day, and the newest images. Cheap at any size."""
        refuse_unknown(request, ["format"])
        return reused(request, lambda: Response(StatsSerializer(stats()).data), for_s=ALWAYS)


def stats() -> dict[str, Any]:
    recent = list(Image.objects.exclude(observed_at=None).for_listing().order_by("-observed_at", "-id")[:N_RECENT])
    return {
        **_counts(),
        "days": _days(recent[0].observed_at) if recent and recent[0].observed_at else [],
        "recent_images": recent,
    }


def _counts() -> dict[str, dict[str, Any]]:
    wanted = {("totals", name): queryset for name, queryset in RESOURCES.items()}
    wanted |= {("images_by_grade", grade): Image.objects.filter(grade=grade) for grade in Grade.values}
    wanted |= {("batches_by_state", state): Batch.objects.filter(state=state) for state in BatchState.values}
    wanted |= {("items_by_state", state): Item.objects.filter(state=state) for state in State.values}
    counts: dict[str, dict[str, Any]] = {}
    for (heading, name), counted in zip(wanted, count_each(list(wanted.values())), strict=True):
        counts.setdefault(heading, {})[name] = counted
    return counts


def _days(newest: datetime) -> list[dict[str, Any]]:
    """All in one query: a column for each day, a row for each grade."""
    midnight = newest.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    days = [midnight - n * DAY for n in range(N_DAYS)]
    of_day = {f"{day:%Y-%m-%d}": Q(observed_at__gte=day, observed_at__lt=day + DAY) for day in days}
    images = Image.objects.filter(observed_at__gte=days[-1], observed_at__lt=midnight + DAY).order_by().values("grade")
    grades: list[Any] = list(images.annotate(**{day: Count("pk", filter=within) for day, within in of_day.items()}))
    return [_day(day, {row["grade"]: row[day] for row in grades if row[day]}) for day in of_day]


def _day(day: str, by_grade: dict[str, int]) -> dict[str, Any]:
    return {"day": day, "n_images": sum(by_grade.values()), "by_grade": by_grade}
