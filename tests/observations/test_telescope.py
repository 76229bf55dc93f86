from datetime import UTC, datetime, timedelta

import astropy.units as u
import numpy as np
import pytest
from astropy.coordinates import AltAz, SkyCoord
from astropy.time import Time

from observations.telescope import (
    LATITUDE_DEG,
    LONGITUDE_DEG,
    apparent_dec_deg,
    local_sidereal_time_h,
    location,
    meridian_icrs,
    next_transit,
    strip_icrs_dec_deg,
    use_bundled_iers,
)

NIGHT = datetime(2025, 3, 1, 4, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize("dec_deg", [-20.0, 22.5, LATITUDE_DEG, 54.6, 85.0])
def test_the_position_is_on_the_meridian_at_the_elevation_of_the_dishes(dec_deg):
    ra_deg, icrs_dec_deg = meridian_icrs([NIGHT], [dec_deg])

    seen = SkyCoord(ra_deg * u.deg, icrs_dec_deg * u.deg).transform_to(AltAz(obstime=Time(NIGHT), location=location()))

    assert seen.alt.deg[0] == pytest.approx(90.0 - abs(LATITUDE_DEG - dec_deg), abs=1e-6)
    offset_deg = np.sin(seen.az.rad[0]) * np.cos(seen.alt.rad[0])
    assert offset_deg == pytest.approx(0.0, abs=1e-8)


def test_leaving_out_precession_would_miss_by_a_third_of_a_degree():
    sidereal = Time(NIGHT, location=location()).sidereal_time("apparent").deg
    ra_deg, dec_deg = meridian_icrs([NIGHT], [22.5])

    naive = SkyCoord(sidereal * u.deg, 22.5 * u.deg)

    assert 0.25 < naive.separation(SkyCoord(ra_deg[0] * u.deg, dec_deg[0] * u.deg)).deg < 0.40


def test_a_sidereal_day_later_the_same_sky_is_there():
    ra_deg, _ = meridian_icrs([NIGHT, NIGHT + timedelta(seconds=86164.0905)], [22.5, 22.5])

    assert ra_deg[0] == pytest.approx(ra_deg[1], abs=0.003)  # precession and aberration of a day


def test_no_positions_are_no_positions():
    assert [len(axis) for axis in meridian_icrs([], [])] == [0, 0]


@pytest.mark.parametrize(
    ("azimuth_deg", "elevation_deg", "dec_deg"),
    [
        (180.0, 70.0, LATITUDE_DEG - 20.0),
        (0.0, 70.0, LATITUDE_DEG + 20.0),
        (123.0, 90.0, LATITUDE_DEG),
        (90.0, 0.0, 0.0),
    ],
)
def test_the_declination_of_a_horizontal_direction(azimuth_deg, elevation_deg, dec_deg):
    assert apparent_dec_deg(azimuth_deg, elevation_deg) == pytest.approx(dec_deg, abs=1e-9)


@pytest.mark.parametrize("days", [0, 100, 355, 600])
@pytest.mark.parametrize("dec_deg", [-30.0, 16.1, LATITUDE_DEG, 75.0])
def test_what_people_look_at_is_astropys_to_a_second_and_an_arcsecond(days, dec_deg):
    use_bundled_iers()
    at = NIGHT + timedelta(days=days)
    sidereal_h = Time(at).sidereal_time("apparent", longitude=LONGITUDE_DEG * u.deg).hour
    assert (local_sidereal_time_h(at) - sidereal_h + 12) % 24 - 12 == pytest.approx(0, abs=1 / 3600)
    (icrs_ra_deg,), (icrs_dec_deg,) = meridian_icrs([at], [dec_deg])
    assert strip_icrs_dec_deg(dec_deg, at) == pytest.approx(icrs_dec_deg, abs=1 / 3600)
    for before in (timedelta(minutes=1), timedelta(hours=23)):
        assert abs(next_transit(icrs_ra_deg, icrs_dec_deg, at - before) - at) < timedelta(seconds=2)
