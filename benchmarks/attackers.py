"""Clients that attack a server, each in a process of its own, from one address.

    python -m benchmarks.attackers KIND HOST PORT SOURCE

runs until it is killed. When the server closes a connection, the attacker connects again at once.
"""

from __future__ import annotations

import base64
import os
import selectors
import socket
import ssl
import struct
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import partial

from attrs import define, field

HELLO = b"EHLO attack.example.org\r\n"
ENVELOPE = b"MAIL FROM:<a@example.org>\r\nRCPT TO:<b@example.org>\r\n"
LINE = b"x" * 70 + b"\r\n"
#: The size of a message of the large kind.
LARGE = 20 << 20
WRITE = 65536

Address = tuple[str, int]


def connect(server: Address, source: str) -> socket.socket:
    """Open a connection from this source address."""
    sock = socket.socket()
    sock.settimeout(10)
    sock.setsockopt(socket.IPPROTO_IP, 24, 1)  # IP_BIND_ADDRESS_NO_PORT: the source port is chosen by connect()
    try:
        sock.bind((source, 0))
        sock.connect(server)
    except OSError:
        sock.close()
        raise
    return sock


@define(eq=False)
class Flood:
    """A connection that writes as fast as the server reads, and reads the replies."""

    sock: socket.socket
    repeated: bytes
    rest: memoryview = field(converter=memoryview)

    def handle_events(self, events: int) -> bool:
        """Read and write as much as possible without blocking. Return False when the connection is closed."""
        try:
            if events & selectors.EVENT_READ and not self.sock.recv(1 << 20):
                return False
            if events & selectors.EVENT_WRITE:
                self.rest = self.rest[self.sock.send(self.rest) :] or memoryview(self.repeated)
        except BlockingIOError:
            pass
        except OSError:
            return False
        return True


def flood(begin: bytes, repeated: bytes, connections: int, server: Address, source: str) -> None:
    """Send ``begin`` once and ``repeated`` without end, over a number of connections."""
    blob = repeated * max(1, WRITE // len(repeated))
    with selectors.DefaultSelector() as selector:
        count = 0
        while True:
            while count < connections:
                try:
                    sock = connect(server, source)
                except OSError:
                    break
                sock.setblocking(False)
                selector.register(sock, selectors.EVENT_READ | selectors.EVENT_WRITE, Flood(sock, blob, begin))
                count += 1
            for key, events in selector.select(0.05):
                if not key.data.handle_events(events):
                    selector.unregister(key.fileobj)
                    key.data.sock.close()
                    count -= 1


def slowloris(connections: int, server: Address, source: str) -> None:
    """Hold as many connections as possible, and send an octet of a command on each of them every second."""
    socks: list[socket.socket] = []
    while True:
        began = time.monotonic()
        while len(socks) < connections and time.monotonic() < began + 0.5:
            with suppress(OSError):
                socks.append(connect(server, source))
                socks[-1].setblocking(False)
        for sock in socks.copy():
            try:
                sock.send(b"x")
                if sock.recv(1000).startswith(b"220"):
                    continue
            except BlockingIOError:
                continue
            except OSError:
                pass
            socks.remove(sock)  # it was refused or closed
            sock.close()
        time.sleep(max(0.0, began + 1 - time.monotonic()))


def reconnect(server: Address, source: str, *, reset: bool) -> None:
    """Open and close connections.

    :param reset: close them with RST, and not with FIN.
    """
    linger = struct.pack("ii", reset, 0)
    while True:
        with suppress(OSError), connect(server, source) as sock:
            if reset:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)


def tls_context() -> ssl.SSLContext:
    """Return a context that accepts any certificate."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def ask_for_tls(sock: socket.socket) -> None:
    """Send STARTTLS, and wait for the reply."""
    sock.recv(1000)
    for command in (HELLO, b"STARTTLS\r\n"):
        sock.sendall(command)
        sock.recv(1000)


def shake_hands(connections: int, server: Address, source: str) -> None:
    """Do TLS handshakes, in waves: all of a number of connections begin them at the same time.

    There is one wave in a second, or the limit of new connections would soon end the attack.
    """
    context = tls_context()
    barrier = threading.Barrier(connections)

    def attempt() -> None:
        with ExitStack() as stack:
            sock = None
            with suppress(OSError):
                sock = stack.enter_context(connect(server, source))
                ask_for_tls(sock)
            barrier.wait()
            if sock is not None:
                with suppress(OSError):
                    context.wrap_socket(sock).close()

    def repeat() -> None:
        while True:
            began = time.monotonic()
            attempt()
            time.sleep(max(0.0, began + 1 - time.monotonic()))

    for _ in range(connections):
        threading.Thread(target=repeat, daemon=True).start()
    while True:
        time.sleep(60)


def log_in(connections: int, server: Address, source: str) -> None:
    """Try passwords over TLS, on a number of connections."""
    context = tls_context()
    plain = b"AUTH PLAIN " + base64.b64encode(b"\0fred\0wrong") + b"\r\n"

    def attempt() -> None:
        with connect(server, source) as sock:
            ask_for_tls(sock)
            with context.wrap_socket(sock) as stream:
                stream.sendall(HELLO)
                stream.recv(1000)
                while True:
                    stream.sendall(plain)
                    if not stream.recv(1000):
                        return

    def repeat() -> None:
        while True:
            with suppress(OSError):
                attempt()

    for _ in range(connections):
        threading.Thread(target=repeat, daemon=True).start()
    while True:
        time.sleep(60)


MALFORMED = b"MAIL FROM:<a@" + b"a." * 900 + b">\r\n"
MESSAGE = ENVELOPE + b"DATA\r\n" + LINE * (LARGE // len(LINE)) + b".\r\n"

Attack = Callable[[Address, str], None]
#: The kinds of attacks, each with the processes that run at the same time. The last two take all connections that a server
#: allows, so the others begin before them.
KINDS: dict[str, list[Attack]] = {
    "EHLO flood, 20 connections": [partial(flood, HELLO, HELLO, 20)],
    "malformed MAIL flood, 20 connections": [partial(flood, HELLO, MALFORMED, 20)],
    "AUTH flood, 20 connections": [partial(log_in, 20)],
    "TLS handshakes, 20 connections": [partial(shake_hands, 20)],
    "large messages, 8 connections": [partial(flood, HELLO, MESSAGE, 8)],
    "2,000 slowloris sessions": [partial(slowloris, 2000)],
    "connection flood": [partial(reconnect, reset=False), partial(reconnect, reset=True)],
}


def main(kind: str, number: str, host: str, port: str, source: str) -> None:
    """Run one process of an attack until killed."""
    # The honest client, which runs on the same core, has precedence: it is not the one that is attacked.
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    KINDS[kind][int(number)]((host, int(port)), source)


if __name__ == "__main__":
    main(*sys.argv[1:])
