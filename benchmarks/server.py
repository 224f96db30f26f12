"""A server for benchmarks: takes every message and keeps none. `python benchmarks/server.py [floor] PORT`.

``floor`` is the least that a Trio handler can do for a client that waits for each answer: it parses nothing, checks nothing, and
has no timeouts. Whatever smtp_trio costs beyond it is what its work costs.
"""

from __future__ import annotations

import sys

import trio

import smtp_trio


class Sink(smtp_trio.Hooks):
    """Takes everything."""

    async def data(self, session: smtp_trio.Session, body: smtp_trio.Body) -> None:
        async for _ in body:
            pass


async def floor(stream: trio.SocketStream) -> None:
    """Answer 250 to every line, and 354 to DATA."""
    await stream.send_all(b"220 floor ESMTP\r\n")
    end = None  # of the message's octets, while one is under way
    try:
        while octets := await stream.receive_some(65536):
            if end is not None:
                end = (end + octets)[-5:]
                if end != b"\r\n.\r\n":
                    continue
                end, answer = None, b"250 Ok\r\n"
            elif octets[:4].upper() == b"DATA":
                end, answer = b"", b"354 Go ahead\r\n"
            else:
                answer = b"250 Ok\r\n" * octets.count(b"\n")
            await stream.send_all(answer)
    except trio.BrokenResourceError:
        pass


async def main(port: int, *, lowest: bool) -> None:
    """Serve until killed."""
    if lowest:
        await trio.serve_tcp(floor, port, host="127.0.0.1", backlog=1000)
    else:
        await smtp_trio.Server(Sink(), name="bench.example.org").serve(port, "127.0.0.1")


if __name__ == "__main__":
    trio.run(lambda: main(int(sys.argv[-1]), lowest="floor" in sys.argv))
