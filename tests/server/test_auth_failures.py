"""Logins that do not succeed: their number in a session and for each address, and the delay of their replies."""

from __future__ import annotations

import base64
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any

import pytest
import trio
from helpers import NAME, Client, Pair, connected, server_tls
from trio.testing import MockClock, memory_stream_pair

from smtp_trio import Credentials, Hooks, Limits, Reply, Server, Session, standard
from smtp_trio._types import Peer
from smtp_trio.protocol.extensions import Auth
from smtp_trio.protocol.replies import INVALID_CREDENTIALS
from smtp_trio.protocol.sasl import MECHANISMS, Secret

TOO_MANY = f"421 4.7.0 {NAME} Too many authentication failures; closing the connection"
LOCKED = f"421 4.7.0 {NAME} Too many authentication failures from your address; try again later"


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def plain(user: str, password: str) -> str:
    return "AUTH PLAIN " + b64(f"\0{user}\0{password}")


RIGHT, WRONG = plain("fred", "secret"), plain("fred", "wrong")
FIRST = b64("n,,n=fred,r=abc")


class Users(Hooks):
    """Hooks with one user, fred. The names of some users make the check slow, fail or temporary."""

    def __init__(self) -> None:
        self.checked: list[str] = []

    async def auth(self, session: Session, credentials: Credentials) -> Reply | None:
        self.checked.append(credentials.password)
        match credentials.user:
            case "slow":
                await trio.sleep(float(credentials.password))
            case "broken":
                raise RuntimeError
            case "later":
                return Reply(454, "The directory is down", "4.7.0")
        return None if credentials.password == "secret" else INVALID_CREDENTIALS

    async def secret(self, session: Session, user: str, mechanism: str) -> Secret | None:
        return "secret" if user == "fred" else None


def build(hooks: Hooks | None = None, **limits: Any) -> Server:
    extensions = standard(Auth(mechanisms=tuple(MECHANISMS), cleartext=True))
    return Server(hooks or Users(), name=NAME, extensions=extensions, limits=Limits(**limits))


def pair_from(address: str) -> Callable[[], Pair]:
    """Return a function that makes streams in memory, of which the server's is that of a client with this address."""

    def pair() -> Pair:
        client_end, server_end = memory_stream_pair()
        server_end.endpoints = Peer(address, 4000, "tcp"), Peer("192.0.2.25", 25, "tcp")  # type: ignore[attr-defined]
        return client_end, server_end

    return pair


@asynccontextmanager
async def client_from(server: Server, address: str) -> AsyncGenerator[Client]:
    async with connected(server, pair=pair_from(address)) as client:
        await client.hello()
        yield client


async def fail(server: Server, address: str, times: int = 1, line: str = WRONG) -> list[float]:
    """Fail to log in this many times, three in a session; return the delay of each reply."""
    delays: list[float] = []
    while len(delays) < times:
        async with client_from(server, address) as client:
            for code in ("5", "5", "421")[: times - len(delays)]:
                before = trio.current_time()
                await client.command(line, code)
                delays.append(trio.current_time() - before)
    return delays


# --- in a session ----------------------------------------------------------------------------------------------------

ENDS: dict[str, tuple[list[str], str]] = {
    "wrong password": ([WRONG], "535 5.7.8"),
    "unknown user": ([plain("nobody", "other")], "535 5.7.8"),
    "cancelled": (["AUTH PLAIN", "*"], "501 5.7.0"),
    "cancelled after a step": (["AUTH LOGIN", b64("fred"), "*"], "501 5.7.0"),
    "cancelled SCRAM": ([f"AUTH SCRAM-SHA-256 {FIRST}", "*"], "501 5.7.0"),
    "cancelled CRAM": (["AUTH CRAM-MD5", "*"], "501 5.7.0"),
    "wrong proof": (["AUTH CRAM-MD5", b64("fred 00")], "535 5.7.8"),
    "not base64": (["AUTH PLAIN", "###"], "501 5.5.2"),
    "initial response not base64": (["AUTH PLAIN ###"], "501 5.5.2"),
    "initial response not expected": ([f"AUTH CRAM-MD5 {FIRST}"], "501 5.7.0"),
    "malformed": (["AUTH PLAIN " + b64("fred")], "501 5.5.2"),
    "too many arguments": (["AUTH PLAIN a b"], "501 5.5.2"),
    "EHLO": (["AUTH PLAIN", "EHLO client.test"], "501 5.5.2"),
    "RSET": (["AUTH PLAIN", "RSET"], "501 5.5.2"),  # it is base64, but not of a message of PLAIN
    "empty password": ([plain("fred", "")], "535 5.7.8"),
    "line too long": (["AUTH PLAIN", "A" * 20000], "500 5.5.6"),
    "failed hook": ([plain("broken", "secret")], "454 4.7.0"),
    "temporary refusal": ([plain("later", "secret")], "454 4.7.0"),
}


