"""Messages that are sent with DATA."""

from __future__ import annotations

import pytest

from smtp_trio.protocol import Data, EndOfBody, Reply

from .talk import HELLO, NAME, RECIPIENT, SENDER, Talk, answering, at, codes


@pytest.mark.parametrize("phase", ["G", "E", "M"])
def test_data_without_recipients(phase: str) -> None:
    assert codes(at(phase).say("DATA")) == ["503 5.5.1"]


def test_data_after_all_recipients_were_refused() -> None:
    talk = at("M")
    assert codes(talk.say("RCPT TO:<no@mx.test>", "DATA")) == ["550 5.1.1", "554 5.5.1"]
    # The transaction is still open, and can be continued with another recipient.
    assert codes(talk.say(RECIPIENT, "DATA")) == ["250 2.1.5", "354"]


def test_malformed_recipient_counts_as_refused() -> None:
    assert codes(at("M").say("RCPT TO:<@>", "DATA")) == ["501 5.1.3", "554 5.5.1"]


def test_recipient_outside_a_transaction_does_not_count_as_refused() -> None:
    talk = at("E")
    assert codes(talk.say(RECIPIENT, SENDER, "DATA")) == ["503 5.5.1", "250 2.1.0", "503 5.5.1"]
    talk = at("M")
    assert codes(talk.say("RCPT TO:<no@x>", "RSET", SENDER, "DATA"))[-1] == "503 5.5.1"


def test_data_is_answered_with_354() -> None:
    assert at("R").say("DATA") == ["354 End data with <CR><LF>.<CR><LF>"]


def test_transaction_ends_with_the_message() -> None:
    talk = at("R")
    assert codes(talk.say("DATA", "hello", ".", "DATA", RECIPIENT, SENDER)) == [
        "354", "250 2.0.0", "503 5.5.1", "503 5.5.1", "250 2.1.0",
    ]  # fmt: skip
    assert talk.messages == [b"hello\r\n"]
    assert talk.protocol.state.rcpts == []


def test_text_of_the_final_reply() -> None:
    talk = at("R", answering((EndOfBody, Reply(250, "Ok: queued as x-1"))))
    assert talk.say("DATA", ".")[1] == "250 2.0.0 Ok: queued as x-1"


@pytest.mark.parametrize("reply", [Reply(451, "Later", "4.3.0"), Reply(554, "Never", "5.6.0"), Reply(452, "Full")])
def test_message_refused_at_its_end(reply: Reply) -> None:
    talk = at("R", answering((EndOfBody, reply)))
    assert codes(talk.say("DATA", "x", ".", "DATA", SENDER, RECIPIENT, "DATA"))[1:] == [
        f"{reply.code} {reply.encode().split()[1].decode()}", "503 5.5.1", "250 2.1.0", "250 2.1.5", "354",
    ]  # fmt: skip
    assert talk.messages == []


def test_message_refused_instead_of_354() -> None:
    talk = at("R", answering((Data, Reply(451, "Later", "4.3.0"))))
    assert codes(talk.say("DATA", "DATA", SENDER)) == ["451 4.3.0", "503 5.5.1", "250 2.1.0"]


def test_empty_message() -> None:
    talk = at("R")
    assert codes(talk.say("DATA", ".")) == ["354", "250 2.0.0"]
    assert talk.messages == [b""]


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        (b"..\r\n", b".\r\n"), (b"..x\r\n", b".x\r\n"), (b".x\r\n", b"x\r\n"), (b"...\r\n", b"..\r\n"), (b"x.\r\n", b"x.\r\n"),
        (b"a\r\n..\r\n..\r\nb\r\n", b"a\r\n.\r\n.\r\nb\r\n"), (b"\r\n..\r\n\r\n", b"\r\n.\r\n\r\n"),
    ],
)  # fmt: skip
def test_dots_added_by_the_client_are_removed(sent: bytes, kept: bytes) -> None:
    talk = at("R")
    talk.send(b"DATA\r\n" + sent + b".\r\n")
    assert talk.messages == [kept]


