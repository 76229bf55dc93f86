"""The web server as its unit starts it, with this checkout's program, on an installation and a port of a test's own."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from tests.batch.installation import PROJECT, Installation, until
from tests.batch.servers import free_port

OPS = PROJECT / "ops"


class Unit:
    def __init__(self, name: str) -> None:
        self.name = name
        self._text = (OPS / "systemd" / f"{name}.service").read_text()

    def all(self, key: str) -> list[str]:
        return re.findall(rf"^{key}=(.*)$", self._text, re.MULTILINE)

    def one(self, key: str) -> str:
        (value,) = self.all(key)
        return value


@dataclass
class Answer:
    status: int  # 0: no answer in time
    body: bytes
    headers: Any
    seconds: float

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Web:
    """contimg-web, as people and monitors see it."""

    def __init__(
        self, installation: Installation, *, workers: int | None = None, token: str = "", port: int | None = None
    ) -> None:
        self.token, self.port = token, port or free_port()
        program, *arguments = shlex.split(Unit("contimg-web").one("ExecStart"))
        arguments[arguments.index("--port") + 1] = str(self.port)
        if workers is not None:
            arguments[arguments.index("--workers") + 1] = str(workers)
        self._log = installation.folder / "web.log"
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [Path(sys.executable).with_name(Path(program).name), *arguments], cwd=PROJECT,
                env=installation.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        installation._started.append(self.process)
        until(lambda: self.get("/health/live", within_s=1).status == 200, within_s=60)

    def until_started(self, n: int) -> None:
        """So many of its processes, those that are gone counted too, have come to serve."""
        until(lambda: self._log.read_text().count("Started worker-") >= n)

    def get(self, path: str, *, within_s: float = 20) -> Answer:
        return self._ask(urllib.request.Request(f"http://127.0.0.1:{self.port}{path}"), within_s)

    def post(self, path: str, data: Any, *, within_s: float = 20) -> Answer:
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self.token}"}
        url = f"http://127.0.0.1:{self.port}{path}"
        return self._ask(urllib.request.Request(url, json.dumps(data).encode(), headers), within_s)

    def checks(self) -> dict[str, Any]:
        return self.get("/health/").json["checks"]

    def metric(self, name: str, **labels: str) -> float | None:
        """The sum over its samples with these labels; None where it has none."""
        text = self.get("/metrics").body.decode()
        samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
        values = [one.value for one in samples if one.name == name and labels.items() <= one.labels.items()]
        return sum(values) if values else None

    def _ask(self, request: urllib.request.Request, within_s: float) -> Answer:
        began = time.monotonic()
        try:
            with urllib.request.urlopen(request, timeout=within_s) as answer:  # noqa: S310 - of our own server
                return Answer(answer.status, answer.read(), answer.headers, time.monotonic() - began)
        except urllib.error.HTTPError as error:
            return Answer(error.code, error.read(), error.headers, time.monotonic() - began)
        except (urllib.error.URLError, TimeoutError, ConnectionError):
            return Answer(0, b"", {}, time.monotonic() - began)


def n_waiting_for_lock(cursor) -> int:
    """Of the connections to this PostgreSQL server."""
    cursor.execute("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
    return cursor.fetchone()[0]
