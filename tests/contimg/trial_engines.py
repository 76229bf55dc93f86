"""What an engine may do in a child process. Loaded there by name."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

from contimg.exceptions import EngineFailed


def write(*, out: Path, text: str, log: str = "", path: str = "") -> None:
    if log:
        with Path(log).open("a") as file:
            file.write("made\n")
    print("a library that prints to standard output")
    out.write_text(text)


def sleep(*, out: Path, log: str) -> None:
    sleeper = subprocess.Popen(["sleep", "300"])
    Path(log).write_text(f"{os.getpid()} {sleeper.pid}")
    time.sleep(300)


def eat(*, out: Path) -> None:
    held = [bytes(50_000_000) for _ in range(1000)]
    out.write_bytes(held[0])


def refuse(*, out: Path, path: str = "") -> None:
    raise EngineFailed(f"The table {path or '/data/secret/x.ms'} is odd.")


def crash(*, out: Path) -> None:
    raise KeyError("/data/secret")


def die(*, out: Path) -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def nothing(*, out: Path) -> None:
    """Says that it is done and left no file."""
