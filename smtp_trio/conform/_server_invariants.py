"""Checks of every reply of a server, by the name that ``check:`` refers to (RFC 5321 4.2, RFC 2034)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from ._connection import ReceivedReply

ENHANCED = re.compile(r"([245])\.[0-9]{1,3}\.[0-9]{1,3}(?= |$)")
LISTED = re.compile("2(11|14|20|21|35|5[0-4])|3(34|54)|4(21|32|5[0-9])|5(0[0-4]|21|23|25|3[0458]|5[0-9])")
EXCEPTION = re.compile(r"Traceback|Exception|\bat 0x[0-9a-f]{6}|\wError\(|\.py\b|\.js:[0-9]")


def any_line_unlike(pattern: bytes) -> Callable[[ReceivedReply], bool]:
    """Return a check that is violated by a line that does not match."""
    compiled = re.compile(pattern, re.DOTALL)
    return lambda reply: not all(compiled.fullmatch(line) for line in reply.lines)


def enhanced_codes(reply: ReceivedReply) -> set[str]:
    """Return the enhanced status codes of all lines, with an empty string for a line without one."""
    found = (ENHANCED.match(text) for text in reply.text.split("\n"))
    return {match[0] if match else "" for match in found}


def exempt(reply: ReceivedReply) -> bool:
    """Return whether RFC 2034 4 exempts a reply: the greeting, even if it is 421, replies to EHLO and HELO, and 3yz.

    The positive reply to XCLIENT is a greeting.
    """
    if reply.to == "XCLIENT" and reply.code == "220":
        return True
    return reply.number == 0 or reply.to in ("EHLO", "HELO", "LHLO") or reply.code.startswith("3")


def not_printable(reply: ReceivedReply) -> bool:
    """Return whether the text is neither HT and printable ASCII nor UTF-8 after SMTPUTF8 (RFC 6531 3.7.4)."""
    if reply.smtputf8 and reply.code in ("250", "251", "252", "550", "551"):
        return False
    return re.fullmatch(r"[\t\n -~]*", reply.text) is None


#: Each returns whether a reply violates the requirement. Replies within groups have no `ReceivedReply.to`: they may be
#: those to EHLO.
SERVER_INVARIANTS: Mapping[str, Callable[[ReceivedReply], bool]] = {
    "reply syntax": any_line_unlike(rb"[0-9]{3}([ -].*)?\r?\n"),
    "code from 200 to 559": lambda reply: re.fullmatch("[2-5][0-5][0-9]", reply.code) is None,
    # A bare CR is not printable text, and counts there only.
    "CRLF": any_line_unlike(rb".*\r\n"),
    "at most 512 octets": lambda reply: max(map(len, reply.lines)) > 512,
    "one code": lambda reply: len({line[:3] for line in reply.lines}) > 1,
    "printable text": not_printable,
    "code of RFC 5321": lambda reply: LISTED.fullmatch(reply.code) is None,
    "enhanced code": lambda reply: not exempt(reply) and reply.to != "" and enhanced_codes(reply) == {""},
    "enhanced code of the same class": lambda reply: any(
        code[:1] not in ("", reply.code[0]) for code in enhanced_codes(reply)
    ),
    "one enhanced code": lambda reply: not exempt(reply) and reply.to != "" and len(enhanced_codes(reply)) > 1,
    "no enhanced code": lambda reply: reply.code[0] in "23" and exempt(reply) and enhanced_codes(reply) != {""},
    "no exception text": lambda reply: EXCEPTION.search(reply.text) is not None,
}
