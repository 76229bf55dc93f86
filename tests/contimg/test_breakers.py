from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from datetime import timedelta

import pytest
from django.db import transaction
from prometheus_client import REGISTRY

from batch.services import close_breaker
from contimg import models
from contimg.breakers import Breaker, BreakerOpen
from contimg.cache import UNAVAILABLE
from contimg.models import BreakerState
from tests.batch.installation import PATIENCE, PROJECT, skip_or_fail, until
from tests.batch.servers import free_port

pytest_plugins = ["tests.batch.installation", "tests.batch.servers"]


class Thing:
    """What a breaker stands before."""

    def __init__(self) -> None:
        self.answers, self.n_asked = True, 0

    def __call__(self) -> str:
        self.n_asked += 1
        if not self.answers:
            raise TimeoutError("no answer")
        return "yes"


@pytest.fixture
def thing() -> Thing:
    return Thing()


@pytest.fixture
def breaker(installation, request) -> Breaker:
    return Breaker(request.node.name[:50], unavailable=(TimeoutError,), rests_s=0.2)


def fail(breaker: Breaker, thing: Thing, times: int = 2) -> None:
    thing.answers = False
    for _ in range(times):
        with pytest.raises(TimeoutError):
            breaker.call(thing)


def test_it_opens_after_two_failures_in_a_row_and_then_does_not_ask(breaker, thing):
    fail(breaker, thing, 1)
    thing.answers = True
    assert breaker.call(thing) == "yes"
    fail(breaker, thing)
    assert breaker.is_open
    with pytest.raises(BreakerOpen, match="TimeoutError: no answer"):
        breaker.call(thing)
    assert thing.n_asked == 4
    assert issubclass(BreakerOpen, UNAVAILABLE)  # who can do without a cache need not know of breakers


def test_an_exception_of_another_kind_is_an_answer(breaker):
    def refuse() -> None:
        raise ValueError("bad data")

    for _ in range(5):
        with pytest.raises(ValueError, match="bad data"):
            breaker.call(refuse)
    assert not breaker.is_open


def test_after_a_rest_one_caller_tries_and_the_others_are_still_refused(breaker, thing):
    fail(breaker, thing)
    time.sleep(0.25)
    began, go_on = threading.Event(), threading.Event()

    def slowly() -> str:
        began.set()
        go_on.wait(5)
        return "yes"

    probe = threading.Thread(target=breaker.call, args=(slowly,))
    probe.start()
    began.wait(5)
    with pytest.raises(BreakerOpen):
        breaker.call(thing)
    go_on.set()
    probe.join()
    assert not breaker.is_open
    thing.answers = True
    assert breaker.call(thing) == "yes"


def test_a_try_in_vain_opens_it_for_another_rest(breaker, thing):
    fail(breaker, thing)
    time.sleep(0.25)
    fail(breaker, thing, 1)
    with pytest.raises(BreakerOpen):
        breaker.call(thing)


def test_calls_are_made_side_by_side(breaker):
    """With pybreaker's lock the second would wait for the first for ever."""
    both = threading.Barrier(2, timeout=5)
    other = threading.Thread(target=breaker.call, args=(both.wait,))
    other.start()
    breaker.call(both.wait)
    other.join()


def test_its_row_says_how_it_is_and_may_ask_it_to_close(breaker, thing):
    breaker.rests_s = 60
    fail(breaker, thing)
    row = BreakerState.objects.get(breaker=breaker.name)
    assert (row.is_open, row.error) == (True, "TimeoutError: no answer")
    close_breaker(breaker=row)
    breaker.tend()
    row.refresh_from_db()
    assert (row.is_open, row.is_asked) == (False, False)


def test_it_writes_nothing_into_a_transaction_that_may_be_undone(breaker, thing):
    with transaction.atomic():
        fail(breaker, thing)
    assert not BreakerState.objects.exists()
    breaker.tend()
    assert BreakerState.objects.get().is_open


