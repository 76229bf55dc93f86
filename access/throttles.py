"""How often: per token, per user with a session, else per address. All processes count in the one cache.

A window is a whole minute (second, hour, day) of the clock with one counter, which the cache raises atomically. DRF's
own throttle keeps the time of every request in a list that it reads and writes back: two processes lose each other's
requests, and 1200 times are 10 kB to move for each.

While much of a window is left, a process takes a lot of it at once and gives it out by itself: with one write to the
cache for each request, threads and processes waited for each other longer than most answers take to make
(docs/measurements.md, "The API"). Of what is left a lot is a two-hundredth, so the last ones are counted one by one:
never more than the limit are let through, and fewer only by what other processes took and did not use, which is at most
a two-hundredth for each of them.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Iterator
from typing import Any

import structlog
from django.conf import settings
from django.core.cache import cache
from django.http import HttpRequest
from rest_framework.exceptions import Throttled
from rest_framework.request import Request
from rest_framework.throttling import BaseThrottle

from access.models import Token
from contimg.addresses import network_of
from contimg.cache import UNAVAILABLE

logger = structlog.get_logger("contimg.access")
PERIODS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
LOTS, LARGEST_LOT = 200, 100
MOST_CALLERS = 10_000  # of whom a process remembers its lots


class Throttle(BaseThrottle):
    """Of every view of the API; refused requests count too (`HasScope`, `IsInternal`)."""

    waiting_s: int | None = None

    def allow_request(self, request: Request, view: Any) -> bool:
        if isinstance(request.auth, Token):
            self.waiting_s = count(f"token:{request.auth.pk}", settings.CONTIMG_THROTTLE_TOKEN)
        elif request.user.is_authenticated:
            self.waiting_s = count(f"user:{request.user.pk}", settings.CONTIMG_THROTTLE_TOKEN)
        else:
            self.waiting_s = count_address(request)
        return self.waiting_s is None

    def wait(self) -> float | None:
        return self.waiting_s


def count_address(request: HttpRequest | Request) -> int | None:
    return count(f"address:{network_of(request)}", settings.CONTIMG_THROTTLE_ANON)


def count_bad_token(request: Request) -> None:
    """Tokens that are no good count for their address: nobody may try them, or keep the database busy, for ever."""
    waiting_s = count_address(request)
    if waiting_s is not None:
        raise Throttled(wait=waiting_s)


def count_login(request: HttpRequest, name: str) -> int | None:
    """Attempts to log in from this address, and as this user from anywhere."""
    named = hashlib.sha256(name.strip().casefold().encode()).hexdigest()
    callers = (f"login-address:{network_of(request)}", f"login-name:{named}")
    waits = [count(caller, settings.CONTIMG_THROTTLE_LOGIN) for caller in callers]
    return max((waiting_s for waiting_s in waits if waiting_s is not None), default=None)


def count(caller: str, rate: str) -> int | None:
    """Count one request; the seconds to wait when that is one too many, until the next window begins."""
    limit, _, period = rate.partition("/")
    period_s = PERIODS_S[period[0]]
    now = time.time()
    window = (caller, period_s, int(now // period_s))
    number = _number_in(window, limit=int(limit))
    return None if number <= int(limit) else max(1, round(period_s - now % period_s + 0.5))


class _Lots:
    """Of one caller and window: the numbers that this process took and did not give out, and the highest it heard of.

    Threads may take from it together: a lot goes to the list when it is whole, and `next` of a range is one step.
    """

    def __init__(self) -> None:
        self.numbers: list[Iterator[int]] = []
        self.highest = 0

    def next(self) -> int | None:
        for lot in self.numbers[:]:
            for number in lot:
                return number
            with contextlib.suppress(ValueError):  # another thread found it empty too
                self.numbers.remove(lot)
        return None


_lots: dict[tuple[str, int, int], _Lots] = {}


def _number_in(window: tuple[str, int, int], *, limit: int) -> int:
    """Which request of its caller in this window it is; 0 when the cache does not answer: then nobody is refused."""
    lots = _lots.setdefault(window, _Lots())
    if (number := lots.next()) is not None:
        return number
    if len(_lots) > MOST_CALLERS:
        _lots.clear()
    caller, period_s, at = window
    size = max(1, min(LARGEST_LOT, (limit - lots.highest) // LOTS))
    try:
        last = _raised(f"throttle:{caller}:{period_s}:{at}", by=size, timeout=2 * period_s)
    except UNAVAILABLE as error:
        logger.warning("throttle_cannot_count", error=type(error).__name__)
        return 0
    lots.highest = max(lots.highest, last)
    lots.numbers.append(iter(range(last - size + 2, last + 1)))
    return last - size + 1


def _raised(key: str, *, by: int, timeout: int) -> int:
    with contextlib.suppress(ValueError):
        return cache.incr(key, by)
    if not cache.add(key, by, timeout):  # the first of this window; unless another was the first just now
        with contextlib.suppress(ValueError):  # the cache was emptied in between
            return cache.incr(key, by)
    return by
