"""Where the processes of one server count together.

prometheus_client adds up the processes' numbers from files in a folder, which has to be known before it is loaded.
Each server (of web or worker processes) has a folder of its own, so that its counters begin at nothing with it and only
grow; the folders of servers that are gone are removed by the next one. Commands and tests have no folder and count in
memory.

The folders are in memory too where the system has a place for that: the files are mapped, and a process that writes to
a mapped file on a full disk is killed (SIGBUS).
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from pathlib import Path

from django.conf import settings

from contimg.products import is_gone, process_name

FOLDER_SETTING = "PROMETHEUS_MULTIPROC_DIR"  # prometheus_client's own
IN_MEMORY = Path("/dev/shm")  # noqa: S108 - whose folder it is, is looked at
_shared: list[Path] = []


def share_counters(*, role: str, server_pid: int) -> Path:
    """The folder of a server, made if it is not there, and set for this process and those it starts.

    Raises OSError where it cannot be made.
    """
    root = _root()
    folder = root / f"{role}.{process_name(server_pid)}"
    folder.mkdir(parents=True, exist_ok=True)
    for other in root.iterdir():
        if is_gone(other.name.partition(".")[2]):
            shutil.rmtree(other, ignore_errors=True)
    os.environ.update({FOLDER_SETTING: str(folder)})
    _shared[:] = [folder]
    return folder


def _root() -> Path:
    """Of this user, and writable by nobody else: whoever was there first may be somebody else."""
    if IN_MEMORY.is_dir():
        root = IN_MEMORY / f"contimg-{os.getuid()}"
        with contextlib.suppress(OSError):
            root.mkdir(mode=0o700, exist_ok=True)
            found = root.lstat()
            if stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o022:
                return root
    return Path(settings.VAR_DIR) / "metrics"


def shared_folder() -> Path | None:
    """That of the server which this process belongs to."""
    return _shared[0] if _shared else None
