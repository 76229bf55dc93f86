"""The graph of a product: what it was made from, and what was made from it, with who made each and with what."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from django.db.models import F, Max, Model, QuerySet

from calibration.models import AppliedFlags, AppliedTable
from images.models import MosaicTile
from provenance.reach import KINDS, Keys, downstream, node, upstream

MOST_NODES = 500  # of one kind; a graph is for people
# What a node shows of its row; a kind that has no such column shows null.
COLUMNS = {
    "subband_group": {"name": "started_at"},
    "measurement_set": {"name": "name"},
    "flag_table": {"name": "measurement_set__name"},
    "calibration_table": {"name": "set_name", "detail": "kind", "grade": "grade"},
    "image": {"name": "name", "detail": "kind", "grade": "grade"},
    "catalogue": {"name": "image__name", "is_suspect": "image__is_suspect"},
}
PRODUCT_COLUMNS = ("recipe", "checksum", "parameters", "versions", "created_at")
# Kind of the later product, its column, and what kind of product that names.
LINKS = (
    ("measurement_set", "group_id", "subband_group", "derived_from"),
    ("measurement_set", "calibrated_from_id", "measurement_set", "derived_from"),
    ("flag_table", "measurement_set_id", "measurement_set", "derived_from"),
    ("calibration_table", "source_measurement_set_id", "measurement_set", "derived_from"),
    ("calibration_table", "flag_table_id", "flag_table", "derived_from"),
    ("image", "measurement_set_id", "measurement_set", "derived_from"),
    ("catalogue", "image_id", "image", "measured_on"),
)
THROUGH = (
    (AppliedTable, ("measurement_set", "measurement_set"), ("calibration_table", "table"), "calibrated_with"),
    (AppliedFlags, ("measurement_set", "measurement_set"), ("flag_table", "flag_table"), "calibrated_with"),
    (MosaicTile, ("image", "mosaic"), ("image", "tile"), "coadded_from"),
)


@dataclass
class Graph:
    """`nodes` and `edges` as API.md has them: an edge goes from what was made to what it was made from."""

    nodes: list[dict[str, Any]] = field(default_factory=list)
    edges: list[dict[str, Any]] = field(default_factory=list)
    left_out: dict[str, int] = field(default_factory=dict)


def graph_of(*, kind: str, pk: int) -> Graph:
    """Of a product, both ways, in at most 15 queries; of a kind with more than MOST_NODES the first, and how many not.

    The product itself is always there.
    """
    start = node(kind, pk)
    up, down = upstream(start), downstream(start)
    graph = Graph()
    rows: dict[str, dict[int, dict[str, Any]]] = {}
    for each in KINDS:
        ways = [found[each] for found in (up, down) if each in found]
        if ways:
            rows[each] = _rows(graph, each, ways[0].union(*ways[1:]) if len(ways) > 1 else ways[0])
    if pk not in rows[kind]:
        rows[kind][pk] = _read(kind, KINDS[kind]._default_manager.filter(pk=pk))[0]
    graph.nodes = [_node(each, row) for each in rows for row in rows[each].values()]
    graph.edges = [*_direct(rows), *_through(rows)]
    return graph


def _rows(graph: Graph, kind: str, found: Keys) -> dict[int, dict[str, Any]]:
    chosen = KINDS[kind]._default_manager.filter(pk__in=found)
    rows = _read(kind, chosen.order_by("pk")[: MOST_NODES + 1])
    if len(rows) > MOST_NODES:
        graph.left_out[kind] = chosen.count() - MOST_NODES
    return {row["pk"]: row for row in rows[:MOST_NODES]}


def _read(kind: str, chosen: QuerySet[Any, Any]) -> list[dict[str, Any]]:
    """With the newest attempt that made each."""
    model = KINDS[kind]
    own = {column for late, column, *_ in LINKS if late == kind}
    own |= {name for name in (*PRODUCT_COLUMNS, "is_suspect") if _has(model, name)}
    made = {}
    if _has(model, "made_by"):
        made = {"attempt": Max("made_by__attempt"), "item": Max("made_by__attempt__item")}
    shown = {name: F(column) for name, column in COLUMNS[kind].items() if name != column}
    same = [name for name, column in COLUMNS[kind].items() if name == column]
    return list(chosen.values("pk", *sorted(own), *same, **shown, **made))


def _has(model: type[Model], name: str) -> bool:
    return any(each.name == name for each in model._meta.get_fields())


def _node(kind: str, row: dict[str, Any]) -> dict[str, Any]:
    name = row["name"] if isinstance(row["name"], str) else f"{row['name']:%Y-%m-%dT%H:%M:%S}"
    shown = ("grade", "is_suspect", "item", "attempt", *PRODUCT_COLUMNS)
    return {
        "kind": kind,
        "id": row["pk"],
        "name": f"{name} {row['detail']}" if row.get("detail") else name,
        "is_calibrated": row.get("calibrated_from_id") is not None,
        **{each: row.get(each) for each in shown},
    }


def _direct(rows: dict[str, dict[int, dict[str, Any]]]) -> Iterator[dict[str, Any]]:
    for kind, column, other, relation in LINKS:
        for row in rows.get(kind, {}).values():
            # A calibrated set comes from its raw one, which comes from the group.
            is_group_of_calibrated = column == "group_id" and row["calibrated_from_id"] is not None
            if row[column] in rows.get(other, {}) and not is_group_of_calibrated:
                yield _edge((kind, row["pk"]), (other, row[column]), relation)


def _through(rows: dict[str, dict[int, dict[str, Any]]]) -> Iterator[dict[str, Any]]:
    for model, (kind, late), (other, early), relation in THROUGH:
        shown, from_shown = rows.get(kind, {}), rows.get(other, {})
        links = model._default_manager.filter(**{f"{late}__in": list(shown), f"{early}__in": list(from_shown)})
        for made, source in links.order_by("pk").values_list(late, early):
            yield _edge((kind, made), (other, source), relation)


def _edge(made: tuple[str, int], source: tuple[str, int], relation: str) -> dict[str, Any]:
    ends = {"from": dict(zip(("kind", "id"), made, strict=True)), "to": dict(zip(("kind", "id"), source, strict=True))}
    return {**ends, "relation": relation}
