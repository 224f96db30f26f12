"""How octets become replies: a code, words, and where it is known an enhanced status (RFC 5321 4.2, RFC 2034).

A server may say anything. What is read here has a bound in every direction, and what is no reply ends the dialogue: once the count
of replies is in doubt, no answer can be given to the right question any more.
"""

from __future__ import annotations

import functools
import re

from .errors import RemoteProtocolError
from .framing import ReceiveBuffer
from .replies import ENHANCED, Reply

#: Octets of a line (RFC 5321 4.5.3.1.5 has 512; some servers explain themselves at length), and lines of a reply.
LINE = 4096
LINES = 128

# Reply-line of RFC 5321 4.2: the text may be missing, and with it the space (4.2.1 has clients accept the bare code). A first digit
# outside 2 to 5 is no SMTP reply at all.
REPLY_LINE = re.compile(rb"([2-5][0-9]{2})(?:([ -])(.*))?", re.DOTALL)


class ReplyParser:
    """Reads replies from an buffer. Raises RemoteProtocolError for what is none; there is no way on from that."""

    __slots__ = ("_buffer", "_code", "_texts")

    def __init__(self, buffer: ReceiveBuffer) -> None:
        self._buffer = buffer
        self._code = 0
        self._texts: list[str] = []  # of a reply that goes on

    @property
    def partial(self) -> bool:
        """Part of a reply has come, and its end has not."""
        return bool(self._texts) or len(self._buffer) > 0

    def pull(self) -> Reply | None:
        """The next reply, or None when it is not all there."""
        buffer = self._buffer
        while True:
            end = buffer.data.find(b"\n", buffer.at)
            if (end if end >= 0 else len(buffer.data)) - buffer.at >= LINE:
                raise RemoteProtocolError(f"a reply line of more than {LINE} octets")
            if end < 0:
                return None
            line = buffer.data[buffer.at : end + 1]
            buffer.at = end + 1
            more = line[3:4] == b"-"
            if not (more or self._texts):
                return read(line)
            code, text = split(line)
            if self._texts and code != self._code:  # RFC 5321 4.2.1: the code stands on every line
                raise RemoteProtocolError(f"a reply with two codes: {self._code} and {line[:80]!r}")
            self._code = code
            self._texts.append(text)
            if not more:
                texts, self._texts = self._texts, []
                return make(code, texts)
            if len(self._texts) == LINES:
                raise RemoteProtocolError(f"a reply of more than {LINES} lines")


@functools.lru_cache(maxsize=256)
def read(line: bytes) -> Reply:
    """A reply of one line. It is remembered, since a server says the same few things again and again."""
    code, text = split(line)
    return make(code, [text])


def split(line: bytes) -> tuple[int, str]:
    """The code and the words on a line. Raises RemoteProtocolError when it is not a reply's."""
    match = REPLY_LINE.fullmatch(line[:-2]) if line.endswith(b"\r\n") else None
    if match is None:
        raise RemoteProtocolError(f"not an SMTP reply: {line[:80]!r}")
    return int(match[1]), (match[3] or b"").decode(errors="replace")


def make(code: int, texts: list[str]) -> Reply:
    """The reply that has these words on its lines."""
    status = texts[0].partition(" ")[0]
    if (known := ENHANCED.fullmatch(status)) is None or known[1] != str(code)[0]:
        return Reply(code, "\n".join(texts), "")
    # RFC 2034 4: the status stands on every line, in front of the words.
    return Reply(code, "\n".join(text.removeprefix(status).removeprefix(" ") for text in texts), status)
