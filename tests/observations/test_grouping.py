import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from observations import models
from observations.grouping import (
    HALF_TILE_S,
    N_SUBBANDS,
    duplicate_subbands,
    group_files,
    missing_subbands,
    split_neighbourhoods,
)
from tests.observations.nights import Night, fact, keys, nights, run_of


def shuffled(night: Night, chance: random.Random) -> list:
    files = list(night.files)
    chance.shuffle(files)
    return files


any_night = st.one_of(
    nights(),
    nights(n_runs=2, decs=(22.5, 16.3)),
    nights(n_runs=2, min_subbands=2),
    nights(n_runs=3, min_subbands=2),
    nights(n_runs=4, min_subbands=2, decs=(22.5, 16.3)),
)


@given(any_night, st.randoms(use_true_random=False))
def test_every_file_is_in_exactly_one_group_whatever_the_order(night, chance):
    groups = group_files(shuffled(night, chance))

    assert Counter(file.key for group in groups for file in group) == dict.fromkeys(night.tile_of, 1)
    assert keys(groups) == keys(group_files(shuffled(night, chance)))


@given(any_night)
def test_no_group_mixes_two_tiles_and_no_tile_is_torn(night):
    groups = group_files(night.files)

    assert all(len(night.tiles(group)) == 1 for group in groups)
    assert len(groups) == len(set(night.tile_of.values()))


@given(any_night)
def test_only_copies_make_a_group_overfull(night):
    for group in group_files(night.files):
        subbands = [file.subband for file in group]
        assert bool(duplicate_subbands(subbands)) == (len(subbands) != len(set(subbands)))
        assert len(missing_subbands(subbands)) + len(set(subbands)) == N_SUBBANDS


@given(any_night)
def test_no_group_spans_more_than_half_a_tile_or_two_strips(night):
    for group in group_files(night.files):
        assert (group[-1].started_at - group[0].started_at).total_seconds() <= HALF_TILE_S
        assert max(f.pointing_dec_deg for f in group) - min(f.pointing_dec_deg for f in group) <= 0.1


@given(any_night)
def test_neighbourhoods_can_be_grouped_one_by_one(night):
    apart = [group for part in split_neighbourhoods(night.files) for group in group_files(part)]

    assert keys(apart) == keys(group_files(night.files))


@given(
    st.lists(st.tuples(st.integers(0, 15), st.integers(0, 700_000), st.sampled_from([22.5, 22.55, 16.3])), max_size=80)
)
def test_even_senseless_headers_give_a_partition(drawn):
    files = [fact(key, subband, ms / 1000, dec) for key, (subband, ms, dec) in enumerate(drawn)]

    groups = group_files(files)

    assert sorted(file.key for group in groups for file in group) == list(range(len(files)))
    assert keys(groups) == keys(group_files(files[::-1]))
    assert all((g[-1].started_at - g[0].started_at).total_seconds() <= HALF_TILE_S for g in groups)


@given(st.floats(0.0, 6.4), st.sets(st.integers(0, 15), min_size=1))
def test_runs_that_the_headers_cannot_separate_are_overfull(offset_s, again):
    files = run_of(0.0, range(16)) + run_of(offset_s, sorted(again), first_key=16)

    (group,) = group_files(files)

    assert duplicate_subbands(file.subband for file in group) == sorted(again)


@given(st.floats(6.45, 300.0), st.integers(1, 15))
def test_runs_that_overlap_are_separated_though_no_subband_is_repeated(offset_s, n):
    first, second = run_of(0.0, range(n)), run_of(offset_s, range(n, 16), first_key=n)

    assert keys(group_files(first + second)) == keys([first, second])


@given(st.lists(st.floats(0, 4), min_size=16, max_size=16), st.lists(st.floats(20, 24), min_size=16, max_size=16))
def test_overlapping_runs_with_loose_headers_are_separated(early, late):
    first = [fact(i, i, seconds) for i, seconds in enumerate(early)]
    second = [fact(16 + i, i, seconds) for i, seconds in enumerate(late)]

    assert keys(group_files(first + second)) == keys([first, second])


