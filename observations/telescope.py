"""DSA-110: where it stands, what it writes, and where it points.

The array is a meridian drift instrument: at any moment its beam centre is the point whose apparent right ascension is
the local sidereal time and whose apparent declination is that of the dishes. Catalogues are ICRS; leaving out
precession, nutation and aberration puts that point 0.27-0.38 deg off.

astropy's coordinates take a quarter of a second to load, and its table of the Earth's rotation two seconds; most
commands that load this module need neither, and what people only look at does with SOFA's functions (pyerfa).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import erfa
import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from astropy.coordinates import EarthLocation

LATITUDE_DEG = 37.2339
LONGITUDE_DEG = -118.2817
HEIGHT_M = 1222.0
DISH_DIAMETER_M = 4.65
SIDEREAL_DAY_S = 86_164.0905
INTEGRATION_S = 12.885
N_INTEGRATIONS = 24
CHANNEL_WIDTH_HZ = 187.5e6 / 768
SUBBAND_WIDTH_HZ = 48 * CHANNEL_WIDTH_HZ
TOP_FREQUENCY_HZ = 1.4988e9  # upper edge of subband 0


@functools.cache
def use_bundled_iers() -> None:
    """Never fetch Earth orientation data; past the end of the bundled table say so and go on. All three are needed."""
    from astropy.utils import iers

    iers.conf.auto_download = False
    iers.conf.auto_max_age = None
    iers.conf.iers_degraded_accuracy = "warn"


@functools.cache
def location() -> EarthLocation:
    from astropy import units as u
    from astropy.coordinates import EarthLocation

    return EarthLocation.from_geodetic(LONGITUDE_DEG * u.deg, LATITUDE_DEG * u.deg, HEIGHT_M * u.m)


def meridian_icrs(
    mid_times: Sequence[datetime], dec_deg: Sequence[float] | NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """ICRS (ra_deg in [0, 360), dec_deg) of the meridian at apparent declination `dec_deg`, one per aware time.

    Geometric: no refraction, which at these elevations moves all fringes alike by under an arcminute.
    """
    from astropy import units as u
    from astropy.coordinates import ICRS, AltAz, SkyCoord
    from astropy.time import Time

    use_bundled_iers()
    if len(mid_times) == 0:
        return np.empty(0), np.empty(0)
    azimuth, elevation = horizontal_deg(np.asarray(dec_deg, dtype=np.float64))
    frame = AltAz(obstime=Time(list(mid_times)), location=location())
    icrs = SkyCoord(az=azimuth * u.deg, alt=elevation * u.deg, frame=frame).transform_to(ICRS())
    return icrs.ra.deg % 360.0, icrs.dec.deg


@functools.cache
def load_positions() -> None:
    """What positions on the sky need takes a process seconds to load: before a transaction, never in it."""
    meridian_icrs([datetime.now(UTC)], [LATITUDE_DEG])


def meridian_plane_icrs(time: datetime) -> tuple[tuple[float, float], tuple[float, float]]:
    """ICRS (ra_deg, dec_deg) of the meridian's pole in the east, and of where the meridian crosses the equator."""
    ra, dec = (np.radians(angle) for angle in meridian_icrs([time, time], [0.0, LATITUDE_DEG]))
    equator, zenith = np.stack([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)], axis=1)
    east = np.cross(zenith, equator) * -1.0
    east /= np.linalg.norm(east)
    pole = float(np.degrees(np.arctan2(east[1], east[0])) % 360.0), float(np.degrees(np.arcsin(east[2])))
    return pole, (float(np.degrees(ra[0]) % 360.0), float(np.degrees(dec[0])))


def next_transit(ra_deg: float, dec_deg: float, after: datetime) -> datetime:
    """When an ICRS position next crosses the meridian (above the celestial pole), to the second."""
    time = after
    for _ in range(2):  # the second is of hundredths of a second: the apparent place changes from day to day
        _, tt = _julian_dates(time)
        ra, _, equation_of_origins = erfa.atci13(*np.radians([ra_deg, dec_deg]), 0.0, 0.0, 0.0, 0.0, *tt)
        ahead_deg = np.degrees(ra - equation_of_origins) - 15.0 * local_sidereal_time_h(time)
        ahead_deg = ahead_deg % 360.0 if time is after else (ahead_deg + 180.0) % 360.0 - 180.0
        time += timedelta(seconds=float(ahead_deg) / 360.0 * SIDEREAL_DAY_S)
    return time.replace(microsecond=0)


def strip_icrs_dec_deg(dec_deg: float, time: datetime) -> float:
    """ICRS declination of the meridian at an apparent one: that of `meridian_icrs` to half an arcsecond."""
    _, tt = _julian_dates(time)
    ra = np.radians(15.0 * local_sidereal_time_h(time)) + erfa.eo06a(*tt)
    return float(np.degrees(erfa.atic13(ra, np.radians(dec_deg), *tt)[1]))


def local_sidereal_time_h(time: datetime) -> float:
    """Apparent local sidereal time at an aware time, in hours: the apparent right ascension of the meridian.

    UT1 is taken for UTC, from which it is never 0.9 s away: people look at this, and astropy reads its table for two
    seconds.
    """
    utc, tt = _julian_dates(time)
    return float((np.degrees(erfa.gst06a(*utc, *tt)) + LONGITUDE_DEG) / 15.0 % 24.0)


def _julian_dates(time: datetime) -> tuple[tuple[float, float], tuple[float, float]]:
    """In UTC and in terrestrial time, each in two parts, as SOFA has it."""
    at = time.astimezone(UTC)
    utc = erfa.dtf2d("UTC", at.year, at.month, at.day, at.hour, at.minute, at.second + at.microsecond / 1e6)
    return utc, erfa.taitt(*erfa.utctai(*utc))


def apparent_dec_deg(azimuth_deg: float, elevation_deg: float, latitude_deg: float = LATITUDE_DEG) -> float:
    """Apparent declination of a horizontal direction (azimuth north through east), without refraction."""
    azimuth, elevation, latitude = np.radians([azimuth_deg, elevation_deg, latitude_deg])
    sine = np.sin(latitude) * np.sin(elevation) + np.cos(latitude) * np.cos(elevation) * np.cos(azimuth)
    return float(np.degrees(np.arcsin(np.clip(sine, -1.0, 1.0))))


def horizontal_deg(dec_deg, latitude_deg: float = LATITUDE_DEG) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Azimuth and elevation of the meridian at an apparent declination: what `apparent_dec_deg` undoes."""
    return np.where(dec_deg <= latitude_deg, 180.0, 0.0), 90.0 - np.abs(latitude_deg - dec_deg)


def subband_of_frequency(frequency_hz: NDArray[np.float64]) -> NDArray[np.int64]:
    """The subband (0 is the highest) that each channel centre falls in."""
    return np.floor((TOP_FREQUENCY_HZ - np.asarray(frequency_hz)) / SUBBAND_WIDTH_HZ).astype(np.int64)
