"""The beginning and the end of the header of a message."""

from __future__ import annotations

import pytest

from smtp_trio.protocol.header import header_end, is_utf8, message_start


@pytest.mark.parametrize(
    ("header", "rest"),
    [
        (b"A: b\r\n", b"\r\nc\r\n"), (b"A: b\r\nC: d\r\n", b"\r\n\r\nE: f\r\n\r\n"), (b"A: b\r\n c\r\n\t\r\n", b"\r\n"),
        (b"A: b\r\nC: d\r\n", b""), (b"A: b", b""), (b"", b""), (b"", b"\r\nA: b\r\n\r\n"), (b"", b"\r\n\r\n"),
        (b"A: b\r\nno field\r\nBcc: x@y\r\n", b"\r\n"), (b"A: b\n\nC: d\r\n", b"\r\n"),
    ],
)  # fmt: skip
def test_header_ends_before_the_first_empty_line(header: bytes, rest: bytes) -> None:
    assert header_end(header + rest) == len(header)


BOM = b"\xef\xbb\xbf"


@pytest.mark.parametrize(
    ("preface", "message"),
    [
        (b"", b"From: a@b\r\n\r\nx\r\n"), (b"", b""), (b"", b"\r\nx"),
        (b"", b"From : a@b\r\nTo: c@d\r\n"), (b"", b"From \t: a@b\nTo: c@d\n"),
        (b"From a@b Sat Nov 28 07:00:00 2026\r\n", b"From: a@b\r\n"), (b"From x\n", b"To: c@d"), (b">From x\r", b"To: c@d"),
        (b"From x\r\r\n", b"To : c@d"), (BOM, b"From: a@b\r\n"),
        (BOM + b"From x\r\n", b"To: c@d\r\n"), (b"From x\n>From y\n", b"A:\n"),
        # Without a header field after it, it may be text.
        (b"", b"From the beginning\r\nwe had no header\r\n"), (b"", b"From x\r\n\r\nTo: c@d\r\n"), (b"", BOM + b"\r\nx"), (b"", BOM),
        (b"", b">From x"), (b"", b"From x: y\r\n"), (b"", b">>From x\r\nA: b"),
    ],
)  # fmt: skip
def test_message_starts_after_a_byte_order_mark_and_mbox_lines(preface: bytes, message: bytes) -> None:
    assert message_start(preface + message) == len(preface)


@pytest.mark.parametrize(
    ("octets", "valid"),
    [
        (b"", True),
        (b"a", True),
        ("\u00e9\U0001f600".encode(), True),
        (b"\xe9", False),
        (b"\xc3", False),
        (b"\xed\xa0\x80", False),
    ],
)
def test_utf8(octets: bytes, valid: bool) -> None:
    assert is_utf8(octets) == valid
