"""Nothing in the OpenAPI schema goes without a description or an example, and its examples are what the API answers.

`CONTIMG_WRITE_DOCS=1 pytest tests/contimg/api/test_described.py` writes the examples anew.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import OperationalError
from drf_spectacular.generators import SchemaGenerator
from jsonschema import Draft202012Validator

from access.services import create_token
from contimg.api.described import EXAMPLES, HEADERS
from contimg.api.meanings import MEANINGS
from contimg.urls import router
from images.viewsets import ImageViewSet
from tests import factories
from tests.batch.test_blame import another_set
from tests.provenance.chains import make_chain
from tests.test_query_budgets import epoch_with_tiles, image_with_tables_and_verdict, make_rows

V1 = "/api/v1"
HERE = "https://contimg.example.org"
SINCE, UNTIL = "2026-03-01T00:00:00Z", "2026-03-02T00:00:00Z"


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    """As a client reads it."""
    made = SchemaGenerator().get_schema(request=None, public=True)
    return json.loads(json.dumps(made, default=str))


def resolved(document: dict[str, Any], said: dict[str, Any]) -> dict[str, Any]:
    while "$ref" in said:
        found: Any = document
        for step in said["$ref"].removeprefix("#/").split("/"):
            found = found[step]
        said = found
    return said


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield method, path, operation


def answers_of(document: dict[str, Any], operation: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {status: resolved(document, answer) for status, answer in operation["responses"].items()}


def forms(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every JSON that is sent or answered."""
    for method, path, operation in operations(document):
        for status, said in {"body": operation.get("requestBody", {}), **answers_of(document, operation)}.items():
            for media_type, form in said.get("content", {}).items():
                if "json" in media_type:
                    yield f"{method} {path} {status}", form


# --- what is said ----------------------------------------------------------------------------------------------------
def test_every_parameter_property_and_answer_has_a_description(document):
    bare = [
        f"{method} {path} {parameter['name']}"
        for method, path, operation in operations(document)
        for parameter in operation["parameters"]
        if not _said(parameter)
    ]
    bare += [
        f"{method} {path} {status}"
        for method, path, operation in operations(document)
        for status, answer in answers_of(document, operation).items()
        if not _said(answer)
    ]
    bare += [
        f"{component}.{name}"
        for component, schema in document["components"]["schemas"].items()
        for name, said in schema.get("properties", {}).items()
        if not _said(said)
    ]
    assert bare == []


def test_every_meaning_is_that_of_a_field_or_parameter(document):
    schemas = document["components"]["schemas"].items()
    fields = {(component, name) for component, schema in schemas for name in schema.get("properties", {})}
    named = {name for _, name in fields} | {f"{component}.{name}" for component, name in fields}
    asked = {p["name"].partition("__")[0] for _, _, operation in operations(document) for p in operation["parameters"]}
    assert MEANINGS.keys() <= named | asked


def _said(described: dict[str, Any]) -> str:
    """Besides the list of the words that may stand there."""
    return described.get("description", "").partition("* `")[0].strip()


