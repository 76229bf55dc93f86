"""Database servers and brokers of a test's own, which it may stop, kill and freeze."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.batch.installation import skip_or_fail, until


def free_port() -> int:
    """Below those that the system gives to clients: one of them could take it while its server is away."""
    for port in random.sample(range(20_000, 32_000), 100):
        with contextlib.suppress(OSError), socket.socket() as one:
            one.bind(("127.0.0.1", port))
            return port
    raise OSError("100 ports of 127.0.0.1 are all taken.")


def _answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


class Postgres:
    """A cluster in a folder that its user may reach: the server refuses to run as root, then it runs as `postgres`."""

    def __init__(self, binaries: Path) -> None:
        self._binaries = binaries
        self._folder = Path(tempfile.mkdtemp(prefix="postgres"))
        self._user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups"] if os.geteuid() == 0 else []
        if self._user:
            shutil.chown(self._folder, "postgres")
        self._data, self._port = self._folder / "data", free_port()
        self._run("initdb", "--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync")

    @property
    def url(self) -> str:
        return f"postgres://postgres@127.0.0.1:{self._port}/postgres"

    def start(self) -> None:
        options = f"-c port={self._port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={self._folder}"
        self._run("pg_ctl", "start", "--wait", f"--log={self._folder / 'log'}", f"--options={options}")

    def stop(self, mode: str = "fast") -> None:
        """`immediate` is as a crash: clients are cut off, and the next start recovers from the log."""
        self._run("pg_ctl", "stop", "--wait", f"--mode={mode}")

    def remove(self) -> None:
        with contextlib.suppress(subprocess.CalledProcessError):
            self.stop("immediate")
        shutil.rmtree(self._folder, ignore_errors=True)

    def _run(self, program: str, *arguments: str) -> None:
        subprocess.run(
            [*self._user, self._binaries / program, f"--pgdata={self._data}", *arguments], cwd=self._folder, check=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, timeout=120,
        )  # fmt: skip


class Redis:
    """A server that keeps nothing: whoever kills it, kills its queues."""

    def __init__(self, program: str) -> None:
        self._program = program
        self._port = free_port()
        self._process: subprocess.Popen | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self._port}/0"

    def start(self) -> None:
        self._process = subprocess.Popen(
            [self._program, "--port", str(self._port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        until(lambda: _answers(self._port))

    def freeze(self) -> None:
        """It takes connections, and says nothing."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()


class RabbitMQ:
    """A node of its own name and folder, whose cookie no other has. Whoever kills it, kills its queues' messages."""

    def __init__(self, program: Path) -> None:
        self._program = program
        self._folder = Path(tempfile.mkdtemp(prefix="rabbitmq"))
        self._port = free_port()
        self._process: subprocess.Popen | None = None

    @property
    def url(self) -> str:
        return f"amqp://guest:guest@127.0.0.1:{self._port}//"

    def start(self) -> None:
        name = self._folder.name
        own = {
            "HOME": self._folder, "RABBITMQ_NODENAME": f"{name}@localhost", "RABBITMQ_NODE_PORT": self._port,
            "RABBITMQ_DIST_PORT": free_port(), "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_MNESIA_BASE": self._folder / "mnesia", "RABBITMQ_LOG_BASE": self._folder / "log",
            "RABBITMQ_ENABLED_PLUGINS_FILE": self._folder / "plugins", "RABBITMQ_CONFIG_FILE": self._folder / "none",
            "RABBITMQ_CONF_ENV_FILE": self._folder / "none",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
        }  # fmt: skip
        self._process = subprocess.Popen(
            [self._program], env={**os.environ, **{key: str(value) for key, value in own.items()}},
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        until(lambda: _answers(self._port), within_s=60)

    def freeze(self) -> None:
        """It takes connections, and says nothing."""
        for process in self._all():
            process.suspend()

    def kill(self) -> None:
        if self._process is not None:
            for process in self._all():
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            self._process.wait()
            self._process = None

    def remove(self) -> None:
        self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _all(self) -> list[psutil.Process]:
        assert self._process is not None
        begun = psutil.Process(self._process.pid)
        return [begun, *begun.children(recursive=True)]


@pytest.fixture
def private_postgres() -> Iterator[Postgres]:
    """A running server. Asked for before `install`, it outlives the installation."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    program = shutil.which("initdb") or (str(found[-1]) if found else None)
    if program is None:
        skip_or_fail("SKIPPED: no PostgreSQL server is installed that could be started and stopped.")
    server = Postgres(Path(program).parent)
    try:
        server.start()
        yield server
    finally:
        server.remove()


@pytest.fixture
def private_redis() -> Iterator[Redis]:
    """A server that is not started yet."""
    program = shutil.which("redis-server")
    if program is None:
        skip_or_fail("SKIPPED: no redis-server is installed that could be started and killed.")
    server = Redis(program)
    yield server
    server.kill()


@pytest.fixture
def private_rabbitmq() -> Iterator[RabbitMQ]:
    """A server that is not started yet."""
    found = sorted(Path("/usr/lib/rabbitmq/lib").glob("rabbitmq_server-*/sbin/rabbitmq-server"))
    if not found:
        skip_or_fail("SKIPPED: no RabbitMQ (Debian package rabbitmq-server) is installed that could be started.")
    server = RabbitMQ(found[-1])
    yield server
    server.remove()
