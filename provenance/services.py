"""Quarantine: what is bad, and everything that was made from it, is suspect at once, and until it is lifted."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django.contrib.auth.models import User
from django.db import IntegrityError, transaction
from django.db.models import Q, QuerySet
from django.utils import timezone

from access.audit import audit
from calibration.models import AppliedFlags, AppliedTable, CalibrationTable, FlagTable
from contimg.exceptions import ContimgError, InvalidInput
from images.models import Image, MosaicTile
from observations.models import MeasurementSet, SubbandGroup
from provenance.models import NODE_COLUMNS, Quarantine
from provenance.reach import KINDS, product_of
from sources.services import lock_sources, withdraw_statistics

MOST_REASON_CHARACTERS = 300


class AlreadyQuarantined(ContimgError):
    code = "already_quarantined"
    status = 409


class AlreadyLifted(ContimgError):
    code = "already_lifted"
    status = 409


class NotQuarantinable(InvalidInput):
    code = "not_quarantinable"


class ReasonMissing(InvalidInput):
    code = "reason_missing"


def quarantine(*, kind: str, pk: int, reason: str, actor: User | None = None) -> Quarantine:
    """One transaction: the product and all that was made from it is suspect, and counts nowhere from now on.

    Raises NotQuarantinable, NoSuchProduct, ReasonMissing and AlreadyQuarantined.
    """
    if kind not in NODE_COLUMNS:
        raise NotQuarantinable(f"A {kind!r} cannot be quarantined; there are {', '.join(NODE_COLUMNS)}.")
    product = product_of(kind, pk)
    text = " ".join(reason.split())
    if not text or len(text) > MOST_REASON_CHARACTERS:
        raise ReasonMissing(f"Say why, in 1 to {MOST_REASON_CHARACTERS} characters; who finds it suspect will read it.")
    try:
        with transaction.atomic():
            row = Quarantine.objects.create(**{kind: product}, reason=text, created_by=actor)
            n_images = _spread()
            details = {"kind": kind, "id": pk, "reason": text, "images": n_images}
            audit(action="quarantine.add", subject=row, details=details)
    except IntegrityError as error:
        raise AlreadyQuarantined(
            f"{product} is quarantined already; lift that before you say another reason."
        ) from error
    return row


@transaction.atomic
def lift(*, row: Quarantine, actor: User | None = None) -> Quarantine:
    """One transaction: what is under no other quarantine is trusted again. Raises AlreadyLifted."""
    now = timezone.now()
    if not Quarantine.objects.in_force().filter(pk=row.pk).update(lifted_at=now, lifted_by=actor):
        raise AlreadyLifted(f"The quarantine of {row.node} was lifted already.")
    row.refresh_from_db()
    n_images = _spread()
    audit(action="quarantine.lift", subject=row, details={"images": n_images})
    return row


# --- spreading -----------------------------------------------------------------------------------------------------
def _spread() -> int:
    """Make every flag say what is true now: suspect is what is quarantined, or was made from what is.

    From the raw data down, so that each kind follows those it is made from: a fixed number of UPDATEs of sets, each
    of which looks at what is or becomes suspect and not at the rest. Returns how many images changed.
    """
    lock_sources()  # first: who records a catalogue holds it when he writes to the images
    n_images = 0
    for rows, parents in _levels():
        changing = [
            (rows.filter(is_suspect=False).filter(_is_quarantined(rows) | parents), True),
            (rows.filter(is_suspect=True).exclude(_is_quarantined(rows) | parents), False),
        ]
        for chosen, suspect in changing:
            if rows.model is Image:
                n_images += chosen.count()
                withdraw_statistics(images=chosen)
            chosen.update(is_suspect=suspect)
    return n_images


def _levels() -> Iterator[tuple[Any, Q]]:
    """The kinds in the order in which one is made from another, and what makes a row of each suspect besides itself."""
    groups = SubbandGroup.objects.filter(is_suspect=True)
    sets = MeasurementSet.objects.filter(is_suspect=True)
    raw = sets.filter(calibrated_from=None)
    flags = FlagTable.objects.filter(is_suspect=True)
    tables = CalibrationTable.objects.filter(is_suspect=True)
    yield SubbandGroup.objects.all(), Q(pk__in=[])
    yield MeasurementSet.objects.uncalibrated(), Q(group__in=groups)
    yield FlagTable.objects.all(), Q(measurement_set__in=raw)
    yield CalibrationTable.objects.all(), Q(flag_table__in=flags) | Q(source_measurement_set__in=raw)
    yield (
        MeasurementSet.objects.calibrated(),
        (
            Q(calibrated_from__in=raw)
            | Q(pk__in=AppliedTable.objects.filter(table__in=tables).values("measurement_set"))
            | Q(pk__in=AppliedFlags.objects.filter(flag_table__in=flags).values("measurement_set"))
        ),
    )
    yield Image.objects.exclude(kind=Image.Kind.MOSAIC), Q(measurement_set__in=sets)
    tiles = Image.objects.filter(is_suspect=True).exclude(kind=Image.Kind.MOSAIC)
    yield Image.objects.mosaics(), Q(pk__in=MosaicTile.objects.filter(tile__in=tiles).values("mosaic"))


def _is_quarantined(rows: QuerySet) -> Q:
    column = next(kind for kind, model in KINDS.items() if model is rows.model)
    return Q(pk__in=Quarantine.objects.in_force().filter(**{f"{column}__isnull": False}).values(column))
