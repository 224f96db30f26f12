"""`ClientProtocol`: commands, replies, and protocol errors of the server."""

from __future__ import annotations

import enum
import itertools
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, strategies as st

from smtp_trio.protocol import (
    CONNECTION_LOST,
    NEED_DATA,
    AnsweredCommand,
    ClientProtocol,
    Command,
    Connect,
    Data,
    Ehlo,
    EndOfData,
    Expn,
    Helo,
    Help,
    LocalProtocolError,
    Mail,
    NotOfferedError,
    Params,
    Path,
    Phase,
    Quit,
    Rcpt,
    RemoteProtocolError,
    Reply,
    ReplyError,
    Rset,
    Signal,
    Vrfy,
)
from smtp_trio.protocol.client import SessionEndedError
from smtp_trio.protocol.commands import Noop
from smtp_trio.protocol.dialogue import CLOSED, GREETED, MESSAGE as MESSAGE_PHASE, READY, RECIPIENT, REJECTED, SENDER
from smtp_trio.protocol.extensions import KNOWN, Auth, EnhancedStatusCodes, Pipelining, Size
from smtp_trio.protocol.extensions.auth import AUTH, AuthCommand, AuthResponse
from smtp_trio.protocol.extensions.chunking import CHUNK_REFUSED, CHUNKS, Bdat, BdatLast
from smtp_trio.protocol.extensions.dsn import ENVID, NOTIFY, ORCPT, RET
from smtp_trio.protocol.extensions.eightbitmime import BODY
from smtp_trio.protocol.extensions.lmtp import Lhlo, Lmtp
from smtp_trio.protocol.extensions.size import SIZE
from smtp_trio.protocol.extensions.smtputf8 import SMTPUTF8
from smtp_trio.protocol.extensions.starttls import HANDSHAKE, StartTlsCommand
from smtp_trio.protocol.grammar import Grammar
from smtp_trio.protocol.reply_parser import MAX_LINE_OCTETS, MAX_LINES
from smtp_trio.protocol.session_state import SessionState

A, B = Path("a@b", "a", "b"), Path("c@d", "c", "d")
UTF8 = Path("\u00e9@b", "\u00e9", "b")
END = EndOfData()
EVERYTHING = (
    "PIPELINING", "SIZE 1000", "8BITMIME", "SMTPUTF8", "ENHANCEDSTATUSCODES", "STARTTLS", "AUTH PLAIN", "CHUNKING", "BINARYMIME",
    "DSN",
)  # fmt: skip

Event = AnsweredCommand | Signal


def receive(client: ClientProtocol, octets: bytes) -> list[tuple[Command | None, int]]:
    """Receive octets from the server; return the answered commands and the codes."""
    client.receive_data(octets)
    answers = []
    while isinstance(event := client.next_event(), AnsweredCommand):
        answers.append((event.command, event.reply.code))
    assert event is (CONNECTION_LOST if client.closed else NEED_DATA)
    return answers


def ehlo(*lines: str) -> bytes:
    """Return the reply to EHLO of a server that offers these extensions."""
    first, *others = reversed(("mx.test", *lines))
    return "".join([*(f"250-{line}\r\n" for line in reversed(others)), f"250 {first}\r\n"]).encode()


def greeted() -> ClientProtocol:
    client = ClientProtocol()
    assert receive(client, b"220 mx.test\r\n") == [(Connect(), 220)]
    return client


def ready(*lines: str) -> ClientProtocol:
    """Return a client of a server that offers these extensions, after EHLO."""
    client = greeted()
    client.send_command(Ehlo("x"))
    assert receive(client, ehlo(*lines)) == [(Ehlo("x"), 250)]
    client.data_to_send()
    return client


def accepted(client: ClientProtocol, *commands: Command) -> ClientProtocol:
    """Send these commands, each answered with 250; return the client."""
    for command in commands:
        client.send_command(command)
        receive(client, b"250 Ok\r\n")
    client.data_to_send()
    return client


def sent(client: ClientProtocol, *commands: Command) -> ClientProtocol:
    """Send these commands without waiting for replies; return the client."""
    for command in commands:
        client.send_command(command)
    client.data_to_send()
    return client


def unusable(client: ClientProtocol) -> bool:
    """Return whether the connection cannot be used any more."""
    client.receive_data(b"250 Ok\r\n250 Ok\r\n")
    for command in (Noop(), Quit(), Ehlo("x"), Mail(A)):
        with pytest.raises(LocalProtocolError):
            client.send_command(command)
    return client.closed and client.next_event() is CONNECTION_LOST and client.dialogue.phase is CLOSED


def assert_protocol_error(client: ClientProtocol, octets: bytes, match: str) -> None:
    """Receive octets that must raise RemoteProtocolError and close the connection."""
    client.receive_data(octets)
    with pytest.raises(RemoteProtocolError, match=match):
        while isinstance(client.next_event(), AnsweredCommand):
            pass
    assert unusable(client)


def phase_of(client: ClientProtocol) -> enum.Enum:
    return client.dialogue.phase


# --- replies and commands -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "phase"), [(299, SENDER), (200, SENDER), (466, READY), (499, READY), (599, READY), (500, READY)]
)
def test_first_digit_of_unknown_code_decides(code: int, phase: Phase) -> None:
    client = sent(ready(), Mail(A))
    assert receive(client, b"%d Hm\r\n" % code) == [(Mail(A), code)]
    assert client.dialogue.phase is phase
    assert client.in_sync


