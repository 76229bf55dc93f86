"""What became of tiles, for the commands that run them: how far each came, and what came out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from batch.models import State
from batch.querysets import ItemQuerySet
from contimg.models import Grade
from images.models import Image
from observations.models import Epoch, SubbandGroup

NOTHING = {"grade": None, "rms_jy_per_beam": None, "dynamic_range": None, "n_detected": None}


def items_by_tile(items: ItemQuerySet) -> dict[int, list[Any]]:
    """Items about tiles by the tile's key, in the order of the chain."""
    found: dict[int, list[Any]] = {}  # items with `did_work`
    for item in items.order_by("id").with_latest_attempt():
        found.setdefault(item.subject_id, []).append(item)
    return found


def outcomes(tiles: Sequence[SubbandGroup], items: Mapping[int, Sequence[Any]]) -> list[dict[str, Any]]:
    """How far each tile came by its items (of a tile without any, all was there already), and what came out of it.

    `stages_run` are those that did work, not those found done.
    """
    made = _results(tiles)
    return [_outcome(tile, items.get(tile.pk, ()), made.get(tile.pk, NOTHING)) for tile in tiles]


def _outcome(tile: SubbandGroup, items: Iterable[Any], made: Mapping[str, Any]) -> dict[str, Any]:
    stopped = next((item for item in items if item.state != State.DONE), None)
    return {
        "name": tile.name,
        "state": stopped.state if stopped else State.DONE.value,
        "stages_run": [item.stage for item in items if item.state == State.DONE and item.did_work],
        "stage": stopped.stage if stopped else "",
        "code": stopped.error_code if stopped else "",
        "detail": stopped.error_detail if stopped else "",
        "missing_subbands": tile.missing_subbands,
        **(NOTHING if stopped else made),
    }


def epoch_outcome(epoch: Epoch, items: Iterable[Any]) -> dict[str, Any]:
    """How far an epoch came, and the grade that its gates gave it."""
    stopped = next((item for item in items if item.state != State.DONE), None)
    return {
        "name": epoch.name,
        "state": stopped.state if stopped else State.DONE.value,
        "stage": stopped.stage if stopped else "",
        "code": stopped.error_code if stopped else "",
        "detail": stopped.error_detail if stopped else "",
        "grade": epoch.grade,
        "is_lenient": epoch.is_lenient,
    }


def epoch_line(epoch: Mapping[str, Any]) -> str:
    """One outcome of an epoch, as a line for people."""
    if epoch["state"] != State.DONE:
        return f"epoch {epoch['name']} {epoch['state']} at {epoch['stage']}: {epoch['detail']} [{epoch['code']}]"
    held_back = epoch["grade"] == Grade.POOR and not epoch["is_lenient"]
    what = "did not pass its gates: its tiles stay out of light curves" if held_back else "mosaic made and judged"
    return f"epoch {epoch['name']} {epoch['grade']:9}  {what}"


def _results(tiles: Sequence[SubbandGroup]) -> dict[int, dict[str, Any]]:
    """What came out of each tile, by the tile's key."""
    images = Image.objects.tiles().current().filter(measurement_set__group__in=tiles)
    columns = ("measurement_set__group", "missing_subbands", "grade", "rms_jy_per_beam", "dynamic_range")
    names = ("missing_subbands", *NOTHING)
    rows = images.values_list(*columns, "catalogue__n_detected")
    return {row[0]: dict(zip(names, row[1:], strict=True)) for row in rows}


def outcome_line(tile: Mapping[str, Any]) -> str:
    """One outcome, as a line for people."""
    if tile["state"] != State.DONE:
        return f"{tile['name']} {tile['state']} at {tile['stage']}: {tile['detail']} [{tile['code']}]"
    if tile["grade"] is None:
        return f"{tile['name']} done, without an image that is current"
    missing = ", ".join(f"sb{number:02d}" for number in tile["missing_subbands"])
    return (
        f"{tile['name']} {tile['grade']:9}  rms {1e3 * (tile['rms_jy_per_beam'] or 0):.2f} mJy/beam  "
        f"dynamic range {tile['dynamic_range'] or 0:.0f}  {tile['n_detected']} detections"
        f"{f'  without {missing}' if missing else ''}"
    )


def in_brackets(code: str) -> str:
    return f" [{code}]" if code else ""
