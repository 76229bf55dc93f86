from __future__ import annotations

from xml.etree import ElementTree

import pytest
from django.contrib.auth.models import Group
from rest_framework.test import APIClient

from tests.factories import EpochFactory, ImageFactory, MeasurementSetFactory
from tests.provenance.chains import make_chain

pytestmark = pytest.mark.django_db


@pytest.fixture
def operator(django_user_model) -> APIClient:
    client = APIClient()
    user = django_user_model.objects.create_user("ops")
    user.groups.add(Group.objects.get(name="operators"))
    client.force_login(user)
    return client


@pytest.mark.parametrize(
    ("address", "of"),
    [
        ("images", lambda chain: chain.tiles[0]),
        ("measurement-sets", lambda chain: chain.calibrated[0]),
        ("calibration-tables", lambda chain: chain.tables[0]),
        ("subband-groups", lambda chain: chain.groups[0]),
    ],
)
def test_a_product_shows_its_graph_its_picture_and_its_impact(api, address, of):
    chain = make_chain(2)
    base = f"/api/v1/{address}/{of(chain).pk}"
    graph = api.get(f"{base}/provenance/").json()
    assert {"kind": "image", "id": chain.mosaic.pk} in [
        {key: node[key] for key in ("kind", "id")} for node in graph["nodes"]
    ]
    assert set(graph["edges"][0]) == {"from", "to", "relation"}
    picture = api.get(f"{base}/provenance.svg")
    assert picture["Content-Type"] == "image/svg+xml"
    assert ElementTree.fromstring(picture.content).tag.endswith("svg")  # noqa: S314 - our own
    assert api.get(f"{base}/impact/").json()["counts"]["image"] >= 2
    assert api.get(f"/api/v1/{address}/{2**40}/provenance/").status_code == 404
    assert api.get(f"{base}/provenance/?depth=2").json()["errors"][0]["code"] == "unknown_parameter"


def test_an_epoch_has_the_graph_of_its_current_mosaic(api):
    chain = make_chain(2)
    epoch, image = f"/api/v1/epochs/{chain.mosaic.mosaic_of_id}/", f"/api/v1/images/{chain.mosaic.pk}/"
    for of in ("provenance/", "provenance.svg", "impact/"):
        assert api.get(epoch + of).content == api.get(image + of).content
    assert api.get(f"/api/v1/epochs/{EpochFactory().pk}/provenance/").status_code == 404
    assert api.get(f"/api/v1/epochs/{2**40}/provenance/").status_code == 404


def test_a_name_from_a_file_is_text_in_the_picture(api):
    image = ImageFactory(kind="external", measurement_set=None, name='<script>alert("1")</script>&')
    picture = api.get(f"/api/v1/images/{image.pk}/provenance.svg").content
    assert b"<script" not in picture
    assert ElementTree.fromstring(picture) is not None  # noqa: S314 - our own


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("antenna=pad1", 200),
        ("antenna=pad9", 400),
        ("observed_from=2026-03-01T00:00:00Z&observed_until=2026-03-02T00:00:00Z", 200),
        ("software=ducc0&version=0.42", 200),
        ("software=ducc0&version=0.43", 400),
        ("", 400),
        ("software=ducc0", 400),
        ("software=ducc0&version=1&antenna=3", 400),
        ("observed_from=yesterday", 400),
        ("table=3", 400),
        ("antenna=", 400),
    ],
)
def test_an_impact_is_asked_of_one_thing(api, query, status):
    MeasurementSetFactory(antennas=["pad1"], versions={"ducc0": "0.42"})
    assert api.get(f"/api/v1/impact/?{query}").status_code == status


def test_a_quarantine_over_http(operator):
    chain = make_chain(2)
    body = {"kind": "calibration_table", "id": chain.tables[0].pk, "reason": "bad"}
    made = operator.post("/api/v1/quarantines/", body)
    assert made.status_code == 201
    address = f"/api/v1/quarantines/{made.json()['id']}/"
    assert made.json()["product"] == {"kind": body["kind"], "id": body["id"], "name": str(chain.tables[0])}
    assert operator.post("/api/v1/quarantines/", body).json()["code"] == "already_quarantined"
    assert operator.get(f"/api/v1/images/{chain.tiles[0].pk}/").json()["is_suspect"] is True
    planned = operator.get(f"{address}plan/").json()
    assert (planned["tiles"], planned["epochs"]) == ([], [chain.mosaic.mosaic_of_id])
    assert len(planned["not_rebuilt"]) == 2
    assert len(operator.post(f"{address}reprocess/").json()["batches"]) == 1
    assert operator.post(f"{address}lift/").json()["lifted_at"]
    assert operator.post(f"{address}lift/").json()["code"] == "already_lifted"
    assert operator.post(f"{address}reprocess/").json()["code"] == "nothing_to_rebuild"


@pytest.mark.parametrize(
    "body",
    [{}, {"kind": "catalogue", "id": 1, "reason": "x"}, {"kind": "image", "id": "1", "reason": "x"},
     {"kind": "image", "id": 2**63, "reason": "x"}, {"kind": "image", "id": 1, "reason": ""}, [], {"kind": 1}],
)  # fmt: skip
def test_what_a_quarantine_cannot_be_of_is_refused(operator, body):
    assert operator.post("/api/v1/quarantines/", body).status_code == 400
