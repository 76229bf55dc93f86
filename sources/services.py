"""Decisions and writes about sources.

    measured = measure_image(image=image)                        # work: engines read files, nothing is written
    catalogue = record_catalogue(image=image, measured=measured)  # record: one transaction

Engines are imported inside the functions: web processes import this module and must never load one.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.db import connection, transaction
from django.db.models import Count, F, Max, Min, OuterRef, Q, Subquery, Sum
from django.db.models.functions import Coalesce

from contimg.exceptions import Busy, InvalidInput, MissingProduct
from contimg.models import Grade
from contimg.products import digest, product_path
from contimg.sky import MAX_RADIUS_DEG, InCells, healpix_indices, separation_deg
from images.models import Image
from images.querysets import ImageQuerySet
from images.services import image_file
from sources.models import Catalogue, Measurement, Source
from sources.querysets import MeasurementQuerySet, SourceQuerySet
from sources.variability import Statistics, is_variable, statistics

if TYPE_CHECKING:
    from sources.engines.finder import Detection
    from sources.engines.forced import ForcedFluxes, ImageFiles

logger = logging.getLogger(__name__)

FIND_RADIUS_DEG = 30 / 3600
NOT_MEASURED, OUTSIDE = "not measured yet", "outside the image, blank, or below 0.1 of the primary beam"
LARGEST_TILE_RADIUS_DEG = 5.0  # to find the tiles that may cover a place; ours reach 2.9 deg from their centre
SOURCES_LOCK = 0x736F7572636573  # one number for all processes: "sources"
FEW_MEASUREMENTS = 200_000
WITHDRAWN = "Data that it was measured in were quarantined, or are trusted again: statistics are being computed."
EDGE_DEG = 0.01  # around an image: a source there may be the one that is seen just inside


class UnknownSource(InvalidInput):
    code = "unknown_source"
    status = 404


class NotMeasurable(InvalidInput):
    """The image does not say enough to measure fluxes in it."""

    code = "not_measurable"


@dataclass(frozen=True)
class PhotometryParameters:
    """Thresholds in units of the local noise, limits in arcsec."""

    detection_sigma: float = 5.0
    island_sigma: float = 3.5
    new_source_sigma: float = 5.5  # noise peaks above 5 happen once or twice a tile, above 5.5 hardly ever
    upper_limit_sigma: float = 3.0
    de_ruiter_limit: float = 5.68  # one true match in 10^7 is farther (Scheers 2011)
    position_floor_arcsec: float = 1.0
    flux_systematic: float = 0.02

    @classmethod
    def configured(cls) -> PhotometryParameters:
        return cls(flux_systematic=settings.CONTIMG_FLUX_SYSTEMATIC)


@dataclass(frozen=True)
class StatisticsOf:
    """The statistics of the sources in an image: what refreshing those that were withdrawn makes."""

    image: Image


@dataclass(frozen=True)
class MeasuredImage:
    """Everything that is known of an image's sources, as rows that are not written yet."""

    recipe: str
    engine: str
    parameters: dict[str, float]
    versions: dict[str, str]
    n_detected: int
    newest_source_id: int  # of all that were known when this was measured
    newest_catalogue_id: int  # of all that were recorded then
    new_sources: list[Source] = field(default_factory=list)
    fitted: list[Measurement] = field(default_factory=list)
    forced: list[Measurement] = field(default_factory=list)
    forced_elsewhere: list[Measurement] = field(default_factory=list)


# --- work ---------------------------------------------------------------------------------------------------------
def catalogue_recipe(*, image: Image) -> str:
    """What `record_catalogue` will store; a catalogue with it needs no work."""
    from sources.engines import finder

    parameters = dataclasses.asdict(PhotometryParameters.configured())
    # A new source may come from this image unless it is poor, so a change of that verdict asks for another catalogue.
    return digest("photometry", image.recipe, parameters, finder.NAME, finder.versions(), _may_add_sources(image))


