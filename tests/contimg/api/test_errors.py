from __future__ import annotations

import json
import tempfile

import pytest
from django.conf import settings
from django.core.exceptions import PermissionDenied, SuspiciousOperation
from django.db import InterfaceError, OperationalError
from django.http import Http404
from django.test import Client
from rest_framework import exceptions as drf
from rest_framework.views import APIView

from contimg import exceptions as ours
from contimg.api.errors import CONTENT_TYPE
from images.viewsets import ImageViewSet

pytestmark = pytest.mark.django_db

SHAPE = {"type", "title", "status", "detail", "instance", "code", "request_id", "errors"}
LIST = "/api/v1/images/"


def every_error_of_ours() -> list[type[ours.ContimgError]]:
    family = [ours.ContimgError]
    for cls in family:
        family += cls.__subclasses__()
    return family


def problem_of(response, status: int, code: str) -> dict:
    assert response.status_code == status, response.content
    assert response.headers["Content-Type"] == CONTENT_TYPE
    body = json.loads(response.content)
    assert set(body) == SHAPE
    assert (body["status"], body["code"]) == (status, code)
    assert body["type"] == f"urn:contimg:error:{code}"
    assert body["request_id"] == response.headers["X-Request-ID"]
    for word in ("Traceback", "SELECT", str(settings.BASE_DIR), tempfile.gettempdir(), "site-packages"):
        assert word not in response.content.decode()
    return body


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("batches", {"stage": "x" * 1_000_000}),
        ("batches", {"stage": "x " * 500_000}),
        ("batches", {"x" * 1_000_000: 1}),
        ("batches", {"stage": "image", "query": {"kind": "measurement_set", "x" * 1_000_000: 1}}),
        ("reviews", {"subject": {"kind": "x" * 1_000_000, "id": 1}, "verdict": "good"}),
        ("reviews", {f"key{number}": 1 for number in range(100_000)}),
        ("reviews", {"subject": {"kind": "image", "id": 1}, "verdict": "good", "tags": ["x"] * 1_000_000}),
        ("policies", {"name": "mine", "rules": [{}] * 500}),
        ("policies", {"name": "mine", "rules": [{}] * 1_000_000}),
    ],
    ids=["word", "words", "key", "filter", "kind", "keys", "tags", "rules", "too many rules"],
)
def test_what_was_sent_is_not_sent_back_whole_nor_looked_at_beyond_its_limits(administrator, path, body):
    answer = administrator.post(f"/api/v1/{path}/", body)
    assert problem_of(answer, 400, answer.json()["code"])["errors"]
    assert len(answer.content) < 20_000


@pytest.mark.parametrize(
    "query", ["&".join(f"x{number}=1" for number in range(999)), "x" * 60_000, "kind=" + "x,y" * 999]
)
def test_an_address_is_not_sent_back_whole(api, query):
    assert len(api.get(f"{LIST}?{query}").content) < 10_000


@pytest.fixture
def failing_with(monkeypatch):
    """Makes the list of images fail with an error."""

    def fail(error: Exception) -> None:
        def get_queryset(self):
            raise error

        monkeypatch.setattr(ImageViewSet, "get_queryset", get_queryset)

    return fail


