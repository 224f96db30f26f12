"""Several processes that serve one port: workers, and the parent that starts and restarts them.

A worker runs the command line of its parent again. The parent opens one set of listening sockets for each worker, all
on one port (SO_REUSEPORT), and passes it on. It keeps the sockets open itself: connections that wait in the queue of a
worker that dies are accepted by the worker that replaces it.

Parent and worker are connected by a pair of sockets. The parent writes the numbers of signals; the worker writes
``READY`` when it begins to serve, and its statistics when it ends. A worker ignores signals from anywhere else, because
a service manager or a terminal may send one to all processes at once, and a second signal to stop would cancel the
sessions that the first one allows to finish.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import suppress

import trio
from attrs import asdict, define, field, frozen

from .._server.listeners import socket_from_fd
from .._server.log_events import WORKER_ENDED, WORKER_FAILED, WORKER_KILLED, WORKER_STARTED, Value
from .._types import Statistics

#: The environment variable with a worker's file descriptors: the socket to its parent, the lock of the log, the
#: listening sockets.
WORKER_FDS = "SMTP_TRIO_WORKER"
READY = b"ready\n"
#: What precedes the names in ``limits_reached`` in a worker's report, which has one number for each name.
LIMIT = "limit "
#: Seconds that a worker has to serve. When it ends sooner, or before it serves, the next one will probably do the same.
MIN_LIFETIME = 5.0
#: The number of times in a row that a worker may end so soon. Then the parent stops all workers.
MAX_EARLY_ENDS = 5
#: Seconds that a worker has after the grace period of its sessions. Then it is killed. The last hooks of its server have
#: `Timeouts.disconnect` seconds of them.
KILL_DELAY = 10.0


def usable_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0))


# --- in a worker ------------------------------------------------------------------------------------------------------


@frozen
class ParentLink:
    """A worker's connection to its parent, with the file descriptors that the parent has passed to it."""

    connection: socket.socket
    log_lock: int
    sockets: list[socket.socket]

    @classmethod
    def from_environment(cls) -> ParentLink | None:
        """Return the link of this process, or None when it is not a worker. In a worker, ignore signals from now on."""
        fds = os.environ.pop(WORKER_FDS, None)
        if fds is None:
            return None
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        connection, log_lock, *sockets = map(int, fds.split())
        return cls(socket.socket(fileno=connection), log_lock, [socket_from_fd(fd) for fd in sockets])

    async def signals(self) -> AsyncGenerator[int, None]:
        """Iterate over the signals that the parent passes on. When the parent has ended, SIGTERM is the last one."""
        connection = trio.socket.from_stdlib_socket(self.connection.dup())
        with connection, suppress(OSError):
            while numbers := await connection.recv(1):
                yield numbers[0]
        yield signal.SIGTERM

    def report_ready(self) -> None:
        """Tell the parent that this worker begins to serve."""
        self._send(READY)

    def report(self, statistics: Statistics) -> None:
        """Send the parent the statistics of this worker, before it ends."""
        numbers = asdict(statistics, recurse=False)
        for name, count in numbers.pop("limits_reached").items():
            numbers[f"{LIMIT}{name}"] = count
        self._send(json.dumps(numbers).encode())

    def _send(self, data: bytes) -> None:
        with suppress(OSError):  # the parent may have ended
            self.connection.send(data)


# --- in the parent ----------------------------------------------------------------------------------------------------


@define(eq=False)
class Workers:
    """The worker processes, one for each set of listeners.

    ``log_lock`` is the descriptor of the log's lock, and ``grace`` the seconds that sessions have to finish when the
    workers are stopped because one of them keeps ending.
    """

    listener_sets: Sequence[Sequence[trio.SocketListener]]
    log_lock: int
    grace: float
    failed: bool = field(default=False, init=False)
    """Set when the workers were stopped because one of them kept ending."""
    _totals: Counter[str] = field(factory=Counter, init=False)
    _stopping: bool = field(default=False, init=False)
    _scope: trio.CancelScope = field(factory=trio.CancelScope, init=False)
    _connections: set[socket.socket] = field(factory=set, init=False)

    async def run(self) -> None:
        """Run the workers, and restart each one that ends.

        Returns after `stop`, or when a worker has ended ``MAX_EARLY_ENDS`` times in a row just after its start.
        """
        with self._scope:
            async with trio.open_nursery() as nursery:
                for number, listeners in enumerate(self.listener_sets, 1):
                    nursery.start_soon(self._keep_running, number, listeners)

    def statistics(self) -> Statistics:
        """Return the sums over all workers that have ended, without those that were killed: they could not report."""
        limits = Counter({name.removeprefix(LIMIT): n for name, n in self._totals.items() if name.startswith(LIMIT)})
        others = {name: n for name, n in self._totals.items() if not name.startswith(LIMIT)}
        return Statistics(**others, limits_reached=limits)

    async def stop(self, grace: float) -> None:
        """Stop the workers, after ``grace`` seconds for their sessions to finish.

        New connections are refused at once.
        """
        self._stopping = True
        for listeners in self.listener_sets:
            for listener in listeners:
                listener.socket.close()
        self._scope.deadline = trio.current_time() + grace + KILL_DELAY
        self.send_signal(signal.SIGTERM)

    def send_signal(self, number: int) -> None:
        """Pass a signal on to all workers."""
        for connection in self._connections:
            with suppress(OSError):  # the worker may have just ended
                connection.send(bytes([number]))

    async def _keep_running(self, number: int, listeners: Sequence[trio.SocketListener]) -> None:
        early_ends = 0
        while early_ends < MAX_EARLY_ENDS:
            started = trio.current_time()
            ready, end = await self._run_worker(number, listeners)
            if self._stopping:
                return
            early = not ready or trio.current_time() - started < MIN_LIFETIME
            early_ends = early_ends + 1 if early else 0
            WORKER_ENDED.log(end, worker=number)
        WORKER_FAILED.log(worker=number, times=MAX_EARLY_ENDS)
        self.failed = True
        await self.stop(self.grace)

    async def _run_worker(
        self, number: int, listeners: Sequence[trio.SocketListener]
    ) -> tuple[bool, Mapping[str, Value]]:
        """Run a worker process until it ends. Return whether it began to serve, and how it ended, for the log."""
        connection, worker_end = socket.socketpair()
        connection.setblocking(False)
        with connection, worker_end:
            fds = [worker_end.fileno(), self.log_lock, *[listener.socket.fileno() for listener in listeners]]
            # A signal that comes before the process has started waits in its socket.
            self._connections.add(connection)
            try:
                process = await trio.lowlevel.open_process(
                    [sys.executable, *sys.orig_argv[1:]],
                    stdin=subprocess.DEVNULL,
                    pass_fds=fds,
                    env={**os.environ, WORKER_FDS: " ".join(map(str, fds))},
                    start_new_session=True,
                )
            except OSError as error:
                self._connections.discard(connection)
                return False, {"signal": None, "exit_code": None, "error": str(error)}
            worker_end.close()
            WORKER_STARTED.log(worker=number, pid=process.pid)
            try:
                code = await process.wait()
            finally:
                self._connections.discard(connection)
                if process.returncode is None:
                    WORKER_KILLED.log(worker=number)
                    process.kill()
            report = b""
            with suppress(BlockingIOError, ConnectionResetError):
                report = connection.recv(65536)
        if statistics := report.removeprefix(READY):
            self._totals.update(json.loads(statistics))
        end: dict[str, Value] = {"signal": None, "exit_code": code, "error": None}
        if code < 0:
            end |= {"signal": signal.Signals(-code).name, "exit_code": None}
        return report.startswith(READY), end
