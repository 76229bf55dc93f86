"""Who is trusted by address, and what a server makes of headers that are not ASCII."""

from __future__ import annotations

from http.client import HTTPConnection

import pytest

from tests.deployment import PROXIED
from tests.service import Web

pytest_plugins = ["tests.batch.installation"]


@pytest.fixture
def status(install):
    """What granian and contimg answer to a request with such headers, whose values are bytes."""
    web = Web(install("sqlite", **PROXIED), workers=1)

    def ask(path: str, **headers: str) -> int:
        connection = HTTPConnection("127.0.0.1", web.port, timeout=20)
        encoded = {name.replace("_", "-"): value.encode() for name, value in headers.items()}
        encoded["X-Forwarded-Proto"] = b"https"
        connection.request("GET", path, headers=encoded)
        answer = connection.getresponse().status
        connection.close()
        return answer

    return ask


def test_nobody_behind_the_proxy_is_taken_for_the_proxy(status):
    assert status("/metrics") == 200  # asked on the machine itself
    assert status("/metrics", X_Forwarded_For="203.0.113.9") == 401
    assert status("/metrics", X_Forwarded_For="é, 203.0.113.9") == 401
    assert status("/metrics", X_Forwarded_For="127.0.0.1, nonsense") == 401
    assert status("/metrics", X_Forwarded_For="") == 401


def test_a_token_that_cannot_be_read_is_no_good_and_not_none(status):
    assert status("/api/v1/images/") == 200
    assert status("/api/v1/images/", Authorization="Bearer abcü") == 401
