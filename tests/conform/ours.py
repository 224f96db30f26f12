"""Servers of ours that the cases are tried against, in memory: together they offer all there is, and nothing at all."""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import cache, partial

import trio
import trustme
from attrs import frozen
from trio.testing import MockClock, memory_stream_pair

from smtp_trio import Body, Credentials, Hooks, Limits, Reply, Server, Session, standard
from smtp_trio.conform import Report, Rule, Target, conform
from smtp_trio.conform._server_cases import server_rules
from smtp_trio.protocol import Rcpt
from smtp_trio.protocol.extensions import Auth, StartTls

HOST = "mx.test"
USER, PASSWORD = "ada", "a secret"

Dial = Callable[[], Awaitable[trio.abc.Stream]]


class Mailboxes(Hooks):
    """Everybody lives here but "nobody"."""

    async def rcpt(self, session: Session, rcpt: Rcpt) -> Reply | None:
        return Reply(550, "No such user here", "5.1.1") if rcpt.recipient.user == "nobody" else None

    async def data(self, session: Session, body: Body) -> None:
        await body.read()


class Accounts(Mailboxes):
    """The same, for somebody with a password."""

    async def auth(self, session: Session, credentials: Credentials) -> Reply | None:
        right = (credentials.user, credentials.password) == (USER, PASSWORD)
        return None if right else Reply(535, "Authentication credentials invalid", "5.7.8")


@cache
def contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """The server's TLS, and that of a client which trusts it."""
    authority = trustme.CA()
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(HOST).configure_cert(server)
    client = ssl.create_default_context()
    authority.configure_trust(client)
    return server, client


@frozen
class Setting:
    """One of them."""

    server: Callable[[], Server]
    implicit_tls: bool = False
    user: str | None = None


def plain() -> Server:
    return Server(Mailboxes(), name=HOST, size=1048576, tls=contexts()[0], limits=Limits(recipients=100))


def submission() -> Server:
    strict = standard(StartTls(required=True), Auth(required=True))
    return Server(Accounts(), name=HOST, size=1048576, tls=contexts()[0], extensions=strict)


def smtps() -> Server:
    return Server(Accounts(), name=HOST, size=1048576, tls=contexts()[0])


def bare() -> Server:
    return Server(Mailboxes(), name=HOST, extensions=())


SETTINGS: Mapping[str, Setting] = {
    "plain": Setting(plain),
    "submission": Setting(submission, user=USER),
    "smtps": Setting(smtps, implicit_tls=True, user=USER),
    "bare": Setting(bare),
}


@cache
def report(name: str) -> Report:
    """What all cases say of that server; they are tried once, on a clock that waits for nobody."""
    return trio.run(_run, SETTINGS[name], server_rules(), clock=MockClock(autojump_threshold=0))


async def _run(setting: Setting, rules: Sequence[Rule]) -> Report:
    server = setting.server()
    async with trio.open_nursery() as nursery:

        async def dial() -> trio.abc.Stream:
            near, far = memory_stream_pair()
            nursery.start_soon(partial(server.serve_stream, far, implicit_tls=setting.implicit_tls))
            return near

        target = Target(
            host=HOST,
            port=25,
            recipient="user@example.com",
            unknown="nobody@example.com",
            user=setting.user,
            password=PASSWORD,
            tls=contexts()[1],
            implicit_tls=setting.implicit_tls,
            dial=dial,
        )
        told = await conform(target, rules)
        nursery.cancel_scope.cancel()
    return told
