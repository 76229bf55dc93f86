"""Compare what the pipeline measured with what the simulator put in: the proof that the numbers are right."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import numpy as np
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.wcs import WCS

from contimg.exceptions import InvalidInput, NotReadable
from contimg.products import product_path
from images.models import Image
from observations.engines.simulator import SkySource
from sources.models import Measurement, Source

MATCH_BEAMS = 0.7  # a detection within this of a true source is that source
FALSE_BEAMS = 1.0  # a detection is false when no true source above 3 sigma lies within one beam


@dataclass
class TileTruth:
    """One tile against its truth. Ratios and offsets are of detections above 10 sigma."""

    name: str
    grade: str
    rms_mjy: float
    rms_over_thermal: float
    dynamic_range: float
    damage: tuple[str, ...]
    n_expected: dict[str, int] = field(default_factory=dict)  # by band of true signal to noise
    n_found: dict[str, int] = field(default_factory=dict)
    n_false: int = 0
    n_false_above_6: int = 0
    ratios: list[float] = field(default_factory=list)
    ratio_errors: list[float] = field(default_factory=list)  # predicted from signal to noise
    ra_offsets_arcsec: list[float] = field(default_factory=list)
    dec_offsets_arcsec: list[float] = field(default_factory=list)
    forced_pulls: list[float] = field(default_factory=list)  # (flux - truth) / error, constant, below 30 sigma


BANDS = {"above 10": (10.0, np.inf), "7 to 10": (7.0, 10.0), "5 to 7": (5.0, 7.0)}


def read_truth(truth_file: Path) -> list[dict]:
    """The simulated tiles of a truth file, each with its sources. Raises NotReadable and InvalidInput."""
    try:
        truth = json.loads(truth_file.read_text())
    except OSError as error:
        raise NotReadable(f"{truth_file.name} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise InvalidInput(f"{truth_file.name} is not JSON; give the truth.json that `simulate` wrote.") from error
    try:
        for tile in truth["tiles"]:
            _ = datetime.fromisoformat(tile["started_at"]), tuple(tile["damage"]), _sources(tile)
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidInput(
            f"{truth_file.name} is JSON, but no truth file: its tiles, their times, damage or sources are missing; "
            "give the truth.json that `simulate` wrote."
        ) from error
    return truth["tiles"]


def compare(truth_file: Path) -> list[TileTruth]:
    """One row for each simulated tile that has a current image, in order of time."""
    images = {image.name: image for image in Image.objects.tiles().current()}
    rows = []
    for tile in read_truth(truth_file):
        name = datetime.fromisoformat(tile["started_at"]).strftime("%Y-%m-%dT%H:%M:%S")
        if name in images:
            rows.append(_compare_tile(images[name], tile))
    return rows


def known(value: float | None) -> float:
    """NaN for what was not measured: it fails every limit."""
    return float("nan") if value is None else value


def _sources(tile: dict) -> list[SkySource]:
    return [
        SkySource(**{**source, "flux_coefficients": tuple(source["flux_coefficients"])}) for source in tile["sources"]
    ]


def _compare_tile(image: Image, tile: dict) -> TileTruth:
    sources = _sources(tile)
    position = SkyCoord([s.ra_deg for s in sources] * u.deg, [s.dec_deg for s in sources] * u.deg)
    flux = np.array([float(source.flux_at(image.frequency_hz)) for source in sources])
    beam = _beam_at(image, position)
    covered = np.isfinite(beam) & (beam >= 0.1)
    row = TileTruth(
        name=image.name,
        grade=image.grade,
        rms_mjy=known(image.rms_jy_per_beam) * 1e3,
        rms_over_thermal=known(image.rms_jy_per_beam) / known(image.thermal_rms_jy_per_beam),
        dynamic_range=known(image.dynamic_range),
        damage=tuple(tile["damage"]),
    )
    detections = list(image.measurements.fitted())
    found = SkyCoord([m.ra_deg for m in detections] * u.deg, [m.dec_deg for m in detections] * u.deg)
    snr = np.where(covered, flux * beam / known(image.rms_jy_per_beam), 0)
    _match(row, image, detections, found, position, flux, snr)
    _count_false(row, image, detections, found, position[snr > 3])
    row.forced_pulls = list(_pulls(image, position, flux, snr, [source.scale == 1 for source in sources]))
    return row


def _beam_at(image: Image, position: SkyCoord) -> np.ndarray:
    with fits.open(product_path(image.primary_beam_path)) as hdus:
        x, y = WCS(hdus[0].header).world_to_pixel(position)
        column, row = np.rint(x).astype(int), np.rint(y).astype(int)
        height, width = hdus[0].data.shape
        inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
        return np.where(inside, hdus[0].data[np.clip(row, 0, height - 1), np.clip(column, 0, width - 1)], np.nan)


def _match(
    row: TileTruth,
    image: Image,
    detections: list[Measurement],
    found: SkyCoord,
    position: SkyCoord,
    flux: np.ndarray,
    snr: np.ndarray,
) -> None:
    for band, (low, high) in BANDS.items():
        row.n_expected[band] = int(((snr >= low) & (snr < high)).sum())
        row.n_found[band] = 0
    for index, place in enumerate(position):
        if not len(detections):
            break
        separation = found.separation(place).arcsec
        nearest = int(separation.argmin())
        band = next((name for name, (low, high) in BANDS.items() if low <= snr[index] < high), "")
        if not band or not separation[nearest] <= MATCH_BEAMS * known(image.bmaj_arcsec):
            continue
        row.n_found[band] += 1
        if band == "above 10":
            row.ratios.append(detections[nearest].flux_jy / flux[index])
            row.ratio_errors.append(1 / snr[index])
            east, north = place.spherical_offsets_to(found[nearest])
            row.ra_offsets_arcsec.append(east.arcsec)
            row.dec_offsets_arcsec.append(north.arcsec)


def _count_false(row: TileTruth, image: Image, detections: list[Measurement], found: SkyCoord, real: SkyCoord) -> None:
    for measurement, place in zip(detections, found, strict=True):
        if len(real) == 0 or real.separation(place).arcsec.min() > FALSE_BEAMS * known(image.bmaj_arcsec):
            row.n_false += 1
            row.n_false_above_6 += measurement.snr > 6


def _pulls(
    image: Image, position: SkyCoord, flux: np.ndarray, snr: np.ndarray, constant: list[bool]
) -> Iterator[float]:
    forced = list(image.measurements.forced().select_related("source"))
    if not forced:
        return
    places = SkyCoord([m.source.ra_deg for m in forced] * u.deg, [m.source.dec_deg for m in forced] * u.deg)
    for index, place in enumerate(position):
        if constant[index] and 3 < snr[index] < 30:
            separation = places.separation(place).arcsec
            nearest = int(separation.argmin())
            if separation[nearest] < MATCH_BEAMS * known(image.bmaj_arcsec):
                yield (forced[nearest].flux_jy - flux[index]) / forced[nearest].flux_err_jy


@dataclass(frozen=True)
class Variability:
    """Which sources were called variable, against which were made so."""

    found: tuple[str, ...]
    missed: int
    wrong: int


def compare_variables(truth_file: Path) -> Variability:
    varying = [source for tile in read_truth(truth_file) for source in tile["sources"] if source["scale"] != 1.0]
    called = list(Source.objects.variable())
    true_places = {(source["ra_deg"], source["dec_deg"]) for source in varying}
    hits = set()
    wrong = 0
    for source in called:
        place = SkyCoord(source.ra_deg * u.deg, source.dec_deg * u.deg)
        near = [p for p in true_places if place.separation(SkyCoord(*p, unit="deg")).arcsec < 15]
        hits.update(near)
        wrong += not near
    return Variability(tuple(source.name for source in called), len(true_places - hits), wrong)


def robust_std(values: list[float]) -> float:
    array = np.asarray(values)
    return float(1.4826 * np.median(np.abs(array - np.median(array)))) if array.size else float("nan")