@pytest.mark.parametrize("octets", [b"150 Wait\r\n", b"600 No\r\n", b"Ok\r\n", b"\x00\r\n", b"\r\n", b"SSH-2.0-x\r\n"])
def test_invalid_reply_closes_the_connection(octets: bytes) -> None:
    assert_protocol_error(sent(ready(), Mail(A)), octets, "invalid SMTP reply")
    assert_protocol_error(ClientProtocol(), octets, "invalid SMTP reply")


@pytest.mark.parametrize("octets", [b"250\r\n", b"250 \r\n"])
def test_reply_without_text(octets: bytes) -> None:
    client = sent(ready(), Mail(A))
    client.receive_data(octets)
    assert client.next_event() == AnsweredCommand(Mail(A), Reply(250, "", ""))


def test_ehlo_reply_without_text() -> None:
    client = greeted()
    client.send_command(Ehlo("x"))
    receive(client, b"250\r\n")
    assert (client.dialogue.phase, client.offered, client.capabilities) == (READY, {}, {})


@pytest.mark.parametrize(
    ("octets", "match"),
    [
        (b"250-Ok\r\n550 No\r\n", "expected 250 on every line"),
        (b"250-Ok\r\n" * MAX_LINES, f"more than {MAX_LINES} lines"),
        (b"250 " + b"x" * 8192 + b"\r\n", f"longer than {MAX_LINE_OCTETS} octets"),
        (b"250 " + b"x" * 8192, f"longer than {MAX_LINE_OCTETS} octets"),
    ],
)
def test_reply_limits(octets: bytes, match: str) -> None:
    assert_protocol_error(sent(ready(), Mail(A)), octets, match)


def test_rejecting_greeting_allows_only_quit() -> None:
    """RFC 5321 3.1."""
    client = ClientProtocol()
    assert receive(client, b"554 No SMTP here\r\n") == [(Connect(), 554)]
    assert client.dialogue.phase is REJECTED
    with pytest.raises(LocalProtocolError):
        client.send_command(Ehlo("x"))
    client.send_command(Quit())
    assert receive(client, b"221 Bye\r\n") == [(Quit(), 221)]
    assert client.closed


def test_421_answers_the_command_and_closes() -> None:
    client = sent(ready(), Mail(A))
    assert receive(client, b"421 Leaving\r\n") == [(Mail(A), 421)]
    assert unusable(client)


def test_421_within_a_group() -> None:
    client = sent(ready(*EVERYTHING), Mail(A), Rcpt(A), Rcpt(B), Data())
    assert receive(client, b"250 Ok\r\n421 Leaving\r\n354 Go on\r\n") == [(Mail(A), 250), (Rcpt(A), 421)]
    assert unusable(client)


def test_421_without_a_command() -> None:
    client = ready()
    assert receive(client, b"421 Idle for too long\r\n") == [(None, 421)]
    assert unusable(client)


def test_221_without_quit_ends_the_session() -> None:
    """RFC 5321 4.2.3: the server is closing the connection. It has not accepted the command."""
    client = sent(ready(*EVERYTHING), Mail(A), Rcpt(A), Quit())
    client.receive_data(b"221 Idle for too long\r\n")
    with pytest.raises(SessionEndedError, match="unexpected reply to MAIL: 221 Idle for too long") as caught:
        client.next_event()
    assert caught.value.reply == Reply(221, "Idle for too long", "")
    assert unusable(client)


def test_221_without_a_command() -> None:
    client = ready()
    client.receive_data(b"221-Bye\r\n221 Idle for too long\r\n")
    with pytest.raises(SessionEndedError, match="no reply was expected, got 221"):
        client.next_event()
    assert unusable(client)


def test_421_greeting() -> None:
    client = ClientProtocol()
    assert receive(client, b"421 Too busy\r\n") == [(Connect(), 421)]
    assert unusable(client)


def test_421_during_a_message() -> None:
    client = sent(accepted(ready(), Mail(A), Rcpt(A)), Data())
    receive(client, b"354 Go on\r\n")
    client.send_body(b"half a")
    assert receive(client, b"421 Leaving\r\n") == [(END, 421)]
    assert unusable(client)


@pytest.mark.parametrize("code", [220, 250, 354, 450, 550])
def test_unexpected_reply_is_a_protocol_error(code: int) -> None:
    assert_protocol_error(ready(), b"%d Here\r\n" % code, "no reply was expected")


def test_end_of_input_within_a_reply() -> None:
    client = sent(ready(), Mail(A))
    client.receive_data(b"250 O")
    client.receive_data(b"")
    assert client.next_event() is CONNECTION_LOST
    assert not client.closed  # what it means depends on the command, which the caller knows
    assert client.awaiting_reply == Mail(A)


def test_reply_before_end_of_input_is_returned() -> None:
    client = sent(ready(), Mail(A))
    client.receive_data(b"250 Ok\r\n")
    client.receive_data(b"")
    assert client.next_event() == AnsweredCommand(Mail(A), Reply(250, "Ok", ""))
    assert client.next_event() is CONNECTION_LOST


@pytest.mark.parametrize("code", [250, 200, 220])
def test_message_is_not_sent_without_354(code: int) -> None:
    client = sent(accepted(ready(), Mail(A), Rcpt(A)), Data())
    assert_protocol_error(client, b"%d Ok\r\n" % code, "unexpected reply to DATA")
    with pytest.raises(LocalProtocolError):
        client.send_body(b"secret\r\n")
    with pytest.raises(LocalProtocolError):
        client.end_body()
    assert not client.data_to_send()


