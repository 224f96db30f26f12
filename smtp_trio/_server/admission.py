"""`Admission`: which connections become sessions, by the number of those that are open and of the new ones in a minute."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Protocol

import trio

from ..protocol import Limits
from .log_events import CONNECTIONS_IGNORED, CONNECTIONS_OMITTED, TOO_MANY_CONNECTIONS
from .peers import counted_as
from .syn_filter import SynFilter
from .turns import Turns

if TYPE_CHECKING:
    from .._types import Counts, Peer
    from .memory import MemoryBudget

# Connections are counted by peer, that is, by the `network` of the client. There are two numbers: the open sessions, and
# the connections since the beginning of the minute. The first limits what a peer can hold, the second what it can cost
# by connecting again and again, since a session takes much more time to begin and to end than a refusal.
#
# A minute is the same for all peers, and their counters are dropped at its end. This takes one dictionary, of bounded
# size; a window for each peer would not be better against a flood, which lasts for many minutes. A peer that does not fit
# into the dictionary is not limited in this minute: a client that has so many addresses is not stopped by a number for
# each of them.
#
# A flood of refused connections must cost little, too, or the queue of those that wait to be accepted would be full. So a
# refusal does not create a session (`listeners` asks before it creates a stream), only the first MAX_ANSWERED of a peer in
# a minute get a 421, which takes more time than all the rest, and there are at most two records about them: one about the
# first, and one with the number of the others, at the end. After MAX_REFUSED, the kernel ignores further connections of the
# peer until the end of the minute (`syn_filter`).

#: Seconds in which the connections of a peer are counted.
MINUTE = 60
#: How many peers are counted at most.
MAX_PEERS = 65536
#: How many refused connections of a peer get a 421 in a minute. The others are only closed.
MAX_ANSWERED = 100
#: How many connections of a peer are refused in a minute before further ones are ignored.
MAX_REFUSED = 1000
#: How many peers have records of their own about refusals. The others share one, without an address.
MAX_LOGGED = 1000


class SharingSession(Protocol):
    """The part of a session's task that an `Admission` uses."""

    def share(self, turns: Turns) -> None: ...


class _Member:
    """The open sessions of one peer."""

    __slots__ = ("count", "first", "turns")

    def __init__(self, first: SharingSession) -> None:
        self.count = 1
        self.first: SharingSession | None = first  # as long as no other was used
        self.turns: Turns | None = None  # made for the second session


class Admission:
    """Counts the sessions and the connections of each peer, and decides whether a connection becomes a session."""

    def __init__(self, limits: Limits, counts: Counts, memory: MemoryBudget) -> None:
        self._limits = limits
        self._memory = memory
        self._counts = counts
        self.syn_filter = SynFilter()
        self._open: dict[str, _Member] = {}
        self._minute_end = -math.inf
        self._new: dict[str, int] = {}  # connections in this minute
        self._refused: dict[str | None, int] = {}  # those that were refused; None for all peers beyond MAX_LOGGED

    def key(self, peer: Peer) -> str | None:
        """Return the name under which a client is counted, or None if it is not.

        Clients on this host are counted only with ``limits.count_local``: all connections through a local proxy, and those
        of tests, come from one address.
        """
        return counted_as(peer, local=self._limits.count_local)

    def count(self, key: str | None, peer: Peer, sessions: int) -> int:
        """Count a new connection. Return 0 if it may become a session, otherwise what `refuse` returns.

        :param sessions: the number of open sessions, of all peers.
        """
        if (now := trio.current_time()) >= self._minute_end:
            self.end_minute()
            self._minute_end = now + MINUTE
        limit = self.exceeded(key, sessions) if self._within_rate(key) else "connections_per_minute"
        return 0 if limit is None else self.refuse(key, peer, limit)

    def exceeded(self, key: str | None, sessions: int) -> str | None:
        """Return the limit that does not allow another session to be opened; None if it may be."""
        limits = self._limits
        if limits.sessions is not None and sessions >= limits.sessions:
            return "sessions"
        if self._memory.used > self._memory.beginning:
            return "memory"
        within = limits.per_peer is None or key is None or self._number_open(key) < limits.per_peer
        return None if within else "per_peer"

    def floods(self, peer: Peer) -> bool:
        """Return whether a client has opened more connections in this minute than it may."""
        key = self.key(peer)
        return key is not None and self._above_rate(key)

    def refuse(self, key: str | None, peer: Peer, limit: str) -> int:
        """Count and log the refusal of a connection because of ``limit``.

        Return how many of this peer there were in this minute.
        """
        self._counts.connections_refused += 1
        self._counts.limits_reached[limit] += 1
        self._counts.refusals["connect 421"] += 1
        name = key or peer.host or peer.kind
        label = name if name in self._refused or len(self._refused) < MAX_LOGGED else None
        if label not in self._refused:
            TOO_MANY_CONNECTIONS.log(peer=str(peer))
        number = self._refused[label] = self._refused.get(label, 0) + 1
        return number

    def ignore(self, key: str, peer: Peer) -> None:
        """Let the kernel ignore further connections of a client in this minute, if they come from its own address."""
        if key in self._refused and peer.kind == "tcp" and self.syn_filter.discard(peer.host, self._minute_end):
            CONNECTIONS_IGNORED.log(peer=str(peer))

    def end_minute(self) -> None:
        """Log how many connections were refused in this minute, besides those that have a record, and begin to count anew."""
        for label, count in self._refused.items():
            if count > 1:
                CONNECTIONS_OMITTED.log(peer=label, count=count - 1)
        self._refused.clear()
        self._new.clear()

    def _within_rate(self, key: str | None) -> bool:
        limit = self._limits.connections_per_minute
        if limit is None or key is None:
            return True
        count = self._new.get(key, 0)
        if count or len(self._new) < MAX_PEERS:
            self._new[key] = count + 1
        return count < limit

    def _above_rate(self, key: str) -> bool:
        limit = self._limits.connections_per_minute
        # The counters are dropped when the first connection of the next minute arrives, which may be much later.
        return limit is not None and self._new.get(key, 0) > limit and trio.current_time() < self._minute_end

    def _number_open(self, key: str) -> int:
        member = self._open.get(key)
        return 0 if member is None else member.count

    # --- open sessions ----------------------------------------------------------------------------------------------

    def enter(self, key: str, session: SharingSession) -> None:
        """Count a session that begins. If it is not the only one of its peer, it shares turns with the others."""
        member = self._open.get(key)
        if member is None:
            self._open[key] = _Member(session)
            return
        member.count += 1
        if member.turns is None:
            member.turns = Turns(floods=partial(self._above_rate, key))
            assert member.first is not None
            member.first.share(member.turns)
            member.first = None  # it may end before the others
        session.share(member.turns)

    def leave(self, key: str) -> None:
        """Stop counting a session that ends."""
        member = self._open[key]
        member.count -= 1
        if not member.count:
            del self._open[key]
