"""The thread that writes the log, and ``smtp-trio serve`` when the reader of its log has stopped."""

from __future__ import annotations

import os
import re
import signal
import smtplib
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from processes import serving

from smtp_trio._cli import log_writer
from smtp_trio._cli.log_writer import LogWriter

#: Seconds until a thread that does not end fails a test.
LONG = 60


def report(count: int) -> bytes:
    return b"%d dropped\n" % count


@contextmanager
def pipe() -> Iterator[tuple[int, int]]:
    """Open a pipe; close those of its ends that the block has not."""
    ends = os.pipe()
    yield ends
    for each in ends:
        with suppress(OSError):
            os.close(each)


def read_all(descriptor: int) -> bytes:
    """Read to the end of a pipe."""
    with open(descriptor, "rb", closefd=False) as file:
        return file.read()


def ended(writer: LogWriter, descriptor: int) -> None:
    """Wait until the thread has ended, and close the end of the pipe that it has written to."""
    writer.close(LONG)
    assert not writer._thread.is_alive()
    os.close(descriptor)


def test_lines_are_written_in_their_order() -> None:
    with pipe() as (source, target):
        writer = LogWriter(target, report=report)
        lines = [b"%d\n" % number for number in range(1000)]
        for line in lines:
            writer.write(line)
        ended(writer, target)
        assert read_all(source) == b"".join(lines)


def test_line_is_written_without_others_or_an_end() -> None:
    with pipe() as (source, target):
        writer = LogWriter(target, report=report)
        for line in (b"first\n", b"second\n"):
            writer.write(line)
            assert os.read(source, 100) == line
        ended(writer, target)


@pytest.mark.parametrize("size", [10, 5000, 30_000])
def test_dropped_lines_are_counted(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each line is written in its order, or counted as missing, and later lines follow."""
    monkeypatch.setattr(log_writer, "QUEUE_SIZE", 50_000)
    with pipe() as (source, target):
        writer = LogWriter(target, report=report)
        count = 300_000 // size
        for number in range(count):
            writer.write(b"%0*d\n" % (size - 1, number))
        received: list[bytes] = []
        reader = threading.Thread(target=lambda: received.append(read_all(source)))
        reader.start()
        while writer._dropped:
            writer._thread.join(0.01)  # until the reader has made room
        writer.write(b"last\n")
        ended(writer, target)
        reader.join(LONG)
    *lines, last = received[0].splitlines()
    assert last == b"last"
    numbers = [line for line in lines if b"dropped" not in line]
    dropped = [int(line.split()[0]) for line in lines if b"dropped" in line]
    assert len(numbers) + sum(dropped) == count
    assert sum(dropped) > 0
    assert numbers == sorted(numbers)
    assert len(b"".join(numbers)) <= 2 * (50_000 + size) + 65536


def test_end_does_not_wait_for_a_reader_that_has_stopped() -> None:
    with pipe() as (source, target):
        writer = LogWriter(target, report=report)
        for _ in range(100):
            writer.write(b"x" * 9999 + b"\n")
        writer.close(0.05)
        assert writer._thread.is_alive()
        os.set_blocking(source, False)
        while writer._thread.is_alive():  # so that the thread ends with the test
            try:
                os.read(source, 65536)
            except BlockingIOError:
                writer._thread.join(0.01)


def test_reader_that_has_ended() -> None:
    with pipe() as (source, target):
        os.close(source)
        writer = LogWriter(target, report=report)
        writer.write(b"x\n")
        writer.close(LONG)
        assert not writer._thread.is_alive()


def test_descriptor_that_another_process_has_made_non_blocking() -> None:
    with pipe() as (source, target):
        os.set_blocking(target, False)
        writer = LogWriter(target, report=report)
        for _ in range(100):
            writer.write(b"x" * 9999 + b"\n")
        received: list[bytes] = []
        reader = threading.Thread(target=lambda: received.append(read_all(source)))
        reader.start()
        ended(writer, target)
        reader.join(LONG)
    assert len(received[0]) == 1_000_000


def test_lock_of_several_processes(tmp_path: Path) -> None:
    """Each stream has a lock of its own, and it is released after each write."""
    with pipe() as (source, target), (tmp_path / "lock").open("wb") as lock:
        writer = LogWriter(target, report=report, lock=(lock.fileno(), 1))
        # Another process holds the lock of the other stream.
        hold = (
            "import fcntl, sys; fcntl.lockf(int(sys.argv[1]), fcntl.LOCK_EX, 1, 0); print(flush=True); sys.stdin.read()"
        )
        command = [sys.executable, "-c", hold, str(lock.fileno())]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=[lock.fileno()]
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"\n"
            writer.write(b"x\n")
            assert os.read(source, 100) == b"x\n"
        ended(writer, target)


# --- the program ------------------------------------------------------------------------------------------------------


def fill(client: smtplib.SMTP) -> None:
    """Have the server log more than a pipe and its queue hold, in DEBUG records."""
    client.ehlo()
    for _ in range(3 * log_writer.QUEUE_SIZE // (16 * 2000)):
        client.send(b"".join(b"NOOP " + b"x" * 1990 + b"\r\n" for _ in range(16)))
        for _ in range(16):
            client.getreply()
        client.sendmail("me@example.net", ["you@example.org"], b"Subject: x\r\n\r\nx\r\n")


@pytest.mark.parametrize("options", [(), pytest.param(("--workers", "2"), marks=pytest.mark.slow)])
async def test_server_goes_on_when_the_reader_of_its_log_has_stopped(options: tuple[str, ...], tmp_path: Path) -> None:
    async with serving("-v", *options, cwd=tmp_path) as program:
        await program.client(fill)
        await program.client(fill)
        await program.send("me@example.net", ["you@example.org"], b"Subject: last\r\n\r\nx\r\n")
        program.signal(signal.SIGTERM)
        assert await program.process.wait() == 0, "it ends without being read"


async def test_log_says_how_much_is_missing(tmp_path: Path) -> None:
    async with serving("-v", cwd=tmp_path) as program:
        await program.client(fill)
        match = await program.out.wait_for(r"^\S+ warning: (\d+) lines of the log are missing here, because .*\n")
        assert int(match[1]) > 0
        await program.send("me@example.net", ["you@example.org"], b"Subject: last\r\n\r\nx\r\n")
        program.signal(signal.SIGTERM)
        assert await program.wait() == 0
        assert re.search(r"stopped; messages accepted: \d+, refused: 0; sessions: 2\n$", program.out.text)
