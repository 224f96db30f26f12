"""`UsersFile`: the lines of a users file, its hashes, and the check of logins."""

from __future__ import annotations

import os
import threading
from base64 import b64encode
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from helpers import NAME, authority, client_tls, connect_tcp, listening
from hypothesis import given, strategies as st
from trio.testing import wait_all_tasks_blocked

from smtp_trio import (
    Client,
    Credentials,
    Limits,
    ReplyError,
    ScramSecret,
    Server,
    Session,
    TlsFiles,
    standard,
)
from smtp_trio._server import lock_file
from smtp_trio._server.idle_process import IDLE
from smtp_trio._server.lock_file import locked
from smtp_trio.credentials import ScryptHash, UsersFile, delete_user, set_password
from smtp_trio.credentials._format import StoredUser, decode_secret, encode_secret, parse
from smtp_trio.credentials._users_file import MAX_CONCURRENT
from smtp_trio.protocol.extensions import Auth
from smtp_trio.protocol.replies import INVALID_CREDENTIALS
from smtp_trio.protocol.sasl.key_derivation import key_derivation

# The third test vector of RFC 7914 12.
VECTOR = (
    "$scrypt$ln=14,r=8,p=1$U29kaXVtQ2hsb3JpZGU"
    "$cCO9yzr9c0hGHAbNgf046/2o+7qQT44+qbVD9lRdofLVQylVYT8Pz2LUlwUkKpr55h6F3A1lHkDfzwF7RVdYhw"
)


def octets(password: str) -> memoryview:
    return memoryview(password.encode())


def cheap(password: str, ln: int = 1, p: int = 1) -> str:
    """Return a hash that takes little time to check."""
    return ScryptHash(
        b"saltsalt", ScryptHash(b"saltsalt", bytes(32), ln=ln, p=p).compute(octets(password)), ln=ln, p=p
    ).encode()


def test_hash_matches_the_test_vector_of_scrypt() -> None:
    known = ScryptHash.decode(VECTOR)

    assert known.encode() == VECTOR
    assert known.matches(octets("pleaseletmein"))
    assert not known.matches(octets("pleaseletmeim"))


def test_new_hash_is_decoded_and_differs_each_time() -> None:
    one, other = ScryptHash.of(octets("pass:wörd")), ScryptHash.of(octets("pass:wörd"))

    assert one != other
    assert ScryptHash.decode(one.encode()) == one
    assert one.matches(octets("pass:wörd"))
    assert not one.matches(octets("pass:word"))
    assert "salt" not in repr(one)


def test_parse() -> None:
    users = parse(f"# accounts\r\nfred:a:b \r\n\n  \nwilma:{VECTOR}\nbarney@example.org:#x\n").users

    assert users == {
        "fred": StoredUser("a:b "),
        "wilma": StoredUser(scrypt=ScryptHash.decode(VECTOR)),
        "barney@example.org": StoredUser("#x"),
    }


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


@given(st.text(st.sampled_from("ab:$#\n\r =,1é\u0301") | st.characters()))
def test_any_text_is_a_file_or_a_value_error(text: str) -> None:
    try:
        users = parse(text).users
    except ValueError:
        return
    assert all(user and ":" not in user and len(user) <= 255 for user in users)


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


async def is_accepted(accounts: UsersFile, session: Session, user: str, password: str, authzid: str = "") -> bool:
    """Return whether the `auth` hook accepts a login."""
    reply = await accounts.auth(session, Credentials("PLAIN", user, password, authzid))
    assert reply in (None, INVALID_CREDENTIALS)
    return reply is None


@pytest.mark.parametrize("hashed", [True, False])
async def test_logins(tmp_path: Path, session: Session, hashed: bool) -> None:
    path = tmp_path / "accounts"
    path.write_text(f"fred:secret\nwilma:{cheap('hush') if hashed else 'hush'}\n")
    accounts = UsersFile(path, interval=None)

    assert not await is_accepted(accounts, session, "fred", "secret")  # the file was not read yet
    accounts.load()

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


