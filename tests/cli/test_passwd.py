"""``smtp-trio passwd`` and ``hash-password``: users and their hashes in the file of ``serve --auth-file``."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import trio
from processes import TIMEOUT, Output, run

from smtp_trio._cli.main import main
from smtp_trio.credentials import ScryptHash, UsersFile
from smtp_trio.credentials._format import parse


def hash_password(monkeypatch: pytest.MonkeyPatch, stdin: bytes, *arguments: str) -> int:
    """Run the command with this standard input, and return its exit code."""
    text = io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8", errors="surrogateescape", newline="")
    monkeypatch.setattr(sys, "stdin", text)
    return main(["hash-password", *arguments])


@pytest.mark.parametrize("user", ["fred", "fred@example.org", "fred jones", "j\u00fcrgen", "o'hara", "a#b"])
@pytest.mark.parametrize("line_end", [b"", b"\n", b"\r\n"])
def test_line_for_a_user(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], user: str, line_end: bytes
) -> None:
    assert hash_password(monkeypatch, "p\u00e4ss: word".encode() + line_end + b"more", user) == 0
    out, err = capsys.readouterr()
    assert (out.count("\n"), err) == (1, "")
    ((name, stored),) = parse(out).users.items()
    assert name == user
    assert stored.scrypt is not None
    assert stored.scrypt.matches(memoryview(("p\u00e4ss: word" if line_end else "p\u00e4ss: wordmore").encode()))


def test_hash_without_a_user(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert hash_password(monkeypatch, b"secret\n") == 0
    assert ScryptHash.decode(capsys.readouterr().out.rstrip("\n")).matches(memoryview(b"secret"))


@pytest.mark.parametrize("user", ["", "a:b", "#fred", "a\nb", "a\x7f", "\udcff", "e\u0301"])
def test_invalid_user(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], user: str) -> None:
    """The line could not be read back."""
    assert hash_password(monkeypatch, b"secret\n", user) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"smtp-trio: error: invalid user name: {user!r}; ")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("stdin", "error"),
    [
        (b"", "the password is empty"),
        (b"\n", "the password is empty"),
        (b"a\0b\n", "the password contains a control character"),
        (b"\xff\n", "the password is not text in UTF-8"),
    ],
)
@pytest.mark.parametrize("arguments", [[], ["fred"]])
@pytest.mark.slow
async def test_invalid_password(tmp_path: Path, stdin: bytes, error: str, arguments: Sequence[str]) -> None:
    result = await run("-m", "smtp_trio", "hash-password", *arguments, cwd=tmp_path, stdin=stdin)
    assert result == (2, "", f"smtp-trio: error: {error}\n")


@pytest.mark.parametrize(("again", "code"), [("secret", 0), ("secreT", 2)])
@pytest.mark.slow
async def test_password_from_the_terminal(again: str, code: int) -> None:
    """The line goes to standard output, the prompts to the terminal."""
    controller, terminal_fd = os.openpty()
    with open(terminal_fd, "r+b", buffering=0) as terminal:
        async with trio.open_nursery() as nursery:
            # getpass would open the controlling terminal
            command = ["setsid", "--wait", sys.executable, "-m", "smtp_trio", "hash-password", "fred"]

            async def enter_passwords() -> None:
                with trio.fail_after(TIMEOUT):
                    screen = Output(trio.lowlevel.FdStream(os.dup(controller)))
                    for prompt, password in (("Password: ", "secret"), ("Again: ", again)):
                        await screen.wait_for(prompt)
                        await screen.stream.send_all(password.encode() + b"\n")  # type: ignore[attr-defined]

            nursery.start_soon(enter_passwords)
            done = await trio.run_process(command, stdin=terminal, stderr=terminal, capture_stdout=True, check=False)
    os.close(controller)
    assert done.returncode == code
    assert done.stdout.count(b"\n") == 1 - code // 2
    if code == 0:
        ((user, stored),) = parse(done.stdout.decode()).users.items()
        assert stored.scrypt is not None
        assert (user, stored.scrypt.matches(memoryview(b"secret"))) == ("fred", True)


# --- smtp-trio passwd -------------------------------------------------------------------------------------------------


def passwd(monkeypatch: pytest.MonkeyPatch, stdin: bytes, *arguments: object) -> int:
    text = io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8", errors="surrogateescape", newline="")
    monkeypatch.setattr(sys, "stdin", text)
    return main(["passwd", *map(str, arguments)])


def test_users_are_added_changed_and_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "users"
    assert passwd(monkeypatch, b"secret\n", path, "fred") == 0
    assert path.stat().st_mode & 0o777 == 0o600
    assert passwd(monkeypatch, b"hush!\n", path, "wilma", "--scram") == 0
    users = UsersFile(path)
    users.load()
    assert [users.verify("fred", "secret"), users.verify("wilma", "hush!"), users.verify("fred", "hush!")] == [
        True,
        True,
        False,
    ]
    assert users.mechanisms == ("PLAIN", "LOGIN")
    assert passwd(monkeypatch, b"better\n", path, "fred", "--scram") == 0
    users.load()
    assert [users.verify("fred", "secret"), users.verify("fred", "better")] == [False, True]
    assert "SCRAM-SHA-1-PLUS" in users.mechanisms
    assert passwd(monkeypatch, b"", path, "fred", "--delete") == 0
    users.load()
    assert [users.verify("fred", "better"), users.verify("wilma", "hush!")] == [False, True]
    assert capsys.readouterr() == ("", "")
    assert [each.name for each in tmp_path.iterdir()] == ["users"]
    for secret in ("secret", "hush!", "better"):  # "hush" alone may be in a salt or a key: they are random base64
        assert secret not in path.read_text()


def test_user_without_scram_beside_others_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The next start of the server would end SCRAM for all users, so there is a note."""
    path = tmp_path / "users"
    for user in ("wilma", "betty"):
        assert passwd(monkeypatch, b"secret\n", path, user, "--scram") == 0
    assert capsys.readouterr() == ("", "")
    assert passwd(monkeypatch, b"secret\n", path, "fred") == 0
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith("smtp-trio: note: fred has no secrets of SCRAM")
    assert passwd(monkeypatch, b"", path, "fred", "--delete") == 0
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("arguments", "stdin", "error"),
    [
        (["users", "wilma", "--delete"], b"", "no user wilma in users"), (["users", "fred", "--delete"], b"", "no accounts in file"),
        (["nowhere", "fred", "--delete"], b"", "cannot change nowhere: "), (["no/where", "fred"], b"x\n", "cannot change no/where: "),
        (["users", "a:b"], b"x\n", "invalid user name"), (["users", "fred"], b"\n", "the password is empty"),
        (["users", "fred", "--scram"], "\U0001f680\n".encode(), "SASLprep"),
        (["invalid", "fred"], b"x\n", "cannot change invalid: line 1"),
    ],
)  # fmt: skip
def test_errors_change_nothing(
    tmp_path: Path,
    arguments: list[str],
    stdin: bytes,
    error: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("users").write_text("fred:secret\n")
    Path("invalid").write_text("fred\n")
    assert passwd(monkeypatch, stdin, *arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert error in err
    assert {path.name: path.read_text() for path in Path().iterdir()} == {"users": "fred:secret\n", "invalid": "fred\n"}
