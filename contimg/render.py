"""The process that makes a rendition: `python -m contimg.render`, started and watched by `contimg.renditions`.

It knows neither settings nor database. Its order is one JSON line on standard input; on failure it says why in a JSON
line on standard output, and standard error has the rest. When the web process that started it is gone, standard input
ends and the group kills itself.
"""

from __future__ import annotations

import importlib
import json
import math
import os
import resource
import signal
import sys
import threading
import traceback
from pathlib import Path
from typing import Any

from contimg.exceptions import ContimgError

LARGEST_FILE_BYTES = 200_000_000


def main() -> None:
    order = json.loads(sys.stdin.readline())
    _limit(order)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    sys.excepthook = _broken
    try:
        _work(order)
        _end("")
    except ContimgError as error:
        _end(str(error))
    except MemoryError:
        _end(f"it needs more than {order['memory_bytes'] / 1e9:g} GB of memory")


def _broken(*error: Any) -> None:
    """The edge of this process: what a library raises on a broken file is of every kind, and the log gets all of it."""
    traceback.print_exception(*error)
    _end("there is a fault here, or in the file; the log has the details")


def _end(why: str) -> None:
    sys.stderr.flush()
    if why:
        print(json.dumps({"why": why}), flush=True)
    os._exit(1 if why else 0)  # engines' threads and destructors have nothing to say any more


def _work(order: dict[str, Any]) -> None:
    module, function = order["engine"].split(":")
    getattr(importlib.import_module(module), function)(out=Path(order["out"]), **order["arguments"])


def _limit(order: dict[str, Any]) -> None:
    for what, most in (
        (resource.RLIMIT_AS, order["memory_bytes"]),
        (resource.RLIMIT_CPU, math.ceil(order["seconds"]) + 1),
        (resource.RLIMIT_FSIZE, LARGEST_FILE_BYTES),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(what)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(what, (most, most))


def _end_with_parent() -> None:
    sys.stdin.read()
    os.killpg(os.getpgid(0), signal.SIGKILL)


if __name__ == "__main__":
    main()
