"""The load generator: Postfix's ``smtp-source`` if it supports the load, otherwise blocking sockets in threads.

`overlapping.py` has another one, for transactions that overlap, and `polling.py` one that never sleeps.

    python -m benchmarks.load PORT COUNT [--sessions N] [--size N] [--recipients N] [--pipelined] [--starttls]
        [--reconnect] [--handshake]

prints the number of seconds that this took.
"""

from __future__ import annotations

import argparse
import shutil
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from attrs import asdict, frozen

from .case import Clock, Sample, cores, pinned
from .servers import HOST, PATH, ROOT, Process

LINE = b"x" * 62 + b"\r\n"
HEADER = b"From: a@example.org\r\nTo: b@example.org\r\nSubject: a benchmark\r\n\r\n"
SENDER, RECIPIENT = b"a@example.org", b"b@example.org"
#: A timeout of subprocess would check for the end of the process only every 50 ms.
TIMEOUT = ("timeout", "600")


@frozen(kw_only=True)
class Load:
    """The work of the clients."""

    size: int = 1024
    """The approximate size of a message in octets."""
    sessions: int = 10
    """The number of sessions at the same time."""
    recipients: int = 1
    pipelined: bool = False
    """MAIL, every RCPT and DATA in one write (RFC 2920)."""
    overlapping: bool = False
    """The end of a message and the next transaction in one write. The other options but size and sessions do not apply."""
    polling: bool = False
    """A generator that never sleeps. The other options but size, sessions and reconnect do not apply."""
    starttls: bool = False
    reconnect: bool = False
    """Open a connection for every message."""
    handshake: bool = False
    """Only make a TLS handshake on each connection, without SMTP."""

    @property
    def plain(self) -> bool:
        """True if ``smtp-source`` supports it."""
        return not (self.pipelined or self.starttls or self.handshake) and self.recipients == 1


def measure_load(load: Load, server: Process, count: int) -> Sample:
    """Send this number of messages to the server, and return their cost for it."""
    clock = Clock(server.pid)
    with pinned(cores()[1]):
        done = subprocess.run(
            generator_command(load, server.port, count), check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT
        )
    sample = clock.stop(count)
    # The time that the generator has printed does not contain the start of its Python.
    return Sample(sample.cost, count / float(done.stdout)) if done.stdout else sample


def generator_command(load: Load, port: int, count: int) -> list[str]:
    """Return the command of the load generator. The one in this module prints the seconds that it took."""
    if load.overlapping:
        numbers = map(str, (port, count, load.sessions, load.size))
        return [*TIMEOUT, sys.executable, "-m", "benchmarks.overlapping", *numbers]
    if load.polling:
        numbers = map(str, (port, count, load.sessions, load.size))
        reconnect = ["--reconnect"] if load.reconnect else []
        return [*TIMEOUT, sys.executable, "-m", "benchmarks.polling", *numbers, *reconnect]
    source = shutil.which("smtp-source", path=PATH)
    if source and load.plain:
        options = {"-s": load.sessions, "-m": count, "-l": load.size, "-f": SENDER.decode(), "-t": RECIPIENT.decode()}
        command = [
            *TIMEOUT,
            source,
            *([] if load.reconnect else ["-d"]),
            *(str(argument) for pair in options.items() for argument in pair),
        ]
        return [*command, f"{HOST}:{port}"]
    command = [*TIMEOUT, sys.executable, "-m", "benchmarks.load", str(port), str(count)]
    for name, value in asdict(load).items():
        command += [f"--{name}"] if value is True else [f"--{name}", str(value)] if value is not False else []
    return command


class Connection:
    """An SMTP connection to the server."""

    def __init__(self, port: int) -> None:
        self.sock = socket.create_connection((HOST, port))
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._file = self.sock.makefile("rb")

    def start_tls(self, context: ssl.SSLContext) -> None:
        """Make a TLS handshake."""
        self.sock = context.wrap_socket(self.sock)
        self._file = self.sock.makefile("rb")

    def exchange(self, octets: bytes, codes: Iterable[bytes]) -> None:
        """Send octets, and read their replies, which must have these codes."""
        self.sock.sendall(octets)
        for code in codes:
            self.read_reply(code)

    def read_reply(self, code: bytes) -> None:
        """Read a reply, which must have this code."""
        while (line := self._file.readline())[3:4] == b"-":
            pass
        if line[:3] != code:
            raise RuntimeError(f"expected {code!r}, got {line!r}")

    def close(self) -> None:
        """Close the connection."""
        self._file.close()
        self.sock.close()


def session(port: int, load: Load, message: bytes, messages: int, context: ssl.SSLContext) -> None:
    """Open a connection, send messages, and close it."""
    connection = Connection(port)
    if load.handshake:
        connection.start_tls(context)
        connection.close()
        return
    connection.read_reply(b"220")
    connection.exchange(b"EHLO client.example.org\r\n", [b"250"])
    if load.starttls:
        connection.exchange(b"STARTTLS\r\n", [b"220"])
        connection.start_tls(context)
        connection.exchange(b"EHLO client.example.org\r\n", [b"250"])
    envelope = [b"MAIL FROM:<%b>\r\n" % SENDER]
    envelope += [b"RCPT TO:<%d%b>\r\n" % (number, RECIPIENT) for number in range(load.recipients)]
    for _ in range(messages if message else 0):
        if load.pipelined:
            connection.exchange(b"".join(envelope) + b"DATA\r\n", [b"250"] * len(envelope) + [b"354"])
        else:
            for command in envelope:
                connection.exchange(command, [b"250"])
            connection.exchange(b"DATA\r\n", [b"354"])
        for start in range(0, load.size, len(message)):
            connection.sock.sendall(message[: load.size - start])
        connection.exchange(b"\r\n.\r\n" if load.size % len(LINE) else b".\r\n", [b"250"])
    connection.sock.sendall(b"QUIT\r\n")  # the reply is 221 from a server and 250 from the floor
    connection.close()


def send(port: int, count: int, load: Load) -> float:
    """Send messages, or open sessions if the messages are empty, and return the seconds that it took."""
    message = (HEADER + LINE * (min(load.size, 1 << 20) // len(LINE)))[: min(load.size, 1 << 20)]
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    each, rest = (1, 0) if load.reconnect else divmod(count, load.sessions)
    shares = [1] * count if load.reconnect else [each + (number < rest) for number in range(load.sessions)]
    start = time.perf_counter()
    with ThreadPoolExecutor(load.sessions) as pool:
        for _ in pool.map(lambda share: session(port, load, message, share, context), shares):
            pass  # raises the exceptions of the threads
    return time.perf_counter() - start


def main() -> None:
    """Send, and print how long it took."""
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("count", type=int)
    for name in ("size", "sessions", "recipients"):
        parser.add_argument(f"--{name}", type=int, default=getattr(Load(), name))
    for name in ("pipelined", "starttls", "reconnect", "handshake"):
        parser.add_argument(f"--{name}", action="store_true")
    args = vars(parser.parse_args())
    print(send(args.pop("port"), args.pop("count"), Load(**args)))


if __name__ == "__main__":
    main()
