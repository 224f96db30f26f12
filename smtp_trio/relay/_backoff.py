"""`Backoff`: the time until the next attempt to reach a server that could not be reached."""

from __future__ import annotations

import trio

from .._server.log_events import DESTINATION_DOWN, DESTINATION_UP

#: Seconds until the next attempt to reach the server: the first, and the longest. The time doubles each time.
FIRST_PAUSE, LONGEST_PAUSE = 5.0, 300.0


class Backoff:
    """A record of whether the server can be reached, and of the time before which no attempt is made if not."""

    def __init__(self, destination: str) -> None:
        self.error: str | None = None
        """Why the server could not be reached; None if it can be, or has not been tried."""
        self._destination = destination
        self._pause = 0.0
        self._until = 0.0
        self._since = 0.0
        self._reached = trio.Event()

    @property
    def duration(self) -> float:
        """The seconds since the server could not be reached for the first time."""
        return trio.current_time() - self._since

    @property
    def remaining(self) -> float:
        """The seconds until the next attempt."""
        return max(0.0, self._until - trio.current_time())

    async def wait(self) -> None:
        """Wait for the time of the next attempt, or until the server is reached by an attempt that has begun before."""
        with trio.move_on_at(self._until):
            await self._reached.wait()

    def failed(self, error: str) -> None:
        """Record that the server could not be reached. Attempts that were made at the same time count once."""
        if self.error is None:
            DESTINATION_DOWN.log(destination=self._destination, error=error)
            self._reached = trio.Event()
            self._since = trio.current_time()
        self.error = error
        if not self.remaining:
            self._pause = min(self._pause * 2 or FIRST_PAUSE, LONGEST_PAUSE)
            self._until = trio.current_time() + self._pause

    def succeeded(self) -> None:
        """Record that the server could be reached."""
        if self.error is not None:
            DESTINATION_UP.log(destination=self._destination)
            self._reached.set()
        self.error, self._pause, self._until = None, 0.0, 0.0
