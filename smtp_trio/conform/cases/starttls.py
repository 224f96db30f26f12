"""STARTTLS (RFC 3207), and what is said inside TLS."""

from __future__ import annotations

from .._case import Case, Level, State
from .._steps import ANYTHING, Ask, Ehlo, Expect, ExpectAll, ExpectClose, ExpectSilence, Send, StartTls, When
from ._common import DATA, MAIL, MESSAGE, NOOP, OUT_OF_ORDER, RCPT

NEEDS = ("STARTTLS",)
FORGET = (
    "The server MUST discard any knowledge obtained from the client, such as the argument to the EHLO command, which was not "
    "obtained from the TLS negotiation itself."
)
RESET = "the SMTP protocol is reset to the initial state (the state in SMTP after a server issues a 220 service ready greeting)."
BEGIN = (Ehlo(), Ask(b"STARTTLS", "220"))

CASES = (
    Case(
        id="starttls.works",
        title="STARTTLS, the handshake, EHLO",
        section="RFC 3207 4",
        sentence="220 Ready to start TLS",
        state=State.SECURE,
        steps=(NOOP,),
    ),
    Case(
        id="starttls.mail",
        title="a message inside TLS",
        section="RFC 3207 4.2",
        sentence=RESET,
        state=State.SECURE,
        needs=("MAIL", "no login"),
        steps=(MAIL, RCPT, DATA, MESSAGE),
    ),
    Case(
        id="starttls.no-greeting",
        title="there is no second greeting",
        section="RFC 3207 4.2",
        sentence=RESET,
        state=State.GREETED,
        needs=("STARTTLS", "TLS"),
        steps=(*BEGIN, StartTls(), ExpectSilence(0.3, "nothing was asked inside TLS"), Ehlo()),
    ),
    Case(
        id="starttls.not-again",
        title="STARTTLS is not listed inside TLS",
        section="RFC 3207 4.2",
        sentence="A server MUST NOT return the STARTTLS extension in response to an EHLO command received after a TLS handshake "
        "has completed.",
        state=State.SECURE,
        steps=(Ehlo(lists="!STARTTLS.*"),),
    ),
    Case(
        id="starttls.twice",
        title="STARTTLS inside TLS is refused",
        section="RFC 3207 4.2",
        sentence="A client MUST NOT attempt to start a TLS session if a TLS session is already active.",
        level=Level.SHOULD,
        state=State.SECURE,
        steps=(Ask(b"STARTTLS", "5.."), NOOP),
    ),
    Case(
        id="starttls.argument",
        title="STARTTLS with an argument is refused",
        section="RFC 3207 4",
        sentence="501 Syntax error (no parameters allowed)",
        needs=NEEDS,
        state=State.GREETED,
        steps=(Ehlo(), Ask(b"STARTTLS now", "501"), NOOP),
    ),
    Case(
        id="starttls.forgets",
        title="a transaction from before TLS is forgotten",
        section="RFC 3207 4.2",
        sentence=FORGET,
        state=State.GREETED,
        needs=("STARTTLS", "TLS", "plain route"),
        steps=(
            *(Ehlo(), MAIL, RCPT, Ask(b"STARTTLS", "220|503")),
            When("220", (StartTls(), Ehlo(), Ask(b"DATA", f"{OUT_OF_ORDER}|530", "no recipients are left"))),
        ),
    ),
    Case(
        id="starttls.forgets-ehlo",
        title="an EHLO from before TLS is forgotten",
        section="RFC 3207 4.2",
        sentence=FORGET,
        level=Level.RECOMMENDED,
        state=State.GREETED,
        needs=("STARTTLS", "TLS"),
        steps=(*BEGIN, StartTls(), Ask(b"MAIL FROM:<{from}>", "503|530|550", "EHLO must come first")),
    ),
    *(
        Case(
            id=f"starttls.inject-{name}",
            title=f"{title} right behind STARTTLS is not obeyed inside TLS",
            section="RFC 3207 4.2",
            sentence=FORGET,
            state=State.GREETED,
            needs=("STARTTLS", "TLS"),
            steps=(
                *(Ehlo(), Send(b"STARTTLS\r\n" + data), Expect("220|5..|4..", or_close=True)),
                When(
                    "220", (StartTls(may_fail=True), ExpectSilence(0.3, "nothing was asked inside TLS", or_close=True))
                ),
            ),
            quits=False,
        )
        for name, title, data in (
            ("command", "a command", b"NOOP\r\n"),
            ("mail", "a transaction", b"RSET\r\nMAIL FROM:<{from}>\r\nRCPT TO:<{to}>\r\n"),
            ("part", "half a command", b"NOO"),
        )
    ),
    Case(
        id="starttls.garbage",
        title="what is no handshake ends the connection, and nothing else",
        section="RFC 3207 4.1",
        sentence="",
        level=Level.RECOMMENDED,
        needs=NEEDS,
        state=State.GREETED,
        steps=(*BEGIN, Send(b"GET / HTTP/1.0\r\n\r\n" * 20), ExpectClose(after=ANYTHING)),
        quits=False,
    ),
    Case(
        id="starttls.first",
        title="STARTTLS before EHLO is taken or refused, and does no harm",
        section="RFC 3207 4",
        sentence="",
        level=Level.RECOMMENDED,
        needs=("STARTTLS", "TLS"),
        state=State.GREETED,
        steps=(Ask(b"STARTTLS", "220|5.."), When("220", (StartTls(),)), Ehlo()),
    ),
    Case(
        id="starttls.required",
        title="a server that wants TLS first answers 530",
        section="RFC 3207 4",
        sentence="530 Must issue a STARTTLS command first",
        needs=("STARTTLS", "tls route"),
        state=State.GREETED,
        steps=(Ehlo(), Ask(b"MAIL FROM:<{from}>", "530"), NOOP),
    ),
    Case(
        id="starttls.not-listed",
        title="STARTTLS that is not listed is refused",
        section="RFC 5321 4.2.4",
        sentence="",
        level=Level.RECOMMENDED,
        lacks=NEEDS,
        steps=(Ask(b"STARTTLS", "5..|454"), NOOP),
    ),
    Case(
        id="starttls.quit",
        title="QUIT inside TLS closes it",
        section="RFC 5321 4.1.1.10",
        sentence='This command specifies that the receiver MUST send a "221 OK" reply, and then close the transmission channel.',
        state=State.SECURE,
        steps=(Send(b"QUIT\r\nNOOP\r\n"), ExpectAll("221", "221 was the last word"), ExpectClose()),
        quits=False,
    ),
)
