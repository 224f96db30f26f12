"""A client without manners: says the same again and again, as fast as the server takes it, and reads whatever it is told.

When the server has had enough of it, it comes again.

python -m benchmarks.flood PORT CONNECTIONS KIND

prints a line when all connections are open, and goes on until it is killed.
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
#: What is said, without end.
KINDS = {"NOOP": b"NOOP\r\n", "messages": MESSAGE, "recipients": RECIPIENTS}
WRITE = 65536


class Flood:
    """One connection."""

    def __init__(self, port: int, words: bytes) -> None:
        self.sock = socket.create_connection((HOST, port))
        self.sock.setblocking(False)
        self._words = words * max(1, WRITE // len(words))
        self._rest = memoryview(HELLO)

    def go_on(self, events: int) -> bool:
        """Read what there is, write what can be written; false when the server has left."""
        try:
            if events & selectors.EVENT_READ and not self.sock.recv(1 << 20):
                return False
            if events & selectors.EVENT_WRITE:
                self._rest = self._rest[self.sock.send(self._rest) :] or memoryview(self._words)
        except BlockingIOError:
            pass
        except OSError:
            return False
        return True


def main(port: str, connections: str, kind: str) -> None:
    """Flood."""
    os.nice(10)  # whoever is measured beside it on this core comes first
    with selectors.DefaultSelector() as selector:

        def begin() -> None:
            flood = Flood(int(port), KINDS[kind])
            selector.register(flood.sock, selectors.EVENT_READ | selectors.EVENT_WRITE, flood)

        for _ in range(int(connections)):
            begin()
        print("ready", flush=True)
        while True:
            for key, events in selector.select():
                if not key.data.go_on(events):
                    selector.unregister(key.fileobj)
                    key.data.sock.close()
                    begin()


if __name__ == "__main__":
    main(*sys.argv[1:])
