"""Mail servers that run: started on free ports of the loopback, asked for what they have kept, and ended."""

from __future__ import annotations

import os
import smtplib
import socket
import ssl
import subprocess
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import trustme
from attrs import define, field

from smtp_trio.stores import read

from .programs import HOST, PASSWORD, PATH, USER
from .recipes import ADDRESS, RECIPES, Place, Recipe

READY = 20.0
"""Seconds until a server must have greeted."""
POLL = 0.02


@define(kw_only=True)
class Server:
    """A server that runs."""

    recipe: Recipe
    folder: Path
    port: int
    implicit_port: int | None
    cafile: Path
    """The authority that vouches for its certificate."""
    host: str = HOST
    """The name in the certificate."""
    _seen: set[str] = field(factory=set)

    @property
    def name(self) -> str:
        return self.recipe.name

    @property
    def tls(self) -> str:
        """The best that is possible on the plain port: "none" or "starttls"."""
        return "starttls" if self.recipe.secure else "none"

    @property
    def credentials(self) -> tuple[str, str] | None:
        """User and password that it lets in (nobody needs them to send)."""
        return (USER, PASSWORD) if self.recipe.logins else None

    @property
    def features(self) -> frozenset[str]:
        """The EHLO keywords that matter, as listed without TLS."""
        return self.recipe.features

    def received(self, n: int, timeout: float = 20, recipients: int = 1) -> list[bytes]:
        """Wait for the next `n` messages, for `timeout` seconds at most; gives them in the order in which they came.

        They are without what the server has put before and behind them, and with CRLF where it has written the LF of Unix.
        Each is given once, however many `recipients` it had (all the same number).

        Raises:
            AssertionError: there were fewer, or more; it shows the server's log.
        """
        copies = recipients if self.recipe.copies else 1
        deadline = time.monotonic() + timeout
        while len(files := self._unseen()) < n * copies and time.monotonic() < deadline:
            time.sleep(POLL)
        assert len(files) == n * copies, f"{self.name} has kept {len(files)} messages, not {n * copies}\n{self.log()}"
        self._seen.update(file.name for file in files)
        contents = [self._content(file) for file in files]
        if copies == 1:
            return contents
        return [content for content, times in Counter(contents).items() for _ in range(times // copies)]

    def forget(self) -> None:
        """Take all that has come so far as received."""
        self._seen.update(file.name for file in self._unseen())

    def log(self) -> str:
        """The end of what it has written to its logs."""
        return "\n".join(f"--- {file.name}\n{_end(file)}" for file in sorted(self.folder.glob("*log")))

    def _unseen(self) -> list[Path]:
        files = [file for file in (self.folder / "box" / "new").iterdir() if file.name not in self._seen]
        return sorted(files, key=lambda file: file.stat().st_mtime_ns)

    def _content(self, file: Path) -> bytes:
        if self.name == "smtp-trio":
            return read(file).message
        content = file.read_bytes()
        if self.recipe.unix:
            content = content.replace(b"\n", b"\r\n")
        front = self.recipe.trace.match(content)
        assert front, f"{self.name} was to add {self.recipe.trace.pattern!r}: {content[:500]!r}"
        return content[front.end() :].removesuffix(self.recipe.adds)


def _end(file: Path) -> str:
    return file.read_bytes()[-4000:].decode(errors="replace")


def free_port() -> int:
    """A port that was free a moment ago: most of these programs cannot say which one they have taken."""
    with socket.socket() as probe:
        probe.bind((ADDRESS, 0))
        port: int = probe.getsockname()[1]
        return port


def _run(command: Sequence[str], place: Place, log: int) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PATH": PATH, "NODE_PATH": str(place.node_modules or "")}
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment)


def _wait_for_greeting(server: Server, processes: Sequence[subprocess.Popen[bytes]]) -> None:
    deadline = time.monotonic() + READY
    for port in filter(None, (server.port, server.implicit_port)):
        while not _greets(port, secure=port == server.implicit_port, cafile=server.cafile):
            if time.monotonic() > deadline or any(process.poll() is not None for process in processes):
                raise RuntimeError(f"{server.name} did not come up\n{server.log()}")
            time.sleep(POLL)


def _greets(port: int, *, secure: bool, cafile: Path) -> bool:
    try:
        if secure:
            smtplib.SMTP_SSL(HOST, port, timeout=5, context=ssl.create_default_context(cafile=cafile)).quit()
        else:
            smtplib.SMTP(HOST, port, timeout=5).quit()
    except (OSError, smtplib.SMTPException):
        return False
    return True


@contextmanager
def start(name: str, folder: Path, node_modules: Path | None = None) -> Iterator[Server]:
    """Run this server, with its files in `folder`, which every user can reach, until the block ends.

    Raises:
        RuntimeError: it did not come up; with its log.
    """
    recipe = RECIPES[name]
    folder.chmod(0o755)
    for box in ("box", "box/tmp", "box/new", "box/cur"):
        (folder / box).mkdir()
        (folder / box).chmod(0o777)
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "authority.pem")
    certificate = authority.issue_cert(HOST)
    place = Place(
        folder=folder,
        port=free_port(),
        implicit_port=free_port(),
        chain=folder / "chain.pem",
        key=folder / "key.pem",
        node_modules=node_modules,
    )
    certificate.private_key_pem.write_to_path(place.key)
    for blob in certificate.cert_chain_pems:
        blob.write_to_path(place.chain, append=True)
    server = Server(
        recipe=recipe,
        folder=folder,
        port=place.port,
        implicit_port=place.implicit_port if recipe.secure else None,
        cafile=folder / "authority.pem",
    )
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for number, command in enumerate(recipe.commands(place)):
            with (folder / f"{number}.log").open("wb") as log:
                processes.append(_run(command, place, log.fileno()))
        _wait_for_greeting(server, processes)
        yield server
    finally:
        for process in processes:
            process.kill()
            process.wait()
