"""Asking for work, and steering it. API, admin and commands call these; each change is in the audit log."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from statistics import mean
from typing import Any

from django.contrib.auth.models import User
from django.db import IntegrityError, transaction
from django.db.models import Model, QuerySet
from django.db.models.functions import Now
from django.http import QueryDict
from django_filters import BaseInFilter, Filter, FilterSet

from access.audit import audit
from batch import couriers, transitions
from batch.models import SUBJECT_COLUMNS, UNFINISHED, Batch, Item, Pause, StageName, State
from batch.parameters import ParametersSerializer, defaults
from batch.querysets import ItemQuerySet
from batch.stages import CHAIN, Stage, follow_a_mosaic, stages
from contimg import tracing
from contimg.api.deprecation import Deprecation
from contimg.bulk import insert_like, listed
from contimg.exceptions import ContimgError, InvalidInput
from contimg.models import BreakerState
from contimg.products import digest
from contimg.sky import fits_on_the_sky
from images.filters import EpochFilter, ImageFilter
from images.models import Image
from observations.filters import MeasurementSetFilter, SubbandGroupFilter
from observations.models import Epoch, MeasurementSet, SubbandGroup

MOST_ITEMS = 100_000
MAX_PRIORITY = 100
MOST_KEY_CHARACTERS = 200
MOST_REASON_CHARACTERS = 200
MOST_WRONG_NAMED = 20
MAX_KEY = 2**63 - 1  # of a row


class UnknownStage(InvalidInput):
    code = "unknown_stage"


class NoSubjects(InvalidInput):
    code = "no_subjects"


class TooManySubjects(InvalidInput):
    code = "too_many_subjects"


class DuplicateSubject(InvalidInput):
    code = "duplicate_subject"


class WrongSubjectKind(InvalidInput):
    code = "wrong_subject_kind"


class SubjectMissing(InvalidInput):
    code = "subject_missing"


class UnknownParameter(InvalidInput):
    code = "unknown_parameter"


class InvalidParameter(InvalidInput):
    code = "invalid_parameter"


class NotMadeHere(InvalidInput):
    code = "not_made_here"


class InvalidQuery(InvalidInput):
    code = "invalid_query"


class IdempotencyConflict(ContimgError):
    code = "idempotency_conflict"
    status = 409


class AlreadyPaused(ContimgError):
    """By somebody else, or for another reason, which would be forgotten."""

    code = "already_paused"
    status = 409


class NothingToRetry(ContimgError):
    code = "nothing_to_retry"
    status = 409


class PredecessorUnfinished(ContimgError):
    code = "predecessor_unfinished"
    status = 409


class NothingToCancel(ContimgError):
    code = "nothing_to_cancel"
    status = 409


@dataclass(frozen=True)
class SubjectKind:
    """What an item can be about: where such rows are, how a query chooses among them, and what writing to one locks."""

    rows: QuerySet
    filters: type[FilterSet]
    time: str  # items are made in this order, whatever the order of asking: light curves grow with time
    tile: str = ""  # the way to its tile, where it is of one
    raw_bytes: str = ""  # the way to the size of its tile's raw files

    def columns(self) -> list[str]:
        return ["pk", *filter(None, (self.tile, self.raw_bytes))]

    def locks(self, row: Mapping[str, Any], kind: str) -> str:
        tile = row.get(self.tile)
        return f"tile {tile}" if tile is not None else f"{kind} {row['pk']}"


SUBJECT_KINDS = {
    "subband_group": SubjectKind(SubbandGroup.objects.all(), SubbandGroupFilter, "observed_at", "pk", "size_bytes"),
    "measurement_set": SubjectKind(
        MeasurementSet.objects.current(), MeasurementSetFilter, "observed_at", "group", "group__size_bytes"
    ),
    "image": SubjectKind(
        Image.objects.all(), ImageFilter, "observed_at", "measurement_set__group", "measurement_set__group__size_bytes"
    ),
    "epoch": SubjectKind(Epoch.objects.with_mosaic(), EpochFilter, "started_at"),
}


@dataclass(frozen=True)
class Subjects:
    """Those of one kind: their keys in order, what each locks, and the size of its tile's raw files where known."""

    kind: str
    locks: dict[int, str]
    raw_bytes: list[int]


@dataclass(frozen=True)
class Asked:
    """The batch, and whether it was made now or by an earlier request with the same idempotency key."""

    batch: Batch
    is_new: bool