def record_computations(monkeypatch: pytest.MonkeyPatch) -> list[tuple[object, ...]]:
    """Return a list to which the cost of each hash that is computed from now on is added."""
    costs: list[tuple[object, ...]] = []
    compute = ScryptHash.compute

    def record(self: ScryptHash, password: memoryview) -> bytes:
        costs.append(self.cost)
        return compute(self, password)

    monkeypatch.setattr(ScryptHash, "compute", record)
    return costs


@pytest.mark.parametrize("password", ["right", "wrong", "", "x" * 1000, "pässword"])
async def test_every_login_computes_the_same_hashes(
    tmp_path: Path, session: Session, monkeypatch: pytest.MonkeyPatch, password: str
) -> None:
    """The time of the reply does not reveal which users exist, nor which of them have cheaper hashes."""
    lines = [f"{user}:{cheap('right', ln, p)}" for user, ln, p in (("a", 1, 1), ("b", 2, 1), ("c", 1, 1), ("d", 2, 3))]
    path = tmp_path / "accounts"
    path.write_text("\n".join([*lines, "plain:right"]))
    accounts = UsersFile(path, interval=None)
    accounts.load()
    costs = record_computations(monkeypatch)

    for user in ("a", "b", "c", "d", "plain", "nobody", "", "\U0001f680"):
        costs.clear()
        known = password == "right" and user in ("a", "b", "c", "d", "plain")
        assert await is_accepted(accounts, session, user, password) == known
        assert costs == [(1, 8, 1), (2, 8, 1), (2, 8, 3)]


