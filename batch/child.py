"""The process that does the work of stages: `python -m batch.child`, started and watched by `batch.executor`.

It leads a process group of its own, so that killing the group kills what an engine started too. Orders come as JSON
lines on standard input and answers go out as JSON lines on the descriptor named on the command line; standard output
and error, its own and those of engines, are the attempt's log. When the worker that started it is gone, standard input
ends and the group kills itself.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import threading
from typing import Any

import django

django.setup()

from django.db import close_old_connections  # noqa: E402

from batch.transitions import Claim  # noqa: E402
from batch.work import run  # noqa: E402


def main() -> None:
    answers = os.fdopen(int(sys.argv[1]), "w", buffering=1)
    orders: queue.Queue[str] = queue.Queue()
    threading.Thread(target=_listen, args=(orders,), daemon=True).start()

    def answer(**event: Any) -> None:
        answers.write(json.dumps(event) + "\n")

    answer(event="started")
    while True:
        held = Claim(**json.loads(orders.get()))
        close_old_connections()
        outcome = run(held, lambda fraction: answer(event="progress", fraction=fraction))
        sys.stdout.flush()
        sys.stderr.flush()
        answer(event="ended", **outcome)


def _listen(orders: queue.Queue[str]) -> None:
    for line in sys.stdin:
        orders.put(line)
    os.killpg(os.getpgid(0), signal.SIGKILL)  # the worker is gone, and its lease will be


if __name__ == "__main__":
    main()
