"""SMTP under a clock that you own: servers and clients for tests, joined in memory, with faults, transcripts and sweeps."""

from __future__ import annotations

from ._faults.decisions import Layer
from ._faults.faults import Faults
from ._faults.faulty_stream import FaultyStream
from ._faults.personalities import (
    ConnectionsPerPeer,
    Greylist,
    MessageRate,
    MessagesPerConnection,
    RecipientsPerMessage,
    Tarpit,
)
from ._faults.rule import Rule, Sometimes
from ._faults.rules import (
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
from ._servers.deterministic import DeterministicSettings, deterministic
from ._servers.inbox import Inbox, ReceivedMail
from ._servers.memory import MemoryServer, open_memory_server
from ._servers.pair import memory_pair
from ._servers.port import TestServer, open_test_server
from ._servers.thread import InboxThread, open_inbox_thread
from ._streams import MemoryStream, bounded_stream_pair
from ._sweeps.attempt import Attempt
from ._sweeps.sweep import SweepError, SweepReport, cancel_everywhere, fail_everywhere
from ._transcripts.entry import Entry
from ._transcripts.recording import RecordedStream
from ._transcripts.transcript import Transcript

__all__ = [
    "Answer",
    "Attempt",
    "Close",
    "ConnectionsPerPeer",
    "Delay",
    "DeterministicSettings",
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
    "deterministic",
    "fail_everywhere",
    "memory_pair",
    "open_inbox_thread",
    "open_memory_server",
    "open_test_server",
]