def test_message_after_354_waits_for_the_final_reply() -> None:
    client = sent(accepted(ready(), Mail(A), Rcpt(A)), Data())
    assert receive(client, b"354 Go on\r\n") == [(Data(), 354)]
    client.send_body(b"Subject: x\r\n\r\n.\r\n")
    client.end_body()
    assert client.data_to_send() == b"Subject: x\r\n\r\n..\r\n.\r\n"
    assert (client.awaiting_reply, client.next_event(), client.in_sync) == (END, NEED_DATA, False)


@pytest.mark.parametrize(
    ("commands", "octets"),
    [
        ([], b"354 Go on\r\n"),
        ([Ehlo("x")], b"334 \r\n"),
        ([Ehlo("x"), Mail(A)], b"354 Go on\r\n"),
        ([Ehlo("x"), Rset()], b"300 Hm\r\n"),
        ([Ehlo("x"), Quit()], b"354 Go on\r\n"),
    ],
)
def test_3yz_reply_to_other_commands_is_a_protocol_error(commands: list[Command], octets: bytes) -> None:
    client = greeted() if commands else ClientProtocol()
    for command in commands[:-1]:
        accepted(client, command)
    sent(client, *commands[-1:])
    assert_protocol_error(client, octets, "unexpected reply to [A-Za-z ]+: 3")


@pytest.mark.parametrize("refusal", [b"552 Too much\r\n", b"451 Disk full\r\n"])
def test_refusal_before_the_end_of_the_message_closes(refusal: bytes) -> None:
    """It is the final reply. The connection is closed, since the server would take the rest for commands."""
    client = sent(accepted(ready(), Mail(A), Rcpt(A)), Data())
    receive(client, b"354 Go on\r\n")
    client.send_body(b"half a")
    assert receive(client, refusal) == [(END, int(refusal[:3]))]
    assert unusable(client)


@pytest.mark.parametrize("octets", [b"250 Ok\r\n", b"354 Go on\r\n"])
def test_positive_reply_before_the_end_of_the_message_is_a_protocol_error(octets: bytes) -> None:
    client = sent(accepted(ready(), Mail(A), Rcpt(A)), Data())
    receive(client, b"354 Go on\r\n")
    client.send_body(b"half a")
    assert_protocol_error(client, octets, "no reply was expected")


def commands_with(text: str) -> list[Command]:
    """Return commands with this text in an argument."""
    path = Path(text, text, None)
    return [
        Ehlo(text), Helo(text), Mail(path), Rcpt(path), Vrfy(text), Expn(text), Help(text), AuthCommand(text), AuthResponse(text),
        Mail(A, Params({BODY: text})),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "text", ["a\r\nRSET", "a\rb", "a\nb", "\n", "a\0", "\0", "\x7f", "\x1b[2J", "\t", "a\x85", "\u2028", "x" * 13000]
)
def test_invalid_characters_are_not_sent(text: str) -> None:
    for command in commands_with(text):
        client = ready(*EVERYTHING)
        for known in (Mail(A), Rcpt(A))[: isinstance(command, Rcpt)]:
            accepted(client, known)
        before = client.dialogue.phase
        with pytest.raises(ValueError, match=r"control character|line too long"):
            client.encode_command(command)
        with pytest.raises((ValueError, LocalProtocolError)):
            client.send_command(command)
        assert (client.outbox, client.in_sync, client.dialogue.phase) == ([], True, before)


def test_command_line_limit() -> None:
    """RFC 5321 4.5.3.1.4: 512 octets, increased by parameters that are offered; RFC 4954 4: more for AUTH."""
    client = ready()
    assert len(client.encode_command(Vrfy("x" * 505))) == 512
    with pytest.raises(ValueError, match="must be <= 512 octets, got 513"):
        client.send_command(Vrfy("x" * 506))
    assert not client.data_to_send()
    mail = [Mail(Path("x" * octets, "x", None)) for octets in (524, 525)]
    assert len(ready("SIZE").encode_command(mail[0])) == 512 + SIZE.extra_octets
    with pytest.raises(ValueError, match="must be <= 538 octets, got 539"):
        ready("SIZE").encode_command(mail[1])
    with pytest.raises(ValueError, match="must be <= 512 octets"):
        client.encode_command(mail[0])
    with pytest.raises(ValueError, match="must be <= 12288 octets"):
        ready("AUTH PLAIN").encode_command(AuthResponse("A" * 12287))
    assert len(ready("AUTH PLAIN").encode_command(AuthResponse("A" * 12286))) == 12288


@pytest.mark.parametrize(
    ("lines", "offered", "mechanisms"),
    [
        (["auth plain login"], {"AUTH"}, ("PLAIN", "LOGIN")),
        (["AUTH=PLAIN LOGIN"], {"AUTH"}, ("PLAIN", "LOGIN")),
        (["auth=plain"], {"AUTH"}, ("PLAIN",)),
        (["AUTH="], {"AUTH"}, ()),
        (["AUTH PLAIN LOGIN", "AUTH=LOGIN CRAM-MD5"], {"AUTH"}, ("PLAIN", "LOGIN", "CRAM-MD5")),
        (["AUTH PLAIN", "AUTH PLAIN"], {"AUTH"}, ("PLAIN",)),
        (["Auth  Plain   ", "pipelining  ", "\tX-WHAT-IS-THIS 1 2"], {"AUTH", "PIPELINING"}, ("PLAIN",)),
        (["AUTH PLAIN", "", " "], {"AUTH"}, ("PLAIN",)),
    ],
)
def test_ehlo_keywords(lines: list[str], offered: set[str], mechanisms: tuple[str, ...]) -> None:
    client = ready(*lines)
    assert client.offered.keys() == offered
    auth = client.offered["AUTH"]
    assert isinstance(auth, Auth)
    assert auth.mechanisms == mechanisms


