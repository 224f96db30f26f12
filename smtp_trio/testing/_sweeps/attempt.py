"""What a sweep shows of one run: to the scenario, while it runs, and to the check behind it."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import trio

from ..._client.client import Client
from ..._server.server import Server
from ..._server.session import Session
from .._transcripts.transcript import Transcript
from .failing_stream import FailingStream
from .scrutiny import SeenClient, SeenSession


class Attempt:
    """One run of a scenario, which is struck at its ``k``-th point: cancelled there, or a connection cut. At none when ``k`` is 0.

    Sweeps make them, and give them to the scenario and to the check.
    """

    def __init__(self, k: int, cut: Callable[[], bool] | None) -> None:
        self.k: int = k
        #: When it was struck, by Trio's clock; infinite when it ended before its k-th point.
        self.struck_at: float = math.inf
        #: For you: what the scenario leaves there, the check finds.
        self.context: dict[Any, Any] = {}
        #: Exceptions that the `error` hooks were given.
        self.errors: list[Exception] = []
        self._cut = cut
        self._whole = True
        self._open: list[trio.CancelScope] = []
        self._seen: list[SeenSession] = []
        self._seen_clients: list[SeenClient] = []
        self._servers: list[Server] = []
        self._transcript, self._heard = Transcript(), Transcript()

    @contextmanager
    def here(self) -> Generator[None]:
        """Only what is done in this block is cancelled (or cut), not the whole scenario; what comes behind it goes on.

        For a scenario that looks, within its run, at what the blow left behind.
        """
        self._whole = False
        with self._within():
            yield

    def wrap(self, stream: trio.abc.Stream) -> trio.abc.Stream:
        """A stream that `fail_everywhere` cuts too. Those of `Client` and `Session` need none of this."""
        return stream if self._cut is None else FailingStream(stream, self._cut)

    @property
    def struck(self) -> bool:
        """Whether it was struck before it ended."""
        return self.struck_at < math.inf

    @property
    def sessions(self) -> list[Session]:
        """Those of this run, in the order in which they began."""
        return [each.session for each in self._seen]

    @property
    def clients(self) -> list[Client]:
        """Those of this run."""
        return [each.client for each in self._seen_clients]

    @property
    def servers(self) -> list[Server]:
        """Those of this run that had a session."""
        return self._servers

    @property
    def transcript(self) -> Transcript:
        """What was said in the sessions of this run; by its clients when it had no sessions. TLS does not hide it."""
        return self._transcript if self._seen else self._heard

    @contextmanager
    def _within(self) -> Generator[None]:
        with trio.CancelScope() as scope:
            self._open.append(scope)
            try:
                yield
            finally:
                self._open.remove(scope)
