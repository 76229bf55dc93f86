from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from datetime import timedelta
from pathlib import Path

import pytest
from django.core.management import call_command
from django.utils import timezone
from health_check.base import HealthCheck
from health_check.exceptions import ServiceWarning

from access.models import AuditEntry
from batch.models import Item
from contimg import diagnoses, health
from contimg.models import BreakerState
from contimg.products import WORK_FOLDER, products_root, this_process
from observations.models import MeasurementSet
from provenance.backups import take_backup
from tests.batch.installation import PROJECT
from tests.batch.servers import free_port
from tests.factories import ItemFactory, MeasurementSetFactory, WorkerFactory
from tests.test_bad_days import fill, frozen, small_disk

pytest_plugins = ["tests.batch.installation", "tests.batch.servers"]


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
    expected = [*diagnoses.READY, *(diagnoses.DEGRADED if path == "/health/" else ())]
    assert {name: check["status"] for name, check in body["checks"].items()} == {
        check.__name__: "ok" for check in expected
    }
    assert body["status"] == "ok"
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
    monkeypatch.setattr(diagnoses, "_on_disk", lambda: {("images", "9999_not_yet")})
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
        "print(json.dumps([[a.status_code, json.loads(a.content), a.headers.get('Retry-After')] for a in answers]));"
        "client.cookies['sessionid'] = 'a' * 32;"
        "pages = [client.get(path, headers={'accept': 'text/html'}) for path in ('/', '/admin/', '/api/v1/docs/')];"
        "print(json.dumps([[a.status_code, a.content.decode(), a.headers.get('Retry-After')] for a in pages]));"
        "told = [Client(REMOTE_ADDR='192.0.2.1').get(path, headers="
        "{'authorization': 'Bearer contimg_abcdefgh_' + 43 * 'x'})"
        " for path in ('/metrics', '/health/?format=openmetrics', '/health/')];"
        "print(json.dumps([[a.status_code, a.content.decode()] for a in told]))"
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
    (live, ready, listing), pages, told = map(json.loads, done.stdout.splitlines())
    assert live[0] == 200
    assert ready[0] == 503
    assert ready[2]
    assert ready[1]["checks"]["Database"]["status"] == "unavailable"
    assert (listing[0], listing[1]["code"], listing[2]) == (503, "database_unavailable", "30")
    assert {(status, retry_after) for status, _, retry_after in pages} == {(503, "30")}
    assert "The database does not answer" in pages[0][1]
    (metrics, checks, health_) = told  # to a token that nobody can look up now
    assert metrics == [200, "# TYPE contimg_database_up gauge\ncontimg_database_up 0\n"]
    assert checks[0] == 200
    assert 'django_health_check_status{check="Database"} 0' in checks[1]
    assert health_ == [503, '{"status": "unavailable"}']


@pytest.mark.django_db
def test_machines_on_this_host_need_no_https(client, settings):
    settings.SECURE_SSL_REDIRECT = True
    statuses = {path: client.get(path).status_code for path in ("/metrics", "/health/ready", "/health/", "/api/v1/")}
    assert statuses == {"/metrics": 200, "/health/ready": 200, "/health/": 200, "/api/v1/": 301}


class Slow(HealthCheck):
    def run(self):
        raise ServiceWarning("the disk is filling up")


class Broken(HealthCheck):
    def run(self):
        raise RuntimeError("SELECT secret")


@pytest.mark.django_db
def test_a_warning_is_said_and_not_failed(client, monkeypatch):
    monkeypatch.setattr(health.Health, "checks", [*diagnoses.READY, Slow])
    response = client.get("/health/ready")
    assert response.status_code == 200
    assert response.json()["status"] == "warning"
    assert response.json()["checks"]["Slow"]["detail"] == "the disk is filling up"


@pytest.mark.django_db
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_check_that_breaks_is_a_503_that_shows_nothing(client, monkeypatch):
    monkeypatch.setattr(health.Health, "checks", [Broken])
    response = client.get("/health/ready")
    assert response.status_code == 503
    assert "secret" not in response.content.decode()


