"""What the database itself keeps of provenance, and what was named of products made before."""

from __future__ import annotations

from datetime import timedelta
from importlib import import_module

import pytest
from django.apps import apps
from django.db import IntegrityError

from calibration.models import AppliedFlags, FlagTable
from observations.models import MeasurementSet
from tests.factories import FlagTableFactory, MeasurementSetFactory, MosaicFactory, MosaicTileFactory

pytestmark = pytest.mark.django_db


def test_nothing_is_made_from_itself():
    measurement_set = MeasurementSetFactory()
    with pytest.raises(IntegrityError, match="measurement_set_not_from_itself"):
        MeasurementSet.objects.filter(pk=measurement_set.pk).update(calibrated_from=measurement_set.pk)


def test_a_mosaic_is_no_tile_of_itself():
    mosaic = MosaicFactory()
    with pytest.raises(IntegrityError, match="mosaic_not_from_itself"):
        MosaicTileFactory(mosaic=mosaic, tile=mosaic)


def test_sets_calibrated_before_flags_were_named_get_those_that_were_there_then():
    raw = MeasurementSetFactory(calibrated_from=None)
    first, second, later = (FlagTableFactory(measurement_set=raw) for _ in range(3))
    calibrated = MeasurementSetFactory(calibrated_from=raw, group=raw.group)
    without = MeasurementSetFactory(calibrated_from=MeasurementSetFactory(calibrated_from=None))
    hour = timedelta(hours=1)
    for table, time in (
        (first, calibrated.created_at - 2 * hour),
        (second, calibrated.created_at - hour),
        (later, calibrated.created_at + hour),
    ):
        FlagTable.objects.filter(pk=table.pk).update(created_at=time)
    import_module("calibration.migrations.0005_suspects").name_flags(apps, None)
    assert AppliedFlags.objects.get(measurement_set=calibrated).flag_table == second
    assert not AppliedFlags.objects.filter(measurement_set=without).exists()
