from __future__ import annotations

import pytest

from qa.models import SubjectKind
from tests.factories import (
    AlertFactory,
    AssessmentFactory,
    CalibrationTableFactory,
    EpochFactory,
    FindingFactory,
    RuleFactory,
)

URL = "/api/v1/assessments/"


def ids(response) -> set[int]:
    assert response.status_code == 200, response.content
    return {row["id"] for row in response.json()["results"]}


@pytest.mark.django_db
def test_a_verdict_names_its_subject_and_policy(api):
    of_image = AssessmentFactory()
    of_table = AssessmentFactory(image=None, calibration_table=CalibrationTableFactory())
    rows = {row["id"]: row for row in api.get(URL).json()["results"]}
    assert rows[of_image.pk]["subject"] == {"kind": "image", "id": of_image.image_id}
    assert rows[of_table.pk]["subject"] == {"kind": "calibration_table", "id": of_table.calibration_table_id}
    assert rows[of_image.pk]["policy"] == {"name": "test", "version": of_image.policy.version}
    for kind, row in [("image", of_image), ("calibration_table", of_table)]:
        assert ids(api.get(URL, {"subject_kind": kind})) == {row.pk}
    assert ids(api.get(URL, {"subject_kind": ",".join(SubjectKind.values)})) == {of_image.pk, of_table.pk}
    assert ids(api.get(URL, {"image": of_image.image_id})) == {of_image.pk}
    of_epoch = AssessmentFactory(image=None, epoch=EpochFactory())
    assert ids(api.get(URL, {"epoch": of_epoch.epoch_id})) == {of_epoch.pk}


@pytest.mark.django_db
def test_verdicts_are_found_by_the_rule_that_objected(api):
    objected = FindingFactory(rule="noise", outcome="fail").assessment
    FindingFactory(rule="noise", outcome="pass")
    FindingFactory(rule="beam", outcome="warn")
    assert ids(api.get(URL, {"rule": "noise"})) == {objected.pk}


@pytest.mark.django_db
def test_the_detail_has_every_finding_and_metric(api):
    finding = FindingFactory()
    detail = api.get(f"{URL}{finding.assessment_id}/").json()
    assert detail["metrics"] == {"rms_over_thermal": 1.25}
    assert detail["findings"] == [
        {
            "rule": "noise", "metric": "rms_over_thermal", "value": 1.25, "limit": 1.8, "comparison": "gt",
            "outcome": "pass", "grade": "marginal", "reason": "healthy data come out at 1.5",
        }
    ]  # fmt: skip


@pytest.mark.django_db
def test_a_policy_shows_its_rules(api):
    rule = RuleFactory()
    detail = api.get(f"/api/v1/policies/{rule.policy_id}/").json()
    assert [(row["name"], row["limit"]) for row in detail["rules"]] == [(rule.name, 1.8)]


@pytest.mark.django_db
def test_an_alert_is_acknowledged_and_silenced_over_http(administrator):
    alert, other = AlertFactory(), AlertFactory()
    address = f"/api/v1/alerts/{alert.pk}/"
    answer = administrator.post(f"{address}acknowledge/", {"note": "a new correlator"})
    assert answer.status_code == 200
    assert (answer.json()["acknowledged_by"], answer.json()["note"]) == ("root", "a new correlator")
    assert administrator.post(f"{address}silence/", {"until": "2999-01-01T00:00:00Z"}).status_code == 200
    assert administrator.get(address).json()["silenced_until"] == "2999-01-01T00:00:00Z"
    unseen = administrator.get("/api/v1/alerts/", {"acknowledged_at__isnull": "true"}).json()["results"]
    assert [row["id"] for row in unseen] == [other.pk]


@pytest.mark.django_db
@pytest.mark.parametrize("note", [1, True, ["seen"], {"by": "me"}, "a\x00b"])
def test_a_note_that_is_no_text_is_refused(administrator, note):
    alert = AlertFactory()
    answer = administrator.post(f"/api/v1/alerts/{alert.pk}/acknowledge/", {"note": note})
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (400, "note")
