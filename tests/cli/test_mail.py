"""``smtp-trio mail``, with Maildirs and SQLite databases."""

from __future__ import annotations

import io
import json
import mailbox
import sqlite3
import sys
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest
import trio

from smtp_trio import stores
from smtp_trio._cli.mail_output import Progress, size_text
from smtp_trio._cli.main import main
from smtp_trio.stores import Store

ME, YOU, HIDDEN = "me@example.net", "you@example.org", "hidden@example.org"
PLAIN = b"From: Me <me@example.net>\r\nTo: you@example.org\r\nSubject: plain\r\n\r\nFrom here\r\n>From there\r\nto\tend\x1b[2J"
EVIL = b"Subject: x\x1b]0;evil\x07\r\n\r\n<b>no</b>\r\n"
NOW = datetime.now(UTC).replace(microsecond=0)


def rich() -> bytes:
    """Return a message with HTML, an attachment and encoded fields."""
    message = EmailMessage()
    message["From"] = "J\u00fcrgen <j@example.net>"
    message["Subject"] = "\u00dcberweisung \u202e"
    message.set_content("plain \u00e4\n")
    message.add_alternative("<p>html</p>", subtype="html")
    message.set_boundary("inner")
    message.add_attachment(b"\x00" * 2000, maintype="application", subtype="pdf", filename="r\u00e9sum\u00e9.pdf")
    message.set_boundary("outer")
    return message.as_bytes().replace(b"\n", b"\r\n")


class Cli:
    """The command with a store."""

    def __init__(self, url: str, capsys: pytest.CaptureFixture[str]) -> None:
        self.url = url
        self._capsys = capsys
        self.ids: list[str] = []

    def __call__(self, command: str, *arguments: str, code: int = 0) -> tuple[str, str]:
        """Run a command, check its exit code, and return its output and errors."""
        self._capsys.readouterr()
        assert main(["mail", command, "--store", self.url, *arguments]) == code
        out, err = self._capsys.readouterr()
        return out, err

    def json(self, command: str, *arguments: str) -> list[Any]:
        """Run a command with ``--json``, and return its objects."""
        return [json.loads(line) for line in self(command, "--json", *arguments)[0].splitlines()]

    def run(self, work: Callable[[Store[Any]], Awaitable[Any]]) -> Any:
        """Call a function with the store."""

        async def with_store() -> Any:
            async with stores.open(self.url) as store:
                return await work(store)

        return trio.run(with_store)


