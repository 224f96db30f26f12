"""Checks that hold for every reply of a server, by the name that ``check:`` gives them (RFC 5321 4.2, RFC 2034)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from ._talk import Reply

ENHANCED = re.compile(r"([245])\.[0-9]{1,3}\.[0-9]{1,3}(?= |$)")
LISTED = re.compile("2(11|14|20|21|35|5[0-4])|3(34|54)|4(21|32|5[0-9])|5(0[0-4]|21|23|25|3[0458]|5[0-9])")
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


#: Each returns whether a reply violates the rule.
INVARIANTS: Mapping[str, Callable[[Reply], bool]] = {
    "reply syntax": any_line(rb"[0-9]{3}([ -].*)?\r?\n"),
    "code from 200 to 559": lambda reply: re.fullmatch("[2-5][0-5][0-9]", reply.code) is None,
    "CRLF": any_line(rb"[^\r\n]*\r\n"),
    "at most 512 octets": lambda reply: max(map(len, reply.lines)) > 512,
    "one code": lambda reply: len({line[:3] for line in reply.lines}) > 1,
    "printable text": not_text,
    "code of RFC 5321": lambda reply: LISTED.fullmatch(reply.code) is None,
    "enhanced code": lambda reply: not has_none_by_right(reply) and reply.to != "" and enhanced(reply) == {""},
    "enhanced code of the same class": lambda reply: any(
        code[:1] not in ("", reply.code[0]) for code in enhanced(reply)
    ),
    "one enhanced code": lambda reply: not has_none_by_right(reply) and reply.to != "" and len(enhanced(reply)) > 1,
    "no enhanced code": lambda reply: reply.code[0] in "23" and has_none_by_right(reply) and enhanced(reply) != {""},
    "no exception text": lambda reply: LEAK.search(reply.text) is not None,
}
