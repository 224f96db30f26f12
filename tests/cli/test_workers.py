"""``smtp-trio serve --workers``, processes that share a port, and ``serve --fd``, inherited sockets."""

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
from processes import HOST, Program, client_context, run, running, serving

import smtp_trio
from smtp_trio._cli.workers import KILL_DELAY, MAX_EARLY_ENDS, usable_cores
from smtp_trio.stores import read

ME, YOU = "me@example.net", "you@example.org"


def message(subject: str) -> bytes:
    return f"Subject: {subject}\r\n\r\nhello\r\n".encode()


def delivered(directory: Path) -> list[Path]:
    """Return the files of the messages in the Maildir of a server that runs in this directory."""
    return sorted((directory / "Maildir" / "new").iterdir())


def delivering_pids(directory: Path) -> set[int]:
    """Return the ids of the processes that have delivered messages, from the names of the files."""
    return {int(re.findall(r"P(\d+)Q", file.name)[0]) for file in delivered(directory)}


async def pid(program: Program, worker: int, nth: int = 1) -> int:
    """Return the id of a worker's ``nth`` process: a worker that ends is replaced by a new process."""
    found = await program.out.wait_for_count(nth, rf"worker {worker}: process (\d+)\n")
    return int(found[nth - 1])


@asynccontextmanager
async def two_workers(*options: str, cwd: Path) -> AsyncIterator[Program]:
    """Run ``smtp-trio serve`` with two workers."""
    async with serving("--workers", "2", *options, cwd=cwd) as program:
        yield program


async def send_until(program: Program, condition: Callable[[], bool]) -> None:
    """Send messages over new connections until the condition holds: the kernel chooses the worker of each connection."""
    for n in range(1000):
        if condition():
            return
        await program.send(ME, [YOU], message(f"{n}"))
    raise AssertionError("1000 connections did not reach the expected workers")


async def stop(program: Program, number: signal.Signals = signal.SIGTERM) -> int:
    program.signal(number)
    return await program.wait()


async def test_two_processes_share_one_port(tmp_path: Path) -> None:
    async with two_workers(cwd=tmp_path) as program:
        workers = {await pid(program, 1), await pid(program, 2)}
        await send_until(program, lambda: delivering_pids(tmp_path) == workers)

        # Another server cannot share the port, although it would use SO_REUSEPORT as well.
        command = ["-m", "smtp_trio", "serve", "--workers", "2", "--port", str(program.port)]
        code, _, err = await run(*command, cwd=tmp_path)
        assert code == 2
        assert err.startswith(
            f"smtp-trio: error: cannot listen on {HOST}, port {program.port}: Address already in use: "
        )
        assert err.count("\n") == 1
        assert await stop(program) == 0

    count = len(delivered(tmp_path))
    assert f"stopped; messages accepted: {count}, refused: 0; sessions: {count}\n" in program.out.text
    assert program.out.text.count("listening on") == program.out.text.count("SIGTERM: stopping") == 1
    assert program.err.text == ""


@pytest.mark.skipif(usable_cores() == 1, reason="needs two cores")
@pytest.mark.slow
async def test_zero_means_one_worker_for_each_core(tmp_path: Path) -> None:
    async with serving("--workers", "0", cwd=tmp_path) as program:
        for number in range(1, usable_cores() + 1):
            await pid(program, number)
        assert await stop(program, signal.SIGINT) == 0
    assert len(re.findall("worker .*: process", program.out.text)) == usable_cores()