def test_unknown_keywords_are_capabilities() -> None:
    client = ready("X-THING one Two", "SIZE 35882577", "x-thing three one", "LIMITS RCPTMAX=5")
    assert client.capabilities == {
        "X-THING": ("one", "Two", "three"), "SIZE": ("35882577",), "LIMITS": ("RCPTMAX=5",),
    }  # fmt: skip
    assert client.offered.keys() == {"SIZE", "LIMITS"}
    assert client.offered["SIZE"] == Size(35882577)


@pytest.mark.parametrize("line", ["SIZE", "SIZE 0", "SIZE x", "SIZE -5", "SIZE " + "9" * 21])
def test_size_without_a_valid_number(line: str) -> None:
    assert ready(line).offered == {"SIZE": Size(0)}


def test_first_line_of_ehlo_reply_is_not_a_keyword() -> None:
    client = greeted()
    client.send_command(Ehlo("x"))
    receive(client, b"250 STARTTLS\r\n")
    assert client.offered == {}


@pytest.mark.parametrize("hello", [Ehlo("x"), Helo("x")])
def test_second_ehlo_or_helo_replaces_the_offer(hello: Command) -> None:
    client = sent(ready(*EVERYTHING), hello)
    receive(client, ehlo("SIZE 5"))
    assert client.offered == ({"SIZE": Size(5)} if hello == Ehlo("x") else {})
    with pytest.raises(NotOfferedError):
        client.send_command(StartTlsCommand())


def test_refused_ehlo_keeps_the_offer() -> None:
    client = sent(ready("SIZE 5"), Ehlo("x"))
    receive(client, b"451 Not now\r\n")
    assert client.offered == {"SIZE": Size(5)}


def test_auth_keeps_the_offer() -> None:
    """RFC 4954 4: a new EHLO is needed only if a security layer was negotiated, which no mechanism here has."""
    client = sent(ready("AUTH PLAIN", "SIZE 5"), AuthCommand("PLAIN", b""))
    receive(client, b"235 Welcome\r\n")
    assert client.offered.keys() == {"AUTH", "SIZE"}
    assert client.encode_command(Mail(A, Params({SIZE: 5, AUTH: "<>"})))


@pytest.mark.parametrize("again", [(), (Ehlo("x"),)])
def test_no_auth_after_a_successful_auth(again: Sequence[Command]) -> None:
    """RFC 4954 4: "no more AUTH commands may be issued in the same session"."""
    client = sent(ready("AUTH PLAIN"), AuthCommand("PLAIN"))
    receive(client, b"334 \r\n")
    sent(client, AuthResponse("AA=="))
    receive(client, b"535 No\r\n")
    sent(client, AuthCommand("PLAIN", b""))
    receive(client, b"235 Yes\r\n")
    for command in again:
        sent(client, command)
        receive(client, ehlo("AUTH PLAIN"))
    with pytest.raises(LocalProtocolError, match="not allowed after a successful AUTH"):
        client.send_command(AuthCommand("PLAIN"))
    assert not client.data_to_send()


# --- pipelining -----------------------------------------------------------------------------------------------------


def test_replies_are_matched_by_order() -> None:
    """Even if the text of a reply names another command (RFC 2920 3.1)."""
    client = sent(ready(*EVERYTHING), Mail(A), Rcpt(A), Rcpt(B), Data())
    octets = b"250 2.1.5 Recipient <c@d> ok\r\n550 5.1.7 Bad sender\r\n251 2.0.0 RSET done\r\n354 Go on\r\n"
    assert receive(client, octets) == [(Mail(A), 250), (Rcpt(A), 550), (Rcpt(B), 251), (Data(), 354)]
    assert client.dialogue.phase is MESSAGE_PHASE


def test_one_reply_too_many_in_a_group() -> None:
    client = sent(ready(*EVERYTHING), Mail(A), Rcpt(A))
    assert_protocol_error(client, b"250 Ok\r\n250 Ok\r\n250 Ok\r\n", "no reply was expected")


def test_354_without_accepted_recipients() -> None:
    client = sent(ready(*EVERYTHING), Mail(A), Rcpt(A), Data())
    receive(client, b"250 Ok\r\n550 No\r\n354 Go on\r\n")
    client.end_body()
    assert client.data_to_send() == b".\r\n"
    assert receive(client, b"554 No recipients\r\n") == [(END, 554)]
    assert (client.dialogue.phase, client.in_sync) == (READY, True)


def test_554_without_accepted_recipients() -> None:
    client = sent(ready(*EVERYTHING), Mail(A), Rcpt(A), Data())
    receive(client, b"250 Ok\r\n550 No\r\n554 No recipients\r\n")
    assert client.dialogue.phase is SENDER  # so RSET must be sent before the next MAIL
    with pytest.raises(LocalProtocolError):
        client.send_command(Mail(A))
    sent(client, Rset(), Mail(A))


LAST = [Ehlo("x"), Data(), Vrfy("x"), Expn("x"), Quit(), Noop(), Help(), StartTlsCommand(), AuthCommand("PLAIN")]