@pytest.mark.parametrize("end", ENDS)
async def test_every_login_without_success_counts(end: str, autojump_clock: MockClock) -> None:
    lines, code = ENDS[end]
    server = build()
    async with connected(server) as client:
        await client.hello()
        for expected in (code, code, TOO_MANY):
            before = trio.current_time()
            for line in lines[:-1]:
                await client.command(line, "334")
            await client.command(lines[-1], expected)
            assert trio.current_time() - before == pytest.approx(1, abs=1e-6)
        await client.expect_end()
    assert server.statistics().auth_failures == 3


async def test_failures_of_different_kinds_add_up(autojump_clock: MockClock) -> None:
    async with connected(build()) as client:
        await client.hello()
        await client.command("AUTH PLAIN", "334")
        await client.command("*", "501")
        await client.command("AUTH PLAIN ###", "501")
        await client.command(WRONG, TOO_MANY)
        await client.expect_end()


async def test_success_after_failures(autojump_clock: MockClock) -> None:
    async with connected(build()) as client:
        await client.hello()
        await client.command(WRONG, "535")
        await client.command(WRONG, "535")
        await client.command(RIGHT, "235")
        await client.command(WRONG, "503")
        await client.quit()


async def test_refusals_of_auth_at_this_point_do_not_count(autojump_clock: MockClock) -> None:
    """Their reply tells nothing about a user, and they count as errors."""
    server = build()
    async with connected(server) as client:
        await client.hello()
        for _ in range(4):
            await client.command("AUTH FOO", "504")
        await client.command(RIGHT, "235")
        for _ in range(4):
            await client.command(RIGHT, "503")
        await client.quit()
    assert server.statistics().auth_failures == 0
    assert trio.current_time() < 1


async def test_pipelined_logins_are_checked_up_to_the_limit(autojump_clock: MockClock) -> None:
    hooks = Users()
    async with connected(build(hooks)) as client:
        await client.hello()
        await client.send(f"{WRONG}\r\n".encode() * 50)
        await client.expect("535", "535", TOO_MANY)
        await client.expect_end()
    assert len(hooks.checked) == 3


async def test_cancelled_scram_exchanges_derive_no_more_keys_than_the_limit(autojump_clock: MockClock) -> None:
    asked: list[str] = []

    async def secret(session: Session, user: str, mechanism: str) -> Secret | None:
        asked.append(user)
        return None

    server = build()
    server.on(secret=secret)
    async with connected(server) as client:
        await client.hello()
        await client.send(f"AUTH SCRAM-SHA-256 {FIRST}\r\n*\r\n".encode() * 100)
        await client.expect("334", "501", "334", "501", "334", TOO_MANY)
        await client.expect_end()
    assert asked == ["fred"] * 3


# --- the delay ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("seconds", "expected"), [("0", 1), ("0.4", 1), ("0.99", 1), ("1.5", 1.5)])
async def test_delay_hides_the_duration_of_the_check(seconds: str, expected: float, autojump_clock: MockClock) -> None:
    async with connected(build()) as client:
        await client.hello()
        before = trio.current_time()
        await client.command(plain("slow", seconds), "535")
        assert trio.current_time() - before == pytest.approx(expected, abs=1e-6)


async def test_delay_begins_with_the_last_line_of_the_client(autojump_clock: MockClock) -> None:
    async with connected(build()) as client:
        await client.hello()
        await client.command("AUTH PLAIN", "334")
        await trio.sleep(5)
        before = trio.current_time()
        await client.command(b64("\0fred\0wrong"), "535")
        assert trio.current_time() - before == pytest.approx(1, abs=1e-6)


