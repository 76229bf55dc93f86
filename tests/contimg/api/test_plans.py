"""Every ordering alone, and every equality in the list's own order, has an index that gives its page in order.

Ranges (`flux_jy__gt`) have none: what little they let through is looked for in the whole table, for as long as
contimg/api/limits.py lets it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from contimg.urls import router
from tests.test_query_budgets import make_rows

pytestmark = pytest.mark.django_db
LARGE = {
    "subband-group", "measurement-set", "image", "source", "measurement", "reference-source", "assessment", "batch",
    "item", "audit",
}  # fmt: skip
VIEWS = {basename: view for _, view, basename in router.registry if basename in LARGE}


def plans(api, url: str) -> Iterator[tuple[str, str]]:
    """The statements of the list's own rows, each with how the database would find them in a large table."""
    with CaptureQueriesContext(connection) as queries:
        response = api.get(url)
    assert response.status_code == 200, (url, response.content)
    for query in queries:
        statement = query["sql"]
        if statement.startswith("SELECT") and " LIMIT " in statement:
            yield statement, explained(statement)


def explained(statement: str) -> str:
    with connection.cursor() as cursor:
        if connection.vendor == "sqlite":
            cursor.execute(f"EXPLAIN QUERY PLAN {statement}")
            return "\n".join(row[3] for row in cursor.fetchall())
        # The tables are small here: without this a scan and a sort are the fastest.
        cursor.execute("SET LOCAL enable_seqscan = off")
        cursor.execute("SET LOCAL enable_sort = off")
        cursor.execute("SET LOCAL enable_bitmapscan = off")
        cursor.execute(f"EXPLAIN {statement}")
        return "\n".join(row[0] for row in cursor.fetchall())


def slow_steps(plan: str, ordering: str) -> list[str]:
    """Steps that read a whole table out of order, or sort.

    By id SQLite reads the table itself, which has that order; a name is unique, and nothing is sorted behind it.
    """
    name = ordering.lstrip("-")
    scan = "Seq Scan" if name == "id" else "SCAN (?!.*USING)|Seq Scan"
    sort = "-> +Sort " if name == "name" else "Sort  "
    slow = re.compile(rf"{scan}|USE TEMP B-TREE|{sort}")
    return [step for step in plan.splitlines() if slow.search(step)]


def plans_in_every_order(api, basename: str, also: str = "") -> Iterator[tuple[str, str]]:
    """Each ordering of the list with the plan of each of its statements."""
    make_rows(basename, 2)
    prefix = next(prefix for prefix, _, name in router.registry if name == basename)
    for ordering in [sign + name for name in VIEWS[basename].orderings for sign in ("", "-")]:
        for _, plan in plans(api, f"/api/v1/{prefix}/?ordering={ordering}{also}"):
            yield ordering, plan


@pytest.mark.parametrize("basename", VIEWS)
def test_every_ordering_reads_an_index_in_its_order(administrator, basename):
    slow = [(ordering, slow_steps(plan, ordering)) for ordering, plan in plans_in_every_order(administrator, basename)]
    assert [(ordering, steps) for ordering, steps in slow if steps] == []


# Lists of what a telescope makes all night; the others' filters are used with a batch, a policy or a person.
FILTERED = {
    basename: VIEWS[basename] for basename in ("subband-group", "measurement-set", "image", "source", "measurement")
}
# What many rows have: the list's own order is read, and many of the rows are shown.
COMMON = {
    "is_complete=true", "is_suspect=false", "is_lenient=false", "is_disputed=false", "is_current=true",
    "is_primary_beam_corrected=true", "is_variable=false", "is_forced=true", "is_forced=false", "is_calibrated=true",
    "is_calibrated=false", "grade_source=policy",
}  # fmt: skip
RARE = {  # what has an index of its own; other flags and all keys are the first column of one
    "is_complete=false": "group_incomplete",
    "is_lenient=true": "(image|ms)_lenient",
    "is_disputed=true": "image_disputed",
    "is_current=false": "(image|ms)_older",
    "is_primary_beam_corrected=false": "image_uncorrected",
    "is_suspect=true": "_suspect",
    "is_variable=true": "source_variable",
    "subband_group=1": r"\bgroup_id=\?",
}
ELSEWHERE = {"grade_source=review"}  # `reviews/` lists them
# Of which a set, a tile or an epoch has a few, that are sorted.
A_FEW = {"group=1", "subband_group=1", "calibrated_from=1", "measurement_set=1", "mosaic_of=1"}


def equalities(view) -> Iterator[str]:
    """Each filter that wants one value, with each value that it may have."""
    for name, filter_ in view.filterset_class.base_filters.items():
        kind, field = type(filter_).__name__, getattr(view.queryset.model, filter_.field_name or "", None)
        if kind == "ChoicesFilter":
            yield from (f"{name}={choice}" for choice, _ in filter_.extra["choices"])
        elif kind == "StrictBooleanFilter" and filter_.lookup_expr == "exact":
            yield from (f"{name}={value}" for value in ("true", "false"))
        elif (
            kind in ("IntegerFilter", "CharFilter")
            and filter_.lookup_expr == "exact"
            and hasattr(field, "get_queryset")
        ):
            yield f"{name}=1"


@pytest.mark.skipif(connection.vendor == "postgresql", reason="chooses among indexes by what little there is here")
@pytest.mark.parametrize("basename", FILTERED)
def test_every_equality_finds_its_rows_in_the_lists_own_order(administrator, basename):
    view = FILTERED[basename]
    make_rows(basename, 2)
    prefix = next(prefix for prefix, _, name in router.registry if name == basename)
    found = {}
    for equality in set(equalities(view)) - COMMON - ELSEWHERE:
        for statement, plan in plans(administrator, f"/api/v1/{prefix}/?{equality}"):
            name = equality.partition("=")[0]
            wanted = RARE.get(equality, rf"{name}(_id)?=\?")
            sorts = "TEMP B-TREE" in plan and equality not in A_FEW
            if sorts or not re.search(wanted, plan):
                found[equality] = (plan, statement[-200:])
    assert not found, found


CONE, POINT = "&ra_deg=180&dec_deg=40&radius_deg=1", "&covers_ra_deg=180&covers_dec_deg=40"


@pytest.mark.skipif(connection.vendor == "postgresql", reason="chooses by its statistics, and there are none here")
@pytest.mark.parametrize(
    ("basename", "place"), [("image", CONE), ("image", POINT), ("measurement", CONE), ("source", CONE)]
)
def test_a_place_on_the_sky_is_looked_for_by_its_cells_in_every_order(administrator, basename, place):
    table = VIEWS[basename].queryset.model._meta.db_table
    for ordering, plan in plans_in_every_order(administrator, basename, place):
        assert "rowid=" in plan, (ordering, plan)
        assert "healpix>" in plan, (ordering, plan)
        assert f"SCAN {table}" not in plan, (ordering, plan)
