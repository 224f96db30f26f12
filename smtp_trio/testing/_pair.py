"""A client and a real server, joined in memory, or over a port of its own."""

from __future__ import annotations

from typing import Literal, Protocol, Unpack

import trio
from attrs import evolve

from .._client import Client
from .._dialing import ClientSettings
from .._hooks import Hooks
from .._server import Server
from .._values import Peer
from ._doors import fixed_doors
from ._streams import bounded_stream_pair
from ._transcript import Transcript


class Disturbance(Protocol):
    """What `memory_pair` needs of fault rules: `Faults` has it."""

    def wrap(self, stream: trio.abc.Stream, *, side: Literal["client", "server"]) -> trio.abc.Stream: ...
    def hooks(self, hooks: Hooks) -> Hooks: ...


NAME = "mx.test"


def server_of(server: Server | Hooks, faults: Disturbance | None = None) -> Server:
    """A server for these hooks that is the same in every run; a server is left as it is."""
    if isinstance(server, Server):
        return server
    hooks = server if faults is None else faults.hooks(server)
    return Server(hooks, name=NAME, newlines="normalize", **fixed_doors())


async def memory_pair(
    nursery: trio.Nursery,
    server: Server | Hooks,
    *,
    transcript: Transcript | None = None,
    faults: Disturbance | None = None,
    peer: Peer | None = None,
    implicit_tls: bool = False,
    **settings: Unpack[ClientSettings],
) -> Client:
    """A client joined to a real session of ``server``, which runs in ``nursery``: no sockets, no threads.

    Use it with ``async with``, as any `Client`; ``settings`` are its keywords, ``name`` being "client.test" if you say nothing.
    """
    served = server_of(server, faults)
    near, far = bounded_stream_pair()
    if peer is not None:
        far.endpoints = evolve(peer), far.endpoints[1]
    ours: trio.abc.Stream = near
    if transcript is not None:
        ours = transcript.record(ours, side="C")
    theirs = far if faults is None else faults.wrap(far, side="server")
    nursery.start_soon(_serve, served, theirs, implicit_tls)
    client = Client(ours, **{"name": "client.test", **settings})
    if transcript is not None:
        transcript.tap(client.talk.wire, side="C", secure=True)
    await trio.lowlevel.checkpoint()
    return client


async def _serve(server: Server, stream: trio.abc.Stream, implicit_tls: bool) -> None:
    await server.serve_stream(stream, implicit_tls=implicit_tls)
