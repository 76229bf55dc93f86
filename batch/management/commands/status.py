from __future__ import annotations

import json
from argparse import ArgumentParser
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from django.core.serializers.json import DjangoJSONEncoder

from batch.outcomes import in_brackets
from batch.status import status
from contimg.commands import ContimgCommand

LITTLE_DISK_H, OLD_FILE_S = 48, 1800


class Command(ContimgCommand):
    help = "Where the sky, the data, the queue and the workers are, on one screen. It only reads."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--json", action="store_true", dest="as_json", help="print it as JSON")

    def handle(self, *, as_json: bool, **options: Any) -> None:
        facts = status()
        if as_json:
            self.stdout.write(json.dumps(facts, cls=DjangoJSONEncoder, indent=2))
        else:
            for name, text, is_bad in _lines(facts):
                self.stdout.write(f"{name:12}{self.style.ERROR(text) if is_bad else text}")


def _lines(facts: dict[str, Any]) -> Iterator[tuple[str, str, bool]]:
    """What, how it is, and whether somebody should do something."""
    now: datetime = facts["at"]
    strip = "no tile yet" if facts["strip_dec_deg"] is None else f"strip at dec {facts['strip_dec_deg']:.2f} deg"
    yield "now", f"{now:%Y-%m-%d %H:%M} UTC, LST {_clock(facts['lst_h'])}, {strip}", False
    last = facts["last_file_at"]
    age_s = (now - last).total_seconds() if last else None
    yield "last file", "none yet" if age_s is None else f"{_ago(age_s)} ago", age_s is not None and age_s > OLD_FILE_S
    groups = facts["groups"]
    yield "tiles", f"{groups['unprocessed']} of the last day of observing not processed", False
    for group in groups["newest"]:
        yield "", f"{group['name']}: {group['reason']}{in_brackets(group['code'])}", False
    yield from _work_lines(facts, now)
    free, hours = facts["disk"]["free_bytes"], facts["disk"]["hours"]
    pace = "nothing was written in the last day" if hours is None else f"{hours:.0f} h at the pace of the last day"
    if free is None:
        yield "disk", "the products root is not there; is its disk mounted?", facts["last_file_at"] is not None
    else:
        yield "disk", f"{free / 1e9:.0f} GB free, {pace}", hours is not None and hours < LITTLE_DISK_H
    table, transit = facts["last_calibration"], facts["next_transit"]
    if table is None:
        yield "calibration", "no table in use; `process` solves when a calibrator has transited", True
    else:
        age = _ago((now - table["solved_at"]).total_seconds())
        yield "calibration", f"{table['calibrator']}, {table['grade']}, {age} ago", table["grade"] == "poor"
    if transit:
        left = _ago((transit["at"] - now).total_seconds())
        yield "", f"next transit: {transit['calibrator']} in {left}, at {transit['at']:%H:%M} UTC", False


def _work_lines(facts: dict[str, Any], now: datetime) -> Iterator[tuple[str, str, bool]]:
    backlog, alive = facts["backlog"], [worker for worker in facts["workers"] if worker["is_alive"]]
    if backlog["items"]:
        hours = backlog["hours"]
        left = "how long is not known yet" if hours is None else f"about {hours:.1f} h"
        items, batches = _n(backlog["items"], "item"), _n(backlog["batches"], "batch", "batches")
        yield "backlog", f"{items} in {batches}, {left}", False
    else:
        yield "backlog", "none", False
    for code, n in backlog["waiting_for"].items():
        yield "", f"{n} held back: {code}", False
    yield from _running_lines(facts["running"], now)
    processes = [worker["processes"] for worker in alive if worker["processes"]]
    n_processes = _n(sum(processes), "process", "processes")
    working = f"{len(processes)} with {n_processes}" if processes else "none; `manage.py worker`"
    n_watches = len(alive) - len(processes)
    watches = f", and {n_watches} watch{'es' * (n_watches > 1)} without any" if n_watches else ""
    yield "workers", working + watches, bool(backlog["items"]) and not processes
    for worker in facts["workers"]:
        if not worker["is_alive"]:
            silent = _ago((now - worker["seen_at"]).total_seconds())
            how = f"was killed; it was last seen {silent} ago" if worker["is_gone"] else f"has been silent for {silent}"
            yield "", f"{worker['name']} {how}", True
    for pause in facts["pauses"]:
        of, why = pause["stage"] or "all stages", pause["reason"] or "no reason given"
        yield "paused", f"{of} by {pause['paused_by'] or 'nobody'}: {why}; `manage.py resume` ends it", True
    if not facts["failures"]:
        yield "failures", "none in the last day", False
    for number, row in enumerate(facts["failures"]):
        since = f"{row['first_at']:%H:%M} to {row['last_at']:%H:%M} UTC"
        of = f"{row['batches']} batches, the newest " if row["batches"] > 1 else ""
        text = f"{row['n']} x {row['stage']} {row['error_code']}, {since}; {of}`batch show {row['batch']}`"
        yield "" if number else "failures", text, True


def _running_lines(running: dict[str, Any], now: datetime) -> Iterator[tuple[str, str, bool]]:
    yield "running", _n(running["items"], "item") if running["items"] else "none", False
    for item in running["longest"]:
        text = (
            f"{item['stage']} of {item['subject']}: {100 * item['progress']:.0f}% "
            f"after {_ago((now - item['started_at']).total_seconds())}, item {item['id']} of batch {item['batch']}, "
            f"by {item['worker']}"
        )
        yield "", text, False
    if running["items"] > len(running["longest"]):
        yield "", f"and {running['items'] - len(running['longest'])} more", False


def _n(number: int, one: str, many: str = "") -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"


def _clock(hours: float) -> str:
    minutes = int(hours * 60)
    return f"{minutes // 60:02d}:{minutes % 60:02d}"


def _ago(seconds: float) -> str:
    if abs(seconds) < 120:
        return f"{seconds:.0f} s"
    if abs(seconds) < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if abs(seconds) < 172_800 else f"{seconds / 86_400:.0f} days"
