"""The main job, all night: `manage.py watch DIR` takes what lands in a folder through the pipeline as it lands."""

from __future__ import annotations

import json
import signal
import threading
import time
from argparse import ArgumentParser
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import CommandError
from django.utils import timezone
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from batch.display import NOBODY, duration
from batch.estimates import Estimates
from batch.models import Batch
from batch.presence import at_work, unless_away
from batch.runner import Crew
from batch.watching import News, Watch
from contimg.breakers import tend
from contimg.commands import ContimgCommand, seconds, stopping_signals
from contimg.exceptions import NotReadable

TELL_EVERY_S = 1.0
SHARE_OF_LOOKING = 0.1  # a folder that takes long to scan is scanned less often


class Command(ContimgCommand):
    help = "Process subband files as they land in a folder, until told to stop (TERM or Ctrl-C). Safe to start again."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("folder", type=Path, metavar="DIR")
        parser.add_argument(
            "--every-s", type=seconds, default=10.0, help="seconds between two looks at the folder (10)"
        )
        parser.add_argument("--settle-s", type=seconds, help="wait so long for missing subbands (CONTIMG_SETTLE_S)")
        parser.add_argument("--lenient", action="store_true", help="also use calibration that failed its gate")
        parser.add_argument(
            "--workers", type=int, default=1, help="items at a time here (1); 0: leave them to `manage.py worker`"
        )
        parser.add_argument("--json", action="store_true", dest="as_json", help="print each event as a line of JSON")

    def handle(
        self, folder: Path, *, every_s: float, settle_s: float | None, lenient: bool, workers: int, as_json: bool,
        **options: Any,
    ) -> None:  # fmt: skip
        if not 0 <= workers <= 64:
            raise CommandError(f"--workers {workers} is not from 0 to 64.")
        if not every_s > 0:
            raise CommandError(f"--every-s {every_s} is not above 0.")
        if not folder.is_dir():
            raise NotReadable(f"{folder} is no folder; give the one in which subband files land.")
        self._as_json = as_json
        settle_s = settings.CONTIMG_SETTLE_S if settle_s is None else settle_s
        watch = Watch(folder=folder, settle_s=settle_s, parameters={"lenient": lenient})
        stopping = threading.Event()
        for number in stopping_signals():
            signal.signal(number, lambda *_: stopping.set())
        with logging_redirect_tqdm(), tqdm(bar_format="{desc}", disable=as_json or None) as self._line:
            with Crew(n_workers=workers) as crew:
                self._watch(watch, crew, stopping, every_s)
                self._line.set_description_str("Stopping; what runs may finish")
            unless_away(lambda: self._tell(watch.ended()))

    def _watch(self, watch: Watch, crew: Crew, stopping: threading.Event, every_s: float) -> None:
        look_at = 0.0
        while not stopping.is_set():
            began = time.monotonic()
            if began >= look_at:
                unless_away(lambda: self._tell(watch.look()))
                now = time.monotonic()
                look_at = now + max(every_s, (now - began) / SHARE_OF_LOOKING)
            unless_away(lambda: self._tell(watch.ended()))
            if not self._line.disable:
                unless_away(lambda: self._line.set_description_str(_as_it_is(watch)))
            tend()
            crew.wait(TELL_EVERY_S)

    def _tell(self, news: Iterable[News]) -> None:
        for one in news:
            at = timezone.now()
            text = (
                json.dumps({"at": f"{at:%Y-%m-%dT%H:%M:%SZ}", **vars(one)})
                if self._as_json
                else f"{at:%Y-%m-%d %H:%M:%S}  {one.text}"
            )
            with self._line.external_write_mode():
                self.stdout.write(text)
                self.stdout.flush()


def _as_it_is(watch: Watch) -> str:
    estimates, opened = Estimates(), list(Batch.objects.unended())
    seconds = [eta_s for eta_s in estimates.eta_s(opened).values() if eta_s is not None]
    left = f", about {duration(sum(seconds))} left" if seconds else ""
    if opened and not at_work():
        left = f"; {NOBODY}"
    n_running = sum(batch.n_running for batch in opened)
    return f"{timezone.now():%H:%M:%S}  {watch.n_in_work} tiles in work, {n_running} stages running{left}"
