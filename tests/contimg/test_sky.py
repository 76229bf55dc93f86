"""Cones in the database against the great circle of astropy, which shares no code with them."""

from __future__ import annotations

import astropy.units as u
import cdshealpix
import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from contimg.sky import (
    HEALPIX_DEPTH,
    MAX_CONE_RANGES,
    MAX_RADIUS_DEG,
    ROUNDING_DEG,
    _reach_deg,
    cone_ranges,
    healpix_index,
    healpix_indices,
    separation_deg,
)
from sources.models import Source
from tests.factories import SourceFactory

ARCSEC = 1 / 3600
ras = st.one_of(st.floats(0, 360, exclude_max=True), st.sampled_from([0.0, 1e-9, 90.0, 359.9999999]))
decs = st.one_of(st.floats(-90, 90), st.sampled_from([-90.0, -89.9999, 0.0, 41.8103, 89.9999, 90.0]))
radii = st.one_of(
    st.floats(ARCSEC, 60 * ARCSEC), st.floats(ARCSEC, MAX_RADIUS_DEG), st.sampled_from([ARCSEC, MAX_RADIUS_DEG])
)
# Around the centre, out to three radii, and one in three close to the edge on either side.
surroundings = st.lists(
    st.tuples(
        st.floats(0, 360), st.one_of(st.floats(0, 3), st.floats(0.99, 1.01), st.sampled_from([0.0, 0.999999, 1.000001]))
    ),
    min_size=1,
    max_size=25,
)


def places_around(ra_deg: float, dec_deg: float, radius_deg: float, polar: list[tuple[float, float]]) -> SkyCoord:
    bearings, distances = zip(*polar, strict=True)
    centre = SkyCoord(ra_deg * u.deg, dec_deg * u.deg)
    return centre.directional_offset_by(list(bearings) * u.deg, [d * radius_deg for d in distances] * u.deg)


def put(places: SkyCoord) -> list[Source]:
    Source.objects.all().delete()
    ra, dec = [float(x) % 360 for x in places.ra.deg], [float(x) for x in places.dec.deg]
    rows = [
        SourceFactory.build(ra_deg=r, dec_deg=d, name=f"s{n}") for n, (r, d) in enumerate(zip(ra, dec, strict=True))
    ]
    return Source.objects.bulk_create(rows)


@pytest.mark.django_db
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(ras, decs, radii, surroundings)
@example(0.0, 90.0, 1.0, [(a, 0.99) for a in range(0, 360, 15)])
@example(123.0, -90.0, MAX_RADIUS_DEG, [(a, 0.999999) for a in range(0, 360, 15)])
@example(0.0, 0.0, ARCSEC, [(a, 0.999) for a in range(0, 360, 15)])
@example(359.99999, 89.0, 2.0, [(a, d) for a in range(0, 360, 30) for d in (0.5, 0.999, 1.001)])
def test_a_cone_holds_what_the_great_circle_says_nearest_first(ra_deg, dec_deg, radius_deg, polar):
    rows = put(places_around(ra_deg, dec_deg, radius_deg, polar))
    centre = SkyCoord(ra_deg * u.deg, dec_deg * u.deg)
    true_deg = {row.pk: float(centre.separation(SkyCoord(row.ra_deg * u.deg, row.dec_deg * u.deg)).deg) for row in rows}

    found = list(Source.objects.within_cone(ra_deg=ra_deg, dec_deg=dec_deg, radius_deg=radius_deg))

    # The database computes in its own floating point: this close to the edge either answer is right.
    surely = {pk for pk, separation in true_deg.items() if separation <= radius_deg - ROUNDING_DEG}
    perhaps = {pk for pk, separation in true_deg.items() if separation <= radius_deg + ROUNDING_DEG}
    assert surely <= {row.pk for row in found} <= perhaps
    assert len({row.pk for row in found}) == len(found)
    for row in found:
        assert row.separation_deg == pytest.approx(true_deg[row.pk], abs=ROUNDING_DEG)
    assert [row.pk for row in found] == [row.pk for row in sorted(found, key=lambda row: (row.separation_deg, row.pk))]


@pytest.mark.django_db
def test_a_cone_over_a_pole_and_across_ra_zero_has_all_that_is_near():
    north = [SourceFactory(ra_deg=ra, dec_deg=89.5) for ra in (0.0, 90.0, 180.0, 270.0)]
    wrap = [SourceFactory(ra_deg=ra, dec_deg=-0.1) for ra in (359.9, 0.1)]
    assert set(Source.objects.within_cone(ra_deg=45.0, dec_deg=90.0, radius_deg=0.51)) == set(north)
    for ra_deg in (0.0, 359.95):
        assert set(Source.objects.within_cone(ra_deg=ra_deg, dec_deg=0.0, radius_deg=0.3)) == set(wrap)


@pytest.mark.django_db
@pytest.mark.parametrize("dust", [5e-324, 1e-200, 1e-30])
def test_numbers_next_to_zero_are_zero_to_every_database(dust):
    here = [SourceFactory(ra_deg=0.0, dec_deg=0.0), SourceFactory(ra_deg=dust, dec_deg=-dust)]
    for ra_deg, dec_deg in [(0.0, 0.0), (dust, dust), (0.0, -dust)]:
        cone = Source.objects.within_cone(ra_deg=ra_deg, dec_deg=dec_deg, radius_deg=ARCSEC)
        assert [(row.pk, row.separation_deg) for row in cone] == [(row.pk, 0.0) for row in here]


@pytest.mark.django_db
def test_a_cone_without_extent_has_what_is_exactly_there():
    here = SourceFactory(ra_deg=0.0, dec_deg=0.0)
    SourceFactory(ra_deg=ARCSEC, dec_deg=0.0)
    assert list(Source.objects.within_cone(ra_deg=0.0, dec_deg=0.0, radius_deg=0.0)) == [here]


