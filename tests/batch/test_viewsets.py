from __future__ import annotations

import json
import time
from datetime import timedelta

import pytest
from django.contrib.auth.models import Group, User
from django.db.models.functions import Now
from django.utils import timezone
from rest_framework.test import APIClient

from access.models import AuditEntry
from batch import events, transitions
from batch.models import SUBJECT_COLUMNS, Attempt, Batch, Item, Pause
from batch.serializers import NewBatchSerializer, _is_subject
from batch.services import MAX_KEY, MOST_ITEMS
from tests.factories import (
    AttemptFactory,
    BatchFactory,
    ImageFactory,
    ItemFactory,
    SubbandGroupFactory,
    WorkerFactory,
)

pytestmark = pytest.mark.django_db
BATCHES = "/api/v1/batches/"
OUTSIDE = "192.0.2.7"


@pytest.fixture
def operator() -> APIClient:
    user = User.objects.create_user("operator")
    user.groups.add(Group.objects.get(name="operators"))
    client = APIClient(raise_request_exception=False)
    client.force_authenticate(user)
    return client


def asked(*tiles, **more):
    return {"stage": "convert", "subjects": [{"kind": "subband_group", "id": tile.pk} for tile in tiles], **more}


# --- asking for work -------------------------------------------------------------------------------------------------
def test_a_batch_is_made_with_its_items_owner_and_audit(operator):
    tiles = SubbandGroupFactory.create_batch(2)
    response = operator.post(BATCHES, asked(*tiles, stage="process", parameters={"robust": -1}, priority=3))
    assert response.status_code == 201, response.json()
    made = response.json()
    assert (made["owner"], made["state"], made["priority"]) == ("operator", "ready", 3)
    assert made["parameters"]["robust"] == -1
    assert made["counts"] == {
        "waiting": 10, "ready": 2, "running": 0, "done": 0, "failed": 0, "cancelled": 0, "quarantined": 0, "total": 12,
    }  # fmt: skip
    assert AuditEntry.objects.filter(action="batch.create", object_id=made["id"], actor_name="operator").count() == 1
    items = operator.get(f"{BATCHES}{made['id']}/items/").json()["results"]
    assert [item["stage"] for item in items[:3]] == ["convert", "convert", "calibrate"]
    assert operator.get(f"{BATCHES}{made['id']}/items/?state=ready").json()["results"] == items[:2]


def test_a_query_chooses_the_subjects(operator):
    SubbandGroupFactory.create_batch(3)
    response = operator.post(BATCHES, {"stage": "convert", "query": {"kind": "subband_group", "n_subbands__gte": 1}})
    assert response.status_code == 201, response.json()
    assert response.json()["counts"]["total"] == 3
    assert response.json()["query"] == {"kind": "subband_group", "n_subbands__gte": 1}


def test_the_same_key_gives_the_same_batch_and_another_request_with_it_is_refused(operator):
    tile, other = SubbandGroupFactory.create_batch(2)
    first = operator.post(BATCHES, asked(tile, idempotency_key="a"))
    again = operator.post(BATCHES, asked(tile, idempotency_key="a"))
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json()["id"] == again.json()["id"]
    conflict = operator.post(BATCHES, asked(other, idempotency_key="a"))
    assert (conflict.status_code, conflict.json()["code"]) == (409, "idempotency_conflict")
    assert Batch.objects.count() == 1