async def test_delay_can_be_set(autojump_clock: MockClock) -> None:
    async with connected(build(auth_delay=0)) as client:
        await client.hello()
        await client.command(WRONG, "535")
        assert trio.current_time() < 0.5


async def test_other_sessions_are_not_delayed(autojump_clock: MockClock) -> None:
    server = build()
    async with connected(server) as slow, connected(server) as other:
        await slow.hello()
        await other.hello()
        before = trio.current_time()
        await slow.send(f"NOOP\r\n{WRONG}\r\n".encode())
        await slow.expect("250")
        await other.command(RIGHT, "235")
        await other.command("MAIL FROM:<a@client.test>", "250")
        assert trio.current_time() - before < 0.5
        await slow.expect("535")


async def test_stop_ends_the_delay(autojump_clock: MockClock) -> None:
    server = build(auth_delay=100)
    async with connected(server) as client:
        await client.hello()
        await client.send(f"{WRONG}\r\n".encode())
        await trio.sleep(1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.stop)
            await client.expect("535", "421 4.3.2")
        assert trio.current_time() < 2


async def test_cancellation_ends_the_delay(autojump_clock: MockClock) -> None:
    client_end, server_end = memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(build(auth_delay=100).serve_stream, server_end)
        client = Client(client_end)
        await client.hello()
        await client.send(f"{WRONG}\r\n".encode())
        await trio.sleep(1)
        nursery.cancel_scope.cancel()
    assert trio.current_time() < 2


# --- of an address -------------------------------------------------------------------------------------------------


async def test_address_with_too_many_failures_is_locked_out(autojump_clock: MockClock) -> None:
    hooks = Users()
    server = build(hooks)
    delays = await fail(server, "192.0.2.1", 20)
    assert delays == pytest.approx([1, 1, 1, 2, 4, 8] + [16] * 14, abs=1e-6)
    for line in (WRONG, RIGHT, f"AUTH SCRAM-SHA-256 {FIRST}", "AUTH LOGIN"):
        async with client_from(server, "192.0.2.1") as client:
            await client.command(line, LOCKED)
            await client.expect_end()
    assert len(hooks.checked) == 20
    async with client_from(server, "192.0.2.2") as client:
        await client.command(RIGHT, "235")
    async with client_from(server, "192.0.2.1") as client:  # mail without a login is not concerned
        await client.command("MAIL FROM:<a@client.test>", "250")


async def test_lock_ends_after_a_window_without_failures(autojump_clock: MockClock) -> None:
    server = build(auth_failures_per_peer=3, auth_window=600)
    await fail(server, "192.0.2.1", 3)
    for _ in range(6):  # refusals do not make it longer
        await trio.sleep(99)
        async with client_from(server, "192.0.2.1") as client:
            await client.command(RIGHT, LOCKED)
    await trio.sleep(7)
    async with client_from(server, "192.0.2.1") as client:
        await client.command(RIGHT, "235")
    assert await fail(server, "192.0.2.1") == pytest.approx([1], abs=1e-6)


async def test_window_slides(autojump_clock: MockClock) -> None:
    """A client that tries a wrong password again every few minutes does not lock out its network."""
    server = build(auth_failures_per_peer=5, auth_window=600)
    for _ in range(20):
        await fail(server, "192.0.2.1")
        await trio.sleep(200)
    async with client_from(server, "192.0.2.1") as client:
        await client.command(RIGHT, "235")


async def test_success_does_not_clear_the_failures(autojump_clock: MockClock) -> None:
    server = build(auth_failures_per_peer=6)
    for _ in range(3):
        await fail(server, "192.0.2.1", 2)
        async with client_from(server, "192.0.2.1") as client:
            await client.command(RIGHT, "235" if _ < 2 else LOCKED)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("192.0.2.1", "192.0.2.2", False),
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
    ],
)
async def test_address_is_that_by_which_sessions_are_counted(
    one: str, other: str, same: bool, autojump_clock: MockClock
) -> None:
    server = build(auth_failures_per_peer=1)
    await fail(server, one)
    async with client_from(server, other) as client:
        await client.command(RIGHT, LOCKED if same else "235")


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
async def test_loopback_address_is_not_locked_out(address: str, autojump_clock: MockClock) -> None:
    server = build(auth_failures_per_peer=3)
    assert await fail(server, address, 30) == pytest.approx([1] * 30, abs=1e-6)
    server = build(auth_failures_per_peer=3, count_local=True)
    await fail(server, address, 3)
    async with client_from(server, address) as client:
        await client.command(RIGHT, LOCKED)


