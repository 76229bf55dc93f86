"""What changes slowly, or jumps, in a dec strip: series with control limits and steps, and the alerts that follow.

Limits are those of a Shewhart chart of individual values with robust figures: the median of the values before, and
LIMIT_SIGMA times their scatter (1.4826 MAD). A step is where the medians of the values before and behind differ by more
than STEP_SIGMA of their errors; the median of n normal values has 1.2533 of the error of their mean. Both look at the
last values only, so a slow change moves the limits with it and a fast one is told.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from statistics import median
from typing import Any

from django.conf import settings
from django.contrib.auth.models import User
from django.db import transaction
from django.db.models import F, Q, QuerySet
from django.utils import timezone

from access.audit import audit
from calibration.models import CalibrationTable, FlagTable
from contimg.exceptions import ContimgError, InvalidInput
from contimg.intervals import refuse_reversed
from images.models import Image
from qa.models import Alert
from sources.models import Comparison

BEFORE = 24  # values that the limits rest on: two hours of tiles
FEWEST = 8
BEHIND = 6  # values that a step has to hold for
LIMIT_SIGMA = 6.0
STEP_SIGMA = 6.0
LEAST_SCATTER = 0.005  # of the median: that of values which hardly differ is no measure
LEAST_SCATTER_OF = {"flagged_fraction": 0.005}  # in its own unit, where a healthy series is at zero
MAD_SIGMA = 1.4826
MEDIAN_ERROR = math.sqrt(math.pi / 2)
MOST_POINTS = 20_000
# What the limits of the first values rest on. A strip has a tile every five minutes and few calibrators a day.
FEW_DAYS = timedelta(days=3)
LEARNT_FROM = dict.fromkeys(("calibration_amplitude", "phase_scatter_deg"), timedelta(days=30))
MOST_NOTE_CHARACTERS = 500


class UnknownSeries(InvalidInput):
    code = "unknown_series"


class AlreadyAcknowledged(ContimgError):
    code = "already_acknowledged"
    status = 409


class InvalidAlertChange(InvalidInput):
    code = "invalid_alert_change"


@dataclass(frozen=True)
class Strip:
    """The values asked for: of a dec strip and a time, for some series of one antenna."""

    pointing_dec_deg: float
    observed_from: datetime
    observed_until: datetime
    antenna: str = ""

    @property
    def dec_range(self) -> tuple[float, float]:
        off = settings.CONTIMG_DEC_STRIP_TOLERANCE_DEG
        return self.pointing_dec_deg - off, self.pointing_dec_deg + off


@dataclass(frozen=True)
class Point:
    """A value beside what was expected; the limits are None where too few came before."""

    observed_at: datetime
    value: float
    expected: float | None = None
    lower_limit: float | None = None
    upper_limit: float | None = None
    n: int = 0
    is_step: bool = False

    @property
    def is_out(self) -> bool:
        if self.lower_limit is None or self.upper_limit is None:
            return False
        return not self.lower_limit <= self.value <= self.upper_limit


Values = list[tuple[datetime, float]]  # the newest first
OfAntennas = dict[str, Values]


# --- the series ----------------------------------------------------------------------------------------------------
def _flux_ratio(strip: Strip) -> Values:
    return _known(_comparisons(strip).values_list("image__observed_at", "flux_ratio")[:MOST_POINTS])


def _astrometric_offset_arcsec(strip: Strip) -> Values:
    columns = ("image__observed_at", "ra_offset_arcsec", "dec_offset_arcsec")
    rows = _comparisons(strip).exclude(ra_offset_arcsec=None).exclude(dec_offset_arcsec=None).values_list(*columns)
    return [(time, math.hypot(ra, dec)) for time, ra, dec in rows[:MOST_POINTS]]


def _comparisons(strip: Strip) -> QuerySet[Comparison]:
    return Comparison.objects.filter(
        image__kind=Image.Kind.TILE,
        image__is_current=True,
        image__is_suspect=False,
        image__pointing_dec_deg__range=strip.dec_range,
        image__observed_at__gte=strip.observed_from,
        image__observed_at__lt=strip.observed_until,
    ).order_by("-image__observed_at", "-image_id")


def _rms_over_thermal(strip: Strip) -> Values:
    tiles = Image.objects.tiles().current().filter(
        is_suspect=False,
        pointing_dec_deg__range=strip.dec_range,
        observed_at__gte=strip.observed_from,
        observed_at__lt=strip.observed_until,
        thermal_rms_jy_per_beam__gt=0,
        rms_jy_per_beam__isnull=False,
    )  # fmt: skip
    ratio = F("rms_jy_per_beam") / F("thermal_rms_jy_per_beam")
    return list(tiles.order_by("-observed_at", "-id").values_list("observed_at", ratio)[:MOST_POINTS])


def _flagged_fraction(strip: Strip) -> Values:
    return _known(_flag_tables(strip, "flagged_fraction"))


def _flagged_fraction_of_antennas(strip: Strip) -> OfAntennas:
    return _by_antenna(_flag_tables(strip, "antenna_fractions"))


def _flag_tables(strip: Strip, column: str) -> QuerySet[FlagTable, Any]:
    rows = FlagTable.objects.filter(
        measurement_set__is_current=True,
        is_suspect=False,
        measurement_set__pointing_dec_deg__range=strip.dec_range,
        measurement_set__observed_at__gte=strip.observed_from,
        measurement_set__observed_at__lt=strip.observed_until,
    ).order_by("-measurement_set__observed_at", "-id")
    return rows.values_list("measurement_set__observed_at", column)[:MOST_POINTS]


def _calibration_amplitude(strip: Strip) -> Values:
    tables = _tables(strip, CalibrationTable.Kind.GAIN)
    return _known((time, metrics.get("median_amplitude")) for time, metrics in tables)


def _phase_scatter_deg(strip: Strip) -> Values:
    """Of the bandpass."""
    tables = _tables(strip, CalibrationTable.Kind.BANDPASS)
    return _known((time, metrics.get("phase_scatter_deg")) for time, metrics in tables)


def _phase_scatter_deg_of_antennas(strip: Strip) -> OfAntennas:
    return _by_antenna(
        (time, {one["antenna"]: one["phase_scatter_deg"] for one in metrics.get("antennas", [])})
        for time, metrics in _tables(strip, CalibrationTable.Kind.BANDPASS)
    )


def _tables(strip: Strip, kind: str) -> QuerySet[CalibrationTable, Any]:
    tables = CalibrationTable.objects.filter(
        kind=kind,
        is_retired=False,
        is_suspect=False,
        dec_deg__range=strip.dec_range,
        solved_at__gte=strip.observed_from,
        solved_at__lt=strip.observed_until,
    ).order_by("-solved_at", "-id")
    return tables.values_list("solved_at", "metrics")[:MOST_POINTS]


def _by_antenna(rows: Iterable[tuple[datetime | None, Mapping[str, float | None]]]) -> OfAntennas:
    found: defaultdict[str, list[tuple[datetime | None, float | None]]] = defaultdict(list)
    for time, values in rows:
        for antenna, value in values.items():
            found[antenna].append((time, value))
    return {antenna: _known(values) for antenna, values in sorted(found.items())}


def _known(found: Iterable[tuple[datetime | None, float | None]]) -> Values:
    return [(time, value) for time, value in found if time and value is not None and math.isfinite(value)]


SERIES: dict[str, Callable[[Strip], Values]] = {
    "flux_ratio": _flux_ratio,
    "astrometric_offset_arcsec": _astrometric_offset_arcsec,
    "rms_over_thermal": _rms_over_thermal,
    "flagged_fraction": _flagged_fraction,
    "calibration_amplitude": _calibration_amplitude,
    "phase_scatter_deg": _phase_scatter_deg,
}
OF_ANTENNAS: dict[str, Callable[[Strip], OfAntennas]] = {
    "flagged_fraction": _flagged_fraction_of_antennas,
    "phase_scatter_deg": _phase_scatter_deg_of_antennas,
}


def points(*, series: str, strip: Strip) -> list[Point]:
    """The series in the order of time, each value beside its limits; the newest MOST_POINTS.

    Raises UnknownSeries and ReversedInterval.
    """
    refuse_reversed(strip.observed_from, strip.observed_until)
    if series not in SERIES:
        raise UnknownSeries(f"There is no series {series!r}; there are {', '.join(SERIES)}.")
    if strip.antenna and series not in OF_ANTENNAS:
        raise UnknownSeries(f"{series} is not of single antennas; {' and '.join(OF_ANTENNAS)} are.")
    if not strip.antenna:
        return _judged(series, SERIES[series](strip))
    of_antennas = OF_ANTENNAS[series](strip)
    if of_antennas and strip.antenna not in of_antennas:
        known = ", ".join(of_antennas)
        raise UnknownSeries(f"No antenna {strip.antenna!r} has a {series} in that strip and time; there are {known}.")
    return _judged(series, of_antennas.get(strip.antenna, []))


def _judged(series: str, values: Values) -> list[Point]:
    return judged(values[::-1], least_scatter=LEAST_SCATTER_OF.get(series, 0.0))


# --- limits and steps ------------------------------------------------------------------------------------------------
def judged(values: Sequence[tuple[datetime, float]], *, least_scatter: float = 0.0) -> list[Point]:
    """Each value beside the control limits of those before it, and whether the series stepped there."""
    figures = [value for _, value in values]
    contrasts = [_contrast(figures, i, least_scatter) for i in range(len(figures))]
    found = []
    for i, (time, value) in enumerate(values):
        before = figures[max(0, i - BEFORE) : i]
        if len(before) < FEWEST:
            found.append(Point(time, value))
            continue
        usual, scatter = _usual(before, least_scatter)
        off = LIMIT_SIGMA * scatter
        found.append(Point(time, value, usual, usual - off, usual + off, len(before), _is_peak(contrasts, i)))
    return found


def _usual(values: Sequence[float], least_scatter: float) -> tuple[float, float]:
    middle = median(values)
    scatter = MAD_SIGMA * median(abs(value - middle) for value in values)
    return middle, max(scatter, LEAST_SCATTER * abs(middle), least_scatter)


def _contrast(values: Sequence[float], i: int, least_scatter: float) -> float:
    """By how many of its errors the median behind differs from that before; 0 where there are too few."""
    before, behind = values[max(0, i - BEFORE) : i], values[i : i + BEHIND]
    if len(before) < FEWEST or len(behind) < BEHIND:
        return 0.0
    (usual, scatter), (later, _) = _usual(before, least_scatter), _usual(behind, least_scatter)
    error = MEDIAN_ERROR * scatter * math.sqrt(1 / len(before) + 1 / len(behind))
    return abs(later - usual) / error if error > 0 else 0.0


def _is_peak(contrasts: Sequence[float], i: int) -> bool:
    """One step stands out in several places; it is where it stands out most."""
    near = contrasts[max(0, i - BEHIND) : i + BEHIND + 1]
    return contrasts[i] > STEP_SIGMA and near.index(max(near)) == i - max(0, i - BEHIND)


# --- alerts ----------------------------------------------------------------------------------------------------------
@transaction.atomic
def raise_alerts(*, strip: Strip, since: datetime) -> list[Alert]:
    """Of all series of a strip and of its antennas, for what left its limits or stepped since a time.

    Of values that stay outside of their limits the first is told, and a step when values since then are behind it: a
    series that has few a day shows one only after days. The same again raises nothing new, and none is raised while the
    series is silenced. Returns the new ones.
    """
    new: list[Alert] = []
    for name in SERIES:
        learnt = replace(strip, observed_from=since - LEARNT_FROM.get(name, FEW_DAYS))
        new += _alerts(name, strip, points(series=name, strip=learnt), since)
        if name in OF_ANTENNAS:
            for antenna, values in OF_ANTENNAS[name](learnt).items():
                new += _alerts(name, replace(strip, antenna=antenna), _judged(name, values), since)
    return new


def _alerts(name: str, strip: Strip, found: Sequence[Point], since: datetime) -> Iterator[Alert]:
    was_out = False
    for i, point in enumerate(found):
        # Where a step stands out most may still move while more values come, by as many as it has to hold for.
        around, behind = found[max(0, i - BEHIND) : i + BEHIND + 1], found[i : i + 2 * BEHIND]
        if point.is_step and behind[-1].observed_at >= since:
            yield from _raise(name, strip, point, Alert.Kind.STEP, around)
        if point.is_out and not was_out and point.observed_at >= since:
            yield from _raise(name, strip, point, Alert.Kind.LIMIT, [point])
        was_out = point.is_out


def _raise(name: str, strip: Strip, point: Point, kind: Alert.Kind, around: Sequence[Point]) -> Iterator[Alert]:
    """Nothing for a point without limits, and where one of that kind was raised `around` it, in the order of time."""
    if point.expected is None:
        return
    alike = Alert.objects.filter(series=name, antenna=strip.antenna, pointing_dec_deg__range=strip.dec_range)
    near = Q(kind=kind, observed_at__range=(around[0].observed_at, around[-1].observed_at))
    if alike.filter(Q(silenced_until__gt=point.observed_at) | near).exists():
        return
    yield Alert.objects.create(
        series=name,
        antenna=strip.antenna,
        pointing_dec_deg=strip.pointing_dec_deg,
        kind=kind,
        observed_at=point.observed_at,
        value=point.value,
        expected=point.expected,
        lower_limit=point.lower_limit,
        upper_limit=point.upper_limit,
        n=point.n,
    )


@transaction.atomic
def acknowledge(*, alert: Alert, actor: User | None = None, note: str = "") -> Alert:
    """Raises AlreadyAcknowledged and InvalidAlertChange."""
    if len(note) > MOST_NOTE_CHARACTERS:
        raise InvalidAlertChange(f"A note has at most {MOST_NOTE_CHARACTERS} characters, not {len(note)}.")
    fresh = Alert.objects.filter(pk=alert.pk, acknowledged_at=None)
    if not fresh.update(acknowledged_at=timezone.now(), acknowledged_by=actor, note=note):
        raise AlreadyAcknowledged(f"The alert {alert} was acknowledged already.")
    alert.refresh_from_db()
    audit(action="alert.acknowledge", subject=alert, details={"note": note})
    return alert


@transaction.atomic
def silence(*, alert: Alert, until: datetime) -> Alert:
    """No new alert of its series, strip and antenna for what is observed before then. Raises InvalidAlertChange."""
    if until <= alert.observed_at:
        raise InvalidAlertChange("Silence it until a time after what it tells of.")
    alert.silenced_until = until
    alert.save(update_fields=["silenced_until"])
    audit(action="alert.silence", subject=alert, details={"until": until.isoformat()})
    return alert


def strips(*, observed_from: datetime, observed_until: datetime) -> list[float]:
    """The dec strips of tiles that were observed then, each once."""
    tiles = Image.objects.tiles().current().filter(observed_at__gte=observed_from, observed_at__lt=observed_until)
    decs = tiles.order_by().values_list("pointing_dec_deg", flat=True).distinct()
    found: list[float] = []
    for dec in sorted(dec for dec in decs if dec is not None):
        if not found or dec - found[-1] > settings.CONTIMG_DEC_STRIP_TOLERANCE_DEG:
            found.append(dec)
    return found