def subject(tile, kind="subband_group"):
    return {"kind": kind, "id": tile.pk}


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda tile: {"stage": "bake"}, "unknown_stage"),
        (lambda tile: {"subjects": []}, "no_subjects"),
        (lambda tile: {"subjects": [subject(tile), subject(tile)]}, "duplicate_subject"),
        (lambda tile: {"subjects": [subject(tile, "image")]}, "wrong_subject_kind"),
        (lambda tile: {"subjects": [{"kind": "subband_group", "id": 10**9}]}, "subject_missing"),
        (lambda tile: {"stage": "image", "parameters": {"robust": 3}}, "invalid_parameter"),
        (lambda tile: {"stage": "image", "parameters": {"size_px": 8192, "pixel_arcsec": 60}}, "invalid_parameter"),
        (lambda tile: {"stage": "process", "parameters": {"pixel_arcsec": 60.0, "size_px": 4862}}, "invalid_parameter"),
        (lambda tile: {"parameters": {"robust": 1}}, "unknown_parameter"),
        (lambda tile: {"query": {"kind": "subband_group"}}, "invalid_query"),
        (lambda tile: {"subjects": None, "query": {"kind": "subband_group", "x": 1}}, "invalid_input"),
        (lambda tile: {"priority": 101}, "invalid_parameter"),
        (lambda tile: {"subjects": "all"}, "invalid_input"),
        (lambda tile: {"subjects": [{"kind": "subband_group", "id": 2**64}]}, "invalid_input"),
        (lambda tile: {"subjects": [{"kind": "subband_group", "id": str(tile.pk)}]}, "invalid_input"),
        (lambda tile: {"subjects": [{"kind": "subband_group", "id": True}]}, "invalid_input"),
        (lambda tile: {"priority": "1"}, "invalid_input"),
        (lambda tile: {"stage": "process", "parameters": {"lenient": "yes"}}, "invalid_parameter"),
        (lambda tile: {"stage": "process", "parameters": {"lenient": 1}}, "invalid_parameter"),
        (lambda tile: {"stage": "image", "parameters": {"size_px": "512"}}, "invalid_parameter"),
        (lambda tile: {"stage": "image", "parameters": {"robust": True}}, "invalid_parameter"),
    ],
)
def test_a_wrong_request_is_refused_with_one_code_and_nothing_is_stored(operator, change, code):
    tile = SubbandGroupFactory()
    response = operator.post(BATCHES, asked(tile) | change(tile))
    assert (response.status_code, response.json()["code"]) == (400, code), response.json()
    assert (Batch.objects.count(), Item.objects.count(), AuditEntry.objects.count()) == (0, 0, 0)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("is_complete", None),
        ("is_complete", ""),
        ("is_complete", []),
        ("is_complete", [True]),
        ("observed_at__gte", None),
        ("observed_at__gte", " "),
        ("observed_at__gte", 7),
        ("observed_at__gte", ["2026-03-01T00:00:00Z"]),
        ("observed_at__gte", {"a": 1}),
        ("n_subbands", 10**400),
    ],
)
def test_a_query_with_a_filter_that_is_empty_or_not_readable_is_refused_by_its_name(operator, name, value):
    SubbandGroupFactory()
    response = operator.post(BATCHES, {"stage": "convert", "query": {"kind": "subband_group", name: value}})
    assert (response.status_code, response.json()["code"]) == (400, "invalid_query"), response.json()
    assert response.json()["detail"].startswith(f"{name}: ")
    assert [(e["field"], e["code"]) for e in response.json()["errors"]] == [(f"query.{name}", "invalid_query")]
    assert Batch.objects.count() == 0


def test_a_query_has_several_choices_as_a_list_or_with_commas(operator):
    for grade in ("good", "marginal", "poor"):
        ImageFactory(grade=grade)
    for choices in (["good", "marginal"], "good,marginal"):
        response = operator.post(BATCHES, {"stage": "assess", "query": {"kind": "image", "grade": choices}})
        assert response.json()["counts"]["total"] == 2, response.json()


@pytest.mark.parametrize(
    ("more", "fields"),
    [
        ({"parameters": {"niter": -1, "robust": 9}}, ["parameters.robust", "parameters.niter"]),
        ({"parameters": {"n_iter": 1}}, ["parameters.n_iter"]),
        ({"parameters": {"size_px": 8192, "pixel_arcsec": 60}}, ["parameters.size_px"]),
        ({"priority": 101}, ["priority"]),
        ({"idempotency_key": ""}, ["idempotency_key"]),
        ({"subjects": None, "query": {"kind": "subband_group", "is_complete": "x", "n_subbands": "y"}},
         ["query.n_subbands", "query.is_complete"]),
        ({"subjects": None, "query": {"kind": "subband_group", "colour": 1, "shape": 2}},
         ["query.colour", "query.shape"]),
    ],
)  # fmt: skip
def test_all_that_is_wrong_with_a_batch_is_said_by_field(operator, more, fields):
    body = {**asked(SubbandGroupFactory()), "stage": "process", **more}
    answer = operator.post(BATCHES, {name: value for name, value in body.items() if value is not None})
    assert answer.status_code == 400
    assert sorted(error["field"] for error in answer.json()["errors"]) == sorted(fields), answer.json()


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        (BATCHES, {"prioritty": 5}, "prioritty"),
        (BATCHES, {"subjects": [{"kind": "subband_group", "id": 1, "stage": "image"}]}, "subjects.0.stage"),
        (f"{BATCHES}1/priority/", {"priority": 5, "stage": "image"}, "stage"),
        ("/api/v1/pauses/", {"stage": "image", "until": "tomorrow"}, "until"),
    ],
)
def test_a_key_of_a_body_that_is_unknown_is_refused_by_its_name(operator, path, body, field):
    tile = SubbandGroupFactory()
    BatchFactory(pk=1)
    response = operator.post(path, asked(tile) | body if path == BATCHES else body)
    assert response.status_code == 400, response.json()
    assert [(e["field"], e["code"]) for e in response.json()["errors"]] == [(field, "unknown_parameter")]
    assert (Batch.objects.count(), Pause.objects.count()) == (1, 0)


