"""``smtp-trio inbox`` in a process of its own, for programs that send mail and ask for it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from attrs import frozen
from processes import running


@frozen
class Listener:
    """The port for mail, and the URL of the HTTP listener."""

    port: int
    url: str


@asynccontextmanager
async def listening(*options: str, cwd: Path) -> AsyncIterator[Listener]:
    """Run an inbox on free ports; the block begins when it is ready."""
    async with running("-m", "smtp_trio", "inbox", "--port", "0", "--http", "0", *options, cwd=cwd) as program:
        ready = await program.out.wait_for(r"mail to \S+:(\d+) is shown at (http://\S+)\n")
        yield Listener(int(ready[1]), ready[2])
