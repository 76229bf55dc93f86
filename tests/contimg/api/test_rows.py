"""Lists from rows answer byte for byte what their serializers would."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from contimg.api import rows, viewsets
from contimg.urls import router
from tests.test_query_budgets import make_rows

VIEWS = {basename: view for _, view, basename in router.registry if viewsets._rows(view) is not None}
IN_ROWS = {"image", "measurement-set", "calibration-table", "source", "measurement", "calibrator", "reference-source"}
N_EXAMPLES = 20


def test_the_large_lists_are_made_of_rows():
    assert set(VIEWS) >= IN_ROWS


@pytest.fixture
def filled(db):
    """Some rows of everything, with nulls, and with times that have and have not fractions of a second."""
    chance = random.Random(4)
    for basename, view in VIEWS.items():
        for _ in range(3):
            make_rows(basename, 2)
        model = view.queryset.model
        checked = {"observed_at", "mjd", "rms_jy_per_beam", "bpa_deg", "eta", "v", "snr", "flux_mean_jy", "valid_until"}
        for row in model.objects.all():
            nullable = [f.attname for f in model._meta.concrete_fields if f.null and f.name in checked]
            changed = {name: None for name in nullable if chance.random() < 0.3}
            if chance.random() < 0.3 and any(f.name == "created_at" for f in model._meta.concrete_fields):
                changed["created_at"] = datetime(2026, 3, 20, 1, 2, chance.randrange(60), tzinfo=UTC)
            if changed and model._meta.model_name != "auditentry":
                model.objects.filter(pk=row.pk).update(**changed)


def asked(data, view) -> str:
    ordering = data.draw(st.sampled_from([sign + name for name in view.orderings for sign in ("", "-")]))
    parts = [f"ordering={ordering}", f"limit={data.draw(st.sampled_from([1, 2, 3, 100]))}"]
    filters = view.filterset_class.base_filters
    start = datetime(2026, 3, 1, tzinfo=UTC)
    for name in data.draw(st.lists(st.sampled_from(sorted(filters)), max_size=3, unique=True)):
        kind = type(filters[name]).__name__
        if kind == "StrictBooleanFilter":
            value = data.draw(st.sampled_from(["true", "false"]))
        elif kind == "ChoicesFilter":
            choices = [choice for choice, _ in filters[name].extra["choices"]]
            value = ",".join(data.draw(st.lists(st.sampled_from(choices), min_size=1, max_size=2, unique=True)))
        elif kind == "TimeFilter":
            value = (start + timedelta(hours=data.draw(st.integers(0, 1000)))).isoformat().replace("+00:00", "Z")
        elif kind in ("NumberFilter", "IntegerFilter"):
            value = data.draw(st.sampled_from([0, 1, 2, 10, 100]))
        else:
            continue
        parts.append(f"{name}={value}")
    if data.draw(st.booleans()) and "radius_deg" in filters:
        parts = [part for part in parts if "deg" not in part and "ordering" not in part]
        parts += ["ra_deg=180", "dec_deg=40", f"radius_deg={data.draw(st.sampled_from([0.5, 10]))}"]
    return "&".join(parts)


@pytest.mark.django_db
@pytest.mark.parametrize("basename", sorted(VIEWS))
def test_a_page_of_rows_is_that_of_the_serializer_byte_for_byte(administrator, filled, basename):
    view, path = VIEWS[basename], f"/api/v1/{_prefix(basename)}/"
    n_rows = 0

    @hypothesis_settings(
        max_examples=N_EXAMPLES,
        deadline=None,
        derandomize=True,
        suppress_health_check=[HealthCheck.function_scoped_fixture],
    )
    @given(st.data())
    def compare(data):
        nonlocal n_rows
        url = f"{path}?{asked(data, view)}"
        for _ in range(3):
            from_rows = administrator.get(url)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(viewsets, "_rows", lambda viewset: None)
                from_instances = administrator.get(url)
            assert from_rows.content == from_instances.content, url
            n_rows += len(from_rows.json().get("results", []))
            following = [from_rows.json().get(side) for side in ("next", "previous")]
            url = data.draw(st.sampled_from(following))
            if url is None:
                return

    compare()
    assert n_rows > N_EXAMPLES / 2, "the filters let nothing through, so nothing was compared"


def _prefix(basename: str) -> str:
    return next(prefix for prefix, _, name in router.registry if name == basename)


@pytest.mark.django_db
def test_a_page_is_one_query_with_exactly_the_columns_that_it_shows(administrator, filled):
    with CaptureQueriesContext(
        connection,
    ) as queries:
        administrator.get("/api/v1/sources/?ordering=id")
    (query,) = queries
    shown = VIEWS["source"].serializer_class().fields.keys() - {"separation_deg"}
    selected = query["sql"].partition(" FROM ")[0]
    assert selected.count(",") + 1 == len(shown)
    assert all(f'"{name}"' in selected for name in shown)


@pytest.mark.django_db
def test_no_value_of_a_request_is_kept_with_its_statement(administrator, filled):
    rows._statements.clear()
    for limit in (0.001, 0.002, 0.003):
        administrator.get(f"/api/v1/images/?rms_jy_per_beam__lt={limit}")
        administrator.get(f"/api/v1/images/?ra_deg=180&dec_deg=40&radius_deg={1 + limit}")
    texts = [statement.text for statement in rows._statements.values()]
    assert len(texts) == 1 or len(texts) == 2, "the rows with a value, and those without"
    assert not any("0.00" in text for text in texts)
