"""Connections that send numbered messages with checksums to a server, and record the replies."""

from __future__ import annotations

import hashlib
import os
import queue
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from attrs import Factory, define

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TESTS = Path(__file__).parents[1]


def message(number: int) -> bytes:
    """Return a message with a checksum. Most are small; one in a hundred is large enough to be spooled in a file."""
    size = 1_500_000 if number % 100 == 99 else random.Random(number).randrange(8000)
    content = b"Subject: %d\r\n\r\n%s" % (number, b"%07d.\r\n" % number * (size // 10))
    return b"X-SHA256: %s\r\n%s" % (hashlib.sha256(content).hexdigest().encode(), content)


def large_message(number: int) -> bytes:
    """Return a message of 5 to 30 MiB, which is the limit, with a checksum."""
    size = random.Random(number).randrange(5 << 20, (30 << 20) - 1000)
    content = b"Subject: %d\r\n\r\n%s" % (number, b"%07d.\r\n" % number * (size // 10))
    return b"X-SHA256: %s\r\n%s" % (hashlib.sha256(content).hexdigest().encode(), content)


def number_of(stored: bytes) -> int:
    """Return the number of a stored message, and check that it is complete."""
    checksum, _, content = stored.partition(b"\r\n")
    assert checksum == b"X-SHA256: " + hashlib.sha256(content).hexdigest().encode(), "an incomplete message"
    subject = re.match(rb"Subject: (\d+)\r\n", content)
    assert subject is not None
    return int(subject[1])


@contextmanager
def running_server(spec: str, *, mutant: str = "", wrapper: tuple[str, ...] = ()) -> Iterator[tuple[int, int]]:
    """Run a server; yield its port and process id. It is killed at the end of the block."""
    program = [*wrapper, sys.executable, "-m", "crash.server", spec, mutant]
    with subprocess.Popen(program, cwd=TESTS, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        port, pid = map(int, process.stdout.readline().split())
        try:
            yield port, pid
        finally:
            # This is the id of the server, not of a wrapper. It is not reused before `process` has been waited for.
            os.kill(pid, signal.SIGKILL)


class StoppedError(Exception):
    """The reply was 421."""


class BusyError(Exception):
    """The reply was 451 after 30 seconds: the disk is so busy that the server has not waited for it any longer."""


@define
class Load:
    """Messages to send, and their outcomes."""

    todo: queue.Queue[int] = Factory(queue.Queue)
    """The numbers of the messages that are still to be sent."""
    accepted: set[int] = Factory(set)
    """The numbers of the messages that got a 250."""
    unknown: set[int] = Factory(set)
    """The numbers of the messages that were sent completely when the connection was lost, or the disk was too slow."""
    refused: set[int] = Factory(set)
    """The numbers of the messages that were sent completely and got 421."""
    make: Callable[[int], bytes] = message
    """Returns the message with a number."""
    recipients: tuple[bytes, ...] = (b"you@intake.test",)
    stopping: bool = False
    """The server is to be stopped: 421 ends a connection, and is not unexpected."""
    unexpected: list[str] = Factory(list)
    """Replies other than those that the server should send."""
    on_accepted: Callable[[int], None] = lambda count: None
    """Called after each 250 for a message, with the number of them so far."""
    _lock: threading.Lock = Factory(threading.Lock)

    def run(self, port: int, connections: int) -> None:
        """Send the messages over this many connections, until all are sent or the server has ended."""
        threads = [threading.Thread(target=self._connection, args=(port,)) for _ in range(connections)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not self.unexpected

    def _connection(self, port: int) -> None:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=500) as sock, sock.makefile("rb") as replies:
                self._expect(replies.readline(), b"220")
                sock.sendall(b"HELO load.test\r\n")
                self._expect(replies.readline(), b"250")
                while True:
                    self._send(self.todo.get_nowait(), sock, replies.readline)
        except (ConnectionError, StoppedError, queue.Empty):
            return  # the server has ended, or every message has been sent

    def _send(self, number: int, sock: socket.socket, reply: Callable[[], bytes]) -> None:
        sent = False
        try:
            rcpts = (b"RCPT TO:<%s>" % recipient for recipient in self.recipients)
            for command in (b"MAIL FROM:<me@load.test>", *rcpts, b"DATA"):
                sock.sendall(command + b"\r\n")
                self._expect(reply(), b"354" if command == b"DATA" else b"250")
            sock.sendall(self.make(number)[:-1])
            sent = True  # the message may be stored once the next octets are sent
            sock.sendall(b"\n.\r\n")
            began = time.monotonic()
            line = reply()
            if line.startswith(b"451") and time.monotonic() - began > 20:
                raise BusyError
            self._expect(line, b"250")
        except BusyError:
            with self._lock:
                self.unknown.add(number)
                self.todo.put(number)
            return
        except ConnectionError:
            with self._lock:
                if sent:
                    self.unknown.add(number)
                self.todo.put(number)
            raise
        except StoppedError:
            with self._lock:
                if sent:
                    self.refused.add(number)
                self.todo.put(number)
            raise
        with self._lock:
            self.accepted.add(number)
            self.on_accepted(len(self.accepted))

    def _expect(self, line: bytes, code: bytes) -> None:
        if not line.endswith(b"\r\n"):
            raise ConnectionResetError
        if self.stopping and line.startswith(b"421"):
            raise StoppedError
        if not line.startswith(code):
            self.unexpected.append(line.decode())
            raise ConnectionAbortedError