def test_dot_at_the_end_of_a_line_is_not_the_end() -> None:
    talk = at("R")
    assert codes(talk.send(b"DATA\r\nx.\r\n")) == ["354"]
    assert codes(talk.send(b".\r\n")) == ["250 2.0.0"]
    assert talk.messages == [b"x.\r\n"]


def test_all_octets_are_preserved() -> None:
    octets = bytes(set(range(256)) - set(b"\r\n")) * 3 + b"\r\n"
    talk = Talk().begin("MAIL FROM:<a@b> BODY=8BITMIME", RECIPIENT)
    talk.send(b"DATA\r\n" + octets + b".\r\n")
    assert talk.messages == [octets]


@pytest.mark.parametrize("length", [998, 999, 1000, 1_000_000])
def test_long_text_lines_are_accepted(length: int) -> None:
    line = b"." + b"x" * (length - 1) + b"\r\n"
    talk = at("R")
    assert codes(talk.send(b"DATA\r\n." + line + b".\r\n")) == ["354", "250 2.0.0"]
    assert talk.messages == [line]


def test_message_larger_than_size() -> None:
    talk = Talk(size=100).begin(SENDER, RECIPIENT)
    assert codes(talk.send(b"DATA\r\n" + b"x" * 200)) == ["354"]
    assert codes(talk.send(b"\r\nQUIT\r\n.\r\nNOOP\r\n")) == ["552 5.3.4", "250 2.0.0"]
    assert talk.messages == []
    assert codes(talk.say("DATA", SENDER, RECIPIENT, "DATA", "x", ".")) == [
        "503 5.5.1", "250 2.1.0", "250 2.1.5", "354", "250 2.0.0",
    ]  # fmt: skip


def test_message_of_ten_times_the_size_closes_the_session() -> None:
    for body in (b"x" * 1001, b"x" * 1001 + b"\r\n.\r\nNOOP\r\n", b"x" * 5000):
        for cut in (0, 50, 101, 500, 1000, 1001, 1003):
            talk = Talk(size=100).begin(SENDER, RECIPIENT, "NOOP")
            talk.say("DATA")
            begun = len(talk.output)
            talk.split(body, [cut])
            assert talk.output[begun:].startswith(f"421 4.3.2 {NAME} ".encode())
            assert talk.over
    assert not Talk(size=0).begin(SENDER, RECIPIENT).split(b"DATA\r\n" + b"x" * 5000, [100]).over


def test_discarded_message_has_the_same_limit() -> None:
    talk = Talk(size=100).begin(SENDER, RECIPIENT)
    talk.say("DATA")
    talk.protocol.discard()
    assert talk.send(b"x" * 1000) == []
    assert talk.story[-1] == Data()
    assert codes(talk.send(b"x")) == ["421 4.3.2"]


def test_too_many_received_fields() -> None:
    field = b"Received: from x by y; Thu, 1 Jan 1970 00:00:00 +0000\r\n"
    talk = Talk().begin(SENDER, RECIPIENT)
    assert codes(talk.send(b"DATA\r\n" + field * 100 + b"\r\n" + field * 50 + b".\r\n")) == ["354", "250 2.0.0"]
    talk.say(SENDER, RECIPIENT)
    assert codes(talk.send(b"DATA\r\n" + field * 101 + b"\r\nhello\r\n.\r\n")) == ["354", "554 5.4.6"]


def test_header_is_not_validated() -> None:
    talk = Talk()
    for body in (b"From: a\r\nFrom: b\r\n\r\nx\r\n", b"no header\r\n", b": \r\n\r\n"):
        talk.say(HELLO, SENDER, RECIPIENT)
        assert codes(talk.send(b"DATA\r\n" + body + b".\r\n")) == ["354", "250 2.0.0"]
        assert talk.messages[-1] == body
