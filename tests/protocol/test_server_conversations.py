"""Conversations with a `ServerProtocol` in which other servers have made mistakes."""

from __future__ import annotations

from typing import Any

import pytest

from smtp_trio.protocol import EndOfData, Reply

from .driver import HELLO, RECIPIENT, SENDER, ServerDriver, codes


def with_recipient(**settings: Any) -> ServerDriver:
    return ServerDriver(**settings).begin(SENDER, RECIPIENT)


def test_commands_do_not_depend_on_segments() -> None:
    octets = f"{HELLO}\r\n{SENDER}\r\n{RECIPIENT}\r\nDATA\r\nx\r\n.\r\nQUIT\r\n".encode()
    merged = codes(ServerDriver().send(octets))
    assert merged == ["220", "250", "250 2.1.0", "250 2.1.5", "354", "250 2.0.0", "221 2.0.0"]
    split = ServerDriver()
    assert codes([reply for octet in octets for reply in split.send(bytes([octet]))]) == merged


@pytest.mark.parametrize("tail", [b".", b" . ", b"\r\n . ", b"\n.\n", b"\r\n.x", b"x.\r\n", b"\r\n\t.", b"  \r\n  "])
def test_data_ends_at_crlf_dot_crlf_and_keeps_all_spaces(tail: bytes) -> None:
    body = b"  leading and trailing  " + tail + b"\r\n"
    driver = with_recipient(newlines="preserve")
    assert codes(driver.send(b"DATA\r\n")) == ["354"]
    for octet in body:
        assert driver.send(bytes([octet])) == []
    assert codes(driver.send(b".\r\n")) == ["250 2.0.0"]
    assert driver.messages == [body.replace(b"\r\n.x", b"\r\nx")]


def test_rest_of_a_message_that_is_too_big_is_not_read_as_commands() -> None:
    driver = with_recipient(size=20)
    smuggled = b"MAIL FROM:<evil@x>\r\nRCPT TO:<you@mx.test>\r\nDATA\r\nQUIT\r\n"
    assert codes(driver.send(b"DATA\r\n" + b"x" * 30 + b"\r\n" + smuggled + b".\r\n")) == ["354", "552 5.3.4"]
    assert codes(driver.send_lines("NOOP", "DATA")) == ["250 2.0.0", "503 5.5.1"]


def test_end_of_a_message_clears_the_transaction() -> None:
    driver = with_recipient()
    assert codes(driver.send_lines("DATA", "x", ".", "DATA", RECIPIENT)) == [
        "354",
        "250 2.0.0",
        "503 5.5.1",
        "503 5.5.1",
    ]


def test_mail_in_a_transaction_is_refused() -> None:
    assert codes(with_recipient().send_lines(SENDER)) == ["503 5.5.1"]


def test_rset_keeps_the_ehlo() -> None:
    assert codes(with_recipient().send_lines("RSET", f"{SENDER} SIZE=5")) == ["250 2.0.0", "250 2.1.0"]


def test_vrfy_before_ehlo() -> None:
    assert codes(ServerDriver().send_lines("VRFY someone")) == ["220", "252 2.5.0"]


def test_malformed_path_and_unknown_parameter_of_mail() -> None:
    driver = ServerDriver().begin()
    lines = ("MAIL junk from:<a> X=<b>", "MAIL FROM:<a> X=<b>", "MAIL FROM:<a@b> X=1", "MAIL FROM:<a@b> X=<b>")
    assert codes(driver.send_lines(*lines)) == ["501 5.5.4", "501 5.1.7", "555 5.5.4", "555 5.5.4"]


def test_refused_message_does_not_affect_the_next_one() -> None:
    failing = with_recipient(
        answer=lambda command: Reply(451, "Later", "4.3.0") if isinstance(command, EndOfData) else None
    )
    assert codes(failing.send_lines("DATA", "one", ".")) == ["354", "451 4.3.0"]
    state = failing.protocol.state
    assert (state.mail, state.rcpts, failing.protocol.inspector, failing.protocol.fault) == (None, [], None, None)
    bare = with_recipient()
    assert codes(bare.send(b"DATA\r\na\nb\r\n.\r\n")) == ["354", "550 5.5.2"]
    assert codes(bare.send_lines(SENDER, RECIPIENT, "DATA", "two", ".")) == [
        "250 2.1.0",
        "250 2.1.5",
        "354",
        "250 2.0.0",
    ]
    assert bare.messages == [b"two\r\n"]
