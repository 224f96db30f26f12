"""Configurations of `smtp_trio.Server` in memory that the cases are tried with: with every extension, and with none."""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from functools import cache, partial

import trio
import trustme
from attrs import frozen
from trio.testing import MockClock, memory_stream_pair

import smtp_trio
from smtp_trio import Body, Client, Credentials, Hooks, Limits, Peer, Reply, Server, Session, TlsFiles, standard
from smtp_trio.conform import Report, Requirement, Target, check_server, server_cases
from smtp_trio.protocol import Rcpt
from smtp_trio.protocol.extensions import (
    AtrnExtension,
    Auth,
    BinaryMime,
    BurlExtension,
    DeliverBy,
    EtrnExtension,
    FutureRelease,
    LimitsExtension,
    MessageTracking,
    MtPriority,
    NoSoliciting,
    RequireRecipientValidSince,
    RequireTls,
    StartTls,
)
from smtp_trio.protocol.extensions.atrn import Atrn
from smtp_trio.protocol.extensions.burl import CANNOT_FETCH, Burl
from smtp_trio.protocol.extensions.etrn import Etrn
from smtp_trio.protocol.sasl import Secret

HOST = "mx.test"
USER, PASSWORD = "ada", "a secret"
BALANCER = "10.0.0.1"
URL = "imap://imap.test/box/;uid=1"

#: Those that need no certificate of the client.
MECHANISMS = (
    *("SCRAM-SHA-256-PLUS", "SCRAM-SHA-1-PLUS", "SCRAM-SHA-256", "SCRAM-SHA-1", "PLAIN", "LOGIN", "CRAM-MD5"),
    *("OAUTHBEARER", "ANONYMOUS"),
)

Dial = Callable[[], Awaitable[trio.abc.Stream]]


class Mailboxes(Hooks):
    """Accepts all recipients except "nobody"."""

    async def rcpt(self, session: Session, rcpt: Rcpt) -> Reply | None:
        return Reply(550, "No such user here", "5.1.1") if rcpt.recipient.user == "nobody" else None

    async def data(self, session: Session, body: Body) -> None:
        await body.read()


class Accounts(Mailboxes):
    """Accepts one user and password, and anonymous clients."""

    async def auth(self, session: Session, credentials: Credentials) -> Reply | None:
        if credentials.mechanism == "ANONYMOUS":
            return None
        valid = (credentials.user, credentials.password) == (USER, PASSWORD)
        return None if valid else Reply(535, "Authentication credentials invalid", "5.7.8")

    async def secret(self, session: Session, user: str, mechanism: str) -> Secret | None:
        return PASSWORD if user == USER else None


class Closed(Mailboxes):
    """Refuses every client."""

    async def connect(self, session: Session) -> Reply | None:
        return Reply(554, "No mail is accepted here")


