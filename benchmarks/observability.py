"""What seeing a request costs: its CPU with and without request id, metrics and log line, and with tracing besides.

    python -m benchmarks.observability [--requests 5000] [--rounds 7]

A view that answers a constant, through the middleware of production (counters in files, JSON log lines to a file, spans
to a collector that takes them); each variant in a process of its own, in turns, the median of the rounds.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

VARIANTS = {"without": "", "with": "", "with tracing": "0.1", "all traced": "1"}  # and the share that is traced
OURS = ("RequestMiddleware", "PrometheusBeforeMiddleware", "PrometheusAfterMiddleware")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--requests", type=int, default=5000)
    options.add_argument("--rounds", type=int, default=7)
    options.add_argument("--variant", choices=VARIANTS, help=argparse.SUPPRESS)
    asked = options.parse_args()
    if asked.variant:
        print(cpu_us(asked.variant, asked.requests))
        return
    spent = measure(asked.requests, asked.rounds)
    floor = statistics.median(spent["without"])
    for variant in VARIANTS:
        cost = statistics.median(spent[variant])
        print(f"{variant:13} {cost:7.1f} us CPU a request, {cost - floor:+7.1f} us, {cost / floor:.2f} of without")


def measure(n_requests: int, n_rounds: int) -> dict[str, list[float]]:
    spent: dict[str, list[float]] = {variant: [] for variant in VARIANTS}
    collector = _collector()
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(n_rounds):
            for variant in VARIANTS:
                spent[variant].append(_in_process(variant, n_requests, Path(folder), collector))
    return spent


def _in_process(variant: str, n_requests: int, folder: Path, collector: str) -> float:
    environment = {
        **os.environ,
        "CONTIMG_VAR_DIR": str(folder),
        "CONTIMG_LOG_FORMAT": "json",
        "DJANGO_SETTINGS_MODULE": "contimg.settings",
        "PROMETHEUS_MULTIPROC_DIR": tempfile.mkdtemp(dir=folder),
        "CONTIMG_OTLP_ENDPOINT": collector if VARIANTS[variant] else "",
        "CONTIMG_TRACE_SHARE": VARIANTS[variant],
    }
    command = [sys.executable, "-m", "benchmarks.observability", "--variant", variant, "--requests", str(n_requests)]
    with (folder / "log").open("ab") as log:
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=log, check=True, text=True)
    return float(done.stdout)


def cpu_us(variant: str, n_requests: int) -> float:
    import django

    django.setup()
    from django.conf import settings
    from django.core.handlers.wsgi import WSGIHandler
    from django.http import JsonResponse
    from django.test import RequestFactory
    from django.urls import path

    urls: Any = type(sys)("constant_urls")
    urls.urlpatterns = [path("constant/", lambda request: JsonResponse({"status": "ok"}), name="constant")]
    sys.modules[urls.__name__] = urls
    settings.ROOT_URLCONF = urls.__name__
    if variant == "without":
        settings.MIDDLEWARE = [name for name in settings.MIDDLEWARE if not name.endswith(OURS)]
    handler: Any = WSGIHandler()
    environ = RequestFactory(headers={"host": "localhost"}).get("/constant/").environ

    def answer(times: int) -> None:
        for _ in range(times):
            handler(dict(environ), lambda status, headers: None).close()

    answer(500)
    began = time.process_time()
    answer(n_requests)
    return 1e6 * (time.process_time() - began) / n_requests


def _collector() -> str:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}"


if __name__ == "__main__":
    main()
