"""`Guard`: awaits the parts of a session, and reports what fails in them, so that one session cannot harm the others."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Protocol

from .._groups import collapse_group
from .._types import Peer
from ..protocol import Reply
from .log_events import SESSION_FAILED
from .state import ServerState, describe

#: The text of the 421 after a failure that is not the client's.
LOCAL_ERROR = "Local error; closing the connection"


class GuardedSession(Protocol):
    """The part of a session's task that a `Guard` uses."""

    id: str

    @property
    def peer(self) -> Peer: ...
    @property
    def over(self) -> bool: ...
    async def leave(self, reply: Reply) -> None: ...


class Guard:
    """Awaits parts of the sessions of one server. No `Exception` of theirs leaves it."""

    def __init__(self, state: ServerState, name: str) -> None:
        self._state = state
        self._name = name

    async def run(self, work: Awaitable[None], session: GuardedSession | None = None) -> None:
        """Await a part of a session, or of the refusal of a connection.

        Report each `Exception` in it; pass on cancellation, KeyboardInterrupt and the like, ungrouped.
        """
        rest: BaseException | None = None
        try:
            await work
        except Exception as exc:
            await self.failed(session, exc)
        except BaseExceptionGroup as group:
            errors, others = group.split(Exception)
            assert others is not None
            rest, others = collapse_group(others), None
            if errors is not None:
                await self.failed(session, ExceptionGroup("session failed", list(errors.exceptions)))
            errors = None
        if rest is not None:
            # Raised here, since the group, which contains it, would become its context. This and the references in this
            # frame, to which its traceback refers, would be cycles that keep the session.
            try:
                raise rest
            finally:
                rest = None

    async def failed(self, session: GuardedSession | None, exc: Exception) -> None:
        """Report an exception of a session, or of a connection without one. End the session with 421 if possible."""
        if session is None:
            await self._state.report(exc, SESSION_FAILED, {"id": None, "peer": None})
            return
        where = {"id": session.id, "peer": str(session.peer)}
        await self._state.report(exc, SESSION_FAILED, where)
        if not session.over:
            try:
                await session.leave(Reply(421, f"{self._name} {LOCAL_ERROR}", "4.3.0"))
            except Exception as error:  # perhaps it was the stream that failed
                SESSION_FAILED.log(where, error=describe(error), exc_info=error)
