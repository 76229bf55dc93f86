from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sources.association import associate, iau_name, mean_place
from tests.sources.skies import offset


@dataclass(frozen=True)
class Spot:
    ra_deg: float
    dec_deg: float
    position_err_arcsec: float = 0.2


def match(detections, sources, floor_arcsec: float = 1.0):
    return associate(detections, sources, de_ruiter_limit=5.68, floor_arcsec=floor_arcsec)


CENTRES = [(150.0, 30.0), (0.0, 30.0), (359.9999, -60.0), (10.0, 89.9999), (200.0, -90.0), (0.0, 0.0)]


@pytest.mark.parametrize("centre", CENTRES)
@pytest.mark.parametrize("bearing", [(1, 0), (-1, 0), (0, 1), (0, -1), (0.6, -0.8)])
def test_the_limit_is_a_great_circle_everywhere_on_the_sky(centre, bearing):
    limit = 5.68 * (0.2**2 + 0.2**2 + 1.0**2) ** 0.5
    source = Spot(*centre)
    inside, outside = (
        Spot(*offset(*centre, *(factor * limit * part for part in bearing))) for factor in (0.999, 1.001)
    )
    assert match([inside], [source]) == {0: 0}
    assert match([outside], [source]) == {}


def test_larger_errors_reach_farther_and_without_a_floor_a_bright_source_would_be_split():
    place = offset(150.0, 30.0, 4.0, 0)
    assert match([Spot(*place, 0.02)], [Spot(150.0, 30.0, 0.02)]) == {0: 0}
    assert match([Spot(*place, 0.02)], [Spot(150.0, 30.0, 0.02)], floor_arcsec=0.0) == {}
    far = offset(150.0, 30.0, 11.0, 0)
    assert match([Spot(*far, 2.0)], [Spot(150.0, 30.0)]) == {0: 0}
    assert match([Spot(*far, 0.2)], [Spot(150.0, 30.0)]) == {}


def test_the_nearest_pair_wins_and_each_is_matched_once():
    a, b = Spot(150.0, 30.0), Spot(*offset(150.0, 30.0, 5.0, 0))
    near_b, between = Spot(*offset(150.0, 30.0, 4.5, 0)), Spot(*offset(150.0, 30.0, 2.4, 0))
    assert match([between, near_b], [a, b]) == {1: 1, 0: 0}
    assert match([near_b, between], [b]) == {0: 0}
    assert match([near_b], [a, b]) == {0: 1}


def test_nothing_to_match_is_no_match():
    assert match([], [Spot(0, 0)]) == match([Spot(0, 0)], []) == match([], []) == {}


@given(
    st.sampled_from(CENTRES),
    st.lists(st.tuples(st.floats(-20, 20), st.floats(-20, 20), st.floats(0.1, 3)), min_size=1, max_size=8),
)
def test_the_mean_of_places_is_the_weighted_mean_of_their_offsets(centre, offsets):
    places = [(*offset(*centre, east, north), error) for east, north, error in offsets]
    weight = [1 / error**2 for *_, error in offsets]
    east, north = (sum(w * o[axis] for w, o in zip(weight, offsets, strict=True)) / sum(weight) for axis in (0, 1))
    ra, dec, error = mean_place(places)
    expected = Spot(*offset(*centre, east, north))
    assert 0 <= ra < 360
    assert error == pytest.approx(sum(weight) ** -0.5)
    assert associate([Spot(ra, dec, 0.0)], [expected], de_ruiter_limit=1.0, floor_arcsec=0.01) == {0: 0}


@pytest.mark.parametrize(
    ("ra_deg", "dec_deg", "name"),
    [
        (202.784583333, 30.509166667, "DSA J133108.3+303033"),
        (0.0, 0.0, "DSA J000000.0+000000"),
        (359.99999, -0.5, "DSA J235959.9-003000"),
        (360.0 - 1e-12, 45.0, "DSA J000000.0+450000"),
        (15.0, -89.99999, "DSA J010000.0-895959"),
        (10.0, 90.0, "DSA J004000.0+900000"),
        (180.0, 12.3, "DSA J120000.0+121800"),  # 12.3 deg in binary is a little less
    ],
)
def test_a_name_is_the_truncated_position(ra_deg, dec_deg, name):
    assert iau_name(ra_deg=ra_deg, dec_deg=dec_deg) == name


def test_a_taken_name_gets_a_letter():
    taken: set[str] = set()
    for _ in range(28):
        taken.add(iau_name(ra_deg=0.0, dec_deg=0.0, taken=taken))
    assert len(taken) == 28
    assert {"DSA J000000.0+000000", "DSA J000000.0+000000a", "DSA J000000.0+000000aa"} <= taken
