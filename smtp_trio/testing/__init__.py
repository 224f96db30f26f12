"""Tools for tests of programs that send or receive mail: servers and clients in memory, faults, transcripts and sweeps."""

from __future__ import annotations

from ..policies import (
    ConnectionRate,
    ConnectionsPerPeer,
    Greylist,
    Layer,
    MessageRate,
    MessagesPerConnection,
    RecipientsPerMessage,
    Tarpit,
)
from ._faults.fault_rules import ActiveRule, FaultRules
from ._faults.faults import Faults
from ._faults.faulty_stream import FaultyStream
from ._faults.policy import Policy
from ._faults.rule import Rule, Sometimes
from ._faults.rules import (
    Advertise,
    Answer,
    Close,
    Coalesce,
    Delay,
    Early,
    Extra,
    Garbage,
    Hang,
    Ignore,
    Omit,
    Replace,
    Reset,
    Throttle,
    Trickle,
)
from ._faults.scope import Scope
from ._faults.text import ScopedRule, format_rule, parse_rule
from ._inline_threads import inline_threads
from ._resolver import MemoryResolver
from ._servers.deterministic import DeterministicSettings, deterministic
from ._servers.inbox import Inbox, MailFilter, ReceivedMail
from ._servers.memory import MemoryServer, open_memory_server
from ._servers.network import memory_network
from ._servers.pair import memory_pair
from ._servers.port import TestServer, open_test_server
from ._servers.server_setup import ServerSettings
from ._servers.thread import InboxThread, open_inbox_thread
from ._streams import MemoryStream, bounded_stream_pair
from ._sweeps.actions import connect_client, stop_server
from ._sweeps.attempt import Attempt
from ._sweeps.stacks import Place
from ._sweeps.sweep import SweepError, SweepOptions, SweepReport, cancel_everywhere, fail_everywhere, start_everywhere
from ._transcripts.entry import Entry
from ._transcripts.recording import RecordedStream
from ._transcripts.transcript import Transcript

__all__ = [
    "ActiveRule",
    "Advertise",
    "Answer",
    "Attempt",
    "Close",
    "Coalesce",
    "ConnectionRate",
    "ConnectionsPerPeer",
    "Delay",
    "DeterministicSettings",
    "Early",
    "Entry",
    "Extra",
    "FaultRules",
    "Faults",
    "FaultyStream",
    "Garbage",
    "Greylist",
    "Hang",
    "Ignore",
    "Inbox",
    "InboxThread",
    "Layer",
    "MailFilter",
    "MemoryResolver",
    "MemoryServer",
    "MemoryStream",
    "MessageRate",
    "MessagesPerConnection",
    "Omit",
    "Place",
    "Policy",
    "ReceivedMail",
    "RecipientsPerMessage",
    "RecordedStream",
    "Replace",
    "Reset",
    "Rule",
    "Scope",
    "ScopedRule",
    "ServerSettings",
    "Sometimes",
    "SweepError",
    "SweepOptions",
    "SweepReport",
    "Tarpit",
    "TestServer",
    "Throttle",
    "Transcript",
    "Trickle",
    "bounded_stream_pair",
    "cancel_everywhere",
    "connect_client",
    "deterministic",
    "fail_everywhere",
    "format_rule",
    "inline_threads",
    "memory_network",
    "memory_pair",
    "open_inbox_thread",
    "open_memory_server",
    "open_test_server",
    "parse_rule",
    "start_everywhere",
    "stop_server",
]
