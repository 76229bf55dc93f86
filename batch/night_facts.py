"""What a night came to: tiles, failures, epochs, alerts and figures, in a number of queries that does not grow.

A night is a UTC day, from 00:00 to 24:00: the telescope sees the meridian by day and by night, and epochs are hours of
UTC. A tile belongs to the day that its middle is in, as it belongs to its epoch.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from statistics import median
from typing import Any

from django.db.models import Count, Exists, F, OuterRef, Q
from django.utils import timezone

from batch.models import OPEN, Item, State
from calibration.models import CalibrationTable, FlagTable
from contimg.exceptions import InvalidInput
from contimg.gates import gates_of
from contimg.models import Grade, GradeSource
from contimg.querysets import current_assessments
from images.models import Image
from images.mosaics import FEWEST_TILES
from observations.models import Epoch, SubbandFile, SubbandGroup
from observations.services import describe, why_not
from provenance.models import Quarantine
from qa.drift import SERIES, Point, Strip, points, strips
from qa.models import Alert, Assessment, Finding, Gate, Policy, Rule, SubjectKind
from sources.models import Comparison

DAY = timedelta(days=1)
SHOWN = 12  # rows of a table; what is left out is counted
SHOWN_SUBJECTS = 3
WORST = 6
WORST_FIRST = (Grade.POOR, Grade.MARGINAL, Grade.UNKNOWN)
LONG_GAP = timedelta(seconds=930)  # three tiles
DRIFT_BEFORE = timedelta(days=6)
MOST_STRIPS = 3  # the array stays at one declination for days
DEPENDENCY = "dependency_failed"  # what an item says whose predecessor failed: a consequence, not a failure
OBSERVED_AT = {
    "group": "group__observed_at",
    "measurement_set": "measurement_set__observed_at",
    "image": "image__observed_at",
    "epoch": "epoch__started_at",
}
RESOURCES = {
    "subband_group": "subband-groups",
    "measurement_set": "measurement-sets",
    "calibration_table": "calibration-tables",
    "image": "images",
    "epoch": "epochs",
}


class InvalidNight(InvalidInput):
    code = "invalid_night"


@dataclass(frozen=True)
class Night:
    """A UTC day."""

    date: date

    @property
    def observed_from(self) -> datetime:
        return datetime(self.date.year, self.date.month, self.date.day, tzinfo=UTC)

    @property
    def observed_until(self) -> datetime:
        return self.observed_from + DAY

    def of(self, column: str) -> Q:
        return Q(**{f"{column}__gte": self.observed_from, f"{column}__lt": self.observed_until})

    def __str__(self) -> str:
        return self.date.isoformat()


def night_of(text: str, *, now: datetime | None = None) -> Night:
    """From 2026-03-20, `yesterday` or `today` (UTC). Raises InvalidNight, for what is to come too."""
    today = (now or timezone.now()).astimezone(UTC).date()
    if text in ("yesterday", "today"):
        return Night(today - DAY if text == "yesterday" else today)
    try:
        if not re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", text):
            raise ValueError
        found = date.fromisoformat(text)
    except ValueError as error:
        raise InvalidNight(f"{text[:40]!r} is no date; give one as 2026-03-20 (UTC), or `yesterday`.") from error
    if found > today:
        raise InvalidNight(f"{found} is yet to come: it is {today} (UTC); give a night that has begun.")
    return Night(found)


def night_facts(*, night: Night, now: datetime | None = None) -> dict[str, Any]:
    """Plain figures and words, None where there is nothing; times are aware and in UTC."""
    now = now or timezone.now()
    groups = list(SubbandGroup.objects.filter(night.of("observed_at")).order_by("observed_at", "id"))
    images = _images(night)
    items = _newest_items(night)
    tiles = [_tile(group, images.get(group.pk), items[group.pk]) for group in groups]
    epochs = _epochs(night, groups, items)
    failures = _failures(item for of_tile in items.values() for item in of_tile)
    n_refused, refused = _refused(night)
    n_unprocessed, unprocessed = _unprocessed(night)
    facts = {
        "night": str(night),
        "observed_from": night.observed_from,
        "observed_until": night.observed_until,
        "written_at": now,
        "is_over": night.observed_until <= now,
        "tiles": tiles,
        "tiles_by_grade": _by_grade(tile["grade"] for tile in tiles if tile["state"] == State.DONE),
        "n_suspect": sum(tile["is_suspect"] for tile in tiles),
        "n_held_back": sum(tile["is_epoch_rejected"] for tile in tiles),
        "gaps": _gaps(groups),
        "failures": failures,
        "waiting": _waiting(item for of_tile in items.values() for item in of_tile),
        "n_refused_files": n_refused,
        "refused_files": refused,
        "n_unprocessed": n_unprocessed,
        "unprocessed": unprocessed,
        "worst_images": _worst(list(images.values())),
        "epochs": epochs,
        "alerts": _alerts(night),
        "n_older_open_alerts": Alert.objects.open().filter(observed_at__lt=night.observed_from).count(),
        "quarantines": _quarantines(),
        "policies": _policies(night),
        "engines": _engines(images.values()),
    }
    return {"headline": _headline(facts), **facts}


# --- tiles -----------------------------------------------------------------------------------------------------------
def _images(night: Night) -> dict[int, Image]:
    """The current image of each tile, by the key of its group; annotated with it as `tile`."""
    rows = Image.objects.tiles().current().filter(night.of("measurement_set__group__observed_at"))
    columns = ("parameters", "metrics", "missing_subbands")
    annotated = rows.annotate(tile=F("measurement_set__group")).select_related("catalogue")
    return {row.tile: row for row in annotated.defer(*columns)}


def _newest_items(night: Night) -> dict[int | None, list[Item]]:
    """Of each stage and subject the item that was made last, by the key of its tile; None: of an epoch."""
    newest: dict[tuple[str, str, int], Item] = {}
    for column, time in OBSERVED_AT.items():
        rows = Item.objects.filter(night.of(time)).with_subject().order_by("id")
        newest |= {(item.stage, column, item.subject_id): item for item in rows}
    found: dict[int | None, list[Item]] = defaultdict(list)
    for item in newest.values():
        found[item.tile.pk if item.tile else None].append(item)
    return found


def _tile(group: SubbandGroup, image: Image | None, items: Sequence[Item]) -> dict[str, Any]:
    return {
        "subband_group": group.pk,
        "name": group.name,
        "observed_at": group.observed_at,
        "dec_deg": group.pointing_dec_deg,
        "state": _state(image, items),
        "image": image and image.pk,
        "grade": image and image.grade,
        "grade_source": image and image.grade_source,
        "rms_jy_per_beam": image and _known(image.rms_jy_per_beam),
        "ra_deg": group.ra_deg,
        "is_suspect": bool(image and image.is_suspect) or group.is_suspect,
        "is_epoch_rejected": bool(image and image.is_epoch_rejected),
        "missing_subbands": group.missing_subbands,
    }


def _state(image: Image | None, items: Sequence[Item]) -> str:
    """As items have it, with `not processed` for a tile that nobody asked for.

    A tile whose image was measured is done although something is to be done with it once more, as to judge it again.
    """
    states = {item.state for item in items}
    is_whole = hasattr(image, "catalogue")
    for state in (State.QUARANTINED, State.FAILED, *(() if is_whole else (State.RUNNING, State.READY, State.WAITING))):
        if state in states:
            return state.value
    if image is not None:
        return State.DONE.value
    return State.CANCELLED.value if State.CANCELLED in states else "not processed"


def _known(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _by_grade(grades: Iterable[str | None]) -> dict[str, int]:
    counted = Counter(grades)
    return {grade.value: counted[grade] for grade in Grade if counted[grade]}


def _gaps(groups: Sequence[SubbandGroup]) -> list[dict[str, Any]]:
    """Between the first tile and the last, where three tiles or more are not there; the longest first."""
    found = [(later.observed_at - one.observed_at, one.observed_at) for one, later in pairwise(groups)]
    long = sorted((length, start) for length, start in found if length > LONG_GAP)[::-1]
    return [{"from": start, "until": start + length, "minutes": length.total_seconds() / 60} for length, start in long]


# --- what failed and why -----------------------------------------------------------------------------------------
def _failures(items: Iterable[Item]) -> list[dict[str, Any]]:
    """By stage and code, the most frequent first. What failed because of what came before it is not named again."""
    ended = (item for item in items if item.state in (State.FAILED, State.QUARANTINED))
    return _grouped(item for item in ended if item.error_code != DEPENDENCY)


def _waiting(items: Iterable[Item]) -> list[dict[str, Any]]:
    """What is open or was cancelled, by stage and why; links of a chain that wait for an earlier one are left out."""
    opened = [item for item in items if item.state in OPEN or item.state == State.CANCELLED]
    own = {item.pk for item in opened}
    return _grouped(item for item in opened if item.after_id not in own)


def _grouped(items: Iterable[Item]) -> list[dict[str, Any]]:
    groups = defaultdict(list)
    for item in sorted(items, key=lambda item: item.pk):
        groups[item.stage, item.error_code, item.state].append(item)
    rows = [
        {
            "stage": stage,
            "code": code,
            "state": state,
            "n": len(alike),
            "batch": alike[-1].batch_id,
            "message": alike[-1].error_detail,
            "subjects": [_named(item.subject_kind, item.subject) for item in alike[-SHOWN_SUBJECTS:]],
        }
        for (stage, code, state), alike in groups.items()
    ]
    return sorted(rows, key=lambda row: (-row["n"], row["stage"], row["code"]))


def _named(kind: str, subject: Any) -> dict[str, Any]:
    """As the API names it."""
    return {"kind": kind, "id": subject.pk, "name": str(subject), "path": _path(kind, subject.pk)}


def _path(kind: str, pk: int | None) -> str:
    return f"{RESOURCES[kind]}/{pk}/" if kind in RESOURCES else f"{kind.replace('_', ' ')} {pk}"


def _refused(night: Night) -> tuple[int, list[dict[str, Any]]]:
    """Subband files of the night that could not be read, by code."""
    rows = SubbandFile.objects.refused().filter(night.of("named_at")).select_related("root").order_by("id")
    alike = defaultdict(list)
    for file in rows:
        alike[file.error_code].append(file)
    shown = [
        {"code": code, "n": len(files), "message": files[0].error_detail, "path": str(files[0].path)}
        for code, files in sorted(alike.items(), key=lambda one: -len(one[1]))
    ]
    return sum(map(len, alike.values())), shown


def _unprocessed(night: Night) -> tuple[int, list[dict[str, Any]]]:
    """Tiles that nobody asked to be processed, or not with what has come since."""
    asked = Exists(Item.objects.filter(group=OuterRef("pk")))
    rows = SubbandGroup.objects.unprocessed().filter(night.of("observed_at")).filter(~asked | ~Q(duplicate_subbands=[]))
    shown = rows.with_files().order_by("observed_at", "id")[:SHOWN]
    return rows.count(), [
        {**_named("subband_group", group), "reason": describe(group), "code": why_not(group)} for group in shown
    ]


# --- verdicts --------------------------------------------------------------------------------------------------------
def _worst(images: list[Image]) -> list[dict[str, Any]]:
    """The worst graded, of those the noisiest first, with the rules that spoke."""

    def noise(image: Image) -> float:
        rms = _known(image.rms_jy_per_beam)
        return math.inf if rms is None else rms / (image.thermal_rms_jy_per_beam or 1)

    bad = [image for image in images if image.grade in WORST_FIRST]
    bad.sort(key=lambda image: (WORST_FIRST.index(Grade(image.grade)), -noise(image), image.pk))
    verdicts = Assessment.objects.current().filter(image__in=bad[:WORST]).with_findings()
    spoken = {verdict.image_id: _objections(verdict) for verdict in verdicts}
    return [
        {
            **_named("image", image),
            "observed_at": image.observed_at,
            "grade": image.grade,
            "grade_source": image.grade_source,
            "is_reviewed": image.grade_source == GradeSource.REVIEW,
            "rms_jy_per_beam": _known(image.rms_jy_per_beam),
            "dynamic_range": _known(image.dynamic_range),
            "is_suspect": image.is_suspect,
            "objections": spoken.get(image.pk, ["it was not assessed"]),
            "preview_path": image.preview_path,
        }
        for image in bad[:WORST]
    ]


def _objections(verdict: Assessment) -> list[str]:
    """Failures before warnings, and what could not be judged where it is why the grade is unknown."""
    by_outcome = defaultdict(list)
    for finding in verdict.findings.all():
        by_outcome[finding.outcome].append(_told(finding))
    spoken = by_outcome[Finding.Outcome.FAIL] + by_outcome[Finding.Outcome.WARN]
    return (spoken or by_outcome[Finding.Outcome.SKIP])[:SHOWN_SUBJECTS]


def _told(finding: Finding) -> str:
    where = f" ({finding.where})" if finding.where else ""
    if _known(finding.value) is None:
        return f"{finding.rule}: {finding.reason}{where}"
    sign = dict(Rule.Comparison.choices).get(finding.comparison, finding.comparison)
    return f"{finding.rule}: {finding.metric} {finding.value:.3g} {sign} {finding.limit:.3g}{where}, {finding.reason}"


def _epochs(
    night: Night, groups: Sequence[SubbandGroup], items: Mapping[int | None, Sequence[Item]]
) -> list[dict[str, Any]]:
    stopped = {item.epoch_id: item for item in items.get(None, ()) if item.epoch_id and item.state != State.DONE}
    rows = Epoch.objects.for_listing().filter(night.of("started_at")).prefetch_related(current_assessments(Epoch))
    return [_epoch(row, groups, stopped.get(row.pk)) for row in rows.order_by("started_at", "dec_deg", "id")]


def _epoch(epoch: Any, groups: Sequence[SubbandGroup], stopped: Item | None) -> dict[str, Any]:
    """Three gates whatever was judged; one that was not says why."""
    findings = [finding for verdict in epoch.current_assessments for finding in verdict.findings.all()]
    judged = {gate.name: gate for gate in gates_of(findings)}
    hour_end = epoch.started_at + timedelta(hours=1)
    n_tiles = sum(epoch.started_at <= one.observed_at < hour_end and one.is_of_strip(epoch.dec_deg) for one in groups)
    why = "not judged" if epoch.mosaic else "no mosaic"
    if stopped is not None and stopped.error_detail:
        why = f"{why}: {stopped.error_detail}"
    elif not epoch.mosaic and n_tiles < FEWEST_TILES:
        why = f"no mosaic: it has {n_tiles} tile{'s' * (n_tiles != 1)} and needs {FEWEST_TILES}"
    gates = [
        {"name": gate.value, "outcome": judged[gate].outcome, "why": judged[gate].why}
        if gate in judged
        else {"name": gate.value, "outcome": "skipped", "why": why}
        for gate in Gate
    ]
    return {
        **_named("epoch", epoch),
        "n_tiles": n_tiles,
        "is_due": epoch.mosaic is not None or n_tiles >= FEWEST_TILES,
        "mosaic": epoch.mosaic,
        "mosaic_path": _path("image", epoch.mosaic) if epoch.mosaic else "",
        "grade": epoch.grade,
        "is_lenient": epoch.is_lenient,
        "gates": gates,
    }


# --- what to know besides --------------------------------------------------------------------------------------------
def _alerts(night: Night) -> list[dict[str, Any]]:
    """Of what was observed then, the open ones first."""
    rows = Alert.objects.filter(night.of("observed_at")).order_by(
        F("acknowledged_at").asc(nulls_first=True), "observed_at", "id"
    )
    columns = (
        "id", "series", "antenna", "kind", "pointing_dec_deg", "observed_at", "value", "expected", "lower_limit",
        "upper_limit", "acknowledged_at", "note",
    )  # fmt: skip
    return list(rows.values(*columns))


def _quarantines() -> list[dict[str, Any]]:
    """Those in force, the newest first."""
    rows = Quarantine.objects.in_force().with_links().order_by("-created_at", "-id")
    return [
        {
            "id": row.pk,
            "subject": _named(row.node_kind, row.node),
            "reason": row.reason,
            "created_at": row.created_at,
            "by": row.created_by.username if row.created_by else "",
        }
        for row in rows
    ]


def _policies(night: Night) -> dict[str, Any]:
    """What judges now, and what the verdicts on the night's images rest on."""
    active = Policy.objects.filter(is_active=True).first()
    used = (
        Assessment.objects.current()
        .filter(night.of("image__observed_at"))
        .order_by()
        .values("policy__name", "policy__version")
        .annotate(n=Count("pk"))
    )
    rows = used.order_by("policy__name", "policy__version")
    return {
        "active": str(active) if active else "",
        "used": [{"policy": f"{row['policy__name']} {row['policy__version']}", "n_images": row["n"]} for row in rows],
    }


