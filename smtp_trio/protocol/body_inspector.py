"""What a message must be besides whole: lines that end in CRLF, no more than so big, not in a loop.

These are checked on the way through, piece by piece, and never hold the message up. The first fault is the one that counts.
"""

from __future__ import annotations

import operator
import re
from typing import Final, Literal

from . import replies
from .dot_stuffing import normalize_newlines
from .replies import Reply

Newlines = Literal["reject", "normalize", "preserve"]

#: A CR or LF that is not half of a CRLF.
BARE: Final = re.compile(rb"\r(?!\n)|(?<!\r)\n")
RECEIVED: Final = b"\r\nreceived:"
BLANK: Final = b"\r\n\r\n"


class BodyInspector:
    """Looks at one message's octets as they pass.

    ``size`` counts what was let through, in octets; ``seen`` all that came. ``fault`` is the reply that the message must get, once
    it cannot be accepted. ``repaired`` counts the pieces in which line ends were made CRLF.
    """

    __slots__ = ("_cr", "_hops", "_limit", "_newlines", "_received", "_seam", "fault", "repaired", "seen", "size")

    def __init__(self, newlines: Newlines, limit: int, received: int) -> None:
        self._newlines = newlines
        self._limit = limit  # octets, 0: none
        self._received = received  # Received fields, 0: any number
        self._cr = False  # a CR at the end of the last piece is held, until we see what follows
        self._seam: bytes | None = b"\r\n"  # the end of the last piece while we are in the header, else None
        self._hops = 0
        self.fault: Reply | None = None
        self.repaired: int = 0
        self.seen: int = 0
        self.size: int = 0

    def check(self, data: bytes, *, end: bool = False) -> bytes:
        """Take the next piece, give out what may be passed on; ``end`` when it is the last one."""
        self.seen += len(data)
        faults: list[tuple[int, Reply]] = []
        if self._newlines != "preserve":
            data = self._lines(data, faults, end=end)
        if self._received and self._seam is not None:
            self._header(data, faults)
        # RFC 1870 5: what counts is the message as it is delivered, without doubled dots, with its CRLFs.
        if 0 < self._limit < self.size + len(data):
            faults.append((self._limit - self.size, replies.TOO_BIG))
        if faults:
            # The fault that stands first in the message, so that the answer does not depend on how it was cut up.
            self.fault = min(faults, key=operator.itemgetter(0))[1]
            return b""
        self.size += len(data)
        return data

    @property
    def holding(self) -> bool:
        """A CR is held back until it is known what follows."""
        return self._cr

    @property
    def far_too_big(self) -> bool:
        """Ten times the limit: whoever sends that much after being told the size does not listen."""
        return 0 < self._limit * 10 < self.seen

    def skip(self, count: int) -> None:
        """So many octets were not looked at, because the message is lost already."""
        self.seen += count

    def _lines(self, data: bytes, faults: list[tuple[int, Reply]], *, end: bool) -> bytes:
        if self._cr:
            data = b"\r" + data
        self._cr = not end and data.endswith(b"\r")
        if self._cr:
            data = data[:-1]
        mended = normalize_newlines(data)
        if mended is data:
            return data
        if self._newlines == "reject":
            # RFC 5321 2.3.8: bare CR and LF MUST NOT be sent; taken on, they smuggle messages through the next server.
            bare = BARE.search(data)
            assert bare is not None
            faults.append((bare.start(), replies.BARE_LF if bare[0] == b"\n" else replies.BARE_CR))
            return data
        self.repaired += 1
        return mended

    def _header(self, data: bytes, faults: list[tuple[int, Reply]]) -> None:
        """Count the Received fields: a hundred of them are a loop (RFC 5321 6.3). Those in the body are none."""
        seam = self._seam or b""
        window = seam + data
        end = window.find(BLANK)
        # As much as could be the beginning of either, and never a whole one, which would be counted twice.
        self._seam = None if end >= 0 else window[1 - len(RECEIVED) :]
        header = window[: end + 2 if end >= 0 else None].lower()
        hops = header.count(RECEIVED)
        if self._hops + hops > self._received:
            at = -1
            for _ in range(self._received + 1 - self._hops):
                at = header.find(RECEIVED, at + 1)
            faults.append((at + len(RECEIVED) - 1 - len(seam), replies.LOOP))
        self._hops += hops