@pytest.mark.parametrize("last", LAST)
def test_commands_that_end_a_group(last: Command) -> None:
    client = ready(*EVERYTHING)
    if isinstance(last, Data):
        sent(client, Mail(A), Rcpt(A), last)
    else:
        sent(client, Rset(), last)
    for command in (Noop(), Rset(), Quit()):
        with pytest.raises(LocalProtocolError, match=f"must wait for the reply to {last.verb}"):
            client.send_command(command)
    assert not client.data_to_send()


def test_no_group_without_pipelining() -> None:
    client = ready("SIZE")
    client.send_command(Mail(A))
    with pytest.raises(LocalProtocolError, match="does not offer PIPELINING"):
        client.send_command(Rcpt(A))
    assert client.data_to_send() == b"MAIL FROM:<a@b>\r\n"
    receive(client, b"250 Ok\r\n")
    client.send_command(Rcpt(A))


def test_no_command_before_the_greeting() -> None:
    client = ClientProtocol()
    with pytest.raises(LocalProtocolError, match="must wait"):
        client.send_command(Ehlo("x"))


def test_multi_line_replies_in_a_group() -> None:
    client = sent(ready(*EVERYTHING), Mail(A), Rcpt(A), Rcpt(B))
    octets = b"250-2.1.0 Ok\r\n250 2.1.0 really\r\n550-5.1.1 No\r\n550-5.1.1 such\r\n550 5.1.1 user\r\n250 2.1.5 Ok\r\n"
    client.receive_data(octets)
    assert [client.next_event() for _ in range(4)] == [
        AnsweredCommand(Mail(A), Reply(250, "Ok\nreally", "2.1.0")),
        AnsweredCommand(Rcpt(A), Reply(550, "No\nsuch\nuser", "5.1.1")),
        AnsweredCommand(Rcpt(B), Reply(250, "Ok", "2.1.5")),
        NEED_DATA,
    ]


def test_group_is_checked_against_the_expected_phase() -> None:
    client = sent(ready(*EVERYTHING), Mail(A), Rcpt(A))
    with pytest.raises(LocalProtocolError, match="is not allowed after RCPT"):
        client.send_command(Mail(A))
    client.send_command(Rset())
    client.send_command(Mail(A))
    assert client.data_to_send() == b"RSET\r\nMAIL FROM:<a@b>\r\n"
    assert client.transactions_begun == 2


# --- chunking -------------------------------------------------------------------------------------------------------


def test_chunk_has_exactly_the_announced_size() -> None:
    client = accepted(ready("CHUNKING"), Mail(A), Rcpt(A))
    client.send_command(Bdat(5))
    with pytest.raises(LocalProtocolError, match="the server expects 5 octets, got"):
        client.send_body(b"123456")
    client.send_body(b".\r")
    with pytest.raises(LocalProtocolError, match="while a message is being sent"):
        client.send_command(BdatLast(0))
    with pytest.raises(LocalProtocolError, match="the server expects 3 octets, got"):
        client.send_body(b"1234")
    client.send_body(b"")
    client.send_body(b"\n.\n")
    assert client.data_to_send() == b"BDAT 5\r\n.\r\n.\n"
    assert not client.in_sync
    with pytest.raises(LocalProtocolError, match="the server expects 0 octets, got"):
        client.send_body(b"1")
    with pytest.raises(LocalProtocolError, match="no message is being sent"):
        client.end_body()
    assert receive(client, b"250 Ok\r\n") == [(Bdat(5), 250)]
    assert (client.in_sync, client.dialogue.phase) == (True, CHUNKS)
    client.send_command(BdatLast(0))
    assert client.data_to_send() == b"BDAT 0 LAST\r\n"
    assert receive(client, b"250 Ok\r\n") == [(BdatLast(0), 250)]
    assert client.dialogue.phase is READY


def test_incomplete_chunk_is_not_in_sync() -> None:
    client = accepted(ready("CHUNKING"), Mail(A), Rcpt(A))
    client.send_command(BdatLast(5))
    client.data_to_send()
    assert receive(client, b"451 No room\r\n") == [(BdatLast(5), 451)]  # before the chunk is complete
    assert (client.awaiting_reply, client.dialogue.phase, client.in_sync) == (None, READY, False)
    with pytest.raises(LocalProtocolError, match="while a message is being sent"):
        client.send_command(Rset())


def test_bdat_not_offered() -> None:
    client = accepted(ready("PIPELINING"), Mail(A), Rcpt(A))
    for command in (Bdat(0), BdatLast(0)):
        with pytest.raises(NotOfferedError, match="does not offer BDAT"):
            client.send_command(command)
    assert not client.data_to_send()
    client.send_command(Data())


def test_rset_after_a_refused_chunk() -> None:
    client = accepted(ready("CHUNKING"), Mail(A), Rcpt(A))
    client.send_command(Bdat(0))
    receive(client, b"452 No room\r\n")
    assert client.dialogue.phase is CHUNK_REFUSED
    for command in (Bdat(0), BdatLast(0), Data(), Mail(A), Rcpt(A)):
        with pytest.raises(LocalProtocolError, match="after a refused chunk"):
            client.send_command(command)
    accepted(client, Rset(), Mail(A))


