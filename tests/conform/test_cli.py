"""``smtp-trio conform`` in a process of its own, and its options."""

from __future__ import annotations

import argparse
import json
import re
import signal
from contextlib import suppress
from pathlib import Path

import pytest
import trio
from attrs import define, field
from processes import run, running, serving

from smtp_trio._cli.conform import add_conform, make_target, server_address
from smtp_trio._cli.main import main
from smtp_trio.conform import server_cases

from .test_server_runner import answer_250

CONFORM = ("-m", "smtp_trio", "conform")
#: The two cases that are tried where the server stops at the second one.
TWO_CASES = ("--only", "connection.greeting", "--only", "connection.quit", "--timeout", "3600")


@define
class StoppingServer:
    """Serves some sessions, and sends nothing in later ones until `go_on` is set."""

    sessions: int
    go_on: trio.Event = field(factory=trio.Event)
    stopped: trio.Event = field(factory=trio.Event)

    async def serve(self, stream: trio.abc.Stream) -> None:
        self.sessions -= 1
        if self.sessions < 0:
            self.stopped.set()
            await self.go_on.wait()
        with suppress(trio.BrokenResourceError):
            await answer_250(stream)
        await stream.aclose()


async def listen(nursery: trio.Nursery) -> tuple[StoppingServer, str]:
    """Start a server that stops after the survey (two sessions) and the first case, and return it with its address."""
    server = StoppingServer(3)
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    nursery.start_soon(trio.serve_listeners, server.serve, [listener])
    return server, f"127.0.0.1:{listener.socket.getsockname()[1]}"


@pytest.mark.exhaustive
async def test_our_strict_server_conforms(tmp_path: Path) -> None:
    async with serving("--strict", cwd=tmp_path) as server:
        address = f"127.0.0.1:{server.port}"
        code, out, err = await run(
            *CONFORM, address, "--only", "ehlo", "--only", "mail.null", "--skip", "*.again*", cwd=tmp_path
        )
        assert (code, err) == (0, "")
        assert "\n   ok  ehlo.keywords: " in out
        assert "\n   ok  mail.null: " in out
        assert "again" not in out
        assert "\033" not in out
        assert f"{address}: " in out.splitlines()[-1]

        options = ("--only", "connection", "--format", "json", "--jobs", "4")
        code, out, err = await run(*CONFORM, address, *options, cwd=tmp_path)
        assert (code, err) == (0, "")
        assert {result["outcome"] for result in json.loads(out)["results"]} == {"passed", "skipped"}

        for name in ("tap", "junit"):
            options = ("--only", "rcpt", "--format", name, "--output", "report")
            assert await run(*CONFORM, address, *options, cwd=tmp_path) == (0, "", "")
            assert "rcpt.hundred" in (tmp_path / "report").read_text()


async def test_failure_has_exit_code_1_and_shows_the_session(tmp_path: Path) -> None:
    async with serving("--accept", "elsewhere.example", cwd=tmp_path) as server:
        recipient = "user@elsewhere.example"  # accepted, and declared to be unknown
        options = ("--only", "rcpt.unknown-code", "--to", recipient, "--unknown", recipient)
        code, out, _ = await run(*CONFORM, f"127.0.0.1:{server.port}", *options, cwd=tmp_path)
        assert code == 1
        assert " FAIL  rcpt.unknown-code" in out
        assert "       C: RCPT TO:<user@elsewhere.example>\n" in out
        assert re.search(r"\nNot passed\n FAIL  rcpt\.unknown-code: .*\n\n127\.0\.0\.1:.* 1 failed ", out)

        quiet = (*options, "--only", "mail.null", "--quiet")
        code, out, _ = await run(*CONFORM, f"127.0.0.1:{server.port}", *quiet, cwd=tmp_path)
        assert code == 1
        assert out.count(" FAIL  rcpt.unknown-code") == 1
        assert "mail.null" not in out
        assert out.splitlines()[-1].startswith(f"127.0.0.1:{server.port}: 1 passed, 1 failed (")


@pytest.mark.exhaustive
@pytest.mark.parametrize(("code", "tried"), [("554", 1), ("521", 0)])
async def test_server_that_refuses_sessions(code: str, tried: int, tmp_path: Path) -> None:
    """The reason is in the report, also with --quiet. The exit code is 2 if nothing could be tested."""

    async def refuse(stream: trio.abc.Stream) -> None:
        with suppress(trio.BrokenResourceError):
            await answer_250(stream, greeting=f"{code} mx.test Go away\r\n".encode())
        await stream.aclose()

    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, refuse, [listener])
        address = f"127.0.0.1:{listener.socket.getsockname()[1]}"
        for only, count in (("ehlo", 0), ("connection.refused-quit", tried)):
            status, out, err = await run(*CONFORM, address, "--quiet", "--only", only, cwd=tmp_path)
            assert (status, err) == (0 if count else 2, "")
            assert f"{code} mx.test Go away" in out
            assert f": {count} passed, 0 failed, " in out
        nursery.cancel_scope.cancel()


