"""`SynFilter`: let the kernel ignore the connections that a peer opens, for some time."""

from __future__ import annotations

import ipaddress
import math
import socket
import struct
from array import array
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager
from functools import partial
from typing import NoReturn

import trio

# A peer that opens connections in a loop costs the server 20 µs for each, although that only accepts and closes it: at 20,000
# connections in a second half of a core, which the sessions and commits of all others do without. The server cannot leave
# such connections in the queue of the kernel, where others wait behind them. But it can keep them out of it.
#
# A packet filter on a listening socket sees the packets that arrive for it (SO_ATTACH_FILTER, socket(7)). It needs no
# privileges. The filter here discards a packet that opens a connection (SYN without ACK, RFC 9293 3.5) if it comes from one
# of the peers, so that they have no answer. Their TCP tries again after a second, and then less and less often, so a client
# that goes on gets a connection when the time is over: it is delayed, and not refused.
#
# An accepted socket inherits the filter, which lets all other packets pass, those of the same peers included.
#
# Where the filter is not permitted, such as in a sandbox, the connections are refused as before. A socket has one filter, so
# processes that share a listening socket replace each other's.

#: Peers whose packets are discarded at the same time. The filter compares them one after the other.
MAX_PEERS = 100

SO_ATTACH_FILTER, SO_DETACH_FILTER = 26, 27  # asm/socket.h
# Instructions of a packet filter (linux/filter.h): load, compare and go on after so many others, return.
LOAD_BYTE, LOAD_WORD, AND, IF_EQUAL, SKIP, RETURN = 0x30, 0x20, 0x54, 0x15, 0x05, 0x06
DISCARD, PASS = 0, 0xFFFF_FFFF
#: The offset of the IP header. Other offsets count from the TCP header.
IP_HEADER = 0xFFF0_0000
FLAGS, SYN, SYN_OR_ACK = 13, 0x02, 0x12
VERSION, VERSION_4 = 0xF0, 0x40
SOURCE_4, SOURCE_6 = IP_HEADER + 12, IP_HEADER + 8

Instruction = tuple[int, int, int, int]


class SynFilter:
    """Discards packets that open connections to the listening sockets of a server."""

    def __init__(self) -> None:
        self._sockets: set[socket.socket] = set()
        self._addresses: dict[str, ipaddress.IPv4Address | ipaddress.IPv6Address] = {}
        self._end = math.inf
        self._began = trio.lowlevel.ParkingLot()

    @asynccontextmanager
    async def on(self, sockets: Iterable[socket.socket]) -> AsyncGenerator[None]:
        """Filter what arrives at listening sockets during the block."""
        sockets = [each for each in sockets if each.family in (socket.AF_INET, socket.AF_INET6)]
        self._sockets.update(sockets)
        # A process that was killed has left its filter if others have the socket too, such as systemd.
        self._apply()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._end_in_time)
                yield
                nursery.cancel_scope.cancel()
        finally:
            self._sockets.difference_update(sockets)
            for each in sockets:
                detach(each)
            if not self._sockets:
                self._addresses.clear()

    def discard(self, host: str, until: float) -> bool:
        """Discard the SYNs of an address, for IPv6 of its /64. Return False if they are discarded already, or cannot be.

        :param until: the time at which all peers can connect again.
        """
        if host in self._addresses or len(self._addresses) == MAX_PEERS:
            return False
        self._addresses[host] = ipaddress.ip_address(host.partition("%")[0])
        self._end = until
        self._began.unpark_all()
        return self._apply()

    def end(self) -> None:
        """Let all peers connect again."""
        self._addresses.clear()
        self._apply()

    async def _end_in_time(self) -> NoReturn:
        """Let all peers connect again each time when the time is over."""
        while True:
            if not self._addresses:
                await self._began.park()
            await trio.sleep_until(self._end)
            self.end()

    def _apply(self) -> bool:
        """Replace the filters of the sockets. Return whether that was permitted."""
        change = partial(attach, instructions=program(self._addresses.values())) if self._addresses else detach
        changed = [change(each) for each in self._sockets]
        return any(changed)


def program(addresses: Iterable[ipaddress.IPv4Address | ipaddress.IPv6Address]) -> list[Instruction]:
    """Return the filter that discards the first packet of a connection from these addresses, for IPv6 from their /64."""
    version_4: list[Instruction] = [(LOAD_WORD, 0, 0, SOURCE_4)]
    version_6: list[Instruction] = []
    for address in addresses:
        if isinstance(address, ipaddress.IPv4Address):
            version_4 += [(IF_EQUAL, 0, 1, int(address)), (RETURN, 0, 0, DISCARD)]
        else:
            first, second = struct.unpack("!II", address.packed[:8])
            version_6 += [(LOAD_WORD, 0, 0, SOURCE_6), (IF_EQUAL, 0, 3, first)]
            version_6 += [(LOAD_WORD, 0, 0, SOURCE_6 + 4), (IF_EQUAL, 0, 1, second), (RETURN, 0, 0, DISCARD)]
    version_4.append((RETURN, 0, 0, PASS))
    version_6.append((RETURN, 0, 0, PASS))
    return [
        (LOAD_BYTE, 0, 0, FLAGS), (AND, 0, 0, SYN_OR_ACK), (IF_EQUAL, 1, 0, SYN), (RETURN, 0, 0, PASS),
        (LOAD_BYTE, 0, 0, IP_HEADER), (AND, 0, 0, VERSION), (IF_EQUAL, 1, 0, VERSION_4), (SKIP, 0, 0, len(version_4)),
        *version_4,
        *version_6,
    ]  # fmt: skip


def attach(sock: socket.socket, instructions: list[Instruction]) -> bool:
    """Replace the filter of a socket. Return whether that was permitted."""
    octets = array("B", b"".join(struct.pack("HBBI", *each) for each in instructions))
    address, _ = octets.buffer_info()
    return set_option(sock, SO_ATTACH_FILTER, struct.pack("HP", len(instructions), address))


def detach(sock: socket.socket) -> bool:
    """Remove the filter of a socket. Return whether it had one."""
    return set_option(sock, SO_DETACH_FILTER, bytes(4))


def set_option(sock: socket.socket, option: int, value: bytes) -> bool:
    """Set an option of a socket. Return False if that is not permitted, or the socket was closed by `Server.stop`."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, option, value)
    except OSError:
        return False
    return True
