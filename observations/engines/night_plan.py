"""Plans of simulated nights: when tiles are, what sky they see, what is wrong with them, and the truth about it all."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import astropy.units as u
import numpy as np
from astropy.coordinates import ICRS, TETE, SkyCoord
from astropy.time import Time

from observations.engines.simulator import Instrument, SkySource, TilePlan
from observations.telescope import location, meridian_icrs, use_bundled_iers

SIDEREAL_DAY_S = 86164.0905
TRUTH_FILE = "truth.json"


@dataclass(frozen=True, kw_only=True)
class NightPlan:
    """`tiles` a night, the first on the calibrator's transit, the others `spacing_s` apart, all on its dec strip.

    Each tile's field has `sources_per_tile` point sources with N(>S) proportional to 1/S between the two fluxes,
    uniform in a disc, at least `min_separation_arcsec` apart, spectral indices of -0.7 +- 0.2. With `variable`, one
    source of the last tile changes from night to night with V = 0.4. With `damage`, the last tiles of the second,
    third and fourth night lack a subband, have heavy interference, have three dead antennas.
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
    skies = [_sky(instrument, plan, tile, first, dec_deg, calibrator) for tile in range(plan.tiles)]
    factors = variable_factors(plan)
    tiles = []
    for night in range(plan.nights):
        for tile in range(plan.tiles):
            start = first + timedelta(seconds=night * SIDEREAL_DAY_S + tile * plan.spacing_s)
            sources = _tonight(skies[tile], factors[night] if plan.variable and tile == plan.tiles - 1 else 1.0)
            tiles.append(
                TilePlan(
                    started_at=start,
                    pointing_dec_deg=dec_deg,
                    sources=sources,
                    night=night,
                    noise_seed=plan.seed * 10_000 + night * plan.tiles + tile,
                    name_skew_s=plan.name_skew_s,
                    **_damage(instrument, plan, night, tile),
                )
            )
    return tiles


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


def _sky(
    instrument: Instrument, plan: NightPlan, tile: int, first: datetime, dec_deg: float, calibrator: SkySource
) -> tuple[SkySource, ...]:
    """The field of a tile. Source 0 of the last tile is the one that varies: bright and near the middle."""
    middle = first + timedelta(seconds=tile * plan.spacing_s + instrument.duration_s / 2)
    ra, dec = (float(value[0]) for value in meridian_icrs([middle], [dec_deg]))
    centre = SkyCoord(ra * u.deg, dec * u.deg)
    rng = np.random.default_rng([plan.seed, 10, tile])
    taken = [SkyCoord(calibrator.ra_deg * u.deg, calibrator.dec_deg * u.deg)] if tile == 0 else []
    positions = _positions(rng, centre, plan, taken)
    fluxes = plan.flux_min_jy / rng.uniform(plan.flux_min_jy / plan.flux_max_jy, 1, plan.sources_per_tile)
    indices = rng.normal(-0.7, 0.2, plan.sources_per_tile)
    if plan.variable and tile == plan.tiles - 1:
        positions[0] = _clear_place(rng, centre, 0.4, plan.min_separation_arcsec, positions[1:])
        fluxes[0] = max(0.15, 10 * plan.flux_min_jy)
    sources = [
        SkySource(f"t{tile}s{number:03d}", p.ra.deg, p.dec.deg, float(flux), float(index))
        for number, (p, flux, index) in enumerate(zip(positions, fluxes, indices, strict=True))
    ]
    return (calibrator, *sources) if tile == 0 else tuple(sources)


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


def _tonight(sources: tuple[SkySource, ...], factor: float) -> tuple[SkySource, ...]:
    if factor == 1.0:
        return sources
    return (dataclasses.replace(sources[0], scale=float(factor)), *sources[1:])


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
