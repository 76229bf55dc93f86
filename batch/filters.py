from __future__ import annotations

from datetime import date

from batch.models import Batch, BatchState, Item, Pause, StageName, State, Worker
from contimg.api.deprecation import Deprecation
from contimg.api.filters import BOUNDS, NULLABLE_BOUNDS, ChoicesFilter, IntegerFilter, ListFilter, TextFilter


class BatchFilter(ListFilter):
    state = ChoicesFilter(choices=BatchState)
    stage = ChoicesFilter(choices=StageName)
    owner = TextFilter(field_name="owner__username", help_text="The name of a user.")

    class Meta:
        model = Batch
        fields = {
            "priority": ["exact"],
            "idempotency_key": ["exact"],
            "created_at": BOUNDS,
            "started_at": NULLABLE_BOUNDS,
            "finished_at": NULLABLE_BOUNDS,
        }


class ItemFilter(ListFilter):
    state = ChoicesFilter(choices=State)
    stage = ChoicesFilter(choices=StageName)
    subband_group = IntegerFilter(field_name="group")

    deprecated = {
        "group": Deprecation(since=date(2026, 12, 1), until=date(2027, 12, 1), instead="use `subband_group`.")
    }

    class Meta:
        model = Item
        fields = {
            "batch": ["exact"],
            "group": ["exact"],
            "measurement_set": ["exact"],
            "image": ["exact"],
            "epoch": ["exact"],
            "error_code": ["exact"],
            "worker": ["exact"],
        }


class PauseFilter(ListFilter):
    class Meta:
        model = Pause
        fields = {"stage": ["exact"]}


class WorkerFilter(ListFilter):
    class Meta:
        model = Worker
        fields = {"host": ["exact"], "seen_at": BOUNDS, "stopped_at": NULLABLE_BOUNDS}
