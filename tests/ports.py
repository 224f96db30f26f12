"""Ports for programs that cannot report which port the system has chosen for them."""

from __future__ import annotations

import itertools
import os
import socket
from collections.abc import Iterable

HOST = "127.0.0.1"
#: Below the range from which Linux chooses ports itself, for port 0 and for outgoing connections.
FIRST, LAST = 20_000, 32_767

_candidates = itertools.cycle(range(FIRST, LAST + 1))
for _ in range(os.getpid() % (LAST - FIRST)):  # processes that start at the same time begin at different places
    next(_candidates)

_reservations: list[socket.socket] = []


def free_port(candidates: Iterable[int] = ()) -> int:
    """Return a TCP and UDP port of the loopback interface that nothing else gets before the program listens there.

    It is one of the ``candidates``, or any.

    A port that the system has chosen, and that was closed again, is one that it may choose at any moment for something else.
    One below its range is only taken by other tests, so each has a reservation as long as this process runs: a name in the
    abstract namespace of unix sockets, which processes share exactly when they share ports.
    """
    for port in candidates or itertools.islice(_candidates, LAST - FIRST + 1):
        reservation = socket.socket(socket.AF_UNIX)
        try:
            reservation.bind(f"\0smtp-trio-tests-port-{port}")
            for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                with socket.socket(type=kind) as probe:
                    probe.bind((HOST, port))  # not with SO_REUSEADDR: there may be connections that have just ended
        except OSError:
            reservation.close()
            continue
        _reservations.append(reservation)
        return port
    raise RuntimeError("no port is free")
