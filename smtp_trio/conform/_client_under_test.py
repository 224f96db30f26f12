"""The client under test: a command that is run for each case, or clients that connect on their own."""

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

from .._groups import collapse_group
from ._client_case import ClientExit

Serve = Callable[[trio.abc.Stream], Awaitable[None]]

KEPT_OUTPUT = 4000
"""Octets that are kept of the output of a client, from its end."""
DRAIN_TIMEOUT = 1.0
"""Seconds to read what a client has sent last, after its process has ended."""


@frozen
class SendRequest:
    """The message for the client to send."""

    title: str
    message: bytes
    """With CRLF line ends."""
    values: Mapping[str, str]
    """``from``, ``to``, ``to2``, ``user``, ``password``, ``cafile``."""


class ClientUnderTest(Protocol):
    """A client under test."""

    @property
    def name(self) -> str:
        """Its name in reports."""
        ...

    @property
    def takes_requests(self) -> bool:
        """True if it sends the messages of requests, and reports its success."""
        ...

    @property
    def wait(self) -> float:
        """Seconds to wait for its first connection, in addition to the time of a case."""
        ...

    async def run(self, request: SendRequest, serve: Serve) -> ClientExit:
        """Let it connect, any number of times, and return when it has ended. Cancelled after the time of a case.

        Raises:
            OSError: It cannot be run.
        """
        ...


async def accept_connections(
    listener: trio.SocketListener,
    serve: Serve,
    nursery: trio.Nursery,
    task_status: trio.TaskStatus[trio.CancelScope],
) -> None:
    """Accept connections and serve each in its own task, until the scope that `task_status` receives is cancelled."""
    with trio.CancelScope() as scope:
        task_status.started(scope)
        while True:
            nursery.start_soon(serve, await listener.accept())


async def listen(host: str, port: int) -> trio.SocketListener:
    """Return a listener on one address."""
    listener, *others = await trio.open_tcp_listeners(port, host=host)
    for other in others:
        await other.aclose()
    return listener


@define
class CommandClient:
    """A command line with ``{host}``, ``{port}``, ``{message}`` (a file) and the values of a request.

    The message is also its standard input.
    """

    template: str
    host: str = "127.0.0.1"
    port: int = 0
    """0: a free one, another for each case."""
    takes_requests: bool = True
    wait: float = 0.0

    @property
    def name(self) -> str:
        """The command line."""
        return self.template

    async def run(self, request: SendRequest, serve: Serve) -> ClientExit:
        """Run the command once."""
        listener = await listen(self.host, self.port)
        port = listener.socket.getsockname()[1]
        with tempfile.TemporaryDirectory(prefix="smtp-trio-") as folder:
            message = trio.Path(folder, "message.eml")
            await message.write_bytes(request.message)
            values = {**request.values, "host": self.host, "port": str(port), "message": str(message)}
            try:
                async with listener, trio.open_nursery() as nursery:
                    accepting: trio.CancelScope = await nursery.start(accept_connections, listener, serve, nursery)
                    client_exit = await run_command(arguments(self.template, values), request.message)
                    # What it sent last may not have been read yet.
                    nursery.cancel_scope.deadline = trio.current_time() + DRAIN_TIMEOUT
                    accepting.cancel()
            except BaseExceptionGroup as group:
                raise collapse_group(group) from None
        return client_exit


def arguments(template: str, values: Mapping[str, str]) -> list[str]:
    """Return the arguments of a command line with values in place of their names. They do not pass through a shell."""
    words = shlex.split(template)
    for name, value in values.items():
        words = [word.replace("{" + name + "}", value) for word in words]
    return words


async def run_command(command: Sequence[str], stdin: bytes) -> ClientExit:
    """Run a command to its end, and kill all processes that it started."""
    process = await trio.lowlevel.open_process(
        command,
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
            # Another process may hold the output open.
            nursery.cancel_scope.deadline = trio.current_time() + 0.2
    finally:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        with trio.CancelScope(shield=True):
            await process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    await pipe.aclose()
    return ClientExit(code, bytes(output))


async def _feed(process: trio.Process, data: bytes) -> None:
    assert process.stdin is not None
    with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        await process.stdin.send_all(data)
        await process.stdin.aclose()


async def _drain(process: trio.Process, output: bytearray) -> None:
    assert process.stdout is not None
    async for data in process.stdout:
        output += data
        del output[:-KEPT_OUTPUT]


@define
class IncomingClients:
    """Clients that connect on their own, once for each case. `on_case` is called with the title of the next case."""

    listener: trio.SocketListener
    name: str
    wait: float = 300.0
    on_case: Callable[[str], None] = field(default=lambda title: None)
    takes_requests: bool = False

    async def run(self, request: SendRequest, serve: Serve) -> ClientExit:
        """Serve one connection."""
        self.on_case(request.title)
        await serve(await self.listener.accept())
        return ClientExit()
