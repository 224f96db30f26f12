"""The end of the header of a message."""

from __future__ import annotations

import pytest

from smtp_trio.protocol.header import header_end, is_utf8


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
