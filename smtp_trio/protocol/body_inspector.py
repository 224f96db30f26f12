"""`BodyInspector`: checks a message while it is received: newlines, NUL, size, and the number of Received fields."""

from __future__ import annotations

import operator
from typing import Final, Literal

from . import replies
from .dot_stuffing import count_held_crs, normalize_newlines
from .header import END_OF_HEADER
from .lazy import lazy_pattern
from .replies import Reply

# How a message is inspected
# --------------------------
#
# The message passes through in pieces of any size and is not stored, and the result must not depend on where it was
# cut. Two things are therefore carried from one piece to the next:
#
# - A CR at the end of a piece. Whether it is bare is known with the next octet, so it is held back and put before the
#   next piece. To be normalized, a run of CRs is held back, because it is one line end if an LF follows. The last piece
#   is checked with ``end=True``, and then a CR at its end is bare.
# - While the header lasts, the last octets of the header so far. Received fields are counted, and the end of the header
#   is found, in a window made of these octets and the new piece. The window overlaps by one octet less than the length
#   of the searched text: a field that is cut in two is found, and none is counted twice. The window begins with a
#   CRLF, as if a line had ended before the first one, so that a field in the first line is found too.
#
# A message that has a fault is still received to its end, because the client sends it all the same (RFC 5321 has no way
# to interrupt it), but no further piece is checked or returned. If a piece has several faults, the one at the lowest
# position is reported. Otherwise a message with a bare LF that is also too large would get one reply or the other
# depending on how it was cut.

#: What to do with a bare CR or LF in a message: refuse the message, make it CRLF, or leave it as it is.
Newlines = Literal["reject", "normalize", "preserve"]

#: A CR or LF that is not part of a CRLF.
BARE: Final = lazy_pattern(rb"\r(?!\n)|(?<!\r)\n")
RECEIVED_FIELD: Final = b"\r\nreceived:"


class BodyInspector:
    """The checks of one message and what they found.

    ``max_size`` is the largest size of a message in octets, ``max_received`` the largest number of Received fields, and
    ``max_header`` the largest size of the header section; 0 means no limit. ``size`` counts the octets that were
    returned, ``received`` all that arrived. ``repaired`` counts the pieces in which newlines were replaced by CRLF.
    """

    __slots__ = (
        "_crs",
        "_header_tail",
        "_max_header",
        "_max_received",
        "_max_size",
        "_newlines",
        "_received_fields",
        "discarding",
        "fault",
        "received",
        "repaired",
        "size",
    )

    def __init__(self, newlines: Newlines, max_size: int, max_received: int, max_header: int = 0) -> None:
        self._newlines = newlines
        self._max_size = max_size
        self._max_received = max_received
        self._max_header = max_header
        self._crs = 0  # CRs at the end of the last piece, which are held back
        # The last octets of the header; None after its end, or if nothing of it is checked.
        self._header_tail: bytes | None = b"\r\n" if max_received or max_header else None
        self._received_fields = 0
        #: The reply that the message must get because it cannot be accepted.
        self.fault: Reply | None = None
        #: The rest of the message is dropped, because the application does not need it.
        self.discarding: bool = False
        self.repaired: int = 0
        self.received: int = 0
        self.size: int = 0

    def check(self, data: bytes, *, end: bool = False) -> bytes:
        """Check the next piece, and return what can be passed on. ``end`` is true for the last piece."""
        self.received += len(data)
        faults: list[tuple[int, Reply]] = []
        if self._newlines != "preserve":
            data = self._check_newlines(data, faults, end=end)
        if self._header_tail is not None:
            self._check_header(data, faults)
        # RFC 1870 5: the size is that of the message as delivered, without the added dots and with its CRLFs.
        if 0 < self._max_size < self.size + len(data):
            faults.append((self._max_size - self.size, replies.TOO_BIG))
        if faults:
            self.fault = min(faults, key=operator.itemgetter(0))[1]
            return b""
        self.size += len(data)
        return data

    @property
    def holds_cr(self) -> bool:
        """True if a CR is held back until the next octet is known."""
        return self._crs > 0

    @property
    def far_too_big(self) -> bool:
        """True if more than ten times the maximum size has been received, although EHLO announced the maximum."""
        return 0 < self._max_size * 10 < self.received

    def skip(self, count: int) -> None:
        """Count octets that are dropped unchecked."""
        self.received += count

    def _check_newlines(self, data: bytes, faults: list[tuple[int, Reply]], *, end: bool) -> bytes:
        if self._crs:
            data = b"\r" * self._crs + data
        self._crs = 0
        if not end and data.endswith(b"\r"):
            self._crs = count_held_crs(data) if self._newlines == "normalize" else 1
            data = data[: -self._crs]
        if (nul := data.find(b"\0")) >= 0:
            # RFC 2045 2.7 and 2.8: neither 7bit nor 8bit data may contain it. Some servers read a message as a C string,
            # and take a dot after a NUL for the end of the message.
            faults.append((nul, replies.NUL))
        normalized = normalize_newlines(data)
        if normalized is data:
            return data
        if self._newlines == "reject":
            # RFC 5321 2.3.8: bare CR and LF MUST NOT be sent. If they were relayed, the next server might take a part
            # of the message for the end of the message and further commands.
            bare = BARE.search(data)
            assert bare is not None
            faults.append((bare.start(), replies.BARE_LF if bare[0] == b"\n" else replies.BARE_CR))
            return data
        self.repaired += 1
        return normalized

    def _check_header(self, data: bytes, faults: list[tuple[int, Reply]]) -> None:
        """Check the size of the header and count its Received fields.

        RFC 5321 6.3: a hundred or more Received fields indicate a loop.
        """
        tail = self._header_tail or b""
        window = tail + data
        end = window.find(END_OF_HEADER)
        self._header_tail = None if end >= 0 else window[1 - len(RECEIVED_FIELD) :]
        header = window[: end + 2 if end >= 0 else None].lower()
        # A CR at the end may be the first octet of the empty line, which is not part of the header.
        octets = len(header) - len(tail) - (end < 0 and header.endswith(b"\r"))
        if 0 < self._max_header < self.size + octets:
            faults.append((self._max_header - self.size, replies.LONG_HEADER))
        if not self._max_received:
            return
        fields = header.count(RECEIVED_FIELD)
        if self._received_fields + fields > self._max_received:
            at = -1
            for _ in range(self._max_received + 1 - self._received_fields):
                at = header.find(RECEIVED_FIELD, at + 1)
            # The position in the piece of the last octet that makes it a Received field.
            faults.append((at + len(RECEIVED_FIELD) - 1 - len(tail), replies.LOOP))
        self._received_fields += fields