@pytest.mark.parametrize("kind", SUBJECT_COLUMNS)
@pytest.mark.parametrize("key", [1, MAX_KEY, 0, MAX_KEY + 1, -1, True, 1.0, "1", None])
def test_what_needs_no_serializer_is_what_it_gives_back_as_it_is(kind, key):
    subject = {"kind": kind, "id": key}
    serializer = NewBatchSerializer.Subject(data=subject)
    assert _is_subject(subject) == (serializer.is_valid() and type(key) is int)
    if _is_subject(subject):
        assert serializer.validated_data == subject


def test_of_many_wrong_subjects_the_first_are_named_and_too_many_are_not_looked_at(operator):
    right, wrong = {"kind": "subband_group", "id": 1}, {"kind": ["image"], "id": 1}
    response = operator.post(BATCHES, {"stage": "convert", "subjects": [right, *[wrong] * 50_000]})
    assert response.status_code == 400
    assert [error["field"] for error in response.json()["errors"]] == [f"subjects.{n}.kind" for n in range(1, 21)]

    response = operator.post(BATCHES, {"stage": "convert", "subjects": [wrong] * 100_001})
    assert [error["field"] for error in response.json()["errors"]] == ["subjects"]
    assert "100000" in response.json()["detail"]


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ('{"stage": "image", "query": {"kind": "measurement_set", "name": "\\ud800"}}', 400, "parse_error"),
        ('{"stage": "\\ud800", "subjects": []}', 400, "parse_error"),
        ("[" * 20_000, 400, "parse_error"),
        ("[" * 20_000 + "]" * 20_000, 400, "parse_error"),
        ('{"query": ' + "[" * 100 + "]" * 100 + "}", 400, "parse_error"),
        ('{"priority": ' + "9" * 5000 + "}", 400, "parse_error"),
        ('{"priority": NaN}', 400, "parse_error"),
        ('{"stage": "image", "stage": "convert"}', 400, "parse_error"),
        ('\ufeff{"stage": "image"}', 400, "parse_error"),
        ('{"stage": "convert", "query": {"kind": "subband_group", "observed_at__gte": 1e400}}', 400, "invalid_query"),
        (" " * 8_000_001, 413, "request_too_large"),
    ],
    ids=[
        "surrogate",
        "surrogate stage",
        "unclosed",
        "deep",
        "rather deep",
        "long number",
        "NaN",
        "twice",
        "mark",
        "infinite",
        "large",
    ],
)
def test_a_body_that_nobody_can_mean_is_refused(operator, body, status, code):
    response = operator.post(BATCHES, body, content_type="application/json")
    assert (response.status_code, response.json()["code"]) == (status, code), response.json()
    assert Batch.objects.count() == 0


def test_as_many_subjects_as_a_batch_takes_fit_into_a_body(operator):
    subjects = [{"kind": "measurement_set", "id": 10**9 + n} for n in range(MOST_ITEMS)]
    response = operator.post(BATCHES, {"stage": "calibrate", "subjects": subjects})
    assert (response.status_code, response.json()["code"]) == (400, "subject_missing"), response.json()


def test_who_may_not_operate_changes_nothing(api):
    batch = BatchFactory()
    ItemFactory(batch=batch)
    reader = APIClient(raise_request_exception=False)
    reader.force_authenticate(User.objects.create_user("reader"))
    for client, status in ((api, 401), (reader, 403)):
        for path in ("", f"{batch.pk}/cancel/", f"{batch.pk}/retry/", f"{batch.pk}/priority/"):
            assert client.post(f"{BATCHES}{path}", {}).status_code == status
        assert client.post("/api/v1/pauses/", {"stage": "image"}).status_code == status
    assert Item.objects.get().state == "ready"


