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

from .attackers import WRITE, Flood
from .servers import HOST

HELLO = b"EHLO flood.example.org\r\n"
MESSAGE = b"MAIL FROM:<a@example.org>\r\nRCPT TO:<b@example.org>\r\nDATA\r\nSubject: x\r\n\r\n.\r\n"
RECIPIENTS = b"MAIL FROM:<a@example.org>\r\n" + b"RCPT TO:<b@example.org>\r\n" * 999 + b"RSET\r\n"
#: What is sent again and again.
KINDS = {"NOOP": b"NOOP\r\n", "messages": MESSAGE, "recipients": RECIPIENTS}


def main(port: str, connections: str, kind: str) -> None:
    """Open the connections, and flood the server until killed."""
    os.nice(10)  # the measured client on the same core has precedence
    commands = KINDS[kind] * max(1, WRITE // len(KINDS[kind]))
    with selectors.DefaultSelector() as selector:

        def open_connection() -> None:
            sock = socket.create_connection((HOST, int(port)))
            sock.setblocking(False)
            selector.register(sock, selectors.EVENT_READ | selectors.EVENT_WRITE, Flood(sock, commands, HELLO))

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
