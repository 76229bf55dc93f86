"""What something bad has touched: counts and sums over rows of products, never over measurements."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db.models import Count, Max, Min, Q, QuerySet, Sum, TextField
from django.db.models.fields.json import KeyTransform
from django.db.models.functions import Cast

from contimg.exceptions import InvalidInput
from contimg.intervals import refuse_reversed
from images.models import Image
from images.querysets import ImageQuerySet
from observations.models import Epoch, MeasurementSet, SubbandGroup
from provenance.reach import KINDS, Keys, Start, downstream, keys
from qa.models import Assessment

MOST_NAMED = 1000  # of each kind


class NothingAsked(InvalidInput):
    code = "nothing_asked"


class UnknownAntenna(InvalidInput):
    code = "unknown_antenna"


class UnknownSoftware(InvalidInput):
    code = "unknown_software"


@dataclass(frozen=True)
class Impact:
    """`counts` by kind, `products` the keys of the first MOST_NAMED of each, and what they are worth to a reader."""

    counts: dict[str, int]
    products: dict[str, list[int]]
    n_measurements: int
    n_lenient: int
    n_suspect: int
    observed_from: datetime | None
    observed_until: datetime | None
    verdicts: dict[str, int]
    epochs: list[str]


def of_node(*, kind: str, pk: int) -> Impact:
    return impact_of({kind: keys(KINDS[kind]._default_manager.filter(pk=pk))})


def asked(
    *,
    antenna: str = "",
    observed_from: datetime | None = None,
    observed_until: datetime | None = None,
    software: str = "",
    version: str = "",
) -> Impact:
    """Of observations or of software, whichever is named. Raises NothingAsked for neither and for both."""
    if not (software or version):
        return of_observations(antenna=antenna, observed_from=observed_from, observed_until=observed_until)
    if antenna or observed_from is not None or observed_until is not None:
        raise NothingAsked("Ask either about software or about observations, not about both at once.")
    return of_software(name=software, version=version)


def of_observations(
    *, antenna: str = "", observed_from: datetime | None = None, observed_until: datetime | None = None
) -> Impact:
    """Of an antenna's data, of all data of a time, or of an antenna's in a time.

    Raises NothingAsked, ReversedInterval, and UnknownAntenna where no measurement set has it: of a misspelt name that
    nothing was touched would be a lie.
    """
    refuse_reversed(observed_from, observed_until)
    if not antenna and observed_from is None and observed_until is None:
        raise NothingAsked("Say what it is about: an antenna, a time range, or a version of software.")
    during = Q()
    if observed_from is not None:
        during &= Q(observed_at__gte=observed_from)
    if observed_until is not None:
        during &= Q(observed_at__lt=observed_until)
    if not antenna:
        return impact_of({"subband_group": keys(SubbandGroup.objects.filter(during))})
    having = _with_antenna(MeasurementSet.objects.uncalibrated(), antenna)
    if not having.exists():
        names = MeasurementSet.objects.order_by("-pk").values_list("antennas", flat=True).first() or []
        like = f"such as {names[0]!r} of the newest" if names else "for there is none yet"
        raise UnknownAntenna(f"No measurement set has an antenna {antenna!r}; name one as the sets do, {like}.")
    return impact_of({"measurement_set": keys(having.filter(during))})


def of_software(*, name: str, version: str) -> Impact:
    """Of the products that were made with a version of a program or library, and of all that was made of those.

    Raises NothingAsked, and UnknownSoftware where no product names it: of a misspelt one zero would be a lie.
    """
    if not re.fullmatch(r"[A-Za-z][\w.-]{0,99}", name, re.ASCII) or not version:
        raise NothingAsked("Name the software and its version as `versions` of a product does, such as ducc0 and 0.42.")
    made_with: dict[str, Keys] = {}
    for kind, model in KINDS.items():
        if kind != "subband_group":
            rows = model._default_manager.alias(made_with=KeyTransform(name, "versions"))
            made_with[kind] = keys(rows.filter(made_with=version))
    found = impact_of(made_with)
    if not found.counts:
        newest = Image.objects.order_by("-pk").values_list("versions", flat=True).first() or {}
        named = ", ".join(f"{program} {its}" for program, its in newest.items()) or "nothing, for there is none yet"
        raise UnknownSoftware(f"No product was made with {name} {version}; the newest image names {named}.")
    return found


def _with_antenna(sets: QuerySet[MeasurementSet], antenna: str) -> QuerySet[MeasurementSet]:
    """SQLite cannot ask whether a JSON list has a member: the text of the list is searched, quotes and all."""
    return sets.alias(named=Cast("antennas", TextField())).filter(named__contains=f'"{antenna}"')


def impact_of(start: Start) -> Impact:
    """In 16 queries at most. `n_measurements` are fluxes, each a point of a light curve."""
    found = downstream(start)
    counts: dict[str, int] = {}
    products: dict[str, list[int]] = {}
    for kind, reached in found.items():
        rows = KINDS[kind]._default_manager.filter(pk__in=reached).order_by("pk")
        named = list(rows.values_list("pk", flat=True)[:MOST_NAMED])
        if named:
            products[kind] = named
            counts[kind] = rows.count() if len(named) == MOST_NAMED else len(named)
    images = Image.objects.filter(pk__in=found["image"]) if "image" in found else Image.objects.none()
    return Impact(counts=counts, products=products, **_worth(images))


def _worth(images: ImageQuerySet) -> Mapping[str, Any]:
    sums = images.aggregate(
        n_measurements=Sum("n_measurements", default=0),
        n_lenient=Count("pk", filter=Q(is_lenient=True)),
        n_suspect=Count("pk", filter=Q(is_suspect=True)),
        observed_from=Min("observed_at"),
        observed_until=Max("observed_at"),
    )
    published = Assessment.objects.current().filter(image__in=images.order_by().values("pk"))
    verdicts = published.order_by().values("grade").annotate(n=Count("pk")).values_list("grade", "n")
    mosaics = images.mosaics().order_by().values("mosaic_of")
    epochs = Epoch.objects.filter(pk__in=mosaics).order_by("started_at")[:MOST_NAMED]
    return {**sums, "verdicts": dict(verdicts), "epochs": [epoch.name for epoch in epochs]}