def measure_image(*, image: Image) -> MeasuredImage:
    """Find what is in an image, say which sources they are, and measure every known and new source in it.

    New sources are also measured in all other current images that cover them, so a light curve has no gap before the
    discovery. Raises NotMeasurable, MissingProduct, EngineFailed and EngineUnavailable.
    """
    from sources.engines import finder

    parameters = PhotometryParameters.configured()
    newest_source = Source.objects.aggregate(newest=Max("id"))["newest"] or 0
    newest_catalogue = Catalogue.objects.aggregate(newest=Max("id"))["newest"] or 0
    known = list(_sources_around(image))
    files = image_files(image)
    found = finder.find(files=files, detection_sigma=parameters.detection_sigma, island_sigma=parameters.island_sigma)
    detections, responses = _inside_the_beam(files, found)
    cells = healpix_indices([one.ra_deg for one in detections], [one.dec_deg for one in detections])
    source_of = _sources_of(image, detections, cells, known, parameters)
    new = [source for source in source_of.values() if source.pk is None]
    return MeasuredImage(
        recipe=catalogue_recipe(image=image),
        engine=finder.NAME,
        parameters=dataclasses.asdict(parameters),
        versions=finder.versions(),
        n_detected=len(found),
        newest_source_id=newest_source,
        newest_catalogue_id=newest_catalogue,
        new_sources=new,
        fitted=[
            _fitted(image, source, detections[index], cells[index], responses[index], parameters)
            for index, source in source_of.items()
        ],
        forced=_forced(image, files, [*known, *new], parameters),
        forced_elsewhere=_forced_elsewhere(image, new, parameters),
    )


def _may_add_sources(image: Image) -> bool:
    """A poor or suspect image's artefacts are not sources, and an image from elsewhere is not of our choosing."""
    return image.grade != Grade.POOR and not image.is_suspect and image.kind != Image.Kind.EXTERNAL


def _sources_around(image: Image) -> SourceQuerySet:
    return Source.objects.within_cone(
        ra_deg=image.ra_deg, dec_deg=image.dec_deg, radius_deg=min(image.radius_deg + EDGE_DEG, MAX_RADIUS_DEG)
    )


def image_files(image: Image) -> ImageFiles:
    """What fluxes are measured in. Raises NotMeasurable and MissingProduct."""
    from sources.engines.forced import ImageFiles, RestoringBeam

    if image.bmaj_arcsec is None or image.bmin_arcsec is None or image.bpa_deg is None:
        raise NotMeasurable(f"{image.name} does not say its beam, without which no flux can be measured.")
    if image.unit.replace(" ", "").lower() != "jy/beam":
        raise NotMeasurable(f"{image.name} is in {image.unit or 'an unknown unit'}; only Jy/beam can be measured.")
    return ImageFiles(
        image=product_path(image.flat_noise_path) if image.flat_noise_path else image_file(image=image),
        beam=RestoringBeam(image.bmaj_arcsec, image.bmin_arcsec, image.bpa_deg),
        residual=product_path(image.residual_path) if image.residual_path else None,
        primary_beam=product_path(image.primary_beam_path) if image.primary_beam_path else None,
    )


def _inside_the_beam(files: ImageFiles, found: Sequence[Detection]) -> tuple[list[Detection], list[float]]:
    """The detections where the primary beam is known well enough to correct for it, and its value there."""
    from sources.engines.forced import PRIMARY_BEAM_LIMIT, responses

    values = responses(files=files, ra_deg=[one.ra_deg for one in found], dec_deg=[one.dec_deg for one in found])
    inside = [(one, value) for one, value in zip(found, values.tolist(), strict=True) if value >= PRIMARY_BEAM_LIMIT]
    return [one for one, _ in inside], [value for _, value in inside]


def _sources_of(
    image: Image,
    detections: Sequence[Detection],
    cells: Sequence[int],
    known: Sequence[Source],
    parameters: PhotometryParameters,
) -> dict[int, Source]:
    """The source of each detection (by index): a known one, or a new one if it is strong enough and the image good."""
    from sources.association import associate

    matches = associate(
        detections,
        known,
        de_ruiter_limit=parameters.de_ruiter_limit,
        floor_arcsec=parameters.position_floor_arcsec,
    )
    source_of = {index: known[matches[index]] for index in sorted(matches)}
    if _may_add_sources(image):
        taken = {source.name for source in known}
        for index, detection in enumerate(detections):
            if index not in source_of and detection.snr >= parameters.new_source_sigma:
                source_of[index] = _new_source(detection, cells[index], taken)
                taken.add(source_of[index].name)
    return source_of


