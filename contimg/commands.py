"""What every command of ours does at its edge: one clear sentence for what a user can mend, and no traceback."""

from __future__ import annotations

import os
import re
import select
import signal
import sys
from argparse import ArgumentTypeError
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from django.core.checks import Tags
from django.core.management.base import BaseCommand, CommandError
from django.db import DEFAULT_DB_ALIAS, connections
from django.db.migrations.executor import MigrationExecutor
from django.db.utils import OperationalError
from tqdm import tqdm

from contimg.exceptions import ContimgError, InvalidInput
from contimg.intervals import EARLIEST, LATEST

INTERRUPTED = 128 + signal.SIGINT  # the exit status, as shells have it
READER_GONE = 128 + signal.SIGPIPE
MOST_SECONDS = 30 * 86_400.0


class NotMigrated(ContimgError):
    """The database's tables are those of an older version."""

    code = "not_migrated"
    status = 503


def seconds(text: str) -> float:
    """The type of an option: from 0 to a month. (NaN is in no range.)"""
    try:
        value = float(text)
    except ValueError:
        value = -1
    if not 0 <= value <= MOST_SECONDS:
        raise ArgumentTypeError(f"{text!r} is not a number of seconds from 0 to {MOST_SECONDS:.0f}")
    return value


def utc_time(text: str) -> datetime:
    """The type of an option: a time as 2026-03-20 or 2026-03-20T06:10, UTC where it has no offset."""
    try:
        time = datetime.fromisoformat(text)
        time = time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise ArgumentTypeError(f"{text!r} is not a time such as 2026-03-20T06:10 (UTC)") from error
    if not EARLIEST <= time <= LATEST:
        raise ArgumentTypeError(f"{text!r} is not from {EARLIEST.year} to {LATEST.year}")
    return time


def positive(text: str) -> int:
    """The type of an option: a whole number from 1 on."""
    if not re.fullmatch(r"0*[1-9][0-9]{0,8}", text):
        raise ArgumentTypeError(f"{text!r} is not a whole number from 1 on")
    return int(text)


def not_empty(text: str) -> str:
    """The type of an argument that stands for something else when it is left out, as a variable of a script may be."""
    if not text.strip():
        raise ArgumentTypeError("it is empty; leave it out, or give a value")
    return text


def stopping_signals() -> list[signal.Signals]:
    """What tells a service to stop: TERM, Ctrl-C, and a terminal that is closed, unless `nohup` has it ignored."""
    hangup = [] if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN else [signal.SIGHUP]
    return [signal.SIGTERM, signal.SIGINT, *hangup]


@contextmanager
def stopping_like_ctrl_c() -> Iterator[None]:
    """Meanwhile TERM, and a terminal that is closed, raise KeyboardInterrupt."""
    before = {number: signal.getsignal(number) for number in stopping_signals() if number != signal.SIGINT}
    for number in before:
        signal.signal(number, signal.default_int_handler)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class NotText(InvalidInput):
    """Bytes that are not UTF-8 cannot be kept in the database, nor compared with what is there."""

    code = "not_text"


class ContimgCommand(BaseCommand):
    """Refuses to start on a database that was not migrated; our errors end it with their sentence and code."""

    # Those of our settings, and Django's of one of them; `manage.py check` has all, which take a second.
    requires_system_checks = ("contimg", Tags.compatibility)
    needs_migrated_database = True

    def check(self, *args: Any, **options: Any) -> None:
        """The settings first: a wrong one may be why the database is not the expected one."""
        super().check(*args, **options)
        if self.needs_migrated_database:
            _refuse_unmigrated()

    def execute(self, *args: Any, **options: Any) -> str | None:
        try:
            try:
                _refuse_what_is_no_text(options.values())
                return super().execute(*args, **options)
            finally:
                self.stdout.flush()
        except ContimgError as error:
            raise CommandError(f"{error} [{error.code}]") from error
        except KeyboardInterrupt:
            self.stderr.write("Interrupted.")
            raise SystemExit(INTERRUPTED) from None
        except BrokenPipeError:
            if not _reader_is_gone():
                raise  # a fault of something else
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python's own last flush complains
            raise SystemExit(READER_GONE) from None


def _reader_is_gone() -> bool:
    """Whether standard output is a pipe that nobody reads any more, as after `| head`."""
    asked = select.poll()
    asked.register(sys.stdout.fileno(), 0)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in asked.poll(0))


def _refuse_what_is_no_text(values: Iterable[Any]) -> None:
    """Names of files may be any bytes: they are paths. Raises NotText."""
    for value in values:
        if isinstance(value, list | tuple):
            _refuse_what_is_no_text(value)
        elif isinstance(value, str):
            try:
                value.encode()
            except UnicodeEncodeError as error:
                raise NotText(f"{value!r} is not UTF-8; write it in that encoding.") from error


def _refuse_unmigrated() -> None:
    """Raises NotMigrated."""
    with unreachable_database_named():
        executor = MigrationExecutor(connections[DEFAULT_DB_ALIAS])
    if executor.migration_plan(executor.loader.graph.leaf_nodes()):
        raise NotMigrated("The database is not up to date with this version; run `manage.py migrate` first.")


@contextmanager
def unreachable_database_named() -> Iterator[None]:
    """For what is first asked of the database."""
    try:
        yield
    except OperationalError as error:
        raise CommandError(
            "The database does not answer; see that it runs and that DATABASE_URL is right. [database_unavailable]"
        ) from error


class StepBar:
    """A bar on a terminal for each step of a work that tells how far it is: `bar("Copying", 3, 10)`.

    Without a total it counts.
    """

    def __init__(self) -> None:
        self._step, self._bar = "", tqdm(disable=True)

    def __call__(self, step: str, done: int, total: int | None = None) -> None:
        if step != self._step:
            self.close()
            self._step, self._bar = step, tqdm(desc=step, total=total, disable=None, leave=False)
        self._bar.update(done - self._bar.n)

    def close(self) -> None:
        self._bar.close()
