"""What staff know to be bad, from when to when: entered, withdrawn, and looked up for a tile.

Nothing is made again by it at once: the next flagging of a tile that it overlaps uses it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import chain
from typing import TYPE_CHECKING, Any

from django.contrib.auth.models import User
from django.db import transaction
from django.utils import timezone

from access.audit import audit
from calibration.models import AntennaFlag
from contimg.exceptions import ContimgError, InvalidInput
from contimg.intervals import EARLIEST, LATEST
from contimg.mjd import MJD_EPOCH
from observations.models import MeasurementSet

if TYPE_CHECKING:
    from calibration.engines.flagger import StaffFlag

STAFF_FLAGS = "staff_flags"  # the key in the parameters of what was made with some
RECENT_SETS = 100  # whose antennas are known
MOST_REASON_CHARACTERS = AntennaFlag._meta.get_field("reason").max_length or 0


class InvalidAntennaFlag(InvalidInput):
    code = "invalid_antenna_flag"


class AlreadyWithdrawn(ContimgError):
    code = "already_withdrawn"
    status = 409


@dataclass(frozen=True)
class Change:
    """A flag that was entered or withdrawn, and the raw sets of its time, which keep their flags until asked for."""

    flag: AntennaFlag
    n_tiles: int

    def __str__(self) -> str:
        if not self.n_tiles:
            return "No tile of that time was flagged yet; those to come are flagged accordingly."
        return (
            f"{self.n_tiles} tiles are of that time and keep their flags until they are processed again: "
            "`manage.py batch create --stage process` with their times makes again what the flag changes."
        )


@transaction.atomic
def add(
    *, antenna: str, started_at: datetime, ended_at: datetime | None, reason: str, actor: User | None = None
) -> Change:
    """Flag an antenna ("" for all) from a time on, until another (exclusive) or until the flag is withdrawn.

    Raises InvalidAntennaFlag for an antenna that no tile of the time or of late has, an interval that ends before it
    begins, a time without its zone, and a reason that is missing or too long.
    """
    refuse_impossible(antenna, started_at, ended_at, reason)
    flag = AntennaFlag.objects.create(
        antenna=antenna, started_at=started_at, ended_at=ended_at, reason=reason.strip(), created_by=actor
    )
    audit(
        action="antenna_flag.add",
        subject=flag,
        actor=actor,
        details={
            "antenna": antenna or "all",
            "started_at": started_at.isoformat(),
            "ended_at": ended_at and ended_at.isoformat(),
            "reason": flag.reason,
        },
    )
    return Change(flag, _n_tiles(flag))


@transaction.atomic
def withdraw(*, flag: AntennaFlag, actor: User | None = None) -> Change:
    """The next flagging no longer uses it. Raises AlreadyWithdrawn."""
    now = timezone.now()
    if not AntennaFlag.objects.in_use().filter(pk=flag.pk).update(withdrawn_at=now, withdrawn_by=actor):
        raise AlreadyWithdrawn(f"The flag {flag.pk} of {flag} is withdrawn already; there is nothing to do.")
    flag.refresh_from_db()
    audit(action="antenna_flag.withdraw", subject=flag, actor=actor, details={"antenna": flag.antenna or "all"})
    return Change(flag, _n_tiles(flag))


def known_antennas(*, until: datetime) -> set[str]:
    """Antennas with data in the newest raw sets, and in those that were the newest at a time."""
    sets = MeasurementSet.objects.uncalibrated().current().order_by("-observed_at", "-id")
    lists = (
        found.values_list("antennas", flat=True)[:RECENT_SETS] for found in (sets, sets.filter(observed_at__lte=until))
    )
    return set(chain.from_iterable(chain.from_iterable(lists)))


def refuse_impossible(antenna: str, started_at: datetime, ended_at: datetime | None, reason: str) -> None:
    """Raises InvalidAntennaFlag."""
    if timezone.is_naive(started_at) or (ended_at is not None and timezone.is_naive(ended_at)):
        raise InvalidAntennaFlag("A time needs its zone, as in 2026-03-20T06:00:00Z.")
    if not EARLIEST <= started_at <= LATEST or (ended_at is not None and ended_at > LATEST):
        years = f"{EARLIEST.year} to {LATEST.year}"
        raise InvalidAntennaFlag(f"The times are not from {years}; leave the end out of a flag that has none yet.")
    if ended_at is not None and ended_at <= started_at:
        raise InvalidAntennaFlag(f"The flag would begin at {started_at} and end at {ended_at}; it has to end later.")
    if not 0 < len(reason.strip()) <= MOST_REASON_CHARACTERS:
        raise InvalidAntennaFlag(f"Say why, in at most {MOST_REASON_CHARACTERS} characters.")
    if antenna and antenna not in (known := known_antennas(until=ended_at or timezone.now())):
        names = ", ".join(sorted(known)) or "none, for nothing was converted yet"
        raise InvalidAntennaFlag(
            f"There is no antenna {antenna[:40]!r} in the data of then or of late; known: {names}."
        )


def _n_tiles(flag: AntennaFlag) -> int:
    """Raw sets of its time. Those without the antenna count too: a database has no quick way to tell."""
    return MeasurementSet.objects.uncalibrated().current().overlapping(flag.started_at, flag.ended_at).count()


def span(measurement_set: MeasurementSet) -> tuple[datetime, datetime]:
    half = timedelta(seconds=measurement_set.duration_s / 2)
    return measurement_set.observed_at - half, measurement_set.observed_at + half


def flags_for(*, measurement_set: MeasurementSet) -> list[StaffFlag]:
    """Those in use that concern the antennas and time of a set, cut to its time, in an order of their own."""
    started_at, ended_at = span(measurement_set)
    rows = AntennaFlag.objects.in_use().overlapping(started_at=started_at, ended_at=ended_at).order_by("id")
    return [
        _cut(row, started_at, ended_at)
        for row in rows.of_antennas(measurement_set.antennas)
    ]  # fmt: skip


def _cut(row: AntennaFlag, started_at: datetime, ended_at: datetime) -> StaffFlag:
    from calibration.engines.flagger import StaffFlag

    return StaffFlag(
        antenna=row.antenna,
        start_s=_mjd_s(max(row.started_at, started_at)),
        end_s=_mjd_s(min(row.ended_at or ended_at, ended_at)),
        id=row.pk,
        reason=row.reason,
    )


def effect(flags: Sequence[StaffFlag]) -> list[tuple[str, float, float]]:
    """What they do to a tile, whoever entered them and why: what a recipe depends on."""
    return sorted({(flag.antenna, flag.start_s, flag.end_s) for flag in flags})


def _mjd_s(time: datetime) -> float:
    return (time - MJD_EPOCH).total_seconds()


def named(parameters: Mapping[str, Any]) -> list[str]:
    """The flags of staff that a product was made with, in words, from its parameters."""
    return [
        f"{known['antenna'] or 'all antennas'} from {_utc(known['start_s'])} to {_utc(known['end_s'])}: "
        f"{known['reason']} (flag {known['id']})"
        for known in parameters.get(STAFF_FLAGS, [])
    ]


def _utc(mjd_s: float) -> str:
    return f"{MJD_EPOCH + timedelta(seconds=mjd_s):%Y-%m-%d %H:%M:%S}"