def test_where_nobody_calls_it_asks_by_itself_after_its_rest(installation, thing, request):
    breaker = Breaker(request.node.name[:50], unavailable=(TimeoutError,), rests_s=0.2, ask=thing)
    fail(breaker, thing)
    breaker.tend()
    assert thing.n_asked == 2
    time.sleep(0.25)
    breaker.tend()
    assert (thing.n_asked, breaker.is_resting) == (3, True)
    thing.answers = True
    time.sleep(0.25)
    breaker.tend()
    assert not breaker.is_open
    assert not BreakerState.objects.get().is_open
    fail(breaker, thing, 1)  # it had been asked, and not been used yet
    assert breaker.is_open


def test_an_open_one_says_that_it_is_still_there(breaker, thing):
    fail(breaker, thing)
    BreakerState.objects.update(seen_at=None)
    breaker.tend()
    assert not BreakerState.objects.open().exists()
    breaker._seen_at -= 10
    breaker.tend()
    assert BreakerState.objects.open().exists()


LEAVES_IT_OPEN = """
import django; django.setup()
from django.core.cache import cache
from contimg.cache import UNAVAILABLE
for _ in range(2):
    try:
        cache.get("anything")
    except UNAVAILABLE as error:
        print(error)
"""


def test_one_of_a_process_that_ended_on_another_host_is_told_for_a_minute(install, client, monkeypatch):
    pytest.importorskip("redis")
    if os.geteuid() != 0:
        pytest.skip("SKIPPED: a host name of its own needs root.")
    installation = install("sqlite", CONTIMG_REDIS_URL=f"redis://127.0.0.1:{free_port()}/0")
    command = ["unshare", "--uts", "sh", "-c", 'hostname web-b && exec "$@"', "-", sys.executable, "-c", LEAVES_IT_OPEN]
    done = subprocess.run(command, env=installation.environment, cwd=PROJECT, capture_output=True, text=True)
    if "unshare" in done.stderr:
        skip_or_fail(f"SKIPPED: root may not give a process a host name of its own here ({done.stderr}).")
    assert done.returncode == 0, done.stderr

    def told() -> dict:
        return client.get("/health/").json()["checks"]["Breakers"]

    assert told()["status"] == "warning"
    (named,) = told()["figures"]
    assert named.startswith("redis-cache of web-b.")
    monkeypatch.setattr(models, "UNHEARD", timedelta(seconds=1))
    until(lambda: told()["status"] == "ok", within_s=5)


def test_it_is_counted(breaker, thing):
    def value(name: str, **labels: str) -> float | None:
        return REGISTRY.get_sample_value(name, {"breaker": breaker.name, **labels})

    fail(breaker, thing)
    with pytest.raises(BreakerOpen):
        breaker.call(thing)
    assert value("contimg_breaker_open") == 1
    assert value("contimg_breaker_transitions_total", to="open") == 1
    assert value("contimg_breaker_refused_total") == 1
    breaker.close()
    assert value("contimg_breaker_open") == 0
    assert value("contimg_breaker_transitions_total", to="closed") == 1


def test_forty_requests_lose_less_than_a_second_to_a_redis_that_hangs(installation, private_redis, client, settings):
    redis_cache = pytest.importorskip("contimg.redis_cache")
    private_redis.start()
    settings.CACHES = {
        "default": {
            "BACKEND": "contimg.redis_cache.Cache", "LOCATION": private_redis.url,
            "OPTIONS": {"socket_connect_timeout": 0.2, "socket_timeout": 0.2},
        }
    }  # fmt: skip

    def forty() -> float:
        began = time.monotonic()
        for _ in range(40):
            assert client.get("/api/v1/calibrators/").status_code == 200
        return time.monotonic() - began

    try:
        healthy_s = forty()
        private_redis.freeze()
        assert forty() - healthy_s < PATIENCE
        assert redis_cache.BREAKER.is_open
        answer = client.get("/health/")
        assert (answer.status_code, answer.json()["status"]) == (200, "warning")
        assert answer.json()["checks"]["Breakers"]["status"] == "warning"
        assert "redis-cache" in answer.json()["checks"]["Breakers"]["detail"]
        private_redis.thaw()
        redis_cache.BREAKER._opened_at -= 60  # it has rested
        assert client.get("/api/v1/calibrators/").status_code == 200
        assert not redis_cache.BREAKER.is_open
    finally:
        redis_cache.BREAKER.close()
