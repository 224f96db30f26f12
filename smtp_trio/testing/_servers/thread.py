"""An inbox for programs that do not run in Trio: its server has a thread of its own."""

from __future__ import annotations

import ssl
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Unpack

import trio

from ...protocol.arguments import check_number
from .inbox import MailFilter, ReceivedMail
from .port import TestServer, open_test_server
from .server_setup import HooksOrServer, ServerSettings

if TYPE_CHECKING:
    import trustme


class InboxThread:
    """A server at ``host`` and ``port``, in a thread of its own, with the messages that it has received.

    Its methods can be called from any other thread, and block until they are done.
    """

    def __init__(self, server: TestServer) -> None:
        self.host: str = server.host
        self.port: int = server.port
        #: The authority of the server's certificate, if one was created for it.
        self.ca: trustme.CA | None = server.ca
        #: An SSLContext for clients that trusts ``ca``; None without ``ca``.
        self.client_context: ssl.SSLContext | None = server.client_context
        self._server = server
        self._token = trio.lowlevel.current_trio_token()
        self._closed = trio.Event()

    def __repr__(self) -> str:
        return f"<InboxThread at {self.host}:{self.port}>"

    @property
    def messages(self) -> list[ReceivedMail]:
        """The messages so far, in the order in which they were received.

        This and the methods raise TypeError if the server's hooks are not an `Inbox`, and were not made for one.
        """
        return list(self._server.inbox)

    def wait_for(self, n: int = 1, *, timeout: float = 10, **criteria: Unpack[MailFilter]) -> list[ReceivedMail]:
        """Block until ``n`` messages that meet the criteria were received; return the oldest ``n``.

        ``criteria`` are those of `MailFilter`. Raises TimeoutError after ``timeout`` seconds, with an account of what
        was received.
        """
        check_number(timeout, "timeout")
        inbox = self._server.inbox

        async def wait() -> list[ReceivedMail]:
            if len(found := inbox.matching(**criteria)) >= n:
                return found[:n]  # also with a timeout of 0
            with trio.move_on_after(timeout):
                try:
                    return await inbox.wait_for(n, **criteria)
                except trio.Cancelled as cancelled:
                    account = cancelled.__notes__[-1]
                    raise
            raise TimeoutError(account)

        return trio.from_thread.run(wait, trio_token=self._token)

    def assert_delivered(self, n: int = 1, **criteria: Unpack[MailFilter]) -> list[ReceivedMail]:
        """Check that exactly ``n`` messages so far meet the criteria, and return them. Raises AssertionError."""
        call = partial(self._server.inbox.assert_delivered, n, **criteria)
        return trio.from_thread.run_sync(call, trio_token=self._token)

    def assert_empty(self) -> None:
        """Check that no message was received. Raises AssertionError."""
        trio.from_thread.run_sync(self._server.inbox.assert_empty, trio_token=self._token)

    def clear(self) -> None:
        """Discard the messages."""
        trio.from_thread.run_sync(self._server.inbox.clear, trio_token=self._token)

    async def _wait_closed(self) -> None:
        await self._closed.wait()

    def _close(self) -> None:
        with suppress(trio.RunFinishedError):
            self._token.run_sync_soon(self._closed.set)


@contextmanager
def open_inbox_thread(hooks: HooksOrServer | None = None, **settings: Unpack[ServerSettings]) -> Generator[InboxThread]:
    """Start a server for programs that do not use Trio, for ``with``: `open_test_server` in a thread.

    ``hooks`` and ``settings`` are those of `open_memory_server`: ``hooks=Greylist``, or ``hooks=lambda inbox:
    faults.hooks(inbox)``. The thread has ended when the block is left. An exception of a hook is raised then, unless
    the block has raised one, or ``raise_hook_errors`` is false.
    """
    started: Future[InboxThread] = Future()

    async def serve() -> None:
        async with open_test_server(hooks, **settings) as server:
            thread = InboxThread(server)
            started.set_result(thread)
            await thread._wait_closed()

    def run() -> None:
        try:
            trio.run(serve)
        except BaseException as exc:
            if started.done():
                raise
            started.set_exception(exc)

    with ThreadPoolExecutor(1, "smtp inbox") as threads:
        ended = threads.submit(run)
        thread = started.result()
        try:
            yield thread
        except BaseException:
            thread._close()
            raise
        thread._close()
        ended.result()