@pytest.mark.parametrize("subbands", [range(16), [i for i in range(16) if i != 5]])
def test_a_lone_file_beside_a_run_is_of_another_run_also_where_the_run_lacks_its_subband(subbands):
    tile, other = run_of(0.0, subbands), [fact(16, 5, 50.0)]

    assert keys(group_files(tile + other)) == keys([tile, other])


def test_lone_files_that_repeat_each_other_join_nothing():
    tile, one, two = run_of(0.0, range(15)), [fact(15, 15, 40.0)], [fact(16, 15, 80.0)]

    assert keys(group_files(tile + one + two)) == keys([tile, one, two])


def test_a_lone_file_between_two_runs_joins_neither():
    first, second, lone = run_of(0.0, range(14)), run_of(60.0, range(14), first_key=14), [fact(28, 15, 30.0)]

    assert keys(group_files(first + second + lone)) == keys([first, second, lone])


def test_scattered_headers_stay_together_while_no_subband_is_repeated():
    files = [fact(subband, subband, subband * 9.0) for subband in range(16)]

    assert keys(group_files(files)) == keys([files])


def test_scattered_headers_with_a_repeated_subband_are_overfull_together():
    files = [fact(subband, subband, subband * 9.0) for subband in range(16)] + [fact(16, 3, 100.0)]

    (group,) = group_files(files)

    assert duplicate_subbands(file.subband for file in group) == [3]


def test_scattered_headers_are_rarely_taken_for_runs():
    chance = random.Random(1)

    def is_torn() -> bool:
        return len(group_files(fact(i, i, chance.randrange(83)) for i in range(16))) > 1

    assert sum(is_torn() for _ in range(2000)) / 2000 < 0.03


@pytest.mark.parametrize(("seconds", "n_groups"), [(154.0, 1), (154.001, 2)])
def test_a_group_reaches_half_a_tile_from_its_first_file(seconds, n_groups):
    assert len(group_files([fact(0, 0, 0.0), fact(1, 1, seconds)])) == n_groups


@pytest.mark.parametrize(("dec_deg", "n_groups"), [(22.599, 1), (22.601, 2)])
def test_a_group_has_one_declination(dec_deg, n_groups):
    files = run_of(0.0, range(8), dec_deg=22.5) + run_of(0.0, range(8, 16), first_key=8, dec_deg=dec_deg)

    assert len(group_files(files)) == n_groups


def test_the_anchor_does_not_move_along_a_chain_of_files():
    files = [fact(i, i, i * 100.0) for i in range(4)]

    assert keys(group_files(files)) == {frozenset({0, 1}), frozenset({2, 3})}


def test_a_run_across_the_end_of_a_window_is_not_torn():
    first = run_of(0.0, range(16))
    second = [fact(16 + i, i, 153.9 + (i % 2) * 0.2) for i in range(16)]

    assert keys(group_files(first + second)) == keys([first, second])


def test_a_copied_tile_is_overfull():
    (group,) = group_files(run_of(0.0, [*range(16), *range(16)]))

    assert duplicate_subbands(file.subband for file in group) == list(range(16))


def test_two_copies_of_one_file_are_no_run():
    files = [fact(i, i, i * 9.0) for i in range(4)] + [fact(4, 0, 0.0)]

    assert keys(group_files(files)) == keys([files])


def test_no_files_make_no_groups():
    assert group_files([]) == []


def test_the_number_of_subbands_is_one_number():
    assert N_SUBBANDS == models.N_SUBBANDS


def test_an_unbroken_chain_of_starts_is_cut_at_half_a_tile():
    files = [fact(i, i % 16, i * 5.0) for i in range(80)]

    spans = [(group[-1].started_at - group[0].started_at).total_seconds() for group in group_files(files)]

    assert max(spans) == 150.0
    assert len(spans) == 3
