"""LMTP (RFC 2033): Postfix delivers to our server, and our client to Dovecot's server, with a reply for each recipient."""

from __future__ import annotations

import email
import os
import re
import socket
import subprocess
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import trio
from attrs import frozen
from ports import free_port

import smtp_trio
from benchmarks.servers import kill
from smtp_trio import Body, Rcpt, Reply, Session, open_listeners, open_unix_listener

from .conftest import require, require_server
from .programs import PATH
from .servers import start_lmtp_client
from .setups import ADDRESS, NOBODY, Workspace

pytestmark = pytest.mark.interop

MAIL = b"From: ada@example.org\r\nSubject: hello\r\n\r\nhello\r\n"
SENDER = "ada@example.org"
FULL = Reply(452, "Mailbox full", "4.2.2")
CLOSED = Reply(550, "Mailbox closed", "5.2.1")


@pytest.fixture
def directory() -> Iterator[Path]:
    """A directory that the users of the servers may enter, unlike those of pytest."""
    with TemporaryDirectory(prefix="smtp-trio-") as directory:
        Path(directory).chmod(0o755)
        yield Path(directory)


# --- Postfix's client and our server ---------------------------------------------------------------------------------


class Mailboxes(smtp_trio.Hooks):
    """Mailboxes: "full" has room at the third attempt, "closed" never, and "unknown" does not exist."""

    def __init__(self, *, early: bool = False) -> None:
        self.early = early  # whether each recipient gets its reply before the next one is handled
        self.attempts: Counter[str] = Counter()
        self.stored: dict[str, list[bytes]] = {}
        self.transactions: list[list[str]] = []
        self.protocols: set[str] = set()
        self.ready = trio.Event()  # both the mailbox that was full and the sender have got something

    async def rcpt(self, session: Session, rcpt: Rcpt) -> Reply | None:
        return Reply(550, "No such user here", "5.1.1") if rcpt.recipient.local == "unknown" else None

    async def data(self, session: Session, body: Body) -> list[Reply | None] | None:
        message = await body.read()
        names = [path.local for path in body.envelope.recipients]
        self.transactions.append(names)
        self.protocols.add(session.protocol_name)
        if self.early:
            for name in names:
                await body.reply(self._store(name, message))
            return None
        return [self._store(name, message) for name in names]

    def _store(self, name: str, message: bytes) -> Reply | None:
        self.attempts[name] += 1
        if name == "closed":
            return CLOSED
        if name == "full" and self.attempts[name] < 3:
            return FULL
        self.stored.setdefault(name, []).append(message)
        if {"full", "ada"} <= self.stored.keys():
            self.ready.set()
        return None


@asynccontextmanager
async def serving(hooks: Mailboxes, listeners: list[trio.SocketListener]) -> AsyncIterator[None]:
    server = smtp_trio.Server(hooks, name="lmtp.example.org", lmtp=True)
    async with trio.open_nursery() as nursery:
        await nursery.start(server.serve_listeners, listeners)
        yield
        await server.stop(1)


@pytest.mark.parametrize(("transport", "early"), [("inet", False), ("unix", False), ("unix", True)])
async def test_postfix_delivers_with_mixed_outcomes(directory: Path, transport: str, early: bool) -> None:
    """What was deferred comes again, alone; what was refused returns to the sender, also by LMTP."""
    require_server("postfix")
    hooks = Mailboxes(early=early)
    if transport == "inet":
        listeners = await open_listeners(0, ADDRESS)
        target = f"inet:{ADDRESS}:{listeners[0].socket.getsockname()[1]}"
    else:
        listeners = [await open_unix_listener(directory / "lmtp", mode=0o666)]
        target = f"unix:{directory / 'lmtp'}"
    names = ["good", "full", "closed", "unknown", "other"]
    async with serving(hooks, listeners):
        with start_lmtp_client(directory, target) as postfix:
            try:
                async with smtp_trio.connect(ADDRESS, postfix.port) as client:
                    result = await client.send(SENDER, [f"{name}@example.org" for name in names], MAIL)
                assert len(result.accepted) == len(names)
                with trio.fail_after(120):
                    await hooks.ready.wait()
            finally:
                print(postfix.log())
    assert sorted(hooks.transactions[0]) == ["closed", "full", "good", "other"]
    assert [each for each in hooks.transactions[1:] if each != ["ada"]] == [["full"]] * 2
    assert {name: len(messages) for name, messages in hooks.stored.items()} == {
        "good": 1,
        "other": 1,
        "full": 1,
        "ada": 1,
    }
    for name in ("good", "other", "full"):
        assert hooks.stored[name][0].endswith(b"\r\nhello\r\n")
    assert hooks.protocols == {"LMTP"}
    report = email.message_from_bytes(hooks.stored["ada"][0])
    status = report.get_payload(1).as_string()  # type: ignore[union-attr]
    assert sorted(re.findall(r"(?m)^Final-Recipient: rfc822; (\S+)$", status)) == [
        "closed@example.org",
        "unknown@example.org",
    ]
    assert "550 5.2.1 Mailbox closed" in status
    assert "550 5.1.1 No such user here" in status


