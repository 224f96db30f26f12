"""Several processes that serve one port: workers, and the parent that starts and restarts them.

A worker runs the command line of its parent again. The parent opens one set of listening sockets for each worker, all
on one port (SO_REUSEPORT), and passes it on. It keeps the sockets open itself: connections that wait in the queue of a
worker that dies are accepted by the worker that replaces it.

Parent and worker are connected by a pair of sockets. The parent writes the numbers of signals, and ``ASK`` to ask for a
`Snapshot`; the worker writes lines: ``READY`` when it begins to serve, and a snapshot whenever it was asked and when it
ends. A worker ignores signals from anywhere else, because a service manager or a terminal may send one to all processes
at once, and a second signal to stop would cancel the sessions that the first one allows to finish.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import suppress

import trio
from attrs import define, evolve, field, frozen

from .._server.listeners import socket_from_fd
from .._server.log_events import WORKER_ENDED, WORKER_FAILED, WORKER_KILLED, WORKER_STARTED, Value
from .._server.snapshot import Snapshot, WorkerState, empty_snapshot
from .._types import Statistics

#: The environment variable with a worker's file descriptors: the socket to its parent, the lock of the log, the
#: listening sockets.
WORKER_FDS = "SMTP_TRIO_WORKER"
READY = b"ready"
#: The parent asks for a snapshot. No signal has this number.
ASK = 0
#: Seconds that a worker has to answer. When it needs longer, its previous answer counts.
ANSWER_TIME = 1.0
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

    async def signals(self, snapshot: Callable[[], Snapshot] | None = None) -> AsyncGenerator[int, None]:
        """Iterate over the signals that the parent passes on. When the parent has ended, SIGTERM is the last one.

        :param snapshot: returns what the parent asks for; None as long as the worker does not serve.
        """
        connection = trio.socket.from_stdlib_socket(self.connection.dup())
        with connection, suppress(OSError):
            while numbers := await connection.recv(1):
                if numbers[0] != ASK:
                    yield numbers[0]
                elif snapshot is not None:
                    self.report(snapshot())
        yield signal.SIGTERM

    def report_ready(self) -> None:
        """Tell the parent that this worker begins to serve."""
        self._send(READY)

    def report(self, snapshot: Snapshot) -> None:
        """Send the parent the numbers of this worker."""
        self._send(json.dumps(snapshot.to_json()).encode())

    def _send(self, line: bytes) -> None:
        with suppress(OSError):  # the parent may have ended
            self.connection.sendall(line + b"\n")


# --- in the parent ----------------------------------------------------------------------------------------------------


@define(eq=False)
class Worker:
    """One process, as its parent sees it."""

    number: int
    restarts: int
    connection: socket.socket
    """The parent's end."""
    observed: bool
    """Its numbers will be read, so it measures from its start."""
    pid: int | None = None
    ready: bool = False
    """It has begun to serve."""
    latest: Snapshot | None = None
    """The numbers that it has sent last."""
    _answer: trio.Event | None = None

    @property
    def state(self) -> WorkerState:
        """The state of the worker for the statistics."""
        numbers = Statistics() if self.latest is None else self.latest.statistics
        return WorkerState(
            number=self.number,
            pid=self.pid,
            restarts=self.restarts,
            responds=self.ready and self._answer is None,
            sessions_open=numbers.sessions_open,
            messages=numbers.messages,
            memory=numbers.memory,
        )

    def send(self, number: int) -> None:
        """Send the number of a signal, or ``ASK``."""
        with suppress(OSError):  # the worker may have just ended
            self.connection.send(bytes([number]))

    async def ask(self) -> None:
        """Ask for the numbers, and wait for them for ``ANSWER_TIME``. A worker that has not answered is not asked again."""
        answer = self._request()
        with trio.move_on_after(ANSWER_TIME):
            await answer.wait()

    def _request(self) -> trio.Event:
        if self._answer is None:
            self._answer = trio.Event()
            self.send(ASK)
        return self._answer

    async def read(self) -> None:
        """Read what the worker sends, until it has ended."""
        received = b""
        connection = trio.socket.from_stdlib_socket(self.connection.dup())
        with connection:
            while True:
                try:
                    data = await connection.recv(65536)
                except ConnectionResetError:  # it has not read all signals; what it has sent before comes next
                    continue
                *lines, received = (received + data).split(b"\n")
                for line in lines:
                    self._receive(line)
                if not data:
                    return

    def _receive(self, line: bytes) -> None:
        if line == READY:
            self.ready = True
            if self.observed:
                self._request()
            return
        self.latest = Snapshot.from_json(json.loads(line))
        if self._answer is not None:
            self._answer.set()
            self._answer = None


