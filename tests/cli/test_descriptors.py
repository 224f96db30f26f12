"""File descriptors of ``smtp-trio serve``: near the limit clients are refused, and those that were accepted are served."""

from __future__ import annotations

import re
import resource
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio
from processes import HOST, Program, running

from smtp_trio._cli.descriptors import MAX_SESSIONS, PER_SESSION, RESERVE, sessions_within

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

#: More than a store keeps in memory.
LARGE = b"Subject: x\r\n\r\n" + b"y" * 78 + b"\r\n" + (b"y" * 998 + b"\r\n") * 1100


@pytest.mark.parametrize(
    ("descriptors", "sessions"),
    [(0, 1), (64, 1), (RESERVE + 3, 1), (RESERVE + 6, 2), (RESERVE + 8, 2), (1024, 298), (1664, 512), (1 << 20, 512)],
)
def test_sessions_that_fit(descriptors: int, sessions: int) -> None:
    assert sessions_within(descriptors) == sessions
    assert sessions == 1 or sessions * PER_SESSION + RESERVE <= descriptors
    assert sessions_within(resource.RLIM_INFINITY) == MAX_SESSIONS


#: ``smtp-trio`` with a soft and a hard limit of file descriptors, which are the first two arguments.
LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv.pop(1)), int(sys.argv.pop(1))))
from smtp_trio._cli.entry import main
sys.exit(main())
"""


@asynccontextmanager
async def limited(soft: int, hard: int, *options: str, cwd: Path) -> AsyncIterator[Program]:
    """Run ``smtp-trio serve`` with these limits."""
    async with running("-c", LIMITED, str(soft), str(hard), "serve", "--port", "0", *options, cwd=cwd) as program:
        program.port = int((await program.out.wait_for(r"listening on \S+:(\d+)"))[1])
        await program.out.wait_for(r"storing\b.*\n")
        yield program


def soft_limit(pid: int) -> str:
    """Return the soft limit of file descriptors of a process."""
    lines = Path(f"/proc/{pid}/limits").read_text().splitlines()
    return next(line.split()[3] for line in lines if line.startswith("Max open files"))


async def test_soft_limit_is_raised(tmp_path: Path) -> None:
    async with limited(300, 2000, cwd=tmp_path) as program:
        assert soft_limit(program.process.pid) == "2000"
    assert "file descriptors" not in program.err.text


async def test_soft_limit_of_workers_is_raised(tmp_path: Path) -> None:
    async with limited(300, 2000, "--workers", "2", cwd=tmp_path) as program:
        await program.out.wait_for_count(2, r"worker \d: process \d+")
        workers = re.findall(r"worker \d: process (\d+)", program.out.text)
        await program.send("a@b.test", ["c@d.test"], b"Subject: x\r\n\r\n")  # one of them serves
        assert "2000" in {soft_limit(int(pid)) for pid in workers}


class Peer:
    """A client that sends one large message: `begin` up to the dot, if it gets a session, and then `end`."""

    greeting: bytes = b""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream

    async def greeted(self) -> None:
        self.greeting = await self._stream.receive_some()

    async def begin(self) -> None:
        await self._stream.send_all(b"HELO x\r\nMAIL FROM:<a@b.test>\r\nRCPT TO:<u@x.test>\r\nDATA\r\n")
        replies = b""
        while b"354" not in replies:
            replies += await self._stream.receive_some()
        await self._stream.send_all(LARGE)

    async def end(self) -> bytes:
        await self._stream.send_all(b".\r\n")
        return (await self._stream.receive_some())[:3]

    async def quit(self) -> None:
        """Leave, and wait until the server has ended the session. Only then a new client surely gets one."""
        await self._stream.send_all(b"QUIT\r\n")
        while await self._stream.receive_some():
            pass


@pytest.mark.parametrize("store", ["maildir", "sqlite"])
async def test_sessions_at_the_limit_store_their_messages(tmp_path: Path, store: str) -> None:
    """A hundred clients send a message of a mebibyte at the same time, to a server with 200 descriptors."""
    fits, count = sessions_within(200), 100
    async with limited(200, 200, "--store", f"{store}:{tmp_path}/store", cwd=tmp_path) as program:
        await program.err.wait_for(f"at most {fits} sessions")
        peers = [Peer(await trio.open_tcp_stream(HOST, program.port)) for _ in range(count)]
        for peer in peers:
            await peer.greeted()
        served = [peer for peer in peers if peer.greeting.startswith(b"220 ")]
        assert len(served) == fits
        assert sum(peer.greeting.startswith(b"421 ") for peer in peers) == count - fits

        async with trio.open_nursery() as nursery:
            for peer in served:
                nursery.start_soon(peer.begin)
        for peer in served:
            assert await peer.end() == b"250"
            await peer.quit()
        for peer in peers:
            await peer._stream.aclose()
        await program.send("a@b.test", ["c@d.test"], b"Subject: after\r\n\r\n")
    assert "not stored" not in program.err.text
