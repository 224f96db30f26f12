"""What holds for every reply: it is judged over all that was heard in the other cases (RFC 5321 4.2, RFC 2034)."""

from __future__ import annotations

import re
from collections.abc import Callable

from .._case import Invariant, Level
from .._talk import Reply

CODES = ("ENHANCEDSTATUSCODES",)
ENHANCED = re.compile(r"([245])\.[0-9]{1,3}\.[0-9]{1,3}(?= |$)")
LEAK = re.compile(r"Traceback|Exception|\bat 0x[0-9a-f]{6}|\wError\(|\.py\b|\.js:[0-9]")


def any_line(pattern: bytes) -> Callable[[Reply], bool]:
    """Whether a line is not like that."""
    like = re.compile(pattern, re.DOTALL)
    return lambda reply: not all(like.fullmatch(line) for line in reply.lines)


def enhanced(reply: Reply) -> set[str]:
    """The enhanced codes of all lines; the empty one for a line that has none."""
    found = (ENHANCED.match(text) for text in reply.text.split("\n"))
    return {match[0] if match else "" for match in found}


def has_none_by_right(reply: Reply) -> bool:
    """Greetings, answers to EHLO and HELO, and 3yz (RFC 2034 4); a 421 in place of the greeting too."""
    return reply.number == 0 or reply.to in ("EHLO", "HELO") or reply.code.startswith("3")


def not_text(reply: Reply) -> bool:
    """HT and the printable characters of ASCII, or UTF-8 once SMTPUTF8 was said (RFC 6531 3.7.4)."""
    if reply.smtputf8 and reply.code in ("250", "251", "252", "550", "551"):
        return False
    return re.fullmatch(r"[\t\n -~]*", reply.text) is None


CASES = (
    Invariant(
        id="replies.syntax",
        title="three digits, then a space, a hyphen, or the end of the line",
        section="RFC 5321 4.2",
        sentence='Reply-line = *( Reply-code "-" [ textstring ] CRLF ) Reply-code [ SP textstring ] CRLF',
        broken=any_line(rb"[0-9]{3}([ -].*)?\r?\n"),
    ),
    Invariant(
        id="replies.codes",
        title="codes from 200 to 559",
        section="RFC 5321 4.2",
        sentence="Reply-code = %x32-35 %x30-35 %x30-39",
        broken=lambda reply: re.fullmatch("[2-5][0-5][0-9]", reply.code) is None,
    ),
    Invariant(
        id="replies.crlf",
        title="CRLF ends each line",
        section="RFC 5321 2.3.8",
        sentence="Conforming implementations MUST NOT recognize or generate any other character or character sequence as a line "
        "terminator.",
        broken=any_line(rb"[^\r\n]*\r\n"),
    ),
    Invariant(
        id="replies.length",
        title="a line has 512 octets at most",
        section="RFC 5321 4.5.3.1.5",
        sentence="The maximum total length of a reply line including the reply code and the <CRLF> is 512 octets.",
        broken=lambda reply: max(map(len, reply.lines)) > 512,
    ),
    Invariant(
        id="replies.one-code",
        title="all lines of a reply have the same code",
        section="RFC 5321 4.2.1",
        sentence="In a multiline reply, the reply code on each of the lines MUST be the same.",
        broken=lambda reply: len({line[:3] for line in reply.lines}) > 1,
    ),
    Invariant(
        id="replies.text",
        title="the text is printable ASCII",
        section="RFC 5321 4.2",
        sentence="textstring = 1*(%d09 / %d32-126) ; HT, SP, Printable US-ASCII",
        broken=not_text,
    ),
    Invariant(
        id="replies.listed",
        title="codes that the RFC lists",
        section="RFC 5321 4.2",
        sentence="An SMTP server SHOULD send only the reply codes listed in this document.",
        level=Level.SHOULD,
        broken=lambda reply: (
            re.fullmatch(
                "2(11|14|20|21|35|5[0-4])|3(34|54)|4(21|32|5[0-9])|5(0[0-4]|21|23|25|3[0458]|5[0-9])",
                reply.code,
            )
            is None
        ),
    ),
    Invariant(
        id="replies.enhanced",
        title="every reply has an enhanced code that should",
        section="RFC 2034 4",
        sentence="These codes must appear in all 2xx, 4xx, and 5xx response lines other than initial greeting and any response to "
        "HELO or EHLO.",
        needs=CODES,
        broken=lambda reply: not has_none_by_right(reply) and reply.to != "" and enhanced(reply) == {""},
    ),
    Invariant(
        id="replies.enhanced-class",
        title="the enhanced code says the same as the code",
        section="RFC 2034 4",
        sentence="All status codes returned by the server must agree with the primary response code",
        needs=CODES,
        broken=lambda reply: any(code[:1] not in ("", reply.code[0]) for code in enhanced(reply)),
    ),
    Invariant(
        id="replies.enhanced-lines",
        title="all lines of a reply have the same enhanced code",
        section="RFC 2034 4",
        sentence="When responses are continued across multiple lines the same status code must appear at the beginning of the text "
        "in each line of the response.",
        needs=CODES,
        broken=lambda reply: not has_none_by_right(reply) and reply.to != "" and len(enhanced(reply)) > 1,
    ),
    Invariant(
        id="replies.enhanced-none",
        title="no enhanced code in the greeting, in answers to EHLO and HELO, and in 3yz",
        section="RFC 2034 4",
        sentence="Note that 3xx responses are NOT included in this list.",
        level=Level.SHOULD,
        needs=CODES,
        broken=lambda reply: reply.code[0] in "23" and has_none_by_right(reply) and enhanced(reply) != {""},
    ),
    Invariant(
        id="replies.internals",
        title="no text of an exception",
        section="RFC 5321 7.9",
        sentence="",
        level=Level.RECOMMENDED,
        broken=lambda reply: LEAK.search(reply.text) is not None,
    ),
)