async def test_lmtp_at_a_unix_socket(short_path: Path) -> None:
    """RFC 2033."""
    async with running("-m", "smtp_trio", "serve", "--lmtp", cwd=short_path) as server:
        await server.out.wait_for(r"storing\b.*\n")
        options = (
            "--only",
            "lmtp",
            "--only",
            "ehlo.*",
            "--skip",
            "ehlo.*-*",
            "--skip",
            "ehlo.underscore",
            "--format",
            "json",
        )
        code, out, err = await run(*CONFORM, "--lmtp", "unix:lmtp.sock", *options, cwd=short_path)
    assert (code, err) == (0, "")
    report = json.loads(out)
    assert report["server"] == "unix:lmtp.sock"
    outcomes = {result["id"]: result["outcome"] for result in report["results"]}
    assert outcomes["lmtp.two"] == outcomes["ehlo.again"] == "passed"
    assert outcomes["ehlo.helo"] == "skipped"


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("mx.test", ("mx.test", 24)),
        ("mx.test:25", ("mx.test", 25)),
        ("[::1]", ("::1", 24)),
        ("[::1]:2424", ("::1", 2424)),
        ("unix:/run/lmtp.sock", (Path("/run/lmtp.sock"), 24)),
    ],
)
def test_address_of_the_server(text: str, address: tuple[str | Path, int]) -> None:
    assert server_address(text, 24) == address


@pytest.mark.exhaustive
async def test_closed_output_ends_the_run(tmp_path: Path) -> None:
    """As with ``| head -1``: exit code 141, and no traceback."""
    async with trio.open_nursery() as nursery:
        server, address = await listen(nursery)
        async with running(*CONFORM, address, *TWO_CASES, cwd=tmp_path) as program:
            await program.out.wait_for("ok  connection.greeting")
            await program.out.stream.aclose()
            server.go_on.set()  # only now there is more to print
            assert await program.err.read_rest() == ""
            assert await program.process.wait() == 141
        nursery.cancel_scope.cancel()


@pytest.mark.exhaustive
async def test_ctrl_c(tmp_path: Path) -> None:
    """The results so far are printed, and the exit code is that of SIGINT."""
    async with trio.open_nursery() as nursery:
        server, address = await listen(nursery)
        async with running(*CONFORM, address, *TWO_CASES, cwd=tmp_path) as program:
            await program.out.wait_for("ok  connection.greeting")
            await server.stopped.wait()  # the program waits for a reply that is not sent
            program.signal(signal.SIGINT)
            assert await program.wait() == 130
            assert program.err.text == ""
        nursery.cancel_scope.cancel()


def test_no_server(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["conform", "127.0.0.1:1", "--timeout", "5"]) == 2
    assert capsys.readouterr().err == "smtp-trio: error: 127.0.0.1:1: cannot connect: Connection refused\n"


def test_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["conform", "--list", "--level", "recommended", "--danger"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == [
        requirement.id for requirement in server_cases()
    ]
    assert main(["conform", "--list", "--level", "must"]) == 0
    out = capsys.readouterr().out
    assert "danger." not in out
    assert " SHOULD " not in out


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ((), "HOST:PORT of the server is missing"),
        (("mx.test:0",), "invalid HOST:PORT: 'mx.test:0'"),
        (("mx.test:smtp",), "invalid HOST:PORT: 'mx.test:smtp'"),
        (("mx.test", "--only", "nothing.*"), "no case matches 'nothing.*'"),
        (
            ("mx.test", "--only", "proxy"),
            "no case is selected with --level should by --only and --skip; --level recommended",
        ),
        (
            ("mx.test", "--skip", "*", "--danger"),
            "no case is selected with --level should --danger by --only and --skip",
        ),
        (("mx.test", "--list", "--only", "danger.*"), "no case is selected with --level should by --only and --skip"),
        (("mx.test", "--to", "a>b"), "--to: invalid address: 'a>b'"),
        (("mx.test", "--from", "a\ud800@b"), "--from: invalid address: "),
        (("mx.test", "--name", "a b"), "--name: invalid host name: 'a b'"),
        (("mx.test", "--burl", "imap://a b"), "--burl: invalid URL: 'imap://a b'"),
        (("mx.test", "--cafile", "/nowhere"), "cannot read /nowhere: No such file or directory"),
        (("mx.test", "--cafile", __file__), f"no certificate in {__file__}"),
        (("a..b",), "a..b: cannot connect: invalid host name"),
        (
            ("mx.test", "--user", "a"),
            "--user requires a password, in --password-file FILE or in SMTP_TRIO_PASSWORD in the",
        ),
        (("mx.test", "--user", "a", "--password-file", "/nowhere"), "cannot read /nowhere: No such file or directory"),
        (("mx.test", "--password-file", __file__), "--password-file requires --user"),
        (("mx.test", "--user", "a", "--password-file", "x", "--password", "y"), "not allowed with argument"),
        (("mx.test", "--bogus"), "unrecognized arguments: --bogus (see `smtp-trio conform --help`)"),
        (("mx.test", "--output", "/nowhere/report"), "--output /nowhere/report: No such file"),
        (("mx.test", "--jobs", "0"), "must be a number from 1 to 100"),
    ],
)
def test_invalid_options(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], error: str
) -> None:
    monkeypatch.delenv("SMTP_TRIO_PASSWORD", raising=False)
    assert main(["conform", *options]) == 2
    printed = capsys.readouterr().err
    assert error in printed
    assert printed.count("\n") == 1


def test_password(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the file\nnot this\n")
    monkeypatch.setenv("SMTP_TRIO_PASSWORD", "in the environment")

    def password(*options: str) -> str:
        parser = argparse.ArgumentParser()
        add_conform(parser)
        return make_target(parser.parse_args(["mx.test", "--user", "ada", *options])).password

    assert password() == "in the environment"
    assert password("--password", "as an option") == "as an option"
    assert password("--password-file", str(tmp_path / "file")) == "in the file"


async def test_conform_is_imported_on_use(tmp_path: Path) -> None:
    program = "import sys, smtp_trio, smtp_trio._cli.main as cli; cli.make_parser(); "
    program += "print([name for name in sys.modules if 'conform' in name])"
    assert await run("-c", program, cwd=tmp_path) == (0, "[]\n", "")
