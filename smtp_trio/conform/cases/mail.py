"""MAIL (RFC 5321 3.3, 4.1.1.2, 4.1.2, 4.1.4)."""

from __future__ import annotations

from .._case import Case, Level, State
from .._steps import Ask
from ._common import MAIL, RCPT, REFUSED

#: Names, what is between the angle brackets, and what is meant by it.
GOOD = (
    ("quoted", b'"a b"@{domain}', "a quoted local-part with a space"),
    ("quoted-at", b'"a@b"@{domain}', "a quoted local-part with an @"),
    ("quoted-pair", rb'"a\"b"@{domain}', "a quoted local-part with a quoted pair"),
    ("quoted-angle", b'"a>b"@{domain}', "a quoted local-part with a >"),
    ("atoms", b"!#$%&'*+-/=?^_`{|}~@{domain}", "all characters of an atom"),
    ("dots", b"a.b.c@{domain}", "a local-part with dots"),
    ("local-64", b"a" * 64 + b"@{domain}", "a local-part of 64 octets"),
)
BAD = (
    ("at-alone", b"<@>", "an @ alone"),
    ("no-domain", b"<conform@>", "no domain behind the @"),
    ("space", b"<con form@{domain}>", "a space in an atom"),
    ("open", b"<conform@{domain}", "no > at the end"),
    ("two-ats", b"<con@form@{domain}>", "two @ outside of quotes"),
    ("dot-dot", b"<conform@{domain}..example>", "an empty label in the domain"),
    ("quote-open", b'<"conform@{domain}>', "a quote that does not end"),
    ("behind", b"<{from}>x", "something right behind the >"),
)

