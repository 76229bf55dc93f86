"""What a worker's log says of items: one line for each that ended on it, whatever ended it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import timedelta

import structlog
from django.conf import settings
from django.db.models.functions import Now

from batch.models import Attempt
from contimg.products import this_process

log = structlog.get_logger("contimg.worker")
LATE = timedelta(seconds=60)  # a transaction's rows bear the time at which it began, and are seen when it has ended


@dataclass
class Endings:
    """Tells of each attempt once; looks at those of the last minute and two sweeps, and is asked at every sweep."""

    _told: set[int] = field(default_factory=set)

    def tell(self, pids: Iterable[int]) -> None:
        """Of those that these processes of this machine ran."""
        machine = this_process().rsplit(".", 2)[0]
        workers = tuple(f"{machine}.{pid}." for pid in pids)
        since = Now() - LATE - timedelta(seconds=2 * settings.CONTIMG_SWEEP_S)
        ended = Attempt.objects.filter(finished_at__gte=since, host=machine.split(".")[0])
        ended = ended.order_by("finished_at", "id")
        rows = [row for row in ended.select_related(*SUBJECTS) if row.worker.startswith(workers)]
        for row in rows:
            if row.pk not in self._told:
                _tell(row)
        self._told = {row.pk for row in rows}


SUBJECTS = (
    "item__group", "item__measurement_set__group", "item__image__measurement_set__group", "item__epoch",
)  # fmt: skip


def _tell(attempt: Attempt) -> None:
    seconds = attempt.duration_s
    if seconds is None and attempt.finished_at is not None:
        seconds = (attempt.finished_at - attempt.started_at).total_seconds()
    log.info(
        "item_ended", item=attempt.item_id, attempt=attempt.number, stage=attempt.stage,
        subject=str(attempt.item.subject), state=attempt.outcome, code=attempt.error_code,
        seconds=None if seconds is None else round(seconds, 1),
    )  # fmt: skip
