"""A server with its page in a thread, for tests that wait for a browser."""

from __future__ import annotations

import smtplib
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from email.message import EmailMessage
from queue import SimpleQueue
from threading import Thread
from typing import TypeVar
from urllib.parse import quote

import trio
from attrs import frozen

from smtp_trio import Server, web
from smtp_trio._server.listeners import open_listeners
from smtp_trio.stores import Memory
from smtp_trio.testing import FaultRules
from smtp_trio.web._context import Context
from smtp_trio.web._serve import serve_listeners

T = TypeVar("T")


@frozen
class Inbox:
    """A running server, and what a test needs of it."""

    store: Memory
    server: Server
    port: int
    url: str
    token: trio.lowlevel.TrioToken
    context: Context

    def send(self, message: EmailMessage) -> None:
        """Send a message over SMTP."""
        with smtplib.SMTP("127.0.0.1", self.port, timeout=100) as client:
            client.send_message(message)

    def add(self, message: bytes) -> str:
        """Put a message of any size into the store, and return the path of its view."""
        return self.path(self.run(self.store.add, message, "shop@example.com", ["ada@example.org"]))

    def path(self, store_id: str) -> str:
        """Return the address of the view of a message."""
        return f"{self.url}/messages/{quote(store_id, safe='')}"

    def run(self, function: Callable[..., Awaitable[T]], *arguments: object) -> T:
        """Call an asynchronous function in the thread of the server."""
        return trio.from_thread.run(function, *arguments, trio_token=self.token)

    def add_fault(self, rule: str) -> None:
        """Add a fault rule."""
        assert self.context.faults is not None
        trio.from_thread.run_sync(self.context.faults.add, rule, trio_token=self.token)

    def count(self) -> int:
        """Return the number of messages."""

        async def count() -> int:
            return len([entry async for entry in self.store.entries()])

        return self.run(count)

    def clear(self) -> None:
        """Remove all messages."""

        async def clear() -> None:
            await self.store.remove([entry.id async for entry in self.store.entries()])

        self.run(clear)


@contextmanager
def running(token: str | None = None) -> Iterator[Inbox]:
    """Run a server and its page during the block."""
    ready: SimpleQueue[Inbox | BaseException] = SimpleQueue()

    async def serve() -> None:
        async with Memory() as store, trio.open_nursery() as nursery:
            recorder, faults = web.Recorder(), FaultRules()
            server = Server(recorder.hooks(faults.hooks(store)))
            listeners = await nursery.start(server.serve, 0, "127.0.0.1")
            app = web.app(server, store, recorder=recorder, faults=faults, token=token)
            url = await nursery.start(serve_listeners, app, await open_listeners(0, "127.0.0.1"))
            port = listeners[0].socket.getsockname()[1]
            ready.put(Inbox(store, server, port, url, trio.lowlevel.current_trio_token(), app.context))
            await stopped.wait()
            nursery.cancel_scope.cancel()

    def main() -> None:
        try:
            trio.run(serve)
        except BaseException as error:
            ready.put(error)
            raise

    stopped = trio.Event()
    thread = Thread(target=main)
    thread.start()
    inbox = ready.get()
    if isinstance(inbox, BaseException):
        raise inbox
    try:
        yield inbox
    finally:
        inbox.token.run_sync_soon(stopped.set)
        thread.join()
