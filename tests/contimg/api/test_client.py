"""The schema is true: a typed Python client made of it by openapi-python-client reads what the API answers."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from types import ModuleType
from typing import Any

import httpx
import pytest
from django.contrib.auth.models import User
from drf_spectacular.generators import SchemaGenerator

from access.services import create_token
from contimg.urls import router
from tests.factories import ImageFactory, SubbandGroupFactory
from tests.test_query_budgets import make_rows

pytestmark = [pytest.mark.django_db, pytest.mark.once]
FILES = ("application/fits", "image/png", "image/svg+xml")  # the generator has to be told which types are bytes


@pytest.fixture(scope="module")
def package(tmp_path_factory) -> Any:
    """Any warning of the generator, such as of a name that is there twice, is a failure."""
    folder = tmp_path_factory.mktemp("client")
    (folder / "schema.json").write_text(json.dumps(SchemaGenerator().get_schema(request=None, public=True)))
    config = {"post_hooks": [], "content_type_overrides": dict.fromkeys(FILES, "application/octet-stream")}
    (folder / "config.json").write_text(json.dumps(config))
    made = subprocess.run(
        [
            sys.executable, "-m", "openapi_python_client", "generate", "--path", "schema.json",
            "--config", "config.json", "--meta", "none", "--output-path", "contimg_client", "--fail-on-warning",
        ],
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert made.returncode == 0, made.stdout + made.stderr
    sys.path.insert(0, str(folder))
    yield importlib.import_module("contimg_client")
    sys.path.remove(str(folder))


@pytest.fixture
def client(package, application) -> Any:
    """Of an operator; a status that the schema does not have is an error."""
    _, secret = create_token(user=User.objects.create_superuser("root"), scope="admin")
    return package.AuthenticatedClient(
        base_url="http://testserver",
        token=secret,
        raise_on_unexpected_status=True,
        httpx_args={"transport": httpx.WSGITransport(app=application)},
    )


def call(path: str) -> ModuleType:
    return importlib.import_module(f"contimg_client.api.{path}")


def model(name: str) -> Any:
    return getattr(importlib.import_module("contimg_client.models"), name)


def test_images_are_listed_and_one_is_read(client):
    image = ImageFactory(rms_jy_per_beam=0.0005)
    ImageFactory(rms_jy_per_beam=0.02)
    page = call("images.images_list").sync(client=client, rms_jy_per_beam_lt=0.01, count=True)
    assert ([row.id for row in page.results], page.count, page.next_) == ([image.pk], 1, None)
    one = call("images.images_retrieve").sync(client=client, id=str(image.pk))
    assert (one.name, one.rms_jy_per_beam, one.observed_at) == (image.name, 0.0005, image.observed_at)


def test_a_batch_is_made_and_a_refusal_is_a_problem(client):
    tile = SubbandGroupFactory()
    subject = model("NewBatchSubject")(kind=model("WorkKindEnum").SUBBAND_GROUP, id=tile.pk)
    asked = model("NewBatch")(stage=model("StageEnum").CONVERT, subjects=[subject], idempotency_key="tonight")
    made = call("batches.batches_create").sync(client=client, body=asked)
    assert (made.stage.value, made.owner, made.counts.total) == ("convert", "root", 1)
    asked.priority = 5
    problem = call("batches.batches_create").sync(client=client, body=asked)
    assert (type(problem), problem.status, problem.code) == (model("Problem"), 409, "idempotency_conflict")
    nothing = call("images.images_retrieve").sync(client=client, id="999999")
    assert (nothing.status, nothing.code) == (404, "not_found")


@pytest.mark.parametrize(("prefix", "basename"), [(prefix, basename) for prefix, _, basename in router.registry])
def test_the_list_and_the_detail_of_every_resource_are_read(client, prefix, basename):
    pk = make_rows(basename, 2)
    folder = prefix.replace("-", "_")
    page = call(f"{folder}.{folder}_list").sync(client=client)
    assert pk in [row.id for row in page.results]
    detail = call(f"{folder}.{folder}_retrieve").sync(client=client, id=str(pk))
    assert detail.id == pk
    assert not getattr(detail, "additional_properties", {}), "fields that the schema does not have"
