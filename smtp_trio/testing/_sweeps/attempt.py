"""One run of a scenario, as the scenario and the check see it."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import trio

from ..._client.client import Client
from ..._server.server import Server
from ..._server.session import Session
from .._transcripts.transcript import Transcript
from .interruption import Interruption
from .observation import Observer


class Attempt:
    """One run of a scenario, interrupted at its ``k``-th point: it is cancelled there, a connection is cut, or the action
    of `start_everywhere` begins.

    The run with ``k`` 0 is not interrupted.

    Sweeps make attempts and pass them to the scenario and to the check.
    """

    def __init__(self, k: int, interruption: Interruption, observer: Observer) -> None:
        self.k: int = k
        #: For your use: the check finds here what the scenario has stored.
        self.context: dict[Any, Any] = {}
        self._interruption, self._observer = interruption, observer

    def here(self) -> AbstractContextManager[None]:
        """Interrupt only what is done in this block, for ``with``, and not the whole scenario.

        For a scenario that examines, within its run, the state after an interruption.
        """
        self._interruption.narrow()
        return self._interruption.region()

    def wrap(self, stream: trio.abc.Stream) -> trio.abc.Stream:
        """Return a stream that `fail_everywhere` cuts as well.

        It cuts those of each `Client` and `Session` in any case.
        """
        return self._interruption.wrap(stream)

    @property
    def interrupted(self) -> bool:
        """True if the run was interrupted before it ended, or the action of `start_everywhere` was started."""
        return self._interruption.done

    @property
    def interrupted_at(self) -> float:
        """The time of the interruption by Trio's clock, in seconds; infinite without an interruption."""
        return self._interruption.time

    @property
    def sessions(self) -> list[Session]:
        """The sessions of this run, in the order in which they began."""
        return [each.session for each in self._observer.sessions]

    @property
    def clients(self) -> list[Client]:
        """The clients of this run, in the order in which they connected."""
        return [each.client for each in self._observer.clients]

    @property
    def servers(self) -> list[Server]:
        """The servers that were created in this run, or had a session."""
        return self._observer.servers

    @property
    def errors(self) -> list[Exception]:
        """The exceptions that were reported to ``error`` hooks."""
        return self._observer.errors

    @property
    def transcript(self) -> Transcript:
        """The transcript of all sessions of this run, or of its clients when it had no session.

        TLS does not hide their octets.
        """
        return self._observer.transcript
