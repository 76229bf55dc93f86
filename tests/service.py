"""The service as production starts it, on an installation of a test's own: a web server, and a worker beside it."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from tests import deployment
from tests.batch.installation import Installation, until


@dataclass
class Answer:
    status: int  # 0: no answer in time
    body: bytes
    headers: Any
    seconds: float

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Web(deployment.Web):
    """That of the unit, as people and monitors see it."""

    def __init__(self, installation: Installation, *, workers: int = 2, token: str = "") -> None:
        self.token = token
        super().__init__(installation, workers=workers)
        until(lambda: self.get("/health/live", within_s=1).status == 200, within_s=60)

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
