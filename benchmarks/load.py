"""A load of mail: Postfix's ``smtp-source`` where it can make it, else a generator of ours, with blocking sockets in threads.

    python -m benchmarks.load PORT COUNT [--sessions N] [--size N] [--recipients N] [--pipelined] [--starttls] [--lone] [--handshake]

prints how many seconds it took.
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
#: Not subprocess's own timeout: with that, the end is looked for once in 50 ms.
BOUND = ("timeout", "600")


@frozen(kw_only=True)
class Load:
    """What each client does."""

    size: int = 1024
    """Octets of a message, about."""
    sessions: int = 10
    """At once."""
    recipients: int = 1
    pipelined: bool = False
    """MAIL, every RCPT and DATA in one write (RFC 2920)."""
    starttls: bool = False
    lone: bool = False
    """A connection for every message."""
    handshake: bool = False
    """No SMTP at all: a TLS handshake a connection, and its end."""

    @property
    def plain(self) -> bool:
        """``smtp-source`` can make it."""
        return not (self.pipelined or self.starttls or self.handshake) and self.recipients == 1


def drive(load: Load, server: Process, count: int) -> Sample:
    """Let the server work on so many messages; what it costs it."""
    clock = Clock(server.pid)
    with pinned(cores()[1]):
        done = subprocess.run(
            command(load, server.port, count), check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT
        )
    sample = clock.stop(count)
    # A new Python takes its time to begin, which is none of the load's.
    return Sample(sample.cost, count / float(done.stdout)) if done.stdout else sample


def command(load: Load, port: int, count: int) -> list[str]:
    """What makes the load; our generator prints how long it took."""
    source = shutil.which("smtp-source", path=PATH)
    if source and load.plain:
        options = {"-s": load.sessions, "-m": count, "-l": load.size, "-f": SENDER.decode(), "-t": RECIPIENT.decode()}
        words = [
            *BOUND,
            source,
            *([] if load.lone else ["-d"]),
            *(str(word) for pair in options.items() for word in pair),
        ]
        return [*words, f"{HOST}:{port}"]
    words = [*BOUND, sys.executable, "-m", "benchmarks.load", str(port), str(count)]
    for name, value in asdict(load).items():
        words += [f"--{name}"] if value is True else [f"--{name}", str(value)] if value is not False else []
    return words


class Talk:
    """A connection to the server."""

    def __init__(self, port: int) -> None:
        self.sock = socket.create_connection((HOST, port))
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._file = self.sock.makefile("rb")

    def secure(self, context: ssl.SSLContext) -> None:
        """Shake hands."""
        self.sock = context.wrap_socket(self.sock)
        self._file = self.sock.makefile("rb")

    def say(self, octets: bytes, codes: Iterable[bytes]) -> None:
        """Send, and read the replies, which have these codes."""
        self.sock.sendall(octets)
        for code in codes:
            self.hear(code)

    def hear(self, code: bytes) -> None:
        """Read a reply."""
        while (line := self._file.readline())[3:4] == b"-":
            pass
        if line[:3] != code:
            raise RuntimeError(f"{line!r} instead of {code!r}")

    def close(self) -> None:
        self._file.close()
        self.sock.close()


def session(port: int, load: Load, message: bytes, messages: int, context: ssl.SSLContext) -> None:
    """One connection from greeting to QUIT."""
    talk = Talk(port)
    if load.handshake:
        talk.secure(context)
        talk.close()
        return
    talk.hear(b"220")
    talk.say(b"EHLO client.example.org\r\n", [b"250"])
    if load.starttls:
        talk.say(b"STARTTLS\r\n", [b"220"])
        talk.secure(context)
        talk.say(b"EHLO client.example.org\r\n", [b"250"])
    envelope = [b"MAIL FROM:<%b>\r\n" % SENDER]
    envelope += [b"RCPT TO:<%d%b>\r\n" % (number, RECIPIENT) for number in range(load.recipients)]
    for _ in range(messages if message else 0):
        if load.pipelined:
            talk.say(b"".join(envelope) + b"DATA\r\n", [b"250"] * len(envelope) + [b"354"])
        else:
            for command in envelope:
                talk.say(command, [b"250"])
            talk.say(b"DATA\r\n", [b"354"])
        for start in range(0, load.size, len(message)):
            talk.sock.sendall(message[: load.size - start])
        talk.say(b"\r\n.\r\n" if load.size % len(LINE) else b".\r\n", [b"250"])
    talk.sock.sendall(b"QUIT\r\n")  # some answer 221, the floor 250
    talk.close()


def send(port: int, count: int, load: Load) -> float:
    """So many messages, or sessions where there is no message; returns the seconds that it took."""
    message = (HEADER + LINE * (min(load.size, 1 << 20) // len(LINE)))[: min(load.size, 1 << 20)]
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    each, rest = (1, 0) if load.lone else divmod(count, load.sessions)
    shares = [1] * count if load.lone else [each + (number < rest) for number in range(load.sessions)]
    start = time.perf_counter()
    with ThreadPoolExecutor(load.sessions) as pool:
        for _ in pool.map(lambda share: session(port, load, message, share, context), shares):
            pass  # whatever went wrong is raised here
    return time.perf_counter() - start


def main() -> None:
    """Send, and say how long it took."""
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("count", type=int)
    for name in ("size", "sessions", "recipients"):
        parser.add_argument(f"--{name}", type=int, default=getattr(Load(), name))
    for name in ("pipelined", "starttls", "lone", "handshake"):
        parser.add_argument(f"--{name}", action="store_true")
    args = vars(parser.parse_args())
    print(send(args.pop("port"), args.pop("count"), Load(**args)))


if __name__ == "__main__":
    main()