def _new_source(detection: Detection, cell: int, taken: set[str]) -> Source:
    from sources.association import iau_name

    return Source(
        name=iau_name(ra_deg=detection.ra_deg, dec_deg=detection.dec_deg, taken=taken),
        ra_deg=detection.ra_deg,
        dec_deg=detection.dec_deg,
        position_err_arcsec=detection.position_err_arcsec,
        healpix=cell,
    )


def _fitted(
    image: Image,
    source: Source,
    detection: Detection,
    cell: int,
    response: float,
    parameters: PhotometryParameters,
) -> Measurement:
    error = math.hypot(detection.flux_err_jy, parameters.flux_systematic * detection.flux_jy)
    return Measurement(
        source=source,
        image=image,
        is_forced=False,
        observed_at=image.observed_at,
        mjd=image.mjd,
        ra_deg=detection.ra_deg,
        dec_deg=detection.dec_deg,
        position_err_arcsec=detection.position_err_arcsec,
        healpix=cell,
        flux_jy=detection.flux_jy / response,
        flux_err_jy=error / response,
        peak_jy_per_beam=detection.peak_jy_per_beam,
        rms_jy_per_beam=detection.rms_jy_per_beam,
        primary_beam=response,
    )


def _forced(
    image: Image, files: ImageFiles, sources: Sequence[Source], parameters: PhotometryParameters
) -> list[Measurement]:
    """A forced flux of each source that the image covers."""
    from sources.engines.forced import force

    fluxes = force(
        files=files,
        ra_deg=[source.ra_deg for source in sources],
        dec_deg=[source.dec_deg for source in sources],
        flux_systematic=parameters.flux_systematic,
    )
    return [
        _forced_row(image, source, fluxes, index, parameters)
        for index, source in enumerate(sources)
        if fluxes.is_covered[index]
    ]


def _forced_row(
    image: Image, source: Source, fluxes: ForcedFluxes, index: int, parameters: PhotometryParameters
) -> Measurement:
    flux, error = float(fluxes.flux_jy[index]), float(fluxes.flux_err_jy[index])
    limit = parameters.upper_limit_sigma * error
    return Measurement(
        source=source,
        image=image,
        is_forced=True,
        observed_at=image.observed_at,
        mjd=image.mjd,
        ra_deg=source.ra_deg,
        dec_deg=source.dec_deg,
        healpix=source.healpix,
        flux_jy=flux,
        flux_err_jy=error,
        peak_jy_per_beam=float(fluxes.peak_jy_per_beam[index]),
        rms_jy_per_beam=float(fluxes.rms_jy_per_beam[index]),
        primary_beam=float(fluxes.primary_beam[index]),
        upper_limit_jy=limit if flux < limit else None,
    )


def _forced_elsewhere(image: Image, new: list[Source], parameters: PhotometryParameters) -> list[Measurement]:
    """New sources in all other images that were measured before they were known."""
    if not new:
        return []
    rows: list[Measurement] = []
    for other in _measured_around(image):
        try:
            rows += _forced(other, image_files(other), new, parameters)
        except MissingProduct as error:
            logger.warning("New sources are not measured in %s: %s", other.name, error)
    return rows


def _measured_around(image: Image) -> ImageQuerySet:
    """The other current images that may share a source with this one and have a catalogue."""
    return (
        Image.objects.current()
        .filter(catalogue__isnull=False)
        .within_cone(
            ra_deg=image.ra_deg,
            dec_deg=image.dec_deg,
            radius_deg=min(image.radius_deg + LARGEST_TILE_RADIUS_DEG, MAX_RADIUS_DEG),
        )
        .exclude(pk=image.pk)
        .filter(Q(separation_deg__lte=F("radius_deg") + image.radius_deg))
    )


