"""Redirects, preconditions and logins, through all of the middleware."""

from __future__ import annotations

from io import BytesIO

import pytest
from django.contrib.auth.models import User

from tests.factories import ImageFactory

pytestmark = pytest.mark.django_db


@pytest.mark.parametrize("debug", [False, True])
def test_what_is_posted_without_the_slash_is_posted_again_with_it(client, settings, debug):
    settings.DEBUG = debug
    answer = client.post("/api/v1/batches?dry_run=1", "{}", content_type="application/json")
    assert (answer.status_code, answer.headers["Location"]) == (308, "/api/v1/batches/?dry_run=1")
    assert client.get("/api/v1/images").headers["Location"] == "/api/v1/images/"


@pytest.mark.parametrize("method", ["get", "head"])
def test_a_precondition_that_fails_is_a_problem_as_any_other(client, method):
    url = f"/api/v1/images/{ImageFactory().pk}/"
    tag = client.get(url).headers["ETag"]
    assert getattr(client, method)(url, headers={"If-Match": tag}).status_code == 200
    refused = getattr(client, method)(url, headers={"If-Match": '"another"'})
    assert (refused.status_code, refused.headers["Content-Type"]) == (412, "application/problem+json")
    if method == "get":
        assert (refused.json()["code"], refused.json()["instance"]) == ("precondition_failed", url)


@pytest.mark.parametrize("address", ["", "stats/", "schema/", "images/", "images/{image}/"])
def test_head_has_the_version_that_get_has_and_is_answered_by_it(client, address):
    url = f"/api/v1/{address.format(image=ImageFactory().pk)}"
    tag = client.get(url).headers["ETag"]
    assert client.head(url).headers["ETag"] == tag
    assert client.head(url, headers={"If-None-Match": tag}).status_code == 304
    assert client.head(url, headers={"If-Match": '"another"'}).status_code == 412


@pytest.mark.parametrize(("method", "url"), [("options", "/"), ("post", "/health/live"), ("get", "/api/auth/logout/")])
def test_a_method_that_a_page_does_not_take_is_a_problem_as_any_other(client, method, url):
    refused = getattr(client, method)(url)
    assert (refused.status_code, refused.headers["Content-Type"]) == (405, "application/problem+json")
    assert refused.json()["code"] == "method_not_allowed"
    assert refused.headers["Allow"] in refused.json()["detail"]


@pytest.mark.parametrize("sent", [{"HTTP_TRANSFER_ENCODING": "chunked"}, {"SERVER_PROTOCOL": "HTTP/2"}])
def test_a_body_whose_length_was_not_said_is_refused_and_not_taken_for_none(client, sent):
    url = f"/api/v1/images/{ImageFactory().pk}/reimage/"
    unread = client.generic("POST", url, **sent, **{"wsgi.input": BytesIO(b'{"parameters": {"robust": -1.5}}')})
    assert (unread.status_code, unread.json()["code"]) == (411, "length_required")
    assert client.generic("POST", url, **sent, **{"wsgi.input": BytesIO(b"")}).status_code == 401
    assert client.post(url, "{}", content_type="application/json", **sent).status_code == 401


def test_a_request_that_cannot_be_answered_is_told_why(client):
    said = client.get("/api/v1/images/", headers={"Host": "elsewhere.example"})
    assert (said.status_code, "Host" in said.json()["detail"]) == (400, True)
    said = client.get("/api/v1/images/", headers={"Accept": "text/calendar"})
    assert (said.status_code, "application/json" in said.json()["detail"]) == (406, True)


def test_what_has_no_time_of_its_own_is_compared_with_none(client):
    url = f"/api/v1/images/{ImageFactory().pk}/"
    assert client.get(url, headers={"If-Unmodified-Since": "Thu, 01 Jan 2004 00:00:00 GMT"}).status_code == 200


def test_who_is_not_staff_logs_in_where_he_reads(client, settings):
    settings.CONTIMG_PUBLIC_READ = False
    User.objects.create_user("ada", password="a long one of a test")
    assert 'href="/api/auth/login/?next=/"' in client.get("/").content.decode()
    given = {"username": "ada", "password": "a long one of a test", "next": "/"}
    assert client.post("/api/auth/login/", given).headers["Location"] == "/"
    assert client.get("/api/v1/images/").status_code == 200
    page = client.get("/api/v1/images/", headers={"Accept": "text/html"}).content.decode()
    assert "/api/auth/logout/" in page
    client.post("/api/auth/logout/")
    assert client.get("/api/v1/images/").status_code == 401
