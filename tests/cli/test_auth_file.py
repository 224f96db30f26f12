"""The file of ``serve --auth-file``: its lines, its hashes, and the check of logins."""

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
from helpers import NAME, connect_tcp, listening
from trio.testing import wait_all_tasks_blocked

from smtp_trio import Credentials, Limits, Server, Session, standard
from smtp_trio._cli.auth_file import MAX_CONCURRENT, Accounts, Hash, parse
from smtp_trio._cli.options import UsageError
from smtp_trio.protocol.extensions import Auth
from smtp_trio.protocol.extensions.auth import INVALID_CREDENTIALS

# The third test vector of RFC 7914 12.
VECTOR = (
    "$scrypt$ln=14,r=8,p=1$U29kaXVtQ2hsb3JpZGU"
    "$cCO9yzr9c0hGHAbNgf046/2o+7qQT44+qbVD9lRdofLVQylVYT8Pz2LUlwUkKpr55h6F3A1lHkDfzwF7RVdYhw"
)


def octets(password: str) -> memoryview:
    return memoryview(password.encode())


def cheap(password: str, ln: int = 1, p: int = 1) -> str:
    """Return a hash that takes little time to check."""
    return str(Hash(b"saltsalt", Hash(b"saltsalt", bytes(32), ln=ln, p=p).compute(octets(password)), ln=ln, p=p))


def test_hash_matches_the_test_vector_of_scrypt() -> None:
    known = Hash.decode(VECTOR)

    assert str(known) == VECTOR
    assert known.matches(octets("pleaseletmein"))
    assert not known.matches(octets("pleaseletmeim"))


def test_new_hash_is_decoded_and_differs_each_time() -> None:
    one, other = Hash.of("pass:wörd"), Hash.of("pass:wörd")

    assert one != other
    assert Hash.decode(str(one)) == one
    assert one.matches(octets("pass:wörd"))
    assert not one.matches(octets("pass:word"))
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


def record_computations(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int, int]]:
    """Return a list to which the cost of each hash that is computed from now on is added."""
    costs: list[tuple[int, int, int]] = []
    compute = Hash.compute

    def record(self: Hash, password: memoryview) -> bytes:
        costs.append(self.cost)
        return compute(self, password)

    monkeypatch.setattr(Hash, "compute", record)
    return costs


@pytest.mark.parametrize("password", ["right", "wrong", "", "x" * 1000, "pässword"])
async def test_every_login_computes_the_same_hashes(
    tmp_path: Path, session: Session, monkeypatch: pytest.MonkeyPatch, password: str
) -> None:
    """The time of the reply does not reveal which users exist, nor which of them have cheaper hashes."""
    lines = [f"{user}:{cheap('right', ln, p)}" for user, ln, p in (("a", 1, 1), ("b", 2, 1), ("c", 1, 1), ("d", 2, 3))]
    path = tmp_path / "accounts"
    path.write_text("\n".join([*lines, "plain:right"]))
    accounts = Accounts(str(path))
    accounts.read()
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
    accounts = Accounts(str(path))
    accounts.read()
    costs = record_computations(monkeypatch)
    assert await is_accepted(accounts, session, "fred", "secret")
    assert costs == []


@pytest.fixture
def accounts(tmp_path: Path) -> Accounts:
    path = tmp_path / "accounts"
    path.write_text(f"fred:{cheap('secret')}\n")
    accounts = Accounts(str(path))
    accounts.read()
    return accounts


def line(password: str) -> bytes:
    return b"AUTH PLAIN " + b64encode(b"\0fred\0" + password.encode()) + b"\r\n"


def serving(accounts: Accounts, **limits: Any) -> Server:
    server = Server(name=NAME, extensions=standard(Auth(cleartext=True)), limits=Limits(auth_delay=0, **limits))
    server.on(auth=accounts.auth)
    return server


@asynccontextmanager
async def busy(accounts: Accounts) -> AsyncGenerator[threading.Event]:
    """Occupy all threads of the accounts with another client, until the event is set."""
    done = threading.Event()
    async with trio.open_nursery() as nursery:
        for _ in range(MAX_CONCURRENT):
            nursery.start_soon(accounts._threads.run, ("another",), lambda: done.wait(60))
        yield done
        done.set()


async def test_login_of_a_client_that_has_left_is_not_checked(
    accounts: Accounts, monkeypatch: pytest.MonkeyPatch
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
    accounts: Accounts, monkeypatch: pytest.MonkeyPatch
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
    assert 2 <= len(costs) <= 2 + MAX_CONCURRENT - 1
    assert sorted(set(replies)) == ["454", "535"]


@pytest.mark.skipif(not hasattr(os, "SCHED_IDLE"), reason="threads of this system have no idle priority")
async def test_logins_of_an_address_that_has_failed_are_checked_at_idle_priority(
    accounts: Accounts, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also those that were waiting when it failed. The threads of others keep their priority."""
    idle, usual = [], os.sched_getscheduler(0)

    def compute(self: Hash, password: memoryview) -> bytes:
        own_thread = threading.current_thread().name.startswith("smtp-trio")
        assert os.sched_getscheduler(0) == (os.SCHED_IDLE if own_thread else usual)
        idle.append(own_thread)
        return self.digest if bytes(password) == b"secret" else b""

    monkeypatch.setattr(Hash, "compute", compute)
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
        assert 3 <= idle.count(False) <= 3 + MAX_CONCURRENT - 1
        assert len(idle) == 8
        await log_in(port, "secret", "235")
        assert idle.pop()
    assert await is_accepted(accounts, session, "fred", "secret")
    assert not idle[-1]


async def test_cancelled_login_gives_up_its_place(accounts: Accounts, monkeypatch: pytest.MonkeyPatch) -> None:
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