# --- record -------------------------------------------------------------------------------------------------------
@transaction.atomic
def record_catalogue(*, image: Image, measured: MeasuredImage) -> Catalogue:
    """Write what `measure_image` found in place of what was known of the image; the same again changes nothing.

    Raises Busy when somebody else changed the field meanwhile: measure again, or sources that he added would be there
    twice, and those that this image adds would lack a flux in the images that he measured.
    """
    lock_sources()
    done = Catalogue.objects.filter(recipe=measured.recipe).first()
    if done is not None:
        return done
    if _sources_around(image).filter(pk__gt=measured.newest_source_id).exists():
        raise Busy(f"Sources were added to the field of {image.name} while it was measured; measure it again.")
    if measured.new_sources and _measured_around(image).filter(catalogue__pk__gt=measured.newest_catalogue_id).exists():
        raise Busy(f"An image beside {image.name} was measured meanwhile; measure this one again.")
    before = set(Measurement.objects.filter(image=image).values_list("source_id", flat=True))
    Measurement.objects.filter(image=image).delete()
    Catalogue.objects.filter(image=image).delete()
    Source.objects.bulk_create(measured.new_sources)
    Measurement.objects.bulk_create([*measured.fitted, *measured.forced, *measured.forced_elsewhere])
    others = {row.image_id for row in measured.forced_elsewhere}
    _count_measurements({image.pk} | others | _delete_never_seen(before))
    catalogue = Catalogue.objects.create(
        image=image,
        recipe=measured.recipe,
        engine=measured.engine,
        parameters=measured.parameters,
        versions=measured.versions,
        n_detected=measured.n_detected,
        n_forced=len(measured.forced),
        n_new_sources=len(measured.new_sources),
    )
    _refresh(Q(measurements__image=image) | Q(pk__in=before))
    return catalogue


@transaction.atomic
def refresh_statistics(*, images: Iterable[Image]) -> None:
    """Recompute the statistics of every source in these images, whose grade or `is_current` has changed."""
    _refresh(Q(measurements__image__in=list(images)))


@transaction.atomic
def withdraw_statistics(*, images: ImageQuerySet) -> int:
    """What these images have told of their sources does not stand any more: null, with the reason, until recomputed.

    Their measurements are read and not touched. Returns how many sources that are.
    """
    extent = images.aggregate(
        n=Sum("n_measurements"), south=Min(F("dec_deg") - F("radius_deg")), north=Max(F("dec_deg") + F("radius_deg"))
    )
    if not extent["n"]:
        return 0
    measured = Measurement.objects.filter(image__in=images.order_by().values("pk"))
    if extent["n"] <= FEW_MEASUREMENTS:
        sources = Source.objects.filter(pk__in=measured.forced().order_by().values("source"))
    else:  # of most of them the first measurement is one: quicker than to read them all, as PostgreSQL would for EXISTS
        near = Source.objects.filter(dec_deg__gte=extent["south"], dec_deg__lte=extent["north"])
        first = measured.forced().filter(source=OuterRef("pk")).order_by().values("pk")[:1]
        sources = near.alias(first=Subquery(first)).filter(first__isnull=False)
    return sources.update(
        n_measurements=0, flux_mean_jy=None, flux_max_jy=None, eta=None, v=None, is_variable=False,
        statistics_reason=WITHDRAWN, is_stale=True,
    )  # fmt: skip


@transaction.atomic
def refresh_stale(*, image: Image) -> None:
    """Recompute the statistics of those sources in this image that wait for it."""
    _refresh(Q(pk__in=Source.objects.of_image(image).filter(is_stale=True).values("pk")))


def images_of_stale_sources() -> list[int]:
    """For each source whose statistics were withdrawn one of the images that it is measured in; each image once."""
    forced = Measurement.objects.forced().filter(source=OuterRef("pk")).order_by("image_id").values("image_id")
    stale = Source.objects.filter(is_stale=True).order_by().annotate(first_image=Subquery(forced[:1]))
    return sorted(set(stale.exclude(first_image=None).values_list("first_image", flat=True)))


def _delete_never_seen(candidates: set[int]) -> set[int]:
    """Sources whose only detection was in what has just been replaced; the images that lose a flux by it."""
    seen = Measurement.objects.fitted().values("source")
    gone = Source.objects.filter(pk__in=candidates).exclude(pk__in=seen)
    images = set(Measurement.objects.filter(source__in=gone.values("pk")).values_list("image_id", flat=True).distinct())
    gone.delete()
    return images


def _count_measurements(images: set[int]) -> None:
    counted = Measurement.objects.filter(image=OuterRef("pk")).order_by().values("image").annotate(n=Count("pk"))
    Image.objects.filter(pk__in=images).update(n_measurements=Coalesce(Subquery(counted.values("n")), 0))


def lock_sources() -> None:
    """Until the transaction ends nobody else writes sources, nor reads what this one is about to write of them.

    SQLite has one writer anyway. On PostgreSQL two that record neighbouring tiles would not see each other's sources.
    """
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(%s)", [SOURCES_LOCK])


