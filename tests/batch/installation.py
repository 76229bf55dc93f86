"""An installation of a test's own: a database, products and logs that real processes share with the test."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest
from django.conf import settings as django_settings
from django.core.management import call_command
from django.db import connections

from contimg.products import database_tag
from tests.batch import misfortune, trivial

PROJECT = Path(__file__).resolve().parents[2]
POSTGRES = os.environ.get("CONTIMG_TEST_POSTGRES", "postgres://postgres@127.0.0.1:5432/postgres")
RABBITMQ = os.environ.get("CONTIMG_TEST_RABBITMQ", "amqp://guest:guest@127.0.0.1:5672//")
REDIS = os.environ.get("CONTIMG_TEST_REDIS", "redis://127.0.0.1:6379/0")
DATABASES = ("sqlite", "postgres")
# Processes of several tests share the processors: what takes a second alone may take a few.
PATIENCE = 4 if "PYTEST_XDIST_WORKER" in os.environ else 1
COURIERS = {  # each with its database and its broker
    "sqlite": ("sqlite", None),
    "postgres": ("postgres", None),
    "rabbitmq": ("postgres", RABBITMQ),
    "redis": ("postgres", REDIS),
}

SETTINGS_MODULES = {  # of processes whose stages are not the real ones
    trivial.PATH: "tests.batch.trivial_settings",
    misfortune.PATH: "tests.batch.misfortune_settings",
}


def skip_or_fail(reason: str) -> None:
    """A missing service is loud; in CI it is a failure."""
    (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(reason)


class Installation:
    """The ORM of the test process and every process begun by `start` use the same database and folders."""

    def __init__(self, folder: Path, database_url: str, **environment: object) -> None:
        self.folder = folder
        self.database_url = database_url
        self.environment = {
            **os.environ,
            "CONTIMG_VAR_DIR": str(folder),
            "CONTIMG_PRODUCTS_ROOT": str(folder / "products"),
            "CONTIMG_LOG_DIR": str(folder / "logs"),
            "CONTIMG_SECRET_KEY": "of a test",
            "DATABASE_URL": database_url,
            "PYTHONWARNINGS": "ignore",
            **{name: str(value) for name, value in environment.items()},
        }
        self._started: list[subprocess.Popen] = []

    def start(self, *arguments: str, log: str = "log") -> subprocess.Popen:
        """`manage.py` with these arguments, leading a process group of its own; what it says is added to a file."""
        with (self.folder / log).open("ab") as output:
            process = subprocess.Popen(
                [sys.executable, "manage.py", *arguments], cwd=PROJECT, env=self.environment, stdin=subprocess.DEVNULL,
                stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        self._started.append(process)
        return process

    def said(self, log: str = "log") -> str:
        return (self.folder / log).read_text()

    def kill_all(self) -> None:
        """Everything that was started here, and what that started."""
        for process in self._started:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        for process in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()

    def processes(self) -> list[psutil.Process]:
        """All processes that work for this installation, the test's own left out."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                if process.pid != os.getpid() and process.environ().get("CONTIMG_VAR_DIR") == str(self.folder):
                    found.append(process)
        return found


@contextlib.contextmanager
def inherited(number: signal.Signals, handler: signal.Handlers) -> Iterator[None]:
    """What is started meanwhile begins with this answer to a signal, whatever started the tests (`nohup`, `&`)."""
    before = signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, before)


def until(true: Callable[[], Any], *, within_s: float = 60.0, every_s: float = 0.05) -> Any:
    """What `true` answers when it is true; an assertion when it is not in time."""
    end = time.monotonic() + within_s * PATIENCE
    while not (found := true()):
        assert time.monotonic() < end, "it did not become so in time"
        time.sleep(every_s)
    return found


def _postgres(name: str) -> str:
    return f"{POSTGRES.rpartition('/')[0]}/{name}"


def run_sql(statement: str) -> None:
    import psycopg

    with psycopg.connect(
        POSTGRES.replace("postgres://", "postgresql://"), autocommit=True, connect_timeout=3
    ) as server:
        server.execute(statement)


@contextlib.contextmanager
def _pointed_at(database: Mapping[str, Any]) -> Iterator[None]:
    """The test process's default database, for all its threads, is this one meanwhile."""
    before, connection = connections.settings["default"], connections["default"]
    connections.settings["default"] = {**connections.configure_settings({"default": dict(database)})["default"]}
    connections["default"] = connections.create_connection("default")
    try:
        yield
    finally:
        connections["default"].close()
        if hasattr(connections["default"], "close_pool"):
            connections["default"].close_pool()
        connections.settings["default"], connections["default"] = before, connection


