"""Celery behind the task API. A module of its own: `batch.couriers` is being imported when the backend is looked up."""

from __future__ import annotations

from typing import Any

from django.utils import timezone
from django_tasks.backends.base import BaseTaskBackend
from django_tasks.base import Task, TaskResult, TaskResultStatus


class CeleryBackend(BaseTaskBackend):
    """The task API over Celery: the message is the path of a task. Results are not kept."""

    def enqueue(self, task: Task, args: Any, kwargs: Any) -> TaskResult:
        from batch.celery import queue_of, run_task

        self.validate_task(task)
        message = (task.module_path, list(args), dict(kwargs))
        sent = run_task.apply_async(message, queue=queue_of(task.queue_name))
        return TaskResult(
            task=task,
            id=sent.id,
            status=TaskResultStatus.READY,
            enqueued_at=timezone.now(),
            started_at=None,
            finished_at=None,
            last_attempted_at=None,
            args=list(args),
            kwargs=dict(kwargs),
            backend=self.alias,
            errors=[],
            worker_ids=[],
        )
