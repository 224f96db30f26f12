"""EHLO and HELO (RFC 5321 4.1.1.1, 4.1.4)."""

from __future__ import annotations

from .._case import Case, Level, State
from .._steps import Ask, Ehlo, Expect, Send
from ._common import MAIL, OUT_OF_ORDER

KEYWORD = r"[A-Za-z0-9][A-Za-z0-9-]*( [!-~]+)*"


CASES = (
    Case(
        id="ehlo.accepted",
        title="EHLO is answered with 250 and the server's domain",
        section="RFC 5321 4.1.1.1",
        sentence='ehlo-ok-rsp = ( "250" SP Domain [ SP ehlo-greet ] CRLF )',
        state=State.GREETED,
        steps=(Ask(b"EHLO {name}", "250", "with a domain first", text=r"\A[A-Za-z0-9\[][A-Za-z0-9.:\]-]*( |$)"),),
    ),
    Case(
        id="ehlo.keywords",
        title="each line is a keyword with its parameters",
        section="RFC 5321 4.1.1.1",
        sentence="ehlo-line = ehlo-keyword *( SP ehlo-param )",
        state=State.GREETED,
        steps=(Ehlo(each=KEYWORD),),
    ),
    Case(
        id="ehlo.lower",
        title="ehlo in small letters",
        section="RFC 5321 2.4",
        sentence='Verbs and argument values (e.g., "TO:" or "to:" in the RCPT command and extension name keywords) are not '
        "case sensitive",
        state=State.GREETED,
        steps=(Ask(b"ehlo {name}", "250"),),
    ),
    Case(
        id="ehlo.helo",
        title="HELO is answered with 250, and with no list of extensions",
        section="RFC 5321 4.1.1.1",
        sentence="Servers MUST NOT return the extended EHLO-style response to a HELO command.",
        state=State.GREETED,
        steps=(
            Ask(b"HELO {name}", "250|530", "one line, without keywords", text=r"!\n(SIZE|PIPELINING|8BITMIME|HELP)\b"),
        ),
    ),
    Case(
        id="ehlo.helo-name",
        title="the answer to HELO names the server",
        section="RFC 5321 4.3.1",
        sentence="all the greeting-type replies have the official name",
        level=Level.RECOMMENDED,
        needs=("plain route",),
        state=State.GREETED,
        steps=(Ask(b"HELO {name}", "250", "with a domain first", text=r"\A[A-Za-z0-9\[][A-Za-z0-9.:\]-]*( |$)"),),
    ),
    Case(
        id="ehlo.helo-mail",
        title="mail is taken after HELO",
        section="RFC 5321 3.2",
        sentence="",
        level=Level.RECOMMENDED,
        state=State.GREETED,
        needs=("MAIL", "plain route"),
        steps=(Ask(b"HELO {name}", "250"), MAIL),
    ),
    Case(
        id="ehlo.empty",
        title="EHLO without a name is refused",
        section="RFC 5321 4.1.1.1",
        sentence='ehlo = "EHLO" SP ( Domain / address-literal ) CRLF',
        level=Level.SHOULD,
        state=State.GREETED,
        steps=(Ask(b"EHLO", "500|501|502|504|550"),),
    ),
    Case(
        id="ehlo.helo-empty",
        title="HELO without a name is refused",
        section="RFC 5321 4.1.1.1",
        sentence='helo = "HELO" SP Domain CRLF',
        level=Level.SHOULD,
        state=State.GREETED,
        steps=(Ask(b"HELO", "500|501|502|504|530|550"),),
    ),
    Case(
        id="ehlo.failed",
        title="a refused EHLO changes nothing",
        section="RFC 5321 4.1.4",
        sentence="The SMTP server MUST stay in the same state after transmitting these replies that it was in before the EHLO was "
        "received.",
        needs=("MAIL",),
        steps=(Ask(b"EHLO", "500|501|502|503|504|550|250"), MAIL),
    ),
    Case(
        id="ehlo.address",
        title="an IPv4 address for a name",
        section="RFC 5321 4.1.3",
        sentence="For IPv4 addresses, this form uses four small decimal integers separated by dots and enclosed by brackets such "
        "as [123.255.37.2]",
        state=State.GREETED,
        steps=(Ask(b"EHLO [192.0.2.1]", "250"),),
    ),
    Case(
        id="ehlo.address-v6",
        title="an IPv6 address for a name",
        section="RFC 5321 4.1.3",
        sentence="For IPv6 and other forms of addressing that might eventually be standardized",
        state=State.GREETED,
        steps=(Ask(b"EHLO [IPv6:2001:db8::1]", "250"),),
    ),
    Case(
        id="ehlo.other-name",
        title="a name that is not the client's is no reason to refuse it",
        section="RFC 5321 4.1.4",
        sentence="However, if the verification fails, the server MUST NOT refuse to accept a message on that basis.",
        state=State.GREETED,
        steps=(Ask(b"EHLO other.example.com", "250"),),
    ),
    Case(
        id="ehlo.again",
        title="EHLO may be said again",
        section="RFC 5321 4.1.4",
        sentence="An EHLO command MAY be issued by a client later in the session.",
        steps=(Ehlo(), Ehlo()),
    ),
    Case(
        id="ehlo.again-resets",
        title="EHLO in a transaction ends it",
        section="RFC 5321 4.1.4",
        sentence="the SMTP server MUST clear all buffers and reset the state exactly as if a RSET command had been issued.",
        state=State.RCPT,
        steps=(Ehlo(), Ask(b"DATA", OUT_OF_ORDER, "no recipients are left")),
    ),
    Case(
        id="ehlo.again-rcpt",
        title="EHLO in a transaction forgets the sender",
        section="RFC 5321 4.1.4",
        sentence="the SMTP server MUST clear all buffers and reset the state exactly as if a RSET command had been issued.",
        state=State.MAIL,
        steps=(Ehlo(), Ask(b"RCPT TO:<{to}>", "503", "no sender is left")),
    ),
    Case(
        id="ehlo.again-mail",
        title="after EHLO in a transaction, another can begin",
        section="RFC 5321 4.1.4",
        sentence="the SMTP server MUST clear all buffers and reset the state exactly as if a RSET command had been issued.",
        state=State.RCPT,
        steps=(Ehlo(), MAIL),
    ),
    Case(
        id="ehlo.long-name",
        title="a domain of 253 octets: the longest that DNS can hold",
        section="RFC 5321 4.5.3.1.2",
        sentence="The maximum total length of a domain name or number is 255 octets.",
        level=Level.SHOULD,
        state=State.GREETED,
        steps=(Send(b"EHLO " + b".".join([b"a" * 63] * 3 + [b"b" * 61]) + b"\r\n"), Expect("250", to="EHLO")),
    ),
)
