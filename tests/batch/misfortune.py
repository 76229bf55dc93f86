"""The real stages, struck once at a point that a test names, in whichever process and tile comes there first.

`strike("image", "recording", "child")` kills the process in the middle of the next record of an image.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from django.db import transaction

from batch import stages
from batch.stages import Job, Stage
from contimg.products import products_root

PATH = "tests.batch.misfortune.STAGES"
PAGE_BYTES = 4096
MS_REMOUNT = 32
_LIBC = ctypes.CDLL(None, use_errno=True)
POINTS = ("before", "after", "recording", "recorded")  # its work, in its transaction, and when that has committed


def strike(stage: str, point: str, how: str) -> None:
    assert point in POINTS
    path = _orders() / f"{stage}.{point}"
    path.parent.mkdir(exist_ok=True)
    path.write_text(how)


def pending() -> list[str]:
    """What has not struck yet."""
    return sorted(path.name for path in _orders().glob("*") if not path.name.endswith(".struck"))


def _orders() -> Path:
    return products_root().parent / "misfortunes"


def _meet(stage: Stage, point: str) -> None:
    path = _orders() / f"{stage.name}.{point}"
    struck = path.with_name(f"{path.name}.struck")
    try:
        path.rename(struck)
    except FileNotFoundError:
        return
    how, _, what = struck.read_text().partition(" ")
    HOW[how](what)


def _kill_child(what: str) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _kill_worker(what: str) -> None:
    """With its child, so that nothing is done after this moment."""
    os.kill(os.getppid(), signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


def _fill_disk(what: str) -> None:
    """All but so many bytes of it, as others do who write to the same disk."""
    resize(products_root(), _used_bytes() + int(what))


def _fill_disk_later(what: str) -> None:
    """When so many bytes more are on it, by a process of its own: an engine does not let go of the interpreter."""
    enough = _used_bytes() + int(what)
    if os.fork() == 0:
        try:
            os.nice(-20)  # who mounts is root, and it must not come too late
            until = time.monotonic() + 60
            while _used_bytes() < enough and time.monotonic() < until:
                time.sleep(0.0001)
            while time.monotonic() < until:  # what is written meanwhile does not fit into the smaller disk
                with contextlib.suppress(OSError):
                    return resize(products_root(), _used_bytes() + PAGE_BYTES)
        finally:
            os._exit(0)


def _used_bytes() -> int:
    usage = os.statvfs(products_root())
    return (usage.f_blocks - usage.f_bfree) * usage.f_frsize


def resize(place: Path, n_bytes: int) -> None:
    """Of a tmpfs. Raises OSError when more is on it."""
    if _LIBC.mount(b"tmpfs", bytes(place), b"tmpfs", MS_REMOUNT, f"size={n_bytes}".encode()):
        raise OSError(ctypes.get_errno(), f"{place} cannot be made {n_bytes} bytes large")


HOW: dict[str, Callable[[str], None]] = {
    "child": _kill_child,
    "worker": _kill_worker,
    "room": _fill_disk,
    "later": _fill_disk_later,
}


def _struck(stage: Stage) -> Stage:
    def work(job: Job, folder: Path):
        _meet(stage, "before")
        record = stage.work(job, folder)
        _meet(stage, "after")

        def strikingly() -> None:
            transaction.on_commit(lambda: _meet(stage, "recorded"))
            record()
            _meet(stage, "recording")

        return strikingly

    return replace(stage, work=work)


STAGES = tuple(map(_struck, stages.STAGES))
