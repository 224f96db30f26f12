"""A client and a real server, joined in memory."""

from __future__ import annotations

from typing import Unpack

import trio
from attrs import evolve

from ..._client.client import Client, ClientSettings
from ..._server.hooks import Hooks
from ..._server.server import Server
from ..._types import Peer
from .._faults.faults import Faults
from .._streams import MAX_OCTETS, bounded_stream_pair
from .._transcripts.recording import Tap
from .._transcripts.transcript import Transcript
from .deterministic import deterministic

#: Who a server of tests says it is.
NAME = "mx.test"


async def memory_pair(
    nursery: trio.Nursery,
    server: Server | Hooks,
    *,
    transcript: Transcript | None = None,
    faults: Faults | None = None,
    peer: Peer | None = None,
    implicit_tls: bool = False,
    max_octets: int = MAX_OCTETS,
    host: str | None = None,
    **settings: Unpack[ClientSettings],
) -> Client:
    """A client joined to a real session of ``server``, which runs in ``nursery``: no sockets, no threads, no waiting.

    The client is a `Client` to be used with ``async with``: ``async with await memory_pair(nursery, server) as
    client:``. ``host`` and ``settings`` are its keywords; without, it is "client.test", and calls the server by the
    server's name. Hooks in the place of a server get one made for them, which is the same in every run
    (`deterministic`), called "mx.test", and not strict about line ends.

    ``transcript`` is to write the session down, from the client's end. ``faults`` go wrong at both ends. ``peer`` is
    who the server takes the client for: ``Peer("192.0.2.1", 50000, "tcp")``, say. Each direction holds ``max_octets``
    that were not received yet.

    Raises ValueError for settings that contradict each other.
    """
    if isinstance(server, Hooks):
        server = Server(
            server if faults is None else faults.hooks(server), name=NAME, newlines="normalize", **deterministic()
        )
    elif faults is not None:
        faults.install(server)
    near, far = bounded_stream_pair(max_octets)
    if peer is not None:
        far.endpoints = evolve(peer), far.endpoints[1]
    recorded = None if transcript is None else transcript.record(near, side="C")
    ours: trio.abc.Stream = recorded or near
    theirs: trio.abc.Stream = far
    if faults is not None:
        ours, theirs = faults.wrap(ours, side="client"), faults.wrap(theirs, side="server")
    settings.setdefault("name", "client.test")
    client = Client(ours, host=server.name if host is None else host, **settings)
    if transcript is not None and recorded is not None:
        Tap(client._exchange.wire, transcript, "C", recorded.session, encrypted=True)
    await nursery.start(_serve, server, theirs, implicit_tls)
    return client


async def _serve(
    server: Server, stream: trio.abc.Stream, implicit_tls: bool, task_status: trio.TaskStatus[None]
) -> None:
    task_status.started()  # so sessions begin, and get their ids, in the order in which they were asked for
    await server.serve_stream(stream, implicit_tls=implicit_tls)
