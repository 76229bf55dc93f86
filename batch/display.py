"""How far a batch is, on the terminal: a bar with counts and an estimate, or a line for every tenth in a file."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from django.db.models.functions import Now
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from batch.estimates import Estimates
from batch.models import Batch, Pause

ESTIMATE_EVERY_S = 5.0
BAR = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} stages{postfix}"


@contextmanager
def showing(batch: Batch, *, quiet: bool, write: Callable[[str], object]) -> Iterator[Callable[[Batch], None]]:
    """Gives the function that is told of the batch again and again; `write` takes the lines where there is no bar."""
    bar = tqdm(total=batch.n_total, desc=batch.stage, bar_format=BAR, disable=quiet or None)
    told_tenth, estimated_at, told_idle = int(10 * batch.progress), time.monotonic(), ""

    def show(batch: Batch) -> None:
        nonlocal told_tenth, estimated_at, told_idle
        bar.update(batch.n_total - batch.n_open - bar.n)
        now = time.monotonic()
        if not quiet and now - estimated_at > ESTIMATE_EVERY_S:
            estimated_at = now
            if not bar.disable:
                bar.set_postfix_str(", ".join(filter(None, [_counts(batch), _left(batch)])))
            idle = why_idle(batch)
            if idle and idle != told_idle:
                with bar.external_write_mode():
                    write(idle)
            told_idle = idle
        if bar.disable and not quiet and int(10 * batch.progress) > told_tenth:
            told_tenth = int(10 * batch.progress)
            write(f"{batch.stage}: {batch.n_total - batch.n_open} of {batch.n_total} stages")

    with logging_redirect_tqdm(), bar:
        yield show


def why_idle(batch: Batch) -> str:
    """What a batch of which nothing runs waits for: a pause, or the time of the next try; empty when neither."""
    ready = batch.items.ready().order_by("not_before", "id")
    if batch.n_running or not batch.n_ready:
        return ""
    paused = Pause.objects.filter(stage__in=["", *ready.order_by().values_list("stage", flat=True).distinct()]).first()
    if paused:
        reason = f" ({paused.reason})" if paused.reason else ""
        return f"{paused} {'are' if not paused.stage else 'is'} paused{reason}; `manage.py resume` ends it."
    held = ready.filter(not_before__gt=Now()).first()
    if held is None or held.not_before is None:
        return ""
    return f"{held.stage} is tried again at {held.not_before:%H:%M:%S} UTC: {held.error_detail} [{held.error_code}]"


def how_far(batch: Batch) -> str:
    """How many of its items are in which state: 6 done, 6 cancelled."""
    counts = {name: getattr(batch, f"n_{name}") for name in ("done", "running", "ready", "waiting", "cancelled")}
    counts["failed"] = batch.n_failed + batch.n_quarantined
    return ", ".join(f"{n} {name}" for name, n in counts.items() if n)


def _counts(batch: Batch) -> str:
    shown = {"running": batch.n_running, "waiting": batch.n_waiting, "failed": batch.n_failed + batch.n_quarantined}
    return ", ".join(f"{n} {name}" for name, n in shown.items() if n)


def _left(batch: Batch) -> str:
    eta_s = Estimates().eta_s([batch])[batch.pk]
    return "" if eta_s is None or not batch.n_open else f"about {duration(eta_s)} left"


def duration(seconds: float) -> str:
    """As people say it: 40 s, 12 min, 3.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
