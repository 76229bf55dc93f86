"""Reading the logs of attempts: their end, or on from where one stopped."""

from __future__ import annotations

import codecs
from dataclasses import dataclass
from pathlib import Path

from django.conf import settings

from batch.models import Attempt
from contimg.products import database_tag, inside

MAX_BYTES = 1_000_000  # in one answer
CONTINUATION_BYTES = bytes(range(0x80, 0xC0))  # of a UTF-8 character, behind its first


@dataclass(frozen=True)
class LogPiece:
    attempt: int
    offset: int
    next_offset: int
    size_bytes: int
    is_final: bool
    text: str


def log_folder() -> Path:
    return Path(settings.CONTIMG_LOG_DIR)


def log_name(*, item_id: int, attempt: int) -> str:
    """Where an attempt's log is, relative to the folder of logs; a thousand items share one of the installation's."""
    return f"{database_tag()}/{item_id // 1000}/{item_id}.{attempt}.log"


def log_path_of(attempt: Attempt) -> Path | None:
    """The log of an attempt, if it wrote one that is still there."""
    path = inside(log_folder(), attempt.log_path) if attempt.log_path else None
    return path if path and path.is_file() else None


def read_log(*, attempt: Attempt, offset: int | None = None, most_bytes: int = MAX_BYTES) -> LogPiece:
    """`most_bytes` from `offset` on, or without one the last `most_bytes`; empty when there is no log (yet).

    A character that is written or read half is left to the next piece.
    """
    has_ended = attempt.outcome != Attempt.Outcome.RUNNING
    path = log_path_of(attempt)
    size, data = 0, b""
    start = offset or 0
    if path is not None:
        with path.open("rb") as file:
            size = path.stat().st_size
            start = max(0, size - most_bytes) if offset is None else min(offset, size)
            file.seek(start)
            data = file.read(most_bytes)
    is_final = has_ended and start + len(data) >= size
    if offset is None and start:
        whole = data.lstrip(CONTINUATION_BYTES)
        start, data = start + len(data) - len(whole), whole
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    text = decoder.decode(data, final=is_final)
    end = start + len(data) - len(decoder.getstate()[0])
    return LogPiece(attempt.number, start, end, size, is_final, text)
