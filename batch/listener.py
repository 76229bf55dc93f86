"""A worker process of the database's courier: `python -m batch.listener`, which `manage.py worker` starts.

It asks about once a second for the doorbells of CONTIMG_WORKER_STAGES, or of all, and answers them. While the database
is away, or takes no changes, it asks again.
"""

from __future__ import annotations

import time

import django

django.setup()

from django.conf import settings  # noqa: E402
from django.utils.crypto import get_random_string  # noqa: E402
from django_tasks_db.management.commands.db_worker import Worker  # noqa: E402

from batch.presence import tell_back, unless_away  # noqa: E402

ASK_EVERY_S = 1.0


def main() -> None:
    worker = Worker(
        # All: also one that an older contimg left in its queue.
        queue_names=list(settings.CONTIMG_WORKER_STAGES) or ["*"], excluded_queue_names=[], interval=ASK_EVERY_S,
        batch=True, backend_name="default", startup_delay=False, max_tasks=None, worker_id=get_random_string(32),
    )  # fmt: skip
    worker.configure_signals()

    def answer_all() -> None:
        worker.run()  # until none waits
        tell_back()

    while worker.running:
        unless_away(answer_all)
        if worker.running:
            time.sleep(ASK_EVERY_S)


if __name__ == "__main__":
    main()
