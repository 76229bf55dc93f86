"""A folder that is watched: what has landed is indexed, what is ready is asked for, what became of it is told once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from django.db.models import Exists, OuterRef

from batch.models import Item, StageName
from batch.outcomes import in_brackets, items_by_tile, outcome_line, outcomes
from batch.querysets import ItemQuerySet
from batch.services import create_batch
from batch.stages import is_processed
from contimg.exceptions import NotReadable
from observations.models import SubbandGroup
from observations.querysets import SubbandGroupQuerySet
from observations.services import describe, index_subbands, why_not


@dataclass(frozen=True)
class News:
    """Something that an operator should know: of which kind, about which tile, file or folder, in one sentence."""

    kind: str
    name: str
    text: str


@dataclass
class Watch:
    """What is remembered between two looks at a folder; all that matters is in the database.

    A tile is asked for when it is complete, or nothing new has come for it for `settle_s` seconds by its files' times
    and by this machine's clock (copies keep the times of their originals). It is asked for again only when its files
    change after that: what failed is for a person to `batch retry`.
    """

    folder: Path
    settle_s: float
    parameters: dict[str, Any]
    _in_work: dict[int, int] = field(default_factory=dict)  # the newest batch of each tile that has not ended
    _found_done: dict[int, datetime] = field(default_factory=dict)  # by tile, without an item of a batch
    _suspects: set[tuple[str, str]] = field(default_factory=set)  # refused at the last look, and may be being written
    _told: dict[tuple[str, str], str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.folder = self.folder.resolve()
        tiles = SubbandGroup.objects.under(self.folder)
        rows = _asked_for().unended().filter(group__in=tiles).order_by("batch").values_list("group", "batch")
        self._in_work = dict(rows)

    def look(self) -> list[News]:
        """Index the folder and ask for what is ready. A folder that cannot be read now is looked at the next time."""
        return [*self._new(self._index()), *self._ask(), *self._new(self._left())]

    def ended(self) -> list[News]:
        """What became of tiles since it was last asked, and which wait for calibration."""
        return [*self._new(self._waiting()), *self._ended()]

    @property
    def n_in_work(self) -> int:
        return len(self._in_work)

    def _new(self, found: Iterable[News]) -> Iterator[News]:
        """Those that do not say what was said last of the same thing."""
        for news in found:
            if self._told.get((news.kind, news.name)) != news.text:
                self._told[news.kind, news.name] = news.text
                yield news

    def _index(self) -> Iterator[News]:
        try:
            report = index_subbands(folder=self.folder)
        except NotReadable as error:
            yield News("folder", str(self.folder), f"{error} It is looked at again. [{error.code}]")
            return
        self._told.pop(("folder", str(self.folder)), None)
        refused = {(file.path, f"{file.detail} [{file.code}]") for file in report.refused}
        for path, why in sorted(refused & self._suspects):
            yield News("refused", path, f"{path} refused: {why}")
        self._suspects = refused

    def _ask(self) -> Iterator[News]:
        tiles = [tile for tile in self._ready() if not self._is_done(tile)]
        if not tiles:
            return
        subjects = [("subband_group", tile.pk) for tile in tiles]
        batch = create_batch(stage=StageName.PROCESS, subjects=subjects, parameters=self.parameters).batch
        for tile in tiles:
            self._in_work[tile.pk] = batch.pk
            yield News("asked", tile.name, f"{tile.name} in work: {describe(tile, self.settle_s)}; batch {batch.pk}")

    def _ready(self) -> SubbandGroupQuerySet:
        asked = _asked_for().filter(group=OuterRef("pk"))
        return (
            self._settled()
            .processable()
            .exclude(Exists(asked.unended()))
            .exclude(Exists(asked.filter(created_at__gte=OuterRef("files_changed_at"))))
            .with_files()
            .order_by("started_at", "pk")
        )

    def _is_done(self, tile: SubbandGroup) -> bool:
        if self._found_done.get(tile.pk) != tile.files_changed_at:
            if not is_processed(tile, self.parameters):
                return False
            self._found_done[tile.pk] = tile.files_changed_at
        return True

    def _left(self) -> Iterator[News]:
        """Groups that have settled and are nothing to process."""
        left = self._settled().not_processable().unprocessed()
        for group in left.with_files().order_by("started_at", "pk"):
            why = f"{describe(group, self.settle_s)}{in_brackets(why_not(group))}"
            yield News("left", group.name, f"{group.name} {why}")

    def _settled(self) -> SubbandGroupQuerySet:
        return SubbandGroup.objects.under(self.folder).settled(self.settle_s).unchanged(self.settle_s)

    def _waiting(self) -> Iterator[News]:
        waiting = _asked_for().waiting_for_calibration().filter(group__in=self._in_work)
        for item in waiting.select_related("group").order_by("id"):
            yield News("waiting", item.subject.name, f"{item.subject.name} waiting: {item.error_detail}")

    def _ended(self) -> Iterator[News]:
        unended = _asked_for().unended().filter(group__in=self._in_work).values_list("group", flat=True).distinct()
        keys = self._in_work.keys() - set(unended)
        tiles = list(SubbandGroup.objects.filter(pk__in=keys).order_by("started_at", "pk"))
        items = Item.objects.filter(group__in=keys, batch__in={self._in_work[pk] for pk in keys})
        for tile, outcome in zip(tiles, outcomes(tiles, items_by_tile(items)), strict=True):
            batch = self._in_work.pop(tile.pk)
            again = f"; `batch retry {batch}`" if outcome["state"] in ("failed", "quarantined") else ""
            yield News(outcome["state"], tile.name, outcome_line(outcome) + again)


def _asked_for() -> ItemQuerySet:
    return Item.objects.filter(batch__stage=StageName.PROCESS)
