"""Wrong settings explained at start, each with what to do. To add one, copy the nearest row and change it."""

from __future__ import annotations

import difflib
import importlib.util
import math
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning, register

from contimg.observability import FORMATS, LEVELS
from contimg.sky import fits_on_the_sky

IMAGERS = ("embedded", "wsclean")


@dataclass(frozen=True)
class Range:
    """`low` and `high` belong to it, but for `above`: then `low` does not."""

    name: str
    low: float
    high: float
    meaning: str
    above: bool = False
    even: bool = False

    def holds(self, value: float) -> bool:
        inside = self.low <= value <= self.high and not (self.above and value == self.low)
        return inside and not (self.even and value % 2)  # NaN is in no range

    def __str__(self) -> str:
        start = "above" if self.above else "from"
        return f"{'an even number ' if self.even else ''}{start} {self.low:g} to {self.high:g}"


RANGES = [
    Range("CONTIMG_IMAGE_SIZE_PX", 64, 8192, "the width and height of a tile's image", even=True),
    Range("CONTIMG_PIXEL_ARCSEC", 0.1, 60, "the size of an image pixel"),
    Range("CONTIMG_ROBUST", -2, 2, "the robustness of Briggs weights"),
    Range("CONTIMG_NITER", 0, 1e6, "the limit of CLEAN iterations"),
    Range("CONTIMG_MIN_SUBBANDS", 1, 16, "how many subbands a group needs to be processed"),
    Range("CONTIMG_SETTLE_S", 0, 86_400, "how long a group waits for late files, in seconds"),
    Range("CONTIMG_ENGINE_THREADS", 1, 1024, "the threads that an engine may use"),
    Range("CONTIMG_SEFD_JY", 0, 1e6, "the system equivalent flux density of one antenna", above=True),
    Range("CONTIMG_DEC_STRIP_TOLERANCE_DEG", 0, 5, "how far in declination a calibration table holds", above=True),
    Range("CONTIMG_CALIBRATION_VALIDITY_H", 0, 720, "how long a calibration table holds", above=True),
    Range("CONTIMG_FLUX_SYSTEMATIC", 0, 1, "the systematic part of a flux error"),
    Range("CONTIMG_SPECTRAL_INDEX", -5, 5, "the spectral index of reference sources whose catalogue gives none"),
    Range("CONTIMG_RENDITIONS_MB", 1, 1e6, "how much of the disk plots that were asked for may take, in MB"),
    Range("CONTIMG_KEEP_LOGS_DAYS", 0, 36_500, "the days after which the log of an attempt may go, 0 for never"),
    Range("CONTIMG_KEEP_SUPERSEDED_DAYS", 0, 36_500, "the days after which a replaced version may go, 0 for never"),
    Range("CONTIMG_KEEP_RAW_SETS_DAYS", 0, 36_500, "the days after which a replaced raw set may go, 0 for never"),
    Range("CONTIMG_KEEP_RESIDUALS_DAYS", 0, 36_500, "the days after which a replaced residual may go, 0 for never"),
    Range("CONTIMG_DB_POOL_SIZE", 1, 1000, "the connections to PostgreSQL that a process may hold"),
    Range("CONTIMG_LEASE_S", 2, 86_400, "how long a silent worker is believed alive, in seconds"),
    Range("CONTIMG_SWEEP_S", 0.1, 3600, "the seconds between two looks for dead workers"),
    Range("CONTIMG_DRAIN_S", 0, 86_400, "how long a worker that is stopped may finish its item, in seconds"),
    Range("CONTIMG_QUERY_LIMIT_S", 0.1, 3600, "the seconds that the database may be at a page of a list"),
    Range("CONTIMG_SLOW_QUERY_MS", 1, 1e6, "from how many milliseconds on a database query is logged"),
    Range("CONTIMG_SLOW_REQUEST_MS", 1, 1e6, "from how many milliseconds on a request is a warning in the log"),
    Range("CONTIMG_TRACE_SHARE", 0, 1, "which share of the requests that only read is traced"),
    Range("CONTIMG_MAX_TRIES", 1, 1000, "how often an item is tried before it is quarantined"),
    Range("CONTIMG_MAX_KILLS", 1, 1000, "how many workers an item may take with it before it is quarantined"),
]
CHOICES = {
    "CONTIMG_IMAGER": IMAGERS,
    "CONTIMG_COURIER": tuple(settings.COURIERS),
    "CONTIMG_LOG_FORMAT": FORMATS,
    "CONTIMG_LOG_LEVEL": LEVELS,
}


def register_checks() -> None:
    for check in (
        unknown_names,
        unparsable,
        out_of_range,
        unknown_choices,
        image_on_the_sky,
        leases,
        imager_binary,
        courier,
        worker_metrics,
        folders,
    ):
        register(check, "contimg")


