"""A client and a session of a server, connected in memory."""

from __future__ import annotations

from typing import Unpack

import trio
from attrs import evolve

from ..._client.client import Client, ClientSettings
from ..._client.login import hide_login
from ..._server.hooks import Hooks
from ..._server.server import Server
from ..._types import Peer
from ...protocol.arguments import check_number, check_type
from .._faults.faults import Faults
from .._streams import MAX_OCTETS, bounded_stream_pair
from .._transcripts.recording import Tap
from .._transcripts.transcript import Transcript
from .server_setup import set_up


async def memory_pair(
    nursery: trio.Nursery,
    server: Server | Hooks,
    *,
    hooks: Hooks | None = None,
    transcript: Transcript | None = None,
    faults: Faults | None = None,
    peer: Peer | None = None,
    implicit_tls: bool = False,
    max_octets: int = MAX_OCTETS,
    host: str | None = None,
    **settings: Unpack[ClientSettings],
) -> Client:
    """Start a session of ``server`` in ``nursery``, and return a client that is connected to it in memory.

    The client is a `Client`, to be used with ``async with``: ``async with await memory_pair(nursery, server) as
    client:``. ``host`` and ``settings`` are its arguments; by default its name is "client.test", and ``host`` is the
    server's name. If ``server`` is `Hooks`, a server is made for them with the defaults of `ServerSettings`. ``hooks``
    are those of the port that the client connects to, as in `Server.serve`; by default they are the server's.

    ``transcript`` records the session at the client's end. ``faults`` act on both ends. ``peer`` is the client's
    address as the server sees it, for example ``Peer("192.0.2.1", 50000, "tcp")``. With ``implicit_tls`` the server
    begins the session with TLS. Each direction holds at most ``max_octets`` octets that were not received yet.

    Raises ValueError for settings that contradict each other, and TypeError for arguments of a wrong type.
    """
    if (problem := hide_login(settings)) is not None:
        raise problem
    check_type(server, "server", (Server, Hooks))
    check_type(hooks, "hooks", Hooks, optional=True)
    check_type(transcript, "transcript", Transcript, optional=True)
    check_type(faults, "faults", Faults, optional=True)
    check_type(peer, "peer", Peer, optional=True)
    check_type(implicit_tls, "implicit_tls", bool)
    check_number(max_octets, "max_octets", 1, integer=True)
    if faults is not None and hooks is not None:
        hooks = faults.hooks(hooks)
    elif faults is not None and isinstance(server, Hooks):
        server = faults.hooks(server)
    elif faults is not None and isinstance(server, Server):
        faults.install(server)
    if isinstance(server, Hooks):
        server = set_up(server, {}).server
    near, far = bounded_stream_pair(max_octets)
    if peer is not None:
        far.endpoints = evolve(peer), far.endpoints[1]
    recorded = None if transcript is None else transcript.record(near, side="C")
    client_end: trio.abc.Stream = recorded or near
    server_end: trio.abc.Stream = far
    if faults is not None:
        client_end, server_end = faults.wrap(client_end, side="client"), faults.wrap(server_end, side="server")
    settings.setdefault("name", "client.test")
    settings.setdefault("lmtp", server.lmtp)
    name = "" if server.name.startswith("[") else server.name  # certificates have no address literals
    client = Client(client_end, host=name if host is None else host, **settings)
    if transcript is not None and recorded is not None:
        Tap(client._exchange.wire, transcript, "C", recorded.session, encrypted=True)
    await nursery.start(_serve, server, server_end, implicit_tls, hooks)
    return client


async def _serve(
    server: Server,
    stream: trio.abc.Stream,
    implicit_tls: bool,
    hooks: Hooks | None,
    task_status: trio.TaskStatus[None],
) -> None:
    task_status.started()  # sessions begin, and get their ids, in the order in which they were requested
    await server.serve_stream(stream, implicit_tls=implicit_tls, hooks=hooks)