@define(eq=False)
class Workers:
    """The worker processes, one for each set of listeners.

    ``log_lock`` is the descriptor of the log's lock, and ``grace`` the seconds that sessions have to finish when the
    workers are stopped because one of them keeps ending. ``observed`` is true if their numbers will be read.
    """

    listener_sets: Sequence[Sequence[trio.SocketListener]]
    log_lock: int
    grace: float
    observed: bool
    failed: bool = field(default=False, init=False)
    """Set when the workers were stopped because one of them kept ending."""
    _ended: Snapshot = field(factory=empty_snapshot, init=False)
    _stopping: bool = field(default=False, init=False)
    _scope: trio.CancelScope = field(factory=trio.CancelScope, init=False)
    _running: set[Worker] = field(factory=set, init=False)

    async def run(self) -> None:
        """Run the workers, and restart each one that ends.

        Returns after `stop`, or when a worker has ended ``MAX_EARLY_ENDS`` times in a row just after its start.
        """
        with self._scope:
            async with trio.open_nursery() as nursery:
                for number, listeners in enumerate(self.listener_sets, 1):
                    nursery.start_soon(self._keep_running, number, listeners)

    def problem(self) -> str | None:
        """Return why the workers do not accept mail, or None if they do."""
        if self._stopping:
            return "the server is stopping"
        return None if any(worker.ready for worker in self._running) else "no worker runs"

    def statistics(self) -> Statistics:
        """Return the sums over all workers that have ended. Of those that were killed, they have the last answer."""
        return self._ended.statistics

    async def measure(self) -> Snapshot:
        """Return the sums over all workers.

        A worker that has ended is included, as far as it has reported, so that no counter decreases.
        """
        async with trio.open_nursery() as nursery:
            for worker in self._running:
                if worker.ready:
                    nursery.start_soon(worker.ask)
        running = sorted(self._running, key=lambda worker: worker.number)
        answers = [worker.latest for worker in running if worker.latest is not None]
        return evolve(sum(answers, self._ended), workers=tuple(worker.state for worker in running))

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
        for worker in self._running:
            worker.send(number)

    async def _keep_running(self, number: int, listeners: Sequence[trio.SocketListener]) -> None:
        early_ends = 0
        for restarts in itertools.count():
            started = trio.current_time()
            ready, end = await self._run_worker(number, restarts, listeners)
            if self._stopping:
                return
            early = not ready or trio.current_time() - started < MIN_LIFETIME
            early_ends = early_ends + 1 if early else 0
            WORKER_ENDED.log(end, worker=number)
            if early_ends == MAX_EARLY_ENDS:
                break
        WORKER_FAILED.log(worker=number, times=MAX_EARLY_ENDS)
        self.failed = True
        await self.stop(self.grace)

    async def _run_worker(
        self, number: int, restarts: int, listeners: Sequence[trio.SocketListener]
    ) -> tuple[bool, Mapping[str, Value]]:
        """Run a worker process until it ends. Return whether it began to serve, and how it ended, for the log."""
        connection, worker_end = socket.socketpair()
        connection.setblocking(False)
        with connection, worker_end:
            fds = [worker_end.fileno(), self.log_lock, *[listener.socket.fileno() for listener in listeners]]
            # A signal that comes before the process has started waits in its socket.
            worker = Worker(number, restarts, connection, self.observed)
            self._running.add(worker)
            try:
                process = await trio.lowlevel.open_process(
                    [sys.executable, *sys.orig_argv[1:]],
                    stdin=subprocess.DEVNULL,
                    pass_fds=fds,
                    env={**os.environ, WORKER_FDS: " ".join(map(str, fds))},
                    start_new_session=True,
                )
            except OSError as error:
                self._running.discard(worker)
                return False, {"signal": None, "exit_code": None, "error": str(error)}
            worker_end.close()
            worker.pid = process.pid
            WORKER_STARTED.log(worker=number, pid=process.pid)
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(worker.read)
                    code = await process.wait()
                    nursery.cancel_scope.deadline = trio.current_time() + ANSWER_TIME
            finally:
                self._running.discard(worker)
                if worker.latest is not None:
                    self._ended += worker.latest.ended()
                if process.returncode is None:
                    WORKER_KILLED.log(worker=number)
                    process.kill()
        end: dict[str, Value] = {"signal": None, "exit_code": code, "error": None}
        if code < 0:
            end |= {"signal": signal.Signals(-code).name, "exit_code": None}
        return worker.ready, end
