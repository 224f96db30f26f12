"""CHUNKING and BINARYMIME (RFC 3030) on the server: messages by BDAT."""

from __future__ import annotations

from typing import Any

import pytest

from smtp_trio.protocol import BadCommandError, CountedCommand, Reply, ServerProtocol
from smtp_trio.protocol.extensions import BinaryMime, Chunking, EightBitMime, standard
from smtp_trio.protocol.extensions.chunking import Bdat, BdatLast

from .talk import HELLO, RECIPIENT, SENDER, Talk, codes


def begin(**settings: Any) -> Talk:
    return Talk(**settings).begin(SENDER, RECIPIENT)


def test_message_in_two_chunks() -> None:
    talk = begin()
    assert codes(talk.send(b"BDAT 5\r\nhelloBDAT 0 LAST\r\n")) == ["250 2.0.0"] * 2
    assert talk.messages == [b"hello"]
    assert talk.protocol.state.mail is None


def test_message_in_one_chunk() -> None:
    body = b"x" * 84 + b"\r\n"
    talk = begin()
    assert codes(talk.send(b"BDAT 86 LAST\r\n" + body)) == ["250 2.0.0"]
    assert talk.messages == [body]


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
        talk = Talk()
        talk.say(*lines)
        begun = len(talk.output)
        talk.split(octets, [cut])
        assert codes(talk.output[begun:].decode().splitlines()) == [expected, "250 2.0.0"]
        assert not talk.messages


def test_rset_must_follow_a_refused_chunk() -> None:
    failing = Talk(answer=lambda command: Reply(452, "Full") if type(command) is Bdat else None).begin(
        SENDER, RECIPIENT
    )
    assert codes(failing.send(b"BDAT 3\r\nabcBDAT 4\r\nRSETBDAT 6 LAST\r\nRSET\r\n")) == [
        "452 4.3.1",
        "503 5.5.1",
        "503 5.5.1",
    ]
    assert codes(failing.say(SENDER, RECIPIENT, "DATA", "VRFY a", "HELP", "NOOP")) == ["503 5.5.1"] * 5 + ["250 2.0.0"]
    assert codes(failing.say("RSET", SENDER, RECIPIENT)) == ["250 2.0.0", "250 2.1.0", "250 2.1.5"]
    failing.send(b"BDAT 1\r\nx")
    assert codes(failing.say(HELLO, SENDER)) == ["250", "250 2.1.0"]
    assert failing.messages == []


def test_refused_last_chunk_ends_the_transaction() -> None:
    failing = Talk(answer=lambda command: Reply(452, "Full") if type(command) is BdatLast else None).begin(
        SENDER, RECIPIENT
    )
    assert codes(failing.send(b"BDAT 3 LAST\r\nabcMAIL FROM:<a@b>\r\n")) == ["452 4.3.1", "250 2.1.0"]


def test_chunk_after_the_last_is_refused() -> None:
    talk = begin()
    assert codes(talk.send(b"BDAT 1 LAST\r\nxBDAT 4 LAST\r\nNOOPBDAT 4\r\nNOOP")) == [
        "250 2.0.0",
        "503 5.5.1",
        "503 5.5.1",
    ]


@pytest.mark.parametrize("line", ["DATA", SENDER, RECIPIENT, "VRFY a", "HELP", "STARTTLS", "AUTH PLAIN"])
def test_other_commands_between_chunks_are_refused(line: str) -> None:
    talk = begin(tls=True, hooks={"auth"})
    talk.protocol.state.secure = line.startswith("AUTH")
    assert codes([*talk.send(b"BDAT 2\r\nab"), *talk.say(line, "NOOP")]) == ["250 2.0.0", "503 5.5.1", "250 2.0.0"]
    assert codes(talk.send(b"BDAT 2 LAST\r\ncd")) == ["250 2.0.0"]
    assert talk.messages == [b"abcd"]


