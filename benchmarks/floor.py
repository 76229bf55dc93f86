"""A service that answers a constant, for `benchmarks/api.py`: what the server itself costs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import parse_qs

HEADERS = [("Content-Type", "application/json")]


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """`/?bytes=72000` answers as many."""
    n_bytes = int(parse_qs(environ["QUERY_STRING"])["bytes"][0])
    start_response("200 OK", [*HEADERS, ("Content-Length", str(n_bytes))])
    return [b"x" * n_bytes]
