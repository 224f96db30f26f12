"""A load from a generator that never sleeps: ``python -m benchmarks.polling PORT COUNT SESSIONS SIZE [--reconnect]``.

Each session sends a command, a message or QUIT, and waits for the reply, as with ``smtp-source``. But the generator asks again
and again whether a reply has arrived. ``smtp-source`` sleeps until then, and the server has to wake it, which costs the server
time: see "Wake-ups" in docs/performance.rst. This prints the number of seconds that this took.
"""

from __future__ import annotations

import argparse
import select
import socket
import time
from collections.abc import Iterator

HOST = "127.0.0.1"
HEADER = b"From: a@example.org\r\nTo: b@example.org\r\nSubject: a benchmark\r\n\r\n"
LINE = b"x" * 62 + b"\r\n"


def dialogue(messages: int, message: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Iterate over what a session sends, each with the first digit of the reply that it gets."""
    yield b"HELO client.example.org\r\n", b"2"
    for _ in range(messages):
        yield b"MAIL FROM:<a@example.org>\r\n", b"2"
        yield b"RCPT TO:<b@example.org>\r\n", b"2"
        yield b"DATA\r\n", b"3"
        yield message, b"2"
    yield b"QUIT\r\n", b"2"


class Session:
    """A session that sends messages one after the other."""

    def __init__(self, port: int, messages: int, message: bytes) -> None:
        self._dialogue = dialogue(messages, message)
        self._expected = b"2"  # the greeting
        self._received = b""
        self.sock: socket.socket = socket.create_connection((HOST, port))
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def receive(self) -> bool:
        """Read what has arrived. If that is the end of a reply, go on. Return whether it was the last one."""
        octets = self.sock.recv(4096)
        received = self._received + octets
        if octets and not received.endswith(b"\r\n"):
            self._received = received
            return False
        if received[:1] != self._expected:
            raise RuntimeError(f"expected {self._expected!r}, got {received!r}")
        self._received = b""
        command, self._expected = next(self._dialogue, (b"", b""))
        self.sock.sendall(command)
        return not command


def send(port: int, count: int, sessions: int, size: int, *, reconnect: bool) -> float:
    """Send messages, and return the seconds that it took."""
    message = HEADER + LINE * ((size - len(HEADER)) // len(LINE)) + b".\r\n"
    each, rest = divmod(count, sessions)
    shares = [1] * count if reconnect else [each + (number < rest) for number in range(min(sessions, count))]
    open_sessions: dict[int, Session] = {}
    poll = select.epoll()
    start = time.perf_counter()
    while shares or open_sessions:
        while shares and len(open_sessions) < sessions:
            session = Session(port, shares.pop(), message)
            open_sessions[session.sock.fileno()] = session
            poll.register(session.sock, select.EPOLLIN)
        for descriptor, _ in poll.poll(0):
            if open_sessions[descriptor].receive():
                open_sessions.pop(descriptor).sock.close()
    return time.perf_counter() - start


def main() -> None:
    """Send, and print how long it took."""
    parser = argparse.ArgumentParser()
    for name in ("port", "count", "sessions", "size"):
        parser.add_argument(name, type=int)
    parser.add_argument("--reconnect", action="store_true")
    args = parser.parse_args()
    print(send(args.port, args.count, args.sessions, args.size, reconnect=args.reconnect))


if __name__ == "__main__":
    main()