# --- steering --------------------------------------------------------------------------------------------------------
def test_cancel_and_retry_of_batch_and_item_and_what_has_nothing_left(operator):
    pk = operator.post(BATCHES, asked(*SubbandGroupFactory.create_batch(2))).json()["id"]
    assert operator.post(f"{BATCHES}{pk}/retry/").json()["code"] == "nothing_to_retry"
    assert operator.post(f"{BATCHES}{pk}/cancel/").json()["state"] == "cancelled"
    again = operator.post(f"{BATCHES}{pk}/cancel/")
    assert (again.status_code, again.json()["code"]) == (409, "nothing_to_cancel")
    item = Item.objects.first()
    assert operator.post(f"/api/v1/items/{item.pk}/retry/").json()["state"] == "ready"
    assert operator.post(f"/api/v1/items/{item.pk}/cancel/").json()["state"] == "cancelled"
    assert operator.post(f"{BATCHES}{pk}/retry/").json()["counts"]["ready"] == 2
    assert operator.post(f"{BATCHES}{pk}/priority/", {"priority": 7}).json()["priority"] == 7
    assert set(Item.objects.values_list("priority", flat=True)) == {7}


def test_what_is_retried_has_the_priority_that_its_batch_has_now(operator):
    batch = BatchFactory(stage="convert", n_ready=0, n_failed=1)
    item = ItemFactory(batch=batch, state="failed", attempt=1)
    assert operator.post(f"{BATCHES}{batch.pk}/priority/", {"priority": 5}).status_code == 200
    assert operator.post(f"{BATCHES}{batch.pk}/retry/").status_code == 200
    item.refresh_from_db()
    assert (item.state, item.priority) == ("ready", 5)


def test_a_cancel_that_is_repeated_while_it_is_under_way_succeeds_and_asks_nothing_new(operator):
    pk = operator.post(BATCHES, asked(SubbandGroupFactory())).json()["id"]
    held = transitions.claim(worker="elsewhere.1.2", host="elsewhere")
    item = f"/api/v1/items/{held.item_id}/cancel/"
    for path in (f"{BATCHES}{pk}/cancel/", f"{BATCHES}{pk}/cancel/", item):
        answer = operator.post(path)
        assert (answer.status_code, answer.json()["state"]) == (200, "running")
    assert AuditEntry.objects.filter(action__endswith=".cancel").count() == 1
    transitions.cancelled(held)
    for path in (f"{BATCHES}{pk}/cancel/", item):
        assert operator.post(path).json()["code"] == "nothing_to_cancel"


@pytest.mark.parametrize("given", ["101", "-101", "999999999", "5", "", "high", "9" * 20])
def test_in_the_admin_a_priority_is_set_or_its_refusal_shown(client, given):
    client.force_login(User.objects.create_superuser("root"))
    batches = BatchFactory.create_batch(2)
    items = [ItemFactory(batch=batch) for batch in batches]
    page = client.post(
        "/admin/batch/batch/",
        {"action": "change_priority", "priority": given, "_selected_action": [batch.pk for batch in batches]},
        follow=True,
    )  # fmt: skip
    said = [str(message) for message in page.context["messages"]]
    if given == "5":
        assert said == ["2 batches have the priority 5."]
    elif given.lstrip("-").isdigit() and len(given) < 10:
        assert said[0] == f"A priority is from -100 to 100, not {given}. [invalid_parameter]"
    else:
        assert said == ["Give a priority from -100 to 100."]
    assert {item.priority for item in Item.objects.filter(pk__in=[i.pk for i in items])} == {5 if given == "5" else 0}


def test_a_stream_tells_items_whose_priority_was_changed(operator):
    item = ItemFactory()
    look = events._Look(item.batch_id, events.Cursor())
    list(look.events(time.monotonic() + 5))
    Item.objects.update(changed_at=timezone.now() - timedelta(hours=1))
    operator.post(f"{BATCHES}{item.batch_id}/priority/", {"priority": 7})
    told = "".join(line for page in look.events(time.monotonic() + 5) for line in page)
    assert told.count('"priority":7') == 2, "of the batch and of the item"


