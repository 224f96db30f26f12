"""SMTP under a clock that you own: servers and clients for tests, joined in memory, with faults, transcripts and sweeps."""

from __future__ import annotations

from ._doors import fixed_doors
from ._inbox import Inbox, ReceivedMail
from ._pair import memory_pair
from ._streams import MemoryStream, bounded_stream_pair
from ._transcript import Entry, RecordedStream, Transcript

__all__ = [
    "Entry",
    "Inbox",
    "MemoryStream",
    "ReceivedMail",
    "RecordedStream",
    "Transcript",
    "bounded_stream_pair",
    "fixed_doors",
    "memory_pair",
]
