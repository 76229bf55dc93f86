"""Plans of simulated nights: when tiles are, what sky they see, what is wrong with them, and the truth about it all."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import astropy.units as u
import numpy as np
from astropy.coordinates import ICRS, TETE, SkyCoord
from astropy.time import Time

from observations.engines.failures import Failure
from observations.engines.simulator import Instrument, SkySource, TilePlan
from observations.telescope import location, meridian_icrs, use_bundled_iers

SIDEREAL_DAY_S = 86164.0905
TRUTH_FILE = "truth.json"
CATALOGUE_FILE = "catalogue.csv"
CATALOGUE_HZ = 1.4e9
VISIBLE_RADIUS_DEG = 3.0  # to the edge of the main lobe; what its sidelobes see farther out is not simulated


@dataclass(frozen=True, kw_only=True)
class NightPlan:
    """`tiles` a night, the first on the calibrator's transit, the others `spacing_s` apart, all on its dec strip.

    Each tile's field has `sources_per_tile` point sources with N(>S) proportional to 1/S between the two fluxes,
    uniform in a disc, at least `min_separation_arcsec` apart, spectral indices of -0.7 +- 0.2. A tile sees the
    calibrator and the sources of all fields within VISIBLE_RADIUS_DEG of its centre. With `variable`, one source of
    the last tile changes from night to night with V = 0.4. With `damage`, the last tiles of the second, third and
    fourth night lack a subband, have heavy interference, have three dead antennas. `failures` are as each says.
    """

    nights: int = 6
    tiles: int = 2
    start: datetime = datetime(2026, 3, 20, tzinfo=UTC)
    spacing_s: float = 3600.0
    sources_per_tile: int = 30
    flux_min_jy: float = 0.015
    flux_max_jy: float = 0.5
    field_radius_deg: float = 0.9
    min_separation_arcsec: float = 150.0
    name_skew_s: float = 20.0
    variable: bool = True
    damage: bool = False
    failures: tuple[Failure, ...] = ()
    seed: int = 1


def transit(calibrator: SkySource, after: datetime) -> tuple[datetime, float]:
    """The first transit after a time, and the apparent declination of it in degrees."""
    use_bundled_iers()
    position = SkyCoord(calibrator.ra_deg * u.deg, calibrator.dec_deg * u.deg, frame=ICRS)
    moment = Time(after)
    for step in range(3):
        apparent = position.transform_to(TETE(obstime=moment, location=location()))
        lag_deg = (apparent.ra.deg - moment.sidereal_time("apparent", location().lon).deg) % 360
        if step and lag_deg > 180:  # the first step may be a little too long
            lag_deg -= 360
        moment = moment + lag_deg / 360 * SIDEREAL_DAY_S * u.s
    return moment.to_datetime(timezone=UTC), float(apparent.dec.deg)


def plan_nights(instrument: Instrument, plan: NightPlan, calibrator: SkySource) -> list[TilePlan]:
    """All tiles of all nights, in order of time."""
    middle, dec_deg = transit(calibrator, plan.start)
    first = middle - timedelta(seconds=instrument.duration_s / 2)
    centres = _centres(instrument, plan, first, dec_deg)
    sky = [calibrator]
    for tile, centre in enumerate(centres):
        sky += _field(plan, tile, centre, _seen_from(centre, sky))
    varying = f"t{plan.tiles - 1}s000" if plan.variable else None
    tiles = []
    for night, factor in enumerate(variable_factors(plan)):
        tonight = [replace(source, scale=float(factor)) if source.name == varying else source for source in sky]
        for tile, centre in enumerate(centres):
            tiles.append(
                TilePlan(
                    started_at=first + timedelta(seconds=night * SIDEREAL_DAY_S + tile * plan.spacing_s),
                    pointing_dec_deg=dec_deg,
                    sources=_seen_from(centre, tonight),
                    night=night,
                    noise_seed=plan.seed * 10_000 + night * plan.tiles + tile,
                    name_skew_s=plan.name_skew_s,
                    failures=tuple(f.kind for f in plan.failures if f.concerns(night * plan.tiles + tile)),
                    **_damage(instrument, plan, night, tile),
                )
            )
    return tiles


def _centres(instrument: Instrument, plan: NightPlan, first: datetime, dec_deg: float) -> list[SkyCoord]:
    half = instrument.duration_s / 2
    middles = [first + timedelta(seconds=tile * plan.spacing_s + half) for tile in range(plan.tiles)]
    ra_deg, strip_dec_deg = meridian_icrs(middles, [dec_deg] * plan.tiles)
    return [SkyCoord(*position, unit="deg") for position in zip(ra_deg, strip_dec_deg, strict=True)]


def _seen_from(centre: SkyCoord, sky: Sequence[SkySource]) -> tuple[SkySource, ...]:
    separation = SkyCoord([s.ra_deg for s in sky] * u.deg, [s.dec_deg for s in sky] * u.deg).separation(centre)
    return tuple(source for source, near in zip(sky, separation.deg < VISIBLE_RADIUS_DEG, strict=True) if near)


def _damage(instrument: Instrument, plan: NightPlan, night: int, tile: int) -> dict:
    if not plan.damage or tile != plan.tiles - 1:
        return {}
    dead = tuple(range(3, instrument.n_antennas, max(1, instrument.n_antennas // 3)))[:3]
    damages: dict[int, dict] = {
        1: {"missing_subbands": (5,), "damage": ("missing subband",)},
        2: {"rfi_fraction": 0.1, "damage": ("heavy interference",)},
        3: {"dead_antennas": dead, "damage": ("dead antennas",)},
    }
    return damages.get(night, {})


def variable_factors(plan: NightPlan) -> np.ndarray:
    """Fluxes of the variable source over their mean, one a night, with a sample standard deviation of 0.4."""
    steps = np.random.default_rng([plan.seed, 20]).permutation(np.linspace(-1, 1, max(plan.nights, 2)))
    factors = 1 + 0.4 * (steps - steps.mean()) / steps.std(ddof=1)
    return factors[: plan.nights]


def _field(plan: NightPlan, tile: int, centre: SkyCoord, others: Sequence[SkySource]) -> list[SkySource]:
    """The new sources of a tile. The first of the last tile is the one that varies: bright and near the middle."""
    rng = np.random.default_rng([plan.seed, 10, tile])
    taken = [SkyCoord(other.ra_deg * u.deg, other.dec_deg * u.deg) for other in others]
    positions = _positions(rng, centre, plan, taken)
    fluxes = plan.flux_min_jy / rng.uniform(plan.flux_min_jy / plan.flux_max_jy, 1, plan.sources_per_tile)
    indices = rng.normal(-0.7, 0.2, plan.sources_per_tile)
    if plan.variable and tile == plan.tiles - 1:
        positions[0] = _clear_place(rng, centre, 0.4, plan.min_separation_arcsec, [*taken, *positions[1:]])
        fluxes[0] = max(0.15, 10 * plan.flux_min_jy)
    return [
        SkySource(f"t{tile}s{number:03d}", p.ra.deg, p.dec.deg, float(flux), float(index))
        for number, (p, flux, index) in enumerate(zip(positions, fluxes, indices, strict=True))
    ]


def _positions(
    rng: np.random.Generator, centre: SkyCoord, plan: NightPlan, taken: Sequence[SkyCoord]
) -> list[SkyCoord]:
    places = list(taken)
    while len(places) < plan.sources_per_tile + len(taken):
        places.append(_clear_place(rng, centre, plan.field_radius_deg, plan.min_separation_arcsec, places))
    return places[len(taken) :]


def _clear_place(
    rng: np.random.Generator,
    centre: SkyCoord,
    radius_deg: float,
    min_separation_arcsec: float,
    others: Sequence[SkyCoord],
) -> SkyCoord:
    for _ in range(1000):
        place = centre.directional_offset_by(rng.uniform(0, 360) * u.deg, radius_deg * np.sqrt(rng.uniform()) * u.deg)
        if all(place.separation(other).arcsec >= min_separation_arcsec for other in others):
            return place
    raise ValueError("the field is too full for the wanted separation; ask for fewer sources")


def write_catalogue(path: Path, tiles: Sequence[TilePlan]) -> None:
    """The sky that all tiles together see, as a reference catalogue at CATALOGUE_HZ (`import_catalogue` reads it).

    A source that varies has its mean flux. A calibrator's spectral index is the slope of its polynomial there.
    """
    sky = {source.name: replace(source, scale=1.0) for tile in tiles for source in tile.sources}
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["name", "ra_deg", "dec_deg", "flux_jy", "spectral_index"])
        for source in sky.values():
            below, flux, above = source.flux_at([CATALOGUE_HZ / 1.01, CATALOGUE_HZ, CATALOGUE_HZ * 1.01]).tolist()
            index = math.log(above / below) / math.log(1.01**2)
            table.writerow([source.name, source.ra_deg, source.dec_deg, flux, index])


def write_truth(path: Path, instrument: Instrument, plan: NightPlan, tiles: Sequence[TilePlan]) -> None:
    """What was put into the data, as JSON; written beside the data under a temporary name, then renamed."""
    truth = {
        "instrument": dataclasses.asdict(instrument),
        "plan": {**dataclasses.asdict(plan), "start": plan.start.isoformat()},
        "tiles": [
            {
                **{name: value for name, value in dataclasses.asdict(tile).items() if name != "sources"},
                "started_at": tile.started_at.isoformat(),
                "sources": [dataclasses.asdict(source) for source in tile.sources],
            }
            for tile in tiles
        ],
    }
    temporary = path.with_suffix(".writing")
    temporary.write_text(json.dumps(truth, indent=1))
    temporary.rename(path)
