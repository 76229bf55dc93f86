"""Stages of one chain that do nothing unless told: what a tile is to suffer is written beside the products.

`behave(tile, "hang")` is read by whichever process runs the tile's item. Each run adds a line to the file `ran`, and
each record adds one to the tile's `size_bytes`, so that a test sees how often it was tried and how often it
counted.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

from django.db import connection, transaction
from django.db.models import F

from batch.stages import GB, Job, Stage
from contimg.exceptions import EngineFailed, EngineUnavailable
from contimg.products import products_root, publish
from observations.models import SubbandGroup
from tests.factories import MeasurementSetFactory

PATH = "tests.batch.trivial.STAGES"
MEMORY_LIMIT_BYTES = GB // 2
TIME_LIMIT_S = 8.0


def behave(tile: SubbandGroup, how: str) -> None:
    path = _orders(tile)
    path.parent.mkdir(exist_ok=True)
    (written := path.with_suffix(".new")).write_text(how)
    written.rename(path)


def runs() -> list[tuple[int, int]]:
    """(tile, pid) of each time that `work` began."""
    with contextlib.suppress(FileNotFoundError):
        return [tuple(map(int, line.split())) for line in (_beside() / "ran").read_text().splitlines()]
    return []


def _beside() -> Path:
    return products_root().parent


def _orders(tile: SubbandGroup) -> Path:
    return _beside() / "orders" / str(tile.pk)


def _work(job: Job, folder: Path):
    tile = job.the_tile
    with open(_beside() / "ran", "a") as file:
        file.write(f"{tile.pk} {os.getpid()}\n")
    with contextlib.suppress(FileNotFoundError):
        how, _, what = _orders(tile).read_text().partition(" ")
        BEHAVIOURS[how](job, folder, what)

    def record() -> None:
        SubbandGroup.objects.filter(pk=tile.pk).update(size_bytes=F("size_bytes") + 1)
        with contextlib.suppress(FileNotFoundError):
            how = _orders(tile).read_text()
            if how.startswith("publish"):
                path = publish(folder / "made.ms", "measurement_sets/made.ms")
                MeasurementSetFactory(group=tile, path=path, size_bytes=1000)
            if how == "publish_cut":
                threading.Timer(1.0, _cut, [connection.connection.fileno()]).start()
            if how == "die_recording":
                os.kill(os.getpid(), signal.SIGKILL)
            if how == "die_recorded":
                transaction.on_commit(lambda: os.kill(os.getpid(), signal.SIGKILL))
            if how == "hang_recorded":
                transaction.on_commit(lambda: time.sleep(600))
            if how == "wait_recording":
                (_beside() / "recording").touch()
                _wait_for_other_orders(tile, how)

    return record


def is_recording() -> bool:
    """Whether a record has come to `wait_recording`."""
    return (_beside() / "recording").exists()


def _wait_for_other_orders(tile: SubbandGroup, how: str) -> None:
    until = time.monotonic() + 120
    while _orders(tile).read_text() == how and time.monotonic() < until:
        time.sleep(0.02)


def _hang(job: Job, folder: Path, what: str) -> None:
    """With a process of its own that does not heed TERM, as an engine may have."""
    (folder / "partial").write_bytes(bytes(1000))
    ignoring = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
    subprocess.Popen([sys.executable, "-c", ignoring])
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        time.sleep(600)


def _sleep(job: Job, folder: Path, what: str) -> None:
    for tenth in range(10):
        time.sleep(float(what) / 10)
        job.progress(tenth / 10)


def _wait(job: Job, folder: Path, what: str) -> None:
    (folder / "partial").write_bytes(bytes(1000))
    _wait_for_other_orders(job.the_tile, "wait")


def _eat(job: Job, folder: Path, what: str) -> None:
    eaten = []
    while True:
        eaten.append(b"x" * 50_000_000)
        time.sleep(0.05)


def _publish(job: Job, folder: Path, what: str) -> None:
    (folder / "made.ms").write_bytes(bytes(1000))


def _cut(descriptor: int) -> None:
    """The connection to the database, of which the server knows nothing while it is at work."""
    socket.socket(fileno=os.dup(descriptor)).shutdown(socket.SHUT_RDWR)


def _burn(job: Job, folder: Path, what: str) -> None:
    """A second of CPU, then the end that it names."""
    until = time.process_time() + 1
    while time.process_time() < until:
        pass
    BEHAVIOURS[what](job, folder, "")


def _shout(job: Job, folder: Path, what: str) -> None:
    line = "an engine says the same again and again\n" * 1000
    for _ in range(2600):  # 104 MB
        sys.stdout.write(line)


def _die(job: Job, folder: Path, what: str) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _exit(job: Job, folder: Path, what: str) -> None:
    os._exit(0)


def _fail(job: Job, folder: Path, what: str) -> None:
    raise EngineFailed("The data are bad.")


def _unavailable(job: Job, folder: Path, what: str) -> None:
    raise EngineUnavailable("The engine is not there.")


BEHAVIOURS = {
    "hang": _hang, "sleep": _sleep, "wait": _wait, "eat": _eat, "shout": _shout, "die": _die, "exit": _exit,
    "fail": _fail, "unavailable": _unavailable, "die_recording": lambda job, folder, what: None,
    "wait_recording": lambda job, folder, what: None, "die_recorded": lambda job, folder, what: None,
    "hang_recorded": lambda job, folder, what: None, "burn": _burn,
    "publish": _publish, "publish_cut": _publish,
}  # fmt: skip


def _disk_bytes(job: Job) -> int:
    with contextlib.suppress(FileNotFoundError):
        how, _, what = _orders(job.the_tile).read_text().partition(" ")
        return int(what) if how == "needs" else 0
    return 0


BEHAVIOURS["needs"] = lambda job, folder, what: None


STAGES = tuple(
    Stage(
        name, ("subband_group",), ("lenient",) if name == "apply" else (),
        lambda job: False, _work,
        inputs=lambda job: job.the_tile.files.select_related("root"),
        outputs=lambda job: [job.the_tile],
        disk_bytes=_disk_bytes,
        time_limit_s=TIME_LIMIT_S, memory_limit_bytes=MEMORY_LIMIT_BYTES,
    )
    for name in ("convert", "calibrate", "apply", "image", "assess", "photometry")
)  # fmt: skip
