"""CHUNKING and BINARYMIME (RFC 3030) on the server: messages by BDAT."""

from __future__ import annotations

from typing import Any

import pytest

from smtp_trio.protocol import BadCommandError, CountedCommand, Extension, Noop, Reply, ServerProtocol
from smtp_trio.protocol.extensions import BinaryMime, Chunking, EightBitMime, standard
from smtp_trio.protocol.extensions.chunking import Bdat, BdatLast

from .driver import HELLO, RECIPIENT, SENDER, ServerDriver, codes


def begin(**settings: Any) -> ServerDriver:
    return ServerDriver(**settings).begin(SENDER, RECIPIENT)


def test_message_in_two_chunks() -> None:
    driver = begin()
    assert codes(driver.send(b"BDAT 5\r\nhelloBDAT 0 LAST\r\n")) == ["250 2.0.0"] * 2
    assert driver.messages == [b"hello"]
    assert driver.protocol.state.mail is None


def test_message_in_one_chunk() -> None:
    body = b"x" * 84 + b"\r\n"
    driver = begin()
    assert codes(driver.send(b"BDAT 86 LAST\r\n" + body)) == ["250 2.0.0"]
    assert driver.messages == [body]


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([], "503 5.5.1"), ([HELLO], "503 5.5.1"), ([HELLO, SENDER], "503 5.5.1"),
        ([HELLO, SENDER, "RCPT TO:<no@x>"], "554 5.5.1"),
    ],
)  # fmt: skip
def test_octets_of_a_chunk_out_of_order_are_consumed(lines: list[str], expected: str) -> None:
    octets = b"BDAT 9 LAST\r\nMAIL FROMNOOP\r\n"
    for cut in range(len(octets)):
        driver = ServerDriver()
        driver.send_lines(*lines)
        begun = len(driver.output)
        driver.send_in_segments(octets, [cut])
        assert codes(driver.output[begun:].decode().splitlines()) == [expected, "250 2.0.0"]
        assert not driver.messages


def test_rset_must_follow_a_refused_chunk() -> None:
    failing = ServerDriver(answer=lambda command: Reply(452, "Full") if type(command) is Bdat else None).begin(
        SENDER, RECIPIENT
    )
    assert codes(failing.send(b"BDAT 3\r\nabcBDAT 4\r\nRSETBDAT 6 LAST\r\nRSET\r\n")) == [
        "452 4.3.1",
        "503 5.5.1",
        "503 5.5.1",
    ]
    assert codes(failing.send_lines(SENDER, RECIPIENT, "DATA", "VRFY a", "HELP", "NOOP")) == ["503 5.5.1"] * 5 + [
        "250 2.0.0"
    ]
    assert codes(failing.send_lines("RSET", SENDER, RECIPIENT)) == ["250 2.0.0", "250 2.1.0", "250 2.1.5"]
    failing.send(b"BDAT 1\r\nx")
    assert codes(failing.send_lines(HELLO, SENDER)) == ["250", "250 2.1.0"]
    assert failing.messages == []


def test_refused_last_chunk_ends_the_transaction() -> None:
    failing = ServerDriver(answer=lambda command: Reply(452, "Full") if type(command) is BdatLast else None).begin(
        SENDER, RECIPIENT
    )
    assert codes(failing.send(b"BDAT 3 LAST\r\nabcMAIL FROM:<a@b>\r\n")) == ["452 4.3.1", "250 2.1.0"]


def test_chunk_after_the_last_is_refused() -> None:
    driver = begin()
    assert codes(driver.send(b"BDAT 1 LAST\r\nxBDAT 4 LAST\r\nNOOPBDAT 4\r\nNOOP")) == [
        "250 2.0.0",
        "503 5.5.1",
        "503 5.5.1",
    ]


@pytest.mark.parametrize("line", ["DATA", SENDER, RECIPIENT, "VRFY a", "HELP", "STARTTLS", "AUTH PLAIN"])
def test_other_commands_between_chunks_are_refused(line: str) -> None:
    driver = begin(tls=True, hooks={"auth"})
    driver.protocol.state.secure = line.startswith("AUTH")
    assert codes([*driver.send(b"BDAT 2\r\nab"), *driver.send_lines(line, "NOOP")]) == [
        "250 2.0.0",
        "503 5.5.1",
        "250 2.0.0",
    ]
    assert codes(driver.send(b"BDAT 2 LAST\r\ncd")) == ["250 2.0.0"]
    assert driver.messages == [b"abcd"]


def test_binarymime_requires_bdat() -> None:
    driver = ServerDriver(extensions=standard(BinaryMime())).begin("MAIL FROM:<a@b> BODY=BINARYMIME", RECIPIENT)
    assert codes(driver.send_lines("DATA")) == ["503 5.5.1"]
    assert codes(driver.send(b"BDAT 4 LAST\r\n\r\n\r\r")) == ["250 2.0.0"]
    assert driver.messages == [b"\r\n\r\r"]
    # Without BODY=BINARYMIME, DATA is accepted.
    assert codes(driver.send_lines(SENDER, RECIPIENT, "DATA", "x", ".")) == [
        "250 2.1.0",
        "250 2.1.5",
        "354",
        "250 2.0.0",
    ]


