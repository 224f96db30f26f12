"""Replies: a code, a text, and an enhanced status code (RFC 5321 4.2, RFC 2034, RFC 3463)."""

from __future__ import annotations

import functools
import re

from attrs import field, frozen

from .arguments import check_type
from .lazy import lazy_pattern
from .limits import REPLY_LINE_OCTETS
from .values import Value

# How replies are encoded
# -----------------------
#
# Whatever text a reply is given, its encoding is one well-formed reply. Texts come from hooks and may contain data from
# the client or from a database, so a text must not be able to make a second reply, or a line that looks like one:
#
# - A line break in the text begins a further line of the same multi-line reply (RFC 5321 4.2.1).
# - Every line carries the code. "-" follows it on all lines but the last, which has a space.
# - Every line carries the enhanced status code too, if there is one (RFC 2034 4).
# - Characters that are not allowed in a text are replaced with "?". RFC 5321 4.2 allows HT, SP and printable ASCII; RFC
#   6531 3.7.4 adds UTF-8, for replies that name a mailbox. `ServerProtocol` knows which clients may get it
#   (`extensions.smtputf8.permitted_reply`).
# - A line is limited to 512 octets with its code and CRLF (RFC 5321 4.5.3.1.5). Longer texts are folded at a space, or
#   between two characters, but not inside the octets of one.
#
# Most replies are sent many times, so a `Reply` encodes itself once, when it is made. The encoding without the enhanced
# status code, which only clients without that extension get, is made when it is needed.

#: The room in a reply line for the enhanced status code and the text.
LINE_ROOM = REPLY_LINE_OCTETS - len(b"250-") - len(b"\r\n")

# The enhanced status code of a reply without one of its own (RFC 3463, RFC 5248). RFC 2034 4 requires one on all
# replies except the greeting, the replies to HELO and EHLO, and 3yz.
DEFAULT_STATUS = {
    211: "2.0.0", 214: "2.0.0", 220: "2.0.0", 221: "2.0.0", 235: "2.7.0", 250: "2.0.0", 251: "2.1.5", 252: "2.5.0",
    421: "4.3.0", 432: "4.7.12", 450: "4.2.0", 451: "4.3.0", 452: "4.3.1", 454: "4.7.0", 455: "4.5.4",
    500: "5.5.2", 501: "5.5.4", 502: "5.5.1", 503: "5.5.1", 504: "5.5.4", 521: "5.3.2", 525: "5.7.13", 530: "5.7.0",
    534: "5.7.9", 535: "5.7.8", 538: "5.7.11", 550: "5.7.1", 551: "5.1.6", 552: "5.3.4", 553: "5.1.3", 554: "5.0.0",
    555: "5.5.4", 556: "5.1.10",
}  # fmt: skip

