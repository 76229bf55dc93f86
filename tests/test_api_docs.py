"""The examples of docs/api.md are run as they stand."""

from __future__ import annotations

import contextlib
import io
import re
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from django.conf import settings

from tests.factories import ImageFactory, MeasurementFactory

pytestmark = pytest.mark.django_db
PAGE = Path(settings.BASE_DIR, "docs", "api.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", PAGE, re.DOTALL)
CURLS = [line.split("'")[1] for kind, text in BLOCKS if kind == "sh" for line in text.splitlines()]
PYTHON = [text for kind, text in BLOCKS if kind == "python"]


def content_of(response) -> bytes:
    return b"".join(response.streaming_content) if response.streaming else response.content


@pytest.mark.parametrize("url", CURLS)
def test_a_curl_example_answers(api, url):
    MeasurementFactory()
    parts = urlsplit(url)
    response = api.get(f"{parts.path}?{parts.query}")
    assert response.status_code == 200, response.content
    assert content_of(response)


def test_the_python_examples_read_every_page_and_a_light_curve(api, monkeypatch):
    """Against the service in this process: `urlopen` asks it, and astropy reads what it answers."""
    measurement = MeasurementFactory()
    noisy = [ImageFactory(rms_jy_per_beam=0.01).name for _ in range(101)]

    def urlopen(url: str):
        parts = urlsplit(url)
        return contextlib.closing(io.BytesIO(content_of(api.get(f"{parts.path}?{parts.query}"))))

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    names = {"base": "http://testserver", "source": measurement.source_id}
    pages, curve = PYTHON
    exec(pages, names)  # noqa: S102 - our own page
    assert set(names["noisy"]) >= set(noisy)
    answered = content_of(api.get(f"/api/v1/sources/{measurement.source_id}/light-curve/?format=votable"))
    exec(curve.replace('f"{base}', 'read(f"{base}').replace('votable", format', 'votable"), format'), {  # noqa: S102
        **names, "read": lambda url: io.BytesIO(answered),
    })  # fmt: skip


def test_swagger_and_redoc_are_served_without_a_network(client):
    for path in ("/api/v1/docs/", "/api/v1/redoc/"):
        page = client.get(path).content.decode()
        assert "/static/drf_spectacular_sidecar/" in page
        assert not re.search(r'(src|href)="https?://', page)
    of_redoc = re.search('http-equiv="Content-Security-Policy" content="([^"]+)"', page)  # it wants a logo of its maker
    assert of_redoc[1] == "default-src 'self' data: blob: 'unsafe-inline'"
