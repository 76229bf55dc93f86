"""Places of a web process for what takes long, of each kind and together: the others always find a thread of it."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from django.http import StreamingHttpResponse

from contimg.exceptions import ContimgError

MOST_AT_ONCE = 3  # of the four threads of a web process
_of_all = threading.BoundedSemaphore(MOST_AT_ONCE)


class Places:
    """At most so many of one kind at once. `refusal` makes the error that says that all are taken."""

    def __init__(self, most: int, refusal: Callable[[], ContimgError]) -> None:
        self._of_kind = threading.BoundedSemaphore(most)
        self._refusal = refusal

    def take(self) -> None:
        """To be given back once. Raises the refusal at once where none is free, of this kind or of all."""
        if not self._of_kind.acquire(blocking=False):
            raise self._refusal()
        if not _of_all.acquire(blocking=False):
            self._of_kind.release()
            raise self._refusal()

    def give_back(self) -> None:
        _of_all.release()
        self._of_kind.release()

    @contextmanager
    def taken(self) -> Iterator[None]:
        self.take()
        try:
            yield
        finally:
            self.give_back()


class PlacedResponse(StreamingHttpResponse):
    """Takes a place, and gives it back when it is closed or forgotten, whether or not it was read at all."""

    def __init__(self, places: Places, *args: Any, **kwargs: Any) -> None:
        places.take()
        self._give_back = weakref.finalize(self, places.give_back)
        super().__init__(*args, **kwargs)

    def close(self) -> None:
        super().close()
        self._give_back()