def _engines(images: Iterable[Image]) -> list[dict[str, Any]]:
    """Which software made the images, the most used first."""
    counted = Counter((image.engine, tuple(sorted(image.versions.items()))) for image in images)
    return [{"engine": engine, "versions": dict(used), "n_images": n} for (engine, used), n in counted.most_common()]


def _headline(facts: Mapping[str, Any]) -> str:
    """The night in one sentence."""
    tiles, epochs = facts["tiles"], facts["epochs"]
    so_far = "" if facts["is_over"] else " so far"
    if not tiles:
        refused = f" {facts['n_refused_files']} files of it were refused." if facts["n_refused_files"] else ""
        return f"Nothing was observed on {facts['night']}{so_far}: no tile of that day is known.{refused}"
    n_done = sum(tile["state"] == State.DONE for tile in tiles)
    grades = ", ".join(f"{n} {grade}" for grade, n in facts["tiles_by_grade"].items())
    n_failed = sum(tile["state"] in (State.FAILED, State.QUARANTINED) for tile in tiles)
    n_open = sum(alert["acknowledged_at"] is None for alert in facts["alerts"])
    suspect = [f"{facts['n_suspect']} suspect (quarantine)"] * bool(facts["n_suspect"])
    said = [
        f"{n_done} of {len(tiles)} tiles done{so_far}{f' ({grades})' if grades else ''}",
        *suspect,
        *_epochs_said(epochs),
    ]
    said.append(f"{n_open or 'no'} open alert{'s' * (n_open != 1)}")
    said.append(_failed_said(n_failed, facts))
    return "; ".join(said) + "."


