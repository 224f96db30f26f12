"""SMTP under a clock that you own: servers and clients for tests, joined in memory, with faults, transcripts and sweeps."""

from __future__ import annotations

from ._attempt import Attempt
from ._doors import Doors, fixed_doors
from ._entry import Entry
from ._inbox import Inbox, ReceivedMail
from ._pair import memory_pair
from ._port import TestServer, open_test_server
from ._recording import RecordedStream
from ._streams import MemoryStream, bounded_stream_pair
from ._sweep import SweepError, SweepReport, cancel_everywhere, fail_everywhere
from ._transcript import Transcript

__all__ = [
    "Attempt",
    "Doors",
    "Entry",
    "Inbox",
    "MemoryStream",
    "ReceivedMail",
    "RecordedStream",
    "SweepError",
    "SweepReport",
    "TestServer",
    "Transcript",
    "bounded_stream_pair",
    "cancel_everywhere",
    "fail_everywhere",
    "fixed_doors",
    "memory_pair",
    "open_test_server",
]
