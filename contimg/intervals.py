"""Intervals of time that somebody asks for."""

from __future__ import annotations

from datetime import UTC, datetime

from contimg.exceptions import InvalidInput

# No data are of before or after, and a calendar's end leaves no room to look a little beyond.
EARLIEST, LATEST = datetime(1900, 1, 1, tzinfo=UTC), datetime(2200, 1, 1, tzinfo=UTC)


class ReversedInterval(InvalidInput):
    code = "reversed_interval"


def refuse_reversed(observed_from: datetime | None, observed_until: datetime | None) -> None:
    """Raises ReversedInterval: what is of no time would look like nothing that was found."""
    if observed_from is not None and observed_until is not None and observed_until <= observed_from:
        raise ReversedInterval(
            f"The time asked for ends ({observed_until:%Y-%m-%dT%H:%M:%SZ}) before it begins "
            f"({observed_from:%Y-%m-%dT%H:%M:%SZ}); exchange the two."
        )
