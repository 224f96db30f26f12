"""The memory of a session is bounded by one read and one incomplete line, whatever the client sends."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import textwrap
from functools import partial
from pathlib import Path

import pytest
import trio

MIB = 1 << 20

SERVER = textwrap.dedent(
    """
    import sys, trio, smtp_trio

    class Count(smtp_trio.Hooks):
        async def data(self, session, body):
            size = 0
            async for chunk in body:
                size += len(chunk)
            return smtp_trio.Reply(250, f"{size} octets")

    async def main():
        server = smtp_trio.Server(Count(), name="mx.example.org", size=0)
        async with trio.open_nursery() as nursery:
            [listener] = await nursery.start(server.serve, 0, "127.0.0.1")
            print(listener.socket.getsockname()[1], flush=True)

    trio.run(main)
    """
)


def peak(pid: int) -> int:
    """Return the peak memory of a process, in octets."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no VmHWM")


async def run(prefix: bytes, piece: bytes, count: int, end: bytes) -> tuple[int, list[bytes]]:
    """Send ``prefix``, ``count`` pieces and ``end`` in one session. Return the growth of memory and the replies."""
    if not sys.platform.startswith("linux"):
        pytest.skip("reads /proc")
    async with trio.open_nursery() as nursery:
        process = await nursery.start(
            partial(
                trio.run_process,
                [sys.executable, "-c", SERVER],
                stdout=subprocess.PIPE,
                capture_stdout=False,
                check=False,
                env=os.environ,
            )
        )
        port = int(await process.stdout.receive_some())
        received = b""
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            # A first message, so that memory which is allocated once only is allocated before the measurement.
            await stream.send_all(
                b"EHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<a@b>\r\nBDAT 65536 LAST\r\n" + (b"x" * 62 + b"\r\n") * 1024
            )
            while b"65536 octets" not in received:
                received += await stream.receive_some()
            before, lines = peak(process.pid), received.count(b"\r\n")
            await stream.send_all(prefix)
            for _ in range(count):
                await stream.send_all(piece)
            await stream.send_all(end)
            stream.socket.shutdown(socket.SHUT_WR)
            async for more in stream:
                received += more
            growth = peak(process.pid) - before
        nursery.cancel_scope.cancel()
    return growth, received.split(b"\r\n")[lines:-1]


@pytest.mark.exhaustive
async def test_message_of_1_GiB_is_streamed() -> None:
    line = b"x" * 1022 + b"\r\n"
    growth, replies = await run(b"MAIL FROM:<>\r\nRCPT TO:<a@b>\r\nDATA\r\n", line * 1024, 1024, b".\r\nQUIT\r\n")

    assert replies[-2] == b"250 2.0.0 1073741824 octets"
    assert growth < 8 * MIB


async def test_line_without_end_is_not_kept() -> None:
    growth, replies = await run(b"NOOP ", b"x" * MIB, 64, b"\r\nNOOP\r\nQUIT\r\n")

    assert [reply[:9] for reply in replies] == [b"500 5.5.2", b"250 2.0.0", b"221 2.0.0"]
    assert growth < 2 * MIB


async def test_header_without_end_is_not_kept() -> None:
    growth, replies = await run(
        b"MAIL FROM:<>\r\nRCPT TO:<a@b>\r\nDATA\r\nX:", b" x\r\n" * (MIB // 4), 64, b".\r\nQUIT\r\n"
    )

    assert replies[-2].startswith(b"250 2.0.0")
    assert growth < 4 * MIB
