"""The whole database as one file, and back: SQLite by its online backup, PostgreSQL by its own client programs.

A dump is of one moment, whoever writes meanwhile: `snapshot` holds that moment, and what this connection reads within
it is what the dump has. Loading is all or nothing: on SQLite a file that was read back is linked into place, on
PostgreSQL one transaction is committed when every row was counted.
"""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import subprocess
import tempfile
import uuid
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any, ClassVar

from django.db import transaction
from django.db.backends.base.base import BaseDatabaseWrapper

from contimg.exceptions import ContimgError
from contimg.products import sync_one

PAGES_AT_ONCE = 1000
BLOCK_BYTES = 1 << 20
Rows = Mapping[str, int]  # how many, by table
Told = Callable[[int, int], None]  # so much is done, of so much


class ClientMissing(ContimgError):
    """A program of PostgreSQL is not installed, or is older than the server."""

    code = "database_client_missing"
    status = 503


class DumpFailed(ContimgError):
    code = "dump_failed"
    status = 503
    permanent = False


class DumpDamaged(ContimgError):
    """A dump cannot be read, or has other rows than were counted when it was made."""

    code = "dump_damaged"
    status = 422


class PlaceNotEmpty(ContimgError):
    """A database would have been restored into one that has tables."""

    code = "place_not_empty"
    status = 409


class RestoreFailed(ContimgError):
    code = "restore_failed"
    status = 503
    permanent = False


class Dumper(ABC):
    """Of one connection."""

    file_name: ClassVar[str]

    def __init__(self, connection: BaseDatabaseWrapper) -> None:
        self.connection: Any = connection

    def count_rows(self) -> dict[str, int]:
        quote = self.connection.ops.quote_name
        with self.connection.cursor() as cursor:
            tables = sorted(self.connection.introspection.table_names(cursor))
            return {table: cursor.execute(f"SELECT COUNT(*) FROM {quote(table)}").fetchone()[0] for table in tables}  # noqa: S608

    def refuse_unless_empty(self) -> None:
        """Raises PlaceNotEmpty."""
        if found := self.connection.introspection.table_names():
            raise PlaceNotEmpty(
                f"The database has {len(found)} tables already ({', '.join(sorted(found)[:3])}, ...), and nothing is "
                "restored over them; name an empty one as DATABASE_URL (`createdb` makes it; for SQLite a new file)."
            )

    @abstractmethod
    def snapshot(self) -> AbstractContextManager[None]:
        """Meanwhile this connection, and `dump`, read the database as it was at one moment. Nothing may be written."""

    @abstractmethod
    def dump(self, path: Path, told: Told) -> None:
        """Within `snapshot`. Raises ClientMissing and DumpFailed."""

    @abstractmethod
    def read_back(self, path: Path, rows: Rows, told: Told) -> None:
        """Read all of a dump and count. Raises DumpDamaged."""

    @abstractmethod
    def load(self, path: Path, rows: Rows, told: Told) -> None:
        """Into the connection's database, which has to be empty. Raises DumpDamaged, PlaceNotEmpty, RestoreFailed."""


