"""Several processes that take in mail on one port: workers, and the parent that keeps them alive.

A worker is the same command line once more. The parent opens a set of listening sockets for each, all on one port (SO_REUSEPORT),
and hands it on: the parent keeps it too, so the connections that wait there when a worker dies wait for the next one. They are
linked by a pair of sockets: the parent writes the numbers of signals, and the worker its statistics when it ends. A worker
takes orders there alone, for a service manager or a terminal may signal all processes at once, and twice is not once.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from contextlib import suppress

import trio
from attrs import asdict, define, evolve, field, frozen

from .._server.listeners import inherited
from .._types import Statistics

log = logging.getLogger("smtp_trio.workers")

#: Tells a worker its file descriptors: the link, the lock of the log, and what it is to listen on.
ENVIRONMENT = "SMTP_TRIO_WORKER"
#: A worker that ends in so many seconds has not got far. After so many of them in a row the next one would not either.
YOUNG = 5.0
MOST = 5
#: Seconds that a worker may be late, once the grace of its sessions is over. Then it is killed.
LATE = 10.0


def cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0))


# --- in a worker ------------------------------------------------------------------------------------------------------


@frozen
class Place:
    """What a worker was given by its parent."""

    link: socket.socket
    lock: int
    sockets: list[socket.socket]

    @classmethod
    def given(cls) -> Place | None:
        """This process's own, if it is a worker."""
        told = os.environ.pop(ENVIRONMENT, None)
        if told is None:
            return None
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        link, lock, *sockets = map(int, told.split())
        return cls(socket.socket(fileno=link), lock, [inherited(fd) for fd in sockets])

    async def orders(self) -> AsyncGenerator[int, None]:
        """The signals that the parent passes on. Without a parent there is nothing left but to stop."""
        link = trio.socket.from_stdlib_socket(self.link.dup())
        with link, suppress(OSError):
            while numbers := await link.recv(1):
                yield numbers[0]
        yield signal.SIGTERM

    def report(self, done: Statistics) -> None:
        """The last that the parent hears of us."""
        with suppress(OSError):  # it is gone
            self.link.send(json.dumps(asdict(done)).encode())


# --- in the parent ----------------------------------------------------------------------------------------------------


@define(eq=False)
class Workers:
    """Those that there are: one for each set of sockets. ``grace`` is what a worker gives its sessions when it is to stop."""

    sets: Sequence[Sequence[trio.SocketListener]]
    lock: int
    grace: float
    done: Counter[str] = field(factory=Counter, init=False)
    failed: bool = field(default=False, init=False)
    _stopping: bool = field(default=False, init=False)
    _scope: trio.CancelScope = field(factory=trio.CancelScope, init=False)
    _links: set[socket.socket] = field(factory=set, init=False)

    async def run(self) -> None:
        """Keep them alive until `stop`, or until they do not live: then ``failed``."""
        with self._scope:
            async with trio.open_nursery() as nursery:
                for number, listeners in enumerate(self.sets, 1):
                    nursery.start_soon(self._keep, number, listeners)

    def statistics(self) -> Statistics:
        """What all have done that had the time to say so: it is not known of one that was killed."""
        return evolve(Statistics(), **self.done)

    async def stop(self, grace: float) -> None:
        """Have them drain, or with no grace end at once. Connects are refused from here on."""
        self._stopping = True
        for listeners in self.sets:
            for each in listeners:
                each.socket.close()
        self._scope.deadline = trio.current_time() + grace + LATE
        self.tell(signal.SIGTERM)

    def tell(self, number: int) -> None:
        """Pass on a signal."""
        for link in self._links:
            with suppress(OSError):  # it has just died
                link.send(bytes([number]))

    async def _keep(self, number: int, listeners: Sequence[trio.SocketListener]) -> None:
        in_a_row = 0
        while in_a_row < MOST:
            born = trio.current_time()
            end = await self._work(number, listeners)
            if self._stopping:
                return
            in_a_row = in_a_row + 1 if trio.current_time() - born < YOUNG else 0
            log.warning("worker %d: %s", number, end)
        log.error("worker %d: gave up, it has ended %d times as soon as it had begun", number, MOST)
        self.failed = True
        await self.stop(self.grace)

    async def _work(self, number: int, listeners: Sequence[trio.SocketListener]) -> str:
        """A worker's whole life; tells how it ended."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        with ours, theirs:
            fds = [theirs.fileno(), self.lock, *[each.socket.fileno() for each in listeners]]
            self._links.add(ours)  # an order that comes before it can hear waits for it there
            try:
                process = await trio.lowlevel.open_process(
                    [sys.executable, *sys.orig_argv[1:]],
                    stdin=subprocess.DEVNULL,
                    pass_fds=fds,
                    env={**os.environ, ENVIRONMENT: " ".join(map(str, fds))},
                    start_new_session=True,
                )
            except OSError as error:
                self._links.discard(ours)
                return f"cannot be started: {error}"
            theirs.close()
            log.info("worker %d: process %d", number, process.pid)
            try:
                code = await process.wait()
            finally:
                self._links.discard(ours)
                if process.returncode is None:
                    log.error("worker %d: did not end in time, killed", number)
                    process.kill()
            with suppress(BlockingIOError, ConnectionResetError, ValueError):
                self.done.update(json.loads(ours.recv(65536)))
        return f"ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
