"""How long open work will take, from the medians of what the same stage took for subjects of about the same size.

A batch's work is reckoned from its stored counts, so that 100 000 items cost what ten do.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from statistics import median

from django.db import models
from django.db.models import F
from django.db.models.fields.json import KeyTextTransform
from django.db.models.functions import Cast, Coalesce

from batch.models import Attempt, Batch, StageName
from batch.presence import n_processes
from batch.stages import CHAIN
from batch.transitions import CALIBRATING

RECENT = 200
SAME_SIZE = 2.0  # subjects whose sizes differ by no more than this factor are compared
ENOUGH = 3  # attempts of the same size; with fewer all are taken, in proportion to their sizes
RAW_BYTES = Coalesce(
    "item__group__size_bytes",
    "item__measurement_set__group__size_bytes",
    "item__image__measurement_set__group__size_bytes",
)
SIDE_PX = Cast(KeyTextTransform("size_px", "item__batch__parameters"), models.IntegerField())


class Estimates:
    """One answer's estimates: what it has looked up once it does not look up again.

    At most one query a stage and one for the workers, whatever the number of batches and items.
    """

    def __init__(self) -> None:
        self._recent = cache(self._read_recent)

    def eta_s(self, batches: Iterable[Batch]) -> dict[int, float | None]:
        """Seconds until each batch has ended, were the workers its own; None where a stage has never been run.

        None too where all that is left waits for something else; 0 for a batch that has ended.
        """
        moving = [batch for batch in batches if batch.n_ready or batch.n_running]
        n_workers = max(1, n_processes()) if moving else 1
        eta: dict[int, float | None] = {batch.pk: None if batch.n_open else 0.0 for batch in batches}
        eta |= {batch.pk: self.work_s(batch) for batch in moving}
        for batch in moving:
            seconds = eta[batch.pk]
            if seconds is not None:
                eta[batch.pk] = seconds / min(n_workers, batch.n_open)
        return eta

    def work_s(self, batch: Batch) -> float | None:
        """Seconds that one process needs for what is open of it; None when nothing is known of one of its stages.

        The tiles of a chain are all converted and calibrated before the first goes on (`transitions.release`), so the
        items that have ended are taken to be of those stages first.
        """
        links = CHAIN if batch.stage == StageName.PROCESS else (batch.stage,)
        n_subjects, n_ended = batch.n_total / len(links), float(batch.n_total - batch.n_open)
        left_s, together_s, n_together = 0.0, 0.0, 0
        for stage in links:
            typical_s = self._typical_s(stage, _size(batch, stage))
            if typical_s is None:
                return None
            if stage in CALIBRATING:
                n_of_stage = min(n_ended, n_subjects)
                n_ended -= n_of_stage
                left_s += (n_subjects - n_of_stage) * typical_s
            else:
                together_s, n_together = together_s + typical_s, n_together + 1
        if n_together:
            left_s += (n_subjects - n_ended / n_together) * together_s
        return left_s

    def _typical_s(self, stage: str, size: float | None) -> float | None:
        # by how much this work is larger than each attempt's was
        recent = [(size / past if size and past else 1.0, duration_s) for past, duration_s in self._recent(stage)]
        same = [duration_s for factor, duration_s in recent if 1 / SAME_SIZE <= factor <= SAME_SIZE]
        chosen = same if len(same) >= ENOUGH else [factor * duration_s for factor, duration_s in recent]
        return median(chosen) if chosen else None

    def _read_recent(self, stage: str) -> Sequence[tuple[float | None, float]]:
        size = SIDE_PX * SIDE_PX if stage == StageName.IMAGE else RAW_BYTES
        return list(Attempt.objects.recent_of(stage, RECENT).values_list(size, F("duration_s")))


def _size(batch: Batch, stage: str) -> float | None:
    """What the work of a stage grows with: the pixels of an image, else the raw bytes of its tile."""
    side_px = batch.parameters.get("size_px")
    return side_px and side_px**2 if stage == StageName.IMAGE else batch.raw_bytes
