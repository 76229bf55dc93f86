"""The stored groups against the pure function, for files that arrive in any order and in several scans."""

from collections import defaultdict
from datetime import timedelta

import pytest
from django.db import transaction
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from observations.grouping import duplicate_subbands, group_files, missing_subbands
from observations.models import DataRoot, SubbandFile, SubbandGroup
from observations.regrouping import regroup
from tests.observations.nights import Night, fact, keys, nights, run_of
from tests.observations.subband_files import NIGHT, TILE_S, file_name

pytestmark = pytest.mark.django_db

any_night = st.one_of(
    nights(), nights(n_runs=2, decs=(22.5, 16.3)), nights(n_runs=3, min_subbands=2, decs=(22.5, 22.5, 16.3))
)


def arrive(files, root) -> dict[int, int]:
    rows = SubbandFile.objects.bulk_create(
        SubbandFile(
            root=root,
            relative_path=f"{file.key}/{file_name(file.started_at, file.subband)}",
            subband=file.subband,
            started_at=file.started_at,
            duration_s=TILE_S,
            pointing_dec_deg=file.pointing_dec_deg,
            size_bytes=100 + file.key,
            modified_at=NIGHT + timedelta(seconds=file.key),
        )
        for file in files
    )
    with transaction.atomic():
        regroup(touched={file.started_at for file in files}, left=())
    return {row.pk: file.key for row, file in zip(rows, files, strict=True)}


def stored_groups(key_of: dict[int, int]) -> set[frozenset[int]]:
    members = defaultdict(set)
    for row in SubbandFile.objects.all():
        assert row.group_id is not None
        members[row.group_id].add(key_of[row.pk])
    assert set(members) == set(SubbandGroup.objects.values_list("pk", flat=True))
    return {frozenset(group) for group in members.values()}


def assert_counts_are_true() -> None:
    for group in SubbandGroup.objects.prefetch_related("files"):
        files = list(group.files.all())
        subbands = [file.subband for file in files if file.subband is not None]
        assert group.n_files == len(files)
        assert group.n_subbands == len(set(subbands))
        assert group.missing_subbands == missing_subbands(subbands)
        assert group.duplicate_subbands == duplicate_subbands(subbands)
        assert group.size_bytes == sum(file.size_bytes for file in files)
        assert group.last_file_at == max(file.modified_at for file in files)
        assert group.observed_at == group.started_at + timedelta(seconds=group.duration_s / 2)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(any_night, st.randoms(use_true_random=False), st.integers(1, 6))
def test_any_order_of_arrival_in_any_number_of_scans_ends_in_the_same_groups(night: Night, chance, n_scans):
    SubbandFile.objects.all().delete()
    SubbandGroup.objects.all().delete()
    root, _ = DataRoot.objects.get_or_create(path="/data")
    files = list(night.files)
    chance.shuffle(files)
    key_of: dict[int, int] = {}

    for scan in range(n_scans):
        key_of |= arrive(files[scan::n_scans], root)
        assert_counts_are_true()

    assert stored_groups(key_of) == keys(group_files(night.files))


def test_a_group_keeps_its_row_when_a_late_file_comes_first_in_time():
    root = DataRoot.objects.create(path="/data")
    files = run_of(20.0, range(16))
    arrive(files[1:], root)
    before = SubbandGroup.objects.get()

    arrive(files[:1], root)

    after = SubbandGroup.objects.get()
    assert (after.pk, after.n_files) == (before.pk, 16)


def test_a_chain_of_groups_longer_than_the_margin_is_taken_whole():
    """Files every 150 s for four hours are one neighbourhood; one late file regroups all of it."""
    root = DataRoot.objects.create(path="/data")
    files = [fact(i, i % 16, 150.0 * i) for i in range(96)]
    key_of = arrive(files[1:], root)

    key_of |= arrive(files[:1], root)

    assert stored_groups(key_of) == keys(group_files(files))
