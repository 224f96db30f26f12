"""Hooks around hooks: what fault rules have a server decide, and personalities, is said by its session, which then knows of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING

import trio

from ..._server.body import Body
from ..._server.hook_runner import Hook
from ..._server.hooks import Hooks, installed
from ..._server.session import Session
from ...protocol import Command, Reply
from .faulty_stream import BROKEN, FaultyStream
from .rule import Rule
from .rules import Answer, Delay, Hang
from .wire_tracker import DOT, GREETING

if TYPE_CHECKING:
    from .faults import Faults


class Layer(Hooks):
    """Hooks around other hooks: what a subclass does not override is theirs, and what it does asks ``self.under``.

    Only the hooks that somebody wrote are there, so the server offers what it would offer without the layer. Where a layer refuses a
    connection without asking ``self.under.connect``, what is under it hears nothing of its end either.
    """

    def __init__(self, hooks: Hooks | None = None) -> None:
        hooks = Hooks() if hooks is None else hooks
        refuses = type(self).connect is not Hooks.connect
        self.under: Hooks = _Paired(hooks) if refuses else hooks
        for name in installed(hooks):
            if getattr(type(self), name) is getattr(Hooks, name):
                setattr(self, name, getattr(self.under, name))

    if not TYPE_CHECKING:  # for a type checker any attribute would exist

        def __getattr__(self, name: str) -> object:
            """Return a hook that `Hooks` does not define, but a command of an extension declares."""
            if name == "under" or name.startswith("_"):
                raise AttributeError(name)
            return getattr(self.under, name)


class _Paired(Layer):
    """Below a layer that may refuse a connection: a `disconnect` for each `connect` that there was, and no other."""

    def __init__(self, hooks: Hooks) -> None:
        self.under = hooks
        for name, hook in installed(hooks).items():
            if name not in ("connect", "disconnect"):
                setattr(self, name, hook)

    async def connect(self, session: Session) -> Reply | None:
        session.context[self] = True
        return await self.under.connect(session)

    async def disconnect(self, session: Session) -> None:
        if session.context.pop(self, False):
            await self.under.disconnect(session)


def as_hooks(hooks: Mapping[str, Hook]) -> Hooks:
    """Functions, as `Hooks`."""
    made = Hooks()
    for name, hook in hooks.items():
        setattr(made, name, hook)
    return made


async def late(session: Session, seconds: float) -> None:
    """Let time pass in a hook that is not the hook's."""
    session._hooks.pause_clock(trio.current_time(), math.inf)
    try:
        await trio.sleep(seconds)
    finally:
        session._hooks.resume_clock(seconds)


class Decisions(Layer):
    """The rules of a script that decide. ``every``: in each session, whose stream it wraps, and not only where that was done."""

    def __init__(self, hooks: Hooks, faults: Faults, *, every: bool) -> None:
        super().__init__(hooks)
        self._faults = faults
        self._every = every

    def installed(self) -> dict[str, Hook]:
        """What a server calls."""
        return installed(self)

    def _due(self, at: str, session: Session) -> list[Rule]:
        if not self._every and stream_of(session, self._faults) is None:
            return []
        return self._faults.deciding(at)

    async def _act(self, rules: list[Rule], session: Session) -> None:
        """Be late, or stay away for ever."""
        for rule in rules:
            if isinstance(rule, Delay):
                await late(session, rule.seconds)
            elif isinstance(rule, Hang):
                session._hooks.pause_clock(trio.current_time(), math.inf)
                with suppress(*BROKEN):
                    while await session.stream.receive_some():
                        pass
                await trio.aclose_forcefully(session.stream)

    async def _decide(self, at: str, session: Session) -> Reply | None:
        rules = self._due(at, session)
        await self._act(rules, session)
        return refusal(rules)

    async def connect(self, session: Session) -> Reply | None:
        if self._every and stream_of(session, self._faults) is None:
            session._wire.carry(self._faults.wrap(session.stream, side="server"))
        return await self._decide(GREETING, session) or await self.under.connect(session)

    async def secured(self, session: Session) -> None:
        outside = stream_of(session, self._faults)
        if outside is not None and isinstance(session.stream, trio.SSLStream):
            outside.transparent = True
            session._wire.carry(FaultyStream(session.stream, "server", self._faults, greeted=True))
        await self.under.secured(session)

    async def message(self, session: Session, command: Command) -> Reply | None:
        return await self._decide(command.verb, session) or await self.under.message(session, command)

    async def data(self, session: Session, body: Body) -> Reply | None:
        rules = self._due(DOT, session)
        reply = refusal(rules)
        if reply is None:
            reply = await self.under.data(session, body)
        else:
            async for _ in body:
                pass
        await self._act(rules, session)
        return reply


def scripted(hooks: object, faults: Faults) -> bool:
    """Whether these hooks, or some under them, are already those of a script."""
    while isinstance(hooks, Layer):
        if isinstance(hooks, Decisions) and hooks._faults is faults:
            return True
        hooks = hooks.under
    return False


def refusal(rules: list[Rule]) -> Reply | None:
    """What the first of them says that refuses."""
    return next((rule.reply for rule in rules if isinstance(rule, Answer)), None)


def stream_of(session: Session, faults: Faults) -> FaultyStream | None:
    """The stream of a session that a script has wrapped, inside TLS or under it."""
    stream = session.stream
    while isinstance(stream, FaultyStream | trio.SSLStream):
        if isinstance(stream, FaultyStream) and stream.faults is faults:
            return stream
        stream = stream.transport if isinstance(stream, FaultyStream) else stream.transport_stream
    return None
