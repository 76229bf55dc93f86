"""What follows a quarantine: statistics are computed again, and what is suspect is rebuilt, as batches."""

from __future__ import annotations

from dataclasses import dataclass

from django.contrib.auth.models import User
from django.db import transaction

from batch.models import Batch, StageName
from batch.services import MOST_ITEMS, create_batch
from calibration.services import SetsInUse
from contimg.exceptions import ContimgError
from images.models import Image
from observations.models import Epoch, MeasurementSet, SubbandGroup
from provenance.models import Quarantine
from provenance.reach import downstream, node
from provenance.services import lift, quarantine
from sources.services import images_of_stale_sources


class NothingToRebuild(ContimgError):
    code = "nothing_to_rebuild"
    status = 409


@dataclass(frozen=True)
class NotRebuilt:
    """A tile that stays suspect, and why."""

    tile: SubbandGroup
    reason: str


@dataclass(frozen=True)
class Plan:
    """The least that rebuilds what a quarantine made suspect: tiles with other tables, then mosaics without them."""

    tiles: list[SubbandGroup]
    epochs: list[Epoch]
    not_rebuilt: list[NotRebuilt]


@transaction.atomic
def quarantine_and_recompute(
    *, kind: str, pk: int, reason: str, actor: User | None = None
) -> tuple[Quarantine, list[Batch]]:
    """Raises what `provenance.services.quarantine` raises."""
    row = quarantine(kind=kind, pk=pk, reason=reason, actor=actor)
    return row, _recompute(actor)


@transaction.atomic
def lift_and_recompute(*, row: Quarantine, actor: User | None = None) -> tuple[Quarantine, list[Batch]]:
    """Raises AlreadyLifted."""
    return lift(row=row, actor=actor), _recompute(actor)


def _recompute(owner: User | None) -> list[Batch]:
    """None where no source was measured in what changed."""
    images = images_of_stale_sources()
    parts = [images[first : first + MOST_ITEMS] for first in range(0, len(images), MOST_ITEMS)]
    return [_batch(StageName.STATISTICS, "image", part, owner) for part in parts]


def _batch(stage: str, kind: str, keys: list[int], owner: User | None) -> Batch:
    return create_batch(stage=stage, subjects=[(kind, pk) for pk in keys], owner=owner).batch


def plan(*, row: Quarantine) -> Plan:
    """In a fixed number of queries. Nothing is changed: who has seen it asks for `reprocess`."""
    reached = downstream(node(row.node_kind, row.node.pk))
    images = Image.objects.current().filter(is_suspect=True, pk__in=reached["image"]) if "image" in reached else None
    if images is None:
        return Plan([], [], [])
    suspects = images.tiles().select_related("measurement_set__calibrated_from", "measurement_set__group")
    tiles = list(suspects.prefetch_related("measurement_set__applied_flags__flag_table").order_by("observed_at", "pk"))
    epochs = Epoch.objects.filter(mosaics__in=images.mosaics()).order_by("started_at", "pk")
    named = Quarantine.objects.in_force()
    reasons = _Reasons(
        tables=_tables_for(tiles),
        images=set(named.exclude(image=None).values_list("image", flat=True)),
        sets=set(named.exclude(measurement_set=None).values_list("measurement_set", flat=True)),
    )
    rebuilt, kept = [], []
    for tile in tiles:
        measurement_set = _set_of(tile)
        reason = reasons.against(tile, measurement_set)
        if reason:
            kept.append(NotRebuilt(measurement_set.group, reason))
        else:
            rebuilt.append(measurement_set.group)
    return Plan(rebuilt, list(epochs), kept)


def _tables_for(tiles: list[Image]) -> SetsInUse:
    times = [_set_of(tile).observed_at for tile in tiles]
    return SetsInUse.during(min(times), max(times)) if times else SetsInUse([])


def _set_of(tile: Image) -> MeasurementSet:
    if tile.measurement_set is None:  # the database refuses a tile without one
        raise NothingToRebuild(f"{tile.name} is an image of no tile.")
    return tile.measurement_set


@dataclass(frozen=True)
class _Reasons:
    """What keeps a tile from being rebuilt: the same files and parameters would give the same product again."""

    tables: SetsInUse
    images: set[int]  # quarantined themselves
    sets: set[int]

    def against(self, tile: Image, calibrated: MeasurementSet) -> str:
        raw = calibrated.calibrated_from or calibrated
        flags = getattr(calibrated, "applied_flags", None)
        if calibrated.group.is_suspect:
            return "its raw files are quarantined"
        if raw.is_suspect:
            return "its raw measurement set is quarantined, and converting the same files gives the same again"
        if flags is not None and flags.flag_table.is_suspect:
            return "its flags are quarantined, and flagging the same data gives the same again"
        if calibrated.pk in self.sets:
            return "its calibrated set is quarantined itself, and not the tables that made it"
        if tile.pk in self.images:
            return "the image is quarantined itself, and imaging the same data gives the same again"
        if not self.tables.has_one_for(raw):
            return "no other calibration table that passed its gate is valid for it"
        return ""


@transaction.atomic
def reprocess(*, row: Quarantine, owner: User | None = None) -> list[Batch]:
    """The batches of its plan: the tiles, and the mosaics, which wait for them. Raises NothingToRebuild."""
    planned = plan(row=row)
    batches = []
    if planned.tiles:
        batches.append(_batch(StageName.PROCESS, "subband_group", [tile.pk for tile in planned.tiles], owner))
    if planned.epochs:
        batches.append(_batch(StageName.MOSAIC, "epoch", [epoch.pk for epoch in planned.epochs], owner))
    if not batches:
        why = "; ".join(sorted({one.reason for one in planned.not_rebuilt})) or "nothing of it is current and suspect"
        raise NothingToRebuild(f"Nothing can be rebuilt after the quarantine of {row.node}: {why}.")
    return batches