def create_batch(
    *,
    stage: str,
    subjects: Sequence[tuple[str, int]] | None = None,
    query: Mapping[str, Any] | None = None,
    parameters: Mapping[str, Any] | None = None,
    priority: int = 0,
    idempotency_key: str | None = None,
    owner: User | None = None,
    run_by: str = "",
) -> Asked:
    """Everything or nothing: the batch, its items, and the doorbell that wakes a worker.

    Subjects are (kind, id) pairs; a query is {"kind": ..., filters as of the list of that kind}. Raises the errors
    above, each for one thing that is wrong; IdempotencyConflict for a key that stands for another request.
    """
    if idempotency_key is not None:
        _refuse_key(idempotency_key)
    asked = digest(stage, subjects, query, parameters or {}, priority)
    if earlier := _earlier(idempotency_key, asked):
        return Asked(earlier, is_new=False)
    links = _links_of(stage)
    chosen = _chosen(links, subjects, query)
    complete = _complete(links, parameters or {})
    if not -MAX_PRIORITY <= priority <= MAX_PRIORITY:
        raise _out_of_range(priority)
    batch = Batch(
        stage=stage, parameters=complete, owner=owner, priority=priority, idempotency_key=idempotency_key,
        request_digest=asked, query=query, run_by=run_by,
    )  # fmt: skip
    try:
        with tracing.span("enqueue", facts={"stage": stage}), transaction.atomic():
            batch.traceparent = tracing.traceparent()
            _insert(batch, links, chosen)
            audit(action="batch.create", subject=batch, details={"stage": stage, "items": batch.n_total})
            couriers.ring()
    except IntegrityError:
        if earlier := _earlier(idempotency_key, asked):  # the same request, at the same moment
            return Asked(earlier, is_new=False)
        raise
    return Asked(batch, is_new=True)


def _out_of_range(priority: int) -> InvalidParameter:
    message = f"A priority is from {-MAX_PRIORITY} to {MAX_PRIORITY}, not {priority}."
    return InvalidParameter(message, wrong={"priority": message})


def _refuse_key(key: str) -> None:
    """An empty one would stand for every request that somebody meant to have no key."""
    if not 1 <= len(key) <= MOST_KEY_CHARACTERS or not _is_utf8(key):
        message = f"An idempotency key is text of 1 to {MOST_KEY_CHARACTERS} characters; or give none."
        raise InvalidParameter(message, wrong={"idempotency_key": message})


def _earlier(key: str | None, asked: str) -> Batch | None:
    batch = Batch.objects.filter(idempotency_key=key).first() if key else None
    if batch and batch.request_digest != asked:
        raise IdempotencyConflict(f"The idempotency key {key!r} stands for another request; choose a new one.")
    return batch


def _links_of(stage: str) -> list[Stage]:
    """The stage itself, the links of the chain, or a mosaic with what follows it."""
    table = stages()
    names = CHAIN if stage == StageName.PROCESS else (stage,)
    if not set(names) <= set(table):
        raise _unknown_stage(stage, [StageName.PROCESS, *table])
    links = [table[name] for name in names]
    return links + follow_a_mosaic(table) if stage == StageName.MOSAIC else links


def _unknown_stage(name: str, known: Iterable[str]) -> UnknownStage:
    message = f"There is no stage {name!r}; there are {', '.join(known)}."
    return UnknownStage(message, wrong={"stage": message})


def _chosen(
    links: list[Stage], subjects: Sequence[tuple[str, int]] | None, query: Mapping[str, Any] | None
) -> list[Subjects]:
    if (subjects is None) == (query is None):
        raise InvalidQuery("Say either the subjects or a query that chooses them, and not both.")
    kinds = links[0].subject_kinds
    found = [_queried(query, kinds)] if query is not None else _named(subjects or [], kinds)
    n = sum(len(some.locks) for some in found)
    if not n:
        raise NoSubjects("There is nothing to work on; name at least one subject, or a query that finds one.")
    if n > MOST_ITEMS:
        raise TooManySubjects(f"{n} subjects are more than a batch takes ({MOST_ITEMS}); choose fewer.")
    return found


