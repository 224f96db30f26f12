"""8BITMIME and SMTPUTF8 (RFC 6152, RFC 6531)."""

from __future__ import annotations

from .._case import Case, Level, State
from .._steps import Ask, Ehlo
from ._common import DATA, END, MAIL, RCPT, REFUSED, TEXT

BODY = 'body-value = "7BIT" / "8BITMIME"'
EIGHT_BIT = TEXT.removesuffix(b"\r\n") + b"MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n"
ABC = bytes(range(128, 256))

CASES = (
    *(
        Case(
            id=f"encoding.body-{name}",
            title=f"{parameter.decode()} is taken",
            section="RFC 6152 2",
            sentence=BODY,
            needs=("8BITMIME", "MAIL"),
            steps=(Ask(b"MAIL FROM:<{from}> " + parameter, "250"), RCPT),
        )
        for name, parameter in (("7bit", b"BODY=7BIT"), ("8bit", b"BODY=8BITMIME"), ("case", b"body=8bitMime"))
    ),
    *(
        Case(
            id=f"encoding.body-{name}",
            title=f"{parameter.decode()} is refused",
            section="RFC 6152 2",
            sentence=BODY,
            level=level,
            needs=("8BITMIME", "MAIL"),
            steps=(Ask(b"MAIL FROM:<{from}> " + parameter, REFUSED), MAIL),
        )
        for name, parameter, level in (
            ("unknown", b"BODY=9BIT", Level.SHOULD),
            ("empty", b"BODY=", Level.SHOULD),
            ("bare", b"BODY", Level.SHOULD),
            ("twice", b"BODY=7BIT BODY=8BITMIME", Level.RECOMMENDED),
        )
    ),
    Case(
        id="encoding.8bit",
        title="a message of octets above 127",
        section="RFC 6152 3",
        sentence="Once a server SMTP supporting the 8bit-MIMEtransport service extension accepts a content body containing octets "
        "with the high-order (8th) bit set, the server SMTP must deliver or relay the content in such a way as to preserve all "
        "bits in each octet.",
        needs=("8BITMIME", "MAIL"),
        steps=(
            Ask(b"MAIL FROM:<{from}> BODY=8BITMIME", "250"),
            RCPT,
            DATA,
            Ask(EIGHT_BIT + ABC + b"\r\n" + END, "250"),
        ),
    ),
    Case(
        id="encoding.8bit-undeclared",
        title="octets above 127 that nobody has declared get one answer at the end",
        section="RFC 6152 3",
        sentence="",
        level=Level.RECOMMENDED,
        needs=("8BITMIME", "MAIL"),
        steps=(MAIL, RCPT, DATA, Ask(EIGHT_BIT + ABC + b"\r\n" + END, "250|5..")),
    ),
    Case(
        id="encoding.8bit-listed",
        title="8BITMIME has no parameter",
        section="RFC 6152 2",
        sentence="no parameter is used with the 8BITMIME EHLO keyword",
        state=State.GREETED,
        needs=("8BITMIME",),
        steps=(Ehlo(lists="8BITMIME"),),
    ),
    Case(
        id="encoding.utf8-listed",
        title="SMTPUTF8 has no parameter",
        section="RFC 6531 3.1",
        sentence="the EHLO response MUST NOT contain any parameters for this keyword.",
        state=State.GREETED,
        needs=("SMTPUTF8",),
        steps=(Ehlo(lists="SMTPUTF8"),),
    ),
    Case(
        id="encoding.utf8-8bit",
        title="who lists SMTPUTF8 lists 8BITMIME",
        section="RFC 6531 3.1",
        sentence="Servers offering this extension MUST provide support for, and announce, the 8BITMIME extension [RFC6152].",
        state=State.GREETED,
        needs=("SMTPUTF8",),
        steps=(Ehlo(lists="8BITMIME"),),
    ),
    Case(
        id="encoding.utf8",
        title="SMTPUTF8 is taken",
        section="RFC 6531 3.1",
        sentence="One OPTIONAL parameter, SMTPUTF8, is added to the MAIL command.",
        needs=("SMTPUTF8", "MAIL"),
        steps=(Ask(b"MAIL FROM:<{from}> SMTPUTF8", "250"), RCPT),
    ),
    Case(
        id="encoding.utf8-sender",
        title="a sender beyond ASCII, with SMTPUTF8",
        section="RFC 6531 3.1",
        sentence="The reverse-path and forward-path of the SMTP MAIL and RCPT commands are extended to allow Unicode characters "
        "encoded in UTF-8 in mailbox names (addresses).",
        needs=("SMTPUTF8", "MAIL"),
        steps=(Ask("MAIL FROM:<kónförm@{domain}> SMTPUTF8".encode(), "250"), RCPT),
    ),
    Case(
        id="encoding.utf8-message",
        title="a message with a subject in UTF-8",
        section="RFC 6531 3.1",
        sentence="The mail message body is extended as specified in RFC 6532 [RFC6532].",
        needs=("SMTPUTF8", "MAIL"),
        steps=(
            *(Ask(b"MAIL FROM:<{from}> SMTPUTF8 BODY=8BITMIME", "250"), RCPT, DATA),
            Ask("From: <{from}>\r\nSubject: smtp-trio prüft\r\n\r\n".encode() + END, "250"),
        ),
    ),
    Case(
        id="encoding.utf8-value",
        title="SMTPUTF8 with a value is refused",
        section="RFC 6531 3.1",
        sentence="The parameter does not accept a value.",
        needs=("SMTPUTF8", "MAIL"),
        steps=(Ask(b"MAIL FROM:<{from}> SMTPUTF8=yes", REFUSED), MAIL),
    ),
    Case(
        id="encoding.utf8-undeclared",
        title="a sender beyond ASCII, without SMTPUTF8, is refused",
        section="RFC 5321 4.1.2",
        sentence="These characters MUST NOT be used in MAIL or RCPT commands or other commands that require mailbox names.",
        level=Level.SHOULD,
        needs=("MAIL",),
        steps=(Ask("MAIL FROM:<kónförm@{domain}>".encode(), REFUSED), MAIL),
    ),
    Case(
        id="encoding.utf8-rcpt-undeclared",
        title="a recipient beyond ASCII, without SMTPUTF8, is refused",
        section="RFC 5321 4.1.2",
        sentence="These characters MUST NOT be used in MAIL or RCPT commands or other commands that require mailbox names.",
        level=Level.SHOULD,
        state=State.MAIL,
        steps=(Ask("RCPT TO:<kónförm@{domain}>".encode(), REFUSED), RCPT),
    ),
    Case(
        id="encoding.utf8-rcpt-code",
        title="a recipient beyond ASCII, without SMTPUTF8, is refused with 553",
        section="RFC 6531 3.5",
        sentence="When messages are rejected because the RCPT command requires an ASCII address, the reply-code 553 is returned "
        'with the meaning "mailbox name not allowed".',
        level=Level.RECOMMENDED,
        needs=("SMTPUTF8", "--to with a domain"),
        state=State.MAIL,
        steps=(Ask("RCPT TO:<kónförm@{todomain}>".encode(), "553"),),
    ),
    Case(
        id="encoding.utf8-invalid",
        title="an address that is not UTF-8 is refused, and the session goes on",
        section="RFC 6531 3.3",
        sentence="",
        level=Level.RECOMMENDED,
        needs=("SMTPUTF8", "MAIL"),
        steps=(Ask(b"MAIL FROM:<\xc0\xaf\xed\xa0\x80@{domain}> SMTPUTF8", REFUSED), MAIL),
    ),
    Case(
        id="encoding.utf8-not-listed",
        title="SMTPUTF8 that is not listed is refused",
        section="RFC 5321 4.1.1.11",
        sentence="If the server SMTP does not recognize or cannot implement one or more of the parameters associated with a "
        "particular MAIL FROM or RCPT TO command, it will return code 555.",
        lacks=("SMTPUTF8",),
        needs=("MAIL",),
        steps=(Ask(b"MAIL FROM:<{from}> SMTPUTF8", REFUSED),),
    ),
)
