"""Running mail servers: they are started on free loopback ports, and the messages they have stored can be read."""

from __future__ import annotations

import os
import smtplib
import ssl
import subprocess
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import trustme
from attrs import define, field
from ports import free_port

from benchmarks.servers import kill
from smtp_trio.stores import read

from .programs import HOST, PASSWORD, PATH, USER
from .setups import CURRENT_EXIM, CURRENT_POSTFIX, LMTP_SETUPS, SETUPS, Setup, Workspace

START_TIMEOUT = 240.0
"""Seconds until a server has to send its greeting."""
POLL = 0.02
"""Seconds between two checks of a condition."""


@define(kw_only=True)
class Server:
    """A running server."""

    setup: Setup
    directory: Path
    port: int
    implicit_port: int | None
    cafile: Path
    """The authority that has issued its certificate."""
    host: str = HOST
    """The name in the certificate."""
    processes: list[subprocess.Popen[bytes]] = field(factory=list)
    _seen: set[str] = field(factory=set)

    @property
    def name(self) -> str:
        return self.setup.name

    @property
    def tls(self) -> str:
        """The best TLS mode of the port without implicit TLS: "none" or "starttls"."""
        return "starttls" if self.setup.secure else "none"

    @property
    def credentials(self) -> tuple[str, str] | None:
        """User and password of an account. No server requires a login."""
        return (USER, PASSWORD) if self.setup.logins else None

    @property
    def features(self) -> frozenset[str]:
        """Those of `setups.KEYWORDS` that it lists in its reply to EHLO without TLS."""
        return self.setup.features

    def kill(self) -> None:
        """Kill its processes, and wait for their end.

        They may have namespaces of their own. With the first process of one, which is a child of the one here, all others in it
        have ended.
        """
        for process in self.processes:
            kill(process)

    def received(self, n: int, timeout: float = 240, recipients: int = 1) -> list[bytes]:
        """Wait up to `timeout` seconds for the next `n` messages, and return them in the order in which they came.

        Fields and octets that the server has added are removed, and LF that it has stored becomes CRLF. A message is
        returned once, also if the server stores a copy for each of its `recipients`.

        Raises AssertionError, with the server's log, when there are fewer messages or more.
        """
        copies = recipients if self.setup.copies else 1
        deadline = time.monotonic() + timeout
        while len(files := self._unseen()) < n * copies and time.monotonic() < deadline:
            time.sleep(POLL)
        assert len(files) == n * copies, f"{self.name}: expected {n * copies} messages, got {len(files)}\n{self.log()}"
        self._seen.update(file.name for file in files)
        contents = [self._content(file) for file in files]
        if copies == 1:
            return contents
        return [content for content, times in Counter(contents).items() for _ in range(times // copies)]

    def ignore_received(self) -> None:
        """Ignore all messages received so far."""
        self._seen.update(file.name for file in self._unseen())

    def log(self) -> str:
        """Return the last part of its logs."""
        return "\n".join(f"--- {file.name}\n{_end(file)}" for file in sorted(self.directory.glob("*log")))

    def _unseen(self) -> list[Path]:
        files = [file for file in (self.directory / "box" / "new").iterdir() if file.name not in self._seen]
        return sorted(files, key=lambda file: file.stat().st_mtime_ns)

    def _content(self, file: Path) -> bytes:
        if self.name == "smtp-trio":
            return read(file).message
        content = file.read_bytes()
        if self.setup.lf:
            content = content.replace(b"\n", b"\r\n")
        added = self.setup.trace.match(content)
        assert added, f"{self.name}: expected the fields {self.setup.trace.pattern!r}, got {content[:500]!r}"
        return content[added.end() :].removesuffix(self.setup.appends)


def _end(file: Path) -> str:
    return file.read_bytes()[-4000:].decode(errors="replace")


def _run(command: Sequence[str], workspace: Workspace, log: int) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PATH": PATH, "NODE_PATH": str(workspace.node_modules or "")}
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment)


def _wait_for_greeting(server: Server) -> None:
    deadline = time.monotonic() + START_TIMEOUT
    for port in filter(None, (server.port, server.implicit_port)):
        while not _greets(server, port):
            if time.monotonic() > deadline or any(process.poll() is not None for process in server.processes):
                raise RuntimeError(f"{server.name} did not start\n{server.log()}")
            time.sleep(POLL)


def _greets(server: Server, port: int) -> bool:
    try:
        if port == server.implicit_port:
            context = ssl.create_default_context(cafile=server.cafile)
            smtplib.SMTP_SSL(server.host, port, HOST, timeout=5, context=context).quit()
        else:
            smtplib.SMTP(server.host, port, HOST, timeout=5).quit()
    except (OSError, smtplib.SMTPException):
        return False
    return True


@contextmanager
def start(name: str, directory: Path, node_modules: Path | None = None, profile: str = "interop") -> Iterator[Server]:
    """Run a server until the end of the block, with its files in `directory`, which every user can enter.

    `profile` is one of `setups.SETTINGS`, or "default".

    Raises RuntimeError, with its log, when it does not start.
    """
    setup = {**SETUPS, **LMTP_SETUPS, CURRENT_POSTFIX.name: CURRENT_POSTFIX, CURRENT_EXIM.name: CURRENT_EXIM}[name]
    authority = trustme.CA()
    chain, key = write_files(directory, authority.issue_cert(HOST), authority)
    workspace = Workspace(
        server=setup.name,
        profile=profile,
        directory=directory,
        port=free_port(),
        implicit_port=free_port(),
        chain=chain,
        key=key,
        node_modules=node_modules,
    )
    with run(setup, workspace, implicit_port=workspace.implicit_port if setup.secure else None) as server:
        yield server


@contextmanager
def start_exchanger(
    directory: Path,
    authority: trustme.CA,
    certificates: Mapping[str, trustme.LeafCert],
    options: Mapping[str, str] | None = None,
) -> Iterator[Server]:
    """Run Postfix at port 25 of some addresses until the end of the block, as an exchanger for all domains below .test.

    Each address has a certificate, and may have further options of smtpd. The certificate of the authority is presented too.
    """
    address, *others = certificates
    chain, key = write_files(directory, certificates[address], authority)
    authority.cert_pem.write_to_path(chain, append=True)
    listeners = []
    for other in others:
        file = directory / f"{other}.pem"
        for blob in (certificates[other].private_key_and_cert_chain_pem, authority.cert_pem):
            blob.write_to_path(file, append=True)
        option = f"-o {options[other]}" if options and other in options else ""
        listeners.append(f"{other}:25 inet n - n - - smtpd -o smtpd_tls_chain_files={file} {option}")
    workspace = Workspace(
        server="postfix",
        profile="exchanger",
        directory=directory,
        port=25,
        implicit_port=465,
        chain=chain,
        key=key,
        address=address,
        listeners="\n".join(listeners),
    )
    with run(SETUPS["postfix"], workspace, host=address) as server:
        yield server


@contextmanager
def start_postfix(
    directory: Path, *, profile: str = "interop", listeners: str = "", own: Sequence[str] = ()
) -> Iterator[Server]:
    """Run Postfix until the end of the block, with further services and settings."""
    authority = trustme.CA()
    chain, key = write_files(directory, authority.issue_cert(HOST), authority)
    workspace = Workspace(
        server="postfix",
        profile=profile,
        directory=directory,
        port=free_port(),
        implicit_port=free_port(),
        chain=chain,
        key=key,
        listeners=listeners,
        own=own,
    )
    with run(SETUPS["postfix"], workspace) as server:
        yield server


def start_lmtp_client(directory: Path, target: str) -> AbstractContextManager[Server]:
    """Run Postfix until the end of the block, which passes all mail for example.org on by LMTP to ``target``.

    It sends again what was deferred every second, and the reports of what could not be delivered as all other mail.
    """
    return start_postfix(
        directory,
        listeners="lmtp unix - - n - - lmtp",
        own=(
            "virtual_alias_maps =",
            "virtual_mailbox_maps = static:all",
            f"virtual_transport = lmtp:{target}",
            "notify_classes =",
            *(f"{name} = 1s" for name in ("queue_run_delay", "minimal_backoff_time", "maximal_backoff_time")),
        ),
    )


def write_files(directory: Path, certificate: trustme.LeafCert, authority: trustme.CA) -> tuple[Path, Path]:
    """Write the files of a server: an empty Maildir, its authority, its chain of certificates, and its key.

    Returns the paths of the chain and of the key.
    """
    directory.chmod(0o755)
    for maildir in ("box", "box/tmp", "box/new", "box/cur"):
        (directory / maildir).mkdir()
        (directory / maildir).chmod(0o777)
    authority.cert_pem.write_to_path(directory / "authority.pem")
    chain, key = directory / "chain.pem", directory / "key.pem"
    certificate.private_key_pem.write_to_path(key)
    for blob in certificate.cert_chain_pems:
        blob.write_to_path(chain, append=True)
    return chain, key


@contextmanager
def run(setup: Setup, workspace: Workspace, *, host: str = HOST, implicit_port: int | None = None) -> Iterator[Server]:
    """Start the processes of a server; wait until it greets, and kill them at the end of the block."""
    directory = workspace.directory
    server = Server(
        setup=setup,
        directory=directory,
        port=workspace.port,
        implicit_port=implicit_port,
        cafile=directory / "authority.pem",
        host=host,
    )
    try:
        for number, command in enumerate(setup.commands(workspace)):
            with (directory / f"{number}.log").open("wb") as log:
                server.processes.append(_run(command, workspace, log.fileno()))
        _wait_for_greeting(server)
        yield server
    finally:
        server.kill()
