"""SASL mechanisms (RFC 4954) through a whole server, with its `auth` and `secret` hooks."""

from __future__ import annotations

import base64
import smtplib
from typing import Any, cast

import pytest
import trio
from helpers import MESSAGE, NAME, Client, RecordingHooks, connected, listening
from trio.testing import MockClock

from smtp_trio import Credentials, Hooks, Reply, Server, Session, standard
from smtp_trio.protocol.extensions import Auth
from smtp_trio.protocol.replies import INVALID_CREDENTIALS
from smtp_trio.protocol.sasl import (
    MECHANISMS,
    AnonymousCredentials,
    BearerToken,
    ClientCredentials,
    ClientExchange,
    Computation,
    MechanismContext,
    PasswordCredentials,
    ScramSecret,
    Secret,
)

#: The mechanisms that do not need TLS.
ALL = tuple(name for name, mechanism in MECHANISMS.items() if not mechanism.needs)
FRED = PasswordCredentials("fred", "secret")
TOKEN = BearerToken("fred", "abc.def")
ANONYMOUS = AnonymousCredentials("fred@client.test")
WHO: dict[str, ClientCredentials] = {
    name: next(each for each in (FRED, TOKEN, ANONYMOUS) if isinstance(each, MECHANISMS[name].credentials))
    for name in ALL
}


class AuthHooks(RecordingHooks):
    """Hooks with one user, fred."""

    def __init__(self, secret: object = "secret") -> None:
        super().__init__()
        self.secrets: dict[str, object] = {"fred": secret}
        self.asked: list[tuple[str, str]] = []
        self.users: list[str | None] = []

    async def auth(self, session: Session, credentials: Credentials) -> Reply | None:
        return None if credentials.password in (FRED.password, TOKEN.token, ANONYMOUS.trace) else INVALID_CREDENTIALS

    async def secret(self, session: Session, user: str, mechanism: str) -> Secret | None:
        self.asked.append((user, mechanism))
        secret = self.secrets.get(user)
        if isinstance(secret, Exception):
            raise secret
        if secret == "late":
            await trio.sleep_forever()
        return cast("Secret | None", secret)

    async def disconnect(self, session: Session) -> None:
        self.users.append(session.user)


def build(hooks: Hooks, *, mechanisms: tuple[str, ...] = ALL, **settings: Any) -> Server:
    return Server(hooks, name=NAME, extensions=standard(Auth(mechanisms=mechanisms, cleartext=True)), **settings)


def b64(octets: bytes | None) -> str:
    return base64.b64encode(octets or b"").decode()


def respond(client: ClientExchange, challenge: bytes | None) -> bytes | None:
    """Send a challenge to the client's side of a mechanism; return its response."""
    answer: Any = challenge
    while isinstance(step := client.send(answer), Computation):
        answer = step.compute()
    return step


async def log_in(client: Client, name: str, credentials: ClientCredentials) -> str:
    """Run an exchange to its end; return the last reply."""
    half = MECHANISMS[name].client(credentials, MechanismContext(NAME, lambda n: bytes(range(n))))
    initial = respond(half, None)
    await client.send((f"AUTH {name}" + ("" if initial is None else f" {b64(initial)}")).encode() + b"\r\n")
    while (reply := await client.reply()).startswith("334"):
        await client.send(b64(respond(half, base64.b64decode(reply[4:]))).encode() + b"\r\n")
    if reply.startswith("235"):
        with pytest.raises(StopIteration):
            half.send(None)
    return reply


@pytest.mark.parametrize("name", ALL)
async def test_login(name: str, autojump_clock: MockClock) -> None:
    auth_hooks = AuthHooks()
    async with connected(build(auth_hooks)) as client:
        assert f"250-AUTH {' '.join(ALL)}" in (await client.hello()).split("\n")
        assert (await log_in(client, name, WHO[name])).startswith("235 2.7.0 ")
        await client.command(f"AUTH {name}", "503 5.5.1")
        await client.deliver()
        await client.quit()
    assert auth_hooks.users == [WHO[name].user]
    assert auth_hooks.messages == [MESSAGE]
    assert auth_hooks.asked == ([("fred", name)] if MECHANISMS[name].hook == "secret" else [])


@pytest.mark.parametrize("user", ["fred", "nobody"])
@pytest.mark.parametrize("name", ALL)
async def test_too_many_failures(name: str, user: str, autojump_clock: MockClock) -> None:
    """The third failure closes the connection, whatever its kind."""
    kinds = (PasswordCredentials(user, "wrong"), BearerToken(user, "wrong"), AnonymousCredentials("wrong"))
    wrong = next(each for each in kinds if isinstance(each, MECHANISMS[name].credentials))
    auth_hooks = AuthHooks()
    async with connected(build(auth_hooks)) as client:
        await client.hello()
        for expected in (INVALID_CREDENTIALS, INVALID_CREDENTIALS):
            assert await log_in(client, name, wrong) == str(expected)
        assert (await log_in(client, name, wrong)).startswith(f"421 4.7.0 {NAME}")
        await client.expect_end()
    assert auth_hooks.users == [None]
    assert auth_hooks.errors == []