def _epochs_said(epochs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Of the hours that have tiles enough for a mosaic."""
    due = [epoch for epoch in epochs if epoch["is_due"]]
    if not due:
        return ["no hour has tiles enough for a mosaic"]
    n_mosaics = sum(epoch["mosaic"] is not None for epoch in due)
    results = Counter(
        "failed" if epoch["grade"] == Grade.POOR else "not judged" if epoch["grade"] == Grade.UNKNOWN else "passed"
        for epoch in due
    )
    told = ", ".join(f"{results[result]} {result}" for result in ("passed", "failed", "not judged") if results[result])
    return [f"{n_mosaics} of {len(due)} mosaics made (epoch gates: {told})"]


def _failed_said(n_failed: int, facts: Mapping[str, Any]) -> str:
    n_others = sum(row["n"] for row in facts["failures"] if row["subjects"][0]["kind"] == "epoch")
    told = [
        f"{n} {what}{'s' * (n != 1)} {verb}"
        for n, what, verb in (
            (n_failed, "tile", "failed"),
            (n_others, "mosaic", "failed"),
            (facts["n_refused_files"], "file", "refused"),
        )
        if n
    ]
    return ", ".join(told) or "nothing failed"


# --- figures of the plots --------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Figures:
    """What the plots show. Ratios are of single sources; completeness is (from Jy, to Jy, expected, seen)."""

    ratios: list[float]
    ratio_limits: list[float]
    completeness: list[tuple[float, float | None, int, int]]
    completeness_limit: float | None
    antennas: list[tuple[str, float | None, float | None]]  # name, flagged fraction, phase scatter in degrees
    drift: dict[float, dict[str, list[Point]]]  # by dec strip and series
    n_strips: int


def night_figures(*, night: Night) -> Figures:
    """What is not finite is left out. A strip costs a query for each series; MOST_STRIPS are looked at."""
    rows = Comparison.objects.filter(
        night.of("image__observed_at"), image__kind=Image.Kind.TILE, image__is_current=True
    ).values_list("matches", "completeness_by_flux")
    compared = list(rows)
    ratios = [
        flux / expected for matches, _ in compared for *_, expected, flux, _ in matches if expected and flux is not None
    ]
    limits = _gate_limits()
    found = strips(observed_from=night.observed_from, observed_until=night.observed_until)
    return Figures(
        ratios=[ratio for ratio in ratios if math.isfinite(ratio)],
        ratio_limits=limits["flux_ratio"],
        completeness=_summed(bins for _, bins in compared),
        completeness_limit=next(iter(limits["completeness"]), None),
        antennas=_antennas(night),
        drift={dec: _drift(dec, night) for dec in found[:MOST_STRIPS]},
        n_strips=len(found),
    )


def _gate_limits() -> dict[str, list[float]]:
    rules = Rule.objects.filter(policy__is_active=True, subject_kind=SubjectKind.EPOCH).exclude(gate="")
    limits = defaultdict(list)
    for metric, limit in rules.order_by("limit").values_list("metric", "limit"):
        limits[metric].append(limit)
    return limits


def _summed(images: Iterable[Iterable[Sequence[Any]]]) -> list[tuple[float, float | None, int, int]]:
    """The bins of all images, by flux."""
    totals: dict[tuple[float, float | None], list[int]] = defaultdict(lambda: [0, 0])
    for bins in images:
        for low, high, n, seen in bins:
            totals[low, high][0] += n
            totals[low, high][1] += seen
    rows = [(low, high, n, seen) for (low, high), (n, seen) in totals.items() if n]
    return sorted(rows, key=lambda row: row[0])


def _antennas(night: Night) -> list[tuple[str, float | None, float | None]]:
    """Of each antenna the median flagged fraction of its tiles and the largest scatter of its bandpasses' phases."""
    flagged, scatter = defaultdict(list), defaultdict(list)
    flags = FlagTable.objects.filter(night.of("measurement_set__observed_at"), measurement_set__is_current=True)
    for fractions in flags.values_list("antenna_fractions", flat=True):
        for name, fraction in fractions.items():
            flagged[name].append(fraction)
    tables = CalibrationTable.objects.filter(
        night.of("solved_at"), kind=CalibrationTable.Kind.BANDPASS, is_retired=False
    )
    for metrics in tables.values_list("metrics", flat=True):
        for one in metrics.get("antennas", []):
            scatter[one["antenna"]].append(one.get("phase_scatter_deg"))
    return [
        (name, _over(median, flagged[name]), _over(max, scatter[name]))
        for name in sorted(flagged.keys() | scatter.keys(), key=_in_order)
    ]


def _over(figure: Any, values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None and math.isfinite(value)]
    return figure(known) if known else None


def _in_order(name: str) -> tuple[int, str]:
    """pad9 before pad10."""
    number = re.search(r"\d+", name)
    return int(number[0]) if number else -1, name


def _drift(dec_deg: float, night: Night) -> dict[str, list[Point]]:
    strip = Strip(dec_deg, night.observed_from - DRIFT_BEFORE, night.observed_until)
    return {series: points(series=series, strip=strip) for series in SERIES}