def _refresh(which: Q) -> None:
    """Position, times and statistics of sources, from all their measurements in current images that count.

    A verdict is among the sources with two or more epochs that are judged together: those of the image.
    """
    lock_sources()
    chosen = Source.objects.filter(pk__in=Source.objects.filter(which).values("pk"))
    sources = list(chosen.order_by("pk"))
    if not sources:
        return
    computed = _statistics_of(chosen)
    detections = Measurement.objects.fitted().accepted().filter(source__in=chosen.values("pk"))
    certain = _certain(detections)
    n_judged = sum(one.n >= 2 for pk, one in computed.items() if pk in certain)
    for source in sources:
        one = computed.get(source.pk) or statistics([], [])
        _set_statistics(source, one, n_judged if source.pk in certain else None)
    _set_places(sources, detections)
    # An upsert of rows that exist: a hundred times faster than bulk_update's CASE per field and row.
    Source.objects.bulk_create(sources, update_conflicts=True, unique_fields=["id"], update_fields=_COMPUTED)


_COMPUTED = [
    "ra_deg", "dec_deg", "position_err_arcsec", "healpix", "n_measurements", "flux_mean_jy", "flux_max_jy", "eta",
    "v", "is_variable", "statistics_reason", "first_seen_at", "last_seen_at", "is_stale",
]  # fmt: skip


def _statistics_of(sources: SourceQuerySet) -> dict[int, Statistics]:
    counted = Measurement.objects.counted().filter(source__in=sources.values("pk"))
    fluxes, errors = defaultdict(list), defaultdict(list)
    for source_id, flux, error in counted.order_by("id").values_list("source_id", "flux_jy", "flux_err_jy"):
        fluxes[source_id].append(flux)
        errors[source_id].append(error)
    return {source_id: statistics(fluxes[source_id], errors[source_id]) for source_id in fluxes}


CERTAIN_SNR = 7.0  # no noise peak of a year's tiles reaches it


def _certain(detections: MeasurementQuerySet) -> set[int]:
    """Sources seen twice, or once so bright that it cannot be noise.

    A noise peak that is taken for a source has one high epoch, by selection, and looks variable: in the simulated
    weeks every constant source that was called variable was one of those.
    """
    seen = detections.order_by().values("source_id").annotate(times=Count("image", distinct=True), best=Max("snr"))
    return {row["source_id"] for row in seen if row["times"] >= 2 or (row["best"] or 0) >= CERTAIN_SNR}


def _set_statistics(source: Source, computed: Statistics, n_judged: int | None) -> None:
    """`n_judged` is None for a source that is not certain; it is not judged."""
    source.is_stale = False
    source.n_measurements = computed.n
    source.flux_mean_jy, source.flux_max_jy = computed.mean_jy, computed.max_jy
    source.eta, source.v, source.statistics_reason = computed.eta, computed.v, computed.reason
    source.is_variable = n_judged is not None and is_variable(eta=computed.eta, n=computed.n, n_sources=n_judged)
    if n_judged is None and not source.statistics_reason:
        source.statistics_reason = (
            "Detected only once and below 7 sigma, which may be noise: not judged for variability."
        )


def _set_places(sources: Sequence[Source], detections: MeasurementQuerySet) -> None:
    """Where and when each was seen. One that only rejected images saw stays where it is."""
    from sources.association import mean_place

    places: dict[int, list[tuple[float, float, float]]] = defaultdict(list)
    columns = ("source_id", "ra_deg", "dec_deg", "position_err_arcsec")
    for source_id, *place in detections.exclude(position_err_arcsec=None).order_by("id").values_list(*columns):
        places[source_id].append(tuple(place))
    seen = detections.order_by().values("source_id").annotate(first=Min("observed_at"), last=Max("observed_at"))
    times = {row["source_id"]: (row["first"], row["last"]) for row in seen}
    for source in sources:
        source.first_seen_at, source.last_seen_at = times.get(source.pk, (None, None))
        if source.pk in places:
            source.ra_deg, source.dec_deg, source.position_err_arcsec = mean_place(places[source.pk])
    cells = healpix_indices([source.ra_deg for source in sources], [source.dec_deg for source in sources])
    for source, cell in zip(sources, cells, strict=True):
        source.healpix = cell