@pytest.mark.django_db
def test_a_check_that_hangs_is_told_in_its_time_and_not_begun_again(client, monkeypatch):
    go_on = threading.Event()
    began = []

    class Hanging(HealthCheck):
        timeout = timedelta(seconds=-0.9)  # the library adds a second

        def run(self):
            began.append(self)
            go_on.wait(20)

    monkeypatch.setattr(health.Health, "checks", [Hanging])
    first, second = client.get("/health/ready").json(), client.get("/health/ready").json()
    go_on.set()
    assert "Timed out" in first["checks"]["Hanging"]["detail"]
    assert "still hangs" in second["checks"]["Hanging"]["detail"]
    assert len(began) == 1


def told(client, name):
    answer = client.get("/health/")
    assert answer.status_code == 200
    return answer.json()["checks"][name]


@pytest.mark.django_db
def test_what_has_changed_is_in_the_log_once(client, monkeypatch, caplog):
    monkeypatch.setattr(health, "_told", {})
    monkeypatch.setattr(health.Health, "checks", [Slow])
    for _ in range(3):
        client.get("/health/ready")
    monkeypatch.setattr(Slow, "run", lambda self: None)
    client.get("/health/ready")
    said = [record.getMessage() for record in caplog.records if record.name == "contimg.health"]
    assert len(said) == 2
    assert "the disk is filling up" in said[0]


@pytest.mark.usefixtures("installation")
class TestFindings:
    """Each says what is wrong and what to do, and none of them keeps the service from serving."""

    def test_the_disk_of_the_products_is_not_mounted(self, client):
        """But for this one; and nothing is made in its place."""
        MeasurementSetFactory()
        products_root().rmdir()
        answer = client.get("/health/ready")
        assert answer.status_code == 503
        assert "mounted" in answer.json()["checks"]["ProductsRoot"]["detail"]
        assert not products_root().exists()
        (products_root() / WORK_FOLDER).mkdir(parents=True)
        assert client.get("/health/ready").status_code == 200

    def test_work_that_nobody_does(self, client):
        ItemFactory(state="ready")
        assert "start `manage.py worker`" in told(client, "Workers")["detail"]
        Item.objects.update(changed_at=timezone.now() - timedelta(hours=3))
        assert "ready for 3.0 h" in told(client, "Queue")["detail"]

    def test_a_host_that_fell_silent(self, client):
        WorkerFactory(host="corr03", seen_at=timezone.now() - timedelta(minutes=5), n_processes=2, stopped_at=None)
        found = told(client, "Workers")
        assert "corr03" in found["detail"]
        assert found["figures"]["silent_hosts"] == ["corr03"]

    def test_a_clock_that_was_set_back(self, client):
        WorkerFactory(seen_at=timezone.now() + timedelta(hours=1))
        assert "a clock was set back" in told(client, "Clock")["detail"]

    def test_no_catalogue(self, client):
        (products_root() / WORK_FOLDER).mkdir()
        MeasurementSetFactory()
        assert "manage.py import_catalogue" in told(client, "Catalogue")["detail"]

    def test_a_backup_that_is_old(self, client, tmp_path):
        (products_root() / WORK_FOLDER).mkdir()
        MeasurementSetFactory()
        assert told(client, "Backups")["status"] == "ok"  # it is new
        MeasurementSet.objects.update(created_at=timezone.now() - timedelta(hours=37))
        assert "no backup was ever made" in told(client, "Backups")["detail"]
        AuditEntry.objects.create(
            action="backup.take", object_kind="installation", object_id=1, channel="command",
            at=timezone.now() - timedelta(hours=37),
        )  # fmt: skip
        assert "37 h old" in told(client, "Backups")["detail"]
        take_backup(folder=tmp_path / "backups", told=lambda *_: None)
        found = told(client, "Backups")
        assert (found["status"], found["figures"]["age_h"]) == ("ok", 0.0)

    def test_an_engine_that_is_missing(self, client, settings):
        settings.CONTIMG_STAGES = "batch.stages.STAGES"
        settings.CONTIMG_IMAGER, settings.CONTIMG_WSCLEAN_BINARY = "wsclean", "/nowhere/wsclean"
        assert "install the Debian package" in told(client, "Engines")["detail"]

    def test_a_full_disk(self, client, settings, tmp_path):
        with small_disk(tmp_path / "small", "4M") as settings.CONTIMG_LOG_DIR:
            fill(tmp_path / "small")
            found = told(client, "Disk")
            assert "free for logs; make room" in found["detail"]
            assert found["figures"]["logs"]["free_bytes"] == 0

    def test_a_breaker_of_a_process_that_lives(self, client):
        BreakerState.objects.create(
            breaker="broker", process=this_process(), is_open=True, error="no", changed_at=timezone.now(),
            seen_at=timezone.now(),
        )  # fmt: skip
        assert "broker" in told(client, "Breakers")["detail"]
        BreakerState.objects.update(process=this_process().replace(f".{os.getpid()}.", ".4194304."))
        assert told(client, "Breakers")["status"] == "ok"


