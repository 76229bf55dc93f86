"""A graph as a picture: a column for each step of the pipeline, from the raw files on the left to the catalogue.

Layered by hand: the columns are given by the kinds, which is all that a layout program would find out. Graphviz needs
a program beside its library, and matplotlib is not loaded in a web process.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any
from xml.sax.saxutils import escape, quoteattr

from provenance.graph import Graph

COLUMN_PX, ROW_PX, BOX_PX, BOX_HEIGHT_PX, MARGIN_PX = 260, 40, 220, 30, 24
MOST_ROWS = 40  # of a column; more than that nobody looks at
TITLES = ("raw files", "raw set", "flags", "tables", "calibrated set", "tile or image", "mosaic", "catalogue")
STYLE = """
text{font:11px system-ui,sans-serif;fill:#1a1a1a} .title{font-weight:600} .small{font-size:9px;fill:#555}
rect{fill:#f4f6f8;stroke:#7a8794} .suspect rect{fill:#fbe3e0;stroke:#b3261e} .asked rect{stroke-width:3}
path{fill:none;stroke:#9aa5b1} .calibrated_with{stroke:#1f6feb} .coadded_from{stroke:#2e7d32}
"""
Key = tuple[str, int]


def draw(graph: Graph, *, asked: Key) -> str:
    """An SVG document; the node that was asked for has a thick frame, what is suspect is red."""
    columns: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for node in sorted(graph.nodes, key=lambda node: (node["name"], node["id"])):
        columns[_column(node)].append(node)
    used = sorted(columns)
    places: dict[Key, tuple[int, int]] = {}
    boxes = []
    for position, column in enumerate(used):
        nodes = sorted(columns[column], key=lambda node: _key(node) != asked)[:MOST_ROWS]
        left = MARGIN_PX + position * COLUMN_PX
        boxes.append(f'<text class="title" x="{left}" y="{MARGIN_PX}">{TITLES[column]}</text>')
        for row, node in enumerate(nodes):
            top = MARGIN_PX + 12 + row * ROW_PX
            places[_key(node)] = (left, top)
            boxes.append(_box(node, left, top, is_asked=_key(node) == asked))
        if hidden := len(columns[column]) - len(nodes):
            boxes.append(f'<text class="small" x="{left}" y="{_bottom(len(nodes))}">and {hidden} more</text>')
    height = _bottom(min(MOST_ROWS, max(map(len, columns.values())))) + MARGIN_PX
    width = 2 * MARGIN_PX + len(used) * COLUMN_PX
    lines = [_line(edge, places) for edge in graph.edges]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">'
        f'<style>{STYLE}</style><rect width="{width}" height="{height}" style="fill:#fff;stroke:none"/>'
        f"{''.join(lines)}{''.join(boxes)}</svg>"
    )


def _bottom(n_rows: int) -> int:
    return MARGIN_PX + 24 + n_rows * ROW_PX


def _column(node: dict[str, Any]) -> int:
    kind = node["kind"]
    if kind == "measurement_set":
        return 4 if node["is_calibrated"] else 1
    if kind == "image":
        return 6 if node["name"].endswith(" mosaic") else 5
    return {"subband_group": 0, "flag_table": 2, "calibration_table": 3, "catalogue": 7}[kind]


def _key(node: dict[str, Any]) -> Key:
    return node["kind"], node["id"]


def _box(node: dict[str, Any], left: int, top: int, *, is_asked: bool) -> str:
    classes = " ".join(name for name, on in (("suspect", node["is_suspect"]), ("asked", is_asked)) if on)
    grade = f", {node['grade']}" if node["grade"] else ""
    about = f"{node['kind'].replace('_', ' ')} {node['id']}: {node['name']}{grade}"
    about += ", suspect" if node["is_suspect"] else ""
    name = node["name"] if len(node["name"]) <= 30 else f"…{node['name'][-29:]}"
    return (
        f"<g class={quoteattr(classes)}><title>{escape(about)}</title>"
        f'<rect x="{left}" y="{top}" width="{BOX_PX}" height="{BOX_HEIGHT_PX}" rx="4"/>'
        f'<text x="{left + 6}" y="{top + 13}">{escape(name)}</text>'
        f'<text class="small" x="{left + 6}" y="{top + 25}">{node["id"]}{escape(grade)}</text></g>'
    )


def _line(edge: dict[str, Any], places: dict[Key, tuple[int, int]]) -> str:
    made, source = (places.get((edge[end]["kind"], edge[end]["id"])) for end in ("from", "to"))
    if made is None or source is None:
        return ""
    half = BOX_HEIGHT_PX // 2
    x0, y0, x1, y1 = source[0] + BOX_PX, source[1] + half, made[0], made[1] + half
    bend = max(20, abs(x1 - x0) // 2)
    return f'<path class="{edge["relation"]}" d="M{x0} {y0}C{x0 + bend} {y0} {x1 - bend} {y1} {x1} {y1}"/>'
