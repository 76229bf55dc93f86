from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from health_check.base import HealthCheck
from health_check.exceptions import ServiceWarning

from contimg import health


@pytest.fixture
def no_database():
    """Liveness has to answer without one; pytest-django refuses to connect without its mark."""


def test_it_is_alive_without_a_database(client, no_database):
    assert client.get("/health/live").json() == {"status": "ok"}


@pytest.mark.django_db
@pytest.mark.parametrize("path", ["/health/ready", "/health/"])
def test_it_is_ready_when_everything_answers(client, path):
    response = client.get(path)
    assert response.status_code == 200
    body = response.json()
    assert body["status"] == "ok"
    assert {name: check["status"] for name, check in body["checks"].items()} == {
        "Database": "ok", "Migrations": "ok", "ProductsRoot": "ok",
    }  # fmt: skip
    assert "no-cache" in response.headers["Cache-Control"]


@pytest.mark.django_db
def test_it_is_not_ready_when_products_cannot_be_written(client, settings, products_root):
    (products_root / "file").write_text("")
    settings.CONTIMG_PRODUCTS_ROOT = products_root / "file" / "products"
    response = client.get("/health/ready")
    assert response.status_code == 503
    assert response.headers["Retry-After"]
    assert response.json()["checks"]["ProductsRoot"]["status"] == "unavailable"
    assert str(products_root) not in response.content.decode()


@pytest.mark.django_db
def test_it_is_not_ready_when_a_migration_is_missing(client, monkeypatch):
    monkeypatch.setattr(health, "_on_disk", lambda: {("images", "9999_not_yet")})
    response = client.get("/health/ready")
    assert response.status_code == 503
    assert "migrate" in response.json()["checks"]["Migrations"]["detail"]


@pytest.mark.parametrize("url", ["sqlite:////nowhere/contimg.sqlite3", "postgres://nobody@127.0.0.1:1/nothing"])
def test_it_says_503_and_never_500_when_the_database_is_down(tmp_path, url):
    """In a process of its own, whose database really is not there."""
    script = (
        "import django, json; django.setup();"
        "from django.test import Client; client = Client(raise_request_exception=False);"
        "answers = [client.get(path) for path in ('/health/live', '/health/ready', '/api/v1/images/')];"
        "print(json.dumps([[a.status_code, json.loads(a.content), a.headers.get('Retry-After')] for a in answers]))"
    )
    environment = {
        **os.environ,
        "DATABASE_URL": url,
        "CONTIMG_VAR_DIR": str(tmp_path),
        "CONTIMG_ALLOWED_HOSTS": "testserver",
        "CONTIMG_HTTPS": "false",
        "DJANGO_SETTINGS_MODULE": "contimg.settings",
    }
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    live, ready, listing = json.loads(done.stdout)
    assert live[0] == 200
    assert ready[0] == 503
    assert ready[2]
    assert ready[1]["checks"]["Database"]["status"] == "unavailable"
    assert (listing[0], listing[1]["code"], listing[2]) == (503, "database_unavailable", "30")


class Slow(HealthCheck):
    def run(self):
        raise ServiceWarning("the disk is filling up")


class Broken(HealthCheck):
    def run(self):
        raise RuntimeError("SELECT secret")


@pytest.mark.django_db
def test_a_warning_is_said_and_not_failed(client, monkeypatch):
    monkeypatch.setattr(health.Health, "checks", [*health.READY_CHECKS, Slow])
    response = client.get("/health/ready")
    assert response.status_code == 200
    assert response.json()["status"] == "warning"
    assert response.json()["checks"]["Slow"]["detail"] == "the disk is filling up"


@pytest.mark.django_db
def test_a_check_that_breaks_is_a_503_that_shows_nothing(client, monkeypatch):
    monkeypatch.setattr(health.Health, "checks", [Broken])
    response = client.get("/health/ready")
    assert response.status_code == 503
    assert "secret" not in response.content.decode()


@pytest.mark.django_db
def test_an_accept_header_that_means_nothing_does_not_matter(client):
    assert client.get("/health/ready", headers={"accept": "garbage"}).status_code == 200


@pytest.mark.django_db
def test_health_and_metrics_can_be_scraped(client):
    assert b"django_health_check_overall_status 1" in client.get("/health/?format=openmetrics").content
    assert b"django_http_requests_before_middlewares_total" in client.get("/metrics").content
