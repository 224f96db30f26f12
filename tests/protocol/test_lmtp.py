"""LMTP (RFC 2033) on the server: LHLO, and a reply for each recipient at the end of a message."""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import pytest

from smtp_trio.protocol import (
    CONNECTION_LOST,
    END_OF_BODY,
    END_OF_CHUNK,
    NEED_DATA,
    BadCommandError,
    Command,
    CountedCommand,
    Extension,
    Limits,
    LocalProtocolError,
    Rcpt,
    Reply,
    ServerProtocol,
)
from smtp_trio.protocol.commands import Ehlo
from smtp_trio.protocol.events import Event
from smtp_trio.protocol.extensions import (
    KNOWN,
    STANDARD,
    Auth,
    BurlExtension,
    EnhancedStatusCodes,
    Lmtp,
    Pipelining,
    Size,
    StartTls,
    standard,
)
from smtp_trio.protocol.extensions.defaults import with_lmtp
from smtp_trio.protocol.extensions.lmtp import Lhlo
from smtp_trio.protocol.grammar import Grammar
from smtp_trio.protocol.replies import OK

LHLO = "LHLO client.test"
MAIL = "MAIL FROM:<me@client.test>"
DOT = "\r\n."
#: The replies to RCPT or to the message, by the local part of the recipient; for others they are positive.
REFUSED = {"no": Reply(550, "No such user here", "5.1.1")}
OUTCOMES = {"full": Reply(452, "Mailbox full", "4.2.2"), "gone": Reply(550, "Mailbox\nclosed", "5.2.1")}


def rcpt(name: str) -> str:
    return f"RCPT TO:<{name}@mx.test>"


class Lmtpd:
    """An LMTP server. It refuses recipients by `REFUSED`, and messages by `OUTCOMES` or with ``one_reply``."""

    def __init__(self, extensions: Iterable[Extension] = standard(Lmtp()), **settings: Any) -> None:
        self.protocol = ServerProtocol("mx.test", extensions=extensions, **settings)
        self.one_reply: Reply | None = None
        self.chunk_reply = OK
        #: How many messages were received to their end.
        self.messages = 0
        self.greeting = self.feed(b"")

    def begin(self, *recipients: str) -> Lmtpd:
        """Send LHLO, MAIL and RCPT."""
        self.send(LHLO, MAIL, *map(rcpt, recipients))
        return self

    def send(self, *lines: str) -> list[str]:
        """Send lines in one segment; return the code and the enhanced status code of each reply."""
        text = self.feed("".join(f"{line}\r\n" for line in lines).encode())
        return [code.strip() for code in re.findall(r"(?m)^(\d{3} (?:\d\.\d+\.\d+)?)", text)]

    def feed(self, octets: bytes) -> str:
        """Send octets in one segment; return the replies."""
        if octets:
            self.protocol.receive_data(octets)
        while True:
            try:
                event = self.protocol.next_event()
            except BadCommandError as bad:
                self.protocol.send_reply(bad.reply)
                continue
            if event in (NEED_DATA, CONNECTION_LOST):
                return self.protocol.data_to_send().decode()
            self._handle(event)

    def _handle(self, event: Event) -> None:
        protocol = self.protocol
        if event is END_OF_BODY:
            self.messages += 1
            assert protocol.replies_due == len(protocol.state.rcpts)
            each = [OUTCOMES.get(rcpt.recipient.local, OK) for rcpt in protocol.state.rcpts]
            protocol.send_reply(protocol.fault or self.one_reply or each)
        elif event is END_OF_CHUNK:
            assert protocol.replies_due == 1
            protocol.send_reply(self.chunk_reply)
        elif isinstance(event, Command) and not isinstance(event, CountedCommand):
            assert protocol.replies_due == 1
            refusal = REFUSED.get(event.recipient.local) if isinstance(event, Rcpt) else None
            protocol.send_reply(refusal or protocol.default_reply(event))
        assert protocol.replies_due == 0 or protocol.pending is not None


# --- LHLO (RFC 2033 4.1) ---------------------------------------------------------------------------------------------


