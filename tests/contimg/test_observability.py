from __future__ import annotations

import io
import json
import logging
import logging.config

import pytest
import structlog

from contimg.observability import logging_config


@pytest.mark.parametrize("given", ["abc-123", "a", "0f8c.1:x_y", "a" * 128])
def test_a_well_formed_request_id_of_the_caller_is_kept(client, given):
    assert client.get("/health/live", headers={"X-Request-ID": given}).headers["X-Request-ID"] == given


@pytest.mark.parametrize("given", ["", "a" * 129, "with space", "<script>", "-dash", "new\nline", "ünï"])
def test_another_request_id_is_replaced(client, given):
    answered = client.get("/health/live", headers={"X-Request-ID": given}).headers["X-Request-ID"]
    assert answered != given
    assert len(answered) == 32


def test_every_answer_has_an_id_of_its_own(client):
    ids = {client.get("/health/live").headers["X-Request-ID"] for _ in range(3)}
    assert len(ids) == 3


@pytest.fixture
def log():
    """The lines that the configured handler writes as JSON."""
    stream = io.StringIO()
    previous = logging.root.handlers[:], logging.root.level
    config = logging_config(log_format="json", level="DEBUG")
    config["handlers"]["stderr"]["stream"] = stream
    logging.config.dictConfig(config)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    logging.root.handlers[:], level = previous
    logging.root.setLevel(level)


def test_a_request_is_one_line_with_its_id(client, log):
    client.get("/api/v1/nothing/", headers={"X-Request-ID": "abc-123"})
    (line,) = [line for line in log() if line["event"] == "request"]
    assert (line["request_id"], line["method"], line["path"], line["status"]) == (
        "abc-123", "GET", "/api/v1/nothing/", 404,
    )  # fmt: skip
    assert line["ms"] >= 0
    assert line["address"] == "127.0.0.1"
    assert line["level"] == "info"
    assert line["timestamp"].endswith("Z")


def test_a_probe_is_logged_for_debugging_only(client, log):
    client.get("/health/live")
    assert [line["level"] for line in log() if line["event"] == "request"] == ["debug"]


def test_loggers_of_libraries_write_the_same_lines(log):
    structlog.contextvars.bind_contextvars(request_id="abc-123")
    try:
        raise ValueError("bad")
    except ValueError:
        logging.getLogger("somewhere").exception("It went %s", "wrong")
    (line,) = log()
    assert (line["event"], line["level"], line["request_id"]) == ("It went wrong", "error", "abc-123")
    assert "ValueError: bad" in line["exception"]


def test_a_wrong_host_is_one_short_warning(client, log):
    answer = client.get("/api/v1/images/", headers={"host": "evil.com", "accept": "application/json"})
    assert (answer.status_code, answer.headers["Content-Type"]) == (400, "application/problem+json")
    (line,) = [line for line in log() if line["event"] != "request"]
    assert line["level"] == "warning"
    assert "evil.com" in line["event"]
    assert "exception" not in line


@pytest.mark.django_db
@pytest.mark.parametrize("path", ["images/", "sources/", "stats/", "sources/1/", "", "nothing/"])
def test_too_many_parameters_are_refused_everywhere_in_one_short_warning(client, log, path):
    answer = client.get(f"/api/v1/{path}?{'&a=1' * 1001}", headers={"accept": "application/json"})
    assert (answer.status_code, answer.headers["Content-Type"]) == (400, "application/problem+json")
    assert "more than 1000 parameters" in answer.json()["detail"]
    (line,) = [line for line in log() if line["logger"].startswith("django.security")]
    assert line["level"] == "warning"
    assert "exception" not in line


def test_an_answer_that_is_meant_has_no_line_of_django_and_a_fault_has_its_traceback(log):
    django = logging.getLogger("django.request")
    django.error("Service Unavailable: /api/v1/images/")
    try:
        raise ValueError("bad")
    except ValueError:
        django.exception("Internal Server Error: /api/v1/images/")
    (line,) = log()
    assert line["event"].startswith("Internal")
    assert "ValueError: bad" in line["exception"]


def test_an_unknown_level_and_format_do_not_stop_the_start():
    config = logging_config(log_format="xml", level="LOUD")
    assert config["root"]["level"] == "INFO"
    logging.config.DictConfigurator(config)
