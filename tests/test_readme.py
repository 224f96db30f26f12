"""README.md tells the truth: its blocks of Python run, and its commands are those that exist."""

from __future__ import annotations

import re
import smtplib
import socket
from pathlib import Path
from typing import Any

import pytest
import trio
import trustme
from plugged import INI, installed
from processes import HOST, client_context, serving

from smtp_trio._cli.main import make_parser
from smtp_trio.stores import read

pytest_plugins = ["pytester"]

README = (Path(__file__).parent.parent / "README.md").read_text()
TOUR, EMBED, SEND, STORE, TEST = re.findall(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
PORT = "2525"


def free_port() -> int:
    with socket.create_server((HOST, 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def take_tour() -> dict[str, Any]:
    """Run it, on a port that is free; gives what it defines."""
    names: dict[str, Any] = {"__name__": "tour"}
    exec(TOUR.replace(PORT, str(free_port())), names)
    return names


@pytest.fixture
def names() -> dict[str, Any]:
    return take_tour()


def test_the_tour(capsys: pytest.CaptureFixture[str]) -> None:
    take_tour()

    assert capsys.readouterr().out == "22 octets\n"


def test_the_tests(pytester: pytest.Pytester, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", installed(tmp_path))
    pytester.makeini(INI + "trio_mode = true\n")
    pytester.makepyfile("import smtp_trio\nimport trio\n" + TEST)
    pytester.runpytest_subprocess().assert_outcomes(passed=2)


def test_to_embed_and_to_store(
    names: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    port = free_port()
    exec(EMBED.replace(PORT, str(port)), names)
    exec(STORE, names)
    ca = trustme.CA()
    ca.cert_pem.write_to_path("ca.pem")
    issued = ca.issue_cert(HOST)
    issued.private_key_pem.write_to_path("key.pem")
    issued.cert_chain_pems[0].write_to_path("cert.pem")

    def send() -> None:
        with smtplib.SMTP(HOST, port, timeout=30) as client:
            client.starttls(context=client_context(Path("ca.pem")))
            people = ["fred@EXAMPLE.org", "barney@example.org", "Postmaster"]
            refused = client.sendmail("me@example.net", people, b"Subject: hi\r\n\r\nhello\r\n")
            assert list(refused) == ["barney@example.org"]

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            server = await names["serve_mail"](nursery, "cert.pem", "key.pem")
            await trio.to_thread.run_sync(send)
            await server.stop()

    trio.run(main)
    (file,) = Path("Maildir/new").iterdir()
    capsys.readouterr()
    assert names["look"](file) == read(file).message == b"Subject: hi\r\n\r\nhello\r\n"
    assert capsys.readouterr().out == "me@example.net -> fred@EXAMPLE.org Postmaster\n"


async def test_to_send(names: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    exec(SEND, names)
    capsys.readouterr()
    async with serving("--accept", "example.org", cwd=tmp_path) as program:
        result = await names["write_to"](["you@example.org", "you@elsewhere.example"], HOST, program.port)
    assert [each.recipient for each in result.accepted] == ["you@example.org"]
    assert capsys.readouterr().out.startswith("you@elsewhere.example never 550 5.7.1 ")


async def test_to_look_into_a_database(names: dict[str, Any], tmp_path: Path) -> None:
    exec(STORE, names)
    async with serving("--store", "sqlite:mail.db", cwd=tmp_path) as program:
        await program.send("me@example.net", ["you@example.org"], b"Subject: hi\r\n\r\nhello\r\n")
        uid = (await program.out.wait_for(r'queued as (\S+)"'))[1]
    assert names["look"](tmp_path / "mail.db", uid) == b"Subject: hi\r\n\r\nhello\r\n"


def test_the_options_that_it_names_are_there(capsys: pytest.CaptureFixture[str]) -> None:
    told = README.partition("`smtp-trio serve` is the same command")[2].partition("\n\n")[0]
    options = re.findall(r"`(--[a-z-]+)", told)
    assert len(options) > 6

    with pytest.raises(SystemExit):
        make_parser().parse_args(["serve", "--help"])

    shown = capsys.readouterr().out
    assert [option for option in options if option not in shown] == []


def test_the_files_that_it_names_are_there() -> None:
    for target in re.findall(r"\]\((?!https:)([^)]+)\)", README):
        assert (Path(__file__).parent.parent / target).exists()


@pytest.mark.parametrize(
    "command", ["python -m pip install . && python -m smtp_trio serve", "python -m pip install nox && python -m nox"]
)
def test_its_two_commands(command: str) -> None:
    assert f"```console\n{command}\n```" in README
