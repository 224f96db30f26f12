"""A server in memory, which as many clients call as a test likes."""

from __future__ import annotations

import ssl
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Unpack

import trio
from attrs import field, frozen

from ..._client.client import Client, ClientSettings
from ..._server.hooks import Hooks
from ..._server.server import Server
from ..._types import Peer
from .._faults.faults import Faults
from .._transcripts.transcript import Transcript
from .inbox import Inbox
from .pair import memory_pair
from .port import ServerSettings, inbox_of, made_server

if TYPE_CHECKING:
    import trustme


@frozen
class MemoryServer:
    """A server whose clients are joined to it in memory.

    ``ca`` is whom to trust, where a certificate was made for it.
    """

    server: Server
    ca: trustme.CA | None
    #: For a client that trusts ``ca``; None where there is none.
    client_context: ssl.SSLContext | None
    implicit_tls: bool
    #: What goes wrong with every client that has no script of its own.
    faults: Faults | None
    _nursery: trio.Nursery = field(repr=False)

    @property
    def inbox(self) -> Inbox:
        """The server's hooks, or those under a `Layer`. Raises TypeError when they are no `Inbox`."""
        return inbox_of(self.server)

    @asynccontextmanager
    async def _client(
        self, transcript: Transcript | None, faults: Faults | None, peer: Peer | None, settings: ClientSettings
    ) -> AsyncGenerator[Client]:
        client = await memory_pair(
            self._nursery,
            self.server,
            transcript=transcript,
            faults=self.faults if faults is None else faults,
            peer=peer,
            implicit_tls=self.implicit_tls,
            **settings,
        )
        async with client:
            yield client

    def client(
        self,
        *,
        transcript: Transcript | None = None,
        faults: Faults | None = None,
        peer: Peer | None = None,
        **settings: Unpack[ClientSettings],
    ) -> AbstractAsyncContextManager[Client]:
        """A client of it, for ``async with``: `memory_pair`, with TLS where the server has it, and trust in its
        certificate.

        Raises what ``async with Client`` raises.
        """
        if self.server.tls is not None:
            settings.setdefault("tls", "implicit" if self.implicit_tls else "required")
        settings.setdefault("ssl_context", self.client_context)
        return self._client(transcript, faults, peer, settings)


@asynccontextmanager
async def open_memory_server(
    hooks: Hooks | None = None,
    *,
    faults: Faults | None = None,
    tls: bool | ssl.SSLContext = False,
    implicit_tls: bool = False,
    **settings: Unpack[ServerSettings],
) -> AsyncGenerator[MemoryServer]:
    """A server without a port, for ``async with``: all is as with `open_test_server`, but that virtual time is welcome.

    ``faults`` are those of every client of `MemoryServer.client` that has no script of its own.
    """
    server, ca, client_context = made_server(hooks, tls, settings)
    failure: BaseException | None = None
    try:
        async with trio.open_nursery() as nursery:
            try:
                yield MemoryServer(server, ca, client_context, implicit_tls, faults, nursery)
            except (trio.Cancelled, GeneratorExit):
                raise
            except BaseException as exc:  # not through the nursery, which would make a group of it
                failure = exc
            await server.stop(0)
    finally:
        if failure is not None:  # it counts for more than that we were cancelled
            raise failure
