"""`ReplyParser`: valid and invalid replies, and the limits."""

from __future__ import annotations

import pytest

from smtp_trio.protocol import RemoteProtocolError, Reply
from smtp_trio.protocol.framing import ReceiveBuffer
from smtp_trio.protocol.reply_parser import MAX_LINE_OCTETS, MAX_LINES, ReplyParser, parse_line


def parse(*segments: bytes) -> list[Reply]:
    """Return all replies in these segments."""
    buffer = ReceiveBuffer()
    parser = ReplyParser(buffer)
    found: list[Reply] = []
    for segment in segments:
        buffer.add(segment)
        while (reply := parser.read_reply()) is not None:
            found.append(reply)
    return found


def long_line(octets: int) -> bytes:
    """Return a reply of one line with this number of octets, CRLF included."""
    return b"250 ".ljust(octets - 2, b"x") + b"\r\n"


@pytest.mark.parametrize(
    ("octets", "reply"),
    [
        (b"250 Ok\r\n", Reply(250, "Ok", "")),
        (b"250 2.1.5 Ok\r\n", Reply(250, "Ok", "2.1.5")),
        (b"250 2.1.5\r\n", Reply(250, "", "2.1.5")),
        (b"250 2.1.5  Ok\r\n", Reply(250, " Ok", "2.1.5")),
        # RFC 2034 4: the first digit of the status is that of the code. Otherwise it is part of the text.
        (b"250 5.1.5 Ok\r\n", Reply(250, "5.1.5 Ok", "")),
        (b"354 3.0.0 Go on\r\n", Reply(354, "3.0.0 Go on", "")),
        (b"250 2.1.5555 Ok\r\n", Reply(250, "2.1.5555 Ok", "")),
        (b"250 2.1.5, Ok\r\n", Reply(250, "2.1.5, Ok", "")),
        (b"550-5.1.1 No\r\n550 5.1.1 such user\r\n", Reply(550, "No\nsuch user", "5.1.1")),
        (b"550-5.1.1 No\r\n550 such user\r\n", Reply(550, "No\nsuch user", "5.1.1")),
        (b"550-No\r\n550 5.1.1 such user\r\n", Reply(550, "No\n5.1.1 such user", "")),
        (b"250-\r\n250\r\n", Reply(250, "\n", "")),
        (b"250-\r\n250-\r\n250 \r\n", Reply(250, "\n\n", "")),
        (b"250 \xc3\xa9\r\n", Reply(250, "\u00e9", "")),
        (b"250 \xff\r\n", Reply(250, "\ufffd", "")),
        (b"250  - \t\r\n", Reply(250, " - \t", "")),
    ],
)
def test_reply(octets: bytes, reply: Reply) -> None:
    assert parse(octets) == [reply]
    assert parse(*(octets[at : at + 1] for at in range(len(octets)))) == [reply]


def test_reply_without_text() -> None:
    """RFC 5321 4.2.1: a client should accept a bare code, with or without a space."""
    assert parse(b"250\r\n250 \r\n") == [Reply(250, "", ""), Reply(250, "", "")]


@pytest.mark.parametrize("code", [200, 299, 399, 466, 499, 500, 599])
def test_unknown_codes(code: int) -> None:
    assert [reply.code for reply in parse(b"%d Hm\r\n" % code)] == [code]


@pytest.mark.parametrize(
    "octets",
    [
        b"150 Wait\r\n", b"099 No\r\n", b"600 No\r\n", b"999 No\r\n", b"25\r\n", b"2500 Ok\r\n", b"250_Ok\r\n", b"250\tOk\r\n",
        b" 250 Ok\r\n", b"2 50\r\n", b"\r\n", b"\n", b"Ok\r\n", b"+OK ready\r\n", b"* OK ready\r\n", b"HTTP/1.1 400\r\n",
        b"SSH-2.0-x\r\n",
        b"250 Ok\n", b"250 Ok\r \n", b"250\n", b"-250 Ok\r\n", b"\x16\x03\x01\n", b"\xd9\xa2\xd9\xa5\xd9\xa0 Ok\r\n",
        b"250-Ok\n250 Ok\r\n", b"250-Ok\r\n250 Ok\n", b"250-Ok\r\nOk\r\n", b"250-Ok\r\n\r\n", b"250-Ok\r\n25\r\n",
        b"250-Ok\n", b"250-Ok\r\n25x-\r\n",
    ],
)  # fmt: skip
def test_invalid_replies(octets: bytes) -> None:
    with pytest.raises(RemoteProtocolError, match="invalid SMTP reply"):
        parse(octets)


@pytest.mark.parametrize(
    "octets",
    [
        b"250-Ok\r\n251 Ok\r\n",
        b"250-Ok\r\n550 No\r\n",
        b"250-a\r\n250-b\r\n251-c\r\n250 d\r\n",
        b"354-Go\r\n250 Ok\r\n",
    ],
)
def test_lines_of_a_reply_have_the_same_code(octets: bytes) -> None:
    with pytest.raises(RemoteProtocolError, match="on every line"):
        parse(octets)


def test_line_limit() -> None:
    assert len(parse(long_line(MAX_LINE_OCTETS))[0].text) == MAX_LINE_OCTETS - len("250 \r\n")
    for octets in (
        long_line(MAX_LINE_OCTETS + 1),
        long_line(8192),
        b"250 ".ljust(MAX_LINE_OCTETS, b"x"),
        b"250-" + long_line(MAX_LINE_OCTETS),
    ):
        with pytest.raises(RemoteProtocolError, match=f"longer than {MAX_LINE_OCTETS} octets"):
            parse(octets)
    assert parse(b"250 ".ljust(MAX_LINE_OCTETS - 1, b"x")) == []


def test_limit_of_lines() -> None:
    assert parse(b"250-Ok\r\n" * (MAX_LINES - 1) + b"250 Ok\r\n") == [Reply(250, "\n".join(["Ok"] * MAX_LINES), "")]
    assert parse(b"250-Ok\r\n" * (MAX_LINES - 1)) == []
    with pytest.raises(RemoteProtocolError, match=f"more than {MAX_LINES} lines"):
        parse(b"250-Ok\r\n" * MAX_LINES)


def test_incomplete_reply() -> None:
    buffer = ReceiveBuffer()
    replies = ReplyParser(buffer)
    assert not replies.has_unread_input
    for octets, partial in ((b"2", True), (b"50-Ok\r\n", True), (b"250 ", True), (b"Ok\r\n", False)):
        buffer.add(octets)
        reply = replies.read_reply()
        assert (replies.has_unread_input, reply is None) == (partial, partial)


def test_multi_line_replies_are_not_cached() -> None:
    """A server that sends different long replies does not fill the cache."""
    parse_line.cache_clear()
    parse(b"250-One\r\n250 reply\r\n250 Ok\r\n250 Ok\r\n")
    assert parse_line.cache_info().currsize == 1
    assert parse(b"250 Ok\r\n")[0] is parse(b"250 Ok\r\n")[0]
