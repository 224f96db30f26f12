"""Python programs run in processes of their own, as a user runs them: their output, and an SMTP client for servers."""

from __future__ import annotations

import codecs
import os
import re
import signal
import smtplib
import ssl
import subprocess
import sys
import warnings
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import IO, TypeVar

import trio
from attrs import Factory, define

T = TypeVar("T")

HOST = "127.0.0.1"
#: Seconds for everything that a program does in one test: enough for a machine that is busy.
TIMEOUT = 240

# The output of programs is buffered, as it is for a user who has not set this variable.
os.environ.pop("PYTHONUNBUFFERED", None)
# A shell ignores SIGINT in what it runs in the background, and processes inherit that. A program that relies on
# KeyboardInterrupt would never end.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@define
class Output:
    """The output of a program, as far as it was read: ``text``."""

    stream: trio.abc.ReceiveStream
    text: str = ""
    # What is read at once may end in the middle of a character.
    _decoder: codecs.IncrementalDecoder = Factory(codecs.getincrementaldecoder("utf-8"))

    async def wait_for_count(self, count: int, pattern: str) -> list[str]:
        """Read until the pattern matches ``count`` times, and return all matches."""
        while len(found := re.findall(pattern, self.text)) < count:
            await self.read_more(pattern)
        return found

    async def wait_for(self, pattern: str) -> re.Match[str]:
        """Read until the pattern matches, and return the first match."""
        while not (match := re.search(pattern, self.text, re.MULTILINE)):
            await self.read_more(pattern)
        return match

    async def read_more(self, expected: str) -> None:
        """Read what the program writes next. Fails at the end of the output; ``expected`` is for the message."""
        more = await self.stream.receive_some()
        assert more, f"the output ended without {expected!r}: {self.text!r}"
        self.text += self._decoder.decode(more)

    async def read_rest(self) -> str:
        """Read to the end, and return all output."""
        async for more in self.stream:
            self.text += self._decoder.decode(more)
        return self.text


@define
class Program:
    """A running program. ``port`` is where it listens, when it is a server."""

    process: trio.Process
    out: Output
    err: Output
    port: int = 0

    def signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        self.process.send_signal(number)

    async def wait(self) -> int:
        """Read all output, wait for the end of the program, and return its exit code."""
        await self.out.read_rest()
        await self.err.read_rest()
        return await self.process.wait()

    async def client(self, dialogue: Callable[[smtplib.SMTP], T]) -> T:
        """Call ``dialogue`` in a thread, with a client that is connected to the program, and return its result."""

        def connect() -> T:
            with smtplib.SMTP(HOST, self.port, timeout=TIMEOUT) as client:
                return dialogue(client)

        return await trio.to_thread.run_sync(connect)

    async def send(self, sender: str, recipients: Sequence[str], message: bytes) -> None:
        """Send the program a message."""
        await self.client(lambda client: client.sendmail(sender, recipients, message))


async def terminate(process: trio.Process) -> None:
    """Send a program SIGTERM, and SIGKILL when it has not ended in time. Trio waits for five seconds only."""
    process.terminate()
    await trio.sleep(TIMEOUT)
    warnings.warn(f"{process} has not ended {TIMEOUT} seconds after SIGTERM", RuntimeWarning, stacklevel=1)
    process.kill()


@asynccontextmanager
async def running(
    *arguments: str, cwd: Path, stderr: IO[bytes] | int = subprocess.PIPE, fds: Sequence[int] = ()
) -> AsyncIterator[Program]:
    """Run Python with these arguments; terminate it at the end of the block, which has to be reached within `TIMEOUT`."""
    command = [sys.executable, "-u", *arguments]
    with trio.fail_after(TIMEOUT):
        async with trio.open_nursery() as nursery:
            pipes = {"stdout": subprocess.PIPE, "stderr": stderr, "pass_fds": fds, "deliver_cancel": terminate}
            process: trio.Process = await nursery.start(
                partial(trio.run_process, command, check=False, cwd=cwd, **pipes)
            )
            assert process.stdout is not None
            yield Program(process, Output(process.stdout), Output(process.stderr or process.stdout))
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def serving(*options: str, cwd: Path, stderr: IO[bytes] | int = subprocess.PIPE) -> AsyncIterator[Program]:
    """Run ``smtp-trio serve`` on a free port; the block begins when it listens."""
    port = () if "--port" in options else ("--port", "0")
    async with running("-m", "smtp_trio", "serve", *port, *options, cwd=cwd, stderr=stderr) as program:
        program.port = int((await program.out.wait_for(r'listening(?: on |", "address": ")\S+:(\d+)'))[1])
        await program.out.wait_for(r"storing\b.*\n")
        yield program


async def run(*arguments: str, cwd: Path, stdin: bytes = b"", prefix: Sequence[str] = ()) -> tuple[int, str, str]:
    """Run Python with these arguments to its end; return exit code, standard output and standard error.

    ``prefix`` is a command that changes something and then executes Python, such as ``setpriv``.
    """
    command = [*prefix, sys.executable, *arguments]
    with trio.fail_after(TIMEOUT):
        done = await trio.run_process(
            command, stdin=stdin, capture_stdout=True, capture_stderr=True, check=False, cwd=cwd
        )
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def client_context(ca_file: Path) -> ssl.SSLContext:
    """Return a client's TLS context that trusts this certificate authority."""
    return ssl.create_default_context(cafile=ca_file)