def test_binarymime_requires_bdat() -> None:
    talk = Talk(extensions=standard(BinaryMime())).begin("MAIL FROM:<a@b> BODY=BINARYMIME", RECIPIENT)
    assert codes(talk.say("DATA")) == ["503 5.5.1"]
    assert codes(talk.send(b"BDAT 4 LAST\r\n\r\n\r\r")) == ["250 2.0.0"]
    assert talk.messages == [b"\r\n\r\r"]
    # Without BODY=BINARYMIME, DATA is accepted.
    assert codes(talk.say(SENDER, RECIPIENT, "DATA", "x", ".")) == ["250 2.1.0", "250 2.1.5", "354", "250 2.0.0"]


def test_binarymime_requires_chunking_and_8bitmime() -> None:
    assert codes(Talk().begin().say("MAIL FROM:<a@b> BODY=BINARYMIME")) == ["501 5.5.4"]
    with pytest.raises(ValueError, match="BINARYMIME requires CHUNKING"):
        ServerProtocol(extensions=[EightBitMime(), BinaryMime()])
    with pytest.raises(ValueError, match="BINARYMIME requires 8BITMIME, CHUNKING"):
        ServerProtocol(extensions=[BinaryMime()])


@pytest.mark.parametrize(
    "line",
    [
        "BDAT", "BDAT x", "BDAT -1", "BDAT +5", "BDAT 1_0", "BDAT 0x5", "BDAT 5.0", "BDAT 5 FOO", "BDAT 5 LAST LAST",
        "BDAT 5  LAST",
        "BDAT " + "9" * 20, "BDAT " + "9" * 21, f"BDAT {2**64}", "BDAT \u0665", "BDAT LAST", "BDAT 5 LA\u017fT", "BDAT  5",
    ],
)  # fmt: skip
@pytest.mark.parametrize("lines", [[], [HELLO, SENDER, RECIPIENT]])
def test_invalid_size_closes_the_connection(line: str, lines: list[str]) -> None:
    talk = Talk()
    talk.say(*lines)
    assert codes(talk.say(line, "NOOP"))[-1] == "501 5.5.4"
    assert talk.over


@pytest.mark.parametrize("line", [b"BDAT 6 \xff", b"BDAT 6\0", b"BDAT 6 \xff LAST", b"bdat 6 \x01"])
def test_invalid_characters_close_the_connection(line: bytes) -> None:
    talk = begin()
    assert codes(talk.send(line + b"\r\nNOOP\r\n")) == ["501 5.5.2"]
    assert talk.over


def test_bdat_without_the_extension_closes_the_connection() -> None:
    talk = Talk(extensions=standard(without=(Chunking,)))
    assert "CHUNKING" not in talk.say(HELLO)[1]
    assert codes(talk.send(b"BDAT 6\r\nNOOP\r\n")) == ["502 5.5.1"]
    assert talk.over


def test_empty_chunks_make_an_empty_message() -> None:
    talk = begin()
    assert codes(talk.send(b"BDAT 0\r\nBDAT 0\r\nBDAT 0 LAST\r\n")) == ["250 2.0.0"] * 3
    assert talk.messages == [b""]


def test_chunk_over_the_size_limit_is_refused() -> None:
    for octets in (b"BDAT 11\r\n12345678901", b"BDAT 100\r\n" + b"x" * 100):
        talk = begin(size=10)
        assert codes(talk.send(octets + b"BDAT 4\r\nQUITNOOP\r\nRSET\r\nMAIL FROM:<a@b>\r\n")) == [
            "552 5.3.4", "503 5.5.1", "250 2.0.0", "250 2.0.0", "250 2.1.0",
        ]  # fmt: skip
        talk = begin(size=10)
        assert codes(talk.send(octets.replace(b"\r\n", b" LAST\r\n") + b"MAIL FROM:<a@b>\r\n")) == [
            "552 5.3.4",
            "250 2.1.0",
        ]


def test_chunk_of_ten_times_the_limit_closes_the_connection() -> None:
    talk = begin(size=10)
    assert codes(talk.send(b"BDAT 101\r\n")) == ["552 5.3.4"]
    assert talk.over
    assert not begin(size=0).split(f"BDAT {2**64 - 1}\r\n".encode(), []).over


def test_chunks_far_over_the_limit_close_the_connection() -> None:
    talk = begin(size=10)
    assert codes(talk.send(b"BDAT 10\r\n" + b"x" * 10 + b"BDAT 100\r\n" + b"x" * 100)) == ["250 2.0.0", "421 4.3.2"]
    assert talk.over


