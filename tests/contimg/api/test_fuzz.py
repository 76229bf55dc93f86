"""The API is asked for what its own OpenAPI schema says, and for what it does not say, and holds to it.

`CONTIMG_TEST_FUZZ=10000 pytest tests/contimg/api/test_fuzz.py` sends about as many requests, other ones each time;
without it the same few hundred are sent. Each is undone, so that all meet the same rows. Every check of schemathesis is
made of every answer.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from django.contrib.auth.models import User
from django.db import transaction
from drf_spectacular.generators import SchemaGenerator
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as hypothesis_settings
from hypothesis.errors import Unsatisfiable
from schemathesis.core.failures import FailureGroup
from schemathesis.core.parameters import ParameterLocation
from schemathesis.generation import GenerationMode
from schemathesis.generation.drivers import CoverageGenerator
from schemathesis.generation.feedback import FeedbackSources
from schemathesis.generation.overrides import Override
from schemathesis.openapi.checks import RejectedPositiveData

from access.services import create_token
from batch import events
from contimg.urls import router
from tests.inside import seen_from_outside
from tests.test_query_budgets import make_rows

pytestmark = pytest.mark.django_db
LONG = int(os.environ.get("CONTIMG_TEST_FUZZ", "0"))
SHARE_OF_LIMITS = 0.2  # of the operations: to find the limits of one takes as long as to ask ten times
PARTS = 3.2  # of the requests to one operation, on average: see `cases_of`

# Refusals of what the schema calls valid, each for a rule that OpenAPI has no words for.
BEYOND_THE_SCHEMA = {
    "incomplete_cone": "three parameters belong together",
    "incomplete_point": "two parameters belong together",
    "outside_calendar": "its offset moves a time of the first or last day out of it",
    "overflow": "the same in a body",
    "invalid_cursor": "it is signed",
    "reversed_interval": "the end comes after the beginning",
    "unknown_series": "some series are of antennas, some are not",
    "nothing_asked": "one of several parameters is needed",
    "unknown_antenna": "antennas are those of the rows",
    "cutout_size": "the range depends on the image's pixels",
    "invalid_choice": "the two axes of a raster differ",
    "missing_product": "the rows here have no files",
    "invalid_policy": "rules depend on the kind of subject, and on those of the policy that it is based on",
    "not_made_here": "an image from elsewhere, or a mosaic, is not imaged",
    "unknown_software": "software is that of the rows",
    "unknown_metric": "metrics depend on the kind of subject",
    "contradictory_rules": "rules depend on each other",
    "does_not_exist": "the policy that it is based on",
    "invalid_alert_change": "it is silenced until after what it tells of",
    "invalid_antenna_flag": "its times are of this and the last century, in order, and its antenna is one of the array",
    "invalid_query": "subjects or a query, and its filters are those of the list of its kind",
    "no_subjects": "the query finds nothing",
    "subject_missing": "subjects are rows",
    "duplicate_subject": "subjects differ",
    "wrong_subject_kind": "kinds depend on the stage",
    "unknown_ordering": "by distance in cones alone",
    "precondition_failed": "versions are those of the rows",
    "range_not_satisfiable": "ranges depend on the length of the file",
    "unknown_parameter": "parameters depend on the stage, pages are not for exports, `n` is for pictures only",
}


@pytest.fixture
def schema(application) -> Any:
    loaded = schemathesis.openapi.from_dict(SchemaGenerator().get_schema(request=None, public=True))
    loaded.app = application
    return loaded


@pytest.fixture
def rows() -> dict[str, int]:
    """By resource the id of a row that has some of everything that hangs on it."""
    return {prefix: make_rows(basename, 2) for prefix, _, basename in router.registry}


def drawn(strategy: Any, wanted: int) -> list[Any]:
    """Fewer where there are no more: who takes no parameters cannot be given wrong ones."""
    cases: list[Any] = []

    @hypothesis_settings(
        max_examples=wanted, deadline=None, database=None, derandomize=not LONG, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(strategy)
    def draw(case: Any) -> None:
        cases.append(case)

    try:
        draw()
    except Unsatisfiable:
        return cases
    return cases


def at_the_limits(schema: Any, operation: Any) -> list[Any]:
    """Both sides of each limit, what is missing, other methods, other content types."""
    config = schema.config.generation_for(operation=operation, phase="coverage")
    return list(
        CoverageGenerator(
            operation=operation, generation_modes=list(GenerationMode), generation_config=config, auth_storage=None,
            override=Override(), feedback=FeedbackSources(),
        )
    )  # fmt: skip


def cases_of(schema: Any, operation: Any, row: int | None, wanted: int) -> Iterator[Any]:
    """Right and wrong ones, of any row and of one that there is, and those at the limits."""
    for mode in GenerationMode:
        yield from drawn(operation.as_strategy(generation_mode=mode), wanted)
        # Of a row that there is, headers alone cannot be wrong; to find that out takes a second.
        if row is not None and (mode == GenerationMode.POSITIVE or operation.query or operation.body):
            there = {"id": str(row)}
            yield from drawn(operation.as_strategy(generation_mode=mode, path_parameters=there), wanted)
    chance = random.Random(None if LONG else operation.label)
    limits = at_the_limits(schema, operation) if LONG or chance.random() < SHARE_OF_LIMITS else []
    for case in chance.sample(limits, min(wanted, len(limits))):
        if row is not None and not case.meta.is_negative_at(ParameterLocation.PATH):
            case.path_parameters = {"id": str(row)}
        yield case


def is_beyond_the_schema(failure: Any, response: Any) -> bool:
    if not isinstance(failure, RejectedPositiveData):
        return False
    if response.status_code == 304:
        return True  # the right answer to `If-None-Match: *`
    problem = response.json()
    codes = {error["code"] for error in problem["errors"]} or {problem["code"]}
    return codes <= BEYOND_THE_SCHEMA.keys()


def is_echo(case: Any) -> bool:
    """The words of requests are taken from our sources too, and an answer names the path that was asked for."""
    return bool(seen_from_outside(f"{case.formatted_path} {case.query} {case.body}".encode(), {}))


def surprises_of(case: Any, headers: dict[str, str]) -> list[str]:
    with transaction.atomic():
        response = case.call(headers=headers)
        try:
            assert is_echo(case) or not seen_from_outside(response.content, response.headers), case.as_curl_command()
            case.validate_response(response, headers=headers, transport_kwargs={"headers": headers})
        except FailureGroup as group:
            failures = [failure for failure in group.exceptions if not is_beyond_the_schema(failure, response)]
            about = f"{case.as_curl_command()}\n{response.status_code} {response.text[:1000]}"
            return [f"{failure.title}: {failure.message}\n{about}" for failure in failures]
        finally:
            transaction.set_rollback(True)
    return []


@pytest.mark.filterwarnings("ignore::erfa.ErfaWarning", "ignore::astropy.utils.exceptions.AstropyWarning")
@pytest.mark.parametrize("caller", ["anybody", "administrator"])
def test_every_answer_is_as_the_schema_says(schema, rows, caller, settings, monkeypatch):
    settings.CONTIMG_THROTTLE_ANON = settings.CONTIMG_THROTTLE_TOKEN = "1000000/m"
    monkeypatch.setattr(events, "SLICE_S", 0.0)
    _, secret = create_token(user=User.objects.create_superuser("root"), scope="admin")
    headers = {} if caller == "anybody" else {"Authorization": f"Bearer {secret}"}
    operations = [found.ok() for found in schema.get_all_operations()]
    wanted = max(1, int(LONG / (2 * PARTS * len(operations))))
    n_sent, surprises = 0, []
    for operation in operations:
        row = next((pk for prefix, pk in rows.items() if f"/{prefix}/{{id}}/" in operation.path), None)
        for case in cases_of(schema, operation, row, wanted):
            n_sent += 1
            surprises += surprises_of(case, headers)
    print(f"{n_sent} requests")
    assert not surprises, "\n\n".join(surprises)
