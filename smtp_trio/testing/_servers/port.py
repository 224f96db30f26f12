"""A server on a port, for clients that connect to an address."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Unpack

import trio
from attrs import asdict, frozen

from ..._client.client import Client
from ..._client.connect import ConnectSettings, connect
from ..._client.login import hide_login
from .server_setup import HOST, HooksOrServer, ServerSettings, ServerSetup, set_up, stopping


@frozen(kw_only=True)
class TestServer(ServerSetup):
    """A server that listens at ``host`` and ``port``.

    ``ca`` is the authority of its certificate, if one was created for it.
    """

    host: str
    port: int

    def client(self, **settings: Unpack[ConnectSettings]) -> AbstractAsyncContextManager[Client]:
        """Connect to this server, for ``async with``:

        `connect` with its address, and with TLS if the server uses it.
        """
        if (problem := hide_login(settings)) is not None:
            raise problem
        self.set_client_defaults(settings)
        return connect(self.host, self.port, **settings)


@asynccontextmanager
async def open_test_server(
    hooks: HooksOrServer | None = None, **settings: Unpack[ServerSettings]
) -> AsyncGenerator[TestServer]:
    """Start a server on a free port of 127.0.0.1, for ``async with``.

    ``hooks`` and ``settings`` are those of `open_memory_server`, and so are the exceptions and the end of the block.

    Since sockets are real, this requires the real clock: under a MockClock use `open_memory_server`.
    """
    setup = set_up(hooks, settings)
    async with stopping(setup) as nursery:

        async def serve(*, task_status: trio.TaskStatus[list[trio.SocketListener]]) -> None:
            await setup.server.serve(0, HOST, implicit_tls=setup.implicit_tls, task_status=task_status)

        [listener] = await nursery.start(serve)
        yield TestServer(
            host=HOST,
            port=listener.socket.getsockname()[1],
            **asdict(setup, recurse=False),
        )
