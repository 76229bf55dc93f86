"""How far a batch is, on the terminal: a bar with counts and an estimate, or a line for every tenth in a file."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from batch.estimates import Estimates
from batch.models import Batch

ESTIMATE_EVERY_S = 5.0
BAR = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} stages{postfix}"


@contextmanager
def showing(batch: Batch, *, quiet: bool, write: Callable[[str], object]) -> Iterator[Callable[[Batch], None]]:
    """Gives the function that is told of the batch again and again; `write` takes the lines where there is no bar."""
    bar = tqdm(total=batch.n_total, desc=batch.stage, bar_format=BAR, disable=quiet or None)
    told_tenth, estimated_at = int(10 * batch.progress), 0.0

    def show(batch: Batch) -> None:
        nonlocal told_tenth, estimated_at
        bar.update(batch.n_total - batch.n_open - bar.n)
        now = time.monotonic()
        if not bar.disable and now - estimated_at > ESTIMATE_EVERY_S:
            estimated_at = now
            bar.set_postfix_str(", ".join(filter(None, [_counts(batch), _left(batch)])))
        if bar.disable and not quiet and int(10 * batch.progress) > told_tenth:
            told_tenth = int(10 * batch.progress)
            write(f"{batch.stage}: {batch.n_total - batch.n_open} of {batch.n_total} stages")

    with logging_redirect_tqdm(), bar:
        yield show


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
