"""``smtp-trio serve --workers``: processes that share a port, die and are replaced; and sockets that were opened by others."""

from __future__ import annotations

import fcntl
import json
import os
import re
import signal
import smtplib
import socket
import sqlite3
import ssl
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest
import trio
import trustme
from processes import HOST, Program, run, running, serving, trusting

import smtp_trio
from smtp_trio._cli.workers import MOST, cores
from smtp_trio.stores import read

ME, YOU = "me@example.net", "you@example.org"


def message(subject: str) -> bytes:
    return f"Subject: {subject}\r\n\r\nhello\r\n".encode()


def box(folder: Path) -> list[Path]:
    return sorted((folder / "Maildir" / "new").iterdir())


def takers(folder: Path) -> set[int]:
    """The processes whose mail is in the box."""
    return {int(re.findall(r"P(\d+)Q", file.name)[0]) for file in box(folder)}


async def pid(program: Program, worker: int, nth: int = 1) -> int:
    """The process of a worker; of its ``nth``, when others have died."""
    found = await program.out.times(nth, rf"worker {worker}: process (\d+)\n")
    return int(found[nth - 1])


@asynccontextmanager
async def two(*options: str, cwd: Path) -> AsyncIterator[Program]:
    """``serve`` with two workers."""
    async with serving("--workers", "2", *options, cwd=cwd) as program:
        yield program


async def reach(program: Program, wanted: Callable[[], bool]) -> None:
    """Send, each time over a new connection, until it is so: the kernel chooses whom a connection goes to."""
    for n in range(200):
        if wanted():
            return
        await program.send(ME, [YOU], message(f"{n}"))
    raise AssertionError("the kernel has never chosen so")


async def stop(program: Program, number: signal.Signals = signal.SIGTERM) -> int:
    program.signal(number)
    return await program.end()


async def test_two_processes_take_mail_on_one_port(tmp_path: Path) -> None:
    async with two(cwd=tmp_path) as program:
        workers = {await pid(program, 1), await pid(program, 2)}
        await reach(program, lambda: takers(tmp_path) == workers)

        # Which nobody else has, not even others of the same kind.
        again = ["-m", "smtp_trio", "serve", "--workers", "2", "--port", str(program.port)]
        code, _, err = await run(*again, cwd=tmp_path)
        taken = f"smtp-trio: error: cannot listen on {HOST}, port {program.port}: Address already in use\n"
        assert (code, err) == (2, taken)
        assert await stop(program) == 0

    count = len(box(tmp_path))
    assert f"stopped; messages taken: {count}, refused: 0; sessions: {count}\n" in program.out.text
    assert program.out.text.count("listening on") == program.out.text.count("SIGTERM: stopping") == 1
    assert program.err.text == ""


@pytest.mark.skipif(cores() == 1, reason="there is one core alone")
async def test_as_many_as_there_are_cores(tmp_path: Path) -> None:
    async with serving("--workers", "0", cwd=tmp_path) as program:
        for number in range(1, cores() + 1):
            await pid(program, number)
        assert await stop(program, signal.SIGINT) == 0
    assert len(re.findall("worker .*: process", program.out.text)) == cores()


