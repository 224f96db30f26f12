"""A load of overlapping transactions: ``python -m benchmarks.overlapping PORT COUNT SESSIONS SIZE``.

Each session sends a message with the MAIL, RCPT and DATA of the next one in one write (RFC 2920 3.1), and then waits for the
replies to all of them: one round trip for a message. One thread does that for all sessions, so that the generator takes little
of the cores that it shares with the server. It prints the number of seconds that this took, without those of connecting.
"""

from __future__ import annotations

import argparse
import select
import socket
import time

HOST = "127.0.0.1"
ENVELOPE = b"MAIL FROM:<a@example.org>\r\nRCPT TO:<b@example.org>\r\nDATA\r\n"
HEADER = b"From: a@example.org\r\nTo: b@example.org\r\nSubject: a benchmark\r\n\r\n"
LINE = b"x" * 62 + b"\r\n"
#: Octets that must have arrived before the generator is woken: more than the first of four replies has, which the server sends
#: at once, and less than all of them. Otherwise it would be woken twice for each message. That takes a quarter of its CPU, and
#: of the server's as well, since the kernel wakes it when the server writes.
ENOUGH = 64
#: The replies to a message and to the envelope of the next one.
REPLIES = [b"250", b"250", b"250", b"354"]


class Session:
    """A session that sends messages one after the other. It has sent the first envelope."""

    def __init__(self, port: int, messages: int, message: bytes) -> None:
        self._left = messages
        self._message = message + b".\r\n"
        self._with_envelope = self._message + ENVELOPE
        self._replies = REPLIES
        self._received = b""
        self.sock: socket.socket = socket.create_connection((HOST, port))
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with self.sock.makefile("rb") as file:
            for command, codes in (
                (b"", [b"220"]),
                (b"EHLO client.example.org\r\n", [b"250"]),
                (ENVELOPE, REPLIES[1:]),
            ):
                self.sock.sendall(command)
                for code in codes:
                    while (line := file.readline())[3:4] == b"-":
                        pass
                    if line[:3] != code:
                        raise RuntimeError(f"expected {code!r}, got {line!r}")

        self._enough = 1

    def _wake_after(self, octets: int) -> None:
        if self._enough != octets:
            self._enough = octets
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, octets)

    def send(self) -> None:
        """Send a message, and the envelope of the next one if there is one."""
        self._left -= 1
        if self._left:
            self._wake_after(ENOUGH)
            self.sock.sendall(self._with_envelope)
        else:
            self._wake_after(1)
            self._replies = REPLIES[:1]
            self.sock.sendall(self._message)

    def receive(self) -> bool:
        """Read what has arrived. Send the next message when all replies have. Return whether the last one was accepted."""
        octets = self.sock.recv(4096)
        self._received += octets
        *lines, rest = self._received.split(b"\r\n")
        if octets and len(lines) < len(self._replies):
            self._wake_after(1)  # the rest may be less
            return False
        if [line[:3] for line in lines] != self._replies or rest:
            raise RuntimeError(f"expected {self._replies!r}, got {self._received!r}")
        self._received = b""
        if self._left:
            self.send()
            return False
        return True


def send(port: int, count: int, sessions: int, size: int) -> float:
    """Send messages, and return the seconds that it took."""
    message = HEADER + LINE * ((size - len(HEADER)) // len(LINE))
    each, rest = divmod(count, sessions)
    open_sessions = {}
    poll = select.epoll()
    for number in range(min(sessions, count)):
        session = Session(port, each + (number < rest), message)
        open_sessions[session.sock.fileno()] = session
        poll.register(session.sock, select.EPOLLIN)
    start = time.perf_counter()
    for session in open_sessions.values():
        session.send()
    while open_sessions:
        for descriptor, _ in poll.poll():
            if open_sessions[descriptor].receive():
                poll.unregister(descriptor)
                open_sessions.pop(descriptor).sock.close()
    return time.perf_counter() - start


def main() -> None:
    """Send, and print how long it took."""
    parser = argparse.ArgumentParser()
    for name in ("port", "count", "sessions", "size"):
        parser.add_argument(name, type=int)
    args = parser.parse_args()
    print(send(args.port, args.count, args.sessions, args.size))


if __name__ == "__main__":
    main()