STATUS = re.compile(r"([245])\.[0-9]{1,3}\.[0-9]{1,3}")
NOT_ALLOWED = lazy_pattern(r"[\0-\x08\n-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
NEWLINE = lazy_pattern(r"\r\n|\r|\n")


@functools.lru_cache(maxsize=256)  # a peer can send 300,000 combinations
def _derived(code: int, status: str | None) -> tuple[bool, bool, bool, str]:
    """Return what follows from the code: ``accepted``, ``intermediate``, ``refused``, and the status that is sent.

    Raises ValueError for an invalid code or status.
    """
    # RFC 5321 4.2 limits the second digit to 0 to 5. Servers use other codes, which a client must be able to represent;
    # the first digit decides (4.3.2). Which codes are allowed as reply to a command is checked with `Command.codes`.
    if not 200 <= code <= 599:
        raise ValueError(f"invalid reply code {code}, must be 200 to 599")
    if status:
        match = STATUS.fullmatch(status)
        if match is None:
            raise ValueError(f"invalid enhanced status code {status!r}, expected one such as 5.1.1 (RFC 3463 2)")
        if match[1] != str(code)[0]:
            raise ValueError(f"enhanced status code {status} does not match reply code {code} (RFC 2034 4)")
    if 300 <= code < 400:
        return False, True, False, ""
    sent = DEFAULT_STATUS.get(code, f"{code // 100}.0.0") if status is None else status
    return code < 300, False, code >= 400, sent


@frozen(eq=False, repr=False)
class Reply(Value):
    """The reply to one command.

    ``code`` is 200 to 599. ``text`` may contain line breaks, which make a multi-line reply. ``status`` is the enhanced
    status code (RFC 3463); None selects the default of the command or of the code, "" omits it. Raises ValueError for
    an invalid code or status, and TypeError for an argument of a wrong type.
    """

    code: int
    text: str = ""
    status: str | None = None
    # These three are stored, since they are read several times for each command: as properties they cost 3 % of a
    # group of 50 recipients.
    #: True if the reply is a positive completion, 2yz (RFC 5321 4.2.1).
    accepted: bool = field(init=False, eq=False, repr=False)
    #: True if the reply is positive and the server waits for more data, 3yz.
    intermediate: bool = field(init=False, eq=False, repr=False)
    #: True if the command was refused, 4yz or 5yz.
    refused: bool = field(init=False, eq=False, repr=False)
    _bytes: bytes = field(init=False, eq=False, repr=False)

    def __attrs_post_init__(self) -> None:
        code, text, status = self.code, self.text, self.status
        if not (type(code) is int and type(text) is str and (status is None or type(status) is str)):
            # Called only here, since the three calls would add a fifth to the time for a reply.
            check_type(code, "code", int)
            check_type(text, "text", str)
            check_type(status, "status", str, optional=True)
        # A message has a reply of its own, with its id, so that what can be looked up is not computed.
        accepted, intermediate, refused, sent = _derived(code, status)
        store = object.__setattr__
        store(self, "accepted", accepted)
        store(self, "intermediate", intermediate)
        store(self, "refused", refused)
        store(self, "_bytes", encode_reply(code, text, sent))

    @property
    def temporary(self) -> bool:
        """True if the command was refused and may succeed later, 4yz."""
        return 400 <= self.code < 500

    @property
    def permanent(self) -> bool:
        """True if the command was refused permanently, 5yz."""
        return self.code >= 500

    def encode(self, *, enhanced: bool = True) -> bytes:
        """Return the reply as it is sent. ``enhanced=False`` omits the enhanced status code (RFC 2034 4)."""
        return self._bytes if enhanced or self.status == "" else encode_reply(self.code, self.text, "")

    def __str__(self) -> str:
        return self._bytes.decode().rstrip().replace("\r\n", " / ")


def encode_reply(code: int, text: str, status: str) -> bytes:
    """Return a reply as it is sent, with ``status`` on every line unless it is ""."""
    prefix = f"{status} " if status else ""
    if text.isascii() and text.isprintable() and len(text) + len(prefix) <= LINE_ROOM:
        return f"{code} {prefix}{text}\r\n".encode()
    lines = [
        piece for line in NEWLINE.split(text) for piece in fold(NOT_ALLOWED.sub("?", line), LINE_ROOM - len(prefix))
    ]
    marks = "-" * (len(lines) - 1) + " "
    return b"".join(f"{code}{mark}{prefix}{line}\r\n".encode() for mark, line in zip(marks, lines, strict=True))


def fold(line: str, room: int) -> list[str]:
    """Split a line into pieces of at most ``room`` octets, at a space if possible, otherwise between characters."""
    pieces = []
    while len(line.encode()) > room:
        head = line.encode()[:room].decode(errors="ignore")
        cut = head.rfind(" ") + 1 or len(head)
        pieces.append(line[:cut].rstrip(" ") if cut > 1 else line[:cut])
        line = line[cut:]
    return [*pieces, line]


# The replies that the core and the session send by themselves (RFC 5321 4.2.3 and 4.3.2; status codes of RFC 5248).
OK = Reply(250, "Ok", "2.0.0")
SENDER_OK = Reply(250, "Ok", "2.1.0")
RECIPIENT_OK = Reply(250, "Ok", "2.1.5")
START_MAIL_INPUT = Reply(354, "End data with <CR><LF>.<CR><LF>", "")
CANNOT_VRFY = Reply(252, "Cannot VRFY user, but will accept message and attempt delivery", "2.5.0")

BAD_LINE = Reply(500, "Bare CR or LF in command line; lines must end in CRLF", "5.5.2")
LONG_LINE = Reply(500, "Line too long", "5.5.2")
EMPTY_LINE = Reply(500, "Empty line; command expected", "5.5.2")
BAD_UTF8 = Reply(500, "Line is not valid UTF-8", "5.5.2")
BAD_VERB = Reply(500, "Invalid character in command verb", "5.5.2")
BAD_CHARACTER = Reply(501, "Invalid character in command argument", "5.5.2")
EXTRA_SPACE = Reply(501, "More than one space between words", "5.5.4")
TLS_ON_PLAINTEXT_PORT = Reply(500, "TLS handshake received on a plaintext port; use STARTTLS", "5.5.2")
#: The reason why a connection is closed. It is not sent: the protocol requires closing without a reply.
PROXY_HEADER = Reply(500, "PROXY header received, which is not expected from this address", "5.5.1")
NOT_SMTP = Reply(421, "This is an SMTP server; closing the connection", "4.7.0")
UNKNOWN_COMMAND = Reply(500, "Command not recognized", "5.5.1")
NOT_IMPLEMENTED = Reply(502, "Command not implemented", "5.5.1")
OUT_OF_SYNC = Reply(554, "Data received after DATA, which was refused; closing the connection", "5.5.0")
NO_RECIPIENTS = Reply(554, "No valid recipients", "5.5.1")
TOO_MANY_RECIPIENTS = Reply(452, "Too many recipients", "4.5.3")
ENVELOPE_TOO_BIG = Reply(452, "Too many octets of recipients", "4.5.3")
TOO_MANY_MESSAGES = Reply(421, "Too many messages in this session; closing the connection", "4.7.0")
TOO_MANY_TRANSACTIONS = Reply(421, "Too many transactions in this session; closing the connection", "4.5.3")
TOO_MANY_DOMAINS = Reply(452, "Too many domains of recipients in this session", "4.5.3")
TOO_MANY_ERRORS = Reply(421, "Too many errors; closing the connection", "4.7.0")

BARE_CR = Reply(550, "Message refused: bare CR; lines must end in CRLF", "5.5.2")
BARE_LF = Reply(550, "Message refused: bare LF; lines must end in CRLF", "5.5.2")
#: For BURL (RFC 4468 6).
CONVERSION_REQUIRED = Reply(554, "Conversion required but not supported", "5.6.3")
NUL = Reply(550, "Message refused: NUL character; use BODY=BINARYMIME", "5.6.0")
TOO_BIG = Reply(552, "Message size exceeds the maximum", "5.3.4")
LOOP = Reply(554, "Too many Received fields: mail loop detected", "5.4.6")
LONG_HEADER = Reply(552, "Message header too large", "5.3.4")
#: Replies of an application, for `connect`, RCPT and MAIL: no mail is accepted here, or in the domain (RFC 7504, RFC 7505).
HOST_ACCEPTS_NO_MAIL = Reply(521, "Host does not accept mail", "5.3.2")
DOMAIN_ACCEPTS_NO_MAIL = Reply(556, "Domain does not accept mail", "5.1.10")
SENDER_ACCEPTS_NO_MAIL = Reply(550, "Domain of the sender does not accept mail", "5.7.27")
LOCAL_ERROR = Reply(451, "Local error in processing", "4.3.0")
#: For AUTH (RFC 4954 6).
INVALID_CREDENTIALS = Reply(535, "Authentication credentials invalid", "5.7.8")