@pytest.fixture(params=["maildir:{}", "sqlite:{}"])
def cli(request: pytest.FixtureRequest, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Cli:
    """The command with a store that has three messages."""
    cli = Cli(request.param.format(tmp_path / "store"), capsys)

    async def fill(store: Store[Any]) -> list[str]:
        return [
            await store.add(PLAIN, ME, [YOU, HIDDEN], received=NOW - timedelta(days=40), rcpt_params=["NOTIFY=NEVER", ""]),
            await store.add(rich(), "", [YOU], received=NOW - timedelta(days=2)),
            await store.add(EVIL, "j@example.net", [f"{n}@example.com" for n in range(5)]),
        ]  # fmt: skip

    cli.ids = cli.run(fill)
    return cli


# --- list, search, show


def test_list(cli: Cli) -> None:
    out, err = cli("list")
    assert err == ""
    lines = out.splitlines()
    assert [line.split("  ")[0] for line in lines] == cli.ids[::-1]
    assert "0@example.com, 1@example.com, 2@example.com and 2 more  x?]0;evil?" in lines[0]
    assert "  <> -> you@example.org  \u00dcberweisung" in lines[1]
    assert f"  {len(PLAIN)}  {ME} -> {YOU}, {HIDDEN}  plain" in lines[2]
    assert out.replace("\n", "").isprintable()
    assert cli("list", "--limit", "1", "--oldest-first")[0].startswith(cli.ids[0])


def test_list_as_json(cli: Cli) -> None:
    out, _ = cli("list", "--json", "--oldest-first", "--limit", "2")
    assert out.isascii()
    first, second = map(json.loads, out.splitlines())
    assert (first["id"], first["sender"], first["recipients"]) == (cli.ids[0], ME, [YOU, HIDDEN])
    assert (first["rcpt_params"], first["size"], first["subject"]) == (["NOTIFY=NEVER", ""], len(PLAIN), "plain")
    assert datetime.fromisoformat(first["received"]) == NOW - timedelta(days=40)
    assert "message" not in first
    assert second["sender"] == ""


def test_search(cli: Cli) -> None:
    assert [each["id"] for each in cli.json("search", "has:attachment", "from:J\u00fcrgen")] == [cli.ids[1]]
    assert [each["id"] for each in cli.json("search", "bcc:hidden !html")] == [cli.ids[0]]
    assert cli("search", "nothing") == ("", "")
    assert cli("search", "is:read", code=2)[1] == (
        "smtp-trio: error: the query is invalid: 'is:read': a store does not record what was read or tagged\n"
    )


def test_show(cli: Cli) -> None:
    out, _ = cli("show", cli.ids[0], "--envelope")
    assert out.startswith(f"Sender: <{ME}>\nRecipient: <{YOU}> NOTIFY=NEVER\nRecipient: <{HIDDEN}>\nId: {cli.ids[0]}\n")
    assert out.endswith("\n\nFrom: Me <me@example.net>\nTo: you@example.org\nSubject: plain\n\n"
        "From here\n>From there\nto      end?[2J\n")  # fmt: skip
    out, _ = cli("show", cli.ids[1])
    assert "From: J\u00fcrgen <j@example.net>\n" in out
    assert out.endswith("\n\nplain \u00e4\n[application/pdf r\u00e9sum\u00e9.pdf, 2.7k]\n")
    assert "html" not in out.partition("\n\n")[2]


def test_show_as_json(cli: Cli) -> None:
    (shown,) = cli.json("show", cli.ids[1])
    assert shown["text"] == "plain \u00e4\r\n"
    assert shown["attachments"] == [{"type": "application/pdf", "filename": "r\u00e9sum\u00e9.pdf", "inline": False}]
    assert ["From", "J\u00fcrgen <j@example.net>"] in shown["header"]


def test_show_html_without_plain_text(cli: Cli) -> None:
    html = b"Content-Type: text/html\r\n\r\n<p>a</p>\r\n<p>\r\n</p>\r\n\r\n<p>b &amp; c\x1b"
    (new,) = (cli.run(lambda store: store.add(html, ME, [YOU])),)
    assert cli("show", new)[0] == "Content-Type: text/html\n\na\n\nb & c?\n"


def test_show_raw(cli: Cli) -> None:
    assert cli("show", "--raw", cli.ids[0]) == (PLAIN.decode(), "")


# --- export


def test_export_mbox(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "box"
    assert cli("export", "--format", "mbox", str(path))[1] == f"smtp-trio: exported 3 messages to {path}\n"
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.read_bytes().startswith(
        f"From {ME} {NOW - timedelta(days=40):%a %b %e %H:%M:%S %Y}\nFrom: Me <me@example.net>\n".encode()
    )
    box = mailbox.mbox(path, create=False)
    messages = [box.get_bytes(key) for key in box.keys()]  # noqa: SIM118 -- iterating yields the messages
    senders = [message.get_from().partition(" ")[0] for message in box]
    box.close()
    unquoted = [message.replace(b"\n>From", b"\nFrom").replace(b"\n>>From", b"\n>From") for message in messages]
    assert unquoted[0] == PLAIN.replace(b"\r\n", b"\n") + b"\n"
    assert unquoted[1] == rich().replace(b"\r\n", b"\n")
    assert len(messages) == 3
    assert senders == [ME, "MAILER-DAEMON", "j@example.net"]


def test_export_overwrites_only_with_force(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "box"
    path.write_bytes(b"precious")
    assert "use --force" in cli("export", "--format", "mbox", str(path), code=2)[1]
    assert path.read_bytes() == b"precious"
    cli("export", "--format=mbox", "--force", "--add-envelope", str(path), "subject:plain")
    octets = path.read_bytes()
    assert (
        octets.count(
            b"\nReturn-Path: <me@example.net>\nEnvelope-To: <you@example.org>\nEnvelope-To: <hidden@example.org>\n"
        )
        == 1
    )
    assert octets.count(b"\nFrom ") == 0
    assert not list(tmp_path.glob(".smtp-trio*"))


def test_export_to_a_missing_directory(cli: Cli, tmp_path: Path) -> None:
    assert "No such file" in cli("export", "--format=mbox", str(tmp_path / "no" / "box"), code=2)[1]


def test_export_of_missing_messages_writes_no_mbox(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "box"
    assert "no message x" in cli("export", "--format=mbox", str(path), "--id=x", code=1)[1]
    assert not path.exists()
    cli("export", "--format=mbox", str(path), "--id=x", f"--id={cli.ids[0]}", code=1)
    assert path.exists()


def test_export_mbox_to_standard_output(cli: Cli) -> None:
    out, _ = cli("export", "--format=mbox", "-", f"--id={cli.ids[0]}")
    assert out.endswith("\n>From here\n>>From there\nto\tend\x1b[2J\n\n")


def test_export_eml(cli: Cli, tmp_path: Path) -> None:
    directory = tmp_path / "new" / "mail"
    cli("export", "--format=eml", str(directory))
    files = sorted(directory.iterdir(), key=lambda path: path.read_bytes() != PLAIN)
    assert files[0].read_bytes() == PLAIN
    assert len(files) == 3
    assert {path.suffix for path in files} == {".eml"}
    assert "exists; use --force" in cli("export", "--format=eml", str(directory), code=2)[1]
    cli("export", "--format=eml", "--force", str(directory))
    assert sorted(path.name for path in directory.iterdir()) == sorted(path.name for path in files)


def test_export_maildir(cli: Cli, tmp_path: Path) -> None:
    cli("export", "--format=maildir", str(tmp_path / "copy"))
    copy = Cli(f"maildir:{tmp_path / 'copy'}", cli._capsys)
    kept = ("sender", "recipients", "rcpt_params", "size", "subject", "date")
    assert [[each[name] for name in kept] for each in copy.json("list")] == [
        [each[name] for name in kept] for each in cli.json("list")
    ]
    (first,) = copy.json("list", "--oldest-first", "--limit=1")
    assert datetime.fromisoformat(first["received"]) == NOW - timedelta(days=40)
    assert "is the store itself" in copy("export", "--format=maildir", str(tmp_path / "copy"), code=2)[1]


@pytest.mark.parametrize("cli", ["sqlite:{}"], indirect=True)
def test_export_leaves_out_an_envelope_that_a_maildir_cannot_have(cli: Cli, tmp_path: Path) -> None:
    """Another program can store anything in a database."""
    with sqlite3.connect(cli.url.partition(":")[2]) as database:
        database.execute("UPDATE message_rows SET sender = ? WHERE uid = ?", ["a\nb", cli.ids[1]])
    database.close()
    error = cli("export", "--format=maildir", str(tmp_path / "copy"), code=1)[1]
    assert f"cannot export {cli.ids[1]}: addresses and parameters must not contain control characters" in error
    assert "exported 2 messages" in error


def test_export_by_id(cli: Cli, tmp_path: Path) -> None:
    out, err = cli("export", "--format=mbox", str(tmp_path / "box"), "--id", cli.ids[1], "--id", "no", code=1)
    assert (out, err.splitlines()[0]) == ("", f"smtp-trio: error: no message no in {cli.url}")
    assert "either QUERY or --id" in cli("export", "--format=mbox", "-", "word", "--id=1", code=2)[1]


# --- remove


def test_remove_by_id(cli: Cli) -> None:
    assert cli("remove", "--yes", cli.ids[0]) == ("removed 1 message\n", "")
    out, err = cli("remove", "--yes", *cli.ids[:2], code=1)
    assert (out, err) == ("removed 1 message\n", f"smtp-trio: error: 1 of 2 were not in {cli.url}\n")
    assert [each["id"] for each in cli.json("list")] == [cli.ids[2]]


def test_remove_older(cli: Cli) -> None:
    out, _ = cli("remove", "--older", "30d", "--dry-run")
    assert out.startswith(cli.ids[0])
    assert out.endswith("would remove 1 message\n")
    assert cli.json("remove", "--older", "30d", "--yes") == [{"removed": 1}]
    assert cli.json("remove", "--older=1d", "--query=subject:plain", "--yes") == [{"removed": 0}]
    assert len(cli.json("list")) == 2


def test_remove_by_query(cli: Cli) -> None:
    cli("remove", "--query", "from:j@example.net", "--yes")
    assert [each["id"] for each in cli.json("list")] == [cli.ids[0]]


@pytest.mark.parametrize("arguments", [[], ["--query="], ["--query=a", "1"], ["--older=1x"]])
def test_remove_needs_one_selection(cli: Cli, arguments: list[str]) -> None:
    cli("remove", "--yes", *arguments, code=2)
    assert len(cli.json("list")) == 3


def test_remove_needs_a_terminal_or_yes(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    assert "use --yes" in cli("remove", cli.ids[0], code=2)[1]
    monkeypatch.setattr("smtp_trio._cli.mail_remove.is_terminal", lambda: True)
    for answer, code in (("n\n", 1), ("", 1), ("Yes\n", 0)):
        monkeypatch.setattr(sys, "stdin", io.StringIO(answer))
        assert f"Remove 1 message from {cli.url}? [y/N] " in cli("remove", cli.ids[0], code=code)[1]
    assert len(cli.json("list")) == 2


def test_dry_run_of_missing_message(cli: Cli) -> None:
    assert "no message x" in cli("remove", "--dry-run", "x", code=1)[1]


# --- stats, dead, retry


def test_stats(cli: Cli) -> None:
    (numbers,) = cli.json("stats", "--group", "default")
    assert numbers["messages"] == 3
    assert numbers["octets"] == sum(each["size"] for each in cli.json("list"))
    assert datetime.fromisoformat(numbers["oldest"]) == NOW - timedelta(days=40)
    assert numbers["sender_domains"] == {"example.net": 2, "": 1}
    assert numbers["recipient_domains"] == {"example.org": 2, "example.com": 1}
    assert numbers["dead_letters"] == {"default": 0}
    out, _ = cli("stats", "--top", "1")
    assert out.startswith("3 messages, ")
    assert out.endswith("from         2  example.net\nto           2  example.org\n")


def test_dead_letters(cli: Cli) -> None:
    async def give_up(store: Store[Any]) -> None:
        async for delivery in store.consume():
            await delivery.fail("no\x07route")
            break

    cli.run(give_up)
    (letter,) = cli.json("dead")
    assert (letter["reason"], letter["attempts"], letter["id"] in cli.ids) == ("no\x07route", 1, True)
    assert cli.json("list", "--dead", "default") == [letter]
    assert cli("dead", "--limit=1")[0].endswith("  attempts: 1  reason: no?route\n")
    (numbers,) = cli.json("stats", "--group=default")
    assert numbers["dead_letters"] == {"default": 1}
    counted = not cli.url.startswith("maildir:")
    assert numbers["groups"] == ({"default": {"waiting": 2, "in_flight": 0, "dead": 1}} if counted else None)
    assert ("group default: waiting 2, in flight 0, dead 1\n" in cli("stats")[0]) == counted
    assert cli("retry", "none", code=1) == (
        "requeued 0 messages\n", "smtp-trio: error: 1 of 1 are not dead letters of group default\n"
    )  # fmt: skip
    assert cli.json("retry", "--all") == [{"requeued": 1}]
    assert cli("dead") == ("", "")
    assert "use --all" in cli("retry", code=2)[1]


# --- stores that cannot be read, and terminals


@pytest.mark.parametrize(
    "command",
    [["list"], ["search", "x"], ["show", "1"], ["remove", "--yes", "1"], ["stats"], ["dead"], ["retry", "--all"]],
)
def test_missing_store_is_an_error(command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for scheme in ("maildir", "sqlite"):
        path = tmp_path / "missing"
        _, err = Cli(f"{scheme}:{path}", capsys)(*command, code=2)
        assert err.startswith(f"smtp-trio: error: cannot read mail in {path}")
        assert err.endswith(": No such file or directory\n")
    assert list(tmp_path.iterdir()) == []


def test_store_that_cannot_be_read(capsys: pytest.CaptureFixture[str]) -> None:
    _, err = Cli("http://127.0.0.1:1/hook", capsys)("list", code=2)
    assert (
        err
        == "smtp-trio: error: --store http://127.0.0.1:1/hook: such a store passes messages on, and cannot be read\n"
    )


def test_missing_message(cli: Cli) -> None:
    for arguments in (["show", "x"], ["show", "../x", "--raw"]):
        assert "no message" in cli(*arguments, code=1)[1]


async def test_list_while_a_server_stores(cli: Cli) -> None:
    async with stores.open(cli.url) as store:
        await store.add(PLAIN, ME, [YOU])
        assert len(await trio.to_thread.run_sync(cli.json, "list")) == 4
        assert await trio.to_thread.run_sync(cli.json, "remove", "--yes", cli.ids[0]) == [{"removed": 1}]
        await store.add(PLAIN, ME, [YOU])
        async with aclosing(store.entries()) as entries:
            assert len([entry async for entry in entries]) == 4


def test_progress_at_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr("smtp_trio._cli.mail_output.PROGRESS_INTERVAL", 1000)
    with Progress("removed", 4) as progress:
        progress.add(count=2)
        progress.add()  # too soon
    assert terminal.getvalue() == "\rremoved 2 of 4, 50 %\x1b[K\r\x1b[K"
    assert [size_text(size) for size in (0, 999, 1000, 1536, 20 << 10, 5 << 30)] == [
        "0",
        "999",
        "1.0k",
        "1.5k",
        "20k",
        "5.0G",
    ]
