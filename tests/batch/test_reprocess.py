"""A bad table taken back: what is rebuilt is what a run without that table makes, and nothing else is touched."""

from __future__ import annotations

from pathlib import Path

import pytest
from django.db import transaction

from batch.blame import plan, quarantine_and_recompute, reprocess
from batch.models import Batch
from batch.runner import run_batch_here
from batch.services import create_batch
from calibration.models import CalibrationTable
from contimg.products import WORK_FOLDER
from images.models import Image
from observations.models import SubbandGroup
from observations.services import index_subbands
from provenance.models import Quarantine

pytest_plugins = ["tests.batch.nights"]
Made = dict[str, tuple[str, str]]  # by tile: the content of its calibrated set and of its image


def run(batch: Batch) -> None:
    run_batch_here(batch=batch, watch=lambda batch: None)
    batch.refresh_from_db()
    assert batch.state == "done", list(batch.items.values_list("stage", "error_code", "error_detail"))


def run_all(stage: str) -> None:
    keys = SubbandGroup.objects.order_by("observed_at").values_list("pk", flat=True)
    run(create_batch(stage=stage, subjects=[("subband_group", pk) for pk in keys]).batch)


def quarantined_table_of_the_first_night() -> Quarantine:
    table = CalibrationTable.objects.filter(kind="B").earliest("solved_at")
    row, batches = quarantine_and_recompute(kind="calibration_table", pk=table.pk, reason="solved in the rain")
    for batch in batches:
        run(batch)
    return row


def made() -> Made:
    tiles = Image.objects.tiles().current().select_related("measurement_set__group")
    return {str(tile.measurement_set.group): (tile.measurement_set.checksum, tile.checksum) for tile in tiles}


@pytest.mark.slow
@pytest.mark.django_db
def test_exactly_the_affected_tiles_are_rebuilt_and_as_without_the_table(
    night: Path, small_array: None, settings, tmp_path: Path
):
    settings.CONTIMG_CALIBRATION_VALIDITY_H = 36  # each night's tables serve the other's too
    with transaction.atomic():  # a run that never used the table
        index_subbands(folder=night)
        run_all("convert")
        run_all("calibrate")
        quarantined_table_of_the_first_night()
        run_all("process")
        without = made()
        transaction.set_rollback(True)

    settings.CONTIMG_PRODUCTS_ROOT = tmp_path / "again"
    (settings.CONTIMG_PRODUCTS_ROOT / WORK_FOLDER).mkdir(parents=True)
    index_subbands(folder=night)
    run_all("process")
    before, rows = made(), set(Image.objects.tiles().current().values_list("pk", flat=True))
    row = quarantined_table_of_the_first_night()
    affected = {str(tile) for tile in plan(row=row).tiles}
    for batch in reprocess(row=row):
        run(batch)

    after = made()
    assert after == without
    assert {tile for tile in after if after[tile] != before[tile]} == affected
    assert 0 < len(affected) < len(after)
    untouched = Image.objects.filter(pk__in=rows, is_current=True)
    assert {str(tile.measurement_set.group) for tile in untouched} == set(after) - affected
    assert not Image.objects.current().filter(is_suspect=True).exists()