@pytest.mark.parametrize("error", every_error_of_ours())
def test_every_error_of_ours_is_a_problem_with_the_status_and_code_of_its_class(api, failing_with, error):
    failing_with(error("The file /srv/private/night1/x.hdf5 is broken; send it again."))
    response = api.get(LIST)
    body = problem_of(response, error.status, error.code)
    assert body["detail"] == (error.for_readers or "The file x.hdf5 is broken; send it again.")
    assert response.headers.get("Retry-After") == (str(error.retry_after_s) if error.status == 503 else None)


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (Http404("no /etc/passwd"), 404, "not_found"),
        (PermissionDenied(), 403, "permission_denied"),
        (drf.NotAuthenticated(), 401, "not_authenticated"),
        (drf.ParseError(), 400, "parse_error"),
        (drf.UnsupportedMediaType("text/plain"), 415, "unsupported_media_type"),
        (OperationalError("no such table: images in SELECT * FROM"), 503, "database_unavailable"),
        (InterfaceError("connection already closed"), 503, "database_unavailable"),
        (RuntimeError(f"SELECT in {settings.BASE_DIR}"), 500, "internal_error"),
        (SuspiciousOperation("odd"), 500, "internal_error"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_errors_of_django_and_drf_have_the_same_shape(api, failing_with, error, status, code):
    failing_with(error)
    problem_of(api.get(LIST), status, code)


def test_throttling_says_when_to_come_back(api, failing_with):
    failing_with(drf.Throttled(wait=7.5))
    response = api.get(LIST)
    problem_of(response, 429, "throttled")
    assert response.headers["Retry-After"] == "8"


def test_a_wrong_field_is_named(api, failing_with):
    failing_with(drf.ValidationError({"size": ["Too big.", "Odd."], "non_field_errors": ["Never."]}))
    body = problem_of(api.get(LIST), 400, "invalid_input")
    assert body["errors"] == [
        {"field": "size", "code": "invalid", "detail": "Too big."},
        {"field": "size", "code": "invalid", "detail": "Odd."},
        {"field": None, "code": "invalid", "detail": "Never."},
    ]
    assert body["detail"] == "size: Too big. size: Odd. Never."


def test_what_is_wrong_as_a_whole_is_named_by_its_place(api, failing_with):
    failing_with(drf.ValidationError({"subjects": {1: {"non_field_errors": ["No object."], "id": ["Too big."]}}}))
    body = problem_of(api.get(LIST), 400, "invalid_input")
    assert [error["field"] for error in body["errors"]] == ["subjects.1", "subjects.1.id"]


def test_a_missing_row_is_not_found(api):
    for unknown in ("1", "0", "-1", "x", "9" * 30):
        problem_of(api.get(f"{LIST}{unknown}/"), 404, "not_found")


@pytest.mark.parametrize("method", ["post", "put", "patch", "delete"])
def test_a_method_that_nobody_may_use_is_405_and_not_a_question_of_login(api, method):
    response = getattr(api, method)(LIST)
    problem_of(response, 405, "method_not_allowed")
    assert "GET" in response.headers["Allow"]


def test_a_form_that_cannot_be_answered_is_406(api):
    problem_of(api.get(LIST, headers={"accept": "image/webp"}), 406, "not_acceptable")


def test_an_unknown_format_names_the_valid_ones(api):
    body = problem_of(api.get(LIST, {"format": "xlsx"}), 400, "invalid_input")
    assert body["errors"][0]["field"] == "format"
    assert "json" in body["errors"][0]["detail"]


def test_an_empty_format_is_unknown_too(api):
    response = api.get("/api/v1/images/?format=")
    assert (response.status_code, response.json()["errors"][0]["code"]) == (400, "unknown_format")


@pytest.mark.parametrize("path", ["/api/v1/nothing/", "/api/nothing", "/api/v2/images/"])
def test_an_unknown_path_under_api_is_a_problem_even_for_a_browser(api, path):
    problem_of(api.get(path, headers={"accept": "text/html"}), 404, "not_found")


def test_an_unknown_path_elsewhere_is_a_page_for_a_browser_and_a_problem_for_others(api):
    page = api.get("/nothing", headers={"accept": "text/html,application/xhtml+xml,*/*;q=0.8"})
    assert page.status_code == 404
    assert page.headers["Content-Type"].startswith("text/html")
    problem_of(api.get("/nothing"), 404, "not_found")


def test_a_host_that_is_not_ours_is_a_bad_request(api):
    problem_of(api.get(LIST, headers={"host": "evil.example"}), 400, "invalid_input")


def test_an_error_outside_of_a_view_is_a_problem_too(monkeypatch):
    def broken(*args):
        raise RuntimeError("SELECT secret")

    monkeypatch.setattr(APIView, "dispatch", broken)
    problem_of(Client(raise_request_exception=False).get(LIST), 500, "internal_error")

    def forbidden(*args):
        raise PermissionDenied("SELECT secret")

    monkeypatch.setattr(APIView, "dispatch", forbidden)
    problem_of(Client(raise_request_exception=False).get(LIST), 403, "permission_denied")


def test_pages_for_people_exist_for_every_handler(rf):
    from contimg.api import errors

    request = rf.get("/somewhere", headers={"accept": "text/html"})
    assert errors.bad_request(request, Exception()).status_code == 400
    assert errors.permission_denied(request, Exception()).status_code == 403
    assert errors.not_found(request, Http404()).status_code == 404
    assert errors.server_error(request).status_code == 500


def test_a_browser_sees_the_problem_inside_the_browsable_page(api):
    response = api.get(f"{LIST}1/", headers={"accept": "text/html"})
    assert response.status_code == 404
    assert response.headers["Content-Type"].startswith("text/html")
    assert b"urn:contimg:error:not_found" in response.content


@pytest.mark.parametrize("path", ["/api/v1/images/", "/api/v1/images/1/"])
def test_reading_needs_a_login_when_it_is_not_public(api, settings, path):
    settings.CONTIMG_PUBLIC_READ = False
    response = api.get(path)
    problem_of(response, 401, "not_authenticated")
    assert response.headers["WWW-Authenticate"] == 'Bearer realm="contimg"'


def test_a_user_reads_when_reading_is_not_public(api, settings, django_user_model):
    settings.CONTIMG_PUBLIC_READ = False
    api.force_login(django_user_model.objects.create_user("ada"))
    assert api.get(LIST).status_code == 200
