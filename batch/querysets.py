"""Every way batches, items and attempts are read."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from typing import Self

from django.db import models
from django.db.models import Exists, ExpressionWrapper, OuterRef, Prefetch, Q
from django.db.models.functions import Now

from contimg.querysets import related

ALIVE = Q(stopped_at=None, seen_at__gte=Now() - timedelta(seconds=60))


class BatchQuerySet(models.QuerySet):
    def unended(self) -> Self:
        return self.filter(state__in=["ready", "running"])

    def for_listing(self) -> Self:
        return self.select_related("owner").defer("query")

    def for_detail(self) -> Self:
        return self.select_related("owner")


class ItemQuerySet(models.QuerySet):
    def waiting(self) -> Self:
        return self.filter(state="waiting")

    def ready(self) -> Self:
        return self.filter(state="ready")

    def running(self) -> Self:
        return self.filter(state="running")

    def unended(self) -> Self:
        return self.filter(state__in=["waiting", "ready", "running"])

    def claimable(self, stages: Iterable[str] = ()) -> Self:
        """Ready, due, of these stages (none named: all), and nobody writes to the same thing; the best first."""
        busy = type(self)(self.model).running().filter(writes_to=OuterRef("writes_to"))
        due = self.ready().filter(Q(not_before=None) | Q(not_before__lte=Now()))
        chosen = due.filter(stage__in=list(stages)) if stages else due
        return chosen.filter(~Exists(busy)).order_by("-priority", "id")

    def waiting_for_calibration(self) -> Self:
        return self.waiting().filter(error_code="waiting_for_calibration")

    def waiting_mosaics(self) -> Self:
        return self.waiting().filter(stage="mosaic")

    def with_subject(self) -> Self:
        return self.select_related("group", "measurement_set__group", "image__measurement_set__group", "epoch")

    def with_latest_attempt(self) -> Self:
        """Annotates `did_work`: whether the newest attempt made its product, rather than found it done."""
        attempts = related(self.model, "attempts").filter(item=OuterRef("pk"), number=OuterRef("attempt"))
        return self.annotate(did_work=Exists(attempts.filter(evidence__was_done_before__isnull=True)))

    def for_listing(self) -> Self:
        return self.select_related("batch")

    def for_detail(self) -> Self:
        return self.for_listing().prefetch_related(
            Prefetch("attempts", related(self.model, "attempts").order_by("-number"))
        )


class AttemptQuerySet(models.QuerySet):
    def recent_of(self, stage: str, n: int) -> Self:
        """The newest attempts that did the stage's work, for estimates."""
        did_work = self.filter(stage=stage, outcome="done", duration_s__isnull=False, input_bytes__gt=0)
        return did_work.order_by("-id")[:n]


class WorkerQuerySet(models.QuerySet):
    def alive(self) -> Self:
        return self.filter(ALIVE)

    def for_listing(self) -> Self:
        return self.annotate(is_alive=ExpressionWrapper(ALIVE, output_field=models.BooleanField()))