def test_greeting_and_lhlo() -> None:
    server = Lmtpd()
    assert server.greeting == "220 mx.test LMTP\r\n"
    offered = server.feed(b"LHLO client.test\r\n").splitlines()
    assert offered[0] == "250-mx.test"
    assert {"PIPELINING", "ENHANCEDSTATUSCODES", "8BITMIME"} < {each[4:] for each in offered[1:]}  # RFC 2033 5
    assert server.protocol.state.hello == Lhlo("client.test")


@pytest.mark.parametrize("verb", ["EHLO", "HELO", "ehlo"])
def test_ehlo_and_helo_do_not_exist(verb: str) -> None:
    server = Lmtpd()
    text = server.feed(f"{verb} client.test\r\n".encode())
    assert text == "500 5.5.1 This is an LMTP server; send LHLO\r\n"
    assert server.send(MAIL) == ["503 5.5.1"]
    assert server.send(LHLO, MAIL) == ["250", "250 2.1.0"]
    assert server.send(f"{verb} client.test") == ["500 5.5.1"]
    assert server.protocol.state.mail is not None


@pytest.mark.parametrize(
    ("extension", "refusal"),
    [(Auth(required=True, cleartext=True), "530 5.7.0"), (StartTls(required=True), "530 5.7.0")],
)
def test_lhlo_is_allowed_before_auth_and_tls(extension: Extension, refusal: str) -> None:
    server = Lmtpd(standard(Lmtp(), extension), tls=True, hooks=["auth"])
    assert server.send(MAIL, LHLO, MAIL) == [refusal, "250", refusal]


def test_lhlo_does_not_exist_in_smtp() -> None:
    server = Lmtpd(STANDARD)
    assert server.greeting == "220 mx.test ESMTP\r\n"
    assert server.feed(b"LHLO client.test\r\n") == "500 5.5.1 This is an SMTP server; send EHLO\r\n"


def test_replies_name_lhlo() -> None:
    server = Lmtpd()
    for line in (MAIL, "BDAT 0"):
        assert server.feed(f"{line}\r\n".encode()) == "503 5.5.1 Bad sequence of commands: send LHLO first\r\n"
    assert server.feed(b"LHLO\r\n").startswith("501 ")
    text = server.feed(b"LHLO x.test\r\nHELP\r\n")
    assert "LHLO" in text
    assert "EHLO" not in text
    assert server.feed(b"HELP LHLO\r\n") == "214 2.0.0 Syntax: LHLO domain\r\n"
    assert server.feed(b"HELP EHLO\r\n").startswith("504 ")


def test_lhlo_clears_the_transaction_like_ehlo() -> None:
    server = Lmtpd().begin("a")
    assert server.send(LHLO, rcpt("b"), MAIL, rcpt("c"), "DATA", DOT) == [
        "250", "503 5.5.1", "250 2.1.0", "250 2.1.5", "354", "250 2.0.0"
    ]  # fmt: skip


def test_lhlo_has_the_rows_of_ehlo() -> None:
    """Whatever an extension of this package allows for EHLO is allowed for LHLO."""
    table = Grammar((*KNOWN, Lmtp())).table
    for rows in (table.accepted, table.proceed, table.refused):
        assert rows.get(Lhlo) == rows.get(Ehlo)


def test_required_extensions() -> None:
    with pytest.raises(ValueError, match="LMTP requires ENHANCEDSTATUSCODES, PIPELINING"):
        ServerProtocol(extensions=[Lmtp()])
    size, pipelining = Size(), Pipelining()
    assert [type(each) for each in with_lmtp((size, pipelining))] == [Lmtp, Pipelining, EnhancedStatusCodes, Size]
    assert {size, pipelining} < set(with_lmtp((size, pipelining)))
    assert Lmtpd(with_lmtp(())).send(LHLO) == ["250"]


# --- the end of a message (RFC 2033 4.2, 4.3) ------------------------------------------------------------------------


