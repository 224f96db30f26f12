"""The readers of lines and bodies, with segments of all kinds, and the inspection of a message."""

from __future__ import annotations

import re
from itertools import combinations, pairwise

import pytest
from hypothesis import given, strategies as st

from smtp_trio.protocol import BadCommandError
from smtp_trio.protocol.body_inspector import BodyInspector, Newlines
from smtp_trio.protocol.framing import CountedReader, DotTerminatedReader, LineReader, ReceiveBuffer
from smtp_trio.protocol.replies import BARE_CR, BARE_LF, LOOP, NUL, TOO_BIG

MODES: list[Newlines] = ["reject", "normalize", "preserve"]


def pieces(octets: bytes, *cuts: int) -> list[bytes]:
    edges = [0, *cuts, len(octets)]
    return [octets[start:end] for start, end in pairwise(edges)]


# --- the buffer ------------------------------------------------------------------------------------------------------


def test_buffer_returns_what_was_added() -> None:
    buffer = ReceiveBuffer()
    buffer.add(b"abc")
    assert (buffer.take(1), len(buffer)) == (b"a", 2)
    buffer.add(b"def")
    assert (buffer.take(3), buffer.take(99), buffer.take(99), len(buffer)) == (b"bcd", b"ef", b"", 0)
    buffer.add(b"ghi")
    assert buffer.take(9) == b"ghi"
    buffer.add(b"jkl")
    buffer.clear()
    assert (len(buffer), buffer.take(99)) == (0, b"")


def test_buffer_does_not_copy_a_whole_segment() -> None:
    data = bytes(bytearray(1000))
    buffer = ReceiveBuffer()
    buffer.add(data)
    assert buffer.take(1000) is data


# --- lines ----------------------------------------------------------------------------------------------------------


def lines_of(segments: list[bytes], limit: int = 10) -> list[object]:
    buffer = ReceiveBuffer()
    lines = LineReader(buffer)
    found: list[object] = []
    for segment in segments:
        buffer.add(segment)
        while True:
            try:
                line = lines.read_line(limit) if lines.finish_skipping() else None
            except BadCommandError as bad:
                found.append(bad.reply)
                continue
            if line is None:
                break
            found.append(line)
    return found


@given(
    st.lists(st.sampled_from([b"\r\n", b"\r", b"\n", b"a", b"bcdefg", b"\0", b"hijklmnopqrst"]), max_size=12), st.data()
)
def test_lines_do_not_depend_on_segments(parts: list[bytes], data: st.DataObject) -> None:
    octets = b"".join(parts)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(octets)), max_size=4)))
    assert (
        lines_of(pieces(octets, *cuts))
        == lines_of([octets])
        == lines_of([octets[i : i + 1] for i in range(len(octets))])
    )


def test_refused_line_is_dropped() -> None:
    buffer = ReceiveBuffer()
    lines = LineReader(buffer)
    for _ in range(5):
        buffer.add(b"x" * 100)
        assert not lines.finish_skipping() or lines.read_line(10) is None
        assert len(buffer) == 0
    buffer.add(b"x\r")
    assert not lines.finish_skipping()
    assert len(buffer) == 1


# --- read_dot_terminated bodies --------------------------------------------------------------------------------------------------


def read_dot_terminated(segments: list[bytes]) -> tuple[list[bytes], bytes, bool]:
    buffer = ReceiveBuffer()
    body = DotTerminatedReader(buffer)
    out = []
    for segment in segments:
        buffer.add(segment)
        if not body.ended:
            out.append(body.read())
    return out, buffer.take(99), body.ended


BODIES = [
    b".\r\n", b"..\r\n.\r\n", b"a.\r\n.\r\n", b".a\r\n.\r\n", b"\r\n.\r\n", b"\r\n..\r\n.\r\nx",
    b"a\r\n.b\r\n..\r\n...\r\n.\r\nNOOP\r\n", b".\r.\r\n\r\n.\r\n",
    b"..", b".", b".\r", b"a\r", b"a\r\n", b"a\r\n.", b"a\r\n.\r", b"\r\r\n.\r\n", b".\n.\r\n\r\n.\r\n", b"\r\n\r\n.\r\r\n.\r\n",
]  # fmt: skip


@pytest.mark.parametrize("octets", BODIES, ids=repr)
def test_dot_terminated_body_in_all_segmentations(octets: bytes) -> None:
    out, rest, ended = read_dot_terminated([octets])
    whole = b"".join(out)
    for cuts in combinations(range(len(octets) + 1), 2):
        out, after, over = read_dot_terminated(pieces(octets, *cuts))
        assert (b"".join(out), over) == (whole, ended)
        assert after == rest
        # No piece ends between the octets of a CRLF.
        given = [piece for piece in out if piece]
        assert not any(one.endswith(b"\r") and other.startswith(b"\n") for one, other in pairwise(given))
    byte_by_byte, after, over = read_dot_terminated([octets[i : i + 1] for i in range(len(octets))])
    assert (b"".join(byte_by_byte), after, over) == (whole, rest, ended)


@pytest.mark.parametrize("at", range(6))
def test_dot_at_every_position(at: int) -> None:
    text = b"ab\r\ncd"
    octets = text[:at] + b"." + text[at:] + b"\r\n.\r\n"
    expected = {0: b"ab\r\ncd\r\n", 4: b"ab\r\ncd\r\n"}.get(at, octets[:-3])
    for cut in range(len(octets)):
        out, rest, ended = read_dot_terminated(pieces(octets, cut))
        assert (b"".join(out), rest, ended) == (expected, b"", True)


