"""Replies: a code, words for people, and an enhanced status code (RFC 5321 4.2, RFC 2034, RFC 3463).

A reply is made once and printed often, so its bytes are made when it is; the words that the core itself uses are constants below.
Whatever text it is given, what it prints is one well-formed reply: a line break in the text makes a multi-line reply, never a
second one (RFC 5321 4.2.1), and no line is longer than 512 octets (RFC 5321 4.5.3.1.5).
"""

from __future__ import annotations

import functools
import re

from attrs import field, frozen

# RFC 5321 4.5.3.1.5: a reply line has 512 octets at most, its code and CRLF among them.
LINE = 512 - len(b"250-") - len(b"\r\n")

# RFC 5248 and RFC 3463: the status that fits a code best when nobody said more. RFC 2034 4 wants one on every reply but these:
# the greeting, the answer to HELO and EHLO, and all of 3yz.
STATUS = {
    211: "2.0.0", 214: "2.0.0", 220: "2.0.0", 221: "2.0.0", 235: "2.7.0", 250: "2.0.0", 251: "2.1.5", 252: "2.5.0",
    421: "4.3.0", 432: "4.7.12", 450: "4.2.0", 451: "4.3.0", 452: "4.3.1", 454: "4.7.0", 455: "4.5.4",
    500: "5.5.2", 501: "5.5.4", 502: "5.5.1", 503: "5.5.1", 504: "5.5.4", 521: "5.3.2", 525: "5.7.13", 530: "5.7.0",
    534: "5.7.9", 535: "5.7.8", 538: "5.7.11", 550: "5.7.1", 551: "5.1.6", 552: "5.3.4", 553: "5.1.3", 554: "5.0.0",
    555: "5.5.4", 556: "5.1.10",
}  # fmt: skip