#: The example of RFC 2033 4.2. Its server does not send enhanced status codes, although section 5 requires them.
EXAMPLE = """\
S: 220 foo.edu LMTP server ready
C: LHLO foo.edu
S: 250-foo.edu
S: 250-PIPELINING
S: 250 SIZE
C: MAIL FROM:<chris@bar.com>
S: 250 OK
C: RCPT TO:<pat@foo.edu>
S: 250 OK
C: RCPT TO:<jones@foo.edu>
S: 550 No such user here
C: RCPT TO:<green@foo.edu>
S: 250 OK
C: DATA
S: 354 Start mail input; end with <CRLF>.<CRLF>
C: Blah blah blah...
C: ...etc. etc. etc.
C: .
S: 250 OK
S: 452 <green@foo.edu> is temporarily over quota
C: QUIT
S: 221 foo.edu closing connection
"""


def test_example_of_rfc_2033(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(REFUSED, "jones", Reply(550, "No such user here"))
    monkeypatch.setitem(OUTCOMES, "green", Reply(452, "<green@foo.edu> is temporarily over quota"))
    server = Lmtpd(with_lmtp((Size(),)), size=0)
    sent = [server.greeting]
    turns = re.findall(r"((?:C: .*\n)+)((?:S: .*\n)+)", EXAMPLE)
    for lines, _ in turns:
        sent.append(server.feed(lines.replace("C: ", "").replace("\n", "\r\n").encode()))
    expected = [EXAMPLE.splitlines()[0] + "\n", *(lines for _, lines in turns)]
    assert [re.findall(r"(?m)^\d{3}.", text) for text in sent[2:]] == [
        re.findall(r"(?m)(?<=^S: )\d{3}.", text) for text in expected[2:]
    ]
    assert sent[1] == "250-mx.test\r\n250-PIPELINING\r\n250-ENHANCEDSTATUSCODES\r\n250 SIZE 0\r\n"
    assert sent[7] == "250 2.0.0 Ok\r\n452 4.3.1 <green@foo.edu> is temporarily over quota\r\n"
    assert server.messages == 1


def test_one_reply_for_each_accepted_recipient_in_order() -> None:
    """Also for a recipient that was given twice, and a multi-line reply is one reply (RFC 2033 4.2)."""
    server = Lmtpd().begin("a", "no", "full", "a", "gone", "full")
    assert server.send("DATA") == ["354"]
    assert server.feed(b"hello\r\n.\r\n").splitlines() == [
        "250 2.0.0 Ok",
        "452 4.2.2 Mailbox full",
        "250 2.0.0 Ok",
        "550-5.2.1 Mailbox",
        "550 5.2.1 closed",
        "452 4.2.2 Mailbox full",
    ]
    assert server.protocol.state.mail is None
    assert server.send(MAIL, rcpt("gone"), "DATA", DOT) == ["250 2.1.0", "250 2.1.5", "354", "550 5.2.1"]


def test_bdat_last() -> None:
    server = Lmtpd().begin("a", "no", "full")
    assert server.send("BDAT 3\r\nabcBDAT 2\r\ndeBDAT 1 LAST\r\nfNOOP") == ["250 2.0.0"] * 3 + [
        "452 4.2.2",
        "250 2.0.0",
    ]
    assert server.send(MAIL, rcpt("full"), "BDAT 2 LAST\r\n") == ["250 2.1.0", "250 2.1.5", "452 4.2.2"]


@pytest.mark.parametrize("reply", [Reply(250, "Ok", "2.1.5"), Reply(451, "No", "4.4.4"), Reply(554, "No", "5.7.1")])
def test_one_reply_is_for_each_recipient(reply: Reply) -> None:
    server = Lmtpd().begin("a", "b", "a")
    server.one_reply = reply
    assert server.send("DATA", "hello", ".", "NOOP") == ["354", *[f"{reply.code} {reply.status}"] * 3, "250 2.0.0"]


def test_fault_is_for_each_recipient() -> None:
    server = Lmtpd(size=10).begin("a", "full")
    assert server.send("DATA", "x" * 20, ".") == ["354", "552 5.3.4", "552 5.3.4"]
    assert server.send(MAIL, rcpt("a"), rcpt("b"), "BDAT 20 LAST\r\n" + "x" * 18) == [
        "250 2.1.0", "250 2.1.5", "250 2.1.5", "552 5.3.4", "552 5.3.4"
    ]  # fmt: skip
    # too large to be read
    assert server.send(MAIL, rcpt("a"), rcpt("b"), "BDAT 200 LAST")[3:] == ["552 5.3.4", "552 5.3.4"]
    assert server.protocol.closed


@pytest.mark.parametrize(("argument", "count"), [("x LAST", 2), ("x LAST y last", 2), ("x", 1), ("x LAST y", 1)])
@pytest.mark.parametrize("recipients", [("a", "b"), ()], ids=["two", "none"])
def test_invalid_end_of_a_message_has_the_replies_of_one(
    argument: str, count: int, recipients: tuple[str, ...]
) -> None:
    """A client that pipelines counts one for each recipient, whatever is wrong with the command."""
    server = Lmtpd(standard(Lmtp(), BurlExtension(authenticated=False)), hooks=["burl"]).begin(*recipients)
    if count > 1:
        count = len(recipients)
    assert server.send(f"BURL {argument}", "NOOP") == ["501 5.5.4"] * count + ["250 2.0.0"]
    # An invalid BDAT ends the session, which does not happen without a reply.
    assert server.send(f"BDAT {argument}") == ["501 5.5.4"] * max(count, 1)
    assert server.protocol.closed


def test_421_is_sent_for_each_recipient_before_the_end() -> None:
    server = Lmtpd().begin("a", "b")
    server.one_reply = Reply(421, "Going down", "4.3.2")
    server.send("DATA")
    assert server.feed(b".\r\n") == "421 4.3.2 mx.test Going down\r\n" * 2
    assert server.protocol.closed


@pytest.mark.parametrize("recipients", [(), ("no",), ("no", "no")])
def test_message_without_accepted_recipient(recipients: tuple[str, ...]) -> None:
    """DATA gets 503 (RFC 2033 4.2). BDAT LAST has no reply, as there is no recipient that it could be for (4.3)."""
    server = Lmtpd().begin(*recipients)
    assert server.send("DATA") == ["503 5.5.1"]
    assert server.send("BDAT 3\r\nabcNOOP") == ["503 5.5.1", "250 2.0.0"]
    assert server.send("BDAT 3 LAST\r\nabcNOOP") == ["250 2.0.0"]
    assert server.messages == 0
    assert server.send("RSET", MAIL, rcpt("a"), "DATA") == ["250 2.0.0", "250 2.1.0", "250 2.1.5", "354"]


def test_bdat_last_without_recipients_is_an_error() -> None:
    """A client cannot send it for ever without a reply."""
    server = Lmtpd(limits=Limits(errors=5)).begin()
    text = server.feed(b"BDAT 1 LAST\r\nx" * 9)
    assert text == "421 4.7.0 mx.test Too many errors; closing the connection\r\n"
    assert server.protocol.closed


def test_bdat_last_after_a_refused_chunk() -> None:
    """It has a reply for each recipient all the same, so that a client that pipelines counts right."""
    server = Lmtpd().begin("a", "b")
    server.chunk_reply = Reply(452, "Disk full", "4.3.1")
    assert server.send("BDAT 1\r\nxBDAT 1\r\nxBDAT 1 LAST\r\nxRSET", MAIL) == [
        "452 4.3.1", "503 5.5.1", "503 5.5.1", "503 5.5.1", "250 2.0.0", "250 2.1.0"
    ]  # fmt: skip


def test_accepted_message_begins_the_counts_anew() -> None:
    """A message that was accepted for one recipient is accepted."""
    server = Lmtpd(limits=Limits(errors=3)).begin()
    for _ in range(4):
        assert server.send("XXXX", "RSET", MAIL, rcpt("full"), rcpt("a"), "DATA", DOT)[-2:] == [
            "452 4.2.2",
            "250 2.0.0",
        ]
    assert server.messages == 4


def test_status_of_replies_without_one() -> None:
    server = Lmtpd().begin("a", "b")
    server.protocol.receive_data(b"DATA\r\n")
    server._handle(server.protocol.next_event())
    server.protocol.receive_data(b".\r\n")
    assert server.protocol.next_event() is END_OF_BODY
    server.protocol.data_to_send()
    server.protocol.send_reply((Reply(552, "No"), Reply(250, "Yes")))
    assert server.protocol.data_to_send() == b"552 5.3.4 No\r\n250 2.0.0 Yes\r\n"


def at_end(extensions: Iterable[Extension], *recipients: str) -> ServerProtocol:
    """Return a server that has to answer a message."""
    server = Lmtpd(extensions)
    server.send(LHLO, "EHLO client.test", MAIL, *map(rcpt, recipients), "DATA")
    server.protocol.receive_data(b".\r\n")
    assert server.protocol.next_event() is END_OF_BODY
    return server.protocol


@pytest.mark.parametrize(
    ("replies", "reason"),
    [
        ([OK], "expected 2 replies, one for each recipient, got 1"), ([OK] * 3, "expected 2 replies"), ([], "expected 2"),
        ([OK, Reply(421, "Bye")], "421 ends the session"),
    ],
)  # fmt: skip
def test_wrong_replies(replies: list[Reply], reason: str) -> None:
    protocol = at_end(standard(Lmtp()), "a", "b")
    with pytest.raises(LocalProtocolError, match=reason):
        protocol.send_reply(replies)
    assert protocol.data_to_send() == b""
    protocol.send_reply([OK, OK])
    assert protocol.data_to_send() == b"250 2.0.0 Ok\r\n" * 2


def test_several_replies_in_smtp() -> None:
    protocol = at_end(STANDARD, "a", "b")
    assert protocol.replies_due == 1
    for replies in ([OK, OK], [OK]):
        with pytest.raises(LocalProtocolError, match="several replies are for the end of a message in LMTP"):
            protocol.send_reply(replies)
    protocol.send_reply(OK)
    assert protocol.data_to_send() == b"250 2.0.0 Ok\r\n"


@pytest.mark.parametrize("line", [b"NOOP", b"DATA", b"BDAT 0", b"EHLO client.test"])
def test_several_replies_to_another_command(line: bytes) -> None:
    protocol = Lmtpd().begin("a").protocol
    protocol.receive_data(line + b"\r\n")
    with suppress(BadCommandError):
        if isinstance(protocol.next_event(), CountedCommand):
            assert protocol.next_event() is END_OF_CHUNK
    with pytest.raises(LocalProtocolError, match="several replies are for the end of a message in LMTP"):
        protocol.send_reply([Reply(500, "No")])


def test_replies_due_to_nothing() -> None:
    protocol = Lmtpd().begin("a").protocol
    assert protocol.replies_due == 0
    with pytest.raises(LocalProtocolError):
        protocol.send_reply([])


def test_fault_cannot_be_accepted_for_one_of_the_recipients() -> None:
    server = Lmtpd(size=1).begin("a", "b")
    server.send("DATA")
    server.protocol.receive_data(b"hello\r\n.\r\n")
    while server.protocol.next_event() is not END_OF_BODY:
        pass
    with pytest.raises(LocalProtocolError, match="the message cannot be accepted"):
        server.protocol.send_reply([Reply(552, "No"), OK])
    server.protocol.send_reply([Reply(552, "No"), Reply(452, "No")])
    assert server.protocol.data_to_send() == b"552 5.3.4 No\r\n452 4.3.1 No\r\n"


# --- replies before the others are known (RFC 2033 5) ----------------------------------------------------------------


def bodies_end(*recipients: str, **settings: Any) -> ServerProtocol:
    """Return a server that has to answer a message for these recipients, and has sent all that it had to."""
    protocol = Lmtpd(**settings).begin(*recipients).protocol
    protocol.receive_data(b"BDAT 3 LAST\r\nabc")
    while protocol.next_event() is not END_OF_BODY:
        pass
    assert protocol.data_to_send() == b""
    return protocol


NO = Reply(550, "No", "5.1.1")


@pytest.mark.parametrize("rest", [[NO, OK], (OK, OK), OK, NO], ids=range(4))
@pytest.mark.parametrize("first", [OK, NO, Reply(552, "No")])
def test_reply_for_the_next_recipient(first: Reply, rest: Reply | list[Reply]) -> None:
    protocol = bodies_end("a", "b", "c")
    protocol.send_recipient_reply(first)
    assert protocol.data_to_send().startswith(b"%d %s" % (first.code, (first.status or "5.3.4").encode()))
    assert protocol.replies_due == 2
    assert protocol.state.mail is not None
    protocol.send_reply(rest)
    expected = [rest] * 2 if isinstance(rest, Reply) else rest
    assert re.findall(r"(?m)^\d{3}", protocol.data_to_send().decode()) == [str(each.code) for each in expected]
    assert protocol.state.mail is None
    assert protocol.replies_due == 0
    # the next message has all its replies
    assert bodies_end("a", "b").replies_due == 2


def test_all_replies_but_the_last_one() -> None:
    server = Lmtpd(limits=Limits(errors=3)).begin()
    for _ in range(4):  # a message that was accepted for one recipient is accepted
        assert server.send("XXXX", "RSET", MAIL, rcpt("a"), rcpt("b"), rcpt("a"), "DATA")[-1] == "354"
        server.protocol.receive_data(b".\r\n")
        assert server.protocol.next_event() is END_OF_BODY
        server.protocol.send_recipient_reply(OK)
        server.protocol.send_recipient_reply(NO)
        with pytest.raises(LocalProtocolError, match="several"):
            server.protocol.send_recipient_reply(NO)
        server.protocol.send_reply([NO])
        assert server.protocol.data_to_send() == b"250 2.0.0 Ok\r\n" + b"550 5.1.1 No\r\n" * 2


@pytest.mark.parametrize("reply", [Reply(421, "Bye", "4.3.2"), Reply(451, "Later", "4.3.0")])
def test_end_after_some_replies(reply: Reply) -> None:
    protocol = bodies_end("a", "b", "c")
    protocol.send_recipient_reply(OK)
    protocol.send_reply(reply)
    text = protocol.data_to_send().decode()
    assert re.findall(r"(?m)^\d{3} \S+", text) == ["250 2.0.0", *[f"{reply.code} {reply.status}"] * 2]
    assert protocol.closed is (reply.code == 421)


def test_session_that_is_closed_after_some_replies() -> None:
    protocol = bodies_end("a", "b", "c")
    protocol.send_recipient_reply(OK)
    protocol.close(Reply(421, "Stopping", "4.3.2"))
    assert protocol.data_to_send().count(b"\r\n") == 2
    assert protocol.replies_due == 0


@pytest.mark.parametrize(
    ("recipients", "reply", "settings", "reason"),
    [
        (("a",), OK, {}, "that has several"), (("a", "b"), Reply(421, "Bye"), {}, "421 ends the session"),
        (("a", "b"), OK, {"size": 1}, "the message cannot be accepted"), (("a", "b"), OK, {"extensions": STANDARD}, "several"),
    ],
    ids=range(4),
)  # fmt: skip
def test_wrong_reply_for_a_recipient(recipients: tuple[str, ...], reply: Reply, settings: Any, reason: str) -> None:
    server = Lmtpd(**settings)
    server.send(LHLO, "EHLO client.test", MAIL, *map(rcpt, recipients))
    server.protocol.receive_data(b"BDAT 3 LAST\r\nabc")
    while server.protocol.next_event() is not END_OF_BODY:
        pass
    with pytest.raises(LocalProtocolError, match=reason):
        server.protocol.send_recipient_reply(reply)
    server.protocol.send_reply(NO)
    assert server.protocol.data_to_send() == b"550 5.1.1 No\r\n" * (1 if "extensions" in settings else len(recipients))


def test_reply_for_a_recipient_before_the_end_of_the_message() -> None:
    protocol = Lmtpd().begin("a", "b").protocol
    with pytest.raises(LocalProtocolError):
        protocol.send_recipient_reply(OK)
    protocol.receive_data(b"BDAT 3 LAST\r\nabc")
    protocol.next_event()
    with pytest.raises(LocalProtocolError, match="must be read"):
        protocol.send_recipient_reply(OK)
