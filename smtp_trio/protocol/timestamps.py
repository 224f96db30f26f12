"""Timestamps of RFC 3339, as parameters of extensions have them."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

# RFC 3339 5.6: date-time. "T" and "Z" may be in lower case.
TIMESTAMP = re.compile(
    r"(?P<minute>[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}):(?P<second>[0-9]{2})(?P<fraction>\.[0-9]+)?"
    r"(?P<zone>Z|[+-][0-9]{2}:[0-9]{2})"
)


def parse_timestamp(text: str) -> datetime | None:
    """Return a timestamp in UTC, or None if it is not valid. Digits after the microseconds are dropped."""
    match = TIMESTAMP.fullmatch(text.upper()) if text.isascii() else None
    if match is None:
        return None
    minute, second, fraction, zone = match.group("minute", "second", "fraction", "zone")
    try:
        # RFC 3339 5.7: a leap second has the number 60, which Python does not know.
        leap = second == "60"
        time = datetime.fromisoformat(f"{minute}:{'59' if leap else second}{(fraction or '')[:7]}{zone}")
        return time.astimezone(UTC) + timedelta(seconds=leap)
    except (ValueError, OverflowError):
        return None


def format_timestamp(time: datetime) -> str:
    """Return a timestamp with "Z". Raises ValueError for a datetime without a time zone."""
    if time.utcoffset() is None:
        raise ValueError(f"the time must have a time zone, got {time!r}")
    return f"{time.astimezone(UTC).replace(tzinfo=None).isoformat()}Z"