def test_dot_terminated_reader_buffers_two_octets_at_most() -> None:
    buffer = ReceiveBuffer()
    body = DotTerminatedReader(buffer)
    for segment in (b"x" * 1000, b"\r", b"\n", b".", b"\r", b"x" * 1000 + b"\r", b"\r", b"\r\n."):
        buffer.add(segment)
        body.read()
        assert len(buffer) <= 2


def test_segment_without_dots_is_not_copied() -> None:
    data = b"x" * 998 + b"\r\n"
    buffer = ReceiveBuffer()
    body = DotTerminatedReader(buffer)
    buffer.add(data)
    assert body.read() is data


# --- counted bodies -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", range(8))
def test_counted_body(cut: int) -> None:
    buffer = ReceiveBuffer()
    body = CountedReader(buffer, 5)
    out = b""
    for segment in pieces(b"12345xy", cut):
        buffer.add(segment)
        out += body.read()
    assert (out, body.ended, body.remaining, buffer.take(99)) == (b"12345", True, 0, b"xy")


def test_empty_counted_body() -> None:
    assert CountedReader(ReceiveBuffer(), 0).ended


# --- the inspector --------------------------------------------------------------------------------------------------


def inspect(
    segments: list[bytes], mode: Newlines = "reject", limit: int = 0, received: int = 0
) -> tuple[bytes | None, BodyInspector]:
    """Return the octets that were passed on, or None if there was a fault, and the inspector."""
    inspector = BodyInspector(mode, limit, received)
    out = b""
    for n, segment in enumerate(segments):
        out += inspector.check(segment, end=n == len(segments) - 1)
        if inspector.fault is not None:
            return None, inspector
    return out, inspector


@pytest.mark.parametrize("limit", [0, 10])
def test_size_limit(limit: int) -> None:
    for cut in range(11):
        out, inspector = inspect(pieces(b"12345678\r\n", cut), limit=limit)
        assert (out, inspector.size, inspector.fault) == (b"12345678\r\n", 10, None)
        out, inspector = inspect(pieces(b"123456789\r\n", cut), limit=limit)
        assert inspector.fault is (TOO_BIG if limit else None)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", [b"Received:", b"received:", b"RECEIVED:"])
def test_received_fields_are_counted(name: bytes, mode: Newlines) -> None:
    field = name + b" x\r\n"
    for fields, fault in ((3, None), (4, LOOP)):
        octets = field * fields + b"\r\n" + field * 3
        for cut in range(len(octets)):
            assert inspect(pieces(octets, cut), mode, received=3)[1].fault is fault
        assert inspect([octets[i : i + 1] for i in range(len(octets))], mode, received=3)[1].fault is fault
        assert inspect([octets], mode, received=0)[1].fault is None


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "octets",
    [
        b"\r\n" + b"Received: x\r\n" * 3,  # no header at all
        b"X-Received: a\r\nNot-Received: b\r\nA: Received: c\r\n\tReceived: d\r\nReceived : e\r\n",
        b"a: b\r\n\r\nReceived: x\r\nReceived: x\r\n",
    ],
)
def test_other_fields_and_the_body_are_not_counted(octets: bytes, mode: Newlines) -> None:
    for cut in range(len(octets)):
        assert inspect(pieces(octets, cut), mode, received=1)[1].fault is None


@pytest.mark.parametrize(
    ("octets", "fault"),
    [
        (b"a\nb", BARE_LF),
        (b"a\rb", BARE_CR),
        (b"\n\r", BARE_LF),
        (b"\r\n\r", BARE_CR),
        (b"\r\r\n", BARE_CR),
        (b"\r\n\n", BARE_LF),
        (b"a\0b", NUL),
        (b"\0", NUL),
        (b"a: b\r\n\r\n\0.\r\n", NUL),
        (b"\r\n.\0\r\n", NUL),
        (b"\0\n", NUL),
        (b"\n\0", BARE_LF),
        (b"\r\0", BARE_CR),
        (b"x\0\r", NUL),
    ],
)
def test_bare_cr_and_lf_and_nul(octets: bytes, fault: object) -> None:
    for cut in range(len(octets) + 1):
        assert inspect(pieces(octets, cut), "reject")[1].fault is fault
        assert inspect(pieces(octets, cut), "preserve")[0] == octets


@given(st.lists(st.sampled_from([b"\r", b"\n", b"\r\n", b"ab", b"\0"]), max_size=10).map(b"".join), st.data())
def test_normalization_does_not_depend_on_pieces(octets: bytes, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(octets)), max_size=4)))
    expected = re.sub(rb"\r+\n|\r|\n", b"\r\n", octets)
    out, inspector = inspect(pieces(octets, *cuts), "normalize")
    if b"\0" in octets:
        assert (out, inspector.fault) == (None, NUL)
    else:
        assert (out, inspector.size) == (expected, len(expected))
        assert (inspector.repaired > 0) == (octets != expected)
    out, inspector = inspect(pieces(octets, *cuts), "reject")
    assert out == (octets if octets == expected and b"\0" not in octets else None)


def test_cr_is_held_back_between_pieces() -> None:
    inspector = BodyInspector("reject", 0, 0)
    assert inspector.check(b"a\r") == b"a"
    assert inspector.check(b"") == b""
    assert inspector.check(b"\nb\r") == b"\r\nb"
    assert inspector.check(b"\n", end=True) == b"\r\n"
    assert (inspector.size, inspector.received, inspector.fault) == (6, 6, None)


def test_far_too_big_at_ten_times_the_size() -> None:
    inspector = BodyInspector("reject", 10, 0)
    inspector.check(b"x" * 11)
    inspector.skip(89)
    assert not inspector.far_too_big
    inspector.skip(1)
    assert inspector.far_too_big
    assert inspector.size == 0
    assert not BodyInspector("reject", 0, 0).far_too_big
