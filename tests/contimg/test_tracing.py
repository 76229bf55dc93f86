"""Spans as a collector receives them from real processes, over OTLP."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from batch.models import Batch
from contimg import tracing
from tests.batch.installation import PROJECT, until
from tests.factories import SubbandGroupFactory

pytest_plugins = ["tests.batch.installation"]
service = pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2")


class Collector:
    """Receives OTLP over HTTP and keeps the spans."""

    def __init__(self) -> None:
        self.spans: list = []
        keep = self.spans

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                for resource in service.ExportTraceServiceRequest.FromString(body).resource_spans:
                    for scope in resource.scope_spans:
                        keep.extend(scope.spans)
                self.send_response(200)
                self.end_headers()

            def log_message(self, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self._server.shutdown()

    def named(self, name: str) -> list:
        return [span for span in self.spans if span.name == name]


@pytest.fixture
def collector():
    collector = Collector()
    yield collector
    collector.close()


# A process that answers one request, as a web process would: POST /api/v1/batches/ for these tiles.
REQUEST = """
import json, sys, django
django.setup()
from django.contrib.auth.models import User
from rest_framework.test import APIClient
client = APIClient()
client.force_authenticate(User.objects.get_or_create(username="root", is_superuser=True)[0])
subjects = [{"kind": "subband_group", "id": int(pk)} for pk in sys.argv[1:]]
answer = client.post("/api/v1/batches/", {"stage": "convert", "subjects": subjects}, format="json",
                     headers={"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"})
assert answer.status_code == 201, answer.content
"""


def ask(installation, collector_url, tiles) -> None:
    environment = {
        **installation.environment, "CONTIMG_OTLP_ENDPOINT": collector_url, "CONTIMG_ALLOWED_HOSTS": "testserver",
        "CONTIMG_HTTPS": "false",
    }  # fmt: skip
    subprocess.run(
        [sys.executable, "-c", REQUEST, *[str(tile.pk) for tile in tiles]], cwd=PROJECT, env=environment, check=True
    )


def attributes(span) -> dict:
    return {entry.key: entry.value.string_value or entry.value.int_value for entry in span.attributes}


def test_an_item_is_one_trace_from_the_request_to_its_record(install, collector):
    installation = install("sqlite", CONTIMG_OTLP_ENDPOINT=collector.url)
    tiles = [SubbandGroupFactory(size_bytes=0) for _ in range(3)]
    ask(installation, collector.url, tiles[:1])
    ask(installation, collector.url, tiles[1:])
    worker = installation.start("worker", "--processes", "1")
    until(lambda: Batch.objects.filter(state="done").count() == 2)
    until(lambda: len(collector.named("record")) == 3 and len(collector.named("item convert")) == 3)
    worker.terminate()

    requests, enqueued, items = (collector.named(name) for name in ("POST batch-list", "enqueue", "item convert"))
    assert {span.trace_id.hex() for span in requests} == {"0af7651916cd43dd8448eb211c80319c"}  # the caller's own
    assert {span.parent_span_id.hex() for span in requests} == {"b7ad6b7169203331"}
    assert {span.parent_span_id for span in enqueued} == {span.span_id for span in requests}
    alone = next(span for span in items if not span.links)
    assert alone.parent_span_id in {span.span_id for span in enqueued}
    others = [span for span in items if span.links]
    assert {link.span_id for span in others for link in span.links} <= {span.span_id for span in enqueued}
    assert len({span.trace_id for span in items}) == 3
    for item in items:
        inside = {span.name: span for span in collector.spans if span.parent_span_id == item.span_id}
        assert {"wait", "work convert", "record"} <= inside.keys()
        assert {span.trace_id for span in inside.values()} == {item.trace_id}
        assert attributes(item)["state"] == "done"
        wait = inside["wait"]
        assert wait.end_time_unix_nano >= wait.start_time_unix_nano


def test_without_a_collector_nothing_of_it_is_loaded():
    script = (
        "import django, sys; django.setup(); from contimg import tracing\n"
        "with tracing.span('nothing'): tracing.note('better'); assert tracing.traceparent() == ''\n"
        "assert not [name for name in sys.modules if name.startswith('opentelemetry.exporter')]"
    )
    environment = {**os.environ, "DJANGO_SETTINGS_MODULE": "tests.settings"}
    subprocess.run([sys.executable, "-c", script], cwd=PROJECT, env=environment, check=True)


def test_a_collector_that_does_not_answer_loses_spans_and_nothing_else(install):
    installation = install("sqlite")
    ask(installation, "http://127.0.0.1:1", [SubbandGroupFactory(size_bytes=0)])
    assert Batch.objects.count() == 1


@pytest.mark.parametrize("given", ["", "garbage", "00-0-0-01"])
def test_a_context_that_means_nothing_is_none(given):
    assert tracing._span_context(given) is None