async def test_address_without_a_limit(autojump_clock: MockClock) -> None:
    server = build(auth_failures_per_peer=None)
    assert await fail(server, "192.0.2.1", 30) == pytest.approx([1] * 30, abs=1e-6)


async def test_failures_of_the_server_do_not_lock_out(autojump_clock: MockClock) -> None:
    server = build(auth_failures_per_peer=3)
    for _ in range(3):
        async with client_from(server, "192.0.2.1") as client:
            for code in ("454", "454", "421"):
                await client.command(plain("later", "secret"), code)
    async with client_from(server, "192.0.2.1") as client:
        await client.command(RIGHT, "235")


async def test_refusal_that_ends_the_session_locks_out(autojump_clock: MockClock) -> None:
    async def auth(session: Session, credentials: Credentials) -> Reply | None:
        return None if credentials.password == "secret" else Reply(421, "Wrong password", "4.7.0")

    server = build(auth_failures_per_peer=2)
    server.on(auth=auth)
    for _ in range(2):
        async with client_from(server, "192.0.2.1") as client:
            await client.command(WRONG, "421")
    async with client_from(server, "192.0.2.1") as client:
        await client.command(RIGHT, LOCKED)


async def test_failures_before_starttls_count_after_it(autojump_clock: MockClock) -> None:
    extensions = standard(Auth(cleartext=True))
    async with connected(Server(Users(), name=NAME, extensions=extensions, tls=server_tls())) as client:
        await client.hello()
        await client.command(WRONG, "535")
        await client.command(WRONG, "535")
        await client.starttls()
        await client.hello()
        await client.command(WRONG, TOO_MANY)


@pytest.mark.parametrize("silent", [True, False])
async def test_exchange_that_the_client_does_not_finish_counts_for_its_address(
    silent: bool, autojump_clock: MockClock
) -> None:
    server = build(auth_failures_per_peer=3, auth_window=3600)
    for _ in range(3):
        async with client_from(server, "192.0.2.1") as client:
            await client.command(f"AUTH SCRAM-SHA-256 {FIRST}", "334")
            if silent:
                await client.expect("421 4.4.2")
    async with client_from(server, "192.0.2.1") as client:
        await client.command(RIGHT, LOCKED)


async def test_address_that_a_hook_has_set_is_counted(autojump_clock: MockClock) -> None:
    """Behind a proxy all connections come from one address."""

    class BehindProxy(Users):
        async def connect(self, session: Session) -> Reply | None:
            session.peer = Peer(next(addresses), 5000, "tcp")
            return None

    addresses = iter(["198.51.100.1", "198.51.100.1", "198.51.100.2"])
    server = build(BehindProxy(), auth_failures_per_peer=1)
    await fail(server, "192.0.2.1")
    for expected in (LOCKED, "235"):
        async with client_from(server, "192.0.2.1") as client:
            await client.command(RIGHT, expected)


async def test_sessions_at_the_same_time_share_the_limit(autojump_clock: MockClock) -> None:
    """Only the checks that are under way when the limit is reached are in addition to it."""
    hooks, sessions = Users(), 8
    server = build(hooks, auth_failures_per_peer=10)

    async def try_passwords() -> None:
        async with client_from(server, "192.0.2.1") as client:
            await client.send(f"{WRONG}\r\n".encode() * 3)
            while not (await client.reply()).startswith("421"):
                pass

    async with trio.open_nursery() as nursery:
        for _ in range(sessions):
            nursery.start_soon(try_passwords)
    assert 10 <= len(hooks.checked) < 10 + sessions


@pytest.mark.slow
async def test_memory_for_addresses_is_bounded(autojump_clock: MockClock) -> None:
    service = build(auth_failures_per_peer=2)._state.auth_service
    for one, other in pairwise(range(30000)):
        for number in (one, other):
            service.count(Peer(f"2001:db8:{number // 65536:x}:{number % 65536:x}::1", 25, "tcp"), temporary=False)
    assert len(service._failures) <= 10000
