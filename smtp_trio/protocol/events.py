"""The events that `ServerProtocol.next_event` and `ClientProtocol.next_event` return besides commands and replies."""

from __future__ import annotations

import enum

from .commands import Command


class Signal(enum.Enum):
    """An event without data."""

    NEED_DATA = "no complete event is buffered; receive more octets"
    END_OF_CHUNK = "the octets of a BDAT command are complete; the BDAT waits for its reply"
    END_OF_BODY = "the message is complete and waits for its final reply"
    FAULT = "the message cannot be accepted any more; see `ServerProtocol.fault`"
    CONNECTION_LOST = "there are no further events: the input has ended, or the session is over"


NEED_DATA, END_OF_CHUNK, END_OF_BODY, FAULT, CONNECTION_LOST = Signal
#: An event of `ServerProtocol`: a command, a piece of the message, or a `Signal`.
Event = Command | bytes | Signal
