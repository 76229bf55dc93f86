from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from django.contrib.auth.models import User
from django.core.cache import cache
from django.core.handlers.wsgi import WSGIHandler
from django.core.signals import request_finished, request_started
from django.core.wsgi import get_wsgi_application
from django.db import close_old_connections
from rest_framework.test import APIClient

from access import throttles
from contimg.api import reuse
from contimg.products import WORK_FOLDER, database_tag

pytest_plugins = ["tests.science"]


@pytest.fixture(scope="session")
def django_db_setup(django_db_setup) -> Iterator[None]:
    """PostgreSQL drops no database that somebody is connected to."""
    yield
    reuse._watch.close()


@pytest.fixture(autouse=True)
def products_root(tmp_path: Path, settings) -> Path:
    """Every test has its own products root, without products: that of a disk which is there."""
    settings.CONTIMG_PRODUCTS_ROOT = tmp_path / "products"
    (settings.CONTIMG_PRODUCTS_ROOT / WORK_FOLDER).mkdir(parents=True)
    return settings.CONTIMG_PRODUCTS_ROOT


@pytest.fixture(autouse=True)
def static_files_are_looked_for_when_asked(settings) -> None:
    """Every test client starts the middleware anew, and each time WhiteNoise would list all files."""
    settings.WHITENOISE_AUTOREFRESH = True


@pytest.fixture(autouse=True)
def unknown_installation() -> None:
    """The database of one test may be another than that of the last."""
    database_tag.cache_clear()


@pytest.fixture(autouse=True)
def nobody_was_counted() -> None:
    """The throttles of one test know nothing of another's requests."""
    cache.clear()
    throttles._lots.clear()


@pytest.fixture
def application(db) -> Iterator[WSGIHandler]:
    """What a server runs, without leaving the connection that has the test's transaction."""
    for signal in (request_started, request_finished):
        signal.disconnect(close_old_connections)
    yield get_wsgi_application()
    for signal in (request_started, request_finished):
        signal.connect(close_old_connections)


@pytest.fixture
def administrator(db) -> APIClient:
    """May do everything, and costs no query for it."""
    client = APIClient(raise_request_exception=False)
    client.force_authenticate(User.objects.create_superuser("root"))
    return client


@pytest.fixture
def api() -> APIClient:
    """Reads as anybody may, and answers errors as a server would instead of raising them."""
    return APIClient(raise_request_exception=False)
