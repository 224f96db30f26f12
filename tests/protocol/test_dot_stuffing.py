"""Newline normalization and dot stuffing of outgoing messages, in pieces of all kinds."""

from __future__ import annotations

import re
from itertools import combinations, pairwise

import pytest
from hypothesis import given, strategies as st

from smtp_trio.protocol.dot_stuffing import (
    MAX_CRS,
    DotStuffer,
    NewlineNormalizer,
    normalize_message,
    normalize_newlines,
)
from smtp_trio.protocol.framing import DotTerminatedReader, ReceiveBuffer

TEXTS = st.lists(st.sampled_from([b"\r\n", b"\r", b"\n", b".", b"..", b"a", b"\0\xff", b""]), max_size=12).map(b"".join)


def pieces(octets: bytes, *cuts: int) -> list[bytes]:
    edges = [0, *cuts, len(octets)]
    return [octets[start:end] for start, end in pairwise(edges)]


def run(filter: NewlineNormalizer | DotStuffer, segments: list[bytes]) -> bytes:
    return b"".join([*map(filter.feed, segments), filter.end()])


def read_back(wire: bytes) -> tuple[bytes, bool, int]:
    """Return the message that a server reads, whether it has ended, and the number of octets after it."""
    buffer = ReceiveBuffer()
    buffer.add(wire)
    body = DotTerminatedReader(buffer)
    return body.read(), body.ended, len(buffer)


# --- line ends ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"", b""), (b"a", b"a"), (b"a\r\n", b"a\r\n"), (b"a\n", b"a\r\n"), (b"a\r", b"a\r\n"), (b"\n\r", b"\r\n\r\n"),
        (b"\r\r\n", b"\r\n"), (b"a: b\r\r\nc: d\r\r\r\n\r\r\n\n", b"a: b\r\nc: d\r\n\r\n\r\n"),
        (b"a\r\r", b"a\r\n\r\n"), (b"a\r\r\r\r\nb\r\rc\r\r\n.\r\r\n", b"a\r\nb\r\n\r\nc\r\n.\r\n"),
        (b"a\n\nb\r\rc", b"a\r\n\r\nb\r\n\r\nc"), (b"\r\n\n.\r.\n", b"\r\n\r\n.\r\n.\r\n"),
        # str.splitlines splits at these, but they do not end a line in SMTP (RFC 5321 2.3.8).
        (b"a\x0bb\x0cc\x1cd\x85e", b"a\x0bb\x0cc\x1cd\x85e"),
    ],
)  # fmt: skip
def test_every_line_ends_in_crlf(text: bytes, expected: bytes) -> None:
    assert normalize_newlines(text) == expected
    whole = expected if expected.endswith(b"\r\n") or not expected else expected + b"\r\n"
    assert normalize_message(text) == whole
    for cuts in combinations(range(len(text) + 1), 2):
        assert run(NewlineNormalizer(), pieces(text, *cuts)) == whole


@given(TEXTS, st.data())
def test_normalization_does_not_depend_on_pieces(text: bytes, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=4)))
    expected = re.sub(rb"\r+\n|\r|\n", b"\r\n", text)
    expected += b"" if expected.endswith(b"\n") or not expected else b"\r\n"
    assert run(NewlineNormalizer(), pieces(text, *cuts)) == expected
    assert run(NewlineNormalizer(), [text[i : i + 1] for i in range(len(text))]) == expected


def test_no_piece_ends_within_a_crlf() -> None:
    lines = NewlineNormalizer()
    assert [lines.feed(b"a\r"), lines.feed(b""), lines.feed(b"\nb"), lines.end()] == [b"a", b"", b"\r\nb", b"\r\n"]
    lines = NewlineNormalizer()
    assert [lines.feed(b"a\r"), lines.feed(b"\r"), lines.end()] == [b"a", b"", b"\r\n\r\n"]
    lines = NewlineNormalizer()
    assert [lines.feed(b"a\r"), lines.feed(b"\r"), lines.feed(b"\n"), lines.end()] == [b"a", b"", b"\r\n", b""]


@pytest.mark.parametrize("count", [MAX_CRS - 1, MAX_CRS, MAX_CRS + 1, 5000])
@pytest.mark.parametrize("size", [1, 997, 1000, 65536])
def test_long_run_of_crs(count: int, size: int) -> None:
    text = b"a" + b"\r" * count + b"\nb"
    lines = NewlineNormalizer()
    out = [lines.feed(text[start : start + size]) for start in range(0, len(text), size)]
    assert b"".join(out) == normalize_newlines(text) == b"a\r\n" + b"\r\n" * max(0, count - MAX_CRS) + b"b"
    assert normalize_newlines(b"\r" * count + b"x") == b"\r\n" * count + b"x"


def test_unchanged_piece_is_not_copied() -> None:
    text = bytes(bytearray(b"x\r\n" * 500))
    assert normalize_newlines(text) is text
    assert NewlineNormalizer().feed(text) is text
    assert DotStuffer().feed(text) is text


# --- dots -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "wire"),
    [
        # RFC 5321 4.1.1.4: CRLF is added only if the message does not end in one; that of the DATA command counts.
        (b"", b".\r\n"),
        (b"a", b"a\r\n.\r\n"),
        (b"a\r\n", b"a\r\n.\r\n"),
        (b"\r\n", b"\r\n.\r\n"),
        (b"a\r\n\r\n", b"a\r\n\r\n.\r\n"),
        # RFC 5321 4.5.2
        (b".", b"..\r\n.\r\n"),
        (b".\r\n", b"..\r\n.\r\n"),
        (b"..a\r\n", b"...a\r\n.\r\n"),
        (b"a.\r\n.b\r\n\r\n.\r\n.\r\nc.", b"a.\r\n..b\r\n\r\n..\r\n..\r\nc.\r\n.\r\n"),
    ],
)
def test_dot_stuffing_and_end_marker(text: bytes, wire: bytes) -> None:
    for cuts in combinations(range(len(text) + 1), 2):
        assert run(DotStuffer(), pieces(text, *cuts)) == wire


@given(TEXTS, st.data())
def test_reader_restores_the_message(text: bytes, data: st.DataObject) -> None:
    whole = normalize_newlines(text)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=4)))
    wire = run(DotStuffer(), pieces(whole, *cuts))
    added = b"" if whole.endswith(b"\r\n") or not whole else b"\r\n"
    assert read_back(wire) == (whole + added, True, 0)
    assert wire == run(DotStuffer(), [whole])


@given(TEXTS, st.data())
def test_message_cannot_contain_its_end(text: bytes, data: st.DataObject) -> None:
    """The server finds the end where the client put it (RFC 5321 4.1.1.4), and no bare CR or LF."""
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=4)))
    lines, dots = NewlineNormalizer(), DotStuffer()
    given_out = [dots.feed(lines.feed(piece)) for piece in pieces(text, *cuts)]
    wire = b"".join([*given_out, dots.feed(lines.end()), dots.end()])
    assert read_back(wire)[1:] == (True, 0)
    assert wire.count(b"\r") == wire.count(b"\n") == wire.count(b"\r\n")
