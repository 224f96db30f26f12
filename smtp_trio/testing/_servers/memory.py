"""A server in memory, to which a test connects as many clients as it needs."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Unpack

import trio
from attrs import asdict, field, frozen

from ..._client.client import Client, ClientSettings
from ..._client.login import hide_login
from ..._server.hooks import Hooks
from ..._types import Peer
from ...protocol.arguments import check_type
from .._faults.faults import Faults
from .._transcripts.transcript import Transcript
from .pair import memory_pair
from .server_setup import HooksOrServer, ServerSettings, ServerSetup, set_up, stopping


@frozen(kw_only=True)
class MemoryServer(ServerSetup):
    """A server to which clients are connected in memory. ``faults`` are those of clients without a script of their own.

    ``ca`` is the authority of its certificate, if one was created for it.
    """

    faults: Faults | None
    _nursery: trio.Nursery = field(repr=False)

    @asynccontextmanager
    async def _client(
        self,
        hooks: Hooks | None,
        transcript: Transcript | None,
        faults: Faults | None,
        peer: Peer | None,
        settings: ClientSettings,
    ) -> AsyncGenerator[Client]:
        client = await memory_pair(
            self._nursery,
            self.server,
            hooks=hooks,
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
        hooks: Hooks | None = None,
        transcript: Transcript | None = None,
        faults: Faults | None = None,
        peer: Peer | None = None,
        **settings: Unpack[ClientSettings],
    ) -> AbstractAsyncContextManager[Client]:
        """Return a client of this server, for ``async with``. It uses TLS if the server does.

        The arguments are those of `memory_pair`. Raises the same exceptions as ``async with Client``.
        """
        if (problem := hide_login(settings)) is not None:
            raise problem
        self.set_client_defaults(settings)
        return self._client(hooks, transcript, faults, peer, settings)


@asynccontextmanager
async def open_memory_server(
    hooks: HooksOrServer | None = None, *, faults: Faults | None = None, **settings: Unpack[ServerSettings]
) -> AsyncGenerator[MemoryServer]:
    """Start a server without a port, for ``async with``.

    ``hooks`` are by default an `Inbox`. They can also be a `Server` of your own, which has settings of its own, or a
    function that is called with an inbox and returns hooks or a server: ``hooks=Greylist``, or ``hooks=lambda inbox:
    Server(Desk(inbox), name="desk.test")``. ``faults`` apply to each client of `MemoryServer.client` that has no script
    of its own; ``settings`` are those of `ServerSettings`. It can be used under a MockClock.

    At the end the server stops, and idle sessions get a 421. An exception in the block is raised as it is, and not in a
    group. If a hook has raised one, and the block has not, that is raised at the end; ``raise_hook_errors=False``
    disables this.

    Raises TypeError for a `Server` together with settings other than ``implicit_tls`` and ``raise_hook_errors``.
    """
    check_type(faults, "faults", Faults, optional=True)
    setup = set_up(hooks, settings)
    async with stopping(setup) as nursery:
        yield MemoryServer(**asdict(setup, recurse=False), faults=faults, nursery=nursery)
