"""Connections of the pool which the server has closed since are given to nobody."""

from __future__ import annotations

import threading

import pytest
from django.conf import settings
from django.db import connection

pytestmark = [
    pytest.mark.django_db,
    pytest.mark.skipif(connection.vendor != "postgresql", reason="SQLite has no pool"),
]
N_THREADS = 3


def test_none_meets_a_connection_that_the_server_has_ended():
    first = pids_of_threads()
    assert len(set(first)) == N_THREADS
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_terminate_backend(pid, 5000) FROM unnest(%s) AS pid", [first])
        assert cursor.fetchall() == [(True,)] * N_THREADS
    second = pids_of_threads()
    assert len(set(second)) == N_THREADS
    assert not set(first) & set(second)


def test_connections_that_work_are_used_again():
    assert len({pid for _ in range(6) for pid in pids_of_threads()}) <= settings.CONTIMG_DB_POOL_SIZE < 6 * N_THREADS


def pids_of_threads() -> list[int]:
    """Of the connections that threads have at the same time and give back."""
    found: list[int] = []
    all_have_one = threading.Barrier(N_THREADS, timeout=20)

    def ask() -> None:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_backend_pid()")
            found.append(cursor.fetchone()[0])
        all_have_one.wait()
        connection.close()

    threads = [threading.Thread(target=ask) for _ in range(N_THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found