class SQLite(Dumper):
    file_name = "database.sqlite3"

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        with self.connection.cursor() as cursor:
            cursor.execute("BEGIN")
            try:
                cursor.execute("SELECT 1 FROM sqlite_master").fetchone()  # the moment is that of the first read
                yield
            finally:
                cursor.execute("ROLLBACK")

    def dump(self, path: Path, told: Told) -> None:
        """The connection that holds the moment is the one that is copied: another would begin anew at each commit."""
        try:
            with closing(sqlite3.connect(path)) as copy:
                self.connection.connection.backup(
                    copy, pages=PAGES_AT_ONCE, progress=lambda _, left, total: told(total - left, total)
                )
                copy.execute("PRAGMA journal_mode=DELETE")  # one file, which opens without others beside it
        except sqlite3.OperationalError as error:
            raise DumpFailed(f"The database could not be copied: {error}; see to that and run again.") from error

    def read_back(self, path: Path, rows: Rows, told: Told) -> None:
        try:
            with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True)) as copy:
                (said,) = copy.execute("PRAGMA quick_check(1)").fetchone()
                found = {}
                for number, table in enumerate(rows, start=1):
                    (found[table],) = copy.execute(f'SELECT COUNT(*) FROM "{table}"').fetchone()  # noqa: S608
                    told(number, len(rows))
        except sqlite3.DatabaseError as error:
            raise DumpDamaged(f"{path.name} cannot be read as a database: {error}; take another backup.") from error
        if said != "ok":
            raise DumpDamaged(f"{path.name} is damaged: {said}; take another backup.")
        _refuse_other_rows(path, rows, found)

    def load(self, path: Path, rows: Rows, told: Told) -> None:
        self.refuse_unless_empty()
        self.connection.close()
        target = Path(self.connection.settings_dict["NAME"])
        temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}")
        try:
            _copy(path, temporary, told)
            self.read_back(temporary, rows, told)
            # The log of a database that was here before would be played into this one.
            for stale in (target, Path(f"{target}-wal"), Path(f"{target}-shm")):
                stale.unlink(missing_ok=True)
            os.link(temporary, target)
            sync_one(target.parent)
        except FileExistsError as error:
            raise PlaceNotEmpty(f"Somebody else made {target.name} meanwhile; stop what uses it, then look.") from error
        except OSError as error:
            raise RestoreFailed(f"{target.name} could not be written ({error.strerror}); nothing was.") from error
        finally:
            temporary.unlink(missing_ok=True)


class PostgreSQL(Dumper):
    file_name = "database.dump"

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        with transaction.atomic(using=self.connection.alias), self.connection.cursor() as cursor:
            cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            cursor.execute("SET LOCAL idle_in_transaction_session_timeout = 0")  # while pg_dump works
            (self._snapshot,) = cursor.execute("SELECT pg_export_snapshot()").fetchone()
            yield

    def dump(self, path: Path, told: Told) -> None:
        self._refuse_unusable_clients()
        options = ["--format=custom", "--verbose", f"--snapshot={self._snapshot}", "--lock-wait-timeout=60000"]
        n_tables, n, last = len(self.connection.introspection.table_names()), 0, ""
        with self._started("pg_dump", *options, f"--file={path}", stderr=subprocess.PIPE) as process:
            for line in process.stderr:
                last = line.decode(errors="replace").strip()
                if "dumping contents of table" in last:
                    n += 1
                    told(n, n_tables)
        if process.returncode:
            raise DumpFailed(f"pg_dump ended with {process.returncode}: {last}; see to that and run again.")

    def read_back(self, path: Path, rows: Rows, told: Told) -> None:
        found: Counter[str] = Counter()
        with _script_of(path) as lines:
            for _ in _counting(lines, found):
                told(found.total(), sum(rows.values()))
        _refuse_other_rows(path, rows, found)

    def load(self, path: Path, rows: Rows, told: Told) -> None:
        """psql commits when it is told to, which is after the last row was counted: at an end of its input it does not.

        Two at a time do no harm: the tables of one are in the way of the other's.
        """
        self._refuse_unusable_clients()
        self.refuse_unless_empty()
        self.connection.close()
        found: Counter[str] = Counter()
        with tempfile.TemporaryFile() as said:
            options = ["--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", "--set=VERBOSITY=terse"]
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.DEVNULL, "stderr": said}
            with self._started("psql", *options, **pipes) as process, _script_of(path) as lines:
                with suppress(BrokenPipeError):  # psql has ended, and says why
                    process.stdin.write(b"BEGIN;\n")
                    for line in _counting(lines, found):
                        process.stdin.write(line)
                        told(found.total(), sum(rows.values()))
                    _refuse_other_rows(path, rows, found)
                    process.stdin.write(b"COMMIT;\n")
                _close_input(process)
                process.wait()
            if process.returncode:
                said.seek(0)
                last = said.read().decode(errors="replace").strip().rpartition("\n")[2]
                raise RestoreFailed(f"psql ended with {process.returncode}: {last}; nothing was restored.")

    def _started(self, program: str, *options: str, **pipes: Any) -> AbstractContextManager[Any]:
        """Connected as Django is. The password is in the environment, which other users of the machine cannot see."""
        command, given = self.connection.client.settings_to_cmd_args_env(
            self.connection.settings_dict, ["--no-password", *options]
        )
        return _running([program, *command[1:]], env={**os.environ, "LC_ALL": "C", **(given or {})}, **pipes)

    def _refuse_unusable_clients(self) -> None:
        server = self.connection.pg_version // 10_000
        package = f"install the Debian package postgresql-client-{server}, or what brings it elsewhere"
        for program in ("pg_dump", "pg_restore", "psql"):
            if shutil.which(program) is None:
                raise ClientMissing(f"{program} is not on the PATH of this user; {package}.")
        said = subprocess.run(["pg_dump", "--version"], capture_output=True, text=True, check=False).stdout  # noqa: S607
        version = re.search(r"\) (\d+)", said)
        if version is None or int(version[1]) < server:
            raise ClientMissing(f"The server is PostgreSQL {server} and this is {said.strip()!r}; {package}.")


