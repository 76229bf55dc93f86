"""How far a batch is, on the terminal: a bar with counts and an estimate, or a line for every tenth in a file."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from django.db.models.functions import Now
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from batch.estimates import Estimates
from batch.models import Batch, Pause, Worker
from batch.presence import at_work

ESTIMATE_EVERY_S = 5.0
NOBODY = "No worker is running; start `manage.py worker`."
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
            idle = why_idle(batch)
            if not bar.disable:
                bar.set_postfix_str(", ".join(filter(None, [_counts(batch), "" if idle else _left(batch)])))
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
    """Why nothing of a batch runs: all waits, nobody works, a pause, the time of the next try; else empty."""
    if not batch.n_running and not batch.n_ready:
        return _waits(batch)
    takers = _takers(batch)
    if not takers:
        return " ".join(filter(None, [NOBODY, _paused(batch)]))
    if batch.n_running:
        return ""
    return _paused(batch) or _untaken(batch, takers) or _held(batch)


def _waits(batch: Batch) -> str:
    held = batch.items.waiting().exclude(error_code="").order_by("id")
    first = held.first()
    if first is None:
        return ""
    return f"All that is left of it waits, and nobody knows how long: {first.error_detail} [{first.error_code}]"


def _takers(batch: Batch) -> list[Worker]:
    """Who works, without those that run another batch of their own and nothing else."""
    others = Batch.objects.unended().exclude(pk=batch.pk).exclude(run_by="").values_list("run_by", flat=True)
    return [worker for worker in at_work() if worker.name not in set(others)]


def _paused(batch: Batch) -> str:
    paused = Pause.objects.filter(stage__in=["", *_stages(batch)]).order_by("stage").first()
    if paused is None:
        return ""
    reason = f" ({paused.reason})" if paused.reason else ""
    return f"{paused} {'are' if not paused.stage else 'is'} paused{reason}; `manage.py resume` ends it."


def _untaken(batch: Batch, takers: list[Worker]) -> str:
    untaken = [stage for stage in _stages(batch) if not any(not one.stages or stage in one.stages for one in takers)]
    if not untaken:
        return ""
    return f"No worker that is running takes {', '.join(untaken)}; start one with `manage.py worker`."


def _held(batch: Batch) -> str:
    held = batch.items.ready().filter(not_before__gt=Now()).order_by("not_before", "id").first()
    if held is None or held.not_before is None:
        return ""
    return f"{held.stage} is tried again at {held.not_before:%H:%M:%S} UTC: {held.error_detail} [{held.error_code}]"


def _stages(batch: Batch) -> list[str]:
    """Of what is ready."""
    return list(batch.items.ready().order_by("stage").values_list("stage", flat=True).distinct())


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
