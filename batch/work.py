"""One item through its stage, in this process: work, then record. `batch.child` runs this in a process of its own."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from typing import Any

import structlog
from django.core.exceptions import ObjectDoesNotExist
from django.db import DatabaseError, InterfaceError, InternalError, OperationalError, transaction
from django.db.models import Model

from batch import evidence, transitions
from batch.models import OUTPUT_COLUMNS, Item, Output, StageName
from batch.software import software
from batch.stages import Job, Stage, StageNotReady, stages
from batch.sweeper import products_of, release_calibrated, remove_unnamed, work_owner
from batch.transitions import Claim
from contimg import tracing
from contimg.exceptions import ContimgError
from contimg.products import make_durable, note, workspace

log = structlog.get_logger(__name__)
DATABASE_AWAY = "database_unavailable"
UNEXPECTED = "internal_error"  # the code of an error that is none of ours


def run(held: Claim, progress: Callable[[float], None]) -> dict[str, Any]:
    """How it went, in the terms of `batch.executor`. Done is already recorded; all else is the worker's to record."""
    began_s, began_cpu_s = time.monotonic(), _cpu_s()
    outcome = _outcome(held, progress)
    return {**outcome, "duration_s": time.monotonic() - began_s, "cpu_s": _cpu_s() - began_cpu_s}


def _outcome(held: Claim, progress: Callable[[float], None]) -> dict[str, Any]:
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(item=held.item_id, attempt=held.attempt, stage=held.stage)
    try:
        read_bytes = run_stage(held, progress)
    except ContimgError as error:
        log.warning("stage_stopped", code=error.code, detail=str(error))
        return {"code": error.code, "detail": str(error), "permanent": error.permanent}
    except (OperationalError, InterfaceError, InternalError) as error:  # the last: it takes no writes now
        log.warning("database_away", detail=str(error).strip())
        detail = f"The database did not answer, or cut the connection ({str(error).strip()}); it is tried again."
        return {"code": DATABASE_AWAY, "detail": detail, "permanent": False}
    # The worker's edge: a fault of ours or of a library, met in one item's data, must not take the others with it.
    except Exception as error:
        log.exception("stage_broke")
        return {"code": UNEXPECTED, "detail": f"{type(error).__name__}: {error}", "permanent": True}
    log.info("stage_done")
    return {"code": "", "detail": "", "permanent": True, "read_bytes": read_bytes}


def run_stage(held: Claim, progress: Callable[[float], None]) -> int:
    """Work, then record in one transaction whose first statement is the fencing update; returns the bytes it read.

    Raises what the stage raises; LeaseLost and CancelRequested when the item is no longer this worker's to finish.
    """
    began_s = time.monotonic()
    item = Item.objects.select_related("batch", "group").get(pk=held.item_id)
    job, stage = Job.of(item, progress), stages()[held.stage]
    read_bytes = 0
    if stage.is_done(job):
        _record_done_before(held, stage, job, began_s)
    else:
        read_bytes = _do(held, stage, job, began_s)
    transitions.settle(held)
    if stage.name == StageName.CALIBRATE:
        release_calibrated()
    return read_bytes


def _record_done_before(held: Claim, stage: Stage, job: Job, began_s: float) -> None:
    outputs = evidence.read(stage.outputs(job))
    with transaction.atomic():
        transitions.finish(held)
        transitions.count_finished(
            held,
            evidence={"inputs": [], "outputs": outputs, "was_done_before": True},
            exit_code=0,
            duration_s=time.monotonic() - began_s,
        )


def _do(held: Claim, stage: Stage, job: Job, began_s: float) -> int:
    began_cpu_s = _cpu_s()
    inputs = _read_inputs(held, stage, job)
    subject = job.epoch or job.tile
    with workspace(work_owner(held)) as folder:
        since_ns = folder.stat().st_mtime_ns
        before = _recorded(stage, job)
        with tracing.span(f"work {stage.engine() or stage.name}", parent=held.traceparent, facts={"stage": stage.name}):
            record = stage.work(job, folder)
        job.progress(0.95)
        make_durable(folder)
        if subject is not None:
            note(folder, products_of(subject))
        is_sure = True
        try:
            with tracing.span("record", parent=held.traceparent), transaction.atomic():
                transitions.finish(held)
                record()
                rows = _recorded(stage, job)
                outputs = evidence.made(rows, since_ns=since_ns, before=before)
                _note_outputs(held, rows)
                transitions.count_finished(
                    held,
                    evidence={"inputs": inputs, "outputs": outputs},
                    versions=software() | getattr(rows[0], "versions", {}),
                    exit_code=0,
                    duration_s=time.monotonic() - began_s,
                    cpu_s=_cpu_s() - began_cpu_s,
                )
        except DatabaseError:  # whether that was committed is not known now: who clears the folder looks
            is_sure = False
            raise
        finally:
            if is_sure:
                remove_unnamed(folder, subject=subject)
    return evidence.total_bytes(inputs)


def _read_inputs(held: Claim, stage: Stage, job: Job) -> list[evidence.Entry]:
    """Noted before the work begins, however that ends: those before one that is missing too."""
    inputs: list[evidence.Entry] = []
    try:
        for row in stage.inputs(job):
            inputs += evidence.read([row])
    finally:
        transitions.note(
            held,
            evidence={"inputs": inputs},
            input_bytes=evidence.total_bytes(inputs),
            engine=stage.engine(),
        )
    return inputs


def _recorded(stage: Stage, job: Job) -> list[evidence.Row]:
    """The rows of the stage's products; none while any is missing."""
    try:
        return list(stage.outputs(job))
    except (ObjectDoesNotExist, StageNotReady):
        return []


def _note_outputs(held: Claim, rows: list[evidence.Row]) -> None:
    """Who made what, for those that ask a product where it is from."""
    products = [row for row in rows if isinstance(row, Model) and type(row) in OUTPUT_COLUMNS]
    made = [Output(attempt_id=held.attempt_id, **{OUTPUT_COLUMNS[type(row)]: row}) for row in products]
    Output.objects.bulk_create(made)


def _cpu_s() -> float:
    spent = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in spent)