@pytest.mark.parametrize(
    ("state", "how"), [("failed", "failed"), ("quarantined", "is quarantined"), ("cancelled", "was cancelled")]
)
def test_an_item_whose_predecessor_has_not_succeeded_is_not_retried_but_that_one_is_named(operator, state, how):
    pk = operator.post(BATCHES, asked(SubbandGroupFactory(), stage="process")).json()["id"]
    operator.post(f"{BATCHES}{pk}/cancel/")
    first, third = Item.objects.order_by("id")[0:3:2]
    Item.objects.filter(pk=first.pk).update(state=state)
    Batch.objects.filter(pk=pk).update(**({"n_cancelled": 5} | {f"n_{state}": 6 if state == "cancelled" else 1}))
    refused = operator.post(f"/api/v1/items/{third.pk}/retry/")
    assert (refused.status_code, refused.json()["code"]) == (409, "predecessor_unfinished")
    assert f"the convert before it (item {first.pk}), which {how}; retry item {first.pk}" in refused.json()["detail"]
    assert not AuditEntry.objects.filter(action="item.retry").exists()
    assert set(Item.objects.exclude(pk=first.pk).values_list("state", flat=True)) == {"cancelled"}
    assert operator.post(f"/api/v1/items/{first.pk}/retry/").json()["state"] == "ready"
    assert set(Item.objects.exclude(pk=first.pk).values_list("state", flat=True)) == {"waiting"}
    again = operator.post(f"/api/v1/items/{third.pk}/retry/")
    assert again.json()["code"] == "nothing_to_retry"


def test_a_stage_is_paused_and_resumed(operator):
    made = operator.post("/api/v1/pauses/", {"stage": "image", "reason": "new disk"}).json()
    assert (made["stage"], made["paused_by"]) == ("image", "operator")
    assert operator.post("/api/v1/pauses/", {"stage": "bake"}).json()["code"] == "unknown_stage"
    assert operator.delete(f"/api/v1/pauses/{made['id']}/").status_code == 204
    assert not Pause.objects.exists()
    assert list(AuditEntry.objects.order_by("id").values_list("action", flat=True)) == ["stage.pause", "stage.resume"]


def test_a_pause_is_not_taken_over_by_another(operator):
    """Its reason would be forgotten, and who asked first resumes what he does not know of."""
    asked = {"stage": "image", "reason": "new disk"}
    first = operator.post("/api/v1/pauses/", asked).json()
    assert operator.post("/api/v1/pauses/", asked).json() == first
    other = operator.post("/api/v1/pauses/", {"stage": "image", "reason": "a look at the log"})
    assert (other.status_code, other.json()["code"]) == (409, "already_paused")
    assert "by operator since" in other.json()["detail"]
    assert "new disk" in other.json()["detail"]
    assert AuditEntry.objects.filter(action="stage.pause").count() == 1
    for body in ({}, {"reason": "all of it, by a slip"}):
        assert operator.post("/api/v1/pauses/", body).json()["errors"][0]["field"] == "stage"
    assert operator.post("/api/v1/pauses/", {"stage": ""}).status_code == 201


