"""Epochs: the UTC hours of a dec strip, each of whose tiles make one mosaic."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime, timedelta

from django.conf import settings

from observations.models import Epoch, SubbandGroup

HOUR = timedelta(hours=1)
OVERLAP = 2 * timedelta(seconds=310)  # two tiles: real ones begin 309 to 310 s apart


def hour_of(time: datetime) -> datetime:
    return time.replace(minute=0, second=0, microsecond=0)


def open_epochs(*, groups: Iterable[SubbandGroup]) -> None:
    """Make the epochs of these tiles' hours where there is none yet within CONTIMG_DEC_STRIP_TOLERANCE_DEG.

    Safe to repeat; the number of queries does not grow with the tiles.
    """
    wanted = sorted({(hour_of(group.observed_at), group.pointing_dec_deg) for group in groups})
    strips = defaultdict(list)
    for epoch in Epoch.objects.filter(started_at__in={hour for hour, _ in wanted}):
        strips[epoch.started_at].append(epoch.dec_deg)
    made = []
    for hour, dec_deg in wanted:
        if all(abs(dec_deg - other) > settings.CONTIMG_DEC_STRIP_TOLERANCE_DEG for other in strips[hour]):
            strips[hour].append(dec_deg)
            made.append(_epoch(hour, dec_deg))
    Epoch.objects.bulk_create(made, ignore_conflicts=True)  # another indexer may have made it in this moment


def _epoch(hour: datetime, dec_deg: float) -> Epoch:
    return Epoch(started_at=hour, dec_deg=dec_deg, tiles_from=hour - OVERLAP, tiles_until=hour + HOUR + OVERLAP)