async def test_cancelling_after_a_failure_counts_as_a_failure(autojump_clock: MockClock) -> None:
    """A token that was refused counts, and it counts once if the client cancels then."""
    bad = b64(b"user=fred\x01auth=Bearer wrong\x01\x01")
    async with connected(build(AuthHooks())) as client:
        await client.hello()
        for code in ("501 5.7.0", "501 5.7.0", "421 4.7.0"):
            await client.command(f"AUTH XOAUTH2 {bad}", "334")
            await client.command("*", code)
        await client.expect_end()


@pytest.mark.parametrize(
    ("name", "steps"), [*((name, 0) for name in ALL), ("LOGIN", 1), ("SCRAM-SHA-256", 1), ("SCRAM-SHA-256", 2)]
)
async def test_connection_closed_after_a_challenge(name: str, steps: int, autojump_clock: MockClock) -> None:
    """No user is authenticated, and nothing fails, also if the client leaves in the middle of its response."""
    for rest in (b"", b"Zn"):
        auth_hooks = AuthHooks()
        half = MECHANISMS[name].client(WHO[name], MechanismContext(NAME, lambda n: bytes(range(n))))
        async with connected(build(auth_hooks)) as client:
            await client.hello()
            reply = await client.command(f"AUTH {name}", "334")
            response = respond(half, None)
            for _ in range(steps):
                if response is None:
                    response = respond(half, base64.b64decode(reply[4:]))
                reply, response = await client.command(b64(response), "334"), None
            await client.send(rest)
        assert (auth_hooks.users, auth_hooks.errors) == ([None], [])


async def test_login_with_a_scram_secret(autojump_clock: MockClock) -> None:
    auth_hooks = AuthHooks(ScramSecret.from_password("secret", bytes(16)))
    async with connected(build(auth_hooks)) as client:
        await client.hello()
        assert await log_in(client, "CRAM-MD5", FRED) == str(INVALID_CREDENTIALS)
        assert (await log_in(client, "SCRAM-SHA-256", FRED)).startswith("235")
    assert auth_hooks.errors == []


async def test_mechanisms_without_tls(autojump_clock: MockClock) -> None:
    server = Server(AuthHooks(), name=NAME)
    async with connected(server) as client:
        assert "250-AUTH SCRAM-SHA-256 CRAM-MD5" in (await client.hello()).split("\n")
        await client.command("AUTH PLAIN", "538 5.7.11")
        assert (await log_in(client, "SCRAM-SHA-256", FRED)).startswith("235")


@pytest.mark.parametrize("mistake", [RuntimeError("the secret is 42"), 42, "late", Reply(235), Reply(354), Reply(550)])
@pytest.mark.parametrize("name", ["SCRAM-SHA-256", "CRAM-MD5"])
async def test_secret_hook_that_fails(name: str, mistake: object, autojump_clock: MockClock) -> None:
    """The client gets 454 without the reason."""
    auth_hooks = AuthHooks(mistake)
    async with connected(build(auth_hooks)) as client:
        await client.hello()
        for _ in range(2):
            assert await log_in(client, name, FRED) == "454 4.7.0 Temporary authentication failure"
        await client.quit()
    assert len(auth_hooks.errors) == 2
    assert auth_hooks.users == [None]


async def test_unknown_user_has_the_same_salt_in_every_session(autojump_clock: MockClock) -> None:
    server = build(AuthHooks())
    salts = set()
    for _ in range(2):
        async with connected(server) as client:
            await client.hello()
            reply = await client.command(f"AUTH SCRAM-SHA-256 {b64(b'n,,n=nobody,r=abc')}", "334")
            salts.add(base64.b64decode(reply[4:]).split(b",")[1])
    assert len(salts) == 1


@pytest.mark.parametrize("name", ["CRAM-MD5", "PLAIN", "LOGIN"])
async def test_login_by_smtplib(name: str) -> None:
    """smtplib over TCP. It uses the strongest mechanism that it knows, so the server offers one only."""
    auth_hooks = AuthHooks()

    def converse(port: int) -> None:
        with smtplib.SMTP("127.0.0.1", port, timeout=100) as client:
            with pytest.raises(smtplib.SMTPAuthenticationError) as caught:
                client.login("fred", "wrong")
            assert caught.value.smtp_code == 535
            client.login("fred", "secret")
            client.sendmail("me@client.test", ["you@mx.test"], MESSAGE)

    async with listening(build(auth_hooks, mechanisms=(name,))) as port:
        await trio.to_thread.run_sync(converse, port)
    assert auth_hooks.users == ["fred"]
    assert auth_hooks.messages == [MESSAGE]
