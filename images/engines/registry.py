"""Every imager on one screen. To add one: write the class, name it here, and the contract tests run on it."""

from __future__ import annotations

from typing import Any

from django.utils.module_loading import import_string

from contimg.exceptions import InvalidInput
from images.engines.imager import Imager

IMAGERS = {
    "embedded": "images.engines.embedded.EmbeddedImager",  # ducc0, from a wheel: needs nothing installed
    "wsclean": "images.engines.wsclean.WSCleanImager",  # the production imager, from its Debian package
}


class UnknownImager(InvalidInput):
    code = "unknown_imager"


def get_imager(name: str, **options: Any) -> Imager:
    """The imager of that name, loaded only now: importing an engine costs seconds and web processes never do."""
    if name not in IMAGERS:
        raise UnknownImager(f"There is no imager {name!r}; choose one of {', '.join(IMAGERS)}.")
    return import_string(IMAGERS[name])(**options)