# --- read ---------------------------------------------------------------------------------------------------------
def light_curve(*, source: Source) -> dict[str, Any]:
    """Every tile that covers a source with its flux, those that do not, and the statistics of those that count.

    The flux of every point is the forced one, also where the source was detected: two estimators in one curve would
    differ by more than their errors for a resolved source, and a detection is biased high near the threshold.
    Tiles only: a mosaic holds the same photons again, and an external image another flux scale.
    """
    rows = list(source.measurements.of_tiles().for_light_curve())
    detected = {row.image_id for row in rows if not row.is_forced}
    forced = [row for row in rows if row.is_forced]
    counted = [row for row in forced if row.image__is_accepted]
    computed = statistics([row.flux_jy for row in counted], [row.flux_err_jy for row in counted])
    return {
        "source": source.pk,
        "points": [_point(row, row.image_id in detected) for row in forced],
        "not_covered": _not_covered(source, {row.image_id for row in forced}),
        "statistics": {
            "n": computed.n,
            "mean_jy": computed.mean_jy,
            "std_jy": computed.std_jy,
            "eta": computed.eta,
            "v": computed.v,
            "reason": computed.reason,
        },
    }


def _point(row: Any, is_detected: bool) -> dict[str, Any]:
    status = "rejected" if not row.image__is_accepted else "detected" if is_detected else "forced"
    return {
        "observed_at": row.observed_at,
        "mjd": row.mjd,
        "status": status,
        "flux_jy": row.flux_jy,
        "flux_err_jy": row.flux_err_jy,
        "upper_limit_jy": row.upper_limit_jy,
        "snr": row.snr,
        "image": row.image_id,
        "grade": row.image__grade,
    }


def _not_covered(source: Source, covered: set[int]) -> list[dict[str, Any]]:
    """Current tiles that come near a source and have no flux of it, with the reason.

    Near is in the circumscribed circle. Distances are found here: the database's expression of them takes longer to
    compile than these few do. So are the kinds: SQLite without statistics would look through all tiles.
    """
    here = (source.ra_deg, source.dec_deg)
    near = (
        Image.objects.current()
        .filter(pk__in=Image.objects.filter(InCells(*here, LARGEST_TILE_RADIUS_DEG)).order_by().values("pk"))
        .order_by("observed_at", "id")
        .values_list("pk", "name", "observed_at", "catalogue", "kind", "ra_deg", "dec_deg", "radius_deg")
    )
    return [
        {"image": pk, "name": name, "observed_at": observed_at, "reason": OUTSIDE if catalogue else NOT_MEASURED}
        for pk, name, observed_at, catalogue, kind, *centre, radius_deg in near
        if kind == "tile" and pk not in covered and separation_deg(*here, *centre) <= radius_deg
    ]


def find_source(*, text: str) -> Source:
    """The source with this name, or the nearest within 30 arcsec of "RA DEC" (degrees or sexagesimal, ICRS).

    Raises UnknownSource.
    """
    name = " ".join(text.split())
    named = (
        Source.objects.filter(name__iexact=name).first() or Source.objects.filter(name__iexact=f"DSA {name}").first()
    )
    if named is not None:
        return named
    ra_deg, dec_deg = _position(text)
    nearest = Source.objects.within_cone(ra_deg=ra_deg, dec_deg=dec_deg, radius_deg=FIND_RADIUS_DEG).first()
    if nearest is None:
        raise UnknownSource(f"No source is within 30 arcsec of {ra_deg:.5f} {dec_deg:+.5f}.")
    return nearest


def _position(text: str) -> tuple[float, float]:
    from astropy import units as u
    from astropy.coordinates import SkyCoord

    words = text.replace(",", " ").split()
    is_sexagesimal = len(words) == 6 or any(mark in text for mark in ":hms")
    try:
        if len(words) == 1 or (not is_sexagesimal and not 0 <= float(words[0]) < 360):
            raise ValueError("no position, or a right ascension beyond the circle")
        position = SkyCoord(" ".join(words), unit=(u.hourangle if is_sexagesimal else u.deg, u.deg), frame="icrs")
    except (ValueError, TypeError, IndexError) as error:
        raise UnknownSource(
            f'"{text}" is neither the name of a source nor a position such as "202.7845 30.5092" or'
            ' "13:31:08.3 +30:30:33".'
        ) from error
    return float(position.ra.deg), float(position.dec.deg)