@pytest.mark.parametrize(
    ("lines", "offered"),
    [
        (["8BITMIME", "CHUNKING", "BINARYMIME"], True),
        (["8BITMIME", "CHUNKING"], False),
        (["8BITMIME", "BINARYMIME"], False),
        (["BINARYMIME", "CHUNKING"], False),
    ],
)
def test_binarymime_needs_both_extensions(lines: list[str], offered: bool) -> None:
    client, mail = ready(*lines), Mail(A, Params({BODY: "BINARYMIME"}))
    if offered:
        assert client.encode_command(mail) == b"MAIL FROM:<a@b> BODY=BINARYMIME\r\n"
    else:
        with pytest.raises(NotOfferedError):
            client.send_command(mail)
        assert not client.data_to_send()


# --- STARTTLS -------------------------------------------------------------------------------------------------------


def test_tls_forgets_the_offer() -> None:
    client = sent(ready(*EVERYTHING), AuthCommand("PLAIN", b""))
    receive(client, b"235 Welcome\r\n")
    sent(client, StartTlsCommand())
    assert receive(client, b"220 Go ahead\r\n") == [(StartTlsCommand(), 220)]
    assert client.dialogue.phase is HANDSHAKE
    command: Command
    for command in (Ehlo("x"), Noop(), Quit(), Mail(A), StartTlsCommand()):
        with pytest.raises(LocalProtocolError):
            client.send_command(command)
    client.tls_started()
    assert phase_of(client) is GREETED
    assert not client.offered
    assert not client.capabilities
    for command in (StartTlsCommand(), AuthCommand("PLAIN"), Mail(A)):  # not before a new EHLO
        with pytest.raises(LocalProtocolError):
            client.send_command(command)
    sent(client, Ehlo("x"))
    receive(client, ehlo("AUTH PLAIN"))
    with pytest.raises(NotOfferedError):
        client.send_command(StartTlsCommand())
    sent(client, AuthCommand("PLAIN"))  # the user is forgotten too


@pytest.mark.parametrize(
    "octets", [b"220 Go ahead\r\n250 Injected\r\n", b"220 Go ahead\r\n2", b"220 Go ahead\r\n\x16\x03"]
)
def test_octets_before_the_tls_handshake(octets: bytes) -> None:
    assert_protocol_error(
        sent(ready("STARTTLS"), StartTlsCommand()), octets, "between the reply to STARTTLS and the TLS handshake"
    )


@pytest.mark.parametrize("octets", [b"250 Ok\r\n", b"235 Ok\r\n", b"334 \r\n"])
def test_only_220_begins_tls(octets: bytes) -> None:
    assert_protocol_error(
        sent(ready("STARTTLS"), StartTlsCommand()), octets, "expected 220 to STARTTLS|unexpected reply to STARTTLS"
    )


def test_reply_instead_of_the_tls_handshake() -> None:
    client = sent(ready("STARTTLS"), StartTlsCommand())
    receive(client, b"220 Go ahead\r\n")
    assert_protocol_error(client, b"250 Ok\r\n", "no reply was expected")


def test_refused_starttls() -> None:
    client = sent(ready("STARTTLS", "SIZE"), StartTlsCommand())
    assert receive(client, b"454 Not now\r\n") == [(StartTlsCommand(), 454)]
    assert client.dialogue.phase is READY
    assert client.offered.keys() == {"STARTTLS", "SIZE"}


def test_starttls_not_offered() -> None:
    client = ready("SIZE")
    with pytest.raises(NotOfferedError, match="does not offer STARTTLS"):
        client.send_command(StartTlsCommand())
    assert not client.data_to_send()


# --- SMTPUTF8 -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("offered", [("8BITMIME",), ("8BITMIME", "SMTPUTF8")])
def test_utf8_needs_the_parameter(offered: tuple[str, ...]) -> None:
    client = ready(*offered)
    for command in (Mail(UTF8), Vrfy("\u00e9"), Ehlo("\u00e9"), Help("\u00e9")):
        with pytest.raises(ValueError, match="needs SMTPUTF8"):
            client.send_command(command)
    accepted(client, Mail(A))
    with pytest.raises(ValueError, match="needs SMTPUTF8"):
        client.send_command(Rcpt(UTF8))
    assert not client.data_to_send()


def test_smtputf8_not_offered() -> None:
    client = ready("8BITMIME")
    for command in (Mail(UTF8, Params({SMTPUTF8: True})), Vrfy("\u00e9", Params({SMTPUTF8: True}))):
        with pytest.raises(NotOfferedError, match="parameter SMTPUTF8 of"):
            client.send_command(command)
    assert not client.data_to_send()


def test_transaction_with_smtputf8() -> None:
    client, mail = ready("8BITMIME", "SMTPUTF8"), Mail(UTF8, Params({SMTPUTF8: True}))
    assert client.encode_command(Rcpt(UTF8), utf8=True) == "RCPT TO:<\u00e9@b>\r\n".encode()
    client.send_command(mail)
    receive(client, b"250 Ok\r\n")
    client.send_command(Rcpt(UTF8))
    receive(client, b"250 Ok\r\n")
    assert client.data_to_send() == "MAIL FROM:<\u00e9@b> SMTPUTF8\r\nRCPT TO:<\u00e9@b>\r\n".encode()
    with pytest.raises(ValueError, match="needs SMTPUTF8"):  # RFC 6531 3.7.1: A-labels
        client.send_command(Ehlo("\u00e9"))
    accepted(client, Rset(), Mail(A))
    with pytest.raises(ValueError, match="needs SMTPUTF8"):  # only in the transaction that has the parameter
        client.send_command(Rcpt(UTF8))


