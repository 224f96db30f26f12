"""`Waiters`: the consumers that wait for an entry in the stream of a `Redis` store."""

from __future__ import annotations

import trio


class Waiters:
    """The consumers that wait for an entry, and what is known of the stream.

    One task reads the stream for all of them. Each knows the last entry that its group has begun, and waits only if no newer
    one is known.
    """

    def __init__(self) -> None:
        self.newest: tuple[int, int] = (0, 0)
        """The newest entry that is known."""
        self.last: dict[str, tuple[int, int]] = {}
        """The last entry of each group that had none to claim."""
        self._count = 0
        self._wanted = trio.Event()
        self._arrived = trio.Event()

    async def wait(self, group: str, longest: float) -> None:
        """Wait until a newer entry than the group's last one is known, for ``longest`` seconds at most."""
        last = self.last.get(group, (0, 0))
        if last < self.newest:
            self.newest = last  # for a stream that was emptied: do not return at once for ever
            await trio.lowlevel.checkpoint()
            return
        self.newest = last
        self._count += 1
        self._wanted.set()
        try:
            with trio.move_on_after(longest):
                await self._arrived.wait()
        finally:
            self._count -= 1

    async def wait_for_one(self) -> None:
        """Wait until there is a waiting consumer."""
        if not self._count:
            self._wanted = trio.Event()
            await self._wanted.wait()

    def announce(self, number: tuple[int, int]) -> None:
        """Note a new entry, and wake all consumers."""
        self.newest = number
        arrived, self._arrived = self._arrived, trio.Event()
        arrived.set()
