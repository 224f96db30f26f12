"""Delayed replies."""

from __future__ import annotations

from .._server.hooks import Hooks
from .._server.session import Session
from ..protocol import Reply
from ..protocol.arguments import check_number
from ._layer import Layer, delay_reply


class Tarpit(Layer):
    """Delay each reply by ``seconds`` for each 4yz or 5yz reply that the session has had before, up to ``limit``
    seconds.

    Replies to invalid commands are included. All delays end when the server stops, so that it does not wait for them.

    :param max_sessions: the number of sessions that are delayed at a time. Others are not delayed, so a flood of
        errors cannot use up the sessions of the server.
    :raises TypeError: an argument has a wrong type.
    :raises ValueError: a number is negative.
    """

    def __init__(
        self, hooks: Hooks | None = None, seconds: float = 5, *, limit: float = 60, max_sessions: int = 100
    ) -> None:
        super().__init__(hooks)
        check_number(seconds, "seconds")
        check_number(limit, "limit")
        check_number(max_sessions, "max_sessions", integer=True)
        self.seconds = seconds
        self.limit = limit
        self.max_sessions = max_sessions
        self._delayed = 0

    async def response(self, session: Session, reply: Reply) -> None:
        errors: int = session.context.get(self, 0)
        session.context[self] = errors + reply.refused
        last = reply.code in (221, 421)  # the last reply of a session is not delayed
        if errors and not last and self._delayed < self.max_sessions:
            self._delayed += 1
            try:
                stop_called = session.server._state.stop_called
                await delay_reply(session, min(self.limit, self.seconds * errors), stop_called)
            finally:
                self._delayed -= 1
        await self.under.response(session, reply)