CASES = (
    Case(
        id="mail.accepted",
        title="MAIL begins a transaction",
        section="RFC 5321 4.1.1.2",
        sentence="This command is used to initiate a mail transaction",
        needs=("MAIL",),
        steps=(MAIL,),
    ),
    Case(
        id="mail.case",
        title="mail from: in small letters",
        section="RFC 5321 2.4",
        sentence='Verbs and argument values (e.g., "TO:" or "to:" in the RCPT command and extension name keywords) are not '
        "case sensitive",
        needs=("MAIL",),
        steps=(Ask(b"mail from:<{from}>", "250"),),
    ),
    Case(
        id="mail.null",
        title="the null reverse-path is a sender",
        section="RFC 5321 4.1.2",
        sentence='Reverse-path = Path / "<>"',
        needs=("MAIL",),
        steps=(Ask(b"MAIL FROM:<>", "250"), RCPT),
    ),
    Case(
        id="mail.nested",
        title="MAIL in a transaction is refused, and the first goes on",
        section="RFC 5321 4.1.4",
        sentence="MAIL (or SEND, SOML, or SAML) MUST NOT be sent if a mail transaction is already open",
        level=Level.SHOULD,
        state=State.MAIL,
        steps=(Ask(b"MAIL FROM:<{from}>", "503"), RCPT),
    ),
    Case(
        id="mail.before-ehlo",
        title="MAIL before EHLO is out of order",
        section="RFC 5321 4.1.4",
        sentence="A session that will contain mail transactions MUST first be initialized by the use of the EHLO command.",
        level=Level.RECOMMENDED,
        state=State.GREETED,
        steps=(Ask(b"MAIL FROM:<{from}>", "503|530|550"),),
    ),
    Case(
        id="mail.empty",
        title="MAIL with nothing behind it",
        section="RFC 5321 4.1.1.2",
        sentence='mail = "MAIL FROM:" Reverse-path [SP Mail-parameters] CRLF',
        steps=(Ask(b"MAIL", REFUSED),),
    ),
    Case(
        id="mail.no-path",
        title="MAIL FROM: with no path",
        section="RFC 5321 4.1.1.2",
        sentence='mail = "MAIL FROM:" Reverse-path [SP Mail-parameters] CRLF',
        steps=(Ask(b"MAIL FROM:", REFUSED),),
    ),
    Case(
        id="mail.to",
        title="MAIL TO: is no command",
        section="RFC 5321 4.1.1.2",
        sentence='mail = "MAIL FROM:" Reverse-path [SP Mail-parameters] CRLF',
        steps=(Ask(b"MAIL TO:<{from}>", REFUSED),),
    ),
    Case(
        id="mail.unknown-parameter",
        title="a parameter that nobody knows is refused",
        section="RFC 5321 4.1.1.11",
        sentence="If the server SMTP does not recognize or cannot implement one or more of the parameters associated with a "
        "particular MAIL FROM or RCPT TO command, it will return code 555.",
        needs=("MAIL",),
        steps=(Ask(b"MAIL FROM:<{from}> X-CONFORM=1", REFUSED),),
    ),
    Case(
        id="mail.unknown-parameter-code",
        title="a parameter that nobody knows is refused with 555",
        section="RFC 5321 4.1.1.11",
        sentence="it will return code 555.",
        level=Level.SHOULD,
        needs=("MAIL",),
        steps=(Ask(b"MAIL FROM:<{from}> X-CONFORM=1", "555"),),
    ),
    Case(
        id="mail.bad-keyword",
        title="a parameter without a keyword is refused",
        section="RFC 5321 4.1.2",
        sentence='esmtp-param = esmtp-keyword ["=" esmtp-value]',
        level=Level.SHOULD,
        needs=("MAIL",),
        steps=(Ask(b"MAIL FROM:<{from}> =1", REFUSED),),
    ),
    Case(
        id="mail.refused-then-taken",
        title="after a refused MAIL, the next is taken",
        section="RFC 5321 3.3",
        sentence='If accepted, the SMTP server returns a "250 OK" reply.',
        needs=("MAIL",),
        steps=(Ask(b"MAIL FROM", REFUSED), MAIL, RCPT),
    ),
    Case(
        id="mail.route",
        title="a source route before the sender is no syntax error",
        section="RFC 5321 4.1.1.3",
        sentence="Servers MUST be prepared to encounter a list of source routes in the forward-path",
        level=Level.RECOMMENDED,
        needs=("MAIL",),
        steps=(Ask(b"MAIL FROM:<@one.example,@two.example:{from}>", "250|55."),),
    ),
    Case(
        id="mail.literal",
        title="a sender at an address literal",
        section="RFC 5321 4.1.3",
        sentence="Sometimes a host is not known to the domain name system and communication (and, in particular, communication to "
        "report and repair the error) is blocked. To bypass this barrier, a special literal form of the address is allowed",
        level=Level.RECOMMENDED,
        needs=("MAIL",),
        steps=(Ask(b"MAIL FROM:<conform@[192.0.2.1]>", "250"),),
    ),
    Case(
        id="mail.literal-bad",
        title="an address literal with an octet of 300 is refused",
        section="RFC 5321 4.1.3",
        sentence="Snum = 1*3DIGIT ; representing a decimal integer ; value in the range 0 through 255",
        level=Level.RECOMMENDED,
        needs=("MAIL",),
        steps=(Ask(b"MAIL FROM:<conform@[300.1.1.1]>", REFUSED),),
    ),
    *(
        Case(
            id=f"mail.{name}",
            title=f"{title} is taken",
            section="RFC 5321 4.5.3.1" if name == "local-64" else "RFC 5321 4.1.2",
            sentence="Every implementation MUST be able to receive objects of at least these sizes."
            if name == "local-64"
            else "Local-part = Dot-string / Quoted-string",
            needs=("MAIL",),
            steps=(Ask(b"MAIL FROM:<" + path + b">", "250"),),
        )
        for name, path, title in GOOD
    ),
    *(
        Case(
            id=f"mail.bad-{name}",
            title=f"{title}: refused",
            section="RFC 5321 4.1.2",
            sentence='Mailbox = Local-part "@" ( Domain / address-literal )',
            level=Level.SHOULD,
            needs=("MAIL",),
            steps=(Ask(b"MAIL FROM:" + path, REFUSED), MAIL),
        )
        for name, path, title in BAD
    ),
)
