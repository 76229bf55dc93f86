"""A drill: Prometheus, started from ops/prometheus, sees a real service and its workers; what should be told is told.

Only addresses and times of its configuration are changed: it asks more often, and no alert waits.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import signal
import subprocess
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
from django.conf import settings

from tests.batch.installation import Installation, skip_or_fail, until
from tests.batch.servers import Postgres, Redis, free_port
from tests.service import Web

pytest_plugins = ["tests.batch.installation", "tests.batch.servers"]
OPS = Path(settings.BASE_DIR) / "ops" / "prometheus"
OURS = {"ServiceDown", "DatabaseDown", "NotReady", "WorkerLost", "BreakerOpen"}


def quickened(text: str, ports: dict[str, int], *, every_s: int) -> str:
    for port, ours in ports.items():
        text = text.replace(f"127.0.0.1:{port}", f"127.0.0.1:{ours}")
    text = re.sub(r"(scrape_interval|scrape_timeout): \d+s", rf"\1: {every_s}s", text)
    text = re.sub(r"evaluation_interval: \d+s", "evaluation_interval: 1s", text)
    return re.sub(r"^( +for:) \w+$", r"\1 1s", text, flags=re.MULTILINE)


def told_by(url: str) -> dict | None:
    with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=2) as answer:  # noqa: S310 - Prometheus's, here
        return json.loads(answer.read())["data"]
    return None


class Drill:
    """A web service, workers and Prometheus of one installation, each of which may be killed and started again."""

    def __init__(self, installation: Installation, folder: Path) -> None:
        self._installation = installation
        self._ports = {"8000": free_port(), "9151": free_port()}
        self._port = free_port()
        installation.environment["CONTIMG_WORKER_METRICS"] = f"127.0.0.1:{self._ports['9151']}"
        self._folder = folder
        (folder / "rules").mkdir(parents=True)
        self._configure(every_s=1)
        self.start_web()
        self.start_worker()
        with (folder / "log").open("ab") as log:  # ended with the installation, which knows it by its environment
            self.prometheus = subprocess.Popen(
                ["prometheus", f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}",
                 f"--web.listen-address=127.0.0.1:{self._port}", "--log.level=warn"],
                env=installation.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    def scrape_every(self, seconds: int) -> None:
        self._configure(every_s=seconds)
        self.prometheus.send_signal(signal.SIGHUP)

    def _configure(self, *, every_s: int) -> None:
        for name in ("prometheus.yml", "rules/contimg.yml"):
            text = quickened((OPS / name).read_text(), self._ports, every_s=every_s)
            (self._folder / name).write_text(text)

    def start_web(self) -> None:
        self.web = Web(self._installation, port=self._ports["8000"])

    def start_worker(self) -> None:
        self.worker = self._installation.start("worker", "--processes", "1")

    def targets(self) -> dict[str, str]:
        found = told_by(f"http://127.0.0.1:{self._port}/api/v1/targets") or {"activeTargets": []}
        return {target["labels"]["job"]: target["health"] for target in found["activeTargets"]}

    def firing(self) -> dict[str, str]:
        """The alerts of this drill that fire, with what they say."""
        found = told_by(f"http://127.0.0.1:{self._port}/api/v1/alerts") or {"alerts": []}
        alerts = [alert for alert in found["alerts"] if alert["state"] == "firing"]
        return {
            alert["labels"]["alertname"]: alert["annotations"]["summary"]
            for alert in alerts
            if alert["labels"]["alertname"] in OURS
        }


@pytest.fixture
def drill(
    private_postgres: Postgres, private_redis: Redis, install: Callable[..., Installation], tmp_path: Path
) -> Drill:
    if shutil.which("prometheus") is None:
        skip_or_fail("SKIPPED: prometheus (Debian package) is not installed.")
    private_redis.start()
    environment = {"CONTIMG_REDIS_URL": private_redis.url, "CONTIMG_SWEEP_S": 1}
    return Drill(install(private_postgres.url, **environment), tmp_path / "prometheus")


def test_what_is_lost_is_told_and_what_comes_back_resolves(drill, private_postgres, private_redis):
    all_up = {"contimg-web": "up", "contimg-health": "up", "contimg-workers": "up"}
    until(lambda: drill.targets() == all_up and drill.firing() == {}, within_s=60)

    drill.worker.send_signal(signal.SIGKILL)
    drill.worker.wait()
    private_redis.kill()
    for _ in range(8):  # two in each process
        drill.web.get("/api/v1/images/")
    private_postgres.stop()
    drill.scrape_every(7)  # without a database `/metrics` takes 5 s and `/health/` 6 s
    until(lambda: drill.firing().keys() == {"WorkerLost", "BreakerOpen", "DatabaseDown", "NotReady"}, within_s=60)
    assert drill.firing()["WorkerLost"] == "Machines whose workers fell silent: 1."
    assert drill.firing()["BreakerOpen"].startswith("The breaker redis-cache is open in ")

    drill.scrape_every(1)
    drill.web.process.terminate()
    drill.web.process.wait(30)
    until(lambda: drill.firing().keys() >= {"WorkerLost", "ServiceDown"})

    private_postgres.start()
    private_redis.start()
    drill.start_web()
    drill.start_worker()
    until(lambda: drill.firing() == {} and drill.targets() == all_up, within_s=60)
