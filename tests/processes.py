"""Programs of ours in processes of their own, as a user runs them: their output, and a client for them."""

from __future__ import annotations

import re
import signal
import smtplib
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import IO, TypeVar

import trio
from attrs import define

T = TypeVar("T")

HOST = "127.0.0.1"


@define
class Output:
    """What a program has written so far."""

    stream: trio.abc.ReceiveStream
    text: str = ""

    async def times(self, count: int, pattern: str) -> list[str]:
        """Read until the pattern stands in it so many times; gives what it has found."""
        while len(found := re.findall(pattern, self.text)) < count:
            await self.more(pattern)
        return found

    async def until(self, pattern: str) -> re.Match[str]:
        """Read until the pattern stands in it, on one line."""
        while not (match := re.search(pattern, self.text, re.MULTILINE)):
            await self.more(pattern)
        return match

    async def more(self, pattern: str) -> None:
        """Read what there is next; somebody waits for the pattern."""
        more = await self.stream.receive_some()
        assert more, f"it has ended without {pattern!r}: {self.text!r}"
        self.text += more.decode()

    async def rest(self) -> str:
        """Read to the end, and give all there was."""
        async for more in self.stream:
            self.text += more.decode()
        return self.text


@define
class Program:
    """A program that runs."""

    process: trio.Process
    out: Output
    err: Output
    port: int = 0

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    async def end(self) -> int:
        """Wait for its end; gives its exit code."""
        await self.out.rest()
        await self.err.rest()
        return await self.process.wait()

    async def client(self, talk: Callable[[smtplib.SMTP], T]) -> T:
        """Talk to it over smtplib, in a thread."""

        def connect() -> T:
            with smtplib.SMTP(HOST, self.port, timeout=30) as client:
                return talk(client)

        return await trio.to_thread.run_sync(connect)

    async def send(self, sender: str, recipients: Sequence[str], message: bytes) -> None:
        """Have it take a message."""
        await self.client(lambda client: client.sendmail(sender, recipients, message))


@asynccontextmanager
async def running(
    *arguments: str, cwd: Path, stderr: IO[bytes] | int = subprocess.PIPE, fds: Sequence[int] = ()
) -> AsyncIterator[Program]:
    """A Python program, which is ended at the end if it is not by then. Whatever it does takes a minute at most."""
    command = [sys.executable, "-u", *arguments]
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            pipes = {"stdout": subprocess.PIPE, "stderr": stderr, "pass_fds": fds}
            process: trio.Process = await nursery.start(
                partial(trio.run_process, command, check=False, cwd=cwd, **pipes)
            )
            assert process.stdout is not None
            yield Program(process, Output(process.stdout), Output(process.stderr or process.stdout))
            nursery.cancel_scope.cancel()  # SIGTERM, and after five seconds SIGKILL


@asynccontextmanager
async def serving(*options: str, cwd: Path, stderr: IO[bytes] | int = subprocess.PIPE) -> AsyncIterator[Program]:
    """``smtp-trio serve`` on a free port, when it listens."""
    port = () if "--port" in options else ("--port", "0")
    async with running("-m", "smtp_trio", "serve", *port, *options, cwd=cwd, stderr=stderr) as program:
        program.port = int((await program.out.until(r"listening on \S+:(\d+)"))[1])
        await program.out.until(r"storing in .*")
        yield program


async def run(*arguments: str, cwd: Path, stdin: bytes = b"", under: Sequence[str] = ()) -> tuple[int, str, str]:
    """Run a Python program to its end, under another that execs it maybe; gives exit code, output, and errors."""
    command = [*under, sys.executable, *arguments]
    with trio.fail_after(60):
        done = await trio.run_process(
            command, stdin=stdin, capture_stdout=True, capture_stderr=True, check=False, cwd=cwd
        )
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def trusting(pem: Path) -> ssl.SSLContext:
    """A client's TLS that trusts this authority."""
    return ssl.create_default_context(cafile=pem)
