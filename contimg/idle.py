"""What a process does that nobody asks for anything: what it tells of itself would stay as the last request left it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from django.db import close_old_connections

EVERY_S = 1.0


def each_second(do: Callable[[], object]) -> None:
    """In a thread of its own, as long as the process lives."""
    threading.Thread(target=_do_each_second, args=(do,), name="each-second", daemon=True).start()


def _do_each_second(do: Callable[[], object]) -> None:
    while True:
        do()
        close_old_connections()
        time.sleep(EVERY_S)
