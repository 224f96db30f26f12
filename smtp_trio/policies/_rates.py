"""Limits on how often a client may connect or send a message."""

from __future__ import annotations

from array import array
from bisect import bisect_right

import trio

from .._server.client_memory import Memory, address_of, group_of
from .._server.hooks import Hooks
from .._server.session import Session
from ..protocol import Mail, Reply
from ..protocol.arguments import check_number
from ._layer import Layer

# The window slides: the last ``seconds`` seconds count. With fixed windows, such as the hours of the clock, a client could
# send twice as much around the end of one. A sliding window needs the times of all that was admitted within it, which are
# 8 octets each in an array. So the memory of a rate is limited to 8 * ``limit`` * ``max_entries`` octets and some overhead.
# The times of a client that was admitted nothing for one window are of no use any more, so its entry expires.


class _Rate:
    """The times at which clients were admitted within the last ``seconds`` seconds, at most ``limit`` for each."""

    def __init__(self, limit: int, seconds: float, max_entries: int) -> None:
        check_number(limit, "limit", 1, integer=True)
        check_number(seconds, "seconds")
        check_number(max_entries, "max_entries", 1, integer=True)
        self.limit = limit
        self.seconds = seconds
        self._times: Memory[array[float]] = Memory(max_entries, seconds)

    def admit(self, key: str, group: str) -> bool:
        """Return whether a client is below its limit, and count it if it is."""
        times, now = self._times.get(key), trio.current_time()
        if times is None:
            times = array("d")
        del times[: bisect_right(times, now - self.seconds)]
        if len(times) >= self.limit:
            return False
        times.append(now)
        self._times.put(key, group, times)
        return True


class MessageRate(Layer):
    """Reply 421 to each MAIL of a client after ``limit`` of its MAIL commands within ``seconds``, over all its
    connections.

    Each valid MAIL counts, whether its message is accepted or not, except those that this layer refuses. The client is
    an authenticated user, an IPv4 address or the /64 of an IPv6 address.

    :param max_entries: the number of clients that are remembered. When there are more, the network with the most
        clients loses its oldest one.
    :raises TypeError: an argument has a wrong type.
    :raises ValueError: a number is too small.
    """

    def __init__(
        self, hooks: Hooks | None = None, limit: int = 100, seconds: float = 3600, *, max_entries: int = 20000
    ) -> None:
        super().__init__(hooks)
        self._rate = _Rate(limit, seconds, max_entries)

    async def mail(self, session: Session, mail: Mail) -> Reply | None:
        # An attacker cannot make up authenticated users, so each is a group of its own.
        user = None if session.user is None else f"user {session.user}"
        if not self._rate.admit(user or address_of(session.peer), user or group_of(session.peer)):
            return Reply(421, "Unusual rate of mail from your host; try again later", "4.7.28")
        return await self.under.mail(session, mail)


class ConnectionRate(Layer):
    """Reply 421 instead of a greeting to a client that has connected ``limit`` times within ``seconds``.

    Connections that this layer refuses do not count. The client is an IPv4 address or the /64 of an IPv6 address.

    :param max_entries: the number of clients that are remembered. When there are more, the network with the most
        clients loses its oldest one.
    :raises TypeError: an argument has a wrong type.
    :raises ValueError: a number is too small.
    """

    def __init__(
        self, hooks: Hooks | None = None, limit: int = 60, seconds: float = 60, *, max_entries: int = 20000
    ) -> None:
        super().__init__(hooks)
        self._rate = _Rate(limit, seconds, max_entries)

    async def connect(self, session: Session) -> Reply | None:
        if not self._rate.admit(address_of(session.peer), group_of(session.peer)):
            return Reply(421, "Too many connections from your host; try again later", "")
        return await self.under.connect(session)
