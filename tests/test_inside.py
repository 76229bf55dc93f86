"""Every address that can be read, with its rows and without, in health and in ruin: nothing of the inside is shown."""

from __future__ import annotations

from typing import Any

import pytest
from django.conf import settings
from django.urls import reverse
from rest_framework.test import APIClient

from access.services import create_token
from batch import events
from calibration.models import CalibrationTable
from contimg.urls import product_actions, router
from images.models import Image
from observations.models import MeasurementSet
from tests.access.test_matrix import OF_NO_ROW, QUERIES, close, routes
from tests.inside import seen_from_outside
from tests.test_query_budgets import make_rows

pytestmark = pytest.mark.django_db
ELSEWHERE = (
    "/", "/api/", "/api/v1/", "/api/v1/schema/", "/api/v1/docs/", "/api/v1/redoc/", "/api/v1/nothing/", "/nothing",
    "/admin/", "/admin/login/", "/api/auth/login/", "/health/", "/health/live", "/health/ready", "/metrics",
)  # fmt: skip
WRONG = "?cursor=x&limit=0&ordering=path&ra_deg=1&colour=red"


@pytest.fixture
def readers(monkeypatch, django_user_model) -> list[APIClient]:
    """Somebody outside, and who may see everything."""
    monkeypatch.setattr(events, "SLICE_S", 0.0)
    _, secret = create_token(user=django_user_model.objects.create_superuser("root"), scope="admin")
    inside = APIClient(raise_request_exception=False)
    inside.credentials(HTTP_AUTHORIZATION=f"Bearer {secret}")
    return [APIClient(raise_request_exception=False, REMOTE_ADDR="192.0.2.7"), inside]


def addresses(rows: dict[str, int]) -> list[str]:
    """Without a row of a resource, that of a row which there is not."""
    found = list(ELSEWHERE)
    for prefix, _, basename in (*router.registry, *product_actions.registry):
        names = [name for name in routes() if name.startswith(f"{basename}-")]
        for name in names:
            is_of_row = not name.endswith("-list") and name not in OF_NO_ROW
            found.append(reverse(name, args=[rows.get(prefix, 999_999)] if is_of_row else []))
    return [*found, *(reverse(name) for name in OF_NO_ROW)]


def shown(client: APIClient, address: str, query: Any = None, method: str = "get", **headers: str) -> list[str]:
    answer = getattr(client, method)(address, query, headers=headers)
    content = b"".join(answer) if answer.streaming else answer.content
    close(answer)
    return [f"{method} {address} {answer.status_code}: {sign}" for sign in seen_from_outside(content, answer.headers)]


def walk(readers: list[APIClient], rows: dict[str, int]) -> list[str]:
    queries = {reverse(name, args=[rows.get("images", 999_999)] if "image" in name else []): query
               for name, query in QUERIES.items()}  # fmt: skip
    signs: list[str] = []
    outside, inside = readers
    for address in dict.fromkeys(addresses(rows)):
        query = queries.get(address)
        signs += shown(inside, address, query)
        signs += shown(outside, address, query, accept="text/html")
        signs += shown(inside, address, {"a": 1}, method="patch")
        signs += shown(outside, address + WRONG)
    return signs


def test_without_rows_nothing_of_the_inside_is_shown(readers):
    assert walk(readers, {}) == []


def test_with_rows_whose_files_are_gone_nothing_of_the_inside_is_shown(readers):
    assert walk(readers, {prefix: make_rows(basename, 2) for prefix, _, basename in router.registry}) == []


def test_of_files_that_are_broken_nothing_of_the_inside_is_shown(readers):
    rows = {prefix: make_rows(basename, 1) for prefix, _, basename in router.registry}
    for model in (Image, MeasurementSet, CalibrationTable):
        for path in model.objects.values_list("path", flat=True):
            file = settings.CONTIMG_PRODUCTS_ROOT / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(b"neither this nor that")
    Image.objects.update(preview_path="previews/gone.png", noise_path="images/gone.fits")
    names = [name for name in routes() if name.rsplit("-", 1)[-1] in BROKEN]
    signs = [
        sign
        for name in names
        for sign in shown(readers[1], reverse(name, args=[rows[RESOURCE[name]]]), QUERIES.get(name))
    ]
    assert signs == []


BROKEN = {"fits", "noise", "preview", "cutout", "raster", "solutions", "antennas", "log", "plan"}
RESOURCE = {
    name: prefix
    for prefix, _, basename in (*product_actions.registry, *router.registry)
    for name in routes()
    if name.startswith(f"{basename}-")
}


@pytest.mark.parametrize(
    "text",
    [
        "cannot open /srv/products/images/1.fits",
        "Traceback (most recent call last)",
        'File "x.py", line 3',
        "SELECT id FROM images_image",
        ".venv/lib/python3.11/site-packages/django",
    ],
)
def test_a_sign_of_the_inside_is_found_where_there_is_one(text):
    assert len(seen_from_outside(f"it says: {text}.".encode(), {})) == 1
    assert len(seen_from_outside(b"", {"X-Detail": text})) == 1


def test_what_everybody_may_see_is_no_sign():
    for text in ("/api/v1/images/1/fits/", "https://host/data/1", "mJy/beam", "select one from the list"):
        assert seen_from_outside(text.encode(), {"Location": text}) == []