class Senders:
    """Threads that send messages without a pause, and the subjects of those that were accepted."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.accepted: list[str] = []
        self.done = threading.Event()

    def send(self, name: str) -> None:
        """Send until ``done``, in a thread."""
        count = 0
        while not self.done.is_set():
            try:
                with smtplib.SMTP(HOST, self.program.port, timeout=100) as client:
                    for _ in range(5):
                        count += 1
                        subject = f"{name}-{count}"
                        client.sendmail(ME, [YOU], message(subject))
                        self.accepted.append(subject)
            except (smtplib.SMTPServerDisconnected, ConnectionError):
                pass  # the connection was to the worker that was killed

    async def send_during(self, action: Callable[[], Awaitable[None]]) -> list[str]:
        """Send while the action runs, and return the subjects of the messages that were accepted."""
        async with trio.open_nursery() as nursery:
            for name in "abcd":
                nursery.start_soon(trio.to_thread.run_sync, self.send, name)
            try:
                await action()
            finally:
                self.done.set()
        return self.accepted


@pytest.mark.parametrize("store", ["maildir:Maildir", "sqlite:mail.db"])
@pytest.mark.slow
async def test_killed_worker_is_replaced_and_no_accepted_message_is_lost(tmp_path: Path, store: str) -> None:
    async with two_workers("--store", store, cwd=tmp_path) as program:
        senders = Senders(program)

        async def kill() -> None:
            for number in (1, 2):
                victim = await pid(program, number)
                await program.out.wait_for(f"from=<{ME}>")
                os.kill(victim, signal.SIGKILL)
                await program.err.wait_for(f"warning: worker {number} ended: signal=SIGKILL exit_code=- error=-\n")
                await pid(program, number, 2)
                before = len(senders.accepted)
                while len(senders.accepted) < before + 20:
                    await program.out.read_more("more messages")

        accepted = await senders.send_during(kill)
        assert await stop(program) == 0

    if store.startswith("sqlite"):
        with closing(sqlite3.connect(tmp_path / "mail.db")) as database:
            stored = [body for (body,) in database.execute("SELECT body FROM messages")]
            assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    else:
        stored = [read(file).message for file in delivered(tmp_path)]
    assert len(accepted) >= 40
    assert {message(subject) for subject in accepted} <= set(stored)


@pytest.mark.slow
async def test_all_workers_stop_when_one_cannot_start_any_more(tmp_path: Path) -> None:
    cert, key, _ = certificate(tmp_path, trustme.CA())
    async with two_workers("--tls-cert", cert, "--tls-key", key, cwd=tmp_path) as program:
        victim, other = await pid(program, 1), await pid(program, 2)
        await send_until(program, lambda: {victim, other} <= delivering_pids(tmp_path))  # both have read the key
        os.unlink(key)
        os.kill(victim, signal.SIGKILL)
        assert await program.wait() == 1

    # The end of the first process counts as well if it came within MIN_LIFETIME.
    first, *others = re.findall(r"worker 1 ended: (.*)\n", program.err.text)
    assert first == "signal=SIGKILL exit_code=- error=-"
    assert set(others) == {"signal=- exit_code=2 error=-"}
    assert len(others) in (MAX_EARLY_ENDS - 1, MAX_EARLY_ENDS)
    assert f'error: cannot start: "cannot read {key}: No such file or directory"\n' in program.err.text
    assert (
        f"error: worker 1: ended {MAX_EARLY_ENDS} times in a row just after its start; stopping\n" in program.err.text
    )
    assert "stopped; messages accepted: " in program.out.text


# --- signals ----------------------------------------------------------------------------------------------------------


async def begin_messages(program: Program, count: int = 10) -> list[trio.SocketStream]:
    """Open sessions, most probably with every worker, and send the first part of a message in each."""
    streams = []
    for _ in range(count):
        stream = await trio.open_tcp_stream(HOST, program.port)
        await stream.send_all(b"EHLO me\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nDATA\r\n")
        received = b""
        while b"\r\n354 " not in received:
            received += await stream.receive_some()
        streams.append(stream)
    return streams


async def read_to_end(stream: trio.SocketStream) -> bytes:
    """Read until the server closes the connection, and close it."""
    async with stream:
        return b"".join([chunk async for chunk in stream])


def ignores(process: int, number: signal.Signals) -> bool:
    """Return whether a process ignores a signal (proc(5))."""
    status = Path(f"/proc/{process}/status").read_text()
    found = re.search(r"^SigIgn:\s*(\w+)", status, re.MULTILINE)
    assert found is not None
    return bool(int(found[1], 16) >> (number - 1) & 1)


@pytest.mark.slow
async def test_signal_to_every_process_lets_messages_finish(tmp_path: Path) -> None:
    async with two_workers(cwd=tmp_path) as program:
        busy = await begin_messages(program)
        idle = await trio.open_tcp_stream(HOST, program.port)
        assert (await idle.receive_some()).startswith(b"220 ")

        # A service manager sends the signal to each process. Together they count as one.
        for worker in (1, 2):
            process = await pid(program, worker)
            while not ignores(process, signal.SIGTERM):  # it is still being started, and has no session
                await trio.lowlevel.checkpoint()
            os.kill(process, signal.SIGTERM)
        program.signal(signal.SIGTERM)

        await program.out.wait_for("SIGTERM: stopping")
        assert (await read_to_end(idle)).startswith(b"421 4.3.2 ")
        while True:  # one of the workers may still have its sockets open
            try:
                await (await trio.open_tcp_stream(HOST, program.port)).aclose()
            except OSError:
                break
        for stream in busy:
            await stream.send_all(b"\r\nhello\r\n.\r\n")
            assert b"250 2.0.0 Ok: queued as" in await read_to_end(stream)
        assert await program.wait() == 0

    assert len(delivered(tmp_path)) == len(busy)
    assert f"stopped; messages accepted: {len(busy)}, " in program.out.text
    assert program.err.text == ""


@pytest.mark.slow
async def test_second_signal_cancels_messages_in_progress(tmp_path: Path) -> None:
    async with two_workers(cwd=tmp_path) as program:
        busy = await begin_messages(program)
        program.signal(signal.SIGINT)
        await program.out.wait_for("SIGINT: stopping")
        assert await stop(program, signal.SIGINT) == 0
        for stream in busy:
            assert b"250 2.0.0 Ok: queued" not in await read_to_end(stream)
    assert delivered(tmp_path) == []


@pytest.mark.slow
async def test_workers_stop_when_their_parent_is_killed(tmp_path: Path) -> None:
    async with two_workers(cwd=tmp_path) as program:
        busy = await begin_messages(program)
        program.signal(signal.SIGKILL)
        assert await program.process.wait() == -signal.SIGKILL
        for stream in busy:
            await stream.send_all(b"\r\nhello\r\n.\r\n")
            assert b"250 2.0.0 Ok: queued as" in await read_to_end(stream)
        await program.out.read_rest()  # the pipe is closed when the last worker has ended


def certificate(directory: Path, ca: trustme.CA) -> tuple[str, str, bytes]:
    """Write a new certificate; return the paths of certificate and key, and the certificate as a client receives it."""
    issued = ca.issue_cert(HOST)
    cert, key = directory / "cert.pem", directory / "key.pem"
    issued.private_key_pem.write_to_path(key)
    issued.cert_chain_pems[0].write_to_path(cert)
    return str(cert), str(key), ssl.PEM_cert_to_DER_cert(issued.cert_chain_pems[0].bytes().decode())


@pytest.mark.slow
async def test_sighup_is_passed_on_to_all_workers(tmp_path: Path) -> None:
    ca = trustme.CA()
    ca.cert_pem.write_to_path(tmp_path / "ca.pem")
    cert, key, _ = certificate(tmp_path, ca)

    def received(client: smtplib.SMTP) -> bytes:
        client.starttls(context=client_context(tmp_path / "ca.pem"))
        assert client.sock is not None
        return client.sock.getpeercert(binary_form=True)  # type: ignore[attr-defined, no-any-return]

    async with two_workers("-v", "--tls-cert", cert, "--tls-key", key, cwd=tmp_path) as program:
        workers = {await pid(program, 1), await pid(program, 2)}
        await send_until(program, lambda: delivering_pids(tmp_path) == workers)
        _, _, current = certificate(tmp_path, ca)
        program.signal(signal.SIGHUP)
        await program.out.wait_for_count(3, "SIGHUP: reloading the certificate")  # the parent and two workers
        for _ in range(20):
            assert await program.client(received) == current


# --- the log ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
async def test_lines_of_several_workers_are_not_mixed(tmp_path: Path) -> None:
    recipients = [f"{'n' * 50}.{n}@{'x' * 60}.example.org" for n in range(95)]

    async with two_workers("--log-format", "json", cwd=tmp_path) as program:
        fd = program.process.stdout.fileno()  # type: ignore[union-attr]
        fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, 4096)  # each line is longer than the pipe, and so written in pieces
        async with trio.open_nursery() as nursery:
            for _ in range(60):
                nursery.start_soon(program.send, ME, recipients, message("hi"))
            await program.out.wait_for_count(60, '"reply"')
        assert await stop(program) == 0

    lines = [json.loads(line) for line in program.out.text.splitlines()]
    assert [len(line["to"]) for line in lines if "reply" in line] == [len(recipients)] * 60


# --- sockets ----------------------------------------------------------------------------------------------------------

INHERIT = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1", LISTEN_FDNAMES="smtp")
os.execv(sys.executable, [sys.executable, "-u", "-m", "smtp_trio", "serve", "--fd", *sys.argv[2:]])
"""


