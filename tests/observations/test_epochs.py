"""Hours of a strip, and which tiles belong to them."""

from __future__ import annotations

import importlib
from datetime import UTC, datetime, timedelta

import pytest
from django.apps import apps

from observations.epochs import open_epochs
from observations.models import Epoch, SubbandGroup
from observations.services import index_subbands
from tests.factories import EpochFactory, SubbandGroupFactory
from tests.observations.subband_files import NIGHT, write_tile

pytestmark = pytest.mark.django_db
HOUR = datetime(2026, 3, 1, 6, tzinfo=UTC)
SPACING = timedelta(seconds=309.5)


def group_at(middle: datetime, **columns) -> SubbandGroup:
    return SubbandGroupFactory(started_at=middle - timedelta(seconds=154.5), **columns)


def test_the_tile_set_is_the_hour_and_two_tiles_on_each_side():
    first = HOUR - 4 * SPACING + timedelta(seconds=100)
    tiles = [group_at(first + n * SPACING) for n in range(20)]
    inside = [tile for tile in tiles if HOUR <= tile.observed_at < HOUR + timedelta(hours=1)]
    found = list(SubbandGroup.objects.in_epoch(EpochFactory(started_at=HOUR)))
    where = tiles.index(inside[0])
    assert found == tiles[where - 2 : where + len(inside) + 2]
    assert len(inside) in (11, 12)


@pytest.mark.parametrize("shift_s", range(0, 310, 10))
def test_never_less_than_two_tiles_of_overlap(shift_s):
    tiles = [group_at(HOUR - n * SPACING - timedelta(seconds=shift_s)) for n in range(1, 5)]
    found = SubbandGroup.objects.in_epoch(EpochFactory(started_at=HOUR)).count()
    assert found == sum(tile.observed_at >= HOUR - timedelta(seconds=620) for tile in tiles)
    before = SubbandGroup.objects.in_epoch(EpochFactory(started_at=HOUR, dec_deg=16.0))
    assert before.count() in ((1, 2) if shift_s else (2,))


def test_a_tile_of_another_strip_is_not_of_the_epoch():
    inside, outside = (group_at(HOUR, pointing_dec_deg=16.1 + step) for step in (0.2, 0.3))
    assert list(SubbandGroup.objects.in_epoch(EpochFactory(started_at=HOUR))) == [inside]
    assert not Epoch.objects.of_tile(observed_at=outside.observed_at, dec_deg=outside.pointing_dec_deg).exists()


def test_a_tile_near_the_full_hour_is_of_two_epochs():
    for hour in range(3):
        EpochFactory(started_at=HOUR + timedelta(hours=hour))

    def epochs_at(minute: int) -> int:
        middle = HOUR + timedelta(hours=1, minutes=minute)
        return Epoch.objects.of_tile(observed_at=middle, dec_deg=16.1).count()

    assert (epochs_at(5), epochs_at(30), epochs_at(55)) == (2, 1, 2)


def test_epochs_are_made_once_for_each_hour_and_strip():
    tiles = [group_at(HOUR + n * SPACING) for n in range(15)]
    tiles += [group_at(HOUR, pointing_dec_deg=16.15), group_at(HOUR, pointing_dec_deg=40.0)]
    for _ in range(2):
        open_epochs(groups=tiles)
    made = Epoch.objects.order_by("started_at", "dec_deg").values_list("started_at", "dec_deg")
    assert list(made) == [(HOUR, 16.1), (HOUR, 40.0), (HOUR + timedelta(hours=1), 16.1)]


def test_indexing_makes_the_epochs_of_its_tiles(tmp_path):
    write_tile(tmp_path, NIGHT)
    for _ in range(2):
        index_subbands(folder=tmp_path)
    tile, epoch = SubbandGroup.objects.get(), Epoch.objects.get()
    assert epoch.started_at == tile.observed_at.replace(minute=0, second=0, microsecond=0)
    assert list(SubbandGroup.objects.in_epoch(epoch)) == [tile]


def test_tiles_that_were_there_before_epochs_get_theirs_in_the_migration():
    tiles = [group_at(HOUR + n * SPACING) for n in range(15)]
    importlib.import_module("observations.migrations.0002_epochs").open_epochs(apps, None)
    migrated = set(Epoch.objects.values_list("started_at", "dec_deg", "tiles_from", "tiles_until"))
    Epoch.objects.all().delete()
    open_epochs(groups=tiles)
    assert migrated == set(Epoch.objects.values_list("started_at", "dec_deg", "tiles_from", "tiles_until"))
