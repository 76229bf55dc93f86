"""The Celery application, for many machines: `celery -A batch.celery worker`, which `manage.py worker` starts."""

from __future__ import annotations

import os

import django
from celery import Celery
from celery.signals import setup_logging
from django.apps import apps
from django.conf import settings
from django.utils.module_loading import import_string

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "contimg.settings")
if not apps.ready:
    django.setup()

app = Celery("contimg", broker=settings.CONTIMG_BROKER_URL)
app.conf.update(
    task_ignore_result=True,
    worker_prefetch_multiplier=1,
    broker_connection_retry_on_startup=True,
    broker_connection_timeout=4,
    broker_heartbeat=0,  # a worker that runs an item does not answer its broker for minutes
    broker_transport_options={"max_retries": 1, "interval_start": 0, "socket_timeout": 5},
    task_publish_retry=False,  # a doorbell that cannot be delivered is rung again by the sweeper
    enable_utc=True,
)


def queue_of(stage: str) -> str:
    """Named after the installation, since others may have the same broker."""
    return f"{settings.CONTIMG_QUEUE}.{stage}"


def n_waiting(stage: str) -> int:
    """How many doorbells of a stage nobody has answered yet. Raises kombu's OperationalError."""
    with app.pool.acquire(block=True) as connection:
        queue = app.amqp.queues[queue_of(stage)](connection.default_channel)
        return connection.ensure(queue, queue.queue_declare, max_retries=1)().message_count


@app.task(name="contimg.run_task")
def run_task(path: str, args: list, kwargs: dict) -> None:
    import_string(path).call(*args, **kwargs)


@setup_logging.connect
def _as_django_has_it(**kwargs: object) -> None:
    """Being connected is enough: Celery leaves logging as Django's settings have set it up."""