def dumper(connection: BaseDatabaseWrapper) -> Dumper:
    return {"sqlite": SQLite, "postgresql": PostgreSQL}[connection.vendor](connection)


@contextmanager
def _script_of(path: Path) -> Iterator[Iterator[bytes]]:
    """The lines of a dump of PostgreSQL as SQL. Raises DumpDamaged at its end when not all of it could be read."""
    command = ["pg_restore", "--no-owner", "--no-privileges", "--file=-", str(path)]
    with _running(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        yield _whole(process, path)


def _whole(process: Any, path: Path) -> Iterator[bytes]:
    yield from process.stdout
    said = process.stderr.read().decode(errors="replace").strip()  # a few lines at most: it fits a pipe
    if process.wait():
        raise DumpDamaged(f"{path.name} cannot be read: {said.rpartition(chr(10))[2]}; take another backup.")


@contextmanager
def _running(command: list[str], **options: Any) -> Iterator[Any]:
    """A program that does not outlive the block."""
    # A program of PostgreSQL, options of ours.
    with subprocess.Popen(command, **options) as process, ExitStack() as unless_done:  # noqa: S603
        unless_done.callback(_kill, process)
        yield process
        unless_done.pop_all()


def _kill(process: Any) -> None:
    process.kill()
    if process.stdin:
        _close_input(process)


def _close_input(process: Any) -> None:
    with suppress(BrokenPipeError):  # of what it was not sent yet, and will not read
        process.stdin.close()


_COPY = re.compile(rb'COPY (?:\w+\.)?"?(\w+)"? \(.*\) FROM stdin;$')


def _counting(lines: Iterator[bytes], found: Counter[str]) -> Iterator[bytes]:
    """The same lines; `found` has the rows of each table that went by. A row is one line, as COPY writes it."""
    table = ""
    for line in lines:
        if table and line == b"\\.\n":
            table = ""
        elif table:
            found[table] += 1
        elif copy := _COPY.match(line):
            table = copy[1].decode()
        yield line


def _refuse_other_rows(path: Path, rows: Rows, found: Rows) -> None:
    differ = [f"{table} has {found.get(table, 0)} of {n}" for table, n in rows.items() if found.get(table, 0) != n]
    if differ:
        raise DumpDamaged(
            f"{path.name} has other rows than were counted ({'; '.join(differ[:3])}); take another backup."
        )


def _copy(source: Path, target: Path, told: Told) -> None:
    """Durably."""
    size = source.stat().st_size
    with source.open("rb") as read, target.open("wb") as write:
        while block := read.read(BLOCK_BYTES):
            write.write(block)
            told(write.tell(), size)
    sync_one(target)
