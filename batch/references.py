"""What refers to a product, in every table: a product that anything refers to is never deleted.

Not here is what says something of a product alone and goes with it: edges, assessments, comparisons, catalogues and
which attempt made it; the attempt's evidence stays. `tests/batch/test_retention.py` holds this to the models.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from django.db.models import Count, Model, QuerySet

from batch.models import Item
from calibration.models import AppliedFlags, AppliedTable, CalibrationTable, FlagTable
from images.models import Image, MosaicTile
from observations.models import MeasurementSet
from provenance.models import Quarantine
from qa.models import Review
from sources.models import Measurement


@dataclass(frozen=True)
class Reference:
    """Rows of `model` whose `column` names a product. `owner` is the product with which they go, and its column."""

    model: type[Model]
    column: str
    words: str
    owner: tuple[type[Model], str] | None = None


REFERENCES: dict[type[Model], tuple[Reference, ...]] = {
    Image: (
        Reference(Measurement, "image", "fluxes were measured in it"),
        Reference(MosaicTile, "tile", "mosaics are made of it", (Image, "mosaic")),
        Reference(Review, "image", "reviews are of it"),
        Reference(Quarantine, "image", "quarantines name it"),
        Reference(Item, "image", "items are about it"),
    ),
    MeasurementSet: (
        Reference(Image, "measurement_set", "images are made of it", (Image, "pk")),
        Reference(MeasurementSet, "calibrated_from", "calibrated sets are made of it", (MeasurementSet, "pk")),
        Reference(FlagTable, "measurement_set", "flag tables are of it", (FlagTable, "pk")),
        Reference(
            CalibrationTable, "source_measurement_set", "calibration tables are solved on it", (CalibrationTable, "pk")
        ),
        Reference(Quarantine, "measurement_set", "quarantines name it"),
        Reference(Item, "measurement_set", "items are about it"),
    ),
    CalibrationTable: (
        Reference(AppliedTable, "table", "sets are calibrated with it", (MeasurementSet, "measurement_set")),
        Reference(Review, "calibration_table", "reviews are of it"),
        Reference(Quarantine, "calibration_table", "quarantines name it"),
    ),
    FlagTable: (
        Reference(CalibrationTable, "flag_table", "calibration tables are solved with it", (CalibrationTable, "pk")),
        Reference(AppliedFlags, "flag_table", "sets are flagged with it", (MeasurementSet, "measurement_set")),
        Reference(Quarantine, "flag_table", "quarantines name it"),
    ),
}  # fmt: skip


def why_referred_to(model: type[Model], pks: Collection[int], going: Mapping[type[Model], set[int]]) -> dict[int, str]:
    """For each of these products that something refers to, what does; what is `going` itself is not counted."""
    found: dict[int, list[str]] = defaultdict(list)
    for reference in REFERENCES[model]:
        rows = reference.model._default_manager.order_by().filter(**{f"{reference.column}__in": pks})
        for pk, n in _counted(rows, reference, going):
            found[pk].append(f"{n} {reference.words}")
    return {pk: ", ".join(whys) for pk, whys in found.items()}


def _counted(rows: QuerySet, reference: Reference, going: Mapping[type[Model], set[int]]) -> Iterable[tuple[int, int]]:
    if reference.owner is None or not going.get(reference.owner[0]):
        return rows.values_list(reference.column).annotate(n=Count("pk"))
    owner, column = reference.owner
    counts: dict[int, int] = defaultdict(int)
    for pk, owner_pk in rows.values_list(reference.column, column):
        if owner_pk not in going[owner]:
            counts[pk] += 1
    return counts.items()


def busy_tiles() -> set[int]:
    """The subband groups for which work is open: what it will read is not known before it has read it."""
    open_items = Item.objects.unended().filter(epoch=None).order_by()
    columns = ("group", "measurement_set__group", "image__measurement_set__group")
    return {pk for row in open_items.values_list(*columns).distinct() for pk in row if pk}


def busy_epochs() -> set[int]:
    open_items = Item.objects.unended().filter(epoch__isnull=False).order_by()
    return set(open_items.values_list("epoch", flat=True))