# --- our client and Dovecot's server ---------------------------------------------------------------------------------


@frozen
class Dovecot:
    """Dovecot's LMTP server, with the users "ann" and "bob", and "cy", whose mail cannot be stored."""

    directory: Path
    port: int

    def stored(self, user: str) -> list[bytes]:
        """Return the messages of a user."""
        folder = self.directory / "home" / user / "box" / "new"
        return [file.read_bytes() for file in folder.iterdir()] if folder.exists() else []


@pytest.fixture
def dovecot(directory: Path) -> Iterator[Dovecot]:
    require("dovecot", "--version")
    if os.geteuid():
        pytest.skip("Dovecot must be started as root")
    home = directory / "home"
    home.mkdir()
    for user in ("ann", "bob"):
        (home / user).mkdir()
        os.chown(home / user, NOBODY, NOBODY)
    (home / "cy").touch()
    lines = [f"{user}:{{PLAIN}}x:{NOBODY}:{NOBODY}::{home / user}::" for user in ("ann", "bob", "cy")]
    (directory / "users").write_text("".join(f"{line}\n" for line in lines))
    workspace = Workspace(
        server="dovecot",
        profile="interop",
        directory=directory,
        port=free_port(),
        implicit_port=0,
        chain=directory,
        key=directory,
    )
    config = workspace.write("dovecot.conf", "dovecot.conf")
    process = subprocess.Popen(["dovecot", "-F", "-c", config], env={"PATH": PATH}, stdin=subprocess.DEVNULL)
    try:
        for _ in range(4800):
            try:
                socket.create_connection((ADDRESS, workspace.port), timeout=5).close()
                break
            except OSError:
                assert process.poll() is None, (directory / "dovecot.log").read_text()
                time.sleep(0.05)
        yield Dovecot(directory, workspace.port)
    finally:
        kill(process)
        if (directory / "dovecot.log").exists():
            print((directory / "dovecot.log").read_text())


@pytest.mark.parametrize("transport", ["inet", "unix"])
@pytest.mark.parametrize("chunking", [True, False])
async def test_dovecot_accepts_with_mixed_outcomes(dovecot: Dovecot, transport: str, chunking: bool) -> None:
    if transport == "inet":
        stream: trio.abc.Stream = await trio.open_tcp_stream(ADDRESS, dovecot.port)
    else:
        stream = await trio.open_unix_socket(str(dovecot.directory / "lmtp"))
    names = ["ann", "unknown", "cy", "bob", "ann"]
    async with smtp_trio.Client(stream, lmtp=True) as client:
        assert "CHUNKING" in client.offered
        if not chunking:
            del client.offered["CHUNKING"]  # type: ignore[attr-defined]  # so that it uses DATA
        for count in (1, 2):
            result = await client.send(SENDER, [f"{name}@example.org" for name in dict.fromkeys(names)], MAIL)
            assert [each.recipient.partition("@")[0] for each in result.accepted] == ["ann", "bob"]
            codes = {each.recipient.partition("@")[0]: str(each.reply)[:9] for each in result.rejected}
            assert codes == {"unknown": "550 5.1.1", "cy": "451 4.2.0"}
            for user in ("ann", "bob"):
                assert len(dovecot.stored(user)) == count
        # no recipient at all: the connection can be used afterwards
        with pytest.raises(smtp_trio.AllRecipientsRejectedError):
            await client.send(SENDER, ["unknown@example.org"], MAIL)
        assert (await client.send(SENDER, ["bob@example.org"], MAIL)).accepted
    assert b"with LMTP" in dovecot.stored("bob")[0]