@functools.cache
def _described(url: str) -> dict[str, Any]:
    """As the settings describe a database at this address."""
    script = "import json; from contimg.settings import DATABASES; print(json.dumps(DATABASES['default'], default=str))"
    said = subprocess.run(
        [sys.executable, "-c", script], env={**os.environ, "DATABASE_URL": url}, cwd=PROJECT, capture_output=True,
        check=True, text=True,
    )  # fmt: skip
    return json.loads(said.stdout)


@pytest.fixture(scope="session")
def templates(tmp_path_factory, django_db_blocker) -> Iterator[Callable[[str], dict[str, Any]]]:
    """A migrated database of an engine, which is copied for each test: made by the first process of a run that needs it
    and, on PostgreSQL, dropped by the last.
    """
    folder: Path = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    names = {engine: folder / f"template_of_{engine}" for engine in DATABASES}

    def of(engine: str) -> dict[str, Any]:
        with _locked(folder / f"{engine}.lock"):
            if not names[engine].exists():
                url = _template(engine, folder)
                with django_db_blocker.unblock(), _pointed_at(_described(url)):
                    call_command("migrate", verbosity=0)
                names[engine].write_text(url)
            return _described(names[engine].read_text())

    with (folder / "templates.lock").open("w") as users:
        fcntl.flock(users, fcntl.LOCK_SH)
        yield of
        fcntl.flock(users, fcntl.LOCK_UN)
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if names["postgres"].exists():
                name = names["postgres"].read_text().rpartition("/")[2]
                run_sql(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
                names["postgres"].unlink()  # who comes later makes another


def _template(engine: str, folder: Path) -> str:
    if engine == "sqlite":
        return f"sqlite:///{folder / 'template.sqlite3'}"
    name = f"contimg_template_{uuid.uuid4().hex[:8]}"
    try:
        run_sql(f"CREATE DATABASE {name}")
    except Exception as error:  # noqa: BLE001 - whatever the driver says, there is no server to test on
        skip_or_fail(f"SKIPPED: no PostgreSQL server answers ({error}).")
    return _postgres(name)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@pytest.fixture
def install(templates, tmp_path, monkeypatch, settings, django_db_blocker) -> Iterator[Callable[..., Installation]]:
    """Makes the installation: `install("sqlite", CONTIMG_LEASE_S=5)`. Its processes die with the test.

    The engine may also be the address of an empty database on a server of the test's own.
    """
    with contextlib.ExitStack() as stack:

        def make(engine: str, *, stages: str = trivial.PATH, **environment: object) -> Installation:
            folder = Path(tempfile.mkdtemp(prefix="installation", dir=tmp_path))
            (folder / "products").mkdir(parents=True)
            if "://" in engine:
                url, database = engine, _described(engine)
            elif engine == "postgres":
                name, template = f"contimg_{uuid.uuid4().hex[:8]}", templates(engine)
                run_sql(f"CREATE DATABASE {name} TEMPLATE {template['NAME']}")
                stack.callback(run_sql, f"DROP DATABASE {name} WITH (FORCE)")
                url, database = _postgres(name), {**template, "NAME": name}
            else:
                path, template = folder / "contimg.sqlite3", templates(engine)
                shutil.copy(template["NAME"], path)
                url, database = f"sqlite:///{path}", {**template, "NAME": str(path)}
            environment["DJANGO_SETTINGS_MODULE"] = SETTINGS_MODULES.get(stages, "contimg.settings")
            installation = Installation(folder, url, **environment)
            for variable, value in installation.environment.items():
                monkeypatch.setenv(variable, value)  # the children of executors in this process
                if hasattr(django_settings, variable) and variable in environment:
                    setattr(settings, variable, type(getattr(django_settings, variable))(environment[variable]))
            settings.CONTIMG_STAGES = stages
            settings.CONTIMG_PRODUCTS_ROOT, settings.CONTIMG_LOG_DIR = folder / "products", folder / "logs"
            stack.enter_context(django_db_blocker.unblock())
            stack.enter_context(_pointed_at(database))
            stack.callback(installation.kill_all)
            database_tag.cache_clear()
            if "://" in engine:
                call_command("migrate", verbosity=0)
            return installation

        yield make


def of_courier(name: str, install: Callable[..., Installation], **environment: Any) -> Installation:
    """An installation whose workers are woken by this courier."""
    engine, broker = COURIERS[name]
    if broker is not None:
        from kombu import Connection

        with Connection(broker, connect_timeout=3) as connection:
            try:
                connection.ensure_connection(max_retries=1, timeout=3)
            except (OSError, connection.OperationalError) as error:
                skip_or_fail(f"SKIPPED: no broker answers at {broker} ({error}).")
        environment |= {"CONTIMG_COURIER": "celery", "CONTIMG_BROKER_URL": broker, "CONTIMG_QUEUE": uuid.uuid4().hex}
    return install(engine, **environment)


@pytest.fixture(params=DATABASES)
def engine(request) -> str:
    return request.param


@pytest.fixture
def installation(install, engine) -> Installation:
    return install(engine)
