"""Runs one step in a process of its own, so that its peak memory and CPU time are its own."""

from __future__ import annotations

import multiprocessing
import os
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any


@dataclass(frozen=True)
class Measured:
    """CPU seconds are user and system, of the step and of the programs it ran; imports are not counted.

    `peak_bytes` is the larger of the step's own process (imports and all) and of any program it ran.
    """

    seconds: float
    cpu_s: float
    peak_bytes: int
    programs_cpu_s: float  # the share of the programs it ran
    programs_peak_bytes: int
    result: Any = None

    def figures(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "result"}


def measured(step: Callable[..., Any], threads: int, *arguments: Any) -> Measured:
    """Call `step(*arguments)` in a fresh process whose libraries may use so many threads; its failure ends us too."""
    os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_measure, args=(sender, step, arguments))
    process.start()
    sender.close()
    try:
        return receiver.recv()
    except EOFError:
        process.join()
        raise SystemExit(f"{step.__name__} failed with status {process.exitcode}") from None
    finally:
        process.join()


def _measure(sender: Connection, step: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    began, cpu_before = time.perf_counter(), _cpu_s(resource.RUSAGE_SELF)
    result = step(*arguments)
    seconds = time.perf_counter() - began
    own, programs = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    programs_cpu_s = _cpu_s(resource.RUSAGE_CHILDREN)
    sender.send(
        Measured(
            seconds=seconds,
            cpu_s=_cpu_s(resource.RUSAGE_SELF) - cpu_before + programs_cpu_s,
            peak_bytes=max(own.ru_maxrss, programs.ru_maxrss) * 1024,
            programs_cpu_s=programs_cpu_s,
            programs_peak_bytes=programs.ru_maxrss * 1024,
            result=result,
        )
    )


def _cpu_s(who: int) -> float:
    usage = resource.getrusage(who)
    return usage.ru_utime + usage.ru_stime
