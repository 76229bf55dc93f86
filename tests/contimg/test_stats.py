from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from tests import factories

pytestmark = pytest.mark.django_db
URL = "/api/v1/stats/"
NOON = datetime.fromisoformat("2026-03-20T12:00:00Z")


def test_an_empty_installation_has_zeros_and_no_days(api):
    body = api.get(URL).json()
    assert body["totals"]["images"] == {"count": 0, "count_is_estimate": False}
    assert (body["days"], body["recent_images"]) == ([], [])
    assert set(body["images_by_grade"]) == {"excellent", "good", "marginal", "poor", "unknown"}
    assert set(body["items_by_state"]) == {"waiting", "ready", "running", "done", "failed", "cancelled", "quarantined"}


def test_what_there_is_is_counted_by_state_grade_and_day(api):
    for hours, grade in ((0, "good"), (1, "good"), (2, "poor"), (-24, "marginal"), (-24 * 7, "good")):
        factories.ImageFactory(
            kind="external", measurement_set=None, grade=grade, observed_at=NOON + timedelta(hours=hours)
        )
    factories.ImageFactory(kind="external", measurement_set=None, observed_at=None, mjd=None)
    factories.ItemFactory(state="done", batch=factories.BatchFactory(n_ready=0, n_done=1, n_total=1))
    body = api.get(URL).json()
    assert body["totals"]["images"]["count"] == 6
    assert body["images_by_grade"]["good"]["count"] >= 3
    assert body["items_by_state"]["done"]["count"] == body["batches_by_state"]["done"]["count"] == 1
    assert [(day["day"], day["n_images"]) for day in body["days"][:3]] == [
        ("2026-03-20", 3), ("2026-03-19", 1), ("2026-03-18", 0),
    ]  # fmt: skip
    assert len(body["days"]) == 7
    assert body["days"][0]["by_grade"] == {"good": 2, "poor": 1}
    newest = body["recent_images"][0]
    assert newest["observed_at"] == "2026-03-20T14:00:00Z"
    assert newest == {**api.get("/api/v1/images/").json()["results"][0]}


def test_it_takes_the_same_number_of_queries_however_much_there_is(api):
    def queries() -> int:
        with CaptureQueriesContext(connection) as captured:
            api.get(URL)
        return len(captured)

    factories.ImageFactory()
    few = queries()
    factories.ImageFactory.create_batch(30)
    assert queries() == few <= 8


def test_a_parameter_means_nothing_here(api):
    assert api.get(f"{URL}?day=2026-03-20").json()["errors"][0]["field"] == "day"