ENHANCED = re.compile(r"([245])\.[0-9]{1,3}\.[0-9]{1,3}")
# textstring of RFC 5321 4.2 is HT, SP and VCHAR; RFC 6531 3.7.4 lets UTF-8 through where a mailbox is spoken of.
UNPRINTABLE = re.compile(r"[\0-\x08\n-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
NEWLINE = re.compile(r"\r\n|\r|\n")


@functools.cache
def _check(code: int, status: str | None) -> None:
    # RFC 5321 4.2: Reply-code = %x32-35 %x30-35 %x30-39. Servers invent others, and the first digit counts (4.3.2), so a client
    # must be able to hold them; which ones a command may be answered with, its ``codes`` say.
    if not 200 <= code <= 599:
        raise ValueError(f"{code} is not an SMTP reply code: the first digit is 2 to 5")
    if not status:
        return
    match = ENHANCED.fullmatch(status)
    if match is None:
        raise ValueError(f"{status!r} is not an enhanced status code such as 5.1.1 (RFC 3463 2)")
    if match[1] != str(code)[0]:
        raise ValueError(f"enhanced status {status} disagrees with reply code {code} (RFC 2034 4)")


@frozen
class Reply:
    """An answer to one command.

    ``text`` may hold line breaks, which make a multi-line reply. ``status`` is the enhanced status code; None lets the command or
    the code choose the usual one, "" prints none at all. Raises ValueError for a code or status that no SMTP reply can have.
    """

    code: int
    text: str = ""
    status: str | None = None
    _bytes: bytes = field(init=False, eq=False, repr=False)

    def __attrs_post_init__(self) -> None:
        _check(self.code, self.status)
        status = STATUS.get(self.code, f"{self.code // 100}.0.0") if self.status is None else self.status
        object.__setattr__(self, "_bytes", encode(self.code, self.text, "" if self.intermediate else status))

    @property
    def accepted(self) -> bool:
        """Positive completion, 2yz (RFC 5321 4.2.1: the first digit decides, the rest is for people)."""
        return self.code < 300

    @property
    def intermediate(self) -> bool:
        """Positive so far, 3yz: the server waits for more of the same."""
        return 300 <= self.code < 400

    @property
    def temporary(self) -> bool:
        """Refused for now, 4yz."""
        return 400 <= self.code < 500

    @property
    def permanent(self) -> bool:
        """Refused for good, 5yz."""
        return self.code >= 500

    @property
    def refused(self) -> bool:
        """Refused, 4yz or 5yz."""
        return self.code >= 400

    def encode(self, *, enhanced: bool = True) -> bytes:
        """The reply as it goes over the wire; without its enhanced status where that extension is not in use (RFC 2034 4)."""
        return self._bytes if enhanced or self.status == "" else encode(self.code, self.text, "")

    def __str__(self) -> str:
        return self._bytes.decode().rstrip().replace("\r\n", " / ")


def encode(code: int, text: str, status: str) -> bytes:
    """Print a reply: every line carries the code and the status (RFC 5321 4.2.1, RFC 2034 4)."""
    prefix = f"{status} " if status else ""
    if text.isascii() and text.isprintable() and len(text) + len(prefix) <= LINE:
        return f"{code} {prefix}{text}\r\n".encode()
    lines = [piece for line in NEWLINE.split(text) for piece in fold(UNPRINTABLE.sub("?", line), LINE - len(prefix))]
    marks = "-" * (len(lines) - 1) + " "
    return b"".join(f"{code}{mark}{prefix}{line}\r\n".encode() for mark, line in zip(marks, lines, strict=True))


def fold(line: str, room: int) -> list[str]:
    """Cut a line into pieces of ``room`` octets at most, between characters, at a space where there is one."""
    pieces = []
    while len(line.encode()) > room:
        head = line.encode()[:room].decode(errors="ignore")
        cut = head.rfind(" ") + 1 or len(head)
        pieces.append(line[:cut].rstrip(" ") if cut > 1 else line[:cut])
        line = line[cut:]
    return [*pieces, line]


# What the core and the session say by themselves. (CONFORMANCE: RFC 5321 4.2.3, 4.3.2; statuses by RFC 5248.)
OK = Reply(250, "Ok", "2.0.0")
SENDER_OK = Reply(250, "Ok", "2.1.0")
RECIPIENT_OK = Reply(250, "Ok", "2.1.5")
START_MAIL_INPUT = Reply(354, "End data with <CR><LF>.<CR><LF>", "")
CANNOT_VRFY = Reply(252, "Cannot VRFY user, but will accept message and attempt delivery", "2.5.0")

BAD_LINE = Reply(500, "Bare CR or LF in a command line; lines must end in CRLF", "5.5.2")
LONG_LINE = Reply(500, "Line too long", "5.5.2")
EMPTY_LINE = Reply(500, "Empty line; a command was expected", "5.5.2")
BAD_UTF8 = Reply(500, "Line is not valid UTF-8", "5.5.2")
BAD_VERB = Reply(500, "Illegal character in the command's verb", "5.5.2")
BAD_CHARACTER = Reply(501, "Illegal character in the command's argument", "5.5.2")
NOT_SMTP = Reply(421, "This is an SMTP server; closing the connection", "4.7.0")
UNKNOWN = Reply(500, "Command not recognized", "5.5.1")
NOT_IMPLEMENTED = Reply(502, "Command not implemented", "5.5.1")
NO_RECIPIENTS = Reply(554, "No valid recipients", "5.5.1")
TOO_MANY_RECIPIENTS = Reply(452, "Too many recipients", "4.5.3")

BARE_CR = Reply(550, "Message refused: bare CR; lines must end in CRLF", "5.5.2")
BARE_LF = Reply(550, "Message refused: bare LF; lines must end in CRLF", "5.5.2")
TOO_BIG = Reply(552, "Message size exceeds the maximum", "5.3.4")
LOOP = Reply(554, "Too many Received fields: the message is in a loop", "5.4.6")
LOCAL_ERROR = Reply(451, "Local error in processing", "4.3.0")
