"""Many connections that send numbered messages to an intake, each with a checksum, and remember what they were told."""

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
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from attrs import Factory, define

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TESTS = Path(__file__).parents[1]


def message(number: int) -> bytes:
    """A message that shows whether it is whole. Most are small; one in a hundred is too large for a store's memory."""
    size = 1_500_000 if number % 100 == 99 else random.Random(number).randrange(8000)
    content = b"Subject: %d\r\n\r\n%s" % (number, b"%07d.\r\n" % number * (size // 10))
    return b"X-SHA256: %s\r\n%s" % (hashlib.sha256(content).hexdigest().encode(), content)


def number_of(stored: bytes) -> int:
    """The number of a message that was stored; fails if it is not whole."""
    checksum, _, content = stored.partition(b"\r\n")
    assert checksum == b"X-SHA256: " + hashlib.sha256(content).hexdigest().encode(), "a torn message"
    subject = re.match(rb"Subject: (\d+)\r\n", content)
    assert subject is not None
    return int(subject[1])


@contextmanager
def intake(spec: str, *, mutant: str = "", wrapper: tuple[str, ...] = ()) -> Iterator[tuple[int, int]]:
    """The port and the process id of an intake, which is killed at the end."""
    program = [*wrapper, sys.executable, "-m", "crash.intake", spec, mutant]
    with subprocess.Popen(program, cwd=TESTS, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        port, pid = map(int, process.stdout.readline().split())
        try:
            yield port, pid
        finally:
            # Its own id, not that of a wrapper; until `process` is waited for it means no other.
            os.kill(pid, signal.SIGKILL)


@define
class Load:
    """What was sent, and how far it came."""

    todo: queue.Queue[int] = Factory(queue.Queue)
    acknowledged: set[int] = Factory(set)
    unknown: set[int] = Factory(set)
    """The message had been sent to its end, and the connection broke before its reply."""
    ids: dict[str, int] = Factory(dict)
    """The id in each 250, and the number of its message."""
    faults: list[str] = Factory(list)
    """What a server must never answer."""
    on_reply: Callable[[int], None] = lambda count: None
    _lock: threading.Lock = Factory(threading.Lock)

    def run(self, port: int, connections: int) -> None:
        """Send all that is to do, over so many connections, until it is done or the server is gone."""
        threads = [threading.Thread(target=self._connection, args=(port,)) for _ in range(connections)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not self.faults

    def _connection(self, port: int) -> None:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=60) as sock, sock.makefile("rb") as replies:
                self._expect(replies.readline(), b"220")
                sock.sendall(b"HELO load.test\r\n")
                self._expect(replies.readline(), b"250")
                while True:
                    self._send(self.todo.get_nowait(), sock, replies.readline)
        except (ConnectionError, queue.Empty):
            return

    def _send(self, number: int, sock: socket.socket, reply: Callable[[], bytes]) -> None:
        sent = False
        try:
            for command in (b"MAIL FROM:<me@load.test>", b"RCPT TO:<you@intake.test>", b"DATA"):
                sock.sendall(command + b"\r\n")
                self._expect(reply(), b"354" if command == b"DATA" else b"250")
            sock.sendall(message(number)[:-1])
            sent = True  # from the next octet on the message may be stored
            sock.sendall(b"\n.\r\n")
            line = reply()
            self._expect(line, b"250")
        except ConnectionError:
            with self._lock:
                if sent:
                    self.unknown.add(number)
                self.todo.put(number)
            raise
        with self._lock:
            self.acknowledged.add(number)
            self.ids[line.rpartition(b" ")[2].strip().decode()] = number
            self.on_reply(len(self.acknowledged))

    def _expect(self, line: bytes, code: bytes) -> None:
        if not line.endswith(b"\r\n"):
            raise ConnectionResetError
        if not line.startswith(code):
            self.faults.append(line.decode())
            raise ConnectionAbortedError
