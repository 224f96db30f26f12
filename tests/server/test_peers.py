"""What is known about the two ends of a stream."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable

import pytest
import trio
from helpers import NAME, client_tls, server_tls, sockets
from trio.testing import memory_stream_pair

from smtp_trio._server.peers import has_left

Socket = socket.socket


async def connected_tcp() -> tuple[trio.SocketStream, Socket]:
    """Return the two ends of a TCP connection, the first one as a stream."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        accepted, _ = listener.accept()
    return trio.SocketStream(trio.socket.from_stdlib_socket(accepted)), client


def reset(client: Socket) -> None:
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


@pytest.mark.parametrize("leave", [Socket.close, reset, lambda client: client.shutdown(socket.SHUT_WR)])
@pytest.mark.parametrize("unread", [b"", b"NOOP\r\n" * 1000])
async def test_client_of_a_socket_has_left(leave: Callable[[Socket], object], unread: bytes) -> None:
    stream, client = await connected_tcp()
    async with stream:
        client.sendall(unread)
        assert not has_left(stream)
        leave(client)
        with trio.fail_after(100):  # what the kernel sends to this machine may arrive later
            while not has_left(stream):
                await trio.lowlevel.checkpoint()
    assert has_left(stream)  # it is closed on this side
    client.close()


async def test_client_of_a_tls_stream_has_left() -> None:
    one, other = sockets()
    client = trio.SSLStream(one, client_tls(), server_hostname=NAME)
    server = trio.SSLStream(other, server_tls(), server_side=True)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.do_handshake)
        nursery.start_soon(server.do_handshake)
    assert not has_left(server)
    await trio.aclose_forcefully(client)
    assert has_left(server)
    await trio.aclose_forcefully(server)


async def test_client_of_another_stream_has_not_left() -> None:
    one, other = memory_stream_pair()
    await one.aclose()
    assert not has_left(other)
