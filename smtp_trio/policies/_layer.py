"""Hooks around other hooks."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import trio

from .._server.hooks import Hooks, installed
from .._server.session import Session
from ..protocol import Reply


class Layer(Hooks):
    """Hooks around other hooks. A hook that a subclass does not override is that of ``self.under``; one that it does
    may call it.

    A hook that neither overrides stays absent, so the server offers the same extensions as without the layer. If a
    layer refuses a connection without a call of ``self.under.connect``, ``self.under.disconnect`` is not called either.

    :raises TypeError: ``hooks`` is not an instance of `Hooks`.
    """

    def __init__(self, hooks: Hooks | None = None) -> None:
        hooks = Hooks() if hooks is None else hooks
        if not isinstance(hooks, Hooks):
            raise TypeError(f"hooks must be an instance of smtp_trio.Hooks, got {hooks!r}")
        may_refuse = type(self).connect is not Hooks.connect
        self.under: Hooks = _Paired(hooks) if may_refuse else hooks
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
    """A layer that calls ``disconnect`` only for sessions for which ``connect`` was called."""

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


async def delay_reply(session: Session, seconds: float, until: trio.Event | None = None) -> None:
    """Sleep within a hook, or wait for an event, without using up the time that the hook is allowed."""
    wait = trio.sleep_forever if until is None else until.wait
    session._hooks.pause_clock(trio.current_time(), math.inf)
    try:
        with trio.move_on_after(seconds):
            await wait()
    finally:
        session._hooks.restart_clock()
