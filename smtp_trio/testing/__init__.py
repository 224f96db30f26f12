"""SMTP under a clock that you own: servers and clients for tests, joined in memory, with faults, transcripts and sweeps."""

from __future__ import annotations

from ._attempt import Attempt
from ._decisions import Layer
from ._doors import Doors, fixed_doors
from ._entry import Entry
from ._faults import Faults
from ._faulty import FaultyStream
from ._inbox import Inbox, ReceivedMail
from ._memory import MemoryServer, open_memory_server
from ._pair import memory_pair
from ._personalities import (
    ConnectionsPerPeer,
    Greylist,
    MessageRate,
    MessagesPerConnection,
    RecipientsPerMessage,
    Tarpit,
)
from ._port import TestServer, open_test_server
from ._recording import RecordedStream
from ._rule import Rule, Sometimes
from ._rules import (
    Answer,
    Close,
    Delay,
    Drop,
    Early,
    Extra,
    Garbage,
    Hang,
    Ignore,
    Instead,
    Lie,
    Pace,
    Reset,
    Together,
    Trickle,
)
from ._streams import MemoryStream, bounded_stream_pair
from ._sweep import SweepError, SweepReport, cancel_everywhere, fail_everywhere
from ._thread import InboxThread, open_inbox_thread
from ._transcript import Transcript

__all__ = [
    "Answer",
    "Attempt",
    "Close",
    "ConnectionsPerPeer",
    "Delay",
    "Doors",
    "Drop",
    "Early",
    "Entry",
    "Extra",
    "Faults",
    "FaultyStream",
    "Garbage",
    "Greylist",
    "Hang",
    "Ignore",
    "Inbox",
    "InboxThread",
    "Instead",
    "Layer",
    "Lie",
    "MemoryServer",
    "MemoryStream",
    "MessageRate",
    "MessagesPerConnection",
    "Pace",
    "ReceivedMail",
    "RecipientsPerMessage",
    "RecordedStream",
    "Reset",
    "Rule",
    "Sometimes",
    "SweepError",
    "SweepReport",
    "Tarpit",
    "TestServer",
    "Together",
    "Transcript",
    "Trickle",
    "bounded_stream_pair",
    "cancel_everywhere",
    "fail_everywhere",
    "fixed_doors",
    "memory_pair",
    "open_inbox_thread",
    "open_memory_server",
    "open_test_server",
]
