"""The memory of a server or a policy about clients: a mapping with a limited number of entries, whose keys clients may choose."""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from collections.abc import Hashable
from functools import lru_cache
from typing import Generic, TypeVar

import trio
from attrs import frozen

from .._types import Peer, unmap

V = TypeVar("V")

# A client can choose senders and recipients, and one with an IPv6 network has more addresses than there is memory. So
# the number of entries has a limit, and when it is reached, an entry has to be removed. If that were the oldest one, a
# flood of new keys would remove the entries of all other clients within minutes: the retries of honest servers would be
# greylisted again, and hosts over their rate could send again.
#
# Each entry therefore belongs to a group, the network of the client that caused it. The entry that is removed is the
# oldest one of the largest group. A flood from one network removes its own entries, and those from several networks
# each other's; an honest client loses an entry only when its own network has as many as any of the attackers' networks.
# Against a flood from very many networks, each with one entry, no choice helps; then the oldest entry is removed.
#
# Networks are grouped by /24 for IPv4, and by /32 for IPv6. A /32 is what an internet provider gets, so one attacker
# hardly has two of them; anyone can get a /48, with 65536 networks of size /64.
#
# Every operation takes constant time, as one that looks at all entries could be used to slow down the server:
#
# - All entries have the same lifetime, and `put` moves an entry to the end. So `_entries` is in the order of expiry, and
#   each `put` removes at most two expired entries from its front. They go faster than new ones come.
# - `_members` has the keys of each group, from the oldest to the newest.
# - `_by_size` has the groups of each size. The size of the largest group changes by one at a time, so it need not be
#   searched.
#
# An `OrderedDict` is used because it removes its first item in constant time. A dict has to skip the places of all the
# items that were removed before.


@frozen(eq=False, repr=False)
class _Entry(Generic[V]):
    value: V
    group: str
    since: float


class Memory(Generic[V]):
    """A mapping with at most ``max_entries`` entries, each of which expires ``lifetime`` seconds after its last `put`."""

    def __init__(self, max_entries: int, lifetime: float) -> None:
        self.max_entries = max_entries
        self.lifetime = lifetime
        self._entries: OrderedDict[Hashable, _Entry[V]] = OrderedDict()
        self._members: dict[str, OrderedDict[Hashable, None]] = {}
        self._by_size: dict[int, OrderedDict[str, None]] = {}
        self._largest = 0

    def __len__(self) -> int:
        """Return the number of entries, including expired ones that were not removed yet."""
        return len(self._entries)

    def get(self, key: Hashable) -> V | None:
        """Return the value of a key; None without one, or if it has expired."""
        entry = self._entries.get(key)
        return None if entry is None or self._expired(entry) else entry.value

    def put(self, key: Hashable, group: str, value: V) -> None:
        """Add an entry, or replace it, as the newest one. If the limit is reached, another entry is removed.

        :param group: the network that the entry is for. The largest group loses an entry.
        """
        self.discard(key)
        for _ in range(2):
            if self._entries and self._expired(next(iter(self._entries.values()))):
                self.discard(next(iter(self._entries)))
        if len(self._entries) >= self.max_entries:
            largest = next(iter(self._by_size[self._largest]))
            self.discard(next(iter(self._members[largest])))
        self._entries[key] = _Entry(value, group, trio.current_time())
        members = self._members.setdefault(group, OrderedDict())
        members[key] = None
        self._resize(group, len(members) - 1, len(members))

    def discard(self, key: Hashable) -> None:
        """Remove an entry, if there is one."""
        entry = self._entries.pop(key, None)
        if entry is None:
            return
        members = self._members[entry.group]
        del members[key]
        self._resize(entry.group, len(members) + 1, len(members))
        if not members:
            del self._members[entry.group]

    def _expired(self, entry: _Entry[V]) -> bool:
        # Each `trio.run` has a clock of its own, so an entry of an earlier one may be in the future.
        return not 0 <= trio.current_time() - entry.since < self.lifetime

    def _resize(self, group: str, before: int, now: int) -> None:
        """Move a group from those of one size to those of the next size, larger or smaller."""
        if before:
            del self._by_size[before][group]
            if not self._by_size[before]:
                del self._by_size[before]
        if now:
            self._by_size.setdefault(now, OrderedDict())[group] = None
        if now > self._largest or self._largest not in self._by_size:
            self._largest = now


def address_of(peer: Peer) -> str:
    """Return the network that counts as one client: the address for IPv4, the /64 for IPv6, as in `Limits.per_peer`."""
    return _network(peer.host, 32, 64) or peer.kind


def subnet_of(peer: Peer) -> str:
    """Return the network whose hosts may send each other's messages again: the /24 for IPv4, the /64 for IPv6."""
    return _network(peer.host, 24, 64) or peer.kind


def group_of(peer: Peer) -> str:
    """Return the network whose entries replace each other when the memory is full."""
    return _network(peer.host, 24, 32) or peer.kind


@lru_cache(1024)
def _network(host: str, ipv4: int, ipv6: int) -> str:
    """Return the first ``ipv4`` or ``ipv6`` bits of an address, in hexadecimal, and their number."""
    try:
        address = ipaddress.ip_address(unmap(host.partition("%")[0]))
    except ValueError:  # a unix socket, or an endpoint that a proxy or a test has chosen
        return host
    prefix = ipv4 if address.version == 4 else ipv6
    return f"{address.packed[: prefix // 8].hex()}/{prefix}"