async def test_file_without_hashes_computes_none(
    tmp_path: Path, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "accounts"
    path.write_text("fred:secret\n")
    accounts = UsersFile(path, interval=None)
    accounts.load()
    costs = record_computations(monkeypatch)
    assert await is_accepted(accounts, session, "fred", "secret")
    assert costs == []


@pytest.fixture
def accounts(tmp_path: Path) -> UsersFile:
    path = tmp_path / "accounts"
    path.write_text(f"fred:{cheap('secret')}\n")
    accounts = UsersFile(path, interval=None)
    accounts.load()
    return accounts


def line(password: str) -> bytes:
    return b"AUTH PLAIN " + b64encode(b"\0fred\0" + password.encode()) + b"\r\n"


def serving(accounts: UsersFile, **limits: Any) -> Server:
    server = Server(name=NAME, extensions=standard(Auth(cleartext=True)), limits=Limits(auth_delay=0, **limits))
    server.on(auth=accounts.auth)
    return server


@asynccontextmanager
async def busy(accounts: UsersFile) -> AsyncGenerator[threading.Event]:
    """Occupy all threads of the accounts with another client, until the event is set."""
    done = threading.Event()
    async with trio.open_nursery() as nursery:
        for _ in range(MAX_CONCURRENT):
            nursery.start_soon(accounts._threads.run, ("another",), lambda: done.wait(60))
        nursery.start_soon(accounts._idle_threads.run, ("another",), lambda: done.wait(60))
        yield done
        done.set()


async def test_login_of_a_client_that_has_left_is_not_checked(
    accounts: UsersFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    costs = record_computations(monkeypatch)
    async with listening(serving(accounts)) as port, busy(accounts) as done:
        async with connect_tcp(port) as patient:
            await patient.hello()
            for _ in range(5):
                async with connect_tcp(port) as client:
                    await client.hello()
                    await client.send(line("wrong"))
                    await wait_all_tasks_blocked(0.02)
            await patient.send(line("secret"))
            await wait_all_tasks_blocked(0.02)
            done.set()
            await patient.expect("235")
    assert len(costs) == 1


async def test_login_of_an_address_that_is_locked_out_while_it_waits_is_not_checked(
    accounts: UsersFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    costs = record_computations(monkeypatch)
    server = serving(accounts, auth_failures_per_peer=2, count_local=True)
    replies = []

    async def log_in(port: int) -> None:
        async with connect_tcp(port) as client:
            await client.hello()
            await client.send(line("wrong"))
            replies.append((await client.reply())[:3])

    async with listening(server) as port:
        async with busy(accounts) as done, trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(log_in, port)
            await wait_all_tasks_blocked(0.05)
            done.set()
    assert 2 <= len(costs) <= 3  # one of its logins is checked at a time, and one more at idle priority
    assert sorted(set(replies)) == ["454", "535"]


async def test_logins_of_an_address_that_has_failed_are_checked_at_idle_priority(
    accounts: UsersFile, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So are all but one of its logins at the same time. Those of others are not."""
    idle = []

    def compute(self: ScryptHash, password: memoryview) -> bytes:
        idle.append(key_derivation.get() is IDLE)
        return self.digest if bytes(password) == b"secret" else b""

    monkeypatch.setattr(ScryptHash, "compute", compute)
    server = serving(accounts, count_local=True)

    async def log_in(port: int, password: str, code: str) -> None:
        async with connect_tcp(port) as client:
            await client.hello()
            await client.send(line(password))
            await client.expect(code)

    async with listening(server) as port:
        async with busy(accounts) as done, trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(log_in, port, "wrong", "535")
            await wait_all_tasks_blocked(0.05)
            done.set()
        assert sorted(idle) == [False] + [True] * 7
        await log_in(port, "secret", "235")
        assert idle.pop()
    assert await is_accepted(accounts, session, "fred", "secret")
    assert not idle[-1]


async def test_first_login_of_an_address_with_too_many_connections_is_checked_at_idle_priority(
    accounts: UsersFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its session began before there were too many."""
    idle = []

    def compute(self: ScryptHash, password: memoryview) -> bytes:
        idle.append(key_derivation.get() is IDLE)
        return self.digest

    monkeypatch.setattr(ScryptHash, "compute", compute)
    server = serving(accounts, count_local=True, connections_per_minute=2, auth_failures_per_peer=None)
    async with listening(server) as port, connect_tcp(port) as first, connect_tcp(port) as second:
        for client in (first, second):
            await client.hello()
        await first.send(line("secret"))
        await first.expect("235")
        async with connect_tcp(port) as refused:
            await refused.expect("421")
        await second.send(line("secret"))
        await second.expect("235")
    assert idle == [False, True]


async def test_cancelled_login_gives_up_its_place(accounts: UsersFile, monkeypatch: pytest.MonkeyPatch) -> None:
    costs = record_computations(monkeypatch)
    server = serving(accounts)
    async with listening(server) as port, busy(accounts) as done:
        async with connect_tcp(port) as client:
            await client.hello()
            await client.send(line("secret"))
            await wait_all_tasks_blocked(0.02)
            await server.stop(0)
        done.set()
    assert costs == []
    assert await accounts._threads.run(("a",), lambda: True)


async def test_accounts_stay_when_the_file_becomes_invalid(tmp_path: Path, session: Session) -> None:
    path = tmp_path / "accounts"
    path.write_text("fred:secret\n")
    accounts = UsersFile(path, interval=None)
    accounts.load()

    path.write_text("fred\n")
    with pytest.raises(ValueError, match="line 1"):
        accounts.load()
    assert await is_accepted(accounts, session, "fred", "secret")

    path.write_text("wilma:hush\n")
    accounts.load()
    assert not await is_accepted(accounts, session, "fred", "secret")
    assert await is_accepted(accounts, session, "wilma", "hush")


# --- SCRAM ------------------------------------------------------------------------------------------------------------

#: The secrets of "pencil" in the examples of RFC 7677 3 and RFC 5802 5, as RFC 5803 and Dovecot write them.
SHA_256 = (
    "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:"
    "wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU="
)
SHA_1 = "SCRAM-SHA-1$4096:QSXCR+Q6sek8bf92$6dlGYMOdZcOPutkcNY8U2g7vK9Y=:D+CSWLOshSulAsxiupA+qs2/fTE="
DOVECOT = "{SCRAM-SHA-256}4096,W22ZaJ0SNY7soEsUEjb6gQ==," + SHA_256.rpartition("$")[2].replace(":", ",")


def write(path: Path, *lines: str) -> UsersFile:
    path.write_text("\n".join(lines) + "\n")
    users = UsersFile(path)
    users.load()
    return users


@pytest.mark.parametrize("text", [SHA_256, SHA_1, DOVECOT])
def test_secret_of_scram_is_read_and_written(text: str, tmp_path: Path) -> None:
    secret = decode_secret(text)
    assert isinstance(secret, ScramSecret)
    assert encode_secret(secret) == (SHA_256 if text == DOVECOT else text)
    assert secret == ScramSecret.from_password("pencil", secret.salt, 4096, secret.hash)
    users = write(tmp_path / "users", f"user:{text}")
    assert [users.verify("user", "pencil"), users.verify("user", "pencils"), users.verify("u", "pencil")] == [
        True,
        False,
        False,
    ]


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (SHA_256.replace("SHA-256", "SHA-1"), "another hash function"), (SHA_256.replace("W22Z", "W22"), "not base64"),
        (SHA_256.replace("4096", "4095"), "iterations"), (SHA_256.replace("4096", "10000001"), "number of iterations: 10000001"),
        (SHA_256.replace("SHA-256", "SHA-512"), "unsupported kind"),
        (SHA_256 + "\nuser:" + SHA_256, "duplicate"), (SHA_256 + "\nuser:x", "duplicate"), ("x\nuser:" + SHA_256, "duplicate"),
        (f"{VECTOR}\nuser:{VECTOR}", "duplicate"), (SHA_256[:-8], "32 octets"),
        (SHA_256[:-20] + ":x", "unsupported kind"),
    ],
)  # fmt: skip
def test_invalid_secrets_of_a_user(text: str, error: str) -> None:
    with pytest.raises(ValueError, match=error):
        parse(f"user:{text}\n")


PLUS_256, PLUS_1 = ("SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"), ("SCRAM-SHA-1-PLUS", "SCRAM-SHA-1")


@pytest.mark.parametrize(
    ("lines", "mechanisms"),
    [
        ((f"a:{VECTOR}",), ()), (("a:x",), (PLUS_256[0], PLUS_1[0], PLUS_256[1], PLUS_1[1])),
        ((f"a:{SHA_256}", f"b:{SHA_256}"), PLUS_256), ((f"a:{SHA_1}", f"a:{SHA_256}", f"b:{SHA_1}", "c:x"), PLUS_1),
        ((f"a:{SHA_256}", f"b:{VECTOR}"), ()), ((f"a:{SHA_256}", f"b:{VECTOR}", f"b:{SHA_256}"), PLUS_256),
    ],
)  # fmt: skip
def test_mechanisms_that_all_users_can_use(lines: tuple[str, ...], mechanisms: tuple[str, ...], tmp_path: Path) -> None:
    assert write(tmp_path / "users", *lines).mechanisms == (*mechanisms, "PLAIN", "LOGIN")


def test_one_secret_of_a_user_is_enough_for_plain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    users = write(tmp_path / "users", f"fred:{cheap('secret')}", f"fred:{SHA_256}")
    assert [users.verify("fred", "secret"), users.verify("fred", "pencil")] == [True, False]


@pytest.mark.parametrize(
    "lines",
    [
        (f"user:{SHA_256}",), (f"user:{SHA_256}", "other:x"), ("user:pencil",),
        (f"user:{SHA_256.replace('4096', '5000')}", "a:\U0001f680"),
        (f"a:{SHA_1}", f"user:{SHA_256}", f"b:{VECTOR}"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("mechanism", ["SCRAM-SHA-256", "SCRAM-SHA-256-PLUS", "SCRAM-SHA-1"])
async def test_unknown_user_has_a_secret_like_those_of_others(
    lines: tuple[str, ...], mechanism: str, session: Session, tmp_path: Path
) -> None:
    path = tmp_path / "users"
    users = write(path, "#smtp-trio-key:" + b64encode(bytes(32)).decode(), *lines)
    known = await users.secret(session, "user", mechanism)
    assert isinstance(known, ScramSecret)
    made_up = {user: await users.secret(session, user, mechanism) for user in ("nobody", "nobody2")}
    assert {(secret.iterations, len(secret.salt), secret.hash) for secret in made_up.values()} == {  # type: ignore[union-attr]
        (known.iterations, 16 if known.hash == "SHA-256" or "a:" not in lines[0] else 12, known.hash)
    }
    assert made_up["nobody"] != made_up["nobody2"]
    # It is the same in another process, and after a change of another user.
    again = write(path, "#smtp-trio-key:" + b64encode(bytes(32)).decode(), *lines, "new:x")
    for user, secret in made_up.items():
        other = await again.secret(session, user, mechanism)
        assert isinstance(secret, ScramSecret)
        assert isinstance(other, ScramSecret)
        assert (other.salt, other.iterations) == (secret.salt, secret.iterations)


async def test_salts_of_a_file_without_a_key(session: Session, tmp_path: Path) -> None:
    """They are the same as long as the file is, and differ from those of other files."""
    secrets = set()
    for content in ("x", "x", "y"):
        users = write(tmp_path / content, f"user:{SHA_256}", f"a:{content}")
        secret = await users.secret(session, "nobody", "SCRAM-SHA-256")
        assert isinstance(secret, ScramSecret)
        secrets.add(secret.salt)
    assert len(secrets) == 2


async def test_secret_for_other_mechanisms(session: Session, tmp_path: Path) -> None:
    users = write(tmp_path / "users", f"user:{SHA_256}", "other:x")
    assert [await users.secret(session, user, "CRAM-MD5") for user in ("user", "other", "nobody")] == [None, "x", None]


@pytest.mark.parametrize(
    "lines", [(f"fred:{SHA_256}", f"fred:{SHA_1}"), ("fred:pencil",), (f"fred:{SHA_256}", f"fred:{SHA_1}", "a:x")]
)
@pytest.mark.parametrize(
    "mechanism", ["SCRAM-SHA-256-PLUS", "SCRAM-SHA-1-PLUS", "SCRAM-SHA-256", "SCRAM-SHA-1", "PLAIN", "LOGIN"]
)
async def test_login_through_a_server(
    mechanism: str, lines: tuple[str, ...], tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    users = write(tmp_path / "users", *lines)
    certificate = tmp_path / "cert.pem"
    authority().issue_cert(NAME).private_key_and_cert_chain_pem.write_to_path(certificate)
    server = Server(name=NAME, tls=TlsFiles(certificate), extensions=standard(Auth(mechanisms=users.mechanisms)))
    server.on(auth=users.auth, secret=users.secret)
    for user, password, code in (("fred", "pencil", 235), ("fred", "pencils", 535), ("nobody", "pencil", 535)):
        client_end, server_end = trio.testing.memory_stream_pair()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.serve_stream, server_end)
            async with Client(client_end, host=NAME, tls="required", ssl_context=client_tls()) as client:
                try:
                    reply = await client.auth((user, password), mechanisms=[mechanism])
                except ReplyError as error:
                    reply = error.reply
        assert reply.code == code


# --- changes of the file ------------------------------------------------------------------------------------------------


async def test_file_is_read_again_when_it_has_changed(
    session: Session, tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    path = tmp_path / "users"
    path.write_text("fred:secret\n")
    users = UsersFile(path)
    assert await is_accepted(users, session, "fred", "secret")  # it is read at the first login
    set_password(path, "wilma", "hush")
    assert not await is_accepted(users, session, "wilma", "hush")
    await trio.sleep(1)
    assert await is_accepted(users, session, "wilma", "hush")

    path.write_text("fred\n")
    await trio.sleep(1)
    with pytest.raises(ValueError, match="line 1"):
        await is_accepted(users, session, "wilma", "hush")
    await trio.sleep(1)
    assert await is_accepted(users, session, "wilma", "hush")  # the error is reported once


async def test_file_is_read_in_a_thread(session: Session, tmp_path: Path) -> None:
    users = UsersFile(write(tmp_path / "users", "fred:secret").path)
    assert await is_accepted(users, session, "fred", "secret")


def test_other_lines_stay_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "users"
    path.write_text(f"# accounts\nfred:secret\n\nwilma:{SHA_1}\n# more\nwilma:{SHA_256}\nbarney:x")
    path.chmod(0o644)
    set_password(path, "wilma", "hush")
    lines = path.read_text().split("\n")
    assert lines[0].startswith("#smtp-trio-key:")
    assert lines[4].startswith("wilma:$scrypt$")
    assert [*lines[1:4], *lines[5:]] == ["# accounts", "fred:secret", "", "# more", "barney:x", ""]
    assert path.stat().st_mode & 0o777 == 0o640
    assert delete_user(path, "wilma")
    assert not delete_user(path, "wilma")
    assert path.read_text().split("\n") == [lines[0], *lines[1:4], *lines[5:]]


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize(("groups", "mode"), [([7], 0o640), ([], 0o600)], ids=["member", "not a member"])
def test_change_by_another_user(short_path: Path, groups: list[int], mode: int) -> None:
    """The group, and its permission to read, are kept if this user may do so.

    Each start of pytest makes the directory above its own ones private again, so other users cannot use them.
    """
    path = short_path / "users"
    path.write_text("fred:secret\n")
    path.chmod(0o644)
    os.chown(path, 0, 7)
    os.chown(short_path, 8, 8)
    "".encode("utf-8-sig")  # imported while this user may read the standard library
    before = os.getgroups()
    try:
        os.setgroups(groups)
        os.setegid(8)
        os.seteuid(8)
        set_password(path, "wilma", "hush")
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(before)
    status = path.stat()
    assert (status.st_uid, status.st_gid, status.st_mode & 0o777) == (8, 7 if groups else 8, mode)
    assert "wilma:$scrypt$" in path.read_text()


@pytest.mark.parametrize("create", [True, False])
def test_changes_exclude_one_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, create: bool) -> None:
    path, lock = tmp_path / "users", tmp_path / "users.lock"
    if not create:
        path.write_text("fred:secret\n")
    monkeypatch.setattr(lock_file, "WAIT", 0)
    with locked(str(lock), wait=0), pytest.raises(BlockingIOError, match=r"users\.lock"):
        set_password(path, "fred", "hush")
    assert path.exists() is not create
    set_password(path, "fred", "hush")
    assert os.listdir(tmp_path) == ["users"]


def test_file_behind_a_link_is_changed(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "users").symlink_to(tmp_path / "etc" / "users")
    set_password(tmp_path / "users", "fred", "secret")
    assert (tmp_path / "users").is_symlink()
    assert write_mode(tmp_path / "etc" / "users") == 0o600


def write_mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_changes_at_the_same_time_take_turns(tmp_path: Path) -> None:
    path = tmp_path / "users"
    names = [f"user{number}" for number in range(8)]
    threads = [threading.Thread(target=set_password, args=(path, name, "secret")) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(parse(path.read_text()).users) == names


def test_failed_change_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "users"
    path.write_text("fred:secret\n")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="No space"):
        set_password(path, "wilma", "hush")
    assert [(each.name, each.read_text()) for each in tmp_path.iterdir()] == [("users", "fred:secret\n")]


INVALID_NAMES = {
    "": "is empty", "a:b": "contains a colon", "#fred": "begins with #", "x" * 256: "has more than 255 characters",
    "a\nb": "contains a character", "a\0": "contains a character", "\udcff": "contains a character",
    "e\u0301": r"must have the form of SASLprep \(RFC 4013\), '\u00e9'", "\uff41": "must have the form of SASLprep",
    "\ufefffred": "must have the form of SASLprep", "\u00ad": "is empty after SASLprep",
}  # fmt: skip


@pytest.mark.parametrize(("user", "problem"), INVALID_NAMES.items(), ids=map(ascii, INVALID_NAMES))
def test_invalid_user_names(user: str, problem: str, tmp_path: Path) -> None:
    """All functions that change a file take the same names, and the file is not touched."""
    path = tmp_path / "users"
    path.write_text("fred:secret\n")
    for change in (lambda: set_password(path, user, "x"), lambda: delete_user(path, user)):
        with pytest.raises(ValueError, match=f"^invalid user name: .*; it {problem}"):
            change()
    assert path.read_text() == "fred:secret\n"
    with pytest.raises(TypeError, match="user must be str"):
        delete_user(path, None)  # type: ignore[arg-type]


@pytest.mark.parametrize("user", ["a\0b", "e\u0301", "x" * 256])
def test_invalid_user_name_in_a_file(user: str) -> None:
    with pytest.raises(ValueError, match=r"^line 2: invalid user name: .*; it "):
        parse(f"fred:x\n{user}:x\n")


@pytest.mark.parametrize("user", ["x" * 255, "\u00e9", "fred flintstone", "a=b,c", "fred@example.org", "\u0627\u0628"])
def test_valid_user_names(user: str, tmp_path: Path) -> None:
    path = tmp_path / "users"
    set_password(path, "other", "x")
    set_password(path, user, "x")
    assert list(parse(path.read_text()).users) == ["other", user]
    assert delete_user(path, user)
    assert list(parse(path.read_text()).users) == ["other"]


@pytest.mark.parametrize("kind", ["scrypt", "scram"])
def test_longest_password(kind: Any, tmp_path: Path) -> None:
    path = tmp_path / "users"
    set_password(path, "fred", "x" * 1024, kind=kind)
    with pytest.raises(ValueError, match="password must have up to 1024 characters, got 1025"):
        set_password(path, "fred", "x" * 1025, kind=kind)
    users = UsersFile(path)
    users.load()
    assert [users.verify("fred", "x" * count) for count in (1024, 1025, 9000)] == [True, False, False]
    with pytest.raises(ValueError, match="line 1: password must have up to 1024 characters"):
        parse("fred:" + "x" * 1025)


@pytest.mark.parametrize("change", ["set", "delete"])
def test_error_of_a_file_that_is_not_utf8_has_no_secret(change: str, tmp_path: Path) -> None:
    """That of the decoder has the octets of the file, and its repr shows them."""
    path = tmp_path / "users"
    path.write_bytes(b"fred:secret\nwilma:\xff\n")
    with pytest.raises(ValueError, match="can't decode byte 0xff") as caught:
        set_password(path, "barney", "hush") if change == "set" else delete_user(path, "fred")
    assert "secret" not in repr(caught.value)
    assert not hasattr(caught.value, "object")
    assert path.read_bytes() == b"fred:secret\nwilma:\xff\n"


@pytest.mark.parametrize("kind", ["scrypt", "scram"])
def test_password_with_surrogates(kind: Any, tmp_path: Path) -> None:
    """The error does not show it, and no user has it."""
    path = tmp_path / "users"
    with pytest.raises(ValueError, match="password must be encodable as UTF-8") as caught:
        set_password(path, "fred", "hush\udcff", kind=kind)
    assert "hush" not in repr(caught.value)
    for stored in ("hush", SHA_256, VECTOR):
        assert not UsersFile(write(path, f"fred:{stored}").path).verify("fred", "hush\udcff")


async def test_names_that_no_user_can_have(session: Session, tmp_path: Path) -> None:
    users = UsersFile(write(tmp_path / "users", f"fred:{SHA_256}").path)
    for user in INVALID_NAMES:
        if user.isascii():
            assert not await is_accepted(users, session, user, "pencil")
            assert isinstance(await users.secret(session, user, "SCRAM-SHA-256"), ScramSecret)


@pytest.mark.parametrize(
    ("user", "password", "kind", "error", "message"),
    [
        ("a:b", "x", "scrypt", ValueError, "user name: 'a:b'"), ("fred", b"x", "scrypt", TypeError, "password must be str"),
        ("fred", "x", "bcrypt", ValueError, "kind"), ("fred", "a\x01", "scram", ValueError, "SASLprep"),
    ],
)  # fmt: skip
def test_invalid_arguments(
    user: str, password: Any, kind: Any, error: type[Exception], message: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        set_password(tmp_path / "users", user, password, kind=kind)
    assert list(tmp_path.iterdir()) == []
