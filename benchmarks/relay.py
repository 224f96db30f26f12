"""A relay that adds latency: ``python -m benchmarks.relay PORT TARGET SECONDS``, with the time of a round trip."""

from __future__ import annotations

import math
import sys

import trio

from .servers import HOST


async def main(port: int, target: int, seconds: float) -> None:
    """Serve until killed."""

    async def serve(client: trio.SocketStream) -> None:
        server = await trio.open_tcp_stream(HOST, target)
        async with client, server, trio.open_nursery() as nursery:
            nursery.start_soon(forward, client, server, seconds / 2)
            nursery.start_soon(forward, server, client, seconds / 2)

    await trio.serve_tcp(serve, port, host=HOST)


async def forward(source: trio.abc.HalfCloseableStream, target: trio.abc.HalfCloseableStream, seconds: float) -> None:
    """Forward octets from source to target, each of them after this time, without limiting the throughput."""
    send, receive = trio.open_memory_channel[tuple[float, bytes]](math.inf)

    async def deliver() -> None:
        async for due, octets in receive:
            await trio.sleep_until(due)
            await target.send_all(octets)
        await target.send_eof()

    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(deliver)
            async with send:
                async for octets in source:
                    send.send_nowait((trio.current_time() + seconds, bytes(octets)))
    except* (trio.BrokenResourceError, trio.ClosedResourceError):
        pass


if __name__ == "__main__":
    trio.run(main, int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))
