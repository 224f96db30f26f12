"""`ReplyParser`: reads the replies of a server (RFC 5321 4.2, RFC 2034)."""

from __future__ import annotations

import functools
import re

from .errors import RemoteProtocolError
from .framing import ReceiveBuffer
from .replies import STATUS, Reply

# A server may send anything, so all that is read here is bounded: the octets of a line and the lines of a reply. Octets
# that are not a reply are an error that cannot be recovered from. Replies belong to commands by their order alone, so
# when it is not certain how many replies have been read, no later reply can be matched to its command.
#
# Where the meaning is clear, the parser accepts more than RFC 5321 4.2 allows: longer lines, more of them, missing
# texts, and reply codes with any second digit.

#: The longest line in octets. RFC 5321 4.5.3.1.5 allows 512; some servers send long explanations.
MAX_LINE_OCTETS = 4096
#: The largest number of lines in a reply.
MAX_LINES = 128

# Reply-line of RFC 5321 4.2. The text may be missing, and the space with it (4.2.1: clients should accept a bare code).
REPLY_LINE = re.compile(rb"([2-5][0-9]{2})(?:([ -])(.*))?", re.DOTALL)


class InvalidReplyError(RemoteProtocolError):
    """The server sent ``line``, which is not a reply."""

    def __init__(self, line: bytes) -> None:
        super().__init__(f"invalid SMTP reply: {line[:80]!r}")
        self.line = line


class ReplyParser:
    """Reads replies from a buffer. After a RemoteProtocolError it must not be used again."""

    __slots__ = ("_buffer", "_code", "_texts")

    def __init__(self, buffer: ReceiveBuffer) -> None:
        self._buffer = buffer
        self._code = 0
        self._texts: list[str] = []  # of an incomplete multi-line reply

    @property
    def has_unread_input(self) -> bool:
        """True if there are octets that no returned reply contains: part of a reply, or a whole one."""
        return bool(self._texts) or self._buffer.at < len(self._buffer.data)

    def read_reply(self) -> Reply | None:
        """Return the next reply, or None if it is incomplete.

        Raises RemoteProtocolError for octets that are not a reply.
        """
        buffer = self._buffer
        while True:
            data, at = buffer.data, buffer.at
            end = data.find(b"\n", at)
            if (end if end >= 0 else len(data)) - at >= MAX_LINE_OCTETS:
                raise RemoteProtocolError(f"reply line longer than {MAX_LINE_OCTETS} octets")
            if end < 0:
                return None
            line = data[at : end + 1]
            buffer.at = end + 1
            more = line[3:4] == b"-"
            if not (more or self._texts):
                return parse_line(line)
            code, text = split_line(line)
            if self._texts and code != self._code:  # RFC 5321 4.2.1: every line has the same code
                raise RemoteProtocolError(f"expected {self._code} on every line of the reply, got {line[:80]!r}")
            self._code = code
            self._texts.append(text)
            if not more:
                texts, self._texts = self._texts, []
                return make_reply(code, texts)
            if len(self._texts) == MAX_LINES:
                raise RemoteProtocolError(f"reply of more than {MAX_LINES} lines")


@functools.lru_cache(maxsize=256)
def parse_line(line: bytes) -> Reply:
    """Parse a reply of one line. Results are cached: a server sends the same few replies again and again."""
    code, text = split_line(line)
    return make_reply(code, [text])


def split_line(line: bytes) -> tuple[int, str]:
    """Return the code and the text of a reply line. Raises RemoteProtocolError if it is not one."""
    match = REPLY_LINE.fullmatch(line[:-2]) if line.endswith(b"\r\n") else None
    if match is None:
        raise InvalidReplyError(line)
    return int(match[1]), (match[3] or b"").decode(errors="replace")


def make_reply(code: int, texts: list[str]) -> Reply:
    """Return the reply with these texts on its lines, with the enhanced status code split off."""
    status = texts[0].partition(" ")[0]
    # A first word that does not agree with the code is text: the server may not use enhanced status codes at all.
    if (match := STATUS.fullmatch(status)) is None or match[1] != str(code)[0]:
        return Reply(code, "\n".join(texts), "")
    # RFC 2034 4: the status code is on every line, before the text. Some servers send it on the first line only.
    return Reply(code, "\n".join(text.removeprefix(status).removeprefix(" ") for text in texts), status)
