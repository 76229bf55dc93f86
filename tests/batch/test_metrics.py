from __future__ import annotations

from datetime import timedelta

import pytest
from django.utils import timezone
from prometheus_client import CollectorRegistry

from batch import metrics
from batch.models import Item
from tests.factories import (
    AlertFactory,
    AttemptFactory,
    ComparisonFactory,
    ImageFactory,
    ItemFactory,
    PauseFactory,
    SubbandGroupFactory,
    WorkerFactory,
)

pytestmark = pytest.mark.django_db


def values():
    """Every sample that a scrape would have now, by name and labels."""
    registry = CollectorRegistry()
    registry.register(metrics.Pipeline())
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in registry.collect()
        for sample in family.samples
    }


def test_an_empty_service_says_what_it_knows_and_nothing_else():
    found = values()
    assert found["contimg_database_up",] == 1
    assert found["contimg_workers",] == 0
    assert ("contimg_night_flux_ratio",) not in found


def test_the_queue_is_told_by_stage_and_state_with_the_age_of_the_oldest():
    ItemFactory(stage="image", state="ready")
    ItemFactory(stage="image", state="ready")
    ItemFactory(stage="convert", state="waiting")
    Item.objects.filter(stage="image").update(changed_at=timezone.now() - timedelta(minutes=10))
    ItemFactory(stage="image", state="ready", not_before=timezone.now() + timedelta(hours=1))
    found = values()
    assert found["contimg_queue_items", "image", "ready"] == 3
    assert found["contimg_queue_items", "convert", "waiting"] == 1
    assert found["contimg_queue_age_seconds", "image"] == pytest.approx(600, abs=30)
    assert found["contimg_batches_open",] == 4


def test_workers_pauses_and_failures_are_told():
    now = timezone.now()
    WorkerFactory(name="corr01.1.a_1", host="corr01", n_processes=3, seen_at=now, stopped_at=None)
    WorkerFactory(name="corr02.1.a_1", host="corr02", seen_at=now - timedelta(minutes=9), stopped_at=None)
    PauseFactory(stage="image")
    ItemFactory(stage="convert", state="failed", error_code="bad_visibilities", finished_at=now)
    found = values()
    assert (found["contimg_workers",], found["contimg_worker_processes",], found["contimg_hosts_lost",]) == (1, 3, 1)
    assert found["contimg_pauses",] == 1
    assert found["contimg_failures_day", "convert", "bad_visibilities"] == 1


def test_a_watch_that_leaves_the_work_to_others_is_no_worker_and_hides_no_lost_one():
    silent = timezone.now() - timedelta(minutes=9)
    WorkerFactory(name="corr01.1.a_1", host="corr01", n_processes=0)
    WorkerFactory(name="corr01.2.a_1", host="corr01", n_processes=2, seen_at=silent)
    WorkerFactory(name="corr02.1.a_1", host="corr02", n_processes=0, seen_at=silent)
    found = values()
    assert (found["contimg_workers",], found["contimg_hosts_lost",]) == (0, 1)


def test_what_was_tried_in_the_last_hour_is_told_as_it_is_now():
    now = timezone.now()
    item = ItemFactory(stage="image", state="failed")
    for ago in (timedelta(minutes=9), timedelta(minutes=5)):
        AttemptFactory(item=item, outcome="failed", finished_at=now - ago)
    AttemptFactory(item__stage="image", item__state="done", finished_at=now - timedelta(minutes=59))
    AttemptFactory(item__stage="image", item__state="done", finished_at=now - timedelta(minutes=61))
    found = values()
    assert found["contimg_items_hour", "image", "failed"] == 1
    assert found["contimg_items_hour", "image", "done"] == 1


def test_the_room_is_told_of_every_folder_that_is_written():
    found = values()
    assert {root: found["contimg_disk_free_bytes", root] > 0 for root in ("products", "var")} == {
        "products": True, "var": True,
    }  # fmt: skip


def test_the_latest_night_is_told_by_medians_and_grades():
    for rms, ratio, grade in ((1e-3, 0.9, "good"), (2e-3, 1.0, "good"), (6e-3, 1.3, "poor")):
        image = ImageFactory(rms_jy_per_beam=rms, thermal_rms_jy_per_beam=1e-3, grade=grade)
        ComparisonFactory(image=image, flux_ratio=ratio)
    found = values()
    assert found["contimg_night_rms_jy_per_beam",] == 2e-3
    assert found["contimg_night_rms_over_thermal",] == 2
    assert found["contimg_night_flux_ratio",] == 1.0
    assert (found["contimg_night_images", "good"], found["contimg_night_images", "poor"]) == (2, 1)
    assert found["contimg_realtime_factor",] == pytest.approx(3 * 309 / 3600)
    assert found["contimg_rows", "images"] == 3


def test_what_came_last_is_a_time():
    group = SubbandGroupFactory()
    assert values()["contimg_last_file_timestamp_seconds",] == group.last_file_at.timestamp()


def test_alerts_that_nobody_has_seen_are_told():
    AlertFactory()
    assert values()["contimg_alerts_open",] == 1


def test_a_scrape_costs_the_same_whatever_there_is(django_assert_max_num_queries):
    with django_assert_max_num_queries(40):
        values()
    for _ in range(20):
        ImageFactory()
        ItemFactory(stage="photometry", state="ready")
        WorkerFactory()
    with django_assert_max_num_queries(40):
        values()
