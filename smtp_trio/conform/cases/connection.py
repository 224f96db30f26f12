"""Connections: how they begin, how they end, and what they bear (RFC 5321 3.1, 3.8, 4.2, 4.3)."""

from __future__ import annotations

from .._case import Case, Level, State
from .._steps import Ask, Expect, ExpectAll, ExpectClose, ExpectSilence, Send, SendEof, When
from ._common import MAIL, NOOP, RCPT

CASES = (
    Case(
        id="connection.greeting",
        title="the greeting names the server",
        section="RFC 5321 4.2",
        sentence='Greeting = ( "220 " (Domain / address-literal) [ SP textstring ] CRLF )',
        state=State.CONNECTED,
        steps=(Expect("220", "a greeting with a domain", text=r"\A[A-Za-z0-9\[][A-Za-z0-9.:\]-]*( |$)"),),
    ),
    Case(
        id="connection.esmtp",
        title="the greeting says ESMTP",
        section="RFC 5321 3.1",
        sentence="",
        level=Level.RECOMMENDED,
        state=State.CONNECTED,
        steps=(Expect("220", "a greeting", text=r"\bE?SMTP\b"),),
    ),
    Case(
        id="connection.one-greeting",
        title="after the greeting, the server waits for a command",
        section="RFC 5321 4.2",
        sentence="Every command MUST generate exactly one reply.",
        state=State.GREETED,
        steps=(ExpectSilence(0.3, "nothing was asked"), NOOP),
    ),
    Case(
        id="connection.early",
        title="a client that talks before the greeting gets it all the same, and answers in order, or is sent away",
        section="RFC 5321 4.3.1",
        sentence="",
        level=Level.RECOMMENDED,
        state=State.CONNECTED,
        steps=(
            Send(b"EHLO {name}\r\nQUIT\r\n"),
            Expect("220|4..|5.."),
            When("220", (ExpectAll("(250|5..)( 221)?", "EHLO and QUIT are answered, or refused"),)),
        ),
        quits=False,
    ),
    Case(
        id="connection.octets",
        title="a command may come an octet at a time",
        section="RFC 5321 2.3.8",
        sentence='Lines consist of zero or more data characters terminated by the sequence ASCII character "CR" (hex value 0D) '
        'followed immediately by ASCII character "LF" (hex value 0A).',
        state=State.GREETED,
        steps=(Send(b"EHLO {name}\r\n", chunk=1), Expect("250", to="EHLO"), Send(b"NOOP\r\n", chunk=1), Expect("250")),
    ),
    Case(
        id="connection.unknown-stays",
        title="unknown commands do not end the session",
        section="RFC 5321 3.8",
        sentence="In particular, a server that closes connections in response to commands that are not understood is in "
        "violation of this specification.",
        steps=(Ask(b"XCONFORM", "5.."), Ask(b"FROBNICATE now", "5.."), Ask(b"Z", "5.."), NOOP),
    ),
    Case(
        id="connection.quit",
        title="QUIT is answered with 221, and the connection closed",
        section="RFC 5321 4.1.1.10",
        sentence='This command specifies that the receiver MUST send a "221 OK" reply, and then close the transmission channel.',
        steps=(Ask(b"QUIT", "221"), ExpectClose()),
        quits=False,
    ),
    Case(
        id="connection.quit-first",
        title="QUIT before EHLO",
        section="RFC 5321 4.1.1.10",
        sentence="The QUIT command may be issued at any time.",
        state=State.GREETED,
        steps=(Ask(b"QUIT", "221"), ExpectClose()),
        quits=False,
    ),
    Case(
        id="connection.quit-inside",
        title="QUIT in a transaction",
        section="RFC 5321 4.1.1.10",
        sentence="The QUIT command may be issued at any time. Any current uncompleted mail transaction will be aborted.",
        state=State.RCPT,
        steps=(Ask(b"QUIT", "221"), ExpectClose()),
        quits=False,
    ),
    Case(
        id="connection.after-quit",
        title="what comes after QUIT is not answered",
        section="RFC 5321 4.1.1.10",
        sentence='This command specifies that the receiver MUST send a "221 OK" reply, and then close the transmission channel.',
        steps=(Send(b"QUIT\r\nNOOP\r\nNOOP\r\n"), ExpectAll("221|5..", "221 was the last word")),
        quits=False,
    ),
    Case(
        id="connection.goodbye-name",
        title="221 names the server",
        section="RFC 5321 4.2.2",
        sentence="221 <domain> Service closing transmission channel",
        level=Level.RECOMMENDED,
        steps=(
            Ask(
                b"QUIT", "221", "with the domain", text=r"\A(2\.\d+\.\d+ )?(localhost|[A-Za-z0-9\[][^ ]*[.:][^ ]+)( |$)"
            ),
        ),
        quits=False,
    ),
    Case(
        id="connection.half-closed",
        title="who sends all commands and then the end of file is answered all the same",
        section="RFC 5321 3.8",
        sentence="",
        level=Level.RECOMMENDED,
        needs=("PIPELINING", "no TLS"),
        state=State.GREETED,
        steps=(Send(b"EHLO {name}\r\nQUIT\r\n"), SendEof(), ExpectAll("250 221", "all commands are answered")),
        quits=False,
    ),
    Case(
        id="connection.gone",
        title="a client that vanishes inside a message leaves the server as it was",
        section="RFC 5321 4.1.1.10",
        sentence="If the connection is closed prematurely due to violations of the above or system or network failure, the server "
        "MUST cancel any pending transaction",
        needs=("no TLS",),
        state=State.DATA,
        steps=(Send(b"Subject: unfinished\r\n\r\nhalf a li"), SendEof(), ExpectClose(after="4..|5..")),
        quits=False,
    ),
    Case(
        id="connection.two-transactions",
        title="a session takes several messages",
        section="RFC 5321 3.3",
        sentence="There are three steps to SMTP mail transactions.",
        needs=("MAIL",),
        steps=(MAIL, RCPT, Ask(b"RSET", "250"), MAIL, RCPT, Ask(b"RSET", "250")),
    ),
    Case(
        id="connection.http",
        title="a browser is sent away: a page could make it speak SMTP",
        section="RFC 5321 7.8",
        sentence="",
        level=Level.RECOMMENDED,
        state=State.GREETED,
        steps=(Send(b"POST / HTTP/1.1\r\nHost: mx\r\n\r\n"), ExpectClose(after="221|4..|5..", within=3)),
        quits=False,
    ),
    Case(
        id="connection.tls-hello",
        title="TLS on a port that does not speak it is refused in words, or hung up on",
        section="RFC 5321 4.2.4",
        sentence="",
        level=Level.RECOMMENDED,
        state=State.GREETED,
        steps=(
            Send(b"\x16\x03\x01\x00\x2f\x01\x00\x00\x2b\x03\x03" + b"\x5a" * 32 + b"\x00\x00\x02\x13\x01\x01\x00\r\n"),
            Expect("221|5..", or_close=True),
        ),
        quits=False,
    ),
)
