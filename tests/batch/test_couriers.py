"""Doorbells of the database's courier: one for each stage that has something to claim."""

from __future__ import annotations

import pytest
from django_tasks_db.models import DBTaskResult

from batch import couriers, transitions
from batch.services import create_batch, pause, resume
from tests.factories import SubbandGroupFactory

pytestmark = pytest.mark.django_db


def asked(stage: str) -> None:
    create_batch(stage=stage, subjects=[("subband_group", SubbandGroupFactory().pk)])


@pytest.fixture
def rung(django_capture_on_commit_callbacks):
    """The queues in which a doorbell waits after one more ring."""

    def ring() -> list[str]:
        with django_capture_on_commit_callbacks(execute=True):
            couriers.ring()
        return sorted(DBTaskResult.objects.ready().values_list("queue_name", flat=True))

    return ring


def test_one_doorbell_waits_for_each_stage_that_has_something_to_claim(rung, django_assert_num_queries):
    assert rung() == []
    for stage in ("convert", "convert", "image"):
        asked(stage)
    assert rung() == ["convert", "image"]
    with django_assert_num_queries(1):
        assert couriers._ring_in_database() is None
    assert rung() == ["convert", "image"]

    DBTaskResult.objects.all().delete()
    assert transitions.claim(worker="here", host="here", stages=["image"])
    assert rung() == ["convert"], "nothing is left to do for another"


def test_nobody_is_woken_for_what_is_paused(rung):
    asked("convert")
    asked("image")
    pause(stage="convert")
    assert rung() == ["image"]
    DBTaskResult.objects.all().delete()
    pause()
    assert rung() == []
    resume()
    assert rung() == ["convert", "image"]
