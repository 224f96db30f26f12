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

    def delay_of(self, session: Session, reply: Reply) -> float:
        """Return the seconds by which a reply is going to be delayed."""
        errors: int = session.context.get(self, 0)
        last = reply.code in (221, 421)  # the last reply of a session is not delayed
        return 0 if last or self._delayed >= self.max_sessions else min(self.limit, self.seconds * errors)

    async def response(self, session: Session, reply: Reply) -> None:
        delay = self.delay_of(session, reply)
        session.context[self] = session.context.get(self, 0) + reply.refused
        if delay:
            self._delayed += 1
            try:
                await delay_reply(session, delay, session.server._state.stop_called)
            finally:
                self._delayed -= 1
        await self.under.response(session, reply)
