"""Timestamps of RFC 3339, compared with those of the datetime module."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone

import pytest
from hypothesis import given, strategies as st

from smtp_trio.protocol.timestamps import FIRST, LAST, check_time, format_timestamp, parse_timestamp

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
TIMES = st.integers(FIRST, LAST)
#: All offsets of RFC 3339 5.6.
OFFSETS = st.builds(
    lambda sign, minutes: timezone(timedelta(minutes=sign * minutes)), st.sampled_from([1, -1]), st.integers(0, 1439)
)


def seconds(*time: int) -> int:
    """Return the time of a datetime in UTC."""
    return (datetime(*time, tzinfo=UTC) - EPOCH) // timedelta(seconds=1)  # type: ignore[arg-type,misc]


@given(TIMES)
def test_time_is_written_as_datetime_writes_it(time: int) -> None:
    text = format_timestamp(time)
    assert text == f"{(EPOCH + timedelta(seconds=time)).replace(tzinfo=None).isoformat()}Z"
    assert parse_timestamp(text) == time


@given(st.datetimes(min_value=datetime(1, 1, 2), max_value=datetime(9999, 12, 30), timezones=OFFSETS))
def test_timestamp_is_read_as_datetime_reads_it(time: datetime) -> None:
    """With offsets, fractions, and letters in lower case."""
    text, exact = time.isoformat(), (time - EPOCH) // timedelta(seconds=1)
    assert parse_timestamp(text) == parse_timestamp(text.lower()) == exact
    assert parse_timestamp(text, up=True) == exact + (time.microsecond > 0)


def test_every_day_of_400_years() -> None:
    """The calendar repeats itself after them."""
    first = date(1999, 1, 1)
    for number in range(146097 + 366):
        day = first + timedelta(days=number)
        time = (day - date(1970, 1, 1)).days * 86400
        assert format_timestamp(time) == f"{day}T00:00:00Z"
        assert parse_timestamp(f"{day}T00:00:00Z") == time


@given(st.integers(1, 9999), st.integers(0, 99), st.integers(0, 99))
def test_day_that_does_not_exist_is_not_valid(year: int, month: int, day: int) -> None:
    try:
        exists = date(year, month, day) is not None
    except ValueError:
        exists = False
    assert (parse_timestamp(f"{year:04}-{month:02}-{day:02}T00:00:00Z") is not None) == exists


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # The examples of RFC 3339 5.8.
        ("1985-04-12T23:20:50.52Z", seconds(1985, 4, 12, 23, 20, 50)),
        ("1996-12-19T16:39:57-08:00", seconds(1996, 12, 20, 0, 39, 57)),
        ("1990-12-31T23:59:60Z", seconds(1991, 1, 1)), ("1990-12-31T15:59:60-08:00", seconds(1991, 1, 1)),
        ("1937-01-01T12:00:27.87+00:20", seconds(1937, 1, 1, 11, 40, 27)),
        # RFC 3339 4.3 and 5.7.
        ("2014-04-03T23:01:00-00:00", seconds(2014, 4, 3, 23, 1)), ("2016-12-31T23:59:60.5z", seconds(2017, 1, 1)),
        ("2015-07-01T05:29:60+05:30", seconds(2015, 7, 1)), ("2012-06-30T23:59:60-00:00", seconds(2012, 7, 1)),
        ("1990-12-31T23:58:60Z", None), ("1990-12-30T23:59:60Z", None), ("1990-12-31T23:59:60-08:00", None),
        # The first and the last second.
        ("0001-01-01T00:00:00Z", FIRST), ("9999-12-31T23:59:59.9Z", LAST), ("0001-01-01T00:00:00-23:59", FIRST + 86340),
        ("9999-12-31T23:59:60Z", None), ("0000-01-01T00:00:00Z", None), ("0001-01-01T00:00:00+01:00", None),
        ("9999-12-31T23:59:59-00:01", None), ("2014-04-03T23:01:61Z", None), ("2014-04-03T24:01:00Z", None),
        ("2014-04-03T23:60:00Z", None), ("2014-04-03T23:01:00+24:00", None), ("2014-04-03T23:01:00+23:60", None),
        ("2014-04-03T23:01:00+2300", None), ("2014-04-03 23:01:00Z", None), ("2014-04-03T23:01Z", None),
        ("2014-04-03T23:01:00.Z", None), ("2014-04-03T23:01:00", None), ("14-04-03T23:01:00Z", None),
        ("+2014-04-03T23:01:00Z", None), ("2014-04-03T23:01:00Z\n", None), ("\u0662014-04-03T23:01:00Z", None), ("", None),
    ],
)  # fmt: skip
def test_timestamps_of_rfc_3339(text: str, expected: int | None) -> None:
    assert parse_timestamp(text) == expected


@pytest.mark.parametrize(
    ("fraction", "more"), [("", 0), (".0", 0), (".000000000", 0), (".5", 1), (".0000000001", 1), (".10", 1)]
)
def test_fraction_that_counts_as_a_second(fraction: str, more: int) -> None:
    assert parse_timestamp(f"1970-01-01T00:00:07{fraction}Z", up=True) == 7 + more
    assert parse_timestamp(f"1970-01-01T00:00:07{fraction}Z") == 7


def test_last_second_and_a_fraction() -> None:
    assert parse_timestamp("9999-12-31T23:59:59.9Z", up=True) is None


@pytest.mark.parametrize(
    ("value", "error"),
    [(1.5, TypeError), (True, TypeError), (EPOCH, TypeError), ("1970-01-01T00:00:00Z", TypeError), (None, TypeError),
     (FIRST - 1, ValueError), (LAST + 1, ValueError)],
)  # fmt: skip
def test_invalid_time(value: int, error: type[Exception]) -> None:
    with pytest.raises(error, match="time must be"):
        format_timestamp(value)
    if value is None:
        check_time(value, "time", optional=True)
