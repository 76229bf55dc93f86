"""The cache that the processes of one machine share without a server: a table in an SQLite file of its own.

Django's file and database caches are slower and cannot raise a counter atomically, which the throttles need (figures in
docs/measurements.md). With CONTIMG_REDIS_URL it is Django's Redis cache.
"""

from __future__ import annotations

import importlib.util
import os
import pickle
import sqlite3
import threading
import time
from pathlib import Path
from typing import Any

from django.core.cache.backends.base import DEFAULT_TIMEOUT, BaseCache

# What a cache raises when it cannot be reached or takes nothing; a caller that can do without it catches these.
UNAVAILABLE: tuple[type[Exception], ...] = (sqlite3.Error, OSError)
if importlib.util.find_spec("redis") is not None:
    from redis.exceptions import RedisError

    UNAVAILABLE = (*UNAVAILABLE, RedisError)  # also of one that is full, or a replica

BUSY_TIMEOUT_S = 0.5
CULL_EVERY = 1000  # writes of this process
_TABLE = "CREATE TABLE IF NOT EXISTS entry (key TEXT PRIMARY KEY, value, expires_at REAL) WITHOUT ROWID"


class SQLiteCache(BaseCache):
    """LOCATION is the file. What has expired is deleted now and then; there is no limit of entries.

    A whole number is stored as one, so that the database can raise it; anything else is pickled. The file belongs to
    this user alone: whoever can write to it could run code in this process.
    """

    def __init__(self, location: str, params: dict[str, Any]) -> None:
        super().__init__(params)
        self._path = Path(location)
        self._local = threading.local()
        self._writes = 0

    def get(self, key: str, default: Any = None, version: int | None = None) -> Any:
        row = self._run(
            "SELECT value FROM entry WHERE key = ? AND (expires_at IS NULL OR expires_at > ?)",
            self.make_and_validate_key(key, version),
            time.time(),
        )
        return default if row is None else _read(row[0])

    def set(self, key: str, value: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> None:
        self._run(
            "INSERT INTO entry VALUES (?, ?, ?) ON CONFLICT (key) DO UPDATE "
            "SET value = excluded.value, expires_at = excluded.expires_at",
            self.make_and_validate_key(key, version),
            _written(value),
            self.get_backend_timeout(timeout),
        )
        self._cull_now_and_then()

    def add(self, key: str, value: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> bool:
        row = self._run(
            "INSERT INTO entry VALUES (?, ?, ?) ON CONFLICT (key) DO UPDATE "
            "SET value = excluded.value, expires_at = excluded.expires_at WHERE entry.expires_at <= ? RETURNING 1",
            self.make_and_validate_key(key, version),
            _written(value),
            self.get_backend_timeout(timeout),
            time.time(),
        )
        self._cull_now_and_then()
        return row is not None

    def incr(self, key: str, delta: int = 1, version: int | None = None) -> int:
        row = self._run(
            "UPDATE entry SET value = value + ? WHERE key = ? AND (expires_at IS NULL OR expires_at > ?) "
            "RETURNING value",
            delta,
            self.make_and_validate_key(key, version),
            time.time(),
        )
        if row is None:
            raise ValueError(f"Key {key!r} not found")
        return row[0]

    def touch(self, key: str, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> bool:
        row = self._run(
            "UPDATE entry SET expires_at = ? WHERE key = ? AND (expires_at IS NULL OR expires_at > ?) RETURNING 1",
            self.get_backend_timeout(timeout),
            self.make_and_validate_key(key, version),
            time.time(),
        )
        return row is not None

    def delete(self, key: str, version: int | None = None) -> bool:
        row = self._run("DELETE FROM entry WHERE key = ? RETURNING 1", self.make_and_validate_key(key, version))
        return row is not None

    def clear(self) -> None:
        self._run("DELETE FROM entry")

    def _cull_now_and_then(self) -> None:
        self._writes += 1
        if self._writes % CULL_EVERY == 0:
            self._run("DELETE FROM entry WHERE expires_at <= ?", time.time())

    def _run(self, statement: str, *values: Any) -> Any:
        """The first row. Fetched to the end, because SQLite commits only then."""
        rows = self._connection().execute(statement, values).fetchall()
        return rows[0] if rows else None

    def _connection(self) -> sqlite3.Connection:
        """One for each thread; none goes through a fork."""
        if getattr(self._local, "pid", None) != os.getpid():
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._path.touch(mode=0o600)
            connection = sqlite3.connect(self._path, timeout=BUSY_TIMEOUT_S, isolation_level=None)
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=OFF")  # after a power cut it may begin empty
            connection.execute(_TABLE)
            self._local.connection, self._local.pid = connection, os.getpid()
        return self._local.connection


def _written(value: Any) -> int | bytes:
    return value if type(value) is int else pickle.dumps(value, pickle.HIGHEST_PROTOCOL)


def _read(stored: int | bytes) -> Any:
    return pickle.loads(stored) if isinstance(stored, bytes) else stored  # noqa: S301  # only this user writes the file
