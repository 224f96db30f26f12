"""A client that sends the same commands as fast as the server reads them, and reads the replies.

    python -m benchmarks.flood PORT CONNECTIONS KIND

prints a line when all connections are open, and runs until it is killed. It connects again when the server closes a
connection.
"""

from __future__ import annotations

import os
import selectors
import socket
import sys

from .servers import HOST

HELLO = b"EHLO flood.example.org\r\n"
MESSAGE = b"MAIL FROM:<a@example.org>\r\nRCPT TO:<b@example.org>\r\nDATA\r\nSubject: x\r\n\r\n.\r\n"
RECIPIENTS = b"MAIL FROM:<a@example.org>\r\n" + b"RCPT TO:<b@example.org>\r\n" * 999 + b"RSET\r\n"
#: What is sent again and again.
KINDS = {"NOOP": b"NOOP\r\n", "messages": MESSAGE, "recipients": RECIPIENTS}
WRITE = 65536


class Flood:
    """One flooding connection."""

    def __init__(self, port: int, commands: bytes) -> None:
        self.sock = socket.create_connection((HOST, port))
        self.sock.setblocking(False)
        self._commands = commands * max(1, WRITE // len(commands))
        self._rest = memoryview(HELLO)

    def handle_events(self, events: int) -> bool:
        """Read and write as much as possible without blocking. Return False when the connection is closed."""
        try:
            if events & selectors.EVENT_READ and not self.sock.recv(1 << 20):
                return False
            if events & selectors.EVENT_WRITE:
                self._rest = self._rest[self.sock.send(self._rest) :] or memoryview(self._commands)
        except BlockingIOError:
            pass
        except OSError:
            return False
        return True


def main(port: str, connections: str, kind: str) -> None:
    """Open the connections, and flood the server until killed."""
    os.nice(10)  # the measured client on the same core has precedence
    with selectors.DefaultSelector() as selector:

        def open_connection() -> None:
            flood = Flood(int(port), KINDS[kind])
            selector.register(flood.sock, selectors.EVENT_READ | selectors.EVENT_WRITE, flood)

        for _ in range(int(connections)):
            open_connection()
        print("ready", flush=True)
        while True:
            for key, events in selector.select():
                if not key.data.handle_events(events):
                    selector.unregister(key.fileobj)
                    key.data.sock.close()
                    open_connection()


if __name__ == "__main__":
    main(*sys.argv[1:])
