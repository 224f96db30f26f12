"""Events."""

from __future__ import annotations

import enum

from .commands import Command


class Signal(enum.Enum):
    """What `ServerProtocol.next_event` gives besides commands and pieces of the message."""

    NEED_DATA = "receive more, then ask again"
    END_OF_CHUNK = "a BDAT's octets are over: answer it"
    END_OF_BODY = "the message is over: answer it"
    FAULT = "the message cannot be accepted any more, and its rest is dropped; `ServerProtocol.fault` is its answer"
    CONNECTION_LOST = "the input has ended"


NEED_DATA, END_OF_CHUNK, END_OF_BODY, FAULT, CONNECTION_LOST = Signal
Event = Command | bytes | Signal
