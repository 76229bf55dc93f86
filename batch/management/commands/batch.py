"""Batches from the console: the same services as the API's."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable
from functools import partial
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.core.serializers.json import DjangoJSONEncoder
from django.db.models import Count, Min, Q
from tqdm import tqdm

from batch.display import duration, how_far, showing, why_idle
from batch.estimates import Estimates
from batch.models import SUBJECT_COLUMNS, UNFINISHED, Batch, BatchState, Item
from batch.presence import at_work, when_back
from batch.serializers import BatchDetailSerializer
from batch.services import cancel_batch, create_batch, retry_batch
from contimg.commands import ContimgCommand
from contimg.exceptions import InvalidInput

LOOK_EVERY_S = 0.5
MOST_LISTED = 50
FAILURE = {
    "item": "pk", "stage": "stage", "subject_kind": "subject_kind", "subject_id": "subject_id", "state": "state",
    "code": "error_code", "detail": "error_detail",
}  # fmt: skip


class UnknownBatch(InvalidInput):
    code = "unknown_batch"
    status = 404


class Command(ContimgCommand):
    help = "Make, look at, watch, cancel and retry batches."

    def add_arguments(self, parser: CommandParser) -> None:
        verbs = parser.add_subparsers(dest="verb", required=True)
        create = verbs.add_parser("create", help="Ask for a stage, or the chain `process`, on subjects.")
        create.add_argument("stage")
        create.add_argument(
            "--subject", action="append", metavar="KIND:ID", help=f"one of them; kinds are {', '.join(SUBJECT_COLUMNS)}"
        )
        create.add_argument(
            "--query",
            nargs="+",
            action="extend",
            metavar="NAME=VALUE",
            help="kind=KIND and filters, as those of the API's list",
        )
        create.add_argument("--parameter", action="append", default=[], metavar="NAME=VALUE")
        create.add_argument("--priority", type=int, default=0)
        create.add_argument("--idempotency-key")
        create.add_argument("--watch", action="store_true", help="until it has ended")
        listing = verbs.add_parser("list", help=f"The newest {MOST_LISTED}.")
        listing.add_argument("--state", choices=BatchState.values)
        for verb, what in (
            ("show", "Counts, progress, what failed and why."),
            ("watch", "Until it has ended; exit status 0 only when all of it was done."),
            ("cancel", "What has not begun ends now, what runs is stopped."),
            ("retry", "What failed, was cancelled or is quarantined runs again."),
        ):
            verbs.add_parser(verb, help=what).add_argument("id", type=int)
        for parser_of_verb in verbs.choices.values():
            parser_of_verb.add_argument("--json", action="store_true", dest="as_json", help="print it as JSON")

    def handle(self, *, verb: str, **options: Any) -> None:
        getattr(self, f"_{verb}")(**options)

    def _create(self, *, stage: str, watch: bool, as_json: bool, **options: Any) -> None:
        asked = create_batch(
            stage=stage,
            subjects=None if options["subject"] is None else [_subject(text) for text in options["subject"]],
            query=None if options["query"] is None else _pairs(options["query"]),
            parameters={name: _typed(value) for name, value in _pairs(options["parameter"]).items()},
            priority=options["priority"],
            idempotency_key=options["idempotency_key"],
        )
        if watch:
            self._watch(id=asked.batch.pk, as_json=as_json)
        else:
            self._print(asked.batch.pk, as_json)

    def _list(self, *, state: str | None, as_json: bool, **options: Any) -> None:
        batches = Batch.objects.for_listing().order_by("-created_at", "-id")
        rows = list((batches.filter(state=state) if state else batches)[:MOST_LISTED])
        eta_s = Estimates().eta_s(rows)
        if as_json:
            self._dump(BatchDetailSerializer(rows, many=True, context={"eta_s": eta_s}).data)
        elif not rows:
            self.stdout.write(f"No batches are {state}." if state else "No batches.")
        is_worked = bool(at_work())
        for batch in () if as_json else rows:
            self.stdout.write(_line(batch, eta_s[batch.pk] if is_worked else None))

    def _show(self, *, id: int, as_json: bool, **options: Any) -> None:
        self._print(id, as_json)

    def _watch(self, *, id: int, as_json: bool, **options: Any) -> None:
        batch = _find(id)

        def look() -> bool:
            batch.refresh_from_db()
            show(batch)
            return batch.n_open > 0

        with showing(batch, quiet=as_json, write=self.stderr.write) as show:
            while when_back(look, tell=self._tell):
                time.sleep(LOOK_EVERY_S)
        when_back(partial(self._print, id, as_json), tell=self._tell)
        if batch.state != BatchState.DONE:
            raise SystemExit(1)

    def _tell(self, text: str) -> None:
        with tqdm.external_write_mode():
            self.stderr.write(text)

    def _cancel(self, *, id: int, as_json: bool, **options: Any) -> None:
        cancel_batch(batch=_find(id))
        self._print(id, as_json)

    def _retry(self, *, id: int, as_json: bool, **options: Any) -> None:
        retry_batch(batch=_find(id))
        self._print(id, as_json)

    def _print(self, pk: int, as_json: bool) -> None:
        batch = _find(pk)
        eta_s = Estimates().eta_s([batch])
        if as_json:
            failures = [{name: getattr(item, column) for name, column in FAILURE.items()} for item in _failures(batch)]
            self._dump({**BatchDetailSerializer(batch, context={"eta_s": eta_s}).data, "failures": failures})
            return
        idle = why_idle(batch)
        self.stdout.write(_line(batch, None if idle else eta_s[pk]))
        if idle:
            self.stdout.write(f"  {idle}")
        for text in _held_back(batch):
            self.stdout.write(text)
        failed = _failures(batch)
        for item in failed:
            self.stdout.write(f"  item {item.pk} {item.state}, {item}: {item.error_detail} [{item.error_code}]")
        if len(failed) == MOST_LISTED:
            self.stdout.write(f"  These are the first {MOST_LISTED}; /api/v1/batches/{pk}/items/?state=failed has all.")

    def _dump(self, facts: Any) -> None:
        self.stdout.write(json.dumps(facts, cls=DjangoJSONEncoder, indent=2))


def _find(pk: int) -> Batch:
    try:
        return Batch.objects.for_detail().get(pk=pk)
    except (Batch.DoesNotExist, OverflowError) as error:
        raise UnknownBatch(f"There is no batch {pk}; `batch list` shows the newest.") from error


def _subject(text: str) -> tuple[str, int]:
    kind, colon, pk = text.partition(":")
    if not colon or not re.fullmatch(r"[0-9]{1,100}", pk):
        raise CommandError(f"--subject {text!r} is not KIND:ID, as subband_group:7.")
    return kind, int(pk)


def _pairs(texts: Iterable[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise CommandError(f"{text!r} is not NAME=VALUE.")
        if name in found:
            raise CommandError(f"{name!r} is there more than once; give each name once.")
        found[name] = value
    return found


def _typed(value: str) -> Any:
    """A number, true or false as a body has it; anything else stays text, which no parameter takes."""
    try:
        return json.loads(value, parse_constant=str)  # NaN is no number in JSON
    except ValueError:
        return value


def _line(batch: Batch, eta_s: float | None) -> str:
    left = f"; about {duration(eta_s)} left" if eta_s is not None and batch.n_open else ""
    return (
        f"batch {batch.pk}  {batch.stage:10}  {batch.state:9}  {100 * batch.progress:3.0f}% of {batch.n_total}: "
        f"{how_far(batch)}{left}  ({batch.created_at:%Y-%m-%d %H:%M})"
    )


def _held_back(batch: Batch) -> Iterable[str]:
    """What is waited for, and what ended because of another item, by stage and code with one sentence for each."""
    followed = Q(state__in=UNFINISHED, error_code__in=["dependency_failed", "cancelled"])
    held = batch.items.exclude(error_code="").filter(followed | Q(state__in=["waiting", "ready"]))
    counted = held.order_by("stage", "error_code").values("stage", "state", "error_code")
    for row in counted.annotate(n=Count("pk"), detail=Min("error_detail")):
        yield f"  {row['n']} {row['stage']} {row['state']}: {row['detail']} [{row['error_code']}]"


def _failures(batch: Batch) -> list[Item]:
    """The first that failed of themselves, with what they are about."""
    failed = batch.items.filter(state__in=["failed", "quarantined"]).exclude(error_code="dependency_failed")
    return list(failed.with_subject().order_by("id")[:MOST_LISTED])
