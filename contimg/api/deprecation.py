"""What is to go, and what is there in its place: docs/api.md, "Versions"."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, time

from django.http import HttpResponseBase
from django.urls import reverse
from django.utils.http import http_date

HEADERS = ("Deprecation", "Sunset", "Link")


@dataclass(frozen=True)
class Deprecation:
    """From midnight UTC of `since` to that of `until`, a year later at least."""

    since: date
    until: date
    instead: str

    def __str__(self) -> str:
        return f"Deprecated since {self.since} and gone on {self.until}: {self.instead}"


def announce(response: HttpResponseBase, used: Iterable[Deprecation]) -> None:
    """The headers of RFC 9745 (`Deprecation`, a date of RFC 9651) and RFC 8594 (`Sunset`), of what goes first."""
    first = min(used, key=lambda deprecated: deprecated.until, default=None)
    if first is None:
        return
    page = f"<{reverse('redoc')}>"
    response.headers["Deprecation"] = f"@{_midnight_s(first.since)}"
    response.headers["Sunset"] = http_date(_midnight_s(first.until))
    response.headers["Link"] = f'{page}; rel="deprecation"; type="text/html", {page}; rel="sunset"; type="text/html"'


def told_again(response: HttpResponseBase, *, of: HttpResponseBase) -> HttpResponseBase:
    """With the headers that the answer in whose place it is has."""
    if response is not of and of.has_header("Deprecation"):
        for name in HEADERS:
            response.headers[name] = of.headers[name]
    return response


def _midnight_s(day: date) -> int:
    return int(datetime.combine(day, time(), tzinfo=UTC).timestamp())