def test_vrfy_with_smtputf8() -> None:
    """RFC 6531 3.7.4.2."""
    client = ready("8BITMIME", "SMTPUTF8")
    client.send_command(Vrfy("\u00e9", Params({SMTPUTF8: True})))
    assert client.data_to_send() == "VRFY \u00e9 SMTPUTF8\r\n".encode()


# --- parameters -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keyword", "command", "line"),
    [
        ("SIZE", Mail(A, Params({SIZE: 5})), b"MAIL FROM:<a@b> SIZE=5"),
        ("8BITMIME", Mail(A, Params({BODY: "8BITMIME"})), b"MAIL FROM:<a@b> BODY=8BITMIME"),
        ("SMTPUTF8", Mail(A, Params({SMTPUTF8: True})), b"MAIL FROM:<a@b> SMTPUTF8"),
        ("AUTH", Mail(A, Params({AUTH: "<>"})), b"MAIL FROM:<a@b> AUTH=<>"),
        ("DSN", Mail(A, Params({RET: "HDRS", ENVID: "x"})), b"MAIL FROM:<a@b> RET=HDRS ENVID=x"),
        ("DSN", Rcpt(A, Params({NOTIFY: frozenset({"NEVER"})})), b"RCPT TO:<a@b> NOTIFY=NEVER"),
        ("DSN", Rcpt(A, Params({ORCPT: "rfc822;x@y"})), b"RCPT TO:<a@b> ORCPT=rfc822;x@y"),
        ("AUTH", AuthCommand("PLAIN"), b"AUTH PLAIN"),
    ],
)  # fmt: skip
def test_parameters_need_the_offer(keyword: str, command: Command, line: bytes) -> None:
    """RFC 1870 6, RFC 6152 3, RFC 3461 3: never to a server that did not offer them."""
    assert ready(keyword).encode_command(command) == line + b"\r\n"
    client = ready(*(line for line in EVERYTHING if line.split()[0] != keyword))
    client.dialogue.phase = SENDER if isinstance(command, Rcpt) else READY
    with pytest.raises(NotOfferedError):
        client.send_command(command)
    assert (client.outbox, client.in_sync) == ([], True)


def test_parameter_of_another_command() -> None:
    with pytest.raises(NotOfferedError, match="parameter SIZE of RCPT"):
        ready(*EVERYTHING).encode_command(Rcpt(A, Params({SIZE: 5})))


def test_standard_commands_need_no_offer() -> None:
    """EHLO need not list HELP, and a server that does not implement VRFY answers it with 502."""
    for command in (Vrfy("x"), Expn("x"), Help(), Noop(), Rset(), Quit(), Mail(A)):
        sent(ready(), command)


# --- LMTP -----------------------------------------------------------------------------------------------------------


def lmtp() -> ClientProtocol:
    """Return an LMTP client with two accepted recipients."""
    client = ClientProtocol((*KNOWN, Lmtp()))
    receive(client, b"220 lmtp\r\n")
    client.send_command(Lhlo("x"))
    assert client.data_to_send() == b"LHLO x\r\n"
    receive(client, ehlo("PIPELINING", "CHUNKING"))
    return accepted(client, Mail(A), Rcpt(A), Rcpt(B))


def test_lhlo_needs_the_lmtp_extension() -> None:
    with pytest.raises(LocalProtocolError):
        greeted().send_command(Lhlo("x"))
    grammar = Grammar([Pipelining(), EnhancedStatusCodes(), Lmtp()])
    assert grammar.offer(SessionState()).reply.text == "localhost\nPIPELINING\nENHANCEDSTATUSCODES"


def test_lmtp_reply_for_each_recipient() -> None:
    client = sent(lmtp(), Data())
    receive(client, b"354 Go on\r\n")
    client.send_body(b"x\r\n")
    client.end_body(2)
    assert client.data_to_send() == b"x\r\n.\r\n"
    assert receive(client, b"250-Yes\r\n250 really\r\n") == [(END, 250)]
    with pytest.raises(LocalProtocolError, match="must wait for the reply to end of data"):
        client.send_command(Noop())
    assert not client.in_sync
    assert receive(client, b"452 Mailbox full\r\n") == [(END, 452)]
    assert (client.in_sync, client.dialogue.phase) == (True, READY)


def test_lmtp_reply_for_each_recipient_after_bdat() -> None:
    client = sent(lmtp(), BdatLast(0))
    client.expect_replies(1)
    assert receive(client, b"550 No\r\n250 Yes\r\n") == [(BdatLast(0), 550), (BdatLast(0), 250)]
    assert (client.in_sync, client.dialogue.phase) == (True, READY)


def test_lmtp_one_reply_too_many() -> None:
    client = sent(lmtp(), BdatLast(0))
    client.expect_replies(1)
    assert_protocol_error(client, b"250 Yes\r\n" * 3, "no reply was expected")


# --- any input ------------------------------------------------------------------------------------------------------

