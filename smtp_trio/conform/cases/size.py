"""SIZE (RFC 1870)."""

from __future__ import annotations

from .._case import Case, Level, State
from .._steps import Ask, Ehlo, SendTooMuch
from ._common import MAIL, RCPT, REFUSED, RSET

VALUE = "size-value ::= 1*20DIGIT"
BAD = (
    ("empty", b"SIZE=", "no number"),
    ("bare", b"SIZE", "no value"),
    ("letters", b"SIZE=abc", "letters"),
    ("negative", b"SIZE=-1", "a number below 0"),
    ("plus", b"SIZE=+5", "a plus sign"),
    ("underscore", b"SIZE=1_0", "an underscore"),
    ("hex", b"SIZE=0x10", "hexadecimal digits"),
    ("float", b"SIZE=1.5", "a point"),
    ("21-digits", b"SIZE=" + b"1" * 21, "21 digits"),
)

CASES = (
    Case(
        id="size.listed",
        title="EHLO lists SIZE with a number, or with nothing",
        section="RFC 1870 3",
        sentence="size-param ::= [1*DIGIT]",
        state=State.GREETED,
        needs=("SIZE",),
        steps=(Ehlo(lists=r"SIZE( [0-9]+)?"),),
    ),
    Case(
        id="size.small",
        title="a declared size that fits",
        section="RFC 1870 6.1",
        sentence="a client may use the extended MAIL command",
        needs=("SIZE", "MAIL"),
        steps=(Ask(b"MAIL FROM:<{from}> SIZE=1000", "250"), RCPT),
    ),
    Case(
        id="size.case",
        title="size= in small letters",
        section="RFC 5321 2.4",
        sentence='Verbs and argument values (e.g., "TO:" or "to:" in the RCPT command and extension name keywords) are not '
        "case sensitive",
        needs=("SIZE", "MAIL"),
        steps=(Ask(b"MAIL FROM:<{from}> size=1000", "250"),),
    ),
    Case(
        id="size.null",
        title="a size of the null sender's",
        section="RFC 1870 6.1",
        sentence="a client may use the extended MAIL command",
        needs=("SIZE", "MAIL"),
        steps=(Ask(b"MAIL FROM:<> SIZE=1000", "250"),),
    ),
    Case(
        id="size.over",
        title="a declared size over the limit is refused with 552",
        section="RFC 1870 6.1",
        sentence="If the indicated size is larger than the server's fixed maximum message size, the server responds with code "
        '"552 message size exceeds fixed maximium message size".',
        level=Level.SHOULD,
        needs=("SIZE n", "MAIL"),
        steps=(Ask(b"MAIL FROM:<{from}> SIZE={over}", "552"), RSET, MAIL),
    ),
    Case(
        id="size.at",
        title="a declared size at the limit is not over it",
        section="RFC 1870 5",
        sentence="The fixed maximum message size is defined as the message size of the largest message that a server is ever "
        "willing to accept.",
        level=Level.SHOULD,
        needs=("SIZE n", "MAIL"),
        steps=(Ask(b"MAIL FROM:<{from}> SIZE={most}", "250|452"),),
    ),
    Case(
        id="size.really",
        title="a message over the limit, which did not say so, is refused at its end",
        section="RFC 1870 6.3",
        sentence="The server may reject such a message after its DATA transfer.",
        level=Level.RECOMMENDED,
        needs=("SIZE small",),
        state=State.DATA,
        steps=(SendTooMuch(), Ask(b".", "5..", or_close=True)),
    ),
    Case(
        id="size.20-digits",
        title="20 digits are a size, and over the limit",
        section="RFC 1870 3",
        sentence=VALUE,
        level=Level.SHOULD,
        needs=("SIZE n", "MAIL"),
        steps=(Ask(b"MAIL FROM:<{from}> SIZE=" + b"9" * 20, "552"),),
    ),
    Case(
        id="size.twice",
        title="SIZE twice is refused",
        section="RFC 5321 4.1.1.11",
        sentence="",
        level=Level.RECOMMENDED,
        needs=("SIZE", "MAIL"),
        steps=(Ask(b"MAIL FROM:<{from}> SIZE=1000 SIZE=1000", REFUSED),),
    ),
    Case(
        id="size.not-listed",
        title="SIZE that is not listed is refused",
        section="RFC 5321 4.1.1.11",
        sentence="If the server SMTP does not recognize or cannot implement one or more of the parameters associated with a "
        "particular MAIL FROM or RCPT TO command, it will return code 555.",
        lacks=("SIZE",),
        needs=("MAIL",),
        steps=(Ask(b"MAIL FROM:<{from}> SIZE=1000", REFUSED),),
    ),
    *(
        Case(
            id=f"size.bad-{name}",
            title=f"{title} in SIZE: refused",
            section="RFC 1870 3",
            sentence=VALUE,
            level=Level.SHOULD,
            needs=("SIZE", "MAIL"),
            steps=(Ask(b"MAIL FROM:<{from}> " + parameter, REFUSED), MAIL),
        )
        for name, parameter, title in BAD
    ),
)