@cache
def contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Return TLS for the server, and for a client that trusts it."""
    authority = trustme.CA()
    with authority.issue_cert(HOST).private_key_and_cert_chain_pem.tempfile() as path:
        server = TlsFiles(path).load()  # of which the server knows the certificate, for channel binding
    client = ssl.create_default_context()
    authority.configure_trust(client)
    return server, client


@frozen
class Configuration:
    """A server, and the settings with which a client uses it."""

    server: Callable[[], Server]
    implicit_tls: bool = False
    user: str | None = None
    lmtp: bool = False
    peer: str | None = None
    """The address of the client."""
    proxy_protocol: bool = False
    port: int = 25
    """What the cases take for the port: some extensions must not be offered at 25 or 587."""


def plain() -> Server:
    return Server(Mailboxes(), name=HOST, size=1048576, tls=contexts()[0], limits=Limits(recipients=100))


def submission() -> Server:
    strict = standard(StartTls(required=True), Auth(required=True))
    return Server(Accounts(), name=HOST, size=1048576, tls=contexts()[0], extensions=strict)


def smtps() -> Server:
    every = standard(Auth(mechanisms=MECHANISMS))
    return Server(Accounts(), name=HOST, size=1048576, tls=contexts()[0], extensions=every)


def bare() -> Server:
    return Server(Mailboxes(), name=HOST, extensions=())


def strict() -> Server:
    return Server(
        Mailboxes(),
        name=HOST,
        size=1048576,
        tls=contexts()[0],
        strict=True,
        xclient_from=[BALANCER],
        xforward_from=[BALANCER],
    )


def lmtp() -> Server:
    return Server(Mailboxes(), name=HOST, size=1048576, tls=contexts()[0], strict=True, lmtp=True)


def closed() -> Server:
    return Server(Closed(), name=HOST)


class Queues(Mailboxes):
    """Has the hook of ETRN."""

    async def etrn(self, session: Session, command: Etrn) -> Reply | None:
        return Reply(251, f"OK, no messages waiting for node {command.node}")


class Provider(Accounts):
    """Has the hooks of ATRN and BURL."""

    async def atrn(self, session: Session, command: Atrn) -> Reply | None:
        session.take_over(self._deliver)
        return Reply(250, "OK now reversing the connection")

    async def _deliver(self, stream: trio.abc.Stream) -> None:
        with suppress(OSError, smtp_trio.SMTPError):
            async with Client(stream, tls="never"):
                pass

    async def burl(self, session: Session, burl: Burl) -> Reply | None:
        if burl.url != URL:
            return CANNOT_FETCH
        session.provide(b"Subject: fetched\r\n\r\nText.\r\n")
        return None


def delivery() -> Server:
    extensions = standard(
        BinaryMime(),
        DeliverBy(minimum=60),
        EtrnExtension(),
        FutureRelease(86400, authenticated=False),
        LimitsExtension(mail_max=100, rcpt_max=100, rcpt_domain_max=3),
        MessageTracking(),
        MtPriority(),
        NoSoliciting("net.example:ADV"),
        RequireRecipientValidSince(),
        RequireTls(),
    )
    return Server(Queues(), name=HOST, size=1048576, tls=contexts()[0], extensions=extensions)


def services() -> Server:
    """Offer what is for users only, behind a balancer."""
    extensions = standard(AtrnExtension(), Auth(cleartext=True), BurlExtension(), FutureRelease(86400))
    return Server(
        Provider(),
        name=HOST,
        size=1048576,
        strict=True,
        extensions=extensions,
        limits=Limits(auth_failures_per_peer=None),
        proxy_from=[BALANCER],
    )


CONFIGURATIONS: Mapping[str, Configuration] = {
    "plain": Configuration(plain),
    "submission": Configuration(submission, user=USER),
    "smtps": Configuration(smtps, implicit_tls=True, user=USER),
    "bare": Configuration(bare),
    "delivery": Configuration(delivery, implicit_tls=True, port=465),
    "strict": Configuration(strict, peer=BALANCER),
    "services": Configuration(services, user=USER, peer=BALANCER, proxy_protocol=True, port=587),
    "closed": Configuration(closed),
    "lmtp": Configuration(lmtp, lmtp=True),
}


#: The cases that our server fails by default: it accepts what common clients send (docs/server, "Lenient and strict
#: servers"). With ``strict=True`` it refuses all of it.
DEVIATIONS = frozenset(
    [
        *("ehlo.underscore", "ehlo.bad-hyphen", "ehlo.bad-dots", "ehlo.bad-literal", "ehlo.bad-words"),
        *("mail.bad-no-brackets", "mail.space-after", "mail.space-before", "mail.two-spaces"),
        *("rcpt.bad-no-brackets", "rcpt.space-after", "rcpt.space-before"),
    ]
)


@cache
def report(name: str) -> Report:
    """Return the report about a server. The cases are tried once, on a virtual clock."""
    return trio.run(_run, CONFIGURATIONS[name], server_cases(), clock=MockClock(autojump_threshold=0))


async def _run(configuration: Configuration, requirements: Sequence[Requirement]) -> Report:
    server = configuration.server()
    async with trio.open_nursery() as nursery:

        async def dial() -> trio.abc.Stream:
            near, far = memory_stream_pair()
            if configuration.peer is not None:
                far.endpoints = Peer(configuration.peer, 5000, "tcp"), Peer("10.0.0.2", 25, "tcp")  # type: ignore[attr-defined]
            nursery.start_soon(partial(server.serve_stream, far, implicit_tls=configuration.implicit_tls))
            return near

        target = Target(
            host=HOST,
            port=configuration.port,
            recipient="user@example.com",
            unknown="nobody@example.com",
            user=configuration.user,
            password=PASSWORD,
            tls=contexts()[1],
            implicit_tls=configuration.implicit_tls,
            lmtp=configuration.lmtp,
            proxy_protocol=configuration.proxy_protocol,
            burl=URL,
            dial=dial,
        )
        result = await check_server(target, requirements)
        nursery.cancel_scope.cancel()
    return result
