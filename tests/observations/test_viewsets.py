from __future__ import annotations

from datetime import UTC, datetime

import pytest

from tests.factories import (
    AppliedTableFactory,
    CalibratedSetFactory,
    MeasurementSetFactory,
    SubbandFileFactory,
    SubbandGroupFactory,
)


@pytest.mark.django_db
def test_a_group_names_its_current_raw_measurement_set_and_no_other(api):
    group = SubbandGroupFactory()
    url = "/api/v1/subband-groups/"
    assert api.get(url).json()["results"][0]["measurement_set"] is None
    MeasurementSetFactory(group=group, is_current=False)
    raw = MeasurementSetFactory(group=group)
    calibrated = CalibratedSetFactory(calibrated_from=raw)
    (row,) = api.get(url).json()["results"]
    assert row["measurement_set"] == raw.pk
    detail = api.get(f"{url}{group.pk}/").json()
    assert detail["measurement_set"] == raw.pk
    assert {made["id"] for made in detail["measurement_sets"] if made["is_current"]} == {raw.pk, calibrated.pk}


@pytest.mark.django_db
def test_a_group_says_which_files_and_subbands_it_has(api):
    start = datetime(2026, 3, 1, 6, tzinfo=UTC)
    group = SubbandGroupFactory(
        started_at=start, n_files=2, n_subbands=1, missing_subbands=list(range(1, 16)), duplicate_subbands=[0]
    )
    SubbandFileFactory.create_batch(2, group=group, subband=0)
    detail = api.get(f"/api/v1/subband-groups/{group.pk}/").json()
    assert detail["missing_subbands"] == list(range(1, 16))
    assert (detail["duplicate_subbands"], detail["is_overfull"], detail["is_complete"]) == ([0], True, False)
    assert [file["subband"] for file in detail["files"]] == [0, 0]
    assert [path.rpartition("/")[2] for path in detail["duplicate_files"]] == [
        path.rpartition("/")[2] for path in sorted(file["relative_path"] for file in detail["files"])
    ]
    assert not any(file["relative_path"].startswith("/") for file in detail["files"])
    assert detail["mjd"] == pytest.approx(61100.25 + 154.5 / 86400)  # its middle


@pytest.mark.django_db
def test_a_calibrated_set_names_the_tables_applied_to_it(api):
    applied = AppliedTableFactory()
    detail = api.get(f"/api/v1/measurement-sets/{applied.measurement_set.pk}/").json()
    assert detail["tables_applied"] == [
        {"id": applied.table.pk, "kind": "B", "set_name": applied.table.set_name, "grade": "good"}
    ]
    assert detail["calibrated_from"] == applied.measurement_set.calibrated_from_id
    assert (detail["is_calibrated"], detail["antennas"]) == (True, ["pad1", "pad2", "pad3"])
    raw = api.get(f"/api/v1/measurement-sets/{detail['calibrated_from']}/").json()
    assert [made["id"] for made in raw["calibrated_sets"]] == [applied.measurement_set.pk]