@pytest.mark.parametrize("name", ["If-Match", "If-None-Match", "If-Unmodified-Since"])
def test_a_change_takes_no_precondition_and_is_not_made_in_spite_of_it(operator, name):
    pk = operator.post(BATCHES, asked(SubbandGroupFactory())).json()["id"]
    headers = {name: "Thu, 01 Jan 2004 00:00:00 GMT" if "Since" in name else '"another"'}
    answer = operator.post(f"{BATCHES}{pk}/cancel/", headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (400, "precondition_not_taken")
    assert Item.objects.get().state == "ready"


# --- watching --------------------------------------------------------------------------------------------------------
def test_evidence_and_logs_are_for_the_inside_only(api, settings, tmp_path):
    settings.CONTIMG_LOG_DIR = tmp_path
    (tmp_path / "7.log").write_text("0123456789")
    item = ItemFactory(attempt=1)
    AttemptFactory(item=item, number=1, log_path="7.log", outcome="done")
    url = f"/api/v1/items/{item.pk}/"
    assert api.get(url).json()["attempts"][0]["evidence"]["inputs"][0]["name"] == "a_sb00.hdf5"
    assert api.get(url, REMOTE_ADDR=OUTSIDE).json()["attempts"][0]["evidence"] is None
    assert api.get(f"{url}log/", REMOTE_ADDR=OUTSIDE).status_code == 401
    assert api.get(f"{BATCHES}{item.batch_id}/events/", REMOTE_ADDR=OUTSIDE).status_code == 401
    assert api.get(f"{url}log/?tail=4").json() == {
        "attempt": 1, "offset": 6, "next_offset": 10, "size_bytes": 10, "is_final": True, "text": "6789",
    }  # fmt: skip
    assert api.get(f"{url}log/?offset=3").json()["text"] == "3456789"
    assert api.get(f"{url}log/?offset=99").json()["text"] == ""
    assert api.get(f"{url}log/?tail=0").json()["text"] == ""
    assert api.get(f"{url}log/?offset=-1").status_code == 400
    assert api.get(f"{url}log/?tial=4").json()["errors"][0]["code"] == "unknown_parameter"
    assert api.get(f"{url}log/?attempt=2").status_code == 404


@pytest.mark.parametrize(
    ("code", "text", "inside", "outside"),
    [
        ("worker_unwell", "It cannot work now: [Errno 2] No such file: '/mnt'.",
         "It cannot work now: [Errno 2] No such file: 'mnt'.",
         "The worker that had it could not work then; it is tried again."),
        ("internal_error", 'ProgrammingError: relation "x" is not there\nLINE 1: SELECT 1 FROM x',
         'ProgrammingError: relation "x" is not there',
         "A fault of contimg or of a library; the log of the attempt has it."),
        ("internal_error", "KeyError: '/srv/my data/a b.ms'", "KeyError: 'a b.ms'",
         "A fault of contimg or of a library; the log of the attempt has it."),
        ("database_unavailable", 'connection to server at "10.0.0.5" failed',
         'connection to server at "10.0.0.5" failed',
         "The database did not answer, or cut the connection; it is tried again."),
        ("engine_failed", "casacore cannot open /srv/products/measurement_sets/a.ms: no table; 3 mJy/beam.",
         "casacore cannot open a.ms: no table; 3 mJy/beam.", "casacore cannot open a.ms: no table; 3 mJy/beam."),
        ("subband_unreadable", "name = '/data/raw 1/a_sb03.hdf5', errno = 5", "name = 'a_sb03.hdf5', errno = 5",
         "name = 'a_sb03.hdf5', errno = 5"),
        ("not_writable", "root:/srv/products/images cannot be written; see https://example.org/a/b.",
         "root:images cannot be written; see https://example.org/a/b.",
         "root:images cannot be written; see https://example.org/a/b."),
        ("engine_unavailable", "file:///opt/wsclean/bin/wsclean is not there.", "wsclean is not there.",
         "wsclean is not there."),
        ("dependency_failed", "The stage before it failed.", "The stage before it failed.",
         "The stage before it failed."),
    ],
)  # fmt: skip
def test_what_went_wrong_is_told_without_server_paths_and_to_the_public_without_raw_texts(
    api, short_slices, code, text, inside, outside
):
    item = ItemFactory(attempt=1, state="failed", error_code=code, error_detail=text)
    AttemptFactory(item=item, number=1, outcome="failed", error_code=code, error_detail=text)
    Batch.objects.filter(pk=item.batch_id).update(n_ready=0, n_failed=1, n_total=1)
    staff = APIClient()
    staff.force_authenticate(User.objects.create_user("staff", is_staff=True))
    for client, detail in ((api, outside), (staff, inside)):
        shown = client.get(f"/api/v1/items/{item.pk}/", REMOTE_ADDR=OUTSIDE).json()
        told = [shown["error"], shown["attempts"][0]["error"]]
        for path in ("/api/v1/items/", f"{BATCHES}{item.batch_id}/items/"):
            told += [row["error"] for row in client.get(path, REMOTE_ADDR=OUTSIDE).json()["results"]]
        assert told == [{"code": code, "detail": detail}] * 4
    events = b"".join(staff.get(f"{BATCHES}{item.batch_id}/events/", REMOTE_ADDR=OUTSIDE).streaming_content).decode()
    assert json.dumps(inside) in events


def test_an_id_is_written_in_plain_digits(api):
    pk = ItemFactory().pk
    arabic = "".join(chr(0x660 + int(digit)) for digit in str(pk))
    for path in (f"{BATCHES}{arabic}/", f"{BATCHES}{arabic}/items/", f"/api/v1/items/{arabic}/"):
        response = api.get(path)
        assert (response.status_code, response.json()["code"]) == (404, "not_found")


def test_a_log_outside_of_its_folder_is_not_read(api, settings, tmp_path):
    settings.CONTIMG_LOG_DIR = tmp_path / "logs"
    (tmp_path / "secret").write_text("secret")
    item = ItemFactory(attempt=1)
    AttemptFactory(item=item, number=1, log_path="../secret")
    response = api.get(f"/api/v1/items/{item.pk}/log/")
    assert (response.status_code, response.json()["code"]) == (400, "outside_root")


def test_the_estimate_follows_the_medians_of_tiles_of_that_size_and_the_workers(api):
    for size, durations in ((1e9, (10.0, 11.0, 100.0)), (1e12, (900.0, 900.0, 900.0))):
        for duration_s in durations:
            item = ItemFactory(group=SubbandGroupFactory(size_bytes=size), state="done")
            AttemptFactory(item=item, outcome="done", duration_s=duration_s, input_bytes=1)
    batch = BatchFactory(n_ready=10, n_done=10, n_total=20, raw_bytes=1.2e9)
    assert api.get(f"{BATCHES}{batch.pk}/").json()["eta_s"] == 110.0
    WorkerFactory(n_processes=4)
    WorkerFactory(n_processes=9, seen_at=timezone.now() - timedelta(hours=1))
    assert api.get(f"{BATCHES}{batch.pk}/").json()["eta_s"] == 110.0 / 4
    chain = BatchFactory(stage="process", n_ready=1, n_waiting=5, n_total=6)
    assert api.get(f"{BATCHES}{chain.pk}/").json()["eta_s"] is None  # its other stages were never run
    assert api.get(f"{BATCHES}{Item.objects.first().batch_id}/").json()["progress"] == 0


def test_the_estimate_of_an_image_goes_by_its_pixels_and_in_proportion_where_none_was_of_that_size(api):
    small = {"size_px": 1000}
    for duration_s in (9.0, 10.0, 11.0):
        item = ItemFactory(batch__stage="image", batch__parameters=small, stage="image", state="done")
        AttemptFactory(item=item, outcome="done", duration_s=duration_s, input_bytes=1)
    for size_px, eta_s in ((1000, 20.0), (1400, 20.0), (4000, 320.0)):
        batch = BatchFactory(stage="image", parameters={"size_px": size_px}, n_ready=2, n_total=2, raw_bytes=None)
        assert api.get(f"{BATCHES}{batch.pk}/").json()["eta_s"] == eta_s


# --- events ----------------------------------------------------------------------------------------------------------
@pytest.fixture
def short_slices(monkeypatch):
    monkeypatch.setattr(events, "SLICE_S", 0.0)


def told(response) -> list[tuple[str, dict, str]]:
    """(name, data, id) of each event of a slice."""
    text = b"".join(response.streaming_content).decode()  # the client closes the response at its end
    assert text.startswith("retry: 2000\n\n")
    found = []
    for block in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if "event" in fields:
            found.append((fields["event"], json.loads(fields["data"]), fields["id"]))
    return found


def test_a_stream_tells_states_progress_log_and_end_and_goes_on_where_it_stopped(
    operator, short_slices, settings, tmp_path
):
    settings.CONTIMG_LOG_DIR = tmp_path
    tiles = SubbandGroupFactory.create_batch(2)
    pk = operator.post(BATCHES, asked(*tiles)).json()["id"]
    url = f"{BATCHES}{pk}/events/"
    held = transitions.claim(worker="a.1.2", host="a")
    Attempt.objects.update(log_path="1.log")
    (tmp_path / "1.log").write_text("first line\n")

    first = told(operator.get(url))
    states = {data["id"]: data["state"] for name, data, _ in first if name == "item"}
    assert sorted(states.values()) == ["ready", "running"]
    assert [data["text"] for name, data, _ in first if name == "log"] == ["first line\n"]
    assert [data["counts"]["running"] for name, data, _ in first if name == "batch"] == [1]

    with (tmp_path / "1.log").open("a") as log:
        log.write("second line\n")
    transitions.finish(held)
    transitions.count_finished(held)
    second = told(operator.get(url, headers={"last-event-id": first[-1][2]}))
    assert (held.item_id, "done") in [(data["id"], data["state"]) for name, data, _ in second if name == "item"]
    assert [data["text"] for name, data, _ in second if name == "log"] == ["second line\n"]

    operator.post(f"{BATCHES}{pk}/cancel/")
    last = told(operator.get(url, headers={"last-event-id": second[-1][2]}))
    assert last[-1][:2] == ("end", {"state": "cancelled"})
    assert [data for name, data, _ in last if name == "log"] == []


def test_items_that_changed_at_one_moment_are_all_told_whoever_has_to_come_again_for_them(operator, short_slices):
    batch = BatchFactory(n_ready=1200, n_total=1200)
    Item.objects.bulk_create(ItemFactory.build_batch(1200, batch=batch, group=SubbandGroupFactory()))
    url = f"{BATCHES}{batch.pk}/events/"

    def all_told(last_event_id: str) -> tuple[dict[int, str], str]:
        states: dict[int, str] = {}
        for _ in range(3):  # no slice is longer than a page here
            found = told(operator.get(url, headers={"last-event-id": last_event_id}))
            states |= {data["id"]: data["state"] for name, data, _ in found if name == "item"}
            last_event_id = found[-1][2]
        return states, last_event_id

    Item.objects.update(changed_at=Now())
    states, last_event_id = all_told("")
    assert set(states) == set(Item.objects.values_list("id", flat=True))
    assert set(states.values()) == {"ready"}
    operator.post(f"{BATCHES}{batch.pk}/cancel/")
    states, last_event_id = all_told(last_event_id)
    assert (len(states), set(states.values())) == (1200, {"cancelled"})
    assert told(operator.get(url, headers={"last-event-id": last_event_id}))[-1][0] != "item"


def test_the_end_is_told_after_the_last_item(operator, short_slices):
    batch = BatchFactory(n_ready=0, n_done=600, n_total=600)
    Item.objects.bulk_create(ItemFactory.build_batch(600, batch=batch, group=SubbandGroupFactory(), state="done"))
    url = f"{BATCHES}{batch.pk}/events/"
    first = told(operator.get(url))
    assert "end" not in [name for name, _, _ in first]
    rest = told(operator.get(url, headers={"last-event-id": first[-1][2]}))
    assert [name for name, _, _ in rest] == ["item"] * 100 + ["batch", "end"]


def test_a_stream_tells_an_item_again_only_when_it_changed():
    item, other = ItemFactory.create_batch(2, batch=BatchFactory(n_ready=2, n_total=2))
    look = events._Look(item.batch_id, events.Cursor())

    def items_told() -> list[int]:
        pages = look.events(time.monotonic() + 60)
        data = [event.split("data: ")[1] for page in pages for event in page if "event: item" in event]
        return [json.loads(facts)["id"] for facts in data]

    assert items_told() == [item.pk, other.pk]
    assert items_told() == []
    Item.objects.filter(pk=other.pk).update(changed_at=Now())
    assert items_told() == [other.pk]


@pytest.mark.parametrize(
    "broken",
    [
        "0001-01-01T00:00:00+14:00",
        "9999999999999999.1.1",
        "x",
        "2026-13-45T00:00:00Z",
        "2026-03-01T00:00:00Z 1.1:999999999999",
        "a" * 9999,
    ],
)
def test_an_id_that_cannot_be_read_begins_anew(operator, short_slices, broken):
    batch = BatchFactory()
    ItemFactory(batch=batch)
    names = [
        name for name, _, _ in told(operator.get(f"{BATCHES}{batch.pk}/events/", headers={"last-event-id": broken}))
    ]
    assert "batch" in names


def test_more_streams_than_there_are_threads_to_spare_are_refused_and_places_are_given_back(
    operator, short_slices, caplog
):
    pk = BatchFactory().pk
    url = f"{BATCHES}{pk}/events/"
    open_ones = [operator.get(url) for _ in range(events.MOST_STREAMS)]
    refused = operator.get(url)
    assert (refused.status_code, refused.json()["code"]) == (503, "too_many_streams")
    assert "Retry-After" in refused.headers
    assert not any(record.exc_info for record in caplog.records)  # no fault of ours to trace
    for response in open_ones:
        assert told(response)
    again = operator.get(url)
    assert again.status_code == 200, again.content
    assert told(again)


def test_work_on_an_image_is_shown_by_its_kind(api):
    item = ItemFactory(group=None, image=ImageFactory(), writes_to="image 1", stage="assess")
    assert api.get(f"/api/v1/items/{item.pk}/").json()["subject"] == {"kind": "image", "id": item.image_id}
