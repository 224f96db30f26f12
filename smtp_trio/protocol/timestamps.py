"""Timestamps of RFC 3339, as parameters of extensions have them.

A point in time is an int: the number of seconds since 1970-01-01T00:00:00Z without leap seconds, as `time.time` counts them.
"""

from __future__ import annotations

import re

# The core does not use the datetime module, whose classes can read a clock and the time zone of the system. What it needs of
# the calendar are two functions. In the proleptic Gregorian calendar (RFC 3339 1) 400 years have 146,097 days, and if a year
# begins in March, its leap day is the last one, so that the days before a month do not depend on the year: the months from
# March on have 31, 30, 31, 30, 31 days, twice, and then 31 and the rest, which makes 153 days for five months.

DAYS_OF_400_YEARS, DAYS_OF_100_YEARS, DAYS_OF_4_YEARS, DAYS_OF_YEAR = 146097, 36524, 1461, 365
#: The days from 0000-03-01 to 1970-01-01.
EPOCH = 719468
DAY = 86400
#: 0001-01-01T00:00:00Z and 9999-12-31T23:59:59Z: RFC 3339 has years of four digits, and `datetime` none before 1.
FIRST, LAST = -62135596800, 253402300799

# RFC 3339 5.6: date-time. "T" and "Z" may be in lower case.
TIMESTAMP = re.compile(
    r"(?P<year>[0-9]{4})-(?P<month>[0-9]{2})-(?P<day>[0-9]{2})T"
    r"(?P<hour>[01][0-9]|2[0-3]):(?P<minute>[0-5][0-9]):(?P<second>[0-5][0-9]|60)(?P<fraction>\.[0-9]+)?"
    r"(?:Z|(?P<sign>[+-])(?P<zone_hour>[01][0-9]|2[0-3]):(?P<zone_minute>[0-5][0-9]))",
    re.ASCII,
)


def parse_timestamp(text: str, *, up: bool = False) -> int | None:
    """Return the time of a timestamp, or None if it is not valid.

    A fraction of a second is dropped, or counted as a whole second if ``up`` is true. A leap second, with the number 60, is
    the second after it; it is valid at the end of a month in UTC (RFC 3339 5.7).
    """
    match = TIMESTAMP.fullmatch(text.upper()) if text.isascii() else None
    if match is None:
        return None
    date = year, month, day = int(match["year"]), int(match["month"]), int(match["day"])
    days = _days(year, month, day)
    if _date(days) != date:  # the day does not exist
        return None
    time = days * DAY + int(match["hour"]) * 3600 + int(match["minute"]) * 60 + int(match["second"])
    if match["sign"] is not None:  # RFC 3339 4.2: the offset is local time minus UTC
        offset = int(match["zone_hour"]) * 3600 + int(match["zone_minute"]) * 60
        time += offset if match["sign"] == "-" else -offset
    if match["second"] == "60" and (time % DAY or _date(time // DAY)[2] != 1):
        return None
    if up and (match["fraction"] or "").strip(".0"):
        time += 1
    return time if FIRST <= time <= LAST else None


def check_time(value: object, what: str, *, optional: bool = False) -> None:
    """Raise TypeError for what is not an int, and ValueError for a year outside of 1 to 9999."""
    if optional and value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{what} must be an integer, the seconds since 1970, got {value!r}")
    if not FIRST <= value <= LAST:
        raise ValueError(f"{what} must be in the years 1 to 9999, got {value}")


def format_timestamp(time: int) -> str:
    """Return a timestamp with "Z". Raises TypeError for what is not an int, and ValueError for a year outside of 1 to 9999."""
    check_time(time, "time")
    days, seconds = divmod(time, DAY)
    year, month, day = _date(days)
    return f"{year:04}-{month:02}-{day:02}T{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}Z"


def _days(year: int, month: int, day: int) -> int:
    """Return the number of days from 1970-01-01 to a date."""
    year, month = (year, month - 3) if month > 2 else (year - 1, month + 9)
    leap_days = year // 4 - year // 100 + year // 400
    return year * DAYS_OF_YEAR + leap_days + (153 * month + 2) // 5 + day - 1 - EPOCH


def _date(days: int) -> tuple[int, int, int]:
    """Return the year, the month and the day, a number of days after 1970-01-01."""
    centuries, days = divmod(days + EPOCH, DAYS_OF_400_YEARS)
    # The last day of 4 and of 400 years is a leap day, which does not begin another year.
    year = (
        days - days // (DAYS_OF_4_YEARS - 1) + days // DAYS_OF_100_YEARS - days // (DAYS_OF_400_YEARS - 1)
    ) // DAYS_OF_YEAR
    days -= year * DAYS_OF_YEAR + year // 4 - year // 100
    month = (5 * days + 2) // 153
    day = days - (153 * month + 2) // 5 + 1
    year += 400 * centuries
    return (year, month + 3, day) if month < 10 else (year + 1, month - 9, day)