def test_every_list_that_is_sent_says_how_long_it_may_be(document):
    components = document["components"]["schemas"]

    def unlimited(schema: dict[str, Any], name: str) -> Iterator[str]:
        schema = components[schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema
        if schema.get("type") == "array":
            yield from [] if "maxItems" in schema else [name]
            yield from unlimited(schema["items"], f"{name}[]")
        for key, inner in schema.get("properties", {}).items():
            yield from unlimited(inner, f"{name}.{key}")

    bodies = [(name, form["schema"]) for name, form in forms(document) if name.endswith(" body")]
    assert [found for name, schema in bodies for found in unlimited(schema, name)] == []


def test_a_filter_is_described_by_what_its_field_is(document):
    of_images = {
        parameter["name"]: parameter["description"]
        for parameter in document["paths"][f"{V1}/images/"]["get"]["parameters"]
    }
    assert of_images["rms_jy_per_beam__lt"].startswith("Less than this: Noise")
    assert of_images["rms_jy_per_beam__lt"].endswith("In Jy/beam.")
    assert of_images["observed_at__gte"].startswith("Not before this: Time of observation")
    assert of_images["is_suspect"] == "It, or something it was made from, is quarantined."
    assert of_images["grade"].startswith("One of these, separated by commas: ")


def test_an_ordering_by_distance_is_offered_where_there_are_cones(document):
    for prefix, view, _ in router.registry:
        parameters = document["paths"][f"{V1}/{prefix}/"]["get"]["parameters"]
        offered = next(p["schema"]["enum"] for p in parameters if p["name"] == "ordering")
        assert ("separation_deg" in offered) == ("radius_deg" in view.filterset_class.base_filters), prefix


def test_errors_have_the_headers_and_statuses_that_go_with_them(document):
    for method, path, operation in operations(document):
        answers = answers_of(document, operation)
        assert all("X-Request-ID" in answer["headers"] for answer in answers.values())
        assert "Retry-After" in answers["429"]["headers"]
        assert "Retry-After" in answers["503"]["headers"]
        assert ({"413", "415"} <= answers.keys()) == ("requestBody" in operation), (method, path)


def test_what_can_be_asked_for_conditionally_or_in_part_says_so(document):
    for method, path, operation in operations(document):
        answers, asked = answers_of(document, operation), {p["name"] for p in operation["parameters"]}
        has_version = method == "get" and not path.endswith("/events/")
        assert ({"304", "412"} <= answers.keys()) == has_version, (method, path)
        assert ({"If-None-Match", "If-Match"} <= asked) == has_version
        assert ("ETag" in answers.get("200", {}).get("headers", {})) == has_version
        in_part = {"206", "416"} <= answers.keys()
        assert ({"Range", "If-Range"} <= asked) == in_part
        if in_part:
            assert {"ETag", "Accept-Ranges", "Content-Range", "Content-Disposition"} <= answers["206"]["headers"].keys()
        assert "X-Request-ID" in asked


def test_every_header_that_is_told_is_that_of_an_answer(document):
    used = {
        name
        for _, _, operation in operations(document)
        for answer in answers_of(document, operation).values()
        for name in answer["headers"]
    }
    assert used == HEADERS.keys()


@pytest.mark.django_db
def test_a_light_curve_as_a_file_is_answered_in_part(api):
    source = factories.MeasurementFactory().source
    response = api.get(f"{V1}/sources/{source.pk}/light-curve/?format=csv", headers={"range": "bytes=0-9"})
    assert (response.status_code, response.headers["Content-Length"]) == (206, "10")


@pytest.mark.django_db
def test_another_version_of_a_picture_than_is_expected_is_not_made(api, products_root):
    (products_root / "raw.ms").mkdir()
    raster = f"{V1}/measurement-sets/{factories.MeasurementSetFactory(path='raw.ms').pk}/raster.png"
    response = api.get(raster, headers={"if-match": '"0"'})
    assert (response.status_code, response.json()["code"]) == (412, "precondition_failed")
    assert api.get(raster, headers={"if-none-match": "*"}).status_code == 304


# --- the examples --------------------------------------------------------------------------------------------------
def test_every_body_and_every_json_has_an_example_that_is_valid(document):
    schemas = {
        "components": {
            "schemas": {name: as_json_schema(said) for name, said in document["components"]["schemas"].items()}
        }
    }
    used = set()
    for where, form in forms(document):
        assert form.get("examples"), where
        for key, example in form["examples"].items():
            used.add(key)
            value = resolved(document, example)["value"]
            wrong = Draft202012Validator({**as_json_schema(form["schema"]), **schemas}).iter_errors(value)
            assert [f"{where}: {error.json_path} {error.message}" for error in wrong] == []
    assert used == document["components"]["examples"].keys()


def as_json_schema(said: Any) -> Any:
    """A schema of OpenAPI 3.0, in which keys that it does not name are wrong."""
    if isinstance(said, list):
        return [as_json_schema(one) for one in said]
    if not isinstance(said, dict):
        return said
    made = {key: as_json_schema(value) for key, value in said.items() if key != "nullable"}
    for end, closed in (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")):
        if made.get(end) is True:
            made[end] = made.pop(closed)
    if isinstance(said.get("properties"), dict):
        made.setdefault("additionalProperties", False)
    return {"anyOf": [made, {"type": "null"}]} if said.get("nullable") is True else made


@pytest.mark.once
@pytest.mark.django_db
def test_the_examples_are_what_the_api_takes_and_answers(
    document, administrator, calibrator_tile, products_root, settings, tmp_path, monkeypatch
):
    settings.CONTIMG_LOG_DIR = tmp_path
    shutil.copytree(calibrator_tile.path, products_root / "raw.ms")
    for make in (factories.UserFactory, *factories.ALL):  # the same rows each time
        make.reset_sequence(0, force=True)
    told = _Told(document, administrator)
    answers_to_reading(told, tmp_path)
    answers_to_changing(told)
    problems(told, products_root, settings, monkeypatch)
    if os.environ.get("CONTIMG_WRITE_DOCS"):
        EXAMPLES.write_text(json.dumps(told.examples, indent=1, ensure_ascii=False, sort_keys=True) + "\n")
        return
    written = json.loads(EXAMPLES.read_text())
    assert written.keys() == told.examples.keys()
    for key, value in written.items():
        assert shape(value) == shape(told.examples[key]), f"{key}: write the examples anew with CONTIMG_WRITE_DOCS=1."


def shape(value: Any) -> Any:
    """Keys and types. Rows of a list have the same, and ids, times and digests are other ones each time."""
    if isinstance(value, dict):
        return {key: shape(one) for key, one in value.items()}
    if isinstance(value, list):
        return [shape(one) for one in value]
    return "number" if type(value) in (int, float) else type(value).__name__


def shortened(value: Any) -> Any:
    """Of objects in a row the first two."""
    if isinstance(value, dict):
        return {key: shortened(one) for key, one in value.items()}
    if isinstance(value, list):
        return [shortened(one) for one in (value[:2] if value and isinstance(value[0], dict) else value)]
    return value


class _Told:
    """Asks as an administrator, and keeps what was sent and answered under the keys that the schema has for it."""

    def __init__(self, document: dict[str, Any], client: Any) -> None:
        self.document, self.client, self.examples = document, client, {}

    def ask(self, path: str, pk: int | None = None, query: str = "", *, method: str = "get", body: Any = None) -> Any:
        operation = self.document["paths"][f"{V1}/{path}"][method]
        url = f"{V1}/{path.format(id=pk)}{query}"
        response = getattr(self.client, method)(url, **({} if method == "get" else {"data": body, "format": "json"}))
        assert 200 <= response.status_code < 300, response.content
        if "requestBody" in operation:
            self.keep(operation["requestBody"]["content"], body)
        answer = operation["responses"][str(response.status_code)]
        self.keep(answer["content"], response.json())
        assert ("Location" in response.headers) == ("Location" in answer["headers"])
        if "Location" in response.headers:
            assert self.client.get(response.headers["Location"]).json()["id"] == response.json()["id"]
        return response.json()

    def keep(self, content: dict[str, Any], value: Any) -> None:
        (key,) = content["application/json"]["examples"]
        self.examples[key] = json.loads(json.dumps(shortened(value)).replace("http://testserver", HERE))

    def problem(self, status: int, response: Any) -> None:
        assert response.status_code == status, response.content
        self.examples[f"Problem{status}"] = response.json()


def answers_to_reading(told: _Told, logs: Path) -> None:
    for prefix, _, basename in router.registry:
        pk = make_rows(basename, 2)
        told.ask(f"{prefix}/", query="?limit=1")
        told.ask(f"{prefix}/{{id}}/", pk)
    image = image_with_tables_and_verdict(1)
    factories.ComparisonFactory(image=image)
    told.ask("images/{id}/", image.pk)
    told.ask("images/{id}/versions/", image.pk, "?limit=1")
    told.ask("drift/", query=f"?series=flux_ratio&pointing_dec_deg=16.1&observed_from={SINCE}&observed_until={UNTIL}")
    told.ask("stats/")
    chain = make_chain(1)
    told.ask("images/{id}/provenance/", chain.tiles[0].pk)
    told.ask("calibration-tables/{id}/impact/", chain.tables[0].pk)
    source = factories.MeasurementFactory(image=chain.tiles[0]).source
    told.ask("sources/{id}/light-curve/", source.pk)
    factories.ImageFactory(ra_deg=source.ra_deg, dec_deg=source.dec_deg)
    told.ask("sources/{id}/cutouts/", source.pk, "?limit=1")
    factories.SourceFactory(ra_deg=source.ra_deg, dec_deg=source.dec_deg + 0.01)
    told.ask("sources/{id}/neighbours/", source.pk)
    raw = factories.MeasurementSetFactory(path="raw.ms")
    factories.AntennaFlagFactory(antenna="", started_at=raw.observed_at)
    told.ask("measurement-sets/{id}/antennas/", raw.pk)
    (logs / "1.log").write_text("2026-03-01T06:10:00Z read 16 files\n")
    item = factories.ItemFactory(attempt=1)
    factories.AttemptFactory(item=item, number=1, log_path="1.log", outcome="done")
    told.ask("items/{id}/log/", item.pk)
    for reviewer in factories.UserFactory.create_batch(2):
        factories.ReviewFactory(image=image, reviewer=reviewer)
    told.ask("reviews/agreement/")


def answers_to_changing(told: _Told) -> None:
    def post(path: str, body: Any = None, pk: int | None = None) -> Any:
        return told.ask(path, pk, method="post", body=body)

    alert = factories.AlertFactory()
    post("alerts/{id}/silence/", {"until": "2026-04-01T00:00:00Z"}, alert.pk)
    post("alerts/{id}/acknowledge/", {"note": "It rained."}, alert.pk)
    flag = {"antenna": "pad1", "started_at": "2026-03-01T06:00:00Z", "reason": "Its receiver is warm."}
    post("antenna-flags/", {**flag, "ended_at": "2026-03-01T18:00:00Z"})
    image, tile = factories.ImageFactory(), factories.SubbandGroupFactory()
    post("assessments/", {"query": {"kind": "image", "grade": "good", "observed_at__gte": SINCE}})
    subjects = [{"kind": "subband_group", "id": tile.pk}]
    batch = post("batches/", {"stage": "convert", "subjects": subjects, "priority": 5, "idempotency_key": "tonight"})
    post("batches/{id}/priority/", {"priority": 10}, batch["id"])
    post("images/{id}/reimage/", {"parameters": {"robust": 0.0}}, image.pk)
    post("calibration-tables/{id}/retire/", {"reason": "The calibrator is resolved."}, make_chain(1).tables[0].pk)
    post("pauses/", {"stage": "image", "reason": "A disk is being changed."})
    said = {"verdict": "marginal", "tags": ["rfi"], "comment": "Stripes in the north."}
    post("reviews/", {"subject": {"kind": "image", "id": image.pk}, **said})
    post("reviews/epoch/", {"epoch": epoch_with_tiles(1).pk, **said})
    rule = {
        "subject_kind": "image", "name": "noise_high", "metric": "rms_over_thermal", "comparison": "gt", "limit": 2.0,
        "grade": "marginal", "reason": "Healthy data come out at 1.5.",
    }  # fmt: skip
    active = told.client.get(f"{V1}/policies/?is_active=true").json()["results"][0]
    draft = post(
        "policies/", {"name": active["name"], "note": "Less noise.", "based_on": active["id"], "rules": [rule]}
    )
    told.ask("policies/{id}/", draft["id"], method="patch", body={"note": "Less noise, as agreed."})
    period = {"kind": "image", "observed_from": SINCE, "observed_until": UNTIL}
    factories.AssessmentFactory()
    post("policies/{id}/evaluate/", period, draft["id"])
    post("policies/{id}/activate/", pk=draft["id"])
    chain = make_chain(3)
    another_set(chain)
    suspect = {"kind": "calibration_table", "id": chain.tables[0].pk, "reason": "Solved on a resolved source."}
    quarantine = post("quarantines/", suspect)
    told.ask("quarantines/{id}/plan/", quarantine["id"])
    post("quarantines/{id}/reprocess/", pk=quarantine["id"])


def problems(told: _Told, products_root: Path, settings: Any, monkeypatch: Any) -> None:
    client, images = told.client, f"{V1}/images/"
    row, alert = factories.ImageFactory(), factories.AlertFactory()
    csv = f"{V1}/sources/{factories.SourceFactory().pk}/light-curve/?format=csv"
    told.problem(400, client.get(f"{images}?ra_deg=400&dec_deg=16.3&radius_deg=1"))
    told.problem(404, client.get(f"{images}999999/"))
    told.problem(405, client.delete(images))
    told.problem(406, client.get(images, headers={"accept": "image/webp"}))
    client.post(f"{V1}/alerts/{alert.pk}/acknowledge/", {})
    told.problem(409, client.post(f"{V1}/alerts/{alert.pk}/acknowledge/", {}))
    told.problem(410, client.get(f"{images}{row.pk}/fits/"))
    told.problem(412, client.get(f"{images}{row.pk}/", headers={"if-match": '"0"'}))
    large = f'{{"reason": "{"x" * settings.DATA_UPLOAD_MAX_MEMORY_SIZE}"}}'
    told.problem(413, client.post(f"{V1}/pauses/", large, content_type="application/json"))
    told.problem(415, client.post(f"{V1}/pauses/", "image", content_type="text/plain"))
    told.problem(416, client.get(csv, headers={"range": "bytes=1000000-"}))
    (products_root / "broken.ms").mkdir()
    broken = factories.MeasurementSetFactory(path="broken.ms")
    told.problem(422, client.get(f"{V1}/measurement-sets/{broken.pk}/raster.png"))
    for status, error in ((500, KeyError("a fault")), (503, OperationalError("no connection"))):
        with monkeypatch.context() as patched:
            patched.setattr(ImageViewSet, "get_queryset", _failing(error))
            told.problem(status, client.get(images))
    client.force_authenticate(None)
    told.problem(401, client.get(images, headers={"authorization": "Bearer dsa_wrong"}))
    _, secret = create_token(user=User.objects.create_user("ada"), scope="read")
    headers = {"authorization": f"Bearer {secret}"}
    told.problem(403, client.post(f"{V1}/pauses/", {}, headers=headers))
    settings.CONTIMG_THROTTLE_TOKEN = "1/min"
    client.get(images, headers=headers)
    told.problem(429, client.get(images, headers=headers))


def _failing(error: Exception) -> Any:
    def get_queryset(view: Any) -> None:
        raise error

    return get_queryset
