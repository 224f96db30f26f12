"""The rules of a server that refuse or delay, as hooks. So the session itself sends the reply, and its state is consistent
with the reply.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress

import trio

from ..._server.body import Body
from ..._server.hook_runner import Hook
from ..._server.hooks import Hooks, installed
from ..._server.session import Session
from ..._wire import BROKEN
from ...policies._layer import Layer, delay_reply
from ...protocol import Command, Reply
from .._wire_tracker import DOT, GREETING
from .faulty_stream import FaultyStream
from .rules import Answer, Delay, Hang
from .scope import Subject
from .script import Entry, Script


class Decisions(Layer):
    """A layer with the rules of a script that refuse or delay.

    With ``every`` they act in each session, whose stream is wrapped; otherwise only in sessions whose streams are
    wrapped already.
    """

    def __init__(self, hooks: Hooks, script: Script, *, every: bool) -> None:
        super().__init__(hooks)
        self.script = script
        self._every = every

    def installed(self) -> dict[str, Hook]:
        """Return the hooks that a server calls."""
        return installed(self)

    def _due(self, at: str, session: Session, command: Command | None) -> list[Entry]:
        if not self._every and find_stream(session, self.script) is None:
            return []
        subject = Subject.of(session, command)
        return self.script.for_decision(at, subject)

    async def _delay(self, entries: list[Entry], session: Session) -> None:
        """Wait for the time of each `Delay`, and for a `Hang` until the client has closed the connection."""
        for entry in entries:
            if isinstance(entry.rule, Delay):
                await self._sleep(entry, session)
            elif isinstance(entry.rule, Hang):
                await self._hang(entry, session)

    async def _sleep(self, entry: Entry, session: Session) -> None:
        """Wait for the time of a `Delay`."""
        assert isinstance(entry.rule, Delay)
        await delay_reply(session, entry.rule.seconds)

    async def _hang(self, entry: Entry, session: Session) -> None:
        """Wait until the client has closed the connection, and discard what it sends."""
        session._hooks.pause_clock(trio.current_time(), math.inf)
        with suppress(*BROKEN):
            while await session.stream.receive_some():
                pass
        await trio.aclose_forcefully(session.stream)

    async def _decide(self, at: str, session: Session, command: Command | None) -> Reply | None:
        entries = self._due(at, session, command)
        await self._delay(entries, session)
        return refusal(entries)

    async def connect(self, session: Session) -> Reply | None:
        if self._every and find_stream(session, self.script) is None:
            session._wire.carry(FaultyStream(session.stream, "server", self.script))
        return await self._decide(GREETING, session, None) or await self.under.connect(session)

    async def secured(self, session: Session) -> None:
        outside = find_stream(session, self.script)
        if outside is not None and isinstance(session.stream, trio.SSLStream):
            outside.transparent = True
            session._wire.carry(FaultyStream(session.stream, "server", self.script, greeted=True))
        await self.under.secured(session)

    async def message(self, session: Session, command: Command) -> Reply | None:
        return await self._decide(command.verb, session, command) or await self.under.message(session, command)

    async def data(self, session: Session, body: Body) -> Reply | Sequence[Reply | None] | None:
        entries = self._due(DOT, session, None)
        reply: Reply | Sequence[Reply | None] | None = refusal(entries)
        if reply is None:
            reply = await self.under.data(session, body)
        else:
            async for _ in body:
                pass
        await self._delay(entries, session)
        return reply


def has_decisions(hooks: object, script: Script) -> bool:
    """Return whether these hooks, or a layer within them, are `Decisions` of the script."""
    while isinstance(hooks, Layer):
        if isinstance(hooks, Decisions) and hooks.script is script:
            return True
        hooks = hooks.under
    return False


def refusal(entries: list[Entry]) -> Reply | None:
    """Return the reply of the first rule that has one."""
    return next((entry.rule.reply for entry in entries if isinstance(entry.rule, Answer)), None)


def find_stream(session: Session, script: Script) -> FaultyStream | None:
    """Return the outermost stream of a session with the faults of the script, or None."""
    stream = session.stream
    while isinstance(stream, FaultyStream | trio.SSLStream):
        if isinstance(stream, FaultyStream) and stream.script is script:
            return stream
        stream = stream.transport if isinstance(stream, FaultyStream) else stream.transport_stream
    return None
