"""The client under test: a command that is run for each scene, or somebody who comes by himself."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import tempfile
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Protocol

import trio
from attrs import define, field, frozen

from ._scene import Ending

Serve = Callable[[trio.abc.Stream], Awaitable[None]]

OUTPUT = 4000
"""Octets that are kept of what a client writes, from the end."""
GRACE = 1.0
"""Seconds for what a client has left behind, when it has ended itself."""


@frozen
class Errand:
    """What the client is to do."""

    title: str
    text: bytes
    """The message, with CRLF."""
    values: Mapping[str, str]
    """``from``, ``to``, ``to2``, ``user``, ``password``, ``cafile``."""


class Subject(Protocol):
    """A client under test."""

    @property
    def name(self) -> str: ...

    @property
    def asks(self) -> bool:
        """Whether it can be told what to send, and says how it went."""
        ...

    @property
    def wait(self) -> float:
        """Seconds that it has to come, beside those that a scene takes."""
        ...

    async def run(self, errand: Errand, serve: Serve) -> Ending:
        """Let it come, as often as it likes; ends when it is through. Cancelled when its time is over.

        Raises:
            OSError: it cannot be run.
        """
        ...


async def serving(
    listener: trio.SocketListener,
    serve: Serve,
    nursery: trio.Nursery,
    task_status: trio.TaskStatus[trio.CancelScope],
) -> None:
    """Take connections, each served in a task of its own, until the scope that is handed out is cancelled."""
    with trio.CancelScope() as scope:
        task_status.started(scope)
        while True:
            stream = await listener.accept()
            nursery.start_soon(serve, stream)


async def listen(host: str, port: int) -> trio.SocketListener:
    """A listener on one address."""
    listener, *others = await trio.open_tcp_listeners(port, host=host)
    for other in others:
        await other.aclose()
    return listener


@define
class Command:
    """A command line: ``{host}``, ``{port}``, ``{message}`` (a file) and the values of an errand stand in it.

    The message is its standard input as well.
    """

    template: str
    host: str = "127.0.0.1"
    port: int = 0
    """0: a free one, for each scene another."""
    asks: bool = True
    wait: float = 0.0

    @property
    def name(self) -> str:
        return self.template

    async def run(self, errand: Errand, serve: Serve) -> Ending:
        listener = await listen(self.host, self.port)
        port = listener.socket.getsockname()[1]
        with tempfile.TemporaryDirectory(prefix="smtp-trio-") as folder:
            message = trio.Path(folder, "message.eml")
            await message.write_bytes(errand.text)
            values = {**errand.values, "host": self.host, "port": str(port), "message": str(message)}
            async with trio.open_nursery() as nursery, listener:
                accepting: trio.CancelScope = await nursery.start(serving, listener, serve, nursery)
                ending = await run(filled(self.template, values), errand.text)
                nursery.cancel_scope.deadline = trio.current_time() + GRACE  # what it has sent last may not be read yet
                accepting.cancel()
        return ending


def filled(template: str, values: Mapping[str, str]) -> list[str]:
    """The words of the command, each with its values: no shell sees them."""
    words = shlex.split(template)
    for name, value in values.items():
        words = [word.replace("{" + name + "}", value) for word in words]
    return words


async def run(words: Sequence[str], stdin: bytes) -> Ending:
    """Run it to its end, and end all that it has started."""
    process = await trio.lowlevel.open_process(
        words,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    output = bytearray()
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(_feed, process, stdin))
            nursery.start_soon(_drain, process, output)
            code = await process.wait()
            nursery.cancel_scope.deadline = trio.current_time() + 0.2  # somebody else may hold its output open
    finally:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        with trio.CancelScope(shield=True):
            await process.wait()
            for end in (process.stdin, process.stdout):
                if end is not None:
                    await end.aclose()
    return Ending(code, bytes(output))


async def _feed(process: trio.Process, data: bytes) -> None:
    assert process.stdin is not None
    with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        await process.stdin.send_all(data)
        await process.stdin.aclose()


async def _drain(process: trio.Process, output: bytearray) -> None:
    assert process.stdout is not None
    async for data in process.stdout:
        output += data
        del output[:-OUTPUT]


@define
class Visitors:
    """Whoever comes: each connection is a scene. `tell` is told which is the next one."""

    listener: trio.SocketListener
    name: str
    wait: float = 300.0
    tell: Callable[[str], None] = field(default=lambda text: None)
    asks: bool = False

    async def run(self, errand: Errand, serve: Serve) -> Ending:
        self.tell(f"next: {errand.title}")
        await serve(await self.listener.accept())
        return Ending()