class Senders:
    """Threads that send without a pause, and note what was taken."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.taken: list[str] = []
        self.over = threading.Event()

    def send(self, name: str) -> None:
        count = 0
        while not self.over.is_set():
            try:
                with smtplib.SMTP(HOST, self.program.port, timeout=30) as client:
                    for _ in range(5):
                        count += 1
                        subject = f"{name}-{count}"
                        client.sendmail(ME, [YOU], message(subject))
                        self.taken.append(subject)
            except (smtplib.SMTPServerDisconnected, ConnectionError):
                pass  # who was connected to the one that died; what it was told before counts

    async def until_after(self, wait: Callable[[], Awaitable[None]]) -> list[str]:
        """Send until all of it has happened; gives the subjects that were taken."""
        async with trio.open_nursery() as nursery:
            for name in "abcd":
                nursery.start_soon(trio.to_thread.run_sync, self.send, name)
            try:
                await wait()
            finally:
                self.over.set()
        return self.taken


@pytest.mark.parametrize("store", ["maildir:Maildir", "sqlite:mail.db"])
async def test_a_worker_that_is_killed_is_replaced_and_no_message_is_lost(tmp_path: Path, store: str) -> None:
    async with two("--store", store, cwd=tmp_path) as program:
        senders = Senders(program)

        async def kill() -> None:
            for number in (1, 2):
                victim = await pid(program, number)
                await program.out.until(f"from=<{ME}>")
                os.kill(victim, signal.SIGKILL)
                await program.err.until(f"warning: worker {number}: ended by SIGKILL\n")
                await pid(program, number, 2)
                so_far = len(senders.taken)
                while len(senders.taken) < so_far + 20:  # mail is taken after it as before
                    await program.out.more("more mail")

        taken = await senders.until_after(kill)
        assert await stop(program) == 0

    if store.startswith("sqlite"):
        with closing(sqlite3.connect(tmp_path / "mail.db")) as database:
            stored = [body for (body,) in database.execute("SELECT body FROM messages")]
            assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    else:
        stored = [read(file).message for file in box(tmp_path)]
    assert len(taken) >= 40
    assert {message(subject) for subject in taken} <= set(stored)


async def test_workers_that_do_not_live(tmp_path: Path) -> None:
    cert, key, _ = certificate(tmp_path, trustme.CA())
    async with two("--tls-cert", cert, "--tls-key", key, cwd=tmp_path) as program:
        victim = await pid(program, 1)
        await reach(program, lambda: victim in takers(tmp_path))  # it lives
        os.unlink(key)
        os.kill(victim, signal.SIGKILL)
        assert await program.end() == 1

    assert re.findall(r"worker 1: ended (.*)\n", program.err.text) == ["by SIGKILL"] + ["with exit code 2"] * (MOST - 1)
    assert f"smtp-trio: error: cannot read {key}: No such file or directory\n" in program.err.text
    assert f"error: worker 1: gave up, it has ended {MOST} times as soon as it had begun\n" in program.err.text
    assert "stopped; messages taken: " in program.out.text


# --- signals ----------------------------------------------------------------------------------------------------------


async def begin_messages(program: Program, count: int = 10) -> list[trio.SocketStream]:
    """Sessions in the middle of their messages, at every worker most probably."""
    streams = []
    for _ in range(count):
        stream = await trio.open_tcp_stream(HOST, program.port)
        await stream.send_all(b"EHLO me\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nDATA\r\n")
        said = b""
        while b"\r\n354 " not in said:
            said += await stream.receive_some()
        streams.append(stream)
    return streams


async def rest(stream: trio.SocketStream) -> bytes:
    async with stream:
        return b"".join([piece async for piece in stream])


async def test_one_drain_for_all(tmp_path: Path) -> None:
    async with two(cwd=tmp_path) as program:
        busy = await begin_messages(program)
        idle = await trio.open_tcp_stream(HOST, program.port)
        assert (await idle.receive_some()).startswith(b"220 ")

        # As a service manager does, to each process there is: once is once.
        for worker in (1, 2):
            os.kill(await pid(program, worker), signal.SIGTERM)
        program.signal(signal.SIGTERM)

        await program.out.until("SIGTERM: stopping")
        assert (await rest(idle)).startswith(b"421 4.3.2 ")
        while True:  # the other worker may be about to close its door
            try:
                await (await trio.open_tcp_stream(HOST, program.port)).aclose()
            except OSError:
                break
        for stream in busy:
            await stream.send_all(b"\r\nhello\r\n.\r\n")
            assert b"250 2.0.0 Ok: queued as" in await rest(stream)
        assert await program.end() == 0

    assert len(box(tmp_path)) == len(busy)
    assert f"stopped; messages taken: {len(busy)}, " in program.out.text
    assert program.err.text == ""


async def test_a_second_signal_waits_for_nobody(tmp_path: Path) -> None:
    async with two(cwd=tmp_path) as program:
        busy = await begin_messages(program)
        program.signal(signal.SIGINT)
        await program.out.until("SIGINT: stopping")
        assert await stop(program, signal.SIGINT) == 0
        for stream in busy:
            assert b"250 2.0.0 Ok: queued" not in await rest(stream)
    assert box(tmp_path) == []


async def test_a_parent_that_is_killed_takes_its_workers_along(tmp_path: Path) -> None:
    async with two(cwd=tmp_path) as program:
        busy = await begin_messages(program)
        program.signal(signal.SIGKILL)
        assert await program.process.wait() == -signal.SIGKILL
        for stream in busy:
            await stream.send_all(b"\r\nhello\r\n.\r\n")
            assert b"250 2.0.0 Ok: queued as" in await rest(stream)
        await program.out.rest()  # its end comes when the last of them is gone


def certificate(folder: Path, ca: trustme.CA) -> tuple[str, str, bytes]:
    """The files of a new certificate, and what a client sees of it."""
    issued = ca.issue_cert(HOST)
    cert, key = folder / "cert.pem", folder / "key.pem"
    issued.private_key_pem.write_to_path(key)
    issued.cert_chain_pems[0].write_to_path(cert)
    return str(cert), str(key), ssl.PEM_cert_to_DER_cert(issued.cert_chain_pems[0].bytes().decode())


async def test_sighup_reaches_all(tmp_path: Path) -> None:
    ca = trustme.CA()
    ca.cert_pem.write_to_path(tmp_path / "ca.pem")
    cert, key, _ = certificate(tmp_path, ca)

    def look(client: smtplib.SMTP) -> bytes:
        client.starttls(context=trusting(tmp_path / "ca.pem"))
        assert client.sock is not None
        return client.sock.getpeercert(binary_form=True)  # type: ignore[attr-defined, no-any-return]

    async with two("-v", "--tls-cert", cert, "--tls-key", key, cwd=tmp_path) as program:
        workers = {await pid(program, 1), await pid(program, 2)}
        await reach(program, lambda: takers(tmp_path) == workers)
        _, _, shown = certificate(tmp_path, ca)
        program.signal(signal.SIGHUP)
        await program.out.times(3, "SIGHUP: reading certificate")  # the parent and the two
        for _ in range(20):
            assert await program.client(look) == shown


# --- the log ----------------------------------------------------------------------------------------------------------


async def test_lines_come_out_whole(tmp_path: Path) -> None:
    people = [f"{'n' * 50}.{n}@{'x' * 60}.example.org" for n in range(95)]

    async with two("--log-format", "json", cwd=tmp_path) as program:
        fd = program.process.stdout.fileno()  # type: ignore[union-attr]
        fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, 4096)  # so that each line takes its writer more than one attempt
        async with trio.open_nursery() as nursery:
            for _ in range(60):
                nursery.start_soon(program.send, ME, people, message("hi"))
            await program.out.times(60, '"reply"')
        assert await stop(program) == 0

    lines = [json.loads(line) for line in program.out.text.splitlines()]
    assert [len(line["to"]) for line in lines if "reply" in line] == [len(people)] * 60


# --- sockets ----------------------------------------------------------------------------------------------------------

INHERIT = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1", LISTEN_FDNAMES="smtp")
os.execv(sys.executable, [sys.executable, "-u", "-m", "smtp_trio", "serve", "--fd", *sys.argv[2:]])
"""


