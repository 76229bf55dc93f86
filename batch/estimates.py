"""How long open work will take, from the medians of what the same stage took for tiles of about the same size."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from statistics import median

from django.db.models import Avg, Count, F, Sum
from django.db.models.functions import Coalesce

from batch.models import Attempt, Batch, Item, Worker
from batch.querysets import ItemQuerySet

RECENT = 200
SAME_SIZE = 2.0  # tiles whose raw bytes differ by no more than this factor are compared
ENOUGH = 3  # attempts of the same size; with fewer all sizes are taken


def _raw_bytes(path: str = "") -> Coalesce:
    """The size of the tile's raw files, by whatever the item is about."""
    return Coalesce(
        f"{path}group__size_bytes",
        f"{path}measurement_set__group__size_bytes",
        f"{path}image__measurement_set__group__size_bytes",
    )


class Estimates:
    """One answer's estimates: what it has looked up once it does not look up again.

    At most one query a stage, whatever the number of batches and items.
    """

    def __init__(self) -> None:
        self._recent = cache(self._read_recent)

    def eta_s(self, batches: Iterable[Batch]) -> dict[int, float | None]:
        """Seconds until each batch has ended, were the workers its own; None where a stage has never been run.

        0 for a batch that has ended.
        """
        items = Item.objects.filter(batch__in=[batch.pk for batch in batches if batch.n_open])
        n_processes = max(1, Worker.objects.n_processes())
        work_s = self._work_s(items, "batch_id")

        def of(batch: Batch) -> float | None:
            seconds = work_s.get(batch.pk, 0.0)
            return None if seconds is None else seconds / min(n_processes, max(1, batch.n_open))

        return {batch.pk: of(batch) for batch in batches}

    def work_s(self, items: ItemQuerySet) -> float | None:
        """Seconds that one process needs for the open ones of these items; None when nothing is known of a stage."""
        known = self._work_s(items, "state").values()
        return None if None in known else sum(seconds or 0.0 for seconds in known)

    def _work_s(self, items: ItemQuerySet, by: str) -> dict[object, float | None]:
        rows = (
            items.unended()
            .order_by()
            .values(by, "stage")
            .annotate(n=Count("pk"), begun=Coalesce(Sum("progress"), 0.0), raw_bytes=Avg(_raw_bytes()))
        )
        total: dict[object, float | None] = {}
        for row in rows:
            typical_s, so_far = self._typical_s(row["stage"], row["raw_bytes"]), total.get(row[by], 0.0)
            unknown = typical_s is None or so_far is None
            total[row[by]] = None if unknown else so_far + typical_s * (row["n"] - row["begun"])
        return total

    def _typical_s(self, stage: str, raw_bytes: float | None) -> float | None:
        recent = self._recent(stage)
        same = [
            duration_s
            for size, duration_s in recent
            if raw_bytes and size and 1 / SAME_SIZE <= size / raw_bytes <= SAME_SIZE
        ]
        chosen = same if len(same) >= ENOUGH else [duration_s for _, duration_s in recent]
        return median(chosen) if chosen else None

    def _read_recent(self, stage: str) -> Sequence[tuple[int | None, float]]:
        rows = Attempt.objects.recent_of(stage, RECENT)
        return list(rows.values_list(_raw_bytes("item__"), F("duration_s")))
