"""The file of ``--auth-file``: its lines, its hashes, and who may log in."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
import trio.testing

from smtp_trio import Credentials, Server
from smtp_trio._cli.auth_file import Accounts, Hash, parse
from smtp_trio._server.session import Session
from smtp_trio._types import Peer
from smtp_trio.protocol.extensions.auth import INVALID_CREDENTIALS

# RFC 7914 12, the third test vector.
VECTOR = (
    "$scrypt$ln=14,r=8,p=1$U29kaXVtQ2hsb3JpZGU"
    "$cCO9yzr9c0hGHAbNgf046/2o+7qQT44+qbVD9lRdofLVQylVYT8Pz2LUlwUkKpr55h6F3A1lHkDfzwF7RVdYhw"
)
CHEAP = Hash(b"saltsalt", bytes(32), ln=1, p=1)


def cheap(password: str) -> str:
    return str(Hash(b"saltsalt", CHEAP.work(password), ln=1, p=1))


def test_a_hash_is_scrypt_as_others_know_it() -> None:
    known = Hash.decode(VECTOR)

    assert str(known) == VECTOR
    assert known.matches("pleaseletmein")
    assert not known.matches("pleaseletmeim")


def test_a_new_hash_is_read_back_and_never_the_same_twice() -> None:
    one, other = Hash.of("pass:wörd"), Hash.of("pass:wörd")

    assert one != other
    assert Hash.decode(str(one)) == one
    assert one.matches("pass:wörd")
    assert not one.matches("pass:word")
    assert "salt" not in repr(one)


def test_lines() -> None:
    entries = parse(f"# people\r\nfred:a:b \r\n\n  \nwilma:{VECTOR}\nbarney@example.org:#x\n")

    assert entries == {"fred": "a:b ", "wilma": Hash.decode(VECTOR), "barney@example.org": "#x"}


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", "there is nobody in it"),
        ("# nobody\n", "there is nobody in it"),
        ("fred:x\nwilma\n", "line 2: want user:password or user:hash"),
        ("fred:\n", "line 1: want user:password or user:hash"),
        (":secret\n", "line 1: want user:password or user:hash"),
        ("\nfred:x\nfred:y\n", "line 3: 'fred' is there twice"),
        ("fred:se\x00cret\n", "line 1: a control character"),
        ("fred:$2y$05$bvIG6Nmid91Mu9RcmmWZfO\n", "line 1: a hash of a kind that is not known here"),
        ("fred:{SSHA}c2VjcmV0\n", "line 1: a hash of a kind that is not known here"),
        ("fred:$scrypt$ln=14,r=8,p=1$x$y\n", "line 1: not a hash as"),
        (f"fred:{VECTOR.replace('ln=14', 'ln=40')}\n", "line 1: scrypt cannot work with ln=40"),
        (f"fred:{VECTOR.replace('r=8', 'r=0')}\n", "line 1: scrypt cannot work with ln=14, r=0"),
        (f"fred:{VECTOR.replace('p=1', 'p=99')}\n", "line 1: scrypt cannot work with ln=14, r=8, p=99"),
        (f"fred:{VECTOR.replace('U29kaXVtQ2hsb3JpZGU', 'U29kaXVtQ2hsb')}\n", "line 1: Invalid base64"),
    ],
)
def test_a_line_that_says_nothing_is_named(text: str, error: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        parse(text)

    assert str(caught.value).startswith(error)
    assert "secret" not in str(caught.value)


@pytest.fixture
def session() -> Session:
    nowhere = Peer("", None, "memory")
    return Session(Server(), trio.testing.memory_stream_pair()[0], nowhere, nowhere)


async def lets_in(accounts: Accounts, session: Session, user: str, password: str, authzid: str = "") -> bool:
    answer = await accounts.auth(session, Credentials("PLAIN", user, password, authzid))
    assert answer in (None, INVALID_CREDENTIALS)
    return answer is None


@pytest.mark.parametrize("hashed", [True, False])
async def test_who_is_let_in(tmp_path: Path, session: Session, hashed: bool) -> None:
    path = tmp_path / "people"
    path.write_text(f"fred:secret\nwilma:{cheap('hush') if hashed else 'hush'}\n")
    accounts = Accounts(str(path))

    assert not await lets_in(accounts, session, "fred", "secret")  # nobody, until the file was read
    accounts.read()

    assert await lets_in(accounts, session, "fred", "secret")
    assert await lets_in(accounts, session, "wilma", "hush")
    assert await lets_in(accounts, session, "wilma", "hush", authzid="wilma")
    assert not await lets_in(accounts, session, "wilma", "hush", authzid="fred")
    assert not await lets_in(accounts, session, "fred", "hush")
    assert not await lets_in(accounts, session, "wilma", "secret")
    assert not await lets_in(accounts, session, "Fred", "secret")
    # Nobody has an empty password, and nobody the password of the hash that strangers are compared with.
    for password in ("", "hush", "secret"):
        assert not await lets_in(accounts, session, "pebbles", password)
    if hashed:
        assert not await lets_in(accounts, session, "wilma", cheap("hush"))


async def test_a_stranger_costs_as_much_as_a_friend(
    tmp_path: Path, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "people"
    path.write_text(f"fred:secret\nwilma:{cheap('hush')}\n")
    accounts = Accounts(str(path))
    accounts.read()
    worked: list[str] = []

    def count(self: Hash, password: str) -> bool:
        worked.append(password)
        return False

    monkeypatch.setattr(Hash, "matches", count)
    for user in ("fred", "wilma", "pebbles"):
        await lets_in(accounts, session, user, user)

    assert worked == ["fred", "wilma", "pebbles"]


async def test_a_file_that_cannot_be_read_again_changes_nothing(tmp_path: Path, session: Session) -> None:
    path = tmp_path / "people"
    path.write_text("fred:secret\n")
    accounts = Accounts(str(path))
    accounts.read()

    path.write_text("fred\n")
    with pytest.raises(ValueError, match="line 1"):
        accounts.read()
    assert await lets_in(accounts, session, "fred", "secret")

    path.write_text("wilma:hush\n")
    accounts.read()
    assert not await lets_in(accounts, session, "fred", "secret")
    assert await lets_in(accounts, session, "wilma", "hush")


async def test_a_login_that_failed_is_told_without_the_password(
    tmp_path: Path, session: Session, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "people"
    path.write_text("fred:secret\n")
    accounts = Accounts(str(path))
    accounts.read()

    await lets_in(accounts, session, "fred", "hunter2")

    assert f"{session.id}: no login for 'fred' from memory" in caplog.text
    assert "hunter2" not in caplog.text
