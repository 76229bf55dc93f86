"""What is drawn or read of products on request: by an engine in a child process, into files that are kept for a while.

    shown = Rendition(engine="observations.engines.raster:draw", recipe=..., parameters={...}, suffix=".png")
    return not_modified(request, etag=shown.key) or file_response(request, shown.file(), ...)

A web process loads no engine. The child (`contimg/render.py`) has a limit of time and of memory, and a process group of
its own that is killed at the end, so that whatever a library does on whatever file is over then. A file is named for
what it follows from, so the second request for it is a file read; when all of them take more than
CONTIMG_RENDITIONS_MB, those that were not asked for longest go. No row names them: the folder may be deleted any time.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog
from django.conf import settings

from contimg.exceptions import ContimgError, DiskFull, MissingProduct
from contimg.places import Places
from contimg.products import (
    digest,
    full_disk_named,
    is_full,
    make_durable,
    products_root,
    require_products,
    require_writable,
)

log = structlog.get_logger(__name__)
FOLDER = ".renditions"
AT_ONCE = 2  # of the four threads of a web process
FORM = 1  # of the files; another one, and all are made anew
LOG_CHARACTERS = 4000
# One thread: the limit of memory counts the stacks of all, and a web server has more to do.
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


class RenditionFailed(ContimgError):
    """The child ended without a file: the product is broken, too large for the limits, or there is a fault here."""

    code = "rendition_failed"
    status = 422


class TooManyRenditions(ContimgError):
    """Each takes a core and a thread of the web server."""

    code = "too_many_renditions"
    status = 503
    permanent = False
    retry_after_s = 5


places = Places(
    AT_ONCE,
    lambda: TooManyRenditions(
        "As many pictures, exports and streams are being made here as may be at once; come again soon."
    ),
)


@dataclass(frozen=True)
class Limits:
    seconds: float = 60.0
    memory_bytes: int = 4_000_000_000  # of addresses, which are more than what is used of them


@dataclass(frozen=True, kw_only=True)
class Rendition:
    """A file that follows from a product's `recipe` and `parameters` alone.

    `engine` is `module:function`, called as `function(out=Path, **parameters, **arguments)`; `arguments` are what the
    file does not follow from, such as the product's `path`. Both go as JSON.
    """

    engine: str
    recipe: str
    suffix: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    arguments: Mapping[str, Any] = field(default_factory=dict)
    limits: Limits = Limits()

    @property
    def key(self) -> str:
        return digest("rendition", FORM, self.engine, self.recipe, self.parameters)

    def file(self) -> Path:
        """Where it is, made if it is not there.

        Raises TooManyRenditions, RenditionFailed, MissingProduct (gone meanwhile), DiskFull,
        ProductsAway and NotWritable.
        """
        path = products_root() / FOLDER / f"{self.key}{self.suffix}"
        with contextlib.suppress(OSError):  # another user's may be read all the same
            os.utime(path)  # asked for now
        if not path.is_file():
            self._make(path)
        return path

    def _make(self, path: Path) -> None:
        with places.taken():
            require_products()  # or a folder would be made where its disk is not mounted
            require_writable(path.parent, named_by="CONTIMG_PRODUCTS_ROOT")
            temporary = path.with_name(f".{uuid.uuid4().hex}{self.suffix}")
            try:
                with full_disk_named():
                    self._run(temporary)
                    make_durable(temporary)
                    os.rename(temporary, path)
            finally:
                temporary.unlink(missing_ok=True)
            _remove_oldest(path.parent, keep=path)

    def _run(self, out: Path) -> None:
        order = {
            "engine": self.engine,
            "out": str(out),
            "arguments": {**self.parameters, **self.arguments},
            "seconds": self.limits.seconds,
            "memory_bytes": self.limits.memory_bytes,
        }
        with tempfile.TemporaryFile() as answer, tempfile.TemporaryFile() as errors:
            with _child(answer, errors) as child:
                why = _ended(child, json.dumps(order), self.limits.seconds)
            if not why and child.returncode == 0 and out.is_file():
                return
            self._explain(why or _last_line(answer), child.returncode, _text(errors)[-LOG_CHARACTERS:])

    def _explain(self, why: str, status: int, errors: str) -> None:
        product = self.arguments.get("path")
        if product is not None and not Path(product).exists():
            raise MissingProduct(f"The product {Path(product).name} is not on disk any more.")
        if is_full():
            raise DiskFull("The disk under the products root is full; free some space and ask again.")
        log.error("rendition_failed", engine=self.engine, why=why, status=status, stderr=errors)
        raise RenditionFailed(f"This could not be made: {why or 'the process that makes it died'}.")


@contextlib.contextmanager
def _child(answer: Any, errors: Any) -> Iterator[subprocess.Popen[str]]:
    """Ended with all that it started, whatever happens."""
    with subprocess.Popen(
        [sys.executable, "-m", "contimg.render"],
        cwd=settings.BASE_DIR,
        env={**os.environ, **ONE_THREAD},
        stdin=subprocess.PIPE,
        stdout=answer,
        stderr=errors,
        text=True,
        start_new_session=True,
    ) as child:
        try:
            yield child
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)


def _ended(child: subprocess.Popen[str], order: str, seconds: float) -> str:
    """Wait for it; why it was not waited for longer, or nothing. Its standard input stays open: it ends with ours."""
    assert child.stdin is not None  # noqa: S101 - for mypy: it was asked for
    with contextlib.suppress(BrokenPipeError):  # died at once, which its status says
        child.stdin.write(order + "\n")
        child.stdin.flush()
    try:
        child.wait(seconds)
    except subprocess.TimeoutExpired:
        return f"it takes longer than {seconds:g} seconds"
    return ""


def _text(file: Any) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")


def _last_line(file: Any) -> str:
    """The reason that the child gives, without a full stop; libraries may have printed before."""
    lines = _text(file).strip().splitlines()
    try:
        return str(json.loads(lines[-1])["why"]).rstrip(".") if lines else ""
    except (ValueError, KeyError, TypeError):
        return ""


def _remove_oldest(folder: Path, *, keep: Path) -> None:
    """Until the rest fits. What a killed process left half-written is among the oldest one day."""
    files = []
    for entry in os.scandir(folder):
        with contextlib.suppress(FileNotFoundError):  # another process removes as well
            if entry.is_file(follow_symlinks=False):
                facts = entry.stat()
                files.append((facts.st_mtime_ns, facts.st_size, entry.path))
    excess = sum(size for _, size, _ in files) - settings.CONTIMG_RENDITIONS_MB * 1e6
    for _, size, path in sorted(files):
        if excess <= 0:
            return
        if path != str(keep):
            Path(path).unlink(missing_ok=True)
            excess -= size
