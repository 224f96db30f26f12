"""What the HTTP listener measures: the numbers of a server in this process."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from .._server.snapshot import Snapshot, observe

if TYPE_CHECKING:
    from .._server.server import Server
    from ..stores import Store


def measure_alone(server: Server | None, store: Store[Any]) -> Callable[[], Awaitable[Snapshot]]:
    """Measure a server of this process from now on. Return a function that returns its numbers."""
    snapshot = observe(server, store._group)

    async def measure() -> Snapshot:
        return snapshot()

    return measure