def test_binarymime_requires_chunking_and_8bitmime() -> None:
    assert codes(ServerDriver().begin().send_lines("MAIL FROM:<a@b> BODY=BINARYMIME")) == ["501 5.5.4"]
    with pytest.raises(ValueError, match="BINARYMIME requires CHUNKING"):
        ServerProtocol(extensions=[EightBitMime(), BinaryMime()])
    with pytest.raises(ValueError, match="BINARYMIME requires 8BITMIME, CHUNKING"):
        ServerProtocol(extensions=[BinaryMime()])


@pytest.mark.parametrize(
    "line",
    [
        "BDAT", "BDAT x", "BDAT -1", "BDAT +5", "BDAT 1_0", "BDAT 0x5", "BDAT 5.0", "BDAT 5 FOO", "BDAT 5 LAST LAST",
        "BDAT " + "9" * 20, "BDAT " + "9" * 21, f"BDAT {2**64}", "BDAT \u0665", "BDAT LAST", "BDAT 5 LA\u017fT", "BDAT 5\u00a0LAST",
    ],
)  # fmt: skip
@pytest.mark.parametrize("lines", [[], [HELLO, SENDER, RECIPIENT]])
def test_invalid_size_closes_the_connection(line: str, lines: list[str]) -> None:
    driver = ServerDriver()
    driver.send_lines(*lines)
    assert codes(driver.send_lines(line, "NOOP"))[-1] == "501 5.5.4"
    assert driver.closed


@pytest.mark.parametrize("line", [b"BDAT 6 \xff", b"BDAT 6\0", b"BDAT 6 \xff LAST", b"bdat 6 \x01"])
def test_invalid_characters_close_the_connection(line: bytes) -> None:
    driver = begin()
    assert codes(driver.send(line + b"\r\nNOOP\r\n")) == ["501 5.5.2"]
    assert driver.closed


@pytest.mark.parametrize(
    "line",
    [
        b"BDAT 6\n", b"BDAT 6 LAST\r\r\n", b"bdat 6\rLAST\r\n", b"NOOP\nBDAT 6\n", b"BDAT 6" + b" " * 4000 + b"LAST\r\n",
        b"BDAT 6" + b" " * 4000 + b"\n", b" BDAT 6 LAST\r\n", b"BDAT\x006 LAST\r\n", b"BDAT\v6\r\n", b"BDAT\xa06\r\n", b"BDAT:6\r\n",
    ],
)  # fmt: skip
@pytest.mark.parametrize("extensions", [standard(), standard(without=(Chunking,))], ids=["CHUNKING", "without"])
def test_malformed_bdat_line_closes_the_connection(line: bytes, extensions: tuple[Extension, ...]) -> None:
    # The octets of the chunk may follow, and must not be executed.
    driver = ServerDriver(extensions=extensions)
    driver.send_lines(HELLO, SENDER, RECIPIENT)
    assert codes(driver.send(line + b"NOOP\r\nNOOP\r\n"))[-1] in ("500 5.5.2", "500 5.5.1")
    assert driver.closed
    assert not any(isinstance(event, Noop) for event in driver.events)


def test_bdat_without_the_extension_closes_the_connection() -> None:
    driver = ServerDriver(extensions=standard(without=(Chunking,)))
    assert "CHUNKING" not in driver.send_lines(HELLO)[1]
    assert codes(driver.send(b"BDAT 6\r\nNOOP\r\n")) == ["502 5.5.1"]
    assert driver.closed


def test_empty_chunks_make_an_empty_message() -> None:
    driver = begin()
    assert codes(driver.send(b"BDAT 0\r\nBDAT 0\r\nBDAT 0 LAST\r\n")) == ["250 2.0.0"] * 3
    assert driver.messages == [b""]


def test_chunk_over_the_size_limit_is_refused() -> None:
    for octets in (b"BDAT 11\r\n12345678901", b"BDAT 100\r\n" + b"x" * 100):
        driver = begin(size=10)
        assert codes(driver.send(octets + b"BDAT 4\r\nQUITNOOP\r\nRSET\r\nMAIL FROM:<a@b>\r\n")) == [
            "552 5.3.4", "503 5.5.1", "250 2.0.0", "250 2.0.0", "250 2.1.0",
        ]  # fmt: skip
        driver = begin(size=10)
        assert codes(driver.send(octets.replace(b"\r\n", b" LAST\r\n") + b"MAIL FROM:<a@b>\r\n")) == [
            "552 5.3.4",
            "250 2.1.0",
        ]