REPLIES = [
    b"220 Hi\r\n", b"250 Ok\r\n", b"250-Ok\r\n", b"250 2.1.5 Ok\r\n", b"354 Go on\r\n", b"450 No\r\n", b"550-No\r\n", b"550 No\r\n",
    b"421 Bye\r\n", b"250\r\n", ehlo(*EVERYTHING), ehlo("AUTH=X", "SIZE x", "LIMITS RCPTMAX=0"), b"150 x\r\n", b"250 Ok\n", b"\r\n",
    b"299 \xff\r\n", b"250-" + b"x" * MAX_LINE_OCTETS, b"250-\r\n" * MAX_LINES, b"334 \r\n",
    b"235 Yes\r\n", b"221 Bye\r\n", b"\r", b"2", b"250 ",
]  # fmt: skip
COMMANDS: list[Command] = [
    Ehlo("x"), Mail(A), Rcpt(A), Rcpt(B), Data(), Rset(), AuthCommand("PLAIN"), AuthResponse("x"), StartTlsCommand(), BdatLast(0),
    Quit(),
]  # fmt: skip


def run_session(segments: Sequence[bytes]) -> list[Any]:
    """Return the events of a session in which the client always sends the next command that is allowed."""
    client, events = ClientProtocol(), list[Any]()
    remaining = iter(COMMANDS * 3)
    for segment in segments:
        client.receive_data(segment)
        while True:
            try:
                event = client.next_event()
            except RemoteProtocolError as exc:
                events.append(str(exc))
                assert unusable(client)
                return events
            if not isinstance(event, AnsweredCommand):
                assert event is (CONNECTION_LOST if client.closed else NEED_DATA)
                break
            events.append((event, client.dialogue.phase, client.capabilities))
            if client.dialogue.phase is HANDSHAKE:
                client.tls_started()
            elif client.dialogue.phase is MESSAGE_PHASE and not client.dialogue.unanswered:
                client.end_body()
            elif not client.dialogue.unanswered:
                for command in remaining:
                    try:
                        client.send_command(command)
                        break
                    except LocalProtocolError:
                        continue
    return events


octets = st.lists(st.one_of(st.sampled_from(REPLIES), st.binary(max_size=8)), max_size=30).map(b"".join)


@given(octets=octets, cuts=st.lists(st.integers(0, 2000), max_size=12))
def test_events_do_not_depend_on_segments(octets: bytes, cuts: list[int]) -> None:
    edges = [0, *sorted(min(cut, len(octets)) for cut in cuts), len(octets)]
    pieces = [octets[start:end] for start, end in itertools.pairwise(edges)]
    assert run_session([piece for piece in pieces if piece]) == run_session([octets] if octets else [])


@given(segments=st.lists(st.one_of(octets, st.binary(min_size=1, max_size=MAX_LINE_OCTETS)).filter(bool), max_size=20))
def test_buffered_octets_are_bounded(segments: list[bytes]) -> None:
    """Random octets raise nothing but RemoteProtocolError, and at most one incomplete line is buffered."""
    client = ClientProtocol()
    for segment in segments:
        client.receive_data(segment)
        try:
            while isinstance(client.next_event(), AnsweredCommand):
                pass
        except RemoteProtocolError:
            assert unusable(client)
        if client.closed:
            return
        assert len(client._buffer) < MAX_LINE_OCTETS
        assert sum(map(len, client._replies._texts)) < MAX_LINE_OCTETS * MAX_LINES


def test_data_to_send_is_taken_once() -> None:
    client = greeted()
    client.send_command(Ehlo("x"))
    assert (client.in_sync, client.data_to_send(), client.data_to_send()) == (False, b"EHLO x\r\n", b"")
    assert client.awaiting_reply == Ehlo("x")
    receive(client, ehlo())
    assert client.in_sync
    assert not client.dialogue.unanswered


def test_incomplete_reply_is_not_in_sync() -> None:
    client = ready()
    client.receive_data(b"42")
    assert client.next_event() is NEED_DATA
    assert not client.in_sync


def test_message_in_pieces() -> None:
    client = sent(accepted(ready(), Mail(A), Rcpt(A)), Data())
    assert client.dialogue.phase is RECIPIENT
    receive(client, b"354 Go on\r\n")
    for piece in (b"", b".", b"a\r\n", b".b", b""):
        client.send_body(piece)
    with pytest.raises(LocalProtocolError, match="while a message is being sent"):
        client.send_command(Rset())
    client.end_body()
    assert client.data_to_send() == b"..a\r\n..b\r\n.\r\n"
    assert receive(client, b"250 Taken\r\n") == [(END, 250)]


def test_reply_error_names_command_and_reply() -> None:
    refused = ReplyError(Rcpt(A), Reply(550, "No such user", "5.1.1"))
    assert str(refused) == "RCPT was refused: 550 5.1.1 No such user"
    assert (refused.command, refused.reply.permanent) == (Rcpt(A), True)


def test_redacted_commands() -> None:
    assert AuthCommand("PLAIN", b"\0fred\0secret").redacted == AuthCommand("PLAIN")
    assert AuthResponse("AGZyZWQAc2VjcmV0").redacted == AuthResponse("")
    assert ReplyError(AuthCommand("PLAIN", b"\0fred\0secret"), Reply(535, "no")).command == AuthCommand("PLAIN")
    assert Mail(A).redacted == Mail(A)


def test_offers() -> None:
    client = ready("DSN")
    assert client.offers(Mail, RET)
    assert not client.offers(Rcpt, RET)
    assert not ready().offers(Mail, RET)


def test_server_that_has_sent_nothing_unread_is_quiet() -> None:
    protocol = ClientProtocol()
    assert protocol.is_quiet
    protocol.receive_data(b"220 mx.test")
    assert not protocol.is_quiet
    protocol.receive_data(b"\r\n")
    protocol.next_event()
    assert protocol.is_quiet
    protocol.receive_data(b"")
    assert not protocol.is_quiet
