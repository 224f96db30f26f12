"""Actions for `start_everywhere`: what is started beside a scenario."""

from __future__ import annotations

import trio

from .._servers.pair import memory_pair
from .attempt import Attempt


async def stop_server(attempt: Attempt) -> None:
    """Stop each server of the run, with the default grace period: an action for `start_everywhere`."""
    for server in attempt.servers:
        await server.stop()


async def connect_client(attempt: Attempt) -> None:
    """Start another session of each server of the run: an action for `start_everywhere`.

    The session is a `Server.serve_stream` of its own, with a client in memory that sends EHLO, NOOP and QUIT.
    """
    for server in attempt.servers:
        async with trio.open_nursery() as nursery:
            async with await memory_pair(nursery, server, tls="never", name="another.test") as client:
                await client.noop()