@settings(max_examples=300, deadline=None)
@given(ras, decs, radii, surroundings)
def test_the_ranges_of_a_cone_have_the_cell_of_every_place_in_it(ra_deg, dec_deg, radius_deg, polar):
    inside = [(bearing, min(distance, 0.999999)) for bearing, distance in polar]
    places = places_around(ra_deg, dec_deg, radius_deg, inside)
    ranges = cone_ranges(ra_deg, dec_deg, radius_deg)
    for cell in healpix_indices(places.ra.deg, places.dec.deg):
        assert any(first <= cell < end for first, end in ranges)


@pytest.mark.parametrize(
    ("ra_deg", "dec_deg", "radius_deg"),
    [
        (229.98693139620232, 89.99677535762488, 0.0045673311200981545),
        (27.51874589290706, -89.03729333315168, 0.7669838629051745),
        (40.743160257790805, -87.17652570218395, 2.850007249407674),
        (10.0, 90.0, 10.0),
    ],
)
def test_cells_on_the_seams_at_a_pole_are_not_forgotten(ra_deg, dec_deg, radius_deg):
    """The seams of HEALPix's faces are at RA 0, 90, 180 and 270; cdshealpix's own cones lack cells there."""
    chance = np.random.default_rng(1)
    ra = chance.integers(0, 4, 3000) * 90 + chance.choice([-1, 1], 3000) * 10 ** chance.uniform(-6, 0.5, 3000)
    dec = np.copysign(90 - chance.random(3000) * 2 * (radius_deg + 90 - abs(dec_deg)), dec_deg)
    places = SkyCoord(ra * u.deg, dec * u.deg)
    places = places[places.separation(SkyCoord(ra_deg * u.deg, dec_deg * u.deg)).deg <= radius_deg]
    assert len(places) > 50
    ranges = cone_ranges(ra_deg, dec_deg, radius_deg)
    for cell in healpix_indices(places.ra.deg, places.dec.deg):
        assert any(first <= cell < end for first, end in ranges)


@pytest.mark.parametrize("depth", range(6))
def test_no_cell_reaches_farther_than_we_think(depth):
    cells = np.arange(12 * 4**depth, dtype=np.uint64)
    centres = SkyCoord(*cdshealpix.healpix_to_lonlat(cells, depth))
    borders = SkyCoord(*cdshealpix.vertices(cells, depth, 4))
    farthest = borders.separation(centres[:, np.newaxis]).deg.max()
    assert farthest == pytest.approx(_reach_deg(depth), abs=ROUNDING_DEG)


@settings(max_examples=300, deadline=None)
@given(ras, decs, radii)
def test_the_ranges_of_a_cone_are_few_apart_in_order_and_on_the_sphere(ra_deg, dec_deg, radius_deg):
    ranges = cone_ranges(ra_deg, dec_deg, radius_deg)
    assert 1 <= len(ranges) <= MAX_CONE_RANGES
    edges = [edge for span in ranges for edge in span]
    assert edges == sorted(set(edges))
    assert edges[0] >= 0
    assert edges[-1] <= 12 * 4**HEALPIX_DEPTH


@pytest.mark.parametrize("radius_arcsec", [1.0, 10.0, 60.0])
@pytest.mark.parametrize("dec_deg", [-90.0, -41.8103, 0.0, 16.1, 89.9])
def test_a_small_cone_reads_little_more_than_itself(radius_arcsec, dec_deg):
    cell_arcsec2 = 4 * 180**2 / 3.141592653589793 * 3600**2 / (12 * 4**HEALPIX_DEPTH)
    read_arcsec2 = sum(end - first for first, end in cone_ranges(10.0, dec_deg, radius_arcsec / 3600)) * cell_arcsec2
    assert read_arcsec2 < 12 * 3.14 * (radius_arcsec + 13) ** 2


@pytest.mark.parametrize(
    ("ra_deg", "dec_deg", "cell"),
    [
        (0.0, 0.0, 1_275_068_416),
        (202.7845, 30.5092, 683_690_380),
        (0.0, 90.0, 268_435_455),
        (180.0, -90.0, 2_684_354_560),
    ],
)
def test_the_cell_of_a_place_never_changes_because_it_is_stored(ra_deg, dec_deg, cell):
    assert healpix_index(ra_deg, dec_deg) == cell


def test_the_cell_of_a_place_is_that_of_another_implementation():
    from astropy_healpix import HEALPix

    places = [(0.0, 0.0), (359.999999, -0.3), (202.7845, 30.5092), (10.0, 89.99), (200.0, -89.99), (45.0, 41.8)]
    theirs = HEALPix(nside=2**HEALPIX_DEPTH, order="nested")
    for ra_deg, dec_deg in places:
        assert healpix_index(ra_deg, dec_deg) == int(theirs.lonlat_to_healpix(ra_deg * u.deg, dec_deg * u.deg))


def test_ra_360_is_ra_0():
    assert healpix_index(360.0, 10.0) == healpix_index(0.0, 10.0)


@given(*[st.floats(0, 360), st.floats(-90, 90)] * 2)
@example(10.0, 89.9999, 190.0, 89.9999)
@example(359.9999, 0.0, 0.0001, 0.0)
def test_a_distance_is_that_of_the_great_circle(ra_deg, dec_deg, other_ra_deg, other_dec_deg):
    one, other = SkyCoord(ra_deg, dec_deg, unit="deg"), SkyCoord(other_ra_deg, other_dec_deg, unit="deg")
    found = separation_deg(ra_deg, dec_deg, other_ra_deg, other_dec_deg)
    assert found == pytest.approx(one.separation(other).deg, abs=3e-6)  # haversine at the antipodes
