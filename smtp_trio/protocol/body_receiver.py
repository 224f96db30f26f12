"""`BodyReceiver`: reads the octets of a message from DATA, BDAT or BURL, and inspects them."""

from __future__ import annotations

from . import replies
from .body_inspector import BodyInspector, Newlines
from .events import END_OF_BODY, END_OF_CHUNK, FAULT, NEED_DATA, Event
from .extensions.eightbitmime import BODY
from .framing import CountedReader, DotTerminatedReader, ReceiveBuffer
from .limits import Limits
from .replies import Reply
from .session_state import SessionState

# The life of a message
# ---------------------
#
# DATA:  Data event -> 354 -> pieces -> END_OF_BODY -> final reply
# BDAT:  Bdat event -> pieces -> END_OF_CHUNK -> reply; Bdat event -> ... -> END_OF_BODY -> final reply
#
# With DATA, the end of the message is a command of its own, `EndOfData`, because the 354 has already answered the DATA.
# With BDAT, the reply after the octets is the reply to the BDAT, so that command stays pending while they are read.
#
# The state of a message is kept in its `BodyInspector`. It is made with the first reader, serves all chunks of the
# message, and is dropped when the message ends: when the transaction is over, or when a chunk is refused (RFC 3030 2:
# the client must then send RSET). The reader, in contrast, belongs to one DATA or BDAT. Two members of the inspector
# change what happens to the octets:
#
#   fault       The message cannot be accepted: a bare LF, too large, in a mail loop. FAULT is returned once, so that
#               the application can stop early. The octets are still received, without being checked. `send_reply`
#               does not accept a positive reply to a message with a fault.
#   discarding  The application does not want the rest (`discard`). The octets give no events, only their end does.
#
# A client goes on sending after a fault, since RFC 5321 gives it no way to stop in the middle of DATA. But a client
# that sends more than ten times the maximum size, which the reply to EHLO announces (SIZE, RFC 1870), is disconnected.

#: The size of a part of a message that ends with `BodyReceiver.add_fetched`.
UNKNOWN_SIZE = 2**64
#: What the octets that a BURL refers to must not have without a conversion, unless the message has BODY=BINARYMIME.
NOT_TEXT = (replies.NUL, replies.BARE_CR, replies.BARE_LF)


class BodyReceiver:
    """The message that a session receives, if there is one."""

    __slots__ = ("_buffer", "_last", "_limits", "_newlines", "_received", "_state", "fetched", "inspector", "reader")

    def __init__(self, received: ReceiveBuffer, state: SessionState, limits: Limits, newlines: Newlines) -> None:
        self._received = received
        self._state = state
        self._limits = limits
        self._newlines = newlines
        #: Takes octets of the message from a buffer, as long as there are more of this DATA, BDAT or BURL.
        self.reader: DotTerminatedReader | CountedReader | None = None
        #: The octets for a BURL, which the application fetches; None if they are those that the client sends.
        self.fetched: ReceiveBuffer | None = None
        #: The state of the message, from its first octet to its final reply; otherwise None.
        self.inspector: BodyInspector | None = None
        self._buffer = received  # what the reader reads
        self._last = True  # the message ends with the reader

    def begin(self, reader: DotTerminatedReader | CountedReader, *, last: bool) -> None:
        """Read the octets of a message, or of a part of it; ``last`` is true if no other part follows."""
        self.reader, self._buffer, self._last = reader, self._received, last
        if self.inspector is None:  # the message begins; otherwise this is another chunk of it
            state = self._state
            # RFC 3030 3: the lines of a BINARYMIME message are not delimited by CRLF.
            binary = state.mail is not None and state.mail.params.get(BODY) == "BINARYMIME"
            newlines: Newlines = "preserve" if binary else self._newlines
            self.inspector = BodyInspector(newlines, state.size, self._limits.received, self._limits.header)

    def begin_fetched(self, *, last: bool) -> None:
        """Read a part of a message that `add_fetched` provides."""
        fetched = ReceiveBuffer()
        self.begin(CountedReader(fetched, UNKNOWN_SIZE), last=last)
        self._buffer = self.fetched = fetched

    def add_fetched(self, octets: bytes) -> None:
        """Add octets to such a part; b"" at its end."""
        assert self.fetched is not None
        assert isinstance(self.reader, CountedReader)
        if octets:
            self.fetched.add(octets)
        else:
            self.reader.remaining = len(self.fetched)

    def next_event(self) -> Event:
        """Return the next piece of the message, or NEED_DATA, FAULT, END_OF_CHUNK or END_OF_BODY."""
        reader, inspector, buffer = self.reader, self.inspector, self._buffer
        assert reader is not None
        assert inspector is not None
        if buffer.at == len(buffer.data) and not reader.ended and inspector.fault is None:
            buffer.compact()
            return NEED_DATA
        data = b"" if reader.ended else reader.read()
        last = reader.ended and self._last
        if inspector.fault is not None or inspector.discarding:
            inspector.skip(len(data))
            if inspector.far_too_big:
                inspector.fault = Reply(421, "Message far exceeds the maximum size; closing the connection", "4.3.2")
                self._end()
                return END_OF_BODY
        elif data or (last and inspector.holds_cr):
            data = inspector.check(data, end=last)
            if inspector.fault is not None:
                if self.fetched is not None and inspector.fault in NOT_TEXT:
                    inspector.fault = replies.CONVERSION_REQUIRED  # RFC 4468 6
                return FAULT
            if data:
                return data
        if reader.ended:
            self._end()
            return END_OF_BODY if last else END_OF_CHUNK
        buffer.compact()
        return NEED_DATA

    def drop(self) -> None:
        """Drop the message: the session ends."""
        self._end()
        self.inspector = None

    def _end(self) -> None:
        self.reader = self.fetched = None
        self._buffer = self._received
