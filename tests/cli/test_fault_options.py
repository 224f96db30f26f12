"""The options about fault rules, of ``smtp-trio serve`` and ``smtp-trio inbox``."""

from __future__ import annotations

import signal
import smtplib
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
from processes import run, serving

from smtp_trio._cli.main import main

RULES = """\
# The first recipient is refused.

answer RCPT 450 once
  greylist 1h for carol@example.org
"""


def codes(*recipients: str) -> Callable[[smtplib.SMTP], list[int]]:
    """Return a function that returns the codes of the replies to these recipients."""

    def dialogue(client: smtplib.SMTP) -> list[int]:
        client.ehlo()
        client.mail("me@example.net")
        return [client.rcpt(recipient)[0] for recipient in recipients]

    return dialogue


BOB, CAROL = "bob@example.org", "carol@example.org"


async def test_rules_and_a_file_that_is_read_again(tmp_path: Path) -> None:
    file = tmp_path / "rules"
    file.write_text(RULES)
    options = "--fault", "answer RCPT 550 once for carol@example.org", "--fault-file", "rules"
    async with serving(*options, cwd=tmp_path) as program:
        await program.err.wait_for("warning: --fault: this server fails on purpose; for tests only")
        assert await program.client(codes(BOB, BOB, CAROL, CAROL, CAROL)) == [450, 250, 550, 450, 450]
        assert await program.out.wait_for_count(4, r"fault (\d acts: rule=\".*\" times=\d)") == [
            '2 acts: rule="answer RCPT 450 once" times=1',
            '1 acts: rule="answer RCPT 550 once for carol@example.org" times=1',
            '3 acts: rule="greylist 1h for carol@example.org" times=1',
            '3 acts: rule="greylist 1h for carol@example.org" times=2',
        ]
        file.write_text("answer RCPT 452 once\nanswer RCTP 450\n")
        program.signal(signal.SIGHUP)
        await program.err.wait_for(
            r"SIGHUP: .*rules, line 2: 'RCTP' is not a place: did you mean 'RCPT'.* stays in use"
        )
        assert await program.client(codes(BOB, CAROL)) == [250, 450]
        file.write_text("answer RCPT 452 once\n")
        program.signal(signal.SIGHUP)
        await program.out.wait_for_count(2, "the recipients and the fault rules, if configured")
        while await program.client(codes(CAROL)) != [452]:
            await trio.lowlevel.checkpoint()
        assert await program.client(codes(BOB, CAROL)) == [250, 250]


@pytest.mark.slow
async def test_each_worker_has_its_own_rules(tmp_path: Path) -> None:
    async with serving("--workers", "2", "--fault", "answer RCPT 450 once", cwd=tmp_path) as program:
        found: list[int] = []
        while found.count(450) < 2 and len(found) < 200:
            found += await program.client(codes(BOB))
    assert found.count(450) == 2


@pytest.mark.parametrize("command", ["serve", "inbox"])
@pytest.mark.parametrize(
    ("options", "error"),
    [
        (["--fault", "ansewr RCPT 450"], "--fault: 'ansewr' is not a kind of rule: did you mean 'answer'?"),
        (["--fault", "hang by client"], "--fault: hang: a rule by a client cannot act in a server"),
        (["--fault-file", "missing"], "cannot read missing: No such file or directory"),
        (["--fault-file", "invalid"], "invalid, line 3: the TIME of 'delay' must be a time"),
        (["--fault-file", "binary"], "cannot read binary: not text in UTF-8"),
        (["--fault-file", "large"], "cannot use large: it has more than 1048576 characters"),
        (["--fault-seed", "-1"], "argument --fault-seed: must be a number from 0"),
    ],
)
def test_invalid_option_is_an_error(
    command: str,
    options: list[str],
    error: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("invalid").write_text("# comment\nhang\ndelay DATA soon\n")
    Path("binary").write_bytes(b"\xff")
    Path("large").write_bytes(b"#" * (1 << 20 | 1))
    assert main([command, "--port", "0", *options]) == 2
    assert error in capsys.readouterr().err


async def test_without_rules_the_engine_is_not_loaded(tmp_path: Path) -> None:
    program = """
import sys
from smtp_trio._cli.fault_options import prepare_faults
from smtp_trio._cli.main import make_parser
assert prepare_faults(make_parser(["serve"]).parse_args(["serve"])) == (None, [])
assert not [name for name in sys.modules if name.startswith("smtp_trio.testing")]
"""
    assert await run("-c", program, cwd=tmp_path) == (0, "", "")