@pytest.mark.usefixtures("installation")
def test_the_doctor_says_each_finding_and_ends_with_1_when_there_is_one(capsys):
    call_command("doctor")
    assert "Migrations" in capsys.readouterr().out
    ItemFactory(state="ready")
    with pytest.raises(SystemExit, match="1"):
        call_command("doctor")
    assert "start `manage.py worker`" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="1"):
        call_command("doctor", "--json")
    assert json.loads(capsys.readouterr().out)["checks"]["Workers"]["status"] == "warning"


def doctor_of(url: str, folder: Path) -> subprocess.Popen:
    """In a process of its own, as an operator asks."""
    environment = {**os.environ, "DATABASE_URL": url, "CONTIMG_VAR_DIR": str(folder), "COLUMNS": "80"}
    return subprocess.Popen(
        [sys.executable, "manage.py", "doctor", "--json"], cwd=PROJECT, env=environment, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip


def details(doctor: subprocess.Popen) -> dict[str, str]:
    checks = json.loads(doctor.communicate(timeout=60)[0])["checks"]
    assert doctor.returncode == 1
    return {name: check["detail"] for name, check in checks.items() if check["status"] != "ok"}


@pytest.mark.once
def test_the_doctor_has_the_reason_of_a_database_that_does_not_answer(private_postgres, tmp_path):
    url = private_postgres.url
    asked = {
        'database "nothing" does not exist': f"{url.rpartition('/')[0]}/nothing",
        'role "nobody" does not exist': url.replace("://postgres@", "://nobody@"),
        "Connection refused": f"postgres://postgres@127.0.0.1:{free_port()}/postgres",
    }
    doctors = {reason: doctor_of(address, tmp_path) for reason, address in asked.items()}
    found = {reason: details(doctor) for reason, doctor in doctors.items()}
    with frozen(private_postgres):
        found["timeout expired"] = details(doctor_of(url, tmp_path))
    for reason, said in found.items():
        assert reason in said.pop("Database")
        assert {"Migrations", "Queue", "Workers"} <= said.keys()
        said = {name: detail for name, detail in said.items() if "Timed out" not in detail}  # on a busy machine
        assert {name for name, detail in said.items() if "see the check Database" not in detail} == set(), said
    unmigrated = details(doctor_of(f"sqlite:///{tmp_path / 'empty.sqlite3'}", tmp_path))
    assert "manage.py migrate" in unmigrated.pop("Migrations")
    assert {name for name, detail in unmigrated.items() if "see the check Migrations" not in detail} == set()


@pytest.mark.django_db
def test_an_accept_header_that_means_nothing_does_not_matter(client):
    assert client.get("/health/ready", headers={"accept": "garbage"}).status_code == 200


@pytest.mark.django_db
def test_health_and_metrics_can_be_scraped(client):
    assert b"django_health_check_overall_status 1" in client.get("/health/?format=openmetrics").content
    assert b"django_http_requests_before_middlewares_total" in client.get("/metrics").content


@pytest.mark.django_db
@pytest.mark.parametrize("path", ["/health/", "/metrics"])
def test_the_details_of_health_and_metrics_are_for_the_inside(client, admin_client, path):
    assert client.get(path, REMOTE_ADDR="192.0.2.1").status_code == 401
    for inside in (admin_client.get(path, REMOTE_ADDR="192.0.2.1"), client.get(path, REMOTE_ADDR="127.0.0.1")):
        assert inside.status_code in (200, 503)  # the checks may find something
