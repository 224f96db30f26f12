"""The file of ``serve --auth-file``: its lines, its hashes, and the check of logins."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
import trio.testing

from smtp_trio import Credentials, Server, Session
from smtp_trio._cli.auth_file import Accounts, Hash, parse
from smtp_trio._cli.options import UsageError
from smtp_trio.protocol.extensions.auth import INVALID_CREDENTIALS

# The third test vector of RFC 7914 12.
VECTOR = (
    "$scrypt$ln=14,r=8,p=1$U29kaXVtQ2hsb3JpZGU"
    "$cCO9yzr9c0hGHAbNgf046/2o+7qQT44+qbVD9lRdofLVQylVYT8Pz2LUlwUkKpr55h6F3A1lHkDfzwF7RVdYhw"
)
CHEAP = Hash(b"saltsalt", bytes(32), ln=1, p=1)


def cheap(password: str) -> str:
    """Return a hash that takes little time to check."""
    return str(Hash(b"saltsalt", CHEAP.compute(password), ln=1, p=1))


def test_hash_matches_the_test_vector_of_scrypt() -> None:
    known = Hash.decode(VECTOR)

    assert str(known) == VECTOR
    assert known.matches("pleaseletmein")
    assert not known.matches("pleaseletmeim")


def test_new_hash_is_decoded_and_differs_each_time() -> None:
    one, other = Hash.of("pass:wörd"), Hash.of("pass:wörd")

    assert one != other
    assert Hash.decode(str(one)) == one
    assert one.matches("pass:wörd")
    assert not one.matches("pass:word")
    assert "salt" not in repr(one)


def test_parse() -> None:
    secrets = parse(f"# accounts\r\nfred:a:b \r\n\n  \nwilma:{VECTOR}\nbarney@example.org:#x\n")

    assert secrets == {"fred": "a:b ", "wilma": Hash.decode(VECTOR), "barney@example.org": "#x"}


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", "no accounts in file"),
        ("# comment\n", "no accounts in file"),
        ("fred:x\nwilma\n", "line 2: expected user:password or user:hash"),
        ("fred:\n", "line 1: expected user:password or user:hash"),
        (":secret\n", "line 1: expected user:password or user:hash"),
        ("\nfred:x\nfred:y\n", "line 3: duplicate user 'fred'"),
        ("fred:se\x00cret\n", "line 1: contains a control character"),
        ("fred:$2y$05$bvIG6Nmid91Mu9RcmmWZfO\n", "line 1: unsupported kind of hash"),
        ("fred:{SSHA}c2VjcmV0\n", "line 1: unsupported kind of hash"),
        ("fred:$scrypt$ln=14,r=8,p=1$x$y\n", "line 1: invalid hash"),
        (f"fred:{VECTOR.replace('ln=14', 'ln=40')}\n", "line 1: unsupported scrypt parameters: ln=40"),
        (f"fred:{VECTOR.replace('r=8', 'r=0')}\n", "line 1: unsupported scrypt parameters: ln=14, r=0"),
        (f"fred:{VECTOR.replace('p=1', 'p=99')}\n", "line 1: unsupported scrypt parameters: ln=14, r=8, p=99"),
        (f"fred:{VECTOR.replace('U29kaXVtQ2hsb3JpZGU', 'U29kaXVtQ2hsb')}\n", "line 1: Invalid base64"),
    ],
)
def test_error_names_the_invalid_line_and_no_password(text: str, error: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        parse(text)

    assert str(caught.value).startswith(error)
    assert "secret" not in str(caught.value)


@pytest.fixture
async def session() -> Session:
    """Return a session, which has ended."""
    sessions = []

    async def connect(session: Session) -> None:
        sessions.append(session)

    server = Server()
    server.on(connect=connect)
    client, stream = trio.testing.memory_stream_pair()
    await client.aclose()
    await server.serve_stream(stream)
    return sessions[0]


async def is_accepted(accounts: Accounts, session: Session, user: str, password: str, authzid: str = "") -> bool:
    """Return whether the `auth` hook accepts a login."""
    reply = await accounts.auth(session, Credentials("PLAIN", user, password, authzid))
    assert reply in (None, INVALID_CREDENTIALS)
    return reply is None


@pytest.mark.parametrize("hashed", [True, False])
async def test_logins(tmp_path: Path, session: Session, hashed: bool) -> None:
    path = tmp_path / "accounts"
    path.write_text(f"fred:secret\nwilma:{cheap('hush') if hashed else 'hush'}\n")
    accounts = Accounts(str(path))

    assert not await is_accepted(accounts, session, "fred", "secret")  # the file was not read yet
    accounts.read()

    assert await is_accepted(accounts, session, "fred", "secret")
    assert await is_accepted(accounts, session, "wilma", "hush")
    assert await is_accepted(accounts, session, "wilma", "hush", authzid="wilma")
    assert not await is_accepted(accounts, session, "wilma", "hush", authzid="fred")
    assert not await is_accepted(accounts, session, "fred", "hush")
    assert not await is_accepted(accounts, session, "wilma", "secret")
    assert not await is_accepted(accounts, session, "Fred", "secret")
    # An unknown user is refused with an empty password too, and with the one whose hash is checked in place of theirs.
    for password in ("", "hush", "secret"):
        assert not await is_accepted(accounts, session, "pebbles", password)
    if hashed:
        assert not await is_accepted(accounts, session, "wilma", cheap("hush"))


async def test_login_of_an_unknown_user_takes_as_long_as_of_a_known_one(
    tmp_path: Path, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "accounts"
    path.write_text(f"fred:secret\nwilma:{cheap('hush')}\n")
    accounts = Accounts(str(path))
    accounts.read()
    checked: list[str] = []

    def count(self: Hash, password: str) -> bool:
        checked.append(password)
        return False

    monkeypatch.setattr(Hash, "matches", count)
    for user in ("fred", "wilma", "pebbles"):
        await is_accepted(accounts, session, user, user)

    assert checked == ["fred", "wilma", "pebbles"]


async def test_accounts_stay_when_the_file_becomes_invalid(tmp_path: Path, session: Session) -> None:
    path = tmp_path / "accounts"
    path.write_text("fred:secret\n")
    accounts = Accounts(str(path))
    accounts.read()

    path.write_text("fred\n")
    with pytest.raises(UsageError, match="line 1"):
        accounts.read()
    assert await is_accepted(accounts, session, "fred", "secret")

    path.write_text("wilma:hush\n")
    accounts.read()
    assert not await is_accepted(accounts, session, "fred", "secret")
    assert await is_accepted(accounts, session, "wilma", "hush")
