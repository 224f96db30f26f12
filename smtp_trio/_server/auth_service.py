"""The state for AUTH that the sessions of a server share: the failed logins of each address, and the threads that derive keys."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from functools import cached_property
from typing import TYPE_CHECKING

import trio

from .._types import Peer
from ..protocol import Limits
from .client_memory import Memory, group_of
from .fair_threads import FairThreads, turn_of
from .peers import counted_as, has_left

if TYPE_CHECKING:
    from ..protocol.sasl import Computation, MechanismContext, RandomBytes

#: The addresses that are remembered. See `client_memory` for the one that is forgotten when there are more.
MAX_ADDRESSES = 10000
#: The failures of an address after which the delay doubles, and how often it does so.
UNDELAYED, DOUBLINGS = 3, 4

#: The number of keys derived at a time (SCRAM). Each takes about a millisecond.
KEY_THREADS = 2

# The limit of failures in a session does not stop a client that tries passwords, since it can connect again. So the
# failures of an address are counted over all its sessions, within a window that slides. Each one is answered later than
# the one before. When their number reaches the limit, AUTH is refused without a look at the credentials, so a guess that
# is right is of no use. That ends after a whole window without a failure; these refusals do not count as failures, so
# the client cannot extend it.
#
# A successful login does not clear the failures: an attacker may have an account of their own.
#
# Two things do not count. A temporary refusal (454) is the server's fault, and a server whose directory has been down
# for a minute must not lock out its users. And clients on this host have no counter, as they have no limit of sessions:
# all clients of a local proxy would share it.


class AuthService:
    """Counts the failed logins of each address within ``limits.auth_window`` seconds, and derives keys."""

    def __init__(self, name: str, token: RandomBytes, limits: Limits) -> None:
        self._name = name
        self._token = token
        #: For the computations of mechanisms.
        self.threads: FairThreads = FairThreads(KEY_THREADS)
        self._limit = limits.auth_failures_per_peer
        self._local = limits.count_local
        self._seconds = limits.auth_window
        self._delay = limits.auth_delay
        self._failures: Memory[array[float]] = Memory(MAX_ADDRESSES, limits.auth_window)

    @cached_property
    def context(self) -> MechanismContext:
        """The name and the random numbers for SASL mechanisms."""
        from ..protocol.sasl import MechanismContext

        return MechanismContext(self._name, self._token)

    def load(self) -> None:
        """Import the mechanisms, for a server with a hook for AUTH. The import must not be left to a session."""
        from ..protocol.sasl import known  # noqa: F401  # every mechanism

    def locked(self, peer: Peer) -> bool:
        """Return whether the address has so many failures that it may not log in."""
        return self._limit is not None and self._number_of_failures(peer) >= self._limit

    def suspects(self, peer: Peer, *, busy: bool) -> bool:
        """Return whether a login must not delay others.

        Its address has so many failures that the replies to them are delayed longer, or is ``busy``. Addresses that are not
        counted are not suspected.

        :param busy: whether it has other logins at the same time, or opens too many connections (`Admission.floods`).
        """
        return self._address(peer) is not None and (busy or self._number_of_failures(peer) >= UNDELAYED)

    def _number_of_failures(self, peer: Peer) -> int:
        address = self._address(peer)
        return 0 if address is None else len(self._failures.get(address) or ())

    def count(self, peer: Peer, *, temporary: bool) -> float:
        """Count a failure, unless it is ``temporary``; return how many seconds its reply is to be delayed."""
        address = self._address(peer)
        if temporary or address is None or self._limit is None:
            return self._delay
        now = trio.current_time()
        times = self._failures.get(address) or array("d")
        if len(times) < self._limit:
            del times[: bisect_right(times, now - self._seconds)]
            times.append(now)
            self._failures.put(address, group_of(peer), times)
        return self._delay * 2.0 ** min(max(len(times) - UNDELAYED, 0), DOUBLINGS)

    def wants(self, peer: Peer, stream: trio.abc.Stream) -> bool:
        """Return whether to do a computation that a client has waited for: it is still there, and not locked out."""
        return not has_left(stream) and not self.locked(peer)

    async def compute(self, computation: Computation, peer: Peer, stream: trio.abc.Stream) -> object:
        """Return the result of a mechanism's computation; None if the client has left, or was locked out meanwhile."""
        return await self.threads.run(turn_of(peer), computation.compute, lambda: self.wants(peer, stream))

    def _address(self, peer: Peer) -> str | None:
        return counted_as(peer, local=self._local)
