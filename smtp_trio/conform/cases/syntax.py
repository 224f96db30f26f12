"""Lines: their ends, their lengths, and what may stand in them (RFC 5321 2.3.8, 2.4, 4.1.2, 4.2.4, 4.5.3.1)."""

from __future__ import annotations

from .._case import Case, Level, State
from .._steps import Ask, Expect, ExpectAll, Send
from ._common import MAIL, NOOP, REFUSED

TERMINATOR = (
    "Conforming implementations MUST NOT recognize or generate any other character or character sequence as a line "
    "terminator."
)
ONE_ANSWER = "Every command MUST generate exactly one reply."
#: At most one command of two was seen.
NOT_TWO = r"(?!.*250.*250).*"
ENDS = (
    ("lf", b"\n", "LF alone"),
    ("cr", b"\r", "CR alone"),
    ("lf-cr", b"\n\r", "LF CR"),
    ("nel", b"\xc2\x85", "NEL"),
    ("line-separator", b"\xe2\x80\xa8", "U+2028"),
    ("vt", b"\x0b", "VT"),
    ("ff", b"\x0c", "FF"),
    ("nul", b"\0", "NUL"),
)
ODD = (
    ("control", b"MAIL FROM:<con\x07form@{domain}>", "a control character in an address"),
    ("nul-address", b"MAIL FROM:<con\x00form@{domain}>", "NUL in an address"),
    ("del-address", b"MAIL FROM:<con\x7fform@{domain}>", "DEL in an address"),
    ("cr-address", b"MAIL FROM:<con\rform@{domain}>", "CR in an address"),
)

CASES = (
    Case(
        id="syntax.unknown",
        title="an unknown command is answered with 500",
        section="RFC 5321 4.2.4",
        sentence="502 SHOULD be used when the command is actually recognized by the SMTP server, but not implemented.",
        level=Level.SHOULD,
        steps=(Ask(b"XCONFORM", "500|502"), NOOP),
    ),
    Case(
        id="syntax.case",
        title="verbs in any case",
        section="RFC 5321 2.4",
        sentence='Verbs and argument values (e.g., "TO:" or "to:" in the RCPT command and extension name keywords) are not '
        "case sensitive",
        steps=(Ask(b"nOoP", "250"), Ask(b"rset", "250")),
    ),
    Case(
        id="syntax.empty-line",
        title="an empty line is no command, and does no harm",
        section="RFC 5321 4.1.1",
        sentence="",
        level=Level.RECOMMENDED,
        steps=(Ask(b"", "5.."), NOOP),
    ),
    Case(
        id="syntax.prefix",
        title="a verb is the whole word",
        section="RFC 5321 4.1.1",
        sentence="The commands themselves are alphabetic characters terminated by <SP> if parameters follow and <CRLF> otherwise.",
        steps=(Ask(b"NOOPER", REFUSED), Ask(b"RSETT", REFUSED), NOOP),
    ),
    Case(
        id="syntax.leading-space",
        title="a space before the verb is refused or overlooked",
        section="RFC 5321 4.1.1",
        sentence="",
        level=Level.RECOMMENDED,
        steps=(Ask(b" NOOP", "250|5.."), NOOP),
    ),
    Case(
        id="syntax.8bit-verb",
        title="octets above 127 are no verb",
        section="RFC 5321 2.4",
        sentence="Commands and replies are composed of characters from the ASCII character set",
        steps=(Ask(b"N\xc3\x96\xc3\x96P", REFUSED), NOOP),
    ),
    Case(
        id="syntax.invalid-utf8",
        title="octets that are not even UTF-8 are refused and do no harm",
        section="RFC 5321 2.4",
        sentence="Commands and replies are composed of characters from the ASCII character set",
        steps=(Ask(b"MAIL FROM:<\xff\xfe\xc0\x80@{domain}>", REFUSED), NOOP),
    ),
    *(
        Case(
            id=f"syntax.end-{name}",
            title=f"{title} does not end a command",
            section="RFC 5321 2.3.8",
            sentence=TERMINATOR,
            steps=(
                Send(b"NOOP" + end + b"NOOP\r\nQUIT\r\n"),
                ExpectAll(NOT_TWO, "there was one line, and one NOOP at most"),
            ),
            quits=False,
        )
        for name, end, title in ENDS
    ),
    *(
        Case(
            id=f"syntax.{name}",
            title=f"{title} is refused",
            section="RFC 5321 4.1.2",
            sentence="SMTP servers that receive a command in which invalid character codes have been employed, and for which "
            "there are no other reasons for rejection, MUST reject that command with a 501 response",
            steps=(Ask(line, REFUSED, or_close=True),),
        )
        for name, line, title in ODD
    ),
    Case(
        id="syntax.line-512",
        title="a command line of 512 octets is no line too long",
        section="RFC 5321 4.5.3.1.4",
        sentence="The maximum total length of a command line including the command word and the <CRLF> is 512 octets.",
        steps=(Ask(b"NOOP " + b"x" * 505, "250|5..", "it is not too long", text=r"!\b(long|length)\b"),),
    ),
    Case(
        id="syntax.line-8000",
        title="a line of 8,000 octets gets one answer, and the session goes on",
        section="RFC 5321 4.2",
        sentence=ONE_ANSWER,
        steps=(
            Ask(b"NOOP " + b"x" * 7993, "250|500|501", or_close=True),
            Send(b"QUIT\r\n"),
            ExpectAll("221|", "QUIT is answered"),
        ),
        quits=False,
    ),
    Case(
        id="syntax.line-rest",
        title="the rest of a line too long is not taken for commands",
        section="RFC 5321 4.2",
        sentence=ONE_ANSWER,
        steps=(
            Send(b"NOOP" + b" RSET" * 4000 + b"\r\nQUIT\r\n"),
            ExpectAll(r"((250|5..|421)( 221)?)?", "there was one line, with one answer or none"),
        ),
        quits=False,
    ),
    Case(
        id="syntax.line-split",
        title="CR and LF in two segments are one end of a line",
        section="RFC 5321 2.3.8",
        sentence=TERMINATOR,
        steps=(Send(b"NOOP\r"), Send(b"\n"), Expect("250"), Send(b"NOOP\r"), Send(b"\n"), Expect("250")),
    ),
    Case(
        id="syntax.path-256",
        title="a path of 256 octets is no line too long",
        section="RFC 5321 4.5.3.1.3",
        sentence="The maximum total length of a reverse-path or forward-path is 256 octets (including the punctuation and element "
        "separators).",
        level=Level.SHOULD,
        needs=("MAIL",),
        steps=(Ask(b"MAIL FROM:<" + b"a" * 64 + b"@" + (b"b" * 60 + b".") * 3 + b"sample>", "250|55."),),
    ),
    Case(
        id="syntax.http",
        title="a header field is no command",
        section="RFC 5321 4.2.4",
        sentence="",
        level=Level.RECOMMENDED,
        state=State.GREETED,
        steps=(Ask(b"Subject: hello", "221|5..", or_close=True),),
        quits=False,
    ),
    Case(
        id="syntax.errors-then-mail",
        title="errors do not spoil what comes after them",
        section="RFC 5321 4.2",
        sentence=ONE_ANSWER,
        needs=("MAIL",),
        steps=(Ask(b"MAIL", REFUSED), Ask(b"XCONFORM", REFUSED), MAIL),
    ),
)