def unknown_names(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    """Warnings: something else in this environment may use such a name."""
    return [
        Warning(
            f"{name} is set, but contimg has no such setting, so it changes nothing.",
            hint=f"{_nearest(name)} README.md lists all of them.",
            id="contimg.W002",
        )
        for name in settings.UNKNOWN_NAMES
    ]


def _nearest(name: str) -> str:
    near = difflib.get_close_matches(name, settings.SETTING_NAMES, n=1)
    return f"Did you mean {near[0]}?" if near else "Remove it from the environment or from .env."


def unparsable(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    return [
        Error(
            f"{name} is {value!r}, which is not {expected}.",
            hint=f"Set {name} to {expected} in the environment or in .env, or remove it to have the default.",
            id="contimg.E001",
        )
        for name, (value, expected) in settings.UNPARSABLE.items()
    ]


def out_of_range(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    return [
        Error(
            f"{allowed.name} is {getattr(settings, allowed.name)}, but it has to be {allowed}.",
            hint=f"It is {allowed.meaning}. Set it in the environment or in .env.",
            id="contimg.E002",
        )
        for allowed in RANGES
        if not allowed.holds(getattr(settings, allowed.name))
    ]


def unknown_choices(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    return [
        Error(
            f"{name} is {getattr(settings, name)!r}, but it has to be one of {', '.join(valid)}.",
            hint=f"Set {name} in the environment or in .env, or remove it to have the default.",
            id="contimg.E003",
        )
        for name, valid in CHOICES.items()
        if getattr(settings, name) not in valid
    ]


def image_on_the_sky(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    size_px, pixel_arcsec = settings.CONTIMG_IMAGE_SIZE_PX, settings.CONTIMG_PIXEL_ARCSEC
    if math.isnan(pixel_arcsec) or fits_on_the_sky(size_px, pixel_arcsec):  # NaN is refused by its range
        return []
    return [
        Error(
            f"CONTIMG_IMAGE_SIZE_PX is {size_px} and CONTIMG_PIXEL_ARCSEC {pixel_arcsec:g}: the corners of such an "
            "image lie beyond the hemisphere that RA---SIN shows.",
            hint="Make one of them smaller, so that their product is at most 81 degrees (291 600 arcsec).",
            id="contimg.E007",
        )
    ]


def leases(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    if settings.CONTIMG_SWEEP_S < settings.CONTIMG_LEASE_S:
        return []
    return [
        Error(
            f"CONTIMG_SWEEP_S is {settings.CONTIMG_SWEEP_S:g} and CONTIMG_LEASE_S {settings.CONTIMG_LEASE_S:g}: a "
            "lease would be over before it began.",
            hint="Set CONTIMG_LEASE_S to several times CONTIMG_SWEEP_S.",
            id="contimg.E006",
        )
    ]


def imager_binary(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    """A warning: a process that only serves the web needs no imager."""
    if settings.CONTIMG_IMAGER != "wsclean" or shutil.which(settings.CONTIMG_WSCLEAN_BINARY):
        return []
    return [
        Warning(
            f"CONTIMG_IMAGER is wsclean, but {settings.CONTIMG_WSCLEAN_BINARY!r} is not an executable here.",
            hint="Install the Debian package wsclean (not the one on PyPI), or set CONTIMG_WSCLEAN_BINARY.",
            id="contimg.W001",
        )
    ]


def courier(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    if settings.CONTIMG_COURIER != "celery" or importlib.util.find_spec("celery"):
        return []
    return [
        Error(
            "CONTIMG_COURIER is celery, but Celery is not installed here.",
            hint="Install requirements/prod.txt, or remove CONTIMG_COURIER to use the database.",
            id="contimg.E005",
        )
    ]


def worker_metrics(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    given = settings.CONTIMG_WORKER_METRICS
    host, _, port = given.rpartition(":")
    if not given or (host and port.isascii() and port.isdigit() and 0 < int(port) < 65_536):
        return []
    return [
        Error(
            f"CONTIMG_WORKER_METRICS is {given!r}, which is not an address and a port.",
            hint="Set it to one such as 127.0.0.1:9151, or remove it: then workers are not scraped.",
            id="contimg.E008",
        )
    ]


def folders(app_configs: Any, **kwargs: Any) -> Iterator[CheckMessage] | list[CheckMessage]:
    wanted = {"CONTIMG_VAR_DIR": settings.VAR_DIR, "CONTIMG_PRODUCTS_ROOT": settings.CONTIMG_PRODUCTS_ROOT}
    return [
        Error(
            f"{name} is {path}, which cannot be made or written by this user.",
            hint=f"Set {name} to a folder that this user may write to.",
            id="contimg.E004",
        )
        for name, path in wanted.items()
        if not _can_be_written(Path(path))
    ]


def _can_be_written(path: Path) -> bool:
    nearest = next(folder for folder in (path, *path.parents) if folder.exists())
    return nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK)