def test_chunk_of_ten_times_the_limit_closes_the_connection() -> None:
    driver = begin(size=10)
    assert codes(driver.send(b"BDAT 101\r\n")) == ["552 5.3.4"]
    assert driver.closed
    assert not begin(size=0).send_in_segments(f"BDAT {2**64 - 1}\r\n".encode(), []).closed


def test_chunks_far_over_the_limit_close_the_connection() -> None:
    driver = begin(size=10)
    assert codes(driver.send(b"BDAT 10\r\n" + b"x" * 10 + b"BDAT 100\r\n" + b"x" * 100)) == ["250 2.0.0", "421 4.3.2"]
    assert driver.closed


def test_chunks_are_not_interpreted() -> None:
    body = b"\r\n.\r\n..\r\n\1\xff\r\n"
    driver = begin()
    driver.send(f"BDAT {len(body)} LAST\r\n".encode() + body)
    assert driver.messages == [body]


def test_crlf_split_between_chunks_is_a_line_end() -> None:
    driver = begin()
    assert codes(driver.send(b"BDAT 2\r\na\rBDAT 2\r\n\nbBDAT 2 LAST\r\n\r\n")) == ["250 2.0.0"] * 3
    assert driver.messages == [b"a\r\nb\r\n"]


@pytest.mark.parametrize("rest", [b"BDAT 1\r\nx", b"BDAT 0 LAST\r\n", b"BDAT 0\r\nBDAT 1 LAST\r\nx"])
def test_bare_cr_at_the_end_of_a_chunk(rest: bytes) -> None:
    driver = begin()
    assert codes(driver.send(b"BDAT 2\r\na\r" + rest))[-1] == "550 5.5.2"
    normal = begin(newlines="normalize")
    normal.send(b"BDAT 2\r\na\r" + rest + b"BDAT 0 LAST\r\n")
    assert normal.messages[0][:3] == b"a\r\n"


def test_rset_between_chunks() -> None:
    driver = begin()
    assert codes(driver.send(b"BDAT 3\r\nabcRSET\r\n")) == ["250 2.0.0"] * 2
    assert codes(driver.send_lines(SENDER, RECIPIENT)) == ["250 2.1.0", "250 2.1.5"]
    driver.send(b"BDAT 3 LAST\r\ndef")
    assert driver.messages == [b"def"]


@pytest.mark.parametrize("line", [HELLO, "HELO x"])
def test_hello_between_chunks(line: str) -> None:
    driver = begin()
    driver.send(b"BDAT 3\r\nabc")
    assert codes(driver.send_lines(line, RECIPIENT, SENDER)) == ["250", "503 5.5.1", "250 2.1.0"]


def test_quit_between_chunks() -> None:
    driver = begin()
    assert codes([*driver.send(b"BDAT 3\r\nabc"), *driver.send_lines("QUIT")]) == ["250 2.0.0", "221 2.0.0"]
    assert driver.closed
    assert driver.messages == []


@pytest.mark.parametrize(
    "sent", [b"BDAT 5 LAST\r\n", b"BDAT 5 LAST\r\nabc", b"BDAT 5\r\nabc", b"BDAT 5\r\nabcde", b"BDAT 5"]
)
def test_end_of_input_in_a_chunk(sent: bytes) -> None:
    driver = begin()
    driver.send(sent)
    driver.end_input()
    assert driver.closed
    assert driver.messages == []


def test_end_of_input_in_a_refused_chunk() -> None:
    driver = ServerDriver().begin()
    assert driver.send(b"BDAT 5\r\nabc") == []
    assert driver.end_input() == b""
    assert driver.closed


def test_verb_and_last_are_case_insensitive() -> None:
    driver = begin()
    assert codes(driver.send(b"bdat 3 last\r\nabc")) == ["250 2.0.0"]
    assert driver.messages == [b"abc"]


def test_chunks_cut_at_every_octet() -> None:
    octets = b"BDAT 7\r\nNOOP\r\n.BDAT 3\r\n\r\n\rBDAT 4 LAST\r\n\n.\r\nNOOP\r\nRSET\r\n"
    whole = begin().send_in_segments(octets, [])
    assert whole.messages == [b"NOOP\r\n.\r\n\r\n.\r\n"]
    for cut in range(len(octets)):
        driver = begin().send_in_segments(octets, [cut])
        assert (driver.output, driver.events) == (whole.output, whole.events)


def test_commands_have_their_size() -> None:
    driver = begin()
    driver.send(b"BDAT 7\r\n1234567BDAT 0 LAST\r\n")
    chunks = [event for event in driver.events if isinstance(event, CountedCommand)]
    assert chunks == [Bdat(7), BdatLast(0)]
    assert [chunk.last for chunk in chunks] == [False, True]
    with pytest.raises(BadCommandError) as caught:
        Bdat.decode("x", {})
    assert caught.value.close