@pytest.mark.parametrize(("value", "workers"), [("systemd", "2"), ("3", "1")])
@pytest.mark.slow
async def test_inherited_socket(tmp_path: Path, value: str, workers: str) -> None:
    with socket.create_server((HOST, 0)) as listener:
        fd = listener.fileno()
        command = ["-c", INHERIT, str(fd), value, "--workers", workers]
        async with running(*command, cwd=tmp_path, fds=[fd]) as program:
            program.port = listener.getsockname()[1]
            await program.send(ME, [YOU], message("hi"))
            await program.out.wait_for(f"listening on {HOST}:{program.port}\n")
            assert await stop(program) == 0
        # The socket stays open in this process, and connections wait in its queue.
        socket.create_connection(listener.getsockname()).close()
    assert len(delivered(tmp_path)) == 1


@pytest.mark.slow
async def test_inherited_unix_socket(short_path: Path) -> None:
    path = str(short_path / "socket")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        fd = listener.fileno()
        async with running("-m", "smtp_trio", "serve", "--fd", str(fd), cwd=short_path, fds=[fd]) as program:
            await program.out.wait_for(f"listening on unix:{path}\n")
            async with await trio.open_unix_socket(path) as stream:
                assert (await stream.receive_some()).startswith(b"220 ")
            assert await stop(program) == 0


