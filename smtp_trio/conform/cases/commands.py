"""RSET, NOOP, VRFY, EXPN, HELP, and QUIT with an argument (RFC 5321 4.1.1.5 to 4.1.1.10, 4.1.4, 4.3.2)."""

from __future__ import annotations

from .._case import Case, Level, State
from .._steps import Ask, Ehlo
from ._common import DATA, MAIL, MESSAGE, NOOP, OUT_OF_ORDER, RCPT, REFUSED, RSET

ANY_TIME = (
    "The NOOP, HELP, EXPN, VRFY, and RSET commands can be used at any time during a session, or without previously initializing a "
    "session. SMTP servers SHOULD process these normally (that is, not return a 503 code) even if no EHLO command has yet been "
    "received"
)
NO_ARGUMENTS = (
    "commands that are specified in this document as not accepting arguments (DATA, RSET, QUIT) SHOULD return a 501 message if "
    "arguments are supplied in the absence of EHLO-advertised extensions."
)
TRAILING = (
    "In the interest of improved interoperability, SMTP receivers SHOULD tolerate trailing white space before the terminating "
    "<CRLF>."
)
VRFY = "250|251|252|550|551|553|504"

CASES = (
    Case(
        id="commands.rset",
        title="RSET is answered with 250",
        section="RFC 5321 4.1.1.5",
        sentence='The receiver MUST send a "250 OK" reply to a RSET command with no arguments.',
        steps=(RSET, RSET),
    ),
    Case(
        id="commands.rset-first",
        title="RSET before EHLO",
        section="RFC 5321 4.1.4",
        sentence=ANY_TIME,
        level=Level.SHOULD,
        state=State.GREETED,
        steps=(Ask(b"RSET", "250|530"),),
    ),
    Case(
        id="commands.rset-clears-rcpt",
        title="RSET forgets the recipients",
        section="RFC 5321 4.1.1.5",
        sentence="Any stored sender, recipients, and mail data MUST be discarded, and all buffers and state tables cleared.",
        state=State.RCPT,
        steps=(RSET, Ask(b"DATA", OUT_OF_ORDER)),
    ),
    Case(
        id="commands.rset-clears-mail",
        title="RSET forgets the sender",
        section="RFC 5321 4.1.1.5",
        sentence="Any stored sender, recipients, and mail data MUST be discarded, and all buffers and state tables cleared.",
        state=State.MAIL,
        steps=(RSET, Ask(b"RCPT TO:<{to}>", "503")),
    ),
    Case(
        id="commands.rset-goes-on",
        title="after RSET, mail without another EHLO",
        section="RFC 5321 4.1.1.5",
        sentence="An SMTP server MUST NOT close the connection as the result of receiving a RSET; that action is reserved for QUIT",
        state=State.RCPT,
        steps=(RSET, MAIL, RCPT, DATA, MESSAGE),
    ),
    Case(
        id="commands.rset-argument",
        title="RSET with an argument is refused",
        section="RFC 5321 4.3.2",
        sentence=NO_ARGUMENTS,
        level=Level.SHOULD,
        steps=(Ask(b"RSET now", "501"), NOOP),
    ),
    Case(
        id="commands.quit-argument",
        title="QUIT with an argument is refused, and does not close",
        section="RFC 5321 4.3.2",
        sentence=NO_ARGUMENTS,
        level=Level.SHOULD,
        steps=(Ask(b"QUIT now", "501"), NOOP),
    ),
    *(
        Case(
            id=f"commands.{verb.lower()}-space",
            title=f"{verb} with a space at the end",
            section="RFC 5321 4.1.1",
            sentence=TRAILING,
            level=Level.SHOULD,
            steps=(Ask(f"{verb} ".encode(), code),),
            quits=verb != "QUIT",
        )
        for verb, code in (("RSET", "250"), ("NOOP", "250"), ("QUIT", "221"))
    ),
    Case(
        id="commands.noop",
        title="NOOP is answered with 250",
        section="RFC 5321 4.1.1.9",
        sentence='It specifies no action other than that the receiver send a "250 OK" reply.',
        steps=(NOOP, NOOP),
    ),
    Case(
        id="commands.noop-first",
        title="NOOP before EHLO",
        section="RFC 5321 4.1.4",
        sentence=ANY_TIME,
        level=Level.SHOULD,
        state=State.GREETED,
        steps=(NOOP,),
    ),
    Case(
        id="commands.noop-argument",
        title="NOOP with an argument",
        section="RFC 5321 4.1.1.9",
        sentence="If a parameter string is specified, servers SHOULD ignore it.",
        level=Level.SHOULD,
        steps=(Ask(b"NOOP something", "250"),),
    ),
    Case(
        id="commands.noop-inside",
        title="NOOP in a transaction changes nothing",
        section="RFC 5321 4.1.1.9",
        sentence="This command has no effect on the reverse-path buffer, the forward-path buffer, or the mail data buffer, and it "
        "may be issued at any time.",
        state=State.MAIL,
        steps=(NOOP, RCPT, NOOP, DATA, MESSAGE),
    ),
    Case(
        id="commands.vrfy",
        title="VRFY is there, and says what it can",
        section="RFC 5321 3.5.3",
        sentence="Hence, implementations that return 500 or 502 for VRFY are not in full compliance with this specification.",
        level=Level.SHOULD,
        steps=(Ask(b"VRFY {to}", VRFY),),
    ),
    Case(
        id="commands.vrfy-first",
        title="VRFY before EHLO is not out of order",
        section="RFC 5321 4.1.4",
        sentence=ANY_TIME,
        level=Level.SHOULD,
        state=State.GREETED,
        steps=(Ask(b"VRFY {to}", f"{VRFY}|500|502|530"),),
    ),
    Case(
        id="commands.vrfy-empty",
        title="VRFY without a name is refused",
        section="RFC 5321 4.1.1.6",
        sentence='vrfy = "VRFY" SP String CRLF',
        level=Level.SHOULD,
        steps=(Ask(b"VRFY", REFUSED),),
    ),
    Case(
        id="commands.vrfy-inside",
        title="VRFY in a transaction changes nothing",
        section="RFC 5321 4.1.1.6",
        sentence="This command has no effect on the reverse-path buffer, the forward-path buffer, or the mail data buffer.",
        state=State.MAIL,
        steps=(Ask(b"VRFY {to}", "2..|5.."), RCPT, DATA, MESSAGE),
    ),
    Case(
        id="commands.vrfy-unknown",
        title="VRFY does not say 250 of somebody who does not exist",
        section="RFC 5321 3.5.3",
        sentence="A server MUST NOT return a 250 code in response to a VRFY or EXPN command unless it has actually verified the "
        "address.",
        needs=("--unknown",),
        steps=(Ask(b"VRFY {unknown}", "252|5.."),),
    ),
    Case(
        id="commands.expn-listed",
        title="EXPN that is not listed does not work either",
        section="RFC 5321 3.5.2",
        sentence="if EXPN is supported, it MUST be listed as a service extension in an EHLO response.",
        lacks=("EXPN",),
        steps=(Ask(b"EXPN conform-list", "252|5.."),),
    ),
    Case(
        id="commands.expn-first",
        title="EXPN before EHLO is not out of order",
        section="RFC 5321 4.1.4",
        sentence=ANY_TIME,
        level=Level.SHOULD,
        state=State.GREETED,
        steps=(Ask(b"EXPN conform-list", "250|252|530|550|551|553|500|502|504"),),
    ),
    Case(
        id="commands.help",
        title="HELP helps",
        section="RFC 5321 4.1.1.8",
        sentence="SMTP servers SHOULD support HELP without arguments and MAY support it with arguments.",
        level=Level.SHOULD,
        steps=(Ask(b"HELP", "211|214|250"),),
    ),
    Case(
        id="commands.help-first",
        title="HELP before EHLO is not out of order",
        section="RFC 5321 4.1.4",
        sentence=ANY_TIME,
        level=Level.SHOULD,
        state=State.GREETED,
        steps=(Ask(b"HELP", "211|214|250|500|502|504|530"),),
    ),
    Case(
        id="commands.help-inside",
        title="HELP in a transaction changes nothing",
        section="RFC 5321 4.1.1.8",
        sentence="This command has no effect on the reverse-path buffer, the forward-path buffer, or the mail data buffer, and it "
        "may be issued at any time.",
        state=State.MAIL,
        steps=(Ask(b"HELP", "2..|5.."), RCPT, DATA, MESSAGE),
    ),
    Case(
        id="commands.help-topic",
        title="HELP with a topic that nobody knows",
        section="RFC 5321 4.3.2",
        sentence="",
        level=Level.RECOMMENDED,
        steps=(Ask(b"HELP XCONFORM", "211|214|500|501|502|504"),),
    ),
    Case(
        id="commands.turn",
        title="TURN is not followed",
        section="RFC 5321 F.1",
        sentence="Its use is deprecated; SMTP systems SHOULD NOT use it unless the server can authenticate the client.",
        level=Level.SHOULD,
        steps=(Ask(b"TURN", REFUSED), NOOP),
    ),
    Case(
        id="commands.keep-ehlo",
        title="EHLO may come at any time, RSET too",
        section="RFC 5321 4.1.1.5",
        sentence="A reset command may be issued by the client at any time.",
        state=State.RCPT,
        steps=(RSET, Ehlo(), RSET, MAIL, RSET, MAIL, RCPT),
    ),
)
