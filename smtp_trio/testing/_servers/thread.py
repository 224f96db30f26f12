"""An inbox for those who do not run in Trio: its server has a thread of its own."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Unpack

import trio

from ..._server.hooks import Hooks
from .inbox import Inbox, ReceivedMail, Text
from .port import ServerSettings, TestServer, open_test_server

if TYPE_CHECKING:
    import trustme


class InboxThread:
    """A server at ``host`` and ``port``, in a thread of its own, and the messages that it took. Its methods may be
    called anywhere but in that thread, and block until they are done.
    """

    def __init__(self, server: TestServer, inbox: Inbox) -> None:
        self.host: str = server.host
        self.port: int = server.port
        #: Whom to trust, where a certificate was made for the server.
        self.ca: trustme.CA | None = server.ca
        #: For a client that trusts ``ca``; None where there is none.
        self.client_context: ssl.SSLContext | None = server.client_context
        self._inbox = inbox
        self._token = trio.lowlevel.current_trio_token()
        self._over = trio.Event()

    def __repr__(self) -> str:
        return f"<InboxThread at {self.host}:{self.port} with {len(self.messages)} messages>"

    @property
    def messages(self) -> list[ReceivedMail]:
        """Those so far, in the order in which they were taken."""
        return list(self._inbox)

    def wait_for(
        self,
        n: int = 1,
        *,
        to: Text | None = None,
        subject: Text | None = None,
        sender: Text | None = None,
        match: Callable[[ReceivedMail], bool] | None = None,
        timeout: float = 10,
    ) -> list[ReceivedMail]:
        """Block until ``n`` messages that fit were taken, and return these, the oldest. What fits is told with `Inbox`.

        Raises TimeoutError after ``timeout`` seconds, with what did arrive.
        """

        async def wait() -> list[ReceivedMail]:
            if len(found := self._inbox.matching(to=to, subject=subject, sender=sender, match=match)) >= n:
                return found[:n]  # also when there is no time to wait
            with trio.move_on_after(timeout):
                try:
                    return await self._inbox.wait_for(n, to=to, subject=subject, sender=sender, match=match)
                except trio.Cancelled as cancelled:
                    account = cancelled.__notes__[-1]
                    raise
            raise TimeoutError(account)

        return trio.from_thread.run(wait, trio_token=self._token)

    def assert_delivered(
        self,
        n: int = 1,
        *,
        to: Text | None = None,
        subject: Text | None = None,
        sender: Text | None = None,
        match: Callable[[ReceivedMail], bool] | None = None,
    ) -> list[ReceivedMail]:
        """As `Inbox.assert_delivered`: so many were taken by now, no more and no less. Raises AssertionError."""
        call = partial(self._inbox.assert_delivered, n, to=to, subject=subject, sender=sender, match=match)
        return trio.from_thread.run_sync(call, trio_token=self._token)

    def assert_empty(self) -> None:
        """No message was taken. Raises AssertionError."""
        trio.from_thread.run_sync(self._inbox.assert_empty, trio_token=self._token)

    def clear(self) -> None:
        """Forget the messages."""
        trio.from_thread.run_sync(self._inbox.clear, trio_token=self._token)

    async def _until_closed(self) -> None:
        await self._over.wait()

    def _close(self) -> None:
        with suppress(trio.RunFinishedError):
            self._token.run_sync_soon(self._over.set)


@contextmanager
def open_inbox_thread(
    hooks: Callable[[Inbox], Hooks] | None = None,
    *,
    tls: bool | ssl.SSLContext = False,
    implicit_tls: bool = False,
    **settings: Unpack[ServerSettings],
) -> Generator[InboxThread]:
    """A server for programs that know nothing of Trio, for ``with``: `open_test_server` in a thread, which is joined at
    the end.

    ``hooks`` makes the server's hooks of the inbox: a `Layer`, say (``hooks=Greylist``), or ``lambda inbox:
    faults.hooks(inbox)``. Without it they are the inbox itself.
    """
    started: Future[InboxThread] = Future()

    async def serve() -> None:
        inbox = Inbox()
        made = inbox if hooks is None else hooks(inbox)
        async with open_test_server(made, tls=tls, implicit_tls=implicit_tls, **settings) as server:
            thread = InboxThread(server, inbox)
            started.set_result(thread)
            await thread._until_closed()

    def run() -> None:
        try:
            trio.run(serve)
        except BaseException as exc:
            if started.done():
                raise
            started.set_exception(exc)

    with ThreadPoolExecutor(1, "smtp inbox") as threads:
        over = threads.submit(run)
        try:
            yield started.result()
        finally:
            if started.exception() is None:
                started.result()._close()
                over.result()
