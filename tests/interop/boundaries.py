"""Random sessions for `test_boundaries`, and a model of where a server sees messages in their octets."""

from __future__ import annotations

import random
import re
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

MAIL, RCPT, DATA = b"MAIL FROM:<ada@example.net>", b"RCPT TO:<bo@example.org>", b"DATA"
CRLF = b"\r\n"
ENDS = (*[CRLF] * 5, b"\n", b"\n", b"\r", b"\r\r\n", b"\n\r")
#: What a server may do in another way than the strictest reading of RFC 5321, by which only CRLF ends a command or a
#: line of a message (2.3.8, 4.1.1.4), so that only CRLF.CRLF ends a message.
KINDS: Mapping[str, str] = {
    "command-lf": "LF ends a command, and CRs before it are ignored",
    "line-lf": "LF ends a line of a message, and CRs before it are ignored, so that LF.LF and CR CR LF . LF end a message",
    "cr-space": "stores a bare CR in a message as a space",
    "leading-cr": "ignores a CR before a command",
    "refuses": "refuses a message with a bare CR, a bare LF or a NUL",
    "closes": "closes the connection if more octets follow a DATA or BDAT that is refused",
}
REFUSED = re.compile(rb"\r(?!\n)|(?<!\r)\n|\0")


def start(number: int) -> bytes:
    """Return the beginning of all messages of a session: an empty header section, and the number of the session."""
    return b"\r\n%d\r\n" % number


def session(seed: int, number: int, *, chunking: bool) -> bytes:
    """Return what a client sends in one session; ``chunking`` allows BDAT.

    No server receives so many unknown commands that it closes the session; aiosmtpd does after the fifth.
    """
    choose = random.Random(f"{seed} {number}")
    while True:
        octets = _session(choose, number, chunking=chunking)
        if all(read(octets, kinds).unknown < 5 for kinds in ((), ("command-lf",), ("command-lf", "line-lf"))):
            return octets


def _session(choose: random.Random, number: int, *, chunking: bool) -> bytes:
    strict = choose.random() < 0.4  # all line ends are CRLF, and there is no NUL

    def end(ends: Sequence[bytes] = ENDS) -> bytes:
        return CRLF if strict else choose.choice(ends)

    def junk(most: int) -> bytes:
        pieces: list[bytes] = []
        for _ in range(choose.randint(0, most)):
            pieces += choose.choice(
                [
                    *[[b"x", end()], [b"x"], [b"."], [end()]],
                    [b"" if strict else b"\0"],
                    [b"BDAT 3 LAST" if chunking else b"x", end()],
                    *[[end(), b".", end()]] * 4,
                    *[[command, end()] for command in (MAIL, RCPT)],
                    [DATA, end(ENDS[:-1]), start(number)],  # a CR would become a part of the message's start
                ]
            )
        return b"".join(pieces)

    def by_data(ends: bytes) -> bytes:
        return ends.join((MAIL, RCPT, DATA, start(number) + junk(3)))

    def by_bdat() -> bytes:
        content = start(number) + junk(6) + CRLF
        at = choose.randint(1, len(content) - 1)
        first, last = content[:at], content[at:]
        chunks = b"BDAT %d\r\n%sBDAT %d LAST\r\n%s" % (len(first), first, len(last), last)
        return CRLF.join((b"RSET", MAIL, RCPT, chunks)) + b"RSET\r\n"

    parts = [b"EHLO client.example.net\r\n"]
    for _ in range(choose.randint(1, 2)):
        parts += [by_data(CRLF), junk(5), end(), b".", end()]
        if choose.random() < 0.5:  # what an author smuggles in
            parts += [by_data(end(ENDS[:-1])), choose.choice([end() + b"." + end(), CRLF + b"." + CRLF])]
        if chunking and choose.random() < 0.5:
            parts += [CRLF, b".", CRLF, by_bdat()]
    return b"".join((*parts, CRLF, b".", CRLF, b"QUIT", CRLF))


def segments(seed: int, octets: bytes) -> list[bytes]:
    """Divide octets at a few random places."""
    choose = random.Random(f"{seed} {octets!r}")
    cuts = sorted(choose.sample(range(1, len(octets)), choose.randint(0, 4)))
    return [octets[start:end] for start, end in zip([0, *cuts], [*cuts, len(octets)], strict=True)]


class Reading(NamedTuple):
    """The messages that a server sees in a session, and the number of unknown commands."""

    messages: list[bytes]
    unknown: int


def messages(octets: bytes, kinds: Collection[str] = ()) -> list[bytes]:
    """Return the messages in the octets of a session, sorted: by the strictest reading, or with deviations of KINDS."""
    return sorted(read(octets, kinds).messages)


def read(octets: bytes, kinds: Collection[str] = ()) -> Reading:
    """Read the octets of a session as a server does."""
    command_end = re.compile(rb"\r*\n" if "command-lf" in kinds else CRLF)
    line_end = re.compile(rb"\r*\n" if "line-lf" in kinds else CRLF)
    found: list[bytes] = []
    sender = recipient = refused = False  # RFC 3030 2: after a refused chunk the client has to send RSET
    at, content, unknown = 0, b"", 0
    while match := command_end.search(octets, at):
        line, at = octets[at : match.start()], match.end()
        line = line.lstrip(b"\r") if "leading-cr" in kinds else line
        complete = False
        unknown += re.match(rb"(?i)(EHLO|MAIL|RCPT|DATA|RSET|QUIT)( |$)|$", line) is None
        if line == b"QUIT":
            break
        if line == b"RSET":
            sender = recipient = refused = False
            content = b""
        elif line == MAIL:
            sender = not refused
        elif line == RCPT:
            recipient = sender
        elif line == DATA and recipient:
            while match := line_end.search(octets, at):
                text, at = octets[at : match.start()], match.end()
                if complete := text == b".":
                    break
                content += text.removeprefix(b".") + CRLF
        elif chunk := re.fullmatch(rb"BDAT (\d+)( LAST)?", line):
            start, at = at, at + int(chunk[1])
            if recipient:
                content, complete = content + octets[start:at], chunk[2] is not None
                if not complete and "refuses" in kinds and REFUSED.search(content.removesuffix(b"\r")):
                    sender, recipient, refused = False, False, True
            elif "closes" in kinds:
                break
        elif "closes" in kinds and re.search(rb"(?m)^\s*(DATA|BDAT)\b", line):
            break
        if complete:
            if not ("refuses" in kinds and REFUSED.search(content)):
                content = line_end.sub(CRLF, content)
                found.append(re.sub(rb"\r(?!\n)", b" ", content) if "cr-space" in kinds else content)
            sender = recipient = False
            content = b""
    return Reading(found, unknown)
