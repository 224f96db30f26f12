"""The servers, sessions and clients of one run, observed from outside, and compared with the guarantees of docs/cancellation.

A sweep must not change what it examines, so the observers add no checkpoint and no task. They replace the wire of each
session and client by one that records which octets arrived, and which the stream took whole, and they wrap the hooks.

The octets decide whether the client received the reply to an accepted message: after a data hook accepted a message,
the reply that the server sends next must be a 250, and the stream must have taken all of it. A missing reply is excused
only if the peer had disconnected, or accepted nothing for as long as the server tries to send it (`transaction.REPLY_TIMEOUT`
seconds).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from functools import wraps

import trio
from attrs import define

from ..._client.client import Client
from ..._instrument import observer
from ..._server.body import Body
from ..._server.hook_runner import Hook
from ..._server.server import Server
from ..._server.session import Session
from ..._server.session_task import SessionTask
from ..._server.state import ServerState
from ..._server.transaction import REPLY_TIMEOUT
from ..._types import MessageState
from ..._wire import OctetProtocol, Wire
from ...protocol import Reply
from .._transcripts.entry import Side, other
from .._transcripts.transcript import Transcript

#: One whole reply (RFC 5321 4.2.1).
WHOLE_REPLY = re.compile(rb"(?:[0-9]{3}-[^\n]*\n)*([0-9]{3})[ \r][^\n]*\n")


class WireLog:
    """The octets that one wire received, and those that its stream took whole."""

    def __init__(self, transcript: Transcript, side: Side, name: str) -> None:
        self.received = bytearray()
        self.sent = bytearray()
        #: Octets that have left the protocol, and that the stream has not taken yet.
        self.pending = bytearray()
        #: Octets could not be sent because the peer had disconnected, or accepted nothing for as long as a shield lasts.
        self.excused = False
        self._transcript, self._side, self._name = transcript, side, name

    def add_received(self, data: bytes) -> None:
        self.received += data
        if data:
            self._transcript.add(other(self._side), data, session=self._name)
        else:
            self._transcript.note(other(self._side), "closes", session=self._name)

    def add_pending(self, data: bytes) -> None:
        if data:
            self.pending += data
            self._transcript.add(self._side, data, session=self._name)

    def add_sent(self, left: int = 0) -> None:
        """Note that the stream took all pending octets but the last ``left``."""
        end = len(self.pending) - left
        self.sent += self.pending[:end]
        del self.pending[:end]


class RecordingProtocol:
    """A protocol whose octets go to a `WireLog` as well."""

    def __init__(self, protocol: OctetProtocol, log: WireLog) -> None:
        self._protocol, self._log = protocol, log

    def receive_data(self, data: bytes) -> None:
        self._log.add_received(data)
        self._protocol.receive_data(data)

    def data_to_send(self) -> bytes:
        data = self._protocol.data_to_send()
        self._log.add_pending(data)
        return data


class ObservedWire(Wire):
    """A wire that keeps a `WireLog`, and otherwise carries the same octets at the same times."""

    __slots__ = ("_server", "log", "used")

    def __init__(
        self,
        stream: trio.abc.Stream,
        protocol: OctetProtocol,
        write_timeout: float,
        log: WireLog,
        server: ServerState | None = None,
    ) -> None:
        super().__init__(stream, RecordingProtocol(protocol, log), write_timeout)
        self.log = log
        self._server = server
        #: Whether the wire has waited for octets of the peer.
        self.used = False

    async def receive(self) -> None:
        self.used = True
        await super().receive()

    def flush_now(self) -> bytes | memoryview:
        was_broken = self.broken
        rest = super().flush_now()
        if self.broken:
            self.log.excused |= not was_broken
        else:
            self.log.add_sent(len(rest))
        return rest

    async def send(self, data: bytes | memoryview) -> None:
        began = trio.current_time()
        interrupted = True
        try:
            await super().send(data)
            interrupted = False
        finally:
            if not self.broken:
                self.log.add_sent()
            else:
                latest = min(began + REPLY_TIMEOUT, math.inf if self._server is None else self._server.last_deadline)
                self.log.excused |= not interrupted or trio.current_time() >= latest


@define(eq=False)
class DataCall:
    """One call of a ``data`` hook. ``accepted``: it returned without a refusal."""

    body: Body
    accepted: bool = False
    #: The hook had read all of the message when it returned.
    complete: bool = False
    #: The number of octets that the session had to send before the reply to this message.
    offset: int = 0
    #: The number of replies to it after that: in LMTP one for each recipient.
    replies: int = 1

    @property
    def given(self) -> list[Reply]:
        """The replies that the hook has given while it ran (`Body.reply`)."""
        early = self.body._reader.early
        return [] if early is None else early.given

    @property
    def sent(self) -> list[Reply]:
        """Those of them that were sent before it returned."""
        early = self.body._reader.early
        return [] if early is None else early.sent

    @property
    def accepted_early(self) -> bool:
        """True if one of those is positive."""
        return any(each.code == 250 for each in self.sent)

    @property
    def missing(self) -> int:
        """The number of recipients without one of them."""
        return self.replies - len(self.given)


class ObservedSession:
    """A session with the calls of its hooks and its `WireLog`."""

    def __init__(self, task: SessionTask, stream: trio.abc.Stream, log: WireLog) -> None:
        self._task = task
        self.log = log
        self.disconnects = 0
        self.data_calls: list[DataCall] = []
        #: The session was created between the `start` and the `stop` hook of its server.
        self.server_started = task.server._lifecycle.started
        #: Hooks that `Server.stop` cancelled before the end of the grace period.
        self.stopped_hooks: list[str] = []
        self._hooks = task.hooks.installed
        task.wire = ObservedWire(stream, task.protocol, task.server.timeouts.write, log, task.state)
        hooks = {**self._hooks, "disconnect": self._disconnect}
        if "data" in hooks:
            hooks["data"] = self._data
        task.hooks.installed = {name: self._watched(name, hook) for name, hook in hooks.items()}

    @property
    def session(self) -> Session:
        """The session as its hooks see it."""
        return self._task.session

    def _watched(self, name: str, hook: Hook) -> Hook:
        """Return the hook with a check of how it is cancelled.

        A `Cancelled` may come from outside, or from the deadline of the hook. While the server is stopping, it must not
        come from the scope of the session itself, which is only cancelled to end a wait for the client.
        """

        @wraps(hook)
        async def watched(*args: object) -> object:
            try:
                return await hook(*args)
            except BaseException as exc:
                scope = self._task.hooks.scope
                early = scope.cancel_called and not scope.cancelled_caught and trio.current_time() < scope.deadline
                if early and self._task.state.stopping and not isinstance(exc, Exception):
                    self.stopped_hooks.append(name)
                raise

        return watched

    async def _disconnect(self, session: Session) -> None:
        self.disconnects += 1
        if (hook := self._hooks.get("disconnect")) is not None:
            await hook(session)

    async def _data(self, session: Session, body: Body) -> Reply | Sequence[Reply | None] | None:
        call = DataCall(body)
        self.data_calls.append(call)
        if self._task.protocol.grammar.lmtp:
            call.replies = len(body.envelope.rcpts)
        reply: Reply | Sequence[Reply | None] | None = await self._hooks["data"](session, body)
        answers = [each for each in (reply, self._task.hooks.settled) if each is not None]
        each = answers[0] if len(answers) == 1 else None
        if isinstance(each, Sequence):
            call.accepted = len(each) == call.missing and any(one is None or one.code == 250 for one in each)
        else:
            call.accepted = (not answers and not call.given) or (each is not None and each.code == 250)
        call.accepted |= any(one.code == 250 for one in call.given)
        call.replies -= len(call.sent)
        call.complete = body.complete
        call.offset = len(self.log.sent) + len(self.log.pending) + sum(map(len, self._task.protocol.outbox))
        return reply

    @property
    def accepted(self) -> list[DataCall]:
        """The calls whose messages the application is responsible for."""
        return [each for each in self.data_calls if (each.accepted or each.accepted_early) and each.body.complete]

    def acknowledged(self, call: DataCall) -> bool:
        """Return whether the stream took all of the reply to this message, a 250; in LMTP all replies, one of them a 250."""
        end, codes = call.offset, set()
        for _ in range(call.replies):
            match = WHOLE_REPLY.match(self.log.sent, end)
            if match is None:
                return False
            end = match.end()
            codes.add(match[1])
        return b"250" in codes or call.accepted_early

    async def violations(self) -> list[str]:
        """Return the guarantees about a session that has ended which were violated."""
        session, name = self.session, f"session {self.session.id}"
        found: list[str] = []
        if not self.server_started:
            found.append(f"{name}: it began before the start hook of its server had returned, or after the stop hook")
        found += [
            f"{name}: Server.stop cancelled its {hook} hook before the end of the grace period"
            for hook in self.stopped_hooks
        ]
        if self.disconnects != self._task.connected:
            found.append(
                f"{name}: {self._task.connected:d} connect, and {self.disconnects} disconnect hooks were called"
            )
        if not await is_closed(session.stream):
            found.append(f"{name}: its stream was left open")
        found += [
            f"{name}: the data hook accepted message {each.body.envelope.id}, "
            "but the client received no reply although it was connected"
            for each in self.accepted
            if each.complete and not self.acknowledged(each) and not self.log.excused
        ]
        if (
            self.data_calls
            and not self._task.hooks.has_message
            and (violation := self._wrong_state(self.data_calls[-1]))
        ):
            found.append(f"{name}: {violation}")
        return found

    def _wrong_state(self, last: DataCall) -> str | None:
        """Return how ``session.last_message`` contradicts what became of the last message; None if it does not."""
        accepted = last.accepted and last.body.complete
        if not accepted and last.accepted_early:
            possible = [MessageState.ACKNOWLEDGED, MessageState.UNACKNOWLEDGED]
        elif not accepted:
            possible = [MessageState.NOT_TAKEN]
        elif not last.complete:
            possible = [MessageState.ACKNOWLEDGED, MessageState.UNACKNOWLEDGED]
        else:
            possible = [MessageState.ACKNOWLEDGED if self.acknowledged(last) else MessageState.UNACKNOWLEDGED]
        state = self.session.last_message
        if state in possible:
            return None
        happened = "was accepted" if accepted else "was not accepted"
        if accepted and last.complete:
            happened += " and acknowledged" if self.acknowledged(last) else " but not acknowledged"
        stated = "None" if state is None else state.name
        return f"message {last.body.envelope.id} {happened}, and session.last_message is {stated}"


class ObservedClient:
    """A client with its `WireLog`."""

    def __init__(self, client: Client, stream: trio.abc.Stream, log: WireLog, name: str) -> None:
        self.client, self.log, self.name = client, log, name
        self.wire = ObservedWire(stream, client._exchange.protocol, client._exchange.timeouts.block, log)
        client._exchange.wire = self.wire

    async def violations(self, sessions: list[ObservedSession]) -> list[str]:
        """Return the guarantees about a closed client which were violated.

        ``sessions`` are all sessions of the run.
        """
        found: list[str] = []
        if self.wire.used and not await is_closed(self.client.stream):
            found.append(f"{self.name}: its stream was left open")
        # Its session is one that sent what the client received. Where several did, the one that accepted most messages
        # is compared, so that no correct client is reported.
        peers = [each for each in sessions if self.wire.used and each.log.sent.startswith(self.log.received)]
        accepted = sum(bool(result.accepted) for result in self.client.last_results)
        if peers and accepted > max(len(each.accepted) for each in peers):
            found.append(f"{self.name}: its last_results accept {accepted} messages, and the data hook accepted fewer")
        return found


class Observer:
    """Observes each session and client of one run. ``wrap`` is applied to their streams first."""

    def __init__(self, wrap: Callable[[trio.abc.Stream], trio.abc.Stream]) -> None:
        self.sessions: list[ObservedSession] = []
        self.clients: list[ObservedClient] = []
        self.servers: list[Server] = []
        #: Exceptions that were reported to ``error`` hooks.
        self.errors: list[Exception] = []
        self._wrap = wrap
        self._watched_servers: list[Server] = []
        self._early_stops: list[str] = []
        self._of_sessions, self._of_clients = Transcript(), Transcript()

    @property
    def transcript(self) -> Transcript:
        """The transcript of the sessions, or of the clients when no session was observed."""
        return self._of_sessions if self.sessions else self._of_clients

    def install(self) -> None:
        """Observe what is made in this task and in tasks that it starts."""
        observer.set(self._observe)

    def _observe(self, made: Server | SessionTask | Client) -> None:
        if isinstance(made, Server):
            self.servers.append(made)
        elif isinstance(made, SessionTask):
            if made.server not in self.servers:
                self.servers.append(made.server)
            if made.server not in self._watched_servers:  # not earlier, since `Server.on` replaces hooks
                self._watched_servers.append(made.server)
                self._watch_hooks(made.server)
            log = WireLog(self._of_sessions, "S", made.id)
            self.sessions.append(ObservedSession(made, self._wrap(made.wire.stream), log))
        else:
            name = f"client {len(self.clients) + 1}"
            log = WireLog(self._of_clients, "C", name)
            self.clients.append(ObservedClient(made, self._wrap(made._exchange.wire.stream), log, name))

    def _watch_hooks(self, server: Server) -> None:
        hooks = server._state.hooks
        error_hook, stop_hook = hooks.get("error"), hooks.get("stop")

        async def error(server: Server, error: Exception) -> None:
            self.errors.append(error)
            if error_hook is not None:
                await error_hook(server, error)

        async def stop(server: Server) -> None:
            if count := server.statistics().sessions_open:
                self._early_stops.append(
                    f"server {server.name}: its stop hook was called while {count} sessions were open"
                )
            if stop_hook is not None:
                await stop_hook(server)

        hooks.update(error=error, stop=stop)

    async def violations(self) -> list[str]:
        """Return the guarantees of docs/cancellation which were violated in this run."""
        found = [*self._early_stops]
        for session in self.sessions:
            found += await session.violations()
        for client in self.clients:
            found += await client.violations(self.sessions)
        for server in self.servers:
            counts = server.statistics()
            accepted = sum(len(each.accepted) for each in self.sessions if each.session.server is server)
            if counts.sessions_open:
                found.append(f"{counts.sessions_open} sessions of server {server.name} have not ended")
            if counts.memory:
                found.append(f"server {server.name} still counts {counts.memory} octets of memory")
            if counts.messages != accepted:
                found.append(
                    f"server {server.name} counts {counts.messages} messages, but its data hook accepted {accepted}"
                )
        return found


async def is_closed(stream: trio.abc.Stream) -> bool:
    """Return whether this end of the connection was closed. Octets that could be received from it are lost."""
    while isinstance(stream, trio.SSLStream):
        stream = stream.transport_stream
    with trio.move_on_after(1):
        try:
            await stream.receive_some(1)
        except trio.ClosedResourceError:
            return True
        except (trio.BrokenResourceError, trio.BusyResourceError):
            pass
    return False