@pytest.mark.parametrize(("named", "workers"), [("systemd", "2"), ("3", "1")])
async def test_a_socket_that_somebody_else_has_opened(tmp_path: Path, named: str, workers: str) -> None:
    with socket.create_server((HOST, 0)) as listener:
        fd = listener.fileno()
        command = ["-c", INHERIT, str(fd), named, "--workers", workers]
        async with running(*command, cwd=tmp_path, fds=[fd]) as program:
            program.port = listener.getsockname()[1]
            await program.send(ME, [YOU], message("hi"))
            await program.out.until(f"listening on {HOST}:{program.port}\n")
            assert await stop(program) == 0
        # It is the other's, and takes connections on: they wait for the next server.
        socket.create_connection(listener.getsockname()).close()
    assert len(box(tmp_path)) == 1


async def test_a_unix_socket_that_somebody_else_has_opened(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        fd = listener.fileno()
        async with running("-m", "smtp_trio", "serve", "--fd", str(fd), cwd=tmp_path, fds=[fd]) as program:
            await program.out.until(f"listening on unix:{path}\n")
            async with await trio.open_unix_socket(path) as stream:
                assert (await stream.receive_some()).startswith(b"220 ")
            assert await stop(program) == 0


async def test_sockets_that_will_not_do(tmp_path: Path) -> None:
    async def says(sock: socket.socket, *options: str) -> str:
        fd = sock.fileno()
        async with running("-m", "smtp_trio", "serve", "--fd", str(fd), *options, cwd=tmp_path, fds=[fd]) as program:
            assert await program.end() == 2
        return program.err.text.removeprefix("smtp-trio: error: ").replace(f"--fd {fd}", "--fd N")

    with socket.socket() as idle, socket.create_server(("0.0.0.0", 0)) as public, socket.create_server((HOST, 0)) as s:
        assert await says(idle) == "--fd N: it is no socket that listens\n"
        port = public.getsockname()[1]
        need = f"--fd: 0.0.0.0:{port} is not loopback: say with --accept DOMAIN which mail to take\n"
        assert await says(public) == need
        assert await says(s, "--host", "::1") == "--host does not go with --fd, which has its address already\n"


async def test_listeners_that_share_a_port() -> None:
    for host in (HOST, None):
        first = await smtp_trio.open_listeners(0, host, reuse_port=True)
        port = first[0].socket.getsockname()[1]
        second = await smtp_trio.open_listeners(port, host, reuse_port=True, backlog=1)
        assert {each.socket.getsockname()[1] for each in first + second} == {port}
        assert len(first) == len(second)
        for reuse_port in (False, True):
            if reuse_port:
                for each in first + second:
                    await each.aclose()
                first, second = await smtp_trio.open_listeners(port, host), []
            with pytest.raises(OSError, match="in use"):
                await smtp_trio.open_listeners(port, host, reuse_port=reuse_port)
        for each in first:
            await each.aclose()
