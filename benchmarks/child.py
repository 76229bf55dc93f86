"""Runs one step in a process of its own, so that its peak memory and CPU time are its own."""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import resource
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

PR_SET_CHILD_SUBREAPER = 36


def adopt_orphans() -> None:
    """Linux: what our children leave behind when they end becomes our child, and its CPU time ours to count."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)


def children_cpu_s() -> float:
    """CPU seconds of all processes begun here that have ended; waits for orphans that are ending."""
    with contextlib.suppress(ChildProcessError):
        while True:
            os.waitpid(-1, 0)
    return _cpu_s(resource.RUSAGE_CHILDREN)


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
    cpu_before = [_cpu_s(resource.RUSAGE_SELF), _cpu_s(resource.RUSAGE_CHILDREN)]
    programs = _Programs()
    programs.start()
    began = time.perf_counter()
    result = step(*arguments)
    seconds = time.perf_counter() - began
    own_cpu_s = _cpu_s(resource.RUSAGE_SELF) - cpu_before[0]
    programs_cpu_s = _cpu_s(resource.RUSAGE_CHILDREN) - cpu_before[1]
    sender.send(
        Measured(
            seconds=seconds,
            cpu_s=own_cpu_s + programs_cpu_s,
            peak_bytes=max(_peak_bytes("self"), programs.peak_bytes),
            programs_cpu_s=programs_cpu_s,
            programs_peak_bytes=programs.peak_bytes,
            result=result,
        )
    )


class _Programs(threading.Thread):
    """Watches the programs that the main thread starts.

    Their `ru_maxrss` is of no use: it begins with what this process had when it started them.
    """

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak_bytes = 0

    def run(self) -> None:
        children = Path(f"/proc/self/task/{os.getpid()}/children")
        while True:
            for pid in children.read_text().split():
                self.peak_bytes = max(self.peak_bytes, _peak_bytes(pid))
            time.sleep(0.05)


def _peak_bytes(pid: str) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:  # it ended just now
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), 0)


def _cpu_s(who: int) -> float:
    usage = resource.getrusage(who)
    return usage.ru_utime + usage.ru_stime
