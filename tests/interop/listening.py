"""A server with its HTTP listener, for programs that talk to both."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio
from attrs import frozen

from smtp_trio import Server, web
from smtp_trio.stores.memory import Memory

HOST = "127.0.0.1"


@frozen
class Listener:
    """The addresses of a server and of its HTTP listener."""

    port: int
    url: str


@asynccontextmanager
async def listening() -> AsyncIterator[Listener]:
    """Run a server that keeps messages in memory, and its HTTP listener."""
    store = Memory()
    server = Server(store)

    async def listen(*, task_status: trio.TaskStatus[str]) -> None:
        await web.serve(server, store, 0, task_status=task_status)

    with trio.fail_after(240):
        async with trio.open_nursery() as nursery:
            listeners = await nursery.start(server.serve, 0, HOST)
            url = await nursery.start(listen)
            yield Listener(listeners[0].socket.getsockname()[1], url)
            nursery.cancel_scope.cancel()
