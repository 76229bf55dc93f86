"""Only what nothing refers to goes, row before file, and a kill in between leaves nothing behind."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime, timedelta
from io import StringIO
from pathlib import Path

import pytest
from django.apps import apps
from django.core.management import call_command
from django.db import models
from django.utils import timezone

from access.models import AuditEntry
from batch import retention
from batch.logs import log_name
from batch.models import Output
from batch.references import REFERENCES
from batch.retention import Policy, delete, look
from batch.sweeper import sweep_files
from calibration.models import AppliedFlags, AppliedTable, CalibrationTable, FlagTable
from calibration.retirement import retire
from contimg.products import WORK_FOLDER, work_folders
from images.models import Image, ImageEdge, MosaicTile
from observations.models import MeasurementSet
from qa.models import Assessment
from sources.models import Catalogue, Comparison
from tests.batch.nights import dead_process
from tests.factories import (
    AppliedFlagsFactory,
    AppliedTableFactory,
    AssessmentFactory,
    AttemptFactory,
    CalibrationTableFactory,
    FlagTableFactory,
    ImageFactory,
    ItemFactory,
    MeasurementFactory,
    MeasurementSetFactory,
    MosaicFactory,
    MosaicTileFactory,
    OutputFactory,
    QuarantineFactory,
    ReviewFactory,
    SubbandFileFactory,
)

pytestmark = pytest.mark.django_db
NOW = datetime(2026, 6, 1, tzinfo=UTC)
LONG_AGO = NOW - timedelta(days=100)
# What goes with a product, by the column that names it.
PARTS = {
    Image: {(ImageEdge, "image"), (MosaicTile, "mosaic"), (Assessment, "image"), (Comparison, "image"),
            (Catalogue, "image"), (Output, "image")},
    MeasurementSet: {(AppliedTable, "measurement_set"), (AppliedFlags, "measurement_set"), (Output, "measurement_set")},
    CalibrationTable: {(Assessment, "calibration_table"), (Output, "calibration_table")},
    FlagTable: {(Output, "flag_table")},
}  # fmt: skip


@pytest.fixture(autouse=True)
def _thirty_days(settings, tmp_path):
    settings.CONTIMG_KEEP_LOGS_DAYS = settings.CONTIMG_KEEP_SUPERSEDED_DAYS = 30
    settings.CONTIMG_KEEP_RAW_SETS_DAYS = settings.CONTIMG_KEEP_RESIDUALS_DAYS = 30
    settings.CONTIMG_LOG_DIR = tmp_path / "logs"


class Tile:
    """A tile that was made twice, 100 days ago: everything of the older version hangs together and on nothing else."""

    def __init__(self, root: Path) -> None:
        self.raw = MeasurementSetFactory(is_current=False)
        new_raw = MeasurementSetFactory(group=self.raw.group)
        self.file = SubbandFileFactory(
            group=self.raw.group, root__path=str(root.parent), relative_path="raw.hdf5", size_bytes=3
        )
        (root.parent / "raw.hdf5").write_text("raw")
        self.flags = FlagTableFactory(measurement_set=self.raw)
        new_flags = FlagTableFactory(measurement_set=new_raw)
        self.table = CalibrationTableFactory(source_measurement_set=self.raw, flag_table=self.flags)
        retire(table=self.table, reason="solved on a resolved source")
        self.calibrated = MeasurementSetFactory(group=self.raw.group, calibrated_from=self.raw, is_current=False)
        new_calibrated = MeasurementSetFactory(group=self.raw.group, calibrated_from=new_raw)
        AppliedTableFactory(measurement_set=self.calibrated, table=self.table)
        AppliedFlagsFactory(measurement_set=self.calibrated, flag_table=self.flags)
        AppliedFlagsFactory(measurement_set=new_calibrated, flag_table=new_flags)
        companions = {f"{name}_path": f"images/old_{name}.fits" for name in ("residual", "flat_noise", "preview")}
        self.image = ImageFactory(measurement_set=self.calibrated, is_current=False, **companions)
        self.new_image = ImageFactory(measurement_set=new_calibrated, residual_path="images/new_residual.fits")
        AssessmentFactory(image=self.image)
        OutputFactory(
            measurement_set=None, image=self.image, attempt__finished_at=LONG_AGO, attempt__item__state="done"
        )
        self.new = (new_raw, new_flags, new_calibrated, self.new_image)
        self.old = (self.image, self.calibrated, self.table, self.flags, self.raw)
        for model in (MeasurementSet, FlagTable, CalibrationTable, Image):
            model.objects.update(created_at=LONG_AGO)
        for row in (*self.old, *self.new):
            row.refresh_from_db()
            write(root, row)


def write(root: Path, row) -> None:
    for column in ("path", "residual_path", "flat_noise_path", "preview_path"):
        if relative := getattr(row, column, ""):
            (root / relative).parent.mkdir(exist_ok=True)
            (root / relative).write_text("12345")


@pytest.fixture
def tile(products_root) -> Tile:
    return Tile(products_root)


def in_a_year() -> datetime:
    """The table was retired by the clock of this test."""
    return timezone.now() + timedelta(days=365)


def run(*policies: Policy, now: datetime | None = None) -> list[retention.Candidate]:
    now = now or in_a_year()
    return delete(candidates=look(policies=policies or tuple(Policy), now=now), now=now)


def why_kept(row, *policies: Policy, now: datetime | None = None) -> str:
    found = look(policies=policies or tuple(Policy), now=now or in_a_year())
    kind = str(row._meta.verbose_name).replace(" ", "_")
    (one,) = [one for one in found if (one.kind, one.id) == (kind, row.pk) and one.policy != Policy.RESIDUALS]
    return one.why_kept


def test_every_foreign_key_to_a_product_is_a_reference_or_a_part_of_it():
    for product, references in REFERENCES.items():
        known = [(one.model, one.column) for one in references] + list(PARTS[product])
        found = [
            (model, column.name)
            for model in apps.get_models()
            for column in model._meta.get_fields()
            if isinstance(column, models.ForeignKey) and column.remote_field.model is product
        ]
        assert sorted(known, key=str) == sorted(found, key=str)


def test_parts_cascade_and_go_with_the_product():
    for product, parts in PARTS.items():
        for model, column in parts:
            assert model._meta.get_field(column).remote_field.on_delete is models.CASCADE, (product, model)


def test_by_default_everything_is_kept_for_ever(tile, settings):
    for policy in Policy:
        setattr(settings, policy.setting, 0)
    assert look(policies=tuple(Policy), now=in_a_year()) == []


def test_a_replaced_chain_that_nothing_refers_to_goes_from_its_end_to_its_beginning(tile, products_root):
    gone = run()
    assert [(one.kind, one.id) for one in gone] == [
        ("image", tile.image.pk), ("measurement_set", tile.calibrated.pk), ("calibration_table", tile.table.pk),
        ("flag_table", tile.flags.pk), ("measurement_set", tile.raw.pk),
    ]  # fmt: skip
    assert gone[0].size_bytes == 20
    for row in tile.old:
        assert not type(row).objects.filter(pk=row.pk).exists()
        assert not (products_root / row.path).exists()
    for row in tile.new:
        assert type(row).objects.filter(pk=row.pk).exists()
        assert (products_root / row.path).exists()
    assert (products_root / "images/new_residual.fits").exists(), "a mosaic may need it"
    assert not list(products_root.glob("images/old*"))
    assert run() == [], "again changes nothing"


def test_each_deletion_is_in_the_audit_log(tile):
    run()
    entries = AuditEntry.objects.filter(action__endswith=".delete").order_by("pk")
    assert [(one.action, one.object_id) for one in entries] == [
        ("image.delete", tile.image.pk), ("measurement_set.delete", tile.calibrated.pk),
        ("calibration_table.delete", tile.table.pk), ("flag_table.delete", tile.flags.pk),
        ("measurement_set.delete", tile.raw.pk),
    ]  # fmt: skip
    details = entries[0].details
    assert details["recipe"] == tile.image.recipe
    assert details["files"][0] == tile.image.path
    assert details["size_bytes"] == 20


def test_looking_changes_nothing(tile, products_root):
    before = sorted(products_root.rglob("*"))
    assert len(look(policies=tuple(Policy), now=in_a_year())) == 5
    assert sorted(products_root.rglob("*")) == before
    assert Image.objects.filter(pk=tile.image.pk).exists()


@pytest.mark.parametrize(
    ("refer", "why"),
    [
        (lambda tile: MeasurementFactory(image=tile.image), "1 fluxes were measured in it"),
        (lambda tile: MosaicTileFactory(tile=tile.image, mosaic=MosaicFactory()), "1 mosaics are made of it"),
        (lambda tile: ReviewFactory(image=tile.image), "1 reviews are of it"),
        (
            lambda tile: QuarantineFactory(calibration_table=None, image=tile.image, lifted_at=NOW),
            "1 quarantines name it",
        ),
        (
            lambda tile: ItemFactory(group=None, image=tile.image, state="done", writes_to="tile 1"),
            "1 items are about it",
        ),
        (lambda tile: ItemFactory(group=tile.raw.group), "work is open for its tile or hour"),
        (lambda tile: Image.objects.filter(pk=tile.image.pk).update(is_suspect=True), "it is suspect"),
        (lambda tile: Image.objects.filter(pk=tile.new_image.pk).update(is_current=False), "nothing has replaced it"),
        (lambda tile: Image.objects.filter(pk=tile.new_image.pk).update(created_at=in_a_year()), "within 30 days"),
    ],
)  # fmt: skip
def test_what_something_refers_to_stays_and_with_it_all_that_it_was_made_from(refer, why, tile, products_root):
    refer(tile)
    assert why in why_kept(tile.image)
    run(Policy.SUPERSEDED, Policy.RAW_SETS)
    for row in tile.old:
        assert type(row).objects.filter(pk=row.pk).exists()
        assert (products_root / row.path).exists()


def test_a_table_that_is_not_retired_stays_with_what_it_was_made_from(tile):
    CalibrationTable.objects.update(is_retired=False)
    run()
    assert not Image.objects.filter(pk=tile.image.pk).exists()
    for row in (tile.table, tile.flags, tile.raw):
        assert type(row).objects.filter(pk=row.pk).exists()


def test_a_raw_set_goes_when_asked_for_and_only_while_it_can_be_made_again(tile, settings, tmp_path):
    (tmp_path / "raw.hdf5").write_text("another")
    run()
    assert "could not be made again" in why_kept(tile.raw)
    (tmp_path / "raw.hdf5").write_text("raw")
    settings.CONTIMG_KEEP_RAW_SETS_DAYS = 0
    assert run() == []
    settings.CONTIMG_KEEP_RAW_SETS_DAYS = 30
    assert [one.id for one in run()] == [tile.raw.pk]


def test_of_a_replaced_image_that_was_measured_the_residual_and_the_preview_go(tile, products_root):
    MeasurementFactory(image=tile.image)
    (gone,) = run()
    assert (gone.policy, gone.id, gone.size_bytes) == (Policy.RESIDUALS, tile.image.pk, 10)
    tile.image.refresh_from_db()
    assert (tile.image.residual_path, tile.image.preview_path) == ("", "")
    assert sorted(path.name for path in products_root.glob("images/old*")) == ["old_flat_noise.fits"]
    assert (products_root / tile.image.path).exists()
    assert AuditEntry.objects.filter(action="image.delete_files", object_id=tile.image.pk).exists()
    assert [one for one in look(policies=tuple(Policy), now=in_a_year()) if one.policy == Policy.RESIDUALS] == []


def test_what_came_to_be_referred_to_since_it_was_looked_at_stays(tile, products_root):
    now = in_a_year()
    found = look(policies=tuple(Policy), now=now)
    MeasurementFactory(image=tile.image)
    assert delete(candidates=found, now=now) == []
    assert all((products_root / row.path).exists() for row in tile.old)


def test_a_kill_between_the_commit_and_the_file_is_ended_by_the_next_run(tile, products_root, monkeypatch):
    """Killed: nothing of what follows the commit is run, and the process is seen to be gone."""
    monkeypatch.setattr(retention, "remove_unnamed", _die)
    monkeypatch.setattr("contimg.products.this_process", dead_process)
    monkeypatch.setattr("contimg.products.shutil.rmtree", lambda *arguments, **options: None)
    with pytest.raises(SystemExit):
        run(Policy.SUPERSEDED)
    assert not Image.objects.filter(pk=tile.image.pk).exists()
    assert (products_root / tile.image.path).exists()
    monkeypatch.undo()
    assert len(work_folders()) == 1
    assert tile.image.path in sweep_files()
    assert not (products_root / tile.image.path).exists()
    assert all((products_root / row.path).exists() for row in tile.new)
    assert [path.name for path in (products_root / WORK_FOLDER).iterdir()] == []


def _die(folder: Path) -> None:
    raise SystemExit(9)


# --- logs ------------------------------------------------------------------------------------------------------------
def log_of(root: Path, age_days: float = 100, **columns) -> tuple[Path, object]:
    attempt = AttemptFactory(**columns)
    attempt.log_path = log_name(item_id=attempt.item_id, attempt=attempt.number)
    attempt.save()
    path = root / attempt.log_path
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("stage_done")
    then = (NOW - timedelta(days=age_days)).timestamp()
    os.utime(path, (then, then))
    return path, attempt


def test_old_logs_go_but_not_those_of_open_items_of_quarantined_ones_and_of_what_is_suspect(tmp_path):
    root = tmp_path / "logs"
    old, attempt = log_of(root, item__state="done", outcome="done")
    young, _ = log_of(root, age_days=29, item__state="done", outcome="done")
    again, _ = log_of(root, item__state="ready", outcome="failed")
    quarantined, _ = log_of(root, item__state="quarantined", outcome="failed")
    evidence, of_suspect = log_of(root, item__state="done", outcome="done")
    OutputFactory(attempt=of_suspect, measurement_set__is_suspect=True)
    foreign = old.with_name("999999.1.log")
    foreign.write_text("of nobody")
    os.utime(foreign, (0, 0))
    (gone,) = run(Policy.LOGS, now=NOW)
    assert (gone.name, gone.size_bytes) == (old.name, 10)
    assert not old.exists()
    attempt.refresh_from_db()
    assert attempt.log_path == ""
    assert all(path.exists() for path in (young, again, quarantined, evidence, foreign))
    assert AuditEntry.objects.get(action="log.delete").details == {"logs": [old.name], "size_bytes": 10}
    whys = {one.name: one.why_kept for one in look(policies=[Policy.LOGS], now=NOW)}
    assert whys == {
        again.name: "its item is not at its end",
        quarantined.name: "its item is quarantined",
        evidence.name: "what the attempt made is suspect",
        foreign.name: "no attempt of this database is known by it",
    }


def test_a_log_whose_item_was_quarantined_or_taken_up_again_since_it_was_looked_at_stays(tmp_path):
    logs = [log_of(tmp_path / "logs", item__state="done", outcome="done") for _ in range(3)]
    found = look(policies=[Policy.LOGS], now=NOW)
    for (_, attempt), state in zip(logs, ("quarantined", "ready", "done"), strict=True):
        attempt.item.state = state
        attempt.item.save()
    (gone,) = delete(candidates=found, now=NOW)
    assert [path.exists() for path, _ in logs] == [True, True, False]
    for path, attempt in logs:
        attempt.refresh_from_db()
        assert bool(attempt.log_path) == path.exists()
    assert AuditEntry.objects.get(action="log.delete").details["logs"] == [gone.name] == [logs[2][0].name]


def test_what_two_runs_have_found_is_deleted_and_told_once(tile, tmp_path):
    MeasurementFactory(image=tile.image)  # it loses its residual only
    log_of(tmp_path / "logs", item__state="done", outcome="done")
    now = in_a_year()
    found, again = (look(policies=tuple(Policy), now=now) for _ in range(2))
    assert [one.kind for one in delete(candidates=found, now=now)] == ["log", "image"]
    n_told = AuditEntry.objects.count()
    assert delete(candidates=again, now=now) == []
    assert AuditEntry.objects.count() == n_told


def test_a_log_that_a_kill_left_goes_with_the_next_run(tmp_path):
    path, attempt = log_of(tmp_path / "logs", item__state="done", outcome="done")
    attempt.log_path = ""
    attempt.save()
    run(Policy.LOGS, now=NOW)
    assert not path.exists()


# --- the command -----------------------------------------------------------------------------------------------------
def command(*options: str) -> str:
    out = StringIO()
    call_command("retention", *options, stdout=out)
    return out.getvalue()


def test_the_command_shows_what_would_go_and_why_the_rest_stays_and_deletes_only_when_told(tile, settings):
    settings.CONTIMG_KEEP_LOGS_DAYS = 0
    CalibrationTable.objects.update(is_retired=False)
    ReviewFactory(image=None, calibration_table=tile.table)
    said = command()
    assert "logs of attempts: kept for ever, CONTIMG_KEEP_LOGS_DAYS is 0" in said
    assert f"image {tile.image.pk} {tile.image.name}: {tile.image.path}" in said
    assert f"1 stay, 0.000 GB: calibration tables are solved with it (flag_table {tile.flags.pk}, ...)" in said
    assert "Nothing was deleted" in said
    assert Image.objects.filter(pk=tile.image.pk).exists()
    told = json.loads(command("--policy", "superseded", "--delete", "--json"))
    deleted = [one["id"] for one in told["candidates"] if one["is_deleted"]]
    assert deleted == [tile.image.pk, tile.calibrated.pk]
    assert told["deleted_bytes"] == 25
    assert MeasurementSet.objects.filter(pk=tile.raw.pk).exists()
