"""Images that are made and judged again on request, and tables that are to be used no more."""

from __future__ import annotations

import pytest
from django.contrib.auth.models import Group, User
from rest_framework.test import APIClient

from access.models import AuditEntry
from batch.models import Batch
from calibration.models import CalibrationTable
from tests.factories import CalibrationTableFactory, ImageFactory, MosaicFactory

pytestmark = pytest.mark.django_db


@pytest.fixture
def operator() -> APIClient:
    user = User.objects.create_user("op")
    user.groups.set(Group.objects.filter(name="operators"))
    client = APIClient(raise_request_exception=False)
    client.force_authenticate(user)
    return client


def test_a_tile_is_imaged_again_with_other_parameters(operator):
    image = ImageFactory()
    answer = operator.post(f"/api/v1/images/{image.pk}/reimage/", {"parameters": {"robust": -1.0}})
    assert answer.status_code == 201
    batch = Batch.objects.get(pk=answer.json()["id"])
    assert (batch.stage, batch.parameters["robust"], batch.owner.username) == ("image", -1.0, "op")
    assert [item.group_id for item in batch.items.all()] == [image.measurement_set.group_id]


@pytest.mark.parametrize(
    ("make", "body", "code"),
    [
        (lambda: ImageFactory(kind="external", measurement_set=None), {}, "not_made_here"),
        (MosaicFactory, {}, "not_made_here"),
        (ImageFactory, {"parameters": {"robust": 9}}, "invalid_parameter"),
        (ImageFactory, {"parameters": {"robots": 1}}, "unknown_parameter"),
        (ImageFactory, {"robust": 1}, "unknown_parameter"),
    ],
)
def test_what_cannot_be_imaged_again_is_refused_and_nothing_is_stored(operator, make, body, code):
    answer = operator.post(f"/api/v1/images/{make().pk}/reimage/", body)
    assert answer.status_code == 400
    assert code in (answer.json()["code"], *(error["code"] for error in answer.json()["errors"]))
    assert not Batch.objects.exists()


def test_images_are_judged_again_by_id_or_by_query(operator):
    image = ImageFactory(grade="good")
    by_id = operator.post("/api/v1/assessments/", {"subjects": [{"kind": "image", "id": image.pk}]})
    by_query = operator.post("/api/v1/assessments/", {"query": {"kind": "image", "grade": "good"}})
    assert [by_id.status_code, by_query.status_code] == [201, 201]
    for answer in (by_id, by_query):
        batch = Batch.objects.get(pk=answer.json()["id"])
        assert batch.stage == "assess"
        assert [item.image_id for item in batch.items.all()] == [image.pk]


@pytest.mark.parametrize("body", [{}, {"subjects": []}, {"subjects": [{"kind": "calibration_table", "id": 1}]}])
def test_nothing_or_what_the_stage_does_not_judge_is_refused(operator, body):
    assert operator.post("/api/v1/assessments/", body).status_code == 400
    assert not Batch.objects.exists()


def test_a_retired_table_is_in_use_no_more_and_the_log_says_why(operator):
    table = CalibrationTableFactory()
    url = f"/api/v1/calibration-tables/{table.pk}/retire/"
    answer = operator.post(url, {"reason": "solved in the rain"})
    assert (answer.status_code, answer.json()["is_retired"]) == (200, True)
    assert not CalibrationTable.objects.in_use().filter(pk=table.pk).exists()
    assert AuditEntry.objects.get(action="calibration_table.retire").details == {"reason": "solved in the rain"}
    again = operator.post(url, {"reason": "twice"})
    assert (again.status_code, again.json()["code"]) == (409, "already_retired")
    assert operator.post(url, {}).json()["errors"][0]["field"] == "reason"
