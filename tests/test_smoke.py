"""An installation as docs/deployment.md makes one: what the units of ops/systemd start, where they start it, as nobody
in particular, on PostgreSQL and Redis. Then a tile goes through it.

Each service sees this machine as its unit would show it: this checkout in /opt/contimg and a folder of the test in
/var/lib/contimg, which alone it may write to. Only addresses and ports are other ones than those of ops/contimg.env.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from observations.engines.simulator import simulate_tile
from tests.batch.installation import PROJECT, skip_or_fail, until
from tests.batch.servers import _answers, free_port
from tests.deployment import HOST, NOBODY
from tests.science import QUIET, field_plan
from tests.service import OPS, Unit

pytest_plugins = ["tests.batch.servers"]
CODE, STATE = "/opt/contimg", "/var/lib/contimg"
PYTHON = f"{CODE}/.venv/bin/python"
RAW = f"{STATE}/raw"
SERVICES = ("contimg-web", "contimg-worker", "contimg-watch@")
OF_TIMERS = sorted(path.stem for path in (OPS / "systemd").glob("*.timer"))
# What systemd gives a service of the user contimg, without EnvironmentFile.
OF_SYSTEMD = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin", "LANG": "C.UTF-8", "HOME": STATE, "USER": "contimg",
    "LOGNAME": "contimg",
}  # fmt: skip
# ProtectSystem=strict, ProtectHome and PrivateTmp, in a view of the file system that ends with the service. What is
# needed of what is hidden (the interpreter, perhaps in a home; the checkout, whose programs name their place) comes
# back.
VIEW = """
set -e
code=$1 python=$2 state=$3; hidden=$4; shift 4
mount -t tmpfs tmpfs /mnt
mkdir /mnt/code /mnt/python /mnt/state
mount --bind "$code" /mnt/code; mount --bind "$python" /mnt/python; mount --bind "$state" /mnt/state
for folder in $hidden; do mount -t tmpfs -o mode=755 tmpfs "$folder"; done
chmod 1777 /tmp
mkdir -p "$code" "$python" /opt/contimg /var/lib/contimg
mount -o remount,bind,ro /
mount --bind /mnt/python "$python"; mount --bind /mnt/code "$code"
mount --bind /mnt/code /opt/contimg; mount -o remount,bind,ro /opt/contimg
mount --bind /mnt/state /var/lib/contimg
cd /opt/contimg
exec setpriv $AS --inh-caps=-all --ambient-caps=-all --no-new-privs env -u AS "$@"
"""


def environment_file(**changes: str) -> dict[str, str]:
    """That of ops/, which the units name, with other values of what it has."""
    values = dict(re.findall(r"^(\w+)=(.*)$", (OPS / "contimg.env").read_text(), re.MULTILINE))
    assert changes.keys() <= values.keys()
    return {**values, **changes}


class Machine:
    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder, self.environment = folder, environment
        self.web_port = free_port()
        self._running: dict[str, subprocess.Popen] = {}

    def run(self, *command: str, **environment: str) -> str:
        """To its end, which has to be a good one."""
        process = self._begin([*command], "commands", stdout=subprocess.PIPE, **environment)
        said = process.communicate(timeout=120)[0].decode()
        assert process.returncode == 0, self.said("commands")
        return said

    def start(self, name: str) -> None:
        unit = Unit(name)
        assert (unit.one("User"), unit.one("EnvironmentFile")) == ("contimg", "/etc/contimg.env")
        assert (unit.one("WorkingDirectory"), unit.one("ReadWritePaths")) == (CODE, STATE)
        for line in unit.all("ExecStartPre"):
            self.run(*self._command(line))
        self._running[name] = self._begin(self._command(unit.one("ExecStart")), name)

    def end(self, name: str, *, within_s: float) -> int:
        return self._running.pop(name).wait(within_s)

    def stop(self, name: str) -> int:
        """As `systemctl stop` of a unit with KillMode=mixed, in its time. Nothing that it started is left."""
        unit = Unit(name)
        assert unit.one("KillMode") == "mixed"
        process = self._running[name]
        begun = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGTERM)
        status = self.end(name, within_s=float(unit.one("TimeoutStopSec")))
        until(lambda: not psutil.wait_procs(begun, timeout=0)[1], within_s=5)
        return status

    def is_running(self, name: str) -> bool:
        return self._running[name].poll() is None

    def user_of(self, name: str) -> set[int]:
        main = psutil.Process(self._running[name].pid)
        return {process.uids().effective for process in (main, *main.children(recursive=True))}

    def said(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text()

    def kill_all(self) -> None:
        for process in self._running.values():
            for one in (*psutil.Process(process.pid).children(recursive=True), process):
                one.kill()
            process.wait()

    def _command(self, line: str) -> list[str]:
        return shlex.split(line.replace("%f", RAW).replace("--port 8000", f"--port {self.web_port}"))

    def run_as_root(self, *command: str) -> str:
        """Where `contimg` is a user and the settings are in /etc/contimg.env alone."""
        if not (etc := self.folder / "etc").exists():
            shutil.copytree("/etc", etc, symlinks=True)
            contimg = f"contimg:x:{NOBODY}:{NOBODY}::{STATE}:/usr/sbin/nologin"
            accounts = re.sub(rf"^nobody:x:{NOBODY}:.*$", contimg, (etc / "passwd").read_text(), flags=re.MULTILINE)
            (etc / "passwd").write_text(accounts)
            settings = "".join(f"{name}={value}\n" for name, value in self.environment.items())
            (etc / "contimg.env").write_text(settings)
        view = ["sh", "-c", f"mount --bind {etc} /etc; {VIEW}", "view", *self._places()]
        done = subprocess.run(
            [*unshare(), *view, *command], env={"PATH": OF_SYSTEMD["PATH"], "AS": "--reuid=0"},
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def _places(self) -> list[str]:
        return [str(PROJECT), sys.base_prefix, str(self.folder / "state"), " ".join(hidden())]

    def _begin(self, command: list[str], log: str, *, stdout: Any = None, **environment: str) -> subprocess.Popen:
        user = f"--reuid={NOBODY} --regid={NOBODY} --clear-groups" if os.geteuid() == 0 else ""
        view = ["sh", "-c", VIEW, "view", *self._places()]
        with (self.folder / f"{log}.log").open("ab") as file:
            return subprocess.Popen(
                [*unshare(), *view, *command], env={**OF_SYSTEMD, **self.environment, **environment, "AS": user},
                stdin=subprocess.DEVNULL, stdout=file if stdout is None else stdout, stderr=file,
                start_new_session=True,
            )  # fmt: skip

    def ask(self, path: str, data: Any = None, *, token: str = "", port: int | None = None, **headers: str) -> bytes:
        """Past the proxy, which would say that it was HTTPS."""
        request = urllib.request.Request(f"http://127.0.0.1:{port or self.web_port}{path}", headers=headers)
        if token:
            request.add_header("Authorization", f"Bearer {token}")
        if data is not None:
            request.add_header("Content-Type", "application/json")
            request.data = json.dumps(data).encode()
        with urllib.request.urlopen(request, timeout=20) as answer:  # noqa: S310 - of this machine
            return answer.read()

    def ask_as_proxy(self, path: str, data: Any = None, *, token: str = "") -> bytes:
        said = {"Host": HOST, "X-Forwarded-Proto": "https", "X-Forwarded-For": "192.0.2.7"}
        return self.ask(path, data, token=token, **said)


def unshare() -> list[str]:
    """What a command is begun with to have a view of the file system of its own."""
    own_user = [] if os.geteuid() == 0 else ["--user", "--map-current-user", "--keep-caps"]
    return ["unshare", *own_user, "--mount"]


def hidden() -> list[str]:
    """Homes, other software and state, and whatever folder only its owner may enter, on the way to what is needed."""
    ways = [parent for path in (PROJECT, Path(sys.base_prefix)) for parent in path.parents]
    closed = [str(way) for way in ways if not way.stat().st_mode & 0o001]
    return sorted({"/home", "/root", "/opt", "/tmp", "/var/lib", *closed})  # noqa: S108


@pytest.fixture
def machine(private_postgres, private_redis, tmp_path) -> Iterator[Machine]:
    if shutil.which("unshare") is None or subprocess.run([*unshare(), "true"]).returncode != 0:
        skip_or_fail("SKIPPED: no view of the file system can be made here (unshare).")
    import psycopg

    with psycopg.connect(private_postgres.url, autocommit=True) as server:
        server.execute("CREATE ROLE contimg LOGIN")
        server.execute("CREATE DATABASE contimg OWNER contimg")
    private_redis.start()
    at = private_postgres.url.partition("@")[2].partition("/")[0]
    redis = private_redis.url.rpartition("/")[0]
    (tmp_path / "state" / "raw").mkdir(parents=True)
    if os.geteuid() == 0:
        os.chown(tmp_path / "state", NOBODY, NOBODY)
    made = Machine(
        tmp_path,
        environment_file(
            DATABASE_URL=f"postgres://contimg@{at}/contimg",
            CONTIMG_BROKER_URL=f"{redis}/1",
            CONTIMG_REDIS_URL=f"{redis}/0",
            CONTIMG_WORKER_METRICS=f"127.0.0.1:{free_port()}",
        ),
    )
    yield made
    made.kill_all()


def counters(text: bytes) -> dict[str, float]:
    families = text_string_to_metric_families(text.decode())
    samples = [sample for family in families if family.type == "counter" for sample in family.samples]
    totals: dict[str, float] = {}
    for sample in samples:
        totals[sample.name] = totals.get(sample.name, 0) + sample.value
    return totals


def test_what_the_units_start_takes_a_tile_through_and_stops_when_told(machine):
    files = simulate_tile(QUIET, field_plan(QUIET), machine.folder / "state" / "raw")
    files[0].unlink()  # a complete tile would be taken at once, before it is asked for
    machine.start("contimg-web")  # first: it migrates
    until(lambda: _answers(machine.web_port))
    for name in ("contimg-worker", "contimg-watch@"):
        machine.start(name)
    machine.run(PYTHON, "manage.py", "check", "--deploy", "--fail-level", "WARNING")
    machine.run(
        PYTHON, "manage.py", "createsuperuser", "--noinput", "--username", "ada", "--email", "ada@contimg.example",
        DJANGO_SUPERUSER_PASSWORD="a long one of a test",
    )  # fmt: skip
    said = machine.run(PYTHON, "manage.py", "token", "create", "--user", "ada", "--scope", "operate")
    token = said.split()[-1]

    assert json.loads(machine.ask_as_proxy("/health/ready")) == {"status": "ok"}
    (group,) = until(lambda: json.loads(machine.ask_as_proxy("/api/v1/subband-groups/"))["results"])
    subjects = [{"kind": "subband_group", "id": group["id"]}]
    batch = json.loads(
        machine.ask_as_proxy("/api/v1/batches/", {"stage": "convert", "subjects": subjects}, token=token)
    )

    def state() -> str:
        return json.loads(machine.ask_as_proxy(f"/api/v1/batches/{batch['id']}/", token=token))["state"]

    until(lambda: state() in ("done", "failed"), within_s=60)
    assert state() == "done", machine.said("contimg-worker")
    _pages(machine)
    _metrics(machine)
    if os.geteuid() == 0:
        assert set().union(*map(machine.user_of, SERVICES)) == {NOBODY}

    for name in OF_TIMERS:
        machine.start(name)
    for name in OF_TIMERS:
        assert machine.end(name, within_s=60) == 0, machine.said(name)
    assert list((machine.folder / "state" / "backups").iterdir())
    assert list((machine.folder / "state" / "reports").glob("night-*.html"))
    assert all(map(machine.is_running, SERVICES))
    assert {name: machine.stop(name) for name in SERVICES} == dict.fromkeys(SERVICES, 0)


@pytest.mark.skipif(os.geteuid() != 0, reason="It is for root.")
def test_what_an_operator_runs_as_root_is_run_as_the_services_are(machine):
    machine.run_as_root("ops/manage", "migrate", "--verbosity", "0")
    told = json.loads(machine.run_as_root("ops/manage", "doctor", "--json"))
    assert told["status"] == "ok", told
    who = machine.run_as_root("ops/manage", "dbshell", "--", "--tuples-only", "--command", "SELECT current_user")
    assert who.strip() == "contimg"
    made = [path for path in (machine.folder / "state").rglob("*") if path.name != "raw"]
    assert made
    assert {path.stat().st_uid for path in made} == {NOBODY}


def _pages(machine: Machine) -> None:
    login = machine.ask_as_proxy("/admin/login/?next=/admin/").decode()
    linked = re.findall(r'(?:href|src)="(/static/[^"]+)"', login)
    assert linked
    assert all(machine.ask_as_proxy(path) for path in linked)


def _metrics(machine: Machine) -> None:
    """Of the web server and of the worker, asked as Prometheus asks: past the proxy, and not sent to HTTPS."""
    of_web = counters(machine.ask("/metrics"))
    assert of_web["django_http_responses_total_by_status_view_method_total"] > 3
    of_worker = counters(machine.ask("/metrics", port=int(machine.environment["CONTIMG_WORKER_METRICS"].split(":")[1])))
    assert of_worker["contimg_items_total"] == 1
    assert b"contimg_queue_items" in machine.ask("/metrics")
