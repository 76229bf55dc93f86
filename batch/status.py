"""What an operator wants to know at three in the morning, in a number of queries that does not grow."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django.utils import timezone

from batch.models import Item
from batch.state import newest_group, pipeline_state, unprocessed_groups
from calibration.models import Calibrator
from calibration.querysets import HALF_POWER_RADIUS_DEG
from observations.models import SubbandGroup
from observations.services import describe, why_not
from observations.telescope import local_sidereal_time_h, next_transit, strip_icrs_dec_deg

SHOWN = 10


def status(*, now: datetime | None = None) -> dict[str, Any]:
    """Times are aware and in UTC, None where there is nothing yet."""
    now = now or timezone.now()
    newest = newest_group()
    dec_deg = newest.pointing_dec_deg if newest else None
    return {
        "at": now,
        "lst_h": local_sidereal_time_h(now),
        "strip_dec_deg": dec_deg,
        **pipeline_state(now),
        "groups": _groups(newest),
        "running": _running(),
        "next_transit": _next_transit(now, dec_deg),
    }


def _groups(newest: SubbandGroup | None) -> dict[str, Any]:
    """Why tiles wait."""
    rows = unprocessed_groups(newest)
    shown = rows.with_files().order_by("-observed_at", "-id")[:SHOWN]
    return {
        "unprocessed": rows.count(),
        "newest": [
            {"id": group.pk, "name": group.name, "reason": describe(group), "code": why_not(group)} for group in shown
        ],
    }


def _running() -> dict[str, Any]:
    """What runs now, the longest first; `progress` is of the stage, from 0 to 1."""
    rows = Item.objects.running().with_subject().order_by("started_at", "id")
    return {
        "items": rows.count(),
        "longest": [
            {
                "id": item.pk, "batch": item.batch_id, "stage": item.stage, "subject": str(item.subject),
                "started_at": item.started_at, "progress": item.progress, "worker": item.worker,
            }
            for item in rows[:SHOWN]
        ],
    }  # fmt: skip


def _next_transit(now: datetime, dec_deg: float | None) -> dict[str, Any] | None:
    """The first calibrator that the strip will see."""
    if dec_deg is None:
        return None
    icrs_dec_deg = strip_icrs_dec_deg(dec_deg, now)
    near = Calibrator.objects.in_use().filter(
        dec_deg__range=(icrs_dec_deg - HALF_POWER_RADIUS_DEG, icrs_dec_deg + HALF_POWER_RADIUS_DEG)
    )
    transits = sorted((next_transit(row.ra_deg, row.dec_deg, now), row.name) for row in near)
    if not transits:
        return None
    at, name = transits[0]
    return {"calibrator": name, "at": at}