def test_chunks_are_not_interpreted() -> None:
    body = b"\r\n.\r\n..\r\n\0\xff\r\n"
    talk = begin()
    talk.send(f"BDAT {len(body)} LAST\r\n".encode() + body)
    assert talk.messages == [body]


def test_crlf_split_between_chunks_is_a_line_end() -> None:
    talk = begin()
    assert codes(talk.send(b"BDAT 2\r\na\rBDAT 2\r\n\nbBDAT 2 LAST\r\n\r\n")) == ["250 2.0.0"] * 3
    assert talk.messages == [b"a\r\nb\r\n"]


@pytest.mark.parametrize("rest", [b"BDAT 1\r\nx", b"BDAT 0 LAST\r\n", b"BDAT 0\r\nBDAT 1 LAST\r\nx"])
def test_bare_cr_at_the_end_of_a_chunk(rest: bytes) -> None:
    talk = begin()
    assert codes(talk.send(b"BDAT 2\r\na\r" + rest))[-1] == "550 5.5.2"
    normal = begin(newlines="normalize")
    normal.send(b"BDAT 2\r\na\r" + rest + b"BDAT 0 LAST\r\n")
    assert normal.messages[0][:3] == b"a\r\n"


def test_rset_between_chunks() -> None:
    talk = begin()
    assert codes(talk.send(b"BDAT 3\r\nabcRSET\r\n")) == ["250 2.0.0"] * 2
    assert codes(talk.say(SENDER, RECIPIENT)) == ["250 2.1.0", "250 2.1.5"]
    talk.send(b"BDAT 3 LAST\r\ndef")
    assert talk.messages == [b"def"]


@pytest.mark.parametrize("line", [HELLO, "HELO x"])
def test_hello_between_chunks(line: str) -> None:
    talk = begin()
    talk.send(b"BDAT 3\r\nabc")
    assert codes(talk.say(line, RECIPIENT, SENDER)) == ["250", "503 5.5.1", "250 2.1.0"]


def test_quit_between_chunks() -> None:
    talk = begin()
    assert codes([*talk.send(b"BDAT 3\r\nabc"), *talk.say("QUIT")]) == ["250 2.0.0", "221 2.0.0"]
    assert talk.over
    assert talk.messages == []


@pytest.mark.parametrize(
    "sent", [b"BDAT 5 LAST\r\n", b"BDAT 5 LAST\r\nabc", b"BDAT 5\r\nabc", b"BDAT 5\r\nabcde", b"BDAT 5"]
)
def test_end_of_input_in_a_chunk(sent: bytes) -> None:
    talk = begin()
    talk.send(sent)
    talk.hang_up()
    assert talk.over
    assert talk.messages == []


def test_end_of_input_in_a_refused_chunk() -> None:
    talk = Talk().begin()
    assert talk.send(b"BDAT 5\r\nabc") == []
    assert talk.hang_up() == b""
    assert talk.over


def test_verb_and_last_are_case_insensitive() -> None:
    talk = begin()
    assert codes(talk.send(b"bdat 3 last\r\nabc")) == ["250 2.0.0"]
    assert talk.messages == [b"abc"]


def test_chunks_cut_at_every_octet() -> None:
    octets = b"BDAT 7\r\nNOOP\r\n.BDAT 3\r\n\r\n\rBDAT 4 LAST\r\n\n.\r\nNOOP\r\nRSET\r\n"
    whole = begin().split(octets, [])
    assert whole.messages == [b"NOOP\r\n.\r\n\r\n.\r\n"]
    for cut in range(len(octets)):
        talk = begin().split(octets, [cut])
        assert (talk.output, talk.story) == (whole.output, whole.story)


def test_commands_have_their_size() -> None:
    talk = begin()
    talk.send(b"BDAT 7\r\n1234567BDAT 0 LAST\r\n")
    chunks = [event for event in talk.story if isinstance(event, CountedCommand)]
    assert chunks == [Bdat(7), BdatLast(0)]
    assert [chunk.last for chunk in chunks] == [False, True]
    with pytest.raises(BadCommandError) as caught:
        Bdat.decode("x", {})
    assert caught.value.close