@pytest.mark.slow
async def test_unusable_inherited_sockets(tmp_path: Path) -> None:
    async def error(sock: socket.socket, *options: str) -> str:
        fd = sock.fileno()
        async with running("-m", "smtp_trio", "serve", "--fd", str(fd), *options, cwd=tmp_path, fds=[fd]) as program:
            assert await program.wait() == 2
        return program.err.text.removeprefix("smtp-trio: error: ").replace(f"--fd {fd}", "--fd N")

    with socket.socket() as idle, socket.create_server(("0.0.0.0", 0)) as public, socket.create_server((HOST, 0)) as s:
        assert await error(idle) == "--fd N: not a listening stream socket\n"
        port = public.getsockname()[1]
        assert (
            await error(public)
            == f"--fd: 0.0.0.0:{port} is not a loopback address: add --accept DOMAIN ('*' for all) or --recipients FILE\n"
        )
        assert await error(s, "--host", "::1") == (
            "--host cannot be combined with --fd: the inherited socket has an address already\n"
        )


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


def test_worker_is_not_killed_before_its_server_has_stopped() -> None:
    """`Server.stop` takes up to ``disconnect`` seconds after the grace period, and the process needs some time to end."""
    assert smtp_trio.Timeouts().disconnect + 3 <= KILL_DELAY
