"""``smtp-trio conform`` as a user has it: against a server in a process of its own, and with options that are wrong."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
from processes import run, running, serving

from smtp_trio._cli.main import main
from smtp_trio.conform._server_cases import server_rules

CONFORM = ("-m", "smtp_trio", "conform")


@pytest.mark.slow
async def test_a_server_in_its_own_process(tmp_path: Path) -> None:
    async with serving(cwd=tmp_path) as server:
        where = f"127.0.0.1:{server.port}"
        code, out, err = await run(
            *CONFORM, where, "--only", "ehlo", "--only", "mail.null", "--skip", "*.again*", cwd=tmp_path
        )
        assert (code, err) == (0, "")
        assert "\n   ok  ehlo.keywords: " in out
        assert "\n   ok  mail.null: " in out
        assert "again" not in out
        assert "\033" not in out
        assert f"{where}: " in out.splitlines()[-1]

        code, out, err = await run(
            *CONFORM, where, "--only", "connection", "--format", "json", "--jobs", "4", cwd=tmp_path
        )
        assert (code, err) == (0, "")
        told = json.loads(out)
        assert {result["outcome"] for result in told["results"]} == {"passed"}

        for name in ("tap", "junit"):
            options = ("--only", "rcpt", "--format", name, "--output", "report")
            assert await run(*CONFORM, where, *options, cwd=tmp_path) == (0, "", "")
            assert "rcpt.hundred" in (tmp_path / "report").read_text()


async def test_a_server_that_fails(tmp_path: Path) -> None:
    """HELP that is not there at all is what this one is failed for."""
    async with serving("--accept", "elsewhere.example", cwd=tmp_path) as server:
        where = f"127.0.0.1:{server.port}"
        options = (
            "--only",
            "rcpt.unknown-code",
            "--to",
            "user@elsewhere.example",
            "--unknown",
            "user@elsewhere.example",
        )
        code, out, _ = await run(*CONFORM, where, *options, cwd=tmp_path)
        assert code == 1
        assert " FAIL  rcpt.unknown-code" in out
        assert "       C: RCPT TO:<user@elsewhere.example>\n" in out


@pytest.mark.slow
async def test_nobody_reads_to_the_end(tmp_path: Path) -> None:
    """``| head -1``: no traceback, and it ends long before the cases do."""
    async with serving(cwd=tmp_path) as server:
        async with running(*CONFORM, f"127.0.0.1:{server.port}", cwd=tmp_path) as program:
            await program.out.wait_for("ok  ")
            await program.out.stream.aclose()
            assert await program.err.read_rest() == ""
            assert await program.process.wait() == 141


@pytest.mark.slow
async def test_ctrl_c(tmp_path: Path) -> None:
    """What is known is there, and the exit code is that of SIGINT."""
    async with serving(cwd=tmp_path) as server:
        async with running(*CONFORM, f"127.0.0.1:{server.port}", cwd=tmp_path) as program:
            await program.out.wait_for("ok  ")
            program.signal(signal.SIGINT)
            assert await program.wait() == 130
            assert program.err.text == ""


def test_nobody_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["conform", "127.0.0.1:1", "--timeout", "5"]) == 2
    assert "smtp-trio: error: 127.0.0.1:1: cannot connect: " in capsys.readouterr().err


def test_the_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["conform", "--list", "--level", "recommended", "--danger"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == [rule.id for rule in server_rules()]
    assert main(["conform", "--list", "--level", "must"]) == 0
    out = capsys.readouterr().out
    assert "danger." not in out
    assert " SHOULD " not in out


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ((), "which server?"),
        (("mx.test:0",), "'mx.test:0' is no HOST:PORT"),
        (("mx.test:smtp",), "'mx.test:smtp' is no HOST:PORT"),
        (("mx.test", "--only", "nothing.*"), "no case is like 'nothing.*'"),
        (("mx.test", "--to", "a>b"), "--to: 'a>b' is no address"),
        (("mx.test", "--user", "ada"), "--user needs a password"),
        (("mx.test", "--tls-ca", "/nowhere"), "--tls-ca /nowhere: "),
        (("mx.test", "--output", "/nowhere/report"), "--output /nowhere/report: No such file"),
        (("mx.test", "--jobs", "0"), "must be a number from 1 to 100"),
    ],
)
def test_options_that_are_wrong(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], fault: str
) -> None:
    monkeypatch.delenv("SMTP_TRIO_PASSWORD", raising=False)
    assert main(["conform", *options]) == 2
    assert fault in capsys.readouterr().err


async def test_who_does_not_need_it_does_not_import_it(tmp_path: Path) -> None:
    program = "import sys, smtp_trio, smtp_trio._cli.main as cli; cli.parser(); print([m for m in sys.modules if 'conform' in m])"
    assert await run("-c", program, cwd=tmp_path) == (0, "[]\n", "")
