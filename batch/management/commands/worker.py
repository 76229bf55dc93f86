"""The worker of one machine: `manage.py worker`, which a service manager keeps running."""

from __future__ import annotations

import signal
from argparse import ArgumentParser
from typing import Any

from django.conf import settings
from django.core.management.base import CommandError

from batch.services import UnknownStage
from batch.stages import stages
from batch.supervisor import Supervisor
from contimg.commands import ContimgCommand, stopping_signals

MOST_PROCESSES = 64


class Command(ContimgCommand):
    help = "Run what is asked for in batches, until told to stop (TERM or Ctrl-C): then it finishes or hands back."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--processes", type=int, default=1, metavar="N", help="items at a time (1)")
        parser.add_argument(
            "--stages", default="", metavar="A,B", help="take only these stages (CONTIMG_WORKER_STAGES, or all)"
        )

    def handle(self, *, processes: int, **options: Any) -> None:
        if not 1 <= processes <= MOST_PROCESSES:
            raise CommandError(f"--processes {processes} is not from 1 to {MOST_PROCESSES}.")
        named = tuple(name.strip() for name in options["stages"].split(",") if name.strip())
        wanted = named or settings.CONTIMG_WORKER_STAGES
        unknown = [name for name in wanted if name not in stages()]
        if unknown:
            raise UnknownStage(f"There is no stage {unknown[0]!r}; there are {', '.join(stages())}.")
        if signal.SIGHUP in stopping_signals():
            signal.signal(signal.SIGHUP, lambda *_: signal.raise_signal(signal.SIGTERM))
        Supervisor(n_processes=processes, stages=wanted).run()
