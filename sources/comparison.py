"""Holding images against a reference catalogue: decisions and writes.

    comparison = compare_image(image=image)     # work: engines read files, nothing is written
    record_comparison(comparison=comparison)    # record: one transaction

Engines are imported inside the functions: web processes import this module and must never load one.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.db import transaction

from contimg.products import digest
from contimg.sky import MAX_RADIUS_DEG
from images.models import Image
from sources.models import Comparison, ReferenceCatalogue, ReferenceSource
from sources.services import NotMeasurable, image_files

if TYPE_CHECKING:
    from sources.engines.compare import Limits, Reference

NOT_IMPORTED = "no reference catalogue is imported"


@dataclass(frozen=True)
class Chosen:
    """The catalogue that images are held against, or the reason why there is none."""

    catalogue: ReferenceCatalogue | None
    reason: str = ""


def chosen_catalogue() -> Chosen:
    """The one that CONTIMG_REFERENCE_CATALOGUE names; where it names none, the first that was imported.

    So another one that is imported changes no verdict before somebody says so.
    """
    name = settings.CONTIMG_REFERENCE_CATALOGUE
    if name:
        named = ReferenceCatalogue.objects.filter(name=name).first()
        return Chosen(named, "" if named else f"the reference catalogue {name} is not imported")
    first = ReferenceCatalogue.objects.order_by("pk").first()
    return Chosen(first, "" if first else NOT_IMPORTED)


def comparison_recipe(*, image: Image) -> str:
    """What `compare_image` would store; a comparison with it needs no work."""
    return _recipe(image, chosen_catalogue().catalogue)


def _recipe(image: Image, catalogue: ReferenceCatalogue | None) -> str:
    rows = catalogue and [catalogue.checksum, catalogue.parameters, catalogue.frequency_hz]
    return digest("comparison", image.recipe, rows, _parameters(image, catalogue))


def _limits() -> Limits:
    from sources.engines.compare import Limits

    return Limits(flux_systematic=settings.CONTIMG_FLUX_SYSTEMATIC)


def _parameters(image: Image, catalogue: ReferenceCatalogue | None) -> dict[str, Any]:
    """With what the fluxes were brought to the image's frequency: null where a frequency is not known."""
    scaled = catalogue is not None and catalogue.frequency_hz is not None and image.frequency_hz is not None
    return {
        **dataclasses.asdict(_limits()),
        "spectral_index_assumed": settings.CONTIMG_SPECTRAL_INDEX if scaled else None,
        "from_hz": catalogue.frequency_hz if scaled and catalogue else None,
        "to_hz": image.frequency_hz if scaled else None,
    }


def compare_image(*, image: Image) -> Comparison:
    """The row that `record_comparison` writes; with a reason in it where there is nothing to hold the image against.

    Raises MissingProduct and EngineFailed.
    """
    from sources.engines.compare import compare

    chosen = chosen_catalogue()
    parameters = _parameters(image, chosen.catalogue)
    row = Comparison(
        image=image,
        catalogue=chosen.catalogue,
        recipe=_recipe(image, chosen.catalogue),
        parameters=parameters,
        n_expected=0,
        n_matched=0,
        reason=chosen.reason,
    )
    if chosen.catalogue is None:
        return row
    reference = _reference(image, chosen.catalogue, parameters)
    try:
        files = image_files(image)
    except NotMeasurable as error:
        row.reason = str(error)
        return row
    if len(reference):
        compared = compare(
            files=files, reference=reference, ra_deg=image.ra_deg, dec_deg=image.dec_deg, limits=_limits()
        )
        for name, value in vars(compared).items():
            setattr(row, name, value)
    row.reason = _why_no_ratio(row, chosen.catalogue)
    return row


def _why_no_ratio(row: Comparison, catalogue: ReferenceCatalogue) -> str:
    least_mjy = 1000 * row.parameters["least_flux_jy"]
    if not row.n_expected:
        return f"nothing of {catalogue.name} from {least_mjy:g} mJy on is in this image"
    if not row.n_matched:
        return f"none of the {row.n_expected} sources of {catalogue.name} here stands alone and is unresolved"
    return ""


def _reference(image: Image, catalogue: ReferenceCatalogue, parameters: dict[str, Any]) -> Reference:
    """The catalogue's sources around the image, at its frequency where both frequencies are known.

    S ~ frequency^index, with each source's own index where the catalogue gives it.
    """
    import numpy as np

    from sources.engines.compare import Reference

    around = ReferenceSource.objects.filter(catalogue=catalogue).within_cone(
        ra_deg=image.ra_deg, dec_deg=image.dec_deg, radius_deg=min(image.radius_deg, MAX_RADIUS_DEG)
    )
    columns = ("row", "ra_deg", "dec_deg", "flux_jy", "flux_err_jy", "major_arcsec", "spectral_index")
    rows = np.array(list(around.values_list(*columns)), dtype=float).reshape(-1, len(columns))  # None becomes NaN
    row, ra, dec, flux, error, major, index = rows.T
    scale = np.ones(len(rows))
    if parameters["from_hz"] is not None:
        index = np.where(np.isfinite(index), index, parameters["spectral_index_assumed"])
        scale = (parameters["to_hz"] / parameters["from_hz"]) ** index
    return Reference(row.astype(int), ra, dec, flux * scale, error * scale, major)


@transaction.atomic
def record_comparison(*, comparison: Comparison) -> Comparison:
    """In place of what was known of the image; the same again changes nothing but the time."""
    names = [field.name for field in Comparison._meta.concrete_fields if field.name not in ("id", "image")]
    columns = {name: getattr(comparison, name) for name in names if name != "created_at"}
    row, _ = Comparison.objects.update_or_create(image=comparison.image, defaults=columns)
    return row