def _named(subjects: Sequence[tuple[str, int]], kinds: tuple[str, ...]) -> list[Subjects]:
    twice = [subject for subject, n in Counter(subjects).items() if n > 1]
    if twice:
        raise DuplicateSubject(f"The {twice[0][0]} {twice[0][1]} is there more than once; name each subject once.")
    by_kind: dict[str, list[int]] = {}
    for kind, pk in subjects:
        _refuse_kind(kind, kinds, of="subjects")
        by_kind.setdefault(kind, []).append(pk)
    found = []
    for kind, keys in by_kind.items():
        some = _subjects(kind, SUBJECT_KINDS[kind].rows.filter(pk__in=listed(key for key in keys if key <= MAX_KEY)))
        missing = sorted(set(keys) - set(some.locks))
        if missing:
            message = f"There is no current {kind} {missing[0]}; see the list of what there is."
            raise SubjectMissing(message, wrong={"subjects": message})
        found.append(some)
    return found


def _queried(query: Mapping[str, Any], kinds: tuple[str, ...]) -> Subjects:
    filters = dict(query)
    kind = filters.pop("kind", None)
    if kind is None:
        message = f"The query needs a `kind`; this stage works on {' or '.join(kinds)}."
        raise InvalidQuery(message, wrong={"query.kind": message})
    _refuse_kind(kind, kinds, of="query.kind")
    described = SUBJECT_KINDS[kind]
    unknown = sorted(set(filters) - set(described.filters.base_filters))
    if unknown:
        known = ", ".join(sorted(described.filters.base_filters))
        raise InvalidQuery(
            f"A query of {kind} has no filter {unknown[0]!r}; there are {known}.",
            wrong={f"query.{name}": "There is no such filter." for name in unknown[:MOST_WRONG_NAMED]},
        )
    data = QueryDict(mutable=True)
    data.update({name: _written(name, value, described.filters.base_filters[name]) for name, value in filters.items()})
    filterset = described.filters(data=data, queryset=described.rows)
    if not filterset.is_valid():
        raise _wrong(InvalidQuery, "query", filterset.errors)
    return _subjects(kind, filterset.qs)


def _wrong(error: type[InvalidInput], of: str, errors: Mapping[str, Sequence[Any]]) -> InvalidInput:
    """One for all that a form or a serializer found, where `of` is the part of the request that it read."""
    first = {name: str(reasons[0]) for name, reasons in errors.items()}
    return error(
        " ".join(f"{name}: {reason}" for name, reason in first.items()),
        wrong={f"{of}.{name}": reason for name, reason in first.items()},
    )


def deprecated_in(query: Mapping[str, Any] | None) -> list[Deprecation]:
    """The filters of a batch's query that are to go."""
    described = SUBJECT_KINDS.get(str((query or {}).get("kind")))
    known: Mapping[str, Deprecation] = getattr(described and described.filters, "deprecated", {})
    return [known[name] for name in known if name in (query or {})]


def _written(name: str, value: Any, described: Filter) -> str:
    """The value as it stands in an address. An empty one, which is no filter there, would choose everything."""
    if isinstance(value, list) and isinstance(described, BaseInFilter) and value:
        return ",".join(_written(name, choice, described) for choice in value)
    if isinstance(value, bool):
        return str(value).lower()
    if not isinstance(value, str | int | float) or (isinstance(value, float) and not isfinite(value)):
        raise _wrong(InvalidQuery, "query", {name: ["Give text, a number, true or false, or leave the filter out."]})
    text = str(value)
    if not text.strip():
        nothing = "There is nothing to compare with; leave the filter out, or give it a value."
        raise _wrong(InvalidQuery, "query", {name: [nothing]})
    if not _is_utf8(text):
        raise _wrong(InvalidQuery, "query", {name: ["This text is not UTF-8."]})
    return text


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair, or an argument with bytes of another encoding
        return False
    return True


def _refuse_kind(kind: Any, kinds: tuple[str, ...], *, of: str) -> None:
    if kind not in kinds:
        message = f"This stage works on {' or '.join(kinds)}, not on {kind!r}."
        raise WrongSubjectKind(message, wrong={of: message})


def _subjects(kind: str, rows: QuerySet) -> Subjects:
    described = SUBJECT_KINDS[kind]
    found = list(rows.order_by(described.time, "pk").values(*described.columns())[: MOST_ITEMS + 1])
    sizes = [row[described.raw_bytes] for row in found if row.get(described.raw_bytes)]
    return Subjects(kind, {row["pk"]: described.locks(row, kind) for row in found}, sizes)


