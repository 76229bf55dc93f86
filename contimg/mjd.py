"""Modified Julian dates, UTC."""

from datetime import UTC, datetime

MJD_EPOCH = datetime(1858, 11, 17, tzinfo=UTC)


def mjd(time: datetime) -> float:
    """Days; of an aware time."""
    return (time - MJD_EPOCH).total_seconds() / 86_400
