"""RCPT (RFC 5321 3.3, 4.1.1.3, 4.5.1, 4.5.3.1)."""

from __future__ import annotations

from .._case import Case, Level, State
from .._steps import Ask, Expect, Send, When
from ._common import DATA, MAIL, MESSAGE, OUT_OF_ORDER, RCPT, REFUSED

POSTMASTER = (
    'Any system that includes an SMTP server supporting mail relaying or delivery MUST support the reserved mailbox "postmaster" '
    "as a case-insensitive local name."
)
BAD = (
    ("null", b"<>", "the null path"),
    ("at-alone", b"<@>", "an @ alone"),
    ("no-domain", b"<conform@>", "no domain behind the @"),
    ("open", b"<{to}", "no > at the end"),
    ("two-ats", b"<con@form@example.com>", "two @ outside of quotes"),
    ("quote-open", b'<"conform@example.com>', "a quote that does not end"),
    ("space", b"<con form@example.com>", "a space in an atom"),
    ("behind", b"<{to}>x", "something right behind the >"),
)

CASES = (
    Case(
        id="rcpt.accepted",
        title="RCPT adds a recipient",
        section="RFC 5321 4.1.1.3",
        sentence="This command is used to identify an individual recipient of the mail data",
        state=State.MAIL,
        steps=(RCPT,),
    ),
    Case(
        id="rcpt.case",
        title="rcpt to: in small letters",
        section="RFC 5321 2.4",
        sentence='Verbs and argument values (e.g., "TO:" or "to:" in the RCPT command and extension name keywords) are not '
        "case sensitive",
        state=State.MAIL,
        steps=(Ask(b"rcpt to:<{to}>", "250|251"),),
    ),
    Case(
        id="rcpt.before-mail",
        title="RCPT without MAIL is out of order",
        section="RFC 5321 3.3",
        sentence='If a RCPT command appears without a previous MAIL command, the server MUST return a 503 "Bad sequence of '
        'commands" response.',
        needs=("MAIL",),
        steps=(Ask(b"RCPT TO:<{to}>", "503"),),
    ),
    Case(
        id="rcpt.after-message",
        title="RCPT after a message is out of order: its transaction is over",
        section="RFC 5321 3.3",
        sentence='If a RCPT command appears without a previous MAIL command, the server MUST return a 503 "Bad sequence of '
        'commands" response.',
        state=State.DATA,
        steps=(MESSAGE, Ask(b"RCPT TO:<{to}>", "503")),
    ),
    *(
        Case(
            id=f"rcpt.{name}",
            title=f"<{path.decode()}>, without a domain, is a recipient everywhere",
            section="RFC 5321 4.5.1",
            sentence=POSTMASTER,
            state=State.MAIL,
            steps=(Ask(b"RCPT TO:<" + path + b">", "250|251"),),
        )
        for name, path in (
            ("postmaster", b"Postmaster"),
            ("postmaster-lower", b"postmaster"),
            ("postmaster-upper", b"POSTMASTER"),
        )
    ),
    Case(
        id="rcpt.twice",
        title="the same recipient twice",
        section="RFC 5321 4.1.1.3",
        sentence="This command is used to identify an individual recipient of the mail data; multiple recipients are specified by "
        "multiple uses of this command.",
        state=State.MAIL,
        steps=(RCPT, RCPT),
    ),
    Case(
        id="rcpt.hundred",
        title="a hundred recipients",
        section="RFC 5321 4.5.3.1.8",
        sentence="The minimum total number of recipients that MUST be buffered is 100 recipients.",
        state=State.MAIL,
        steps=(RCPT,) * 100,
    ),
    Case(
        id="rcpt.unknown",
        title="a recipient who is refused does not spoil the others",
        section="RFC 5321 3.3",
        sentence='If accepted, the SMTP server returns a "250 OK" reply and stores the forward-path.',
        needs=("--unknown",),
        state=State.RCPT,
        steps=(Ask(b"RCPT TO:<{unknown}>", "55.|45."), RCPT, DATA, MESSAGE),
    ),
    Case(
        id="rcpt.unknown-code",
        title="a mailbox that does not exist is refused for good",
        section="RFC 5321 3.3",
        sentence="If the recipient is known not to be a deliverable address, the SMTP server returns a 550 reply, typically with "
        'a string such as "no such user - "',
        level=Level.SHOULD,
        needs=("--unknown",),
        state=State.MAIL,
        steps=(Ask(b"RCPT TO:<{unknown}>", "550|551|553|554"),),
    ),
    Case(
        id="rcpt.all-refused",
        title="no message is taken that has no recipient, whatever is said",
        section="RFC 5321 3.3",
        sentence='If there was no MAIL, or no RCPT, command, or all such commands were rejected, the server MAY return a "command '
        'out of sequence" (503) or "no valid recipients" (554) reply in response to the DATA command.',
        needs=("--unknown",),
        state=State.MAIL,
        steps=(
            Ask(b"RCPT TO:<{unknown}>", "55.|45."),
            Ask(b"DATA", f"{OUT_OF_ORDER}|354"),
            When("354", (Send(b".\r\n"), Expect("5..", "nobody would get it"))),
        ),
    ),
    Case(
        id="rcpt.empty",
        title="RCPT with nothing behind it",
        section="RFC 5321 4.1.1.3",
        sentence='rcpt = "RCPT TO:" ( "<Postmaster@" Domain ">" / "<Postmaster>" / Forward-path ) [SP Rcpt-parameters] CRLF',
        state=State.MAIL,
        steps=(Ask(b"RCPT", REFUSED), RCPT),
    ),
    Case(
        id="rcpt.no-path",
        title="RCPT TO: with no path",
        section="RFC 5321 4.1.1.3",
        sentence='rcpt = "RCPT TO:" ( "<Postmaster@" Domain ">" / "<Postmaster>" / Forward-path ) [SP Rcpt-parameters] CRLF',
        state=State.MAIL,
        steps=(Ask(b"RCPT TO:", REFUSED), RCPT),
    ),
    Case(
        id="rcpt.from",
        title="RCPT FROM: is no command",
        section="RFC 5321 4.1.1.3",
        sentence='rcpt = "RCPT TO:" ( "<Postmaster@" Domain ">" / "<Postmaster>" / Forward-path ) [SP Rcpt-parameters] CRLF',
        state=State.MAIL,
        steps=(Ask(b"RCPT FROM:<{to}>", REFUSED), RCPT),
    ),
    Case(
        id="rcpt.unknown-parameter",
        title="a parameter that nobody knows is refused",
        section="RFC 5321 4.1.1.11",
        sentence="If the server SMTP does not recognize or cannot implement one or more of the parameters associated with a "
        "particular MAIL FROM or RCPT TO command, it will return code 555.",
        state=State.MAIL,
        steps=(Ask(b"RCPT TO:<{to}> X-CONFORM=1", REFUSED), RCPT),
    ),
    Case(
        id="rcpt.unknown-parameter-code",
        title="a parameter that nobody knows is refused with 555",
        section="RFC 5321 4.1.1.11",
        sentence="it will return code 555.",
        level=Level.SHOULD,
        state=State.MAIL,
        steps=(Ask(b"RCPT TO:<{to}> X-CONFORM=1", "555"),),
    ),
    Case(
        id="rcpt.route",
        title="a source route before the recipient is no syntax error",
        section="RFC 5321 4.1.1.3",
        sentence="Servers MUST be prepared to encounter a list of source routes in the forward-path, but they SHOULD ignore the "
        "routes or MAY decline to support the relaying they imply.",
        needs=("--to with a domain",),
        state=State.MAIL,
        steps=(Ask(b"RCPT TO:<@one.example,@two.example:{to}>", "250|251|55.|45."), RCPT),
    ),
    *(
        Case(
            id=f"rcpt.bad-{name}",
            title=f"{title}: refused",
            section="RFC 5321 4.1.2",
            sentence='Mailbox = Local-part "@" ( Domain / address-literal )',
            level=Level.SHOULD,
            state=State.MAIL,
            steps=(Ask(b"RCPT TO:" + path, REFUSED), RCPT),
        )
        for name, path, title in BAD
    ),
    Case(
        id="rcpt.mail-again",
        title="MAIL after RCPT is refused, and the transaction goes on",
        section="RFC 5321 4.1.4",
        sentence="MAIL (or SEND, SOML, or SAML) MUST NOT be sent if a mail transaction is already open",
        level=Level.SHOULD,
        state=State.RCPT,
        steps=(Ask(b"MAIL FROM:<{from}>", "503"), DATA, MESSAGE, MAIL),
    ),
)
