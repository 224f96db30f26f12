"""``smtp-trio relay`` and ``smtp-trio serve --relay`` in processes of their own."""

from __future__ import annotations

import re
import signal
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import trio
from processes import HOST, running, serving

from smtp_trio import Rcpt, Reply, Server, Session, standard
from smtp_trio._cli.main import main
from smtp_trio.protocol.extensions import Auth
from smtp_trio.stores import Maildir
from smtp_trio.testing import Inbox

MESSAGE = b"Subject: hi\r\n\r\nhello\r\n"
ME, YOU = "me@example.net", "you@example.org"


class Smarthost(Inbox):
    """A smarthost for one user, without a mailbox for "nemo"."""

    async def auth(self, session: Session, credentials: Any) -> Reply | None:
        return None if credentials.password == "secret" else Reply(535, "No", "5.7.8")

    async def rcpt(self, session: Session, rcpt: Rcpt) -> Reply | None:
        return Reply(550, "No such user here", "5.1.1") if rcpt.recipient.local == "nemo" else None


@asynccontextmanager
async def smarthost() -> AsyncGenerator[tuple[Inbox, str]]:
    inbox = Smarthost()
    server = Server(inbox, extensions=standard(Auth(cleartext=True)))
    async with trio.open_nursery() as nursery:
        [listener] = await nursery.start(server.serve, 0, HOST)
        yield inbox, f"{HOST}:{listener.socket.getsockname()[1]}"
        await server.stop()


async def test_relay_forwards_what_is_in_a_store(tmp_path: Path) -> None:
    store = Maildir(tmp_path / "mail")
    async with store:
        await store.add(MESSAGE, ME, [YOU])
        await store.add(MESSAGE, ME, ["nemo@example.org"])
    (tmp_path / "password").write_text("secret\n")
    async with smarthost() as (inbox, address):
        options = ("--user", "shop", "--password-file", "password", "--allow-cleartext", "--name", "relay.test")
        async with running(
            "-m", "smtp_trio", "relay", "--store", "maildir:mail", "--to", address, *options, cwd=tmp_path
        ) as program:
            await program.out.wait_for(rf"relaying from maildir:\S+ to {address}")
            mails = await inbox.wait_for(2)
            await program.out.wait_for_count(2, r" relayed: ")
            program.signal(signal.SIGTERM)
            assert await program.wait() == 0
    assert {(mail.sender, mail.recipients, mail.user) for mail in mails} == {(ME, (YOU,), "shop"), ("", (ME,), "shop")}
    assert f"undelivered: from=<{ME}> to=<nemo@example.org> attempt=1" in program.out.text
    assert "relay stopped; recipients relayed: 2, undelivered: 1; deferred: 0 times; reports: 1\n" in program.out.text
    assert program.err.text == ""


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_serve_forwards_what_it_stores(tmp_path: Path, workers: str) -> None:
    async with smarthost() as (inbox, address):
        async with serving("--relay", address, "--workers", workers, "--name", "relay.test", cwd=tmp_path) as program:
            await program.send(ME, [YOU], MESSAGE)
            [mail] = await inbox.wait_for(1)
            await program.out.wait_for(r" relayed: .*\n")
            program.signal(signal.SIGINT)
            assert await program.wait() == 0
        assert program.err.text == ""
    assert mail.raw.endswith(MESSAGE)
    assert mail.raw.startswith(b"Received: by relay.test id ")  # a Maildir does not keep the client
    assert not list((tmp_path / "Maildir" / "new").iterdir())


async def test_smarthost_that_is_down_delays_no_client(tmp_path: Path) -> None:
    async with serving("--relay", f"{HOST}:1", cwd=tmp_path) as program:
        for _ in range(3):
            await program.send(ME, [YOU], MESSAGE)
        await program.err.wait_for(rf"error: {HOST}:1 cannot be used: .*; messages wait\n")
        program.signal(signal.SIGINT)
        assert await program.wait() == 0
    assert len(list((tmp_path / "Maildir" / "new").iterdir())) == 3


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ("relay --store maildir:x", "--to HOST or --direct is required"),
        ("relay --to mx.test", "the following arguments are required: --store"),
        ("relay --store maildir:x --to a --direct", "--to cannot be combined with --direct"),
        ("relay --store maildir:x --to a --dane never", "--dane requires --direct"),
        ("relay --store maildir:x --to a --password-file f", "--password-file requires --user"),
        ("relay --store maildir:x --to a --user me", "--user requires a password"),
        ("relay --store maildir:x --to a --retry 5m:1m", "--retry: the first time must be"),
        ("relay --store maildir:x --to a --retry x", "argument --retry: must be a number of seconds"),
        ("relay --store maildir:x --to a --group a/b", "cannot relay: group must be 1 to 100 letters"),
        ("relay --store maildir:x --direct --trust-resolver", "--trust-resolver requires --resolver"),
        ("serve --relay a --relay-user me", "--relay-user requires a password"),
        ("serve --relay-tls never", "--relay-tls requires --relay or --relay-direct"),
        ("serve --relay a --relay-direct", "--relay cannot be combined with --relay-direct"),
        ("serve --relay a --host 192.0.2.1 --accept *", "--relay with --accept '*' would be an open relay"),
    ],
)
def test_wrong_options(
    arguments: str, error: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.stdin", StringIO())  # not a terminal
    assert main([*arguments.split(), *(["--port", "0"] if arguments.startswith("serve") else [])]) == 2
    assert error in capsys.readouterr().err


@pytest.mark.parametrize("store", ["sqlite:mial", "maildir:mial"])
def test_store_that_does_not_exist_is_not_created(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["relay", "--store", store, "--to", HOST]) == 2
    assert re.search(r"cannot read mail in \S+mial\S*: No such file or directory", capsys.readouterr().err)
    assert list(tmp_path.iterdir()) == []


def test_mail_in_memory_cannot_be_relayed_by_another_process(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["relay", "--store", "memory:", "--to", HOST]) == 2
    assert "mail in memory can be read only by the process that stores it" in capsys.readouterr().err


async def test_second_relay_of_a_maildir_ends_with_an_error(tmp_path: Path) -> None:
    async with Maildir(tmp_path / "mail"):
        pass
    options = ("-m", "smtp_trio", "relay", "--store", "maildir:mail", "--to", f"{HOST}:9")
    async with running(*options, cwd=tmp_path) as first:
        await first.out.wait_for("relaying from")
        while not (tmp_path / "mail" / "smtp-trio-queue" / ".group").exists():
            await trio.lowlevel.checkpoint()
        async with running(*options, cwd=tmp_path) as second:
            assert await second.wait() == 2
            assert second.err.text.startswith("smtp-trio: error: cannot relay: Maildir(")
            assert "another consumer uses it" in second.err.text
