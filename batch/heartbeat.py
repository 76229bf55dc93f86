"""Keeps the leases of a process that runs stages itself: `python -m batch.heartbeat WORKER`, until its input ends.

It says when it has started: who waits for that claims nothing before the lease will be kept.

A process of its own, because an engine may hold that one's interpreter for minutes, and a debugger for hours.
"""

from __future__ import annotations

import select
import sys

import django

django.setup()

from django.conf import settings  # noqa: E402

from batch import transitions  # noqa: E402
from batch.presence import tell_back, unless_away  # noqa: E402


def keep() -> None:
    transitions.renew_all(worker=sys.argv[1])
    tell_back()


def main() -> None:
    every_s = settings.CONTIMG_LEASE_S / transitions.HEARTBEATS_PER_LEASE
    print("started", flush=True)
    while True:
        unless_away(keep)
        if select.select([sys.stdin], [], [], every_s)[0]:  # who started it never says anything: it is gone
            return


if __name__ == "__main__":
    main()