def _complete(links: list[Stage], given: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters that these stages take, those not given as the settings have them now."""
    taken = list(dict.fromkeys(name for link in links for name in link.parameters))
    unknown = sorted(set(given) - set(taken))
    if unknown:
        known = ", ".join(taken) or "none"
        raise UnknownParameter(
            f"This stage has no parameter {unknown[0]!r}; it has {known}.",
            wrong={f"parameters.{name}": "There is no such parameter." for name in unknown[:MOST_WRONG_NAMED]},
        )
    serializer = ParametersSerializer(data=dict(given))
    if not serializer.is_valid():
        raise _wrong(InvalidParameter, "parameters", serializer.errors)
    complete = {**defaults(), **serializer.validated_data}
    if "size_px" in taken and not fits_on_the_sky(complete["size_px"], complete["pixel_arcsec"]):
        message = (
            f"size_px {complete['size_px']} of pixel_arcsec {complete['pixel_arcsec']:g} reach beyond the hemisphere"
            " that an image shows; make their product at most 81 degrees (291 600 arcsec)."
        )
        raise InvalidParameter(message, wrong={"parameters.size_px": message})
    return {name: complete[name] for name in taken}


def _insert(batch: Batch, links: list[Stage], chosen: list[Subjects]) -> None:
    subjects = [(some.kind, pk, lock) for some in chosen for pk, lock in some.locks.items()]
    sizes = [size for some in chosen for size in some.raw_bytes]
    batch.raw_bytes = mean(sizes) if sizes else None
    batch.n_total = len(subjects) * len(links)
    waits = _waits(subjects) if links[0].name == StageName.MOSAIC else {}
    batch.n_waiting = len(subjects) * (len(links) - 1) + len(waits)
    batch.n_ready = batch.n_total - batch.n_waiting
    batch.save(force_insert=True)
    columns = [f"{column}_id" for column in SUBJECT_COLUMNS.values()]
    positions = {kind: columns.index(f"{column}_id") for kind, column in SUBJECT_COLUMNS.items()}
    before: Sequence[int | None] = [None] * len(subjects)
    for link in links:
        rows = []
        for (kind, pk, lock), after in zip(subjects, before, strict=True):
            keys: list[int | None] = [None] * len(columns)
            keys[positions[kind]] = pk
            wait = "" if after else waits.get(pk, "")
            state = State.WAITING if after or wait else State.READY
            rows.append((*keys, lock, after, state.value, transitions.WAITING_FOR_TILES if wait else "", wait))
        insert_like(
            Item(batch=batch, stage=link.name, priority=batch.priority),
            [*columns, "writes_to", "after_id", "state", "error_code", "error_detail"],
            rows,
        )
        if link is not links[-1]:
            before = list(Item.objects.filter(batch=batch, stage=link.name).order_by("pk").values_list("pk", flat=True))


def _waits(epochs: Sequence[tuple[str, int, str]]) -> dict[int, str]:
    """By epoch what its mosaic waits for, for those that have to."""
    return transitions.open_tiles(Epoch.objects.in_bulk([pk for _, pk, _ in epochs]).values())


# --- steering ----------------------------------------------------------------------------------------------------
def cancel_batch(*, batch: Batch, tiles: Iterable[SubbandGroup] | None = None) -> int:
    """All of it, or what is about these tiles. Raises NothingToCancel when that has ended.

    Returns how many items it has cancelled or asked to stop: 0 while all that is left is being stopped already.
    """
    return _cancel(batch.items.all() if tiles is None else batch.items.filter(group__in=tiles), batch)


def cancel_item(*, item: Item) -> int:
    return _cancel(Item.objects.filter(pk=item.pk), item)


def retry_batch(*, batch: Batch) -> int:
    """Failed, cancelled and quarantined items again. Raises NothingToRetry."""
    return _retry(batch.items.all(), batch)


def retry_item(*, item: Item) -> int:
    """Raises PredecessorUnfinished where it would end again at once, and NothingToRetry."""
    first = _first_unfinished(item)
    if first.pk != item.pk:
        how = {State.CANCELLED: "was cancelled", State.QUARANTINED: "is quarantined"}.get(State(first.state), "failed")
        raise PredecessorUnfinished(
            f"The {item.stage} waits for the {first.stage} before it (item {first.pk}), which {how}; retry item "
            f"{first.pk}, and all that was to follow it runs again too."
        )
    return _retry(Item.objects.filter(pk=item.pk), item)


def _first_unfinished(item: Item) -> Item:
    """The one that all from it to this item wait for, when they are tried again."""
    first = item
    while first.after is not None and first.after.state in UNFINISHED:
        first = first.after
    return first


def _cancel(items: ItemQuerySet, subject: Model) -> int:
    with transaction.atomic():
        n = transitions.cancel(items)
        if n:
            audit(action=f"{subject._meta.model_name}.cancel", subject=subject, details={"items": n})
        elif not items.unended().exists():
            raise NothingToCancel(f"Nothing of {subject} can be cancelled any more; it has ended.")
    return n


def _retry(items: ItemQuerySet, subject: Model) -> int:
    with transaction.atomic():
        n = transitions.retry(items)
        if not n:
            raise NothingToRetry(f"Nothing of {subject} failed, was cancelled or is quarantined.")
        audit(action=f"{subject._meta.model_name}.retry", subject=subject, details={"items": n})
        couriers.ring()
    return n


def reimage(*, image: Image, parameters: Mapping[str, Any], owner: User | None = None) -> Batch:
    """A batch that makes a tile again from its measurement set. Raises NotMadeHere, and what `create_batch` does."""
    if image.kind != Image.Kind.TILE or image.measurement_set is None:
        raise NotMadeHere(f"{image} is no tile, which is what is imaged; a mosaic is made by the stage mosaic.")
    tile = image.measurement_set.group_id
    return create_batch(
        stage=StageName.IMAGE, subjects=[("subband_group", tile)], parameters=parameters, owner=owner
    ).batch


def set_priority(*, batch: Batch, priority: int) -> None:
    """Of what has not ended, and of what is retried."""
    if not -MAX_PRIORITY <= priority <= MAX_PRIORITY:
        raise _out_of_range(priority)
    with transaction.atomic():
        transitions.lock(batch.items.unended())
        batch.items.unended().update(priority=priority, changed_at=Now())  # so that the stream of events tells it
        Batch.objects.filter(pk=batch.pk).update(priority=priority, changed_at=Now())
        audit(action="batch.set_priority", subject=batch, details={"priority": priority})


def _refuse_stage(name: str) -> None:
    """Empty stands for all of them."""
    if name and name not in stages():
        raise _unknown_stage(name, stages())


def pause(*, stage: str = "", reason: str = "", by: str = "") -> Pause:
    """No item of the stage (or of any) is claimed until `resume`; what runs goes on. Once more changes nothing.

    Raises UnknownStage, InvalidParameter, AlreadyPaused.
    """
    _refuse_stage(stage)
    if len(reason) > MOST_REASON_CHARACTERS:
        raise InvalidParameter(f"A reason has at most {MOST_REASON_CHARACTERS} characters, not {len(reason)}.")
    with transaction.atomic():
        row, is_new = Pause.objects.get_or_create(stage=stage, defaults={"reason": reason, "paused_by": by})
        if is_new:
            audit(action="stage.pause", subject=row, details={"stage": stage or "all", "reason": reason})
    if (row.reason, row.paused_by) != (reason, by):
        raise AlreadyPaused(
            f"{stage or 'Everything'} is paused already, by {row.paused_by or 'somebody'} since"
            f" {row.created_at:%Y-%m-%d %H:%M} UTC ({row.reason or 'no reason given'}); leave it, or resume it first."
        )
    return row


def resume(*, names: Iterable[str] | None = None) -> int:
    """The named stages, or everything that is paused."""
    pauses = Pause.objects.select_for_update().order_by("pk")
    chosen = None if names is None else list(names)
    with transaction.atomic():
        rows = list(pauses if chosen is None else pauses.filter(stage__in=chosen))
        for name in set(chosen or ()) - {row.stage for row in rows}:
            _refuse_stage(name)
        for row in rows:
            audit(action="stage.resume", subject=row, details={"stage": row.stage or "all"})
        Pause.objects.filter(pk__in=[row.pk for row in rows]).delete()
        couriers.ring()
    return len(rows)


def close_breaker(*, breaker: BreakerState) -> None:
    """Ask its process to ask again at once what did not answer; it looks each second."""
    with transaction.atomic():
        BreakerState.objects.filter(pk=breaker.pk, is_open=True).update(is_asked=True)
        audit(action="breaker.close", subject=breaker, details={"breaker": breaker.breaker, "process": breaker.process})
