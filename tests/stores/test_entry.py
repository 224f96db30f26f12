"""Tests of the subject and the date that a store reads from the header of a message, valid or not."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given, strategies as st

from smtp_trio.stores._entry import FIELD_OCTETS, read_header

WHEN = datetime(2026, 11, 22, 10, 23, 26, tzinfo=timezone(timedelta(hours=1)))


@pytest.mark.parametrize(
    ("field", "subject"),
    [
        (b"Subject: hello\r\n", "hello"),
        (b"To: a\r\nsubject :\ttwo\r\n words \r\nX: y\r\n", "two words"),
        (b"Subject: one\nSubject: two\n", "one"),
        (b"Subject:\r\n", ""),
        ("Subject: grüße 用户\r\n".encode(), "grüße 用户"),
        (b"Subject: \xff\r\n", "\ufffd"),
        (b"Subject: =?utf-8?q?gr=C3=BC=C3=9Fe?=\r\n =?iso-8859-1?b?/A==?= x\r\n", "grüßeü x"),
        (b"Subject: =?utf-8?b?a?=\r\n", "=?utf-8?b?a?="),
        (b"Subject: =?utf-8?b?/w==?=\r\n", "=?utf-8?b?/w==?="),
        (b"Subject: =?no-such-charset?q?x?=\r\n", "=?no-such-charset?q?x?="),
        (b"Subject: =?rot13?q?x?=\r\n", "=?rot13?q?x?="),
        (b"Subject: =?unicode_escape?q?\\ud800?=\r\n", "?"),
        (b"Subject: " + b"x" * 5000 + b"\r\n", "x" * (FIELD_OCTETS - 1)),
        (b"X-Subject: hello\r\n\r\nSubject: body\r\n", None),
        (b"\r\nSubject: body\r\n", None),
        (b"\nSubject: body\n", None),
        (b"", None),
    ],
    ids=range(17),
)
def test_subject(field: bytes, subject: str | None) -> None:
    assert read_header(field + b"\r\ntext\r\n")[0] == subject
    assert read_header(bytearray(field))[0] == subject


@pytest.mark.parametrize(
    ("field", "date"),
    [
        (b"Date: Sun, 22 Nov 2026 10:23:26 +0100\r\n", WHEN),
        (b"date: 22 Nov 2026 09:23:26 -0000\r\n", WHEN),
        (b"Date: 22 Nov 2026\r\n 09:23:26\r\n", WHEN),
        (b"Date: yesterday\r\n", None),
        (b"Date:\r\n", None),
        (b"Date: Sun, 99 Nov 2026 10:23:26 +0100\r\n", None),
        (b"Date: Fri, 31 Dec 9999 23:59:59 -0100\r\n", None),
        (b"Date: Sun, 22 Nov 99999999 10:23:26 +0100\r\n", None),
        (b"Date: Sun, 22 Nov 2026 10:23:26 +999999999999\r\n", None),
        (b"Subject: x\r\n", None),
    ],
    ids=range(10),
)
def test_date(field: bytes, date: datetime | None) -> None:
    assert read_header(field)[1] == date


FIELDS = st.sampled_from(
    [b"Subject:", b"Date:", b"=?utf-8?q?", b"=?", b"?=", b"?b?", b"\r\n ", b"\r\n", b"Sun, 22 Nov "]
)


@given(st.lists(st.one_of(st.binary(max_size=8), FIELDS, st.text("0123456789:+- ", max_size=6).map(str.encode))))
def test_any_header_has_a_subject_and_a_date_that_can_be_stored(parts: list[bytes]) -> None:
    for start in (b"".join(parts), b"Subject: " + b"".join(parts), b"Date: " + b"".join(parts)):
        subject, date = read_header(start)
        assert subject is None or subject.encode().decode() == subject
        assert date is None or date.astimezone(UTC) == date
