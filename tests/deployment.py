"""nginx with the site of ops/, on ports and in folders of a test's own."""

from __future__ import annotations

import http.client
import os
import re
import shlex
import shutil
import ssl
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.batch.installation import PROJECT, skip_or_fail, until
from tests.batch.servers import _answers, free_port
from tests.service import OPS, Answer

NOBODY = 65534
HOST = "contimg.example"
PROXIED = {"CONTIMG_ALLOWED_HOSTS": f"{HOST},127.0.0.1", "CONTIMG_BEHIND_PROXY": "true"}


def as_nobody() -> list[str]:
    """What a command is begun with, so that it does not run as root."""
    return ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"] if os.geteuid() == 0 else []


class Nginx:
    """The site of ops/nginx before a port of this machine, run by nobody in particular."""

    def __init__(self, upstream_port: int) -> None:
        if (program := shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")) is None:
            skip_or_fail("SKIPPED: nginx (Debian package nginx) is not installed.")
        self.folder = Path(tempfile.mkdtemp(prefix="nginx"))
        self.http_port, self.https_port = free_port(), free_port()
        _make_certificate(self.folder)
        (self.folder / "site.conf").write_text(self._site(upstream_port))
        (self.folder / "nginx.conf").write_text(_main_conf())
        if os.geteuid() == 0:
            for path in (self.folder, *self.folder.iterdir()):
                os.chown(path, NOBODY, NOBODY)
        self.command = [*as_nobody(), program, "-p", str(self.folder), "-c", "nginx.conf", "-e", "error.log"]
        self.process: subprocess.Popen | None = None

    def _site(self, upstream_port: int) -> str:
        text = (OPS / "nginx" / "contimg.conf").read_text()
        text = re.sub(r"^ *listen \[::\].*\n", "", text, flags=re.MULTILINE)
        text = text.replace("listen 80;", f"listen 127.0.0.1:{self.http_port};")
        text = text.replace("listen 443 ", f"listen 127.0.0.1:{self.https_port} ")
        text = text.replace("127.0.0.1:8000", f"127.0.0.1:{upstream_port}")
        return re.sub(r"/etc/letsencrypt/live/[^/]+", str(self.folder), text)

    def start(self) -> None:
        self.process = subprocess.Popen(
            [*self.command, "-g", "daemon off;"], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        until(lambda: _answers(self.https_port))

    def remove(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def connect(self, *, client: str = "127.0.0.1", timeout_s: float = 20) -> http.client.HTTPSConnection:
        """`client` is the address that it sees, of this machine."""
        trusting = ssl.create_default_context(cafile=self.folder / "fullchain.pem")
        trusting.check_hostname = False  # the address is one of this machine
        return http.client.HTTPSConnection(
            "127.0.0.1", self.https_port, timeout=timeout_s, context=trusting, source_address=(client, 0)
        )

    def ask(
        self, path: str, *, method: str = "GET", body: bytes | None = None, client: str = "127.0.0.1",
        timeout_s: float = 20, **headers: str,
    ) -> Answer:  # fmt: skip
        connection = self.connect(client=client, timeout_s=timeout_s)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return _asked(connection, method, path, body, {"Host": HOST, **named})

    def ask_http(self, path: str) -> Answer:
        plain = http.client.HTTPConnection("127.0.0.1", self.http_port, timeout=10)
        return _asked(plain, "GET", path, None, {"Host": HOST})


def _asked(connection: http.client.HTTPConnection, method: str, path: str, body: Any, headers: Any) -> Answer:
    began = time.monotonic()
    try:
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        return Answer(answer.status, answer.read(), answer.headers, time.monotonic() - began)
    finally:
        connection.close()


def _make_certificate(folder: Path) -> None:
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-keyout", folder / "privkey.pem", "-out", folder / "fullchain.pem", "-subj", f"/CN={HOST}"],
        check=True, capture_output=True,
    )  # fmt: skip


def _main_conf() -> str:
    """Debian's, changed as docs/deployment.md says, with folders that nobody in particular may write to."""
    command = re.search(r"^    sed -i (.*) /etc/nginx/nginx\.conf$", (PROJECT / "docs/deployment.md").read_text(), re.M)
    text = subprocess.run(
        ["sed", *shlex.split(command[1]), "/etc/nginx/nginx.conf"], check=True, capture_output=True, text=True
    ).stdout
    for theirs, ours in {
        r"^user .*": "",
        r"^pid .*": "pid nginx.pid;",
        r"^error_log .*": "",
        r"^\s*access_log .*": "access_log off;",
        r"^include .*modules-enabled.*": "",
        r"^\s*include .*conf\.d.*": "",
        r"^\s*include .*sites-enabled.*": "include site.conf;",
        r"^http \{": "http {\n" + "".join(f"{kind}_temp_path {kind};\n" for kind in _TEMPORARY),
    }.items():
        text, n = re.subn(theirs, ours, text, flags=re.MULTILINE)
        assert n, f"nginx.conf has no {theirs}"
    return text


_TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")


@pytest.fixture
def proxied() -> Iterator[Any]:
    """Makes nginx before a port: `proxied(port)`, which runs."""
    made: list[Nginx] = []

    def make(port: int) -> Nginx:
        made.append(nginx := Nginx(port))
        nginx.start()
        return nginx

    yield make
    for nginx in made:
        nginx.remove()
