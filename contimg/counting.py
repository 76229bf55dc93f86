"""Where the processes of one server count together.

prometheus_client adds up the processes' numbers from files in a folder, which has to be known before it is loaded.
Each server (of web or worker processes) has a folder of its own below CONTIMG_VAR_DIR, so that its counters begin at
nothing with it and only grow; the folders of servers that are gone are removed by the next one. Commands and tests
have no folder and count in memory.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from contimg.products import is_gone, process_name

FOLDER_SETTING = "PROMETHEUS_MULTIPROC_DIR"  # prometheus_client's own
_shared: list[Path] = []


def share_counters(root: Path, *, role: str, server_pid: int) -> Path:
    """The folder of a server, made if it is not there, and set for this process and those it starts.

    Raises OSError where it cannot be made.
    """
    folder = root / f"{role}.{process_name(server_pid)}"
    folder.mkdir(parents=True, exist_ok=True)
    for other in root.iterdir():
        if is_gone(other.name.partition(".")[2]):
            shutil.rmtree(other, ignore_errors=True)
    os.environ.update({FOLDER_SETTING: str(folder)})
    _shared[:] = [folder]
    return folder


def shared_folder() -> Path | None:
    """That of the server which this process belongs to."""
    return _shared[0] if _shared else None
