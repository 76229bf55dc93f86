"""Django's Redis cache behind a breaker: while Redis does not answer it is asked now and then, not by every request."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import Any

from django.conf import settings
from django.core.cache.backends.redis import RedisCache, RedisCacheClient
from redis import Redis
from redis.exceptions import ConnectionError, ResponseError, TimeoutError

from contimg.breakers import Breaker


def _ping() -> None:
    place = settings.CACHES["default"]
    with Redis.from_url(place["LOCATION"], **place["OPTIONS"]) as redis, suppress(ResponseError):  # which is an answer
        redis.ping()


BREAKER = Breaker("redis-cache", unavailable=(ConnectionError, TimeoutError, OSError), ask=_ping)


class Guarded(Redis):
    def execute_command(self, *args: Any, **options: Any) -> Any:
        """Raises BreakerOpen, which is one of `contimg.cache.UNAVAILABLE`."""
        return BREAKER.call(partial(super().execute_command, *args, **options))


class Client(RedisCacheClient):
    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._client = Guarded


class Cache(RedisCache):
    def __init__(self, server: Any, params: dict[str, Any]) -> None:
        super().__init__(server, params)
        self._class = Client
