"""README.md: its programs run, and the commands, options and files that it names exist."""

from __future__ import annotations

import re
import smtplib
import sys
from pathlib import Path

import blocks
import pytest
import trio
from installed_plugin import INI, installed
from processes import HOST, serving

from smtp_trio import Server, stores
from smtp_trio._cli.main import make_parser
from smtp_trio.stores import read

pytest_plugins = ["pytester"]

TEXT = blocks.README.read_text(encoding="utf-8")
TOUR, STORE, CONSUME, SEND, TEST = (block for block in blocks.blocks(blocks.README) if block.language == "python")


def test_tour(capsys: pytest.CaptureFixture[str]) -> None:
    TOUR.run()

    assert capsys.readouterr().out == "22 octets\n"


def test_store_mail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    mailbox = STORE.run()["Mailbox"](tmp_path / "Maildir")

    def send(port: int) -> None:
        with smtplib.SMTP(HOST, port, timeout=100) as client:
            refused = client.sendmail(
                "me@example.net",
                ["fred@EXAMPLE.org", "barney@example.org", "Postmaster"],
                b"Subject: hi\r\n\r\nhello\r\n",
            )
            assert list(refused) == ["barney@example.org"]

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            server = Server(mailbox)
            [listener] = await nursery.start(server.serve, 0, HOST)
            await trio.to_thread.run_sync(send, listener.socket.getsockname()[1])
            await server.stop()

    trio.run(main)
    [file] = (tmp_path / "Maildir" / "new").iterdir()
    stored = read(file)
    assert stored.message == b"Subject: hi\r\n\r\nhello\r\n"
    assert [str(recipient) for recipient in stored.recipients] == ["fred@EXAMPLE.org", "Postmaster"]


async def test_consume_a_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    async with stores.open("sqlite:mail.db") as store:
        await store.add(b"Subject: hi\r\n\r\nhello\r\n", "me@example.net", ["you@example.org"])
    program = CONSUME.run()
    printed, handled = list[object](), trio.Event()

    def record(*values: object) -> None:
        printed.extend(values)
        handled.set()

    program["print"] = record
    async with trio.open_nursery() as nursery:
        nursery.start_soon(program["main"])
        await handled.wait()
        nursery.cancel_scope.cancel()
    assert printed == ["me@example.net", ("you@example.org",), 22]


async def test_send_mail(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    send = SEND.run()["send"]
    async with serving("--accept", "example.org", cwd=tmp_path) as program:
        result = await send(HOST, program.port, ["you@example.org", "you@elsewhere.example"])
    assert [outcome.recipient for outcome in result.accepted] == ["you@example.org"]
    assert capsys.readouterr().out.startswith("you@elsewhere.example is rejected permanently: 550 5.7.1 ")


async def test_send_from_the_shell(tmp_path: Path) -> None:
    [block] = [block for block in blocks.blocks(blocks.README) if "smtp-trio send" in block.source]
    script = re.sub(r"^\$ ", "", block.source, flags=re.MULTILINE)
    script = script.replace("smtp-trio send", f"{sys.executable} -m smtp_trio send")
    async with serving(cwd=tmp_path) as program:
        script = script.replace(blocks.PORT, str(program.port))
        done = await trio.run_process(["sh", "-e"], stdin=script.encode(), capture_stdout=True, cwd=tmp_path)
    assert done.stdout.startswith(b"accepted  <fred@example.org>  250 2.0.0 ")


def test_test_mail(pytester: pytest.Pytester, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", installed(tmp_path))
    pytester.makeini(INI)
    pytester.makepyfile(TEST.source)
    pytester.runpytest_subprocess().assert_outcomes(passed=2)


def test_options_exist(capsys: pytest.CaptureFixture[str]) -> None:
    named = TEXT.partition("can also be written `smtp-trio serve`")[2].partition("\n\n")[0]
    options = re.findall(r"`(--[a-z-]+)", named)
    assert len(options) > 6

    with pytest.raises(SystemExit):
        make_parser(["serve"]).parse_args(["serve", "--help"])

    shown = capsys.readouterr().out
    assert [option for option in options if option not in shown] == []


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"])
def test_linked_files_exist(name: str) -> None:
    text = (blocks.ROOT / name).read_text(encoding="utf-8")
    assert [link for link in re.findall(r"\]\((?!https:)([^)]+)\)", text) if not (blocks.ROOT / link).exists()] == []


@pytest.mark.parametrize(
    "command", ["python -m pip install . && python -m smtp_trio serve", "python -m pip install nox && python -m nox"]
)
def test_two_commands(command: str) -> None:
    assert f"```console\n{command}\n```" in TEXT
