"""Clients of `benchmarks.memory_budget`: many sessions that send a large message each, all at the same time.

    python -m benchmarks.large_peers PORT FIRST SESSIONS MEBIBYTES

prints a line when the server waits for all messages, and sends them when it has read a line. It then prints the outcome
of each session as JSON: the code of the last reply, or "closed" without one.
"""

from __future__ import annotations

import json
import selectors
import socket
import sys
from contextlib import suppress

from attrs import define, field

from .resources import raise_descriptor_limit
from .servers import HOST

#: What messages consist of, after their first lines; its size divides a mebibyte.
BLOCK = (b"z" * 126 + b"\r\n") * 512
END = b"\r\n.\r\n"
COMMANDS = (b"EHLO large.example.net\r\n", b"MAIL FROM:<a@example.net>\r\nRCPT TO:<b@example.org>\r\nDATA\r\n")


def header(number: int) -> bytes:
    """Return the beginning of the message with this number."""
    return b"Subject: %d\r\n\r\n" % number


@define(eq=False)
class Session:
    """A session that sends one message."""

    number: int
    blocks: int
    sock: socket.socket
    outcome: str = ""
    """The code of the last reply, or "closed", when it has ended."""
    ready: bool = False
    """The server waits for the message."""
    _received: bytes = b""
    _replies: int = 0
    _rest: memoryview = field(factory=lambda: memoryview(b""))

    def begin(self) -> None:
        """Begin to send the message."""
        self._rest = memoryview(header(self.number))

    @property
    def sending(self) -> bool:
        """Something is to be sent."""
        return len(self._rest) > 0

    def handle_events(self, events: int) -> None:
        """Read and write as much as possible without blocking."""
        try:
            if events & selectors.EVENT_READ:
                more = self.sock.recv(65536)
                self._received += more
                self._take_replies()
                if not more:
                    self.outcome = self.outcome or "closed"
            if events & selectors.EVENT_WRITE and self.sending:
                self._rest = self._rest[self.sock.send(self._rest) :]
                if not self._rest and self.ready and self.blocks >= 0:
                    self.blocks -= 1
                    self._rest = memoryview(BLOCK if self.blocks >= 0 else END)
        except BlockingIOError:
            pass
        except OSError:
            self.outcome = self.outcome or "closed"

    def _take_replies(self) -> None:
        *lines, self._received = self._received.split(b"\r\n")
        for line in lines:
            if line[3:4] == b"-":
                continue
            code = line[:3].decode()
            self._replies += 1
            if code[0] in "45" or self._replies == 6:
                self.outcome = self.outcome or code
            elif code == "354":
                self.ready = True
            elif self._replies <= len(COMMANDS):
                self._rest = memoryview(COMMANDS[self._replies - 1])


def run(port: int, first: int, count: int, mebibytes: int) -> dict[int, str]:
    """Run the sessions; return the outcome of each one, by the number of its message."""
    blocks = (mebibytes << 20) // len(BLOCK)
    sessions = []
    with selectors.DefaultSelector() as selector:
        for number in range(first, first + count):
            sock = socket.create_connection((HOST, port), timeout=600)
            sock.setblocking(False)
            sessions.append(Session(number, blocks, sock))
            selector.register(sock, selectors.EVENT_READ, sessions[-1])
        begun = False
        while selector.get_map():
            for key, events in selector.select():
                session: Session = key.data
                session.handle_events(events)
                if session.outcome:
                    selector.unregister(session.sock)
                    session.sock.close()
                    continue
                wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if session.sending else 0)
                if wanted != key.events:
                    selector.modify(session.sock, wanted, session)
            if not begun and all(session.ready or session.outcome for session in sessions):
                begun = True
                print("ready", flush=True)
                sys.stdin.readline()
                for session in sessions:
                    if not session.outcome:
                        session.begin()
                        selector.modify(session.sock, selectors.EVENT_READ | selectors.EVENT_WRITE, session)
    return {session.number: session.outcome for session in sessions}


def main(port: str, first: str, count: str, mebibytes: str) -> None:
    """Run the sessions, and print their outcomes."""
    raise_descriptor_limit()
    with suppress(BrokenPipeError):
        json.dump(run(int(port), int(first), int(count), int(mebibytes)), sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
