"""Every list, detail, view and change takes the same number of queries at 1 row and at 30, within
tests/query_budgets.toml."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
import zeal
from django.apps import apps
from django.conf import settings
from django.contrib import admin
from django.db import connection, transaction
from django.db.models import F
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from batch import events
from calibration.models import CalibrationTable
from contimg.models import Installation
from contimg.urls import router
from tests import factories
from tests.access import test_matrix as matrix

BUDGETS = tomllib.loads(Path(__file__).with_name("query_budgets.toml").read_text())
RESOURCES = [basename for _, _, basename in router.registry]
FEW, MANY = 1, 30


def make_rows(basename: str, n: int) -> int:
    """`n` rows of the resource; the id of the last, which has `n` of everything that hangs on it."""
    row = {
        "subband-group": group_with_files,
        "measurement-set": set_with_tables,
        "calibrator": lambda n: factories.CalibratorFactory(),
        "calibration-table": table_with_verdict,
        "antenna-flag": lambda n: factories.AntennaFlagFactory(),
        "image": image_with_tables_and_verdict,
        "epoch": epoch_with_tiles,
        "source": source_with_measurements,
        "measurement": lambda n: factories.MeasurementFactory(),
        "reference-catalogue": catalogue_with_sources,
        "reference-source": lambda n: factories.ReferenceSourceFactory(),
        "assessment": assessment_with_findings,
        "policy": policy_with_rules,
        "review": lambda n: factories.ReviewFactory(),
        "batch": lambda n: open_batch(),
        "item": item_with_attempts,
        "pause": lambda n: factories.PauseFactory(),
        "worker": lambda n: factories.WorkerFactory(),
        "alert": lambda n: factories.AlertFactory(),
        "quarantine": lambda n: factories.QuarantineFactory(),
        "audit": lambda n: factories.AuditEntryFactory(),
    }[basename]
    return [row(n) for _ in range(n)][-1].pk


def group_with_files(n):
    group = factories.SubbandGroupFactory()
    factories.SubbandFileFactory.create_batch(n, group=group)
    raw = factories.MeasurementSetFactory(group=group)
    factories.CalibratedSetFactory(calibrated_from=raw)
    return group


def set_with_tables(n):
    calibrated = factories.CalibratedSetFactory()
    factories.AppliedTableFactory.create_batch(min(n, 3), measurement_set=calibrated)
    return calibrated


def table_with_verdict(n):
    table = factories.CalibrationTableFactory()
    verdict = factories.AssessmentFactory(image=None, calibration_table=table)
    factories.FindingFactory.create_batch(min(n, 3), assessment=verdict)
    factories.ReviewFactory.create_batch(min(n, 3), image=None, calibration_table=table)
    return table


def image_with_tables_and_verdict(n):
    image = factories.ImageFactory(measurement_set=set_with_tables(n))
    factories.FindingFactory.create_batch(min(n, 3), assessment=factories.AssessmentFactory(image=image))
    factories.ReviewFactory.create_batch(min(n, 3), image=image)
    factories.MosaicTileFactory.create_batch(min(n, 2), mosaic=image)  # still a page of images
    return image


def epoch_with_tiles(n):
    epoch = factories.EpochFactory()
    mosaic = factories.MosaicFactory(mosaic_of=epoch)
    for _ in range(min(n, 3)):
        group = factories.SubbandGroupFactory(started_at=epoch.started_at)
        tile = factories.ImageFactory(measurement_set__calibrated_from__group=group)
        factories.MosaicTileFactory(mosaic=mosaic, tile=tile)
    return epoch


def source_with_measurements(n):
    source = factories.SourceFactory()
    factories.MeasurementFactory.create_batch(min(n, 3), source=source)
    return source


def catalogue_with_sources(n):
    catalogue = factories.ReferenceCatalogueFactory()
    factories.ReferenceSourceFactory.create_batch(n, catalogue=catalogue)
    return catalogue


def assessment_with_findings(n):
    return factories.FindingFactory.create_batch(min(n, 3), assessment=factories.AssessmentFactory())[0].assessment


def policy_with_rules(n):
    return factories.RuleFactory.create_batch(n, policy=factories.PolicyFactory())[0].policy


def open_batch():
    batch = factories.BatchFactory(stage="process", n_ready=6, n_total=6)
    done = factories.ItemFactory(batch=batch, state="done", attempt=1)
    factories.AttemptFactory(item=done, outcome="done", duration_s=1.0, input_bytes=10)
    return batch


def item_with_attempts(n):
    item = factories.ItemFactory()
    factories.AttemptFactory.create_batch(min(n, 3), item=item)
    return item


def queries_of(client, url: str) -> int:
    with zeal.zeal_context(), CaptureQueriesContext(connection) as queries:  # zeal raises on reading row by row
        response = client.get(url)
    assert response.status_code == 200, response.content
    return len(queries)


def test_every_resource_has_a_budget():
    assert set(BUDGETS["list"]) == set(BUDGETS["detail"]) == set(RESOURCES)


@pytest.mark.django_db
@pytest.mark.parametrize("basename", RESOURCES)
def test_a_list_takes_as_many_queries_for_30_rows_as_for_one(administrator, basename):
    url = reverse(f"{basename}-list")
    make_rows(basename, FEW)
    few = queries_of(administrator, url)
    make_rows(basename, MANY)
    assert queries_of(administrator, url) == few
    assert few <= BUDGETS["list"][basename]
    assert len(administrator.get(url).data["results"]) > MANY


@pytest.mark.django_db
@pytest.mark.parametrize("basename", RESOURCES)
def test_a_detail_takes_as_many_queries_among_30_rows_as_alone(administrator, basename):
    few = queries_of(administrator, reverse(f"{basename}-detail", args=[make_rows(basename, FEW)]))
    many = queries_of(administrator, reverse(f"{basename}-detail", args=[make_rows(basename, MANY)]))
    assert many == few
    assert few <= BUDGETS["detail"][basename]


def another_version(image):
    factories.ImageFactory(measurement_set=image.measurement_set, is_current=False)


def another_measurement(image):
    factories.MeasurementFactory(image=image)


def another_cutout(source):
    factories.ImageFactory(ra_deg=source.ra_deg, dec_deg=source.dec_deg)


def another_neighbour(source):
    factories.SourceFactory(ra_deg=source.ra_deg, dec_deg=source.dec_deg)


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("name", "make_one", "add"),
    [
        ("image-versions", factories.ImageFactory, another_version),
        ("image-measured-measurements", factories.ImageFactory, another_measurement),
        ("source-cutouts", factories.SourceFactory, another_cutout),
        ("source-neighbours", factories.SourceFactory, another_neighbour),
    ],
)
def test_a_list_of_one_row_takes_as_many_queries_for_30_as_for_one(api, name, make_one, add):
    owner = make_one()
    url = reverse(name, args=[owner.pk])
    add(owner)
    few = queries_of(api, url)
    for _ in range(MANY):
        add(owner)
    assert queries_of(api, url) == few
    assert few <= BUDGETS["view"][name]
    assert len(api.get(url).data["results"]) > MANY


def grow(world: dict[str, Any], n: int) -> None:
    """`n` more of what the addresses of the matrix are about, and of what hangs on it."""
    for name, state in (("batch", "ready"), ("failed batch", "failed")):
        batch = world[name]
        items = factories.ItemFactory.create_batch(n, batch=batch, state=state, attempt=int(state == "failed"))
        factories.AttemptFactory(item=items[0], outcome="done", duration_s=1.0, input_bytes=10)
        counts = {column: F(column) + n for column in (f"n_{state}", "n_total")}
        type(batch).objects.filter(pk=batch.pk).update(**counts)
    for item in (world["item"], world["failed item"]):
        factories.AttemptFactory.create_batch(n, item=item, outcome="failed")
    world["free tiles"] = [world["free tile"], *factories.SubbandGroupFactory.create_batch(n)]
    world["images"] = [world["image"], *factories.ImageFactory.create_batch(n)]
    factories.AssessmentFactory.create_batch(n, policy=world["assessment"].policy)
    factories.MeasurementFactory.create_batch(n, image=world["image"])
    factories.MeasurementFactory.create_batch(n, source=world["source"])
    factories.CalibrationTableFactory.create_batch(n)
    factories.AlertFactory.create_batch(n)
    factories.ReviewFactory.create_batch(n)
    factories.QuarantineFactory.create_batch(n)
    for epoch in (world["seen epoch"], world["epoch"]):
        for _ in range(n):
            tile = factories.ImageFactory(epoch=epoch.started_at, pointing_dec_deg=epoch.dec_deg)
            factories.MosaicTileFactory(mosaic=epoch.mosaics.get(), tile=tile)


BODIES = {  # with as many subjects as there are
    ("batch-list", "post"): lambda world: {
        "stage": "convert",
        "subjects": [{"kind": "subband_group", "id": tile.pk} for tile in world["free tiles"]],
    },
    ("assessment-list", "post"): lambda world: {
        "subjects": [{"kind": "image", "id": image.pk} for image in world["images"]]
    },
}


def queries_of_request(client, name: str, method: str, world: dict[str, Any]) -> int:
    """Of what answers, and of what says only that its file is not there; it is undone afterwards."""
    write = matrix.WRITES.get((name, method), matrix.Write("", ""))
    address = matrix.address_of(name, world, write.of)
    body = matrix.QUERIES.get(name) if method == "get" else BODIES.get((name, method), write.body)(world)
    with transaction.atomic():
        with zeal.zeal_context(), CaptureQueriesContext(connection) as queries:
            answer = getattr(client, method)(address, body)
            if answer.streaming:
                b"".join(answer)
        transaction.set_rollback(True)
    is_without_file = name in matrix.NEEDS_A_FILE and answer.status_code in (404, 410)
    assert answer.status_code < 300 or is_without_file, (answer.status_code, getattr(answer, "content", b""))
    matrix.close(answer)
    return len(queries)


OF_OTHERS = {f"{basename}-{kind}" for basename in RESOURCES for kind in ("list", "detail")}
VIEWS = sorted(name for name, methods in matrix.routes().items() if "get" in methods and name not in OF_OTHERS)
CHANGES = sorted(f"{name} {method}" for name, method in matrix.WRITES)


def test_every_view_and_every_change_has_a_budget():
    assert sorted(BUDGETS["view"]) == VIEWS
    assert sorted(BUDGETS["change"]) == CHANGES


@pytest.mark.django_db
def test_a_view_or_a_change_takes_as_many_queries_among_30_rows_as_alone(administrator, monkeypatch):
    """All of them of one world, which takes longer to make than to ask, and which none of them leaves changed."""
    monkeypatch.setattr(events, "SLICE_S", 0.0)
    every = [f"{name} get" for name in VIEWS] + CHANGES
    world = matrix.make_world()

    def measured() -> dict[str, int]:
        return {asked: queries_of_request(administrator, *asked.split(), world) for asked in every}

    grow(world, FEW)
    few, n_tables = measured(), CalibrationTable.objects.count()
    grow(world, MANY)
    many, n_more_tables = measured(), CalibrationTable.objects.count() - n_tables
    budgets = {f"{name} get": n for name, n in BUDGETS["view"].items()} | BUDGETS["change"]
    assert {asked: few[asked] for asked in every if few[asked] > budgets[asked]} == {}
    assert {
        asked: (few[asked], many[asked])
        for asked in every
        if many[asked] - few[asked] > BUDGETS["each_table"].get(asked, 0) * n_more_tables
    } == {}


@pytest.mark.django_db
@pytest.mark.parametrize("make", factories.ALL, ids=lambda make: make._meta.model.__name__)
def test_the_admin_of_every_model_takes_as_many_queries_for_30_rows_as_for_one(admin_client, make):
    model = make._meta.model
    changelist = reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_changelist")
    row = make()
    few = queries_of(admin_client, changelist)
    make.create_batch(MANY)
    assert queries_of(admin_client, changelist) == few
    assert few <= BUDGETS["admin"]["changelist"]
    detail = reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_change", args=[row.pk])
    assert queries_of(admin_client, detail) <= BUDGETS["admin"]["detail"]


def test_every_model_has_an_admin_and_a_factory():
    ours = {model for model in apps.get_models() if is_ours(model)} - {Installation}  # one row, of no interest
    assert ours == {model for model in admin.site._registry if is_ours(model)}
    assert ours == {make._meta.model for make in factories.ALL}


def is_ours(model) -> bool:
    return Path(apps.get_app_config(model._meta.app_label).path).parent == Path(settings.BASE_DIR)
