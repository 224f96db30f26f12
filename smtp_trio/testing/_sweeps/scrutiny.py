"""What a sweep sees of sessions and clients, from outside, and what it holds against the promises of `docs/cancellation`."""

from __future__ import annotations

import re

import trio
from attrs import define

from ..._client.client import Client
from ..._server.body import Body
from ..._server.handlers import REPLY
from ..._server.session import Session
from ..._types import MessageState
from ..._wire import Octets, Wire
from ...protocol import Reply
from .._transcripts.entry import Side, other
from .._transcripts.transcript import Transcript

#: One whole reply (RFC 5321 4.2.1).
WHOLE = re.compile(rb"(?:[0-9]{3}-[^\n]*\n)*([0-9]{3})[ \r][^\n]*\n")


class Line:
    """What went over one wire: octets that were received, and those that were handed whole to the stream."""

    def __init__(self, transcript: Transcript, side: Side, name: str) -> None:
        self.received = bytearray()
        self.sent = bytearray()
        #: Left the protocol, and has not arrived at the stream.
        self.owed = bytearray()
        #: Something could not be sent, through no fault of ours: the peer is gone, or took nothing for as long as a shield lasts.
        self.excused = False
        self._transcript, self._side, self._name = transcript, side, name

    def heard(self, data: bytes) -> None:
        self.received += data
        if data:
            self._transcript.add(other(self._side), data, session=self._name)
        else:
            self._transcript.note(other(self._side), "closes", session=self._name)

    def said(self, data: bytes) -> None:
        if data:
            self.owed += data
            self._transcript.add(self._side, data, session=self._name)

    def handed(self, left: int = 0) -> None:
        """All of what is owed was taken by the stream, but for so many octets."""
        end = len(self.owed) - left
        self.sent += self.owed[:end]
        del self.owed[:end]


class RecordingProtocol:
    """A protocol, to its wire; listens in."""

    def __init__(self, protocol: Octets, line: Line) -> None:
        self._protocol, self._line = protocol, line

    def receive_data(self, data: bytes) -> None:
        self._line.heard(data)
        self._protocol.receive_data(data)

    def data_to_send(self) -> bytes:
        data = self._protocol.data_to_send()
        self._line.said(data)
        return data


class WatchedWire(Wire):
    """A wire that keeps its `Line`. What it carries, and when, is not changed by that."""

    __slots__ = ("line", "used")

    def __init__(self, stream: trio.abc.Stream, protocol: Octets, write_timeout: float, line: Line) -> None:
        super().__init__(stream, RecordingProtocol(protocol, line), write_timeout)
        self.line = line
        #: Somebody has waited for octets.
        self.used = False

    async def receive(self) -> None:
        self.used = True
        await super().receive()

    def flush_now(self) -> bytes | memoryview:
        was_broken = self.broken
        rest = super().flush_now()
        if self.broken:
            self.line.excused |= not was_broken
        else:
            self.line.handed(len(rest))
        return rest

    async def send(self, data: bytes | memoryview) -> None:
        began = trio.current_time()
        interrupted = True
        try:
            await super().send(data)
            interrupted = False
        finally:
            if not self.broken:
                self.line.handed()
            elif not interrupted or trio.current_time() - began >= REPLY:
                self.line.excused = True


@define(eq=False)
class DataCall:
    """One call of a `data` hook. ``taken``: it returned, and has not refused."""

    body: Body
    taken: bool = False
    #: It had pulled all of the message; and how many octets the session had to say before it answered.
    whole: bool = False
    mark: int = 0


class SeenSession:
    """A session, the calls of its hooks, and its line."""

    def __init__(self, session: Session, stream: trio.abc.Stream, line: Line) -> None:
        self.session = session
        self.line = line
        self.disconnects = 0
        self.takings: list[DataCall] = []
        self._hooks = session.hooks
        session.wire = WatchedWire(stream, session.protocol, session.server.timeouts.write, line)
        session.hooks = {**session.hooks, "disconnect": self._disconnect}
        if "data" in session.hooks:
            session.hooks["data"] = self._data

    async def _disconnect(self, session: Session) -> None:
        self.disconnects += 1
        if (hook := self._hooks.get("disconnect")) is not None:
            await hook(session)

    async def _data(self, session: Session, body: Body) -> Reply | None:
        taking = DataCall(body)
        self.takings.append(taking)
        reply: Reply | None = await self._hooks["data"](session, body)
        answers = [each for each in (reply, session._settled) if each is not None]
        taking.taken = not answers or (len(answers) == 1 and answers[0].code == 250)
        taking.whole = body.complete
        taking.mark = len(self.line.sent) + len(self.line.owed) + sum(map(len, session.protocol.outbox))
        return reply

    @property
    def taken(self) -> list[DataCall]:
        """Messages that are the application's now."""
        return [each for each in self.takings if each.taken and each.body.complete]

    def answered(self, taking: DataCall) -> bool:
        """A 250 was handed whole to the stream."""
        match = WHOLE.match(self.line.sent, taking.mark)
        return match is not None and match[1] == b"250"

    async def wrong(self) -> list[str]:
        """What does not agree with the promises about a session that is over."""
        session, name = self.session, f"session {self.session.id}"
        found: list[str] = []
        if self.disconnects != session.connected:
            found.append(f"{name}: disconnect was called {self.disconnects} times for {session.connected:d} connect")
        if not await closed(session.stream):
            found.append(f"{name}: its stream was left open")
        untold = [each for each in self.taken if each.whole and not self.answered(each) and not self.line.excused]
        found += [
            f"{name}: the data hook took message {each.body.envelope.id}, and the client was never told, "
            "though its connection was there"
            for each in untold
        ]
        if self.takings and not session.consults and (wrong := self._wrong_state(self.takings[-1])):
            found.append(f"{name}: {wrong}")
        return found

    def _wrong_state(self, last: DataCall) -> str | None:
        taken = last.taken and last.body.complete
        if not taken:
            possible = [MessageState.NOT_TAKEN]
        elif not last.whole:
            possible = [MessageState.ACKNOWLEDGED, MessageState.UNACKNOWLEDGED]
        else:
            possible = [MessageState.ACKNOWLEDGED if self.answered(last) else MessageState.UNACKNOWLEDGED]
        state = self.session.last_message
        if state in possible:
            return None
        happened = "was taken" if taken else "was not taken"
        if taken and last.whole:
            happened += ", and the client was told so" if self.answered(last) else ", and the client was not told so"
        stated = "None" if state is None else state.name
        return f"message {last.body.envelope.id} {happened}, but session.last_message is {stated}"


class SeenClient:
    """A client, and its line."""

    def __init__(self, client: Client, stream: trio.abc.Stream, line: Line, name: str) -> None:
        self.client, self.line, self.name = client, line, name
        self.wire = WatchedWire(stream, client.protocol, client.talk.timeouts.block, line)
        client.talk.wire = self.wire

    async def wrong(self, sessions: list[SeenSession]) -> list[str]:
        """What does not agree with the promises about a client that was left; these are the sessions that it may have had."""
        found: list[str] = []
        if self.wire.used and not await closed(self.client.stream):
            found.append(f"{self.name}: its stream was left open")
        mine = [each for each in sessions if self.wire.used and each.line.sent.startswith(self.line.received)]
        accepted = sum(bool(result.accepted) for result in self.client.last_results)
        if mine and accepted > max(len(each.taken) for each in mine):
            found.append(f"{self.name}: {accepted} messages are accepted by its last_results, and fewer were taken")
        return found


async def closed(stream: trio.abc.Stream) -> bool:
    """Whether somebody has closed it. What can be read from it is lost."""
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
