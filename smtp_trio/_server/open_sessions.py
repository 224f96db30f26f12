"""`OpenSessions`: the open sessions of a server. It counts them, hurries them when there are many, and ends them."""

from __future__ import annotations

from collections.abc import Container, Iterator
from contextvars import ContextVar
from typing import Any, Generic, Protocol, TypeVar
from weakref import ReferenceType

import trio

from .._types import Peer
from .admission import Admission, SharingSession
from .state import ServerState

#: The session that this task runs. Tasks that a hook has started inherit it, and may last longer than the session.
current_session: ContextVar[ReferenceType[Any] | None] = ContextVar("smtp_trio.current_session", default=None)


class OpenSession(SharingSession, Protocol):
    """The part of a session's task that `OpenSessions` uses."""

    key: str | None
    idle: bool
    shield: trio.CancelScope | None

    def wake(self) -> None: ...
    def hurry(self) -> None: ...


SessionT = TypeVar("SessionT", bound=OpenSession)


class OpenSessions(Generic[SessionT]):
    """The open sessions of one server."""

    def __init__(self, state: ServerState, admission: Admission, limit: int | None) -> None:
        self._state = state
        self._admission = admission
        self._limit = limit
        self._tasks: dict[SessionT, trio.lowlevel.Task] = {}  # the Trio task that runs each

    def __len__(self) -> int:
        return len(self._tasks)

    def __iter__(self) -> Iterator[SessionT]:
        return iter(self._tasks)

    def enter(self, session: SessionT, key: str | None) -> None:
        """Count a session that begins, run by the calling task.

        :param key: the name under which `Admission` counts it; None if it does not.
        """
        self._tasks[session] = trio.lowlevel.current_task()
        self._state.counts.sessions_total += 1
        self._update_stress()
        self._share(session, key)

    def leave(self, session: SessionT) -> None:
        """Stop counting a session that ends."""
        del self._tasks[session]
        self._update_stress()
        if session.key:
            self._admission.leave(session.key)

    def count_as(self, session: SessionT, key: str | None, peer: Peer) -> bool:
        """Count a session of a proxy, which has no key yet, as one of its client.

        Return False if that has too many, and must be refused.
        """
        if self._admission.count(key, peer, len(self) - 1):
            return False
        self._share(session, key)
        return True

    def _share(self, session: SessionT, key: str | None) -> None:
        if key:
            self._admission.enter(key, session)
            session.key = key

    def _update_stress(self) -> None:
        """Shorten the timeouts when the server is nearly full, and lengthen them when half of the sessions have ended."""
        limit, count, state = self._limit, len(self), self._state
        if limit is None:
            return
        if state.stressed and 2 * count < limit:
            state.set_stress(stressed=False)
        elif not state.stressed and 4 * count > 3 * limit:
            state.set_stress(stressed=True)
            for session in self:
                session.hurry()

    def runs_one(self, tasks: Container[trio.lowlevel.Task]) -> bool:
        """Return whether the current session is one of these, and one of ``tasks`` runs it."""
        current = current_session.get()
        session = None if current is None else current()
        return session in self._tasks and self._tasks[session] in tasks

    def end(self, deadline: float, *, wake: bool) -> None:
        """Make the deadlines of shielded parts earlier if they are later than this one.

        :param wake: end the sessions that are idle.
        """
        for session in self:
            if session.shield is not None:
                session.shield.deadline = min(session.shield.deadline, deadline)
            if wake and session.idle:
                session.wake()
