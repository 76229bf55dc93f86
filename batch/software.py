"""The software of an attempt, known before it begins, so that one that fails or is killed has it too."""

from __future__ import annotations

import contextlib
import platform
from functools import cache
from importlib.metadata import PackageNotFoundError, version

from contimg import __version__

LIBRARIES = ("astropy", "bdsf", "ducc0", "numpy", "python-casacore", "pyuvdata", "reproject", "scipy")


@cache
def software() -> dict[str, str]:
    """Versions of contimg, Python and the libraries of the engines. None of them is loaded for it."""
    found = {"contimg": __version__, "python": platform.python_version()}
    for name in LIBRARIES:
        with contextlib.suppress(PackageNotFoundError):  # the stage that needs it says so
            found[name] = version(name)
    return found
