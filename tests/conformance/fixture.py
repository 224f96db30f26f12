"""Server for external conformance runners: fixed mailboxes, hooks that fail, and a file for each accepted message.

    python fixture.py --port P [--submission-port P] [--smtps-port P] [--limits-port P] [--lmtp-port P] ...
        [--spool-port P --spool maildir:PATH|sqlite:PATH] --sink DIR

It prints a line for each listening port, and stops on SIGINT or SIGTERM. The sink is a directory with one file for each
message that was answered with 250: a line ``ENV <sender> <recipient,recipient>``, then the content as received.

The profile "spool" has the same mailboxes, and a store that flushes each message to the disk before the 250. Its cases
are manual: run the fixture under strace or fiu-run, or with the spool on a file system that is small or read-only.
"""

from __future__ import annotations

import argparse
import logging
import signal
import ssl
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import trio
import trustme

import smtp_trio
from smtp_trio import Reply
from smtp_trio.protocol.extensions import Auth, StartTls, standard
from smtp_trio.stores import Maildir, SQLite

NAME = "mx.test"
HOST = "127.0.0.1"
DOMAIN = "example.com"
STORES: dict[str, type[Maildir | SQLite]] = {"maildir": Maildir, "sqlite": SQLite}
USER, PASSWORD = "test", "secret"

NO_SUCH_USER = Reply(550, "No such user here", "5.1.1")
RELAYING_DENIED = Reply(550, "We do not relay", "5.7.1")
MAILBOX_BUSY = Reply(450, "Mailbox busy, try again later", "4.2.1")
MAILBOX_FULL = Reply(452, "Mailbox full", "4.2.2")
MAILBOX_CLOSED = Reply(550, "Mailbox closed", "5.2.1")
INVALID_CREDENTIALS = Reply(535, "Authentication credentials invalid", "5.7.8")


class Mailboxes(smtp_trio.Hooks):
    """The mailboxes of one domain, some with a hook that fails or delays. Writes accepted messages to the sink."""

    def __init__(self, sink: Path) -> None:
        self.sink = trio.Path(sink)

    async def rcpt(self, session: smtp_trio.Session, rcpt: smtp_trio.protocol.Rcpt) -> Reply | None:
        path = rcpt.recipient
        if path.domain not in (DOMAIN, None):
            return RELAYING_DENIED
        match path.local.lower():
            case "user" | "user2" | "recipient" | "postmaster":
                return None
            case local if local.startswith("ok-"):
                return None
            case "later":
                return MAILBOX_BUSY
            case "slow":
                await trio.sleep(30)
                return None
            case "slow2":
                await trio.sleep(1)
                return None
            case "crash":
                raise RuntimeError("SECRET-TRACE-TOKEN")
            case "crlfreply":
                return Reply(250, "ok\r\n221 bye")
            case "utf8reply":
                return Reply(250, "příjemce přijat")
            case "badcode":
                return Reply(999, "no such code")  # raises ValueError, as RFC 5321 4.2 has no such code
        return NO_SUCH_USER

    async def data(self, session: smtp_trio.Session, body: smtp_trio.Body) -> Reply | Sequence[Reply | None] | None:
        content = await body.read()
        envelope = session.envelope
        assert envelope is not None
        if any(path.local.lower() == "ok-crashdata" for path in envelope.recipients):
            raise RuntimeError("SECRET-TRACE-TOKEN")
        recipients = ",".join(path.raw for path in envelope.recipients)
        incomplete = self.sink / f".{envelope.id}"
        await incomplete.write_bytes(f"ENV <{envelope.sender.raw}> <{recipients}>\n".encode() + content)
        await incomplete.rename(self.sink / envelope.id)
        return None


class DeliveryAgent(Mailboxes):
    """The same mailboxes by LMTP: "ok-full" and "ok-closed" are refused at the end of a message."""

    async def data(self, session: smtp_trio.Session, body: smtp_trio.Body) -> Any:
        outcomes = {"ok-full": MAILBOX_FULL, "ok-closed": MAILBOX_CLOSED}
        return await super().data(session, body) or [
            outcomes.get(path.local.lower()) for path in body.envelope.recipients
        ]


class Spooled(Mailboxes):
    """The same mailboxes, with a store in place of the sink."""

    def __init__(self, sink: Path, store: Maildir | SQLite) -> None:
        super().__init__(sink)
        self.store = store

    async def stop(self, server: smtp_trio.Server) -> None:
        await self.store.aclose()

    async def data(self, session: smtp_trio.Session, body: smtp_trio.Body) -> Reply | Sequence[Reply | None] | None:
        return await self.store.data(session, body)


class Accounts(Mailboxes):
    """The same mailboxes, with AUTH for one user."""

    async def auth(self, session: smtp_trio.Session, credentials: smtp_trio.Credentials) -> Reply | None:
        authenticated = (credentials.user, credentials.password) == (USER, PASSWORD)
        authorized = credentials.authzid in ("", credentials.user)  # RFC 4616 2: an empty identity is the user's own
        return None if authenticated and authorized else INVALID_CREDENTIALS


def make_store(text: str) -> Maildir | SQLite:
    """Return the store that an option names."""
    kind, _, path = text.partition(":")
    if kind not in STORES or not path:
        raise argparse.ArgumentTypeError(f"must be maildir:PATH or sqlite:PATH, got {text!r}")
    return STORES[kind](path)


async def main(ports: dict[str, int], sink: Path, store: Maildir | SQLite | None) -> None:
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    trustme.CA().issue_cert(NAME, "localhost", HOST).configure_cert(tls)
    make_server = partial(smtp_trio.Server, name=NAME, size=1048576, tls=tls, limits=smtp_trio.Limits(recipients=100))
    authenticated_only = standard(StartTls(required=True), Auth(required=True))
    servers = {
        "mx": make_server(Mailboxes(sink)),
        "submission": make_server(Accounts(sink), extensions=authenticated_only),
        "smtps": make_server(Accounts(sink)),
    }
    # Low limits, so that a runner need not wait for minutes, and its own connections are counted.
    limited = smtp_trio.Server(
        Mailboxes(sink),
        name=NAME,
        size=1048576,
        tls=tls,
        timeout=smtp_trio.Timeouts(command=3, block=3, hook=5, end=5, tls=3, write=3),
        limits=smtp_trio.Limits(sessions=64, per_peer=10, count_local=True, recipients=100, errors=10),
    )
    servers |= {"limits": limited, "limits-tls": limited}
    servers["lmtp"] = make_server(DeliveryAgent(sink), lmtp=True)
    servers["xclient"] = make_server(Mailboxes(sink), xclient_from=["127.0.0.1"], xforward_from=["127.0.0.1"])
    servers["proxy"] = make_server(
        Mailboxes(sink), timeout=smtp_trio.Timeouts(command=10, proxy=2), proxy_from=["127.0.0.1"]
    )
    if store is not None:
        servers["spool"] = make_server(Spooled(sink, store))
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            for profile, port in ports.items():
                serve = partial(servers[profile].serve, implicit_tls=profile == "smtps")
                listeners: list[trio.SocketListener] = await nursery.start(serve, port, HOST)
                print(profile, *listeners[0].socket.getsockname(), flush=True)
            async for _ in signals:
                nursery.cancel_scope.cancel()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="A server for black-box conformance runners.")
    parser.add_argument("--port", type=int, required=True, help="plain SMTP, STARTTLS if wanted")
    parser.add_argument("--submission-port", type=int, help="STARTTLS, then AUTH, then mail")
    parser.add_argument("--smtps-port", type=int, help="TLS from the first octet on")
    parser.add_argument("--limits-port", type=int, help="low limits and short timeouts")
    parser.add_argument("--limits-tls-port", type=int, help="the same, for handshakes that stall")
    parser.add_argument("--proxy-port", type=int, help="a PROXY header first, within 2 seconds")
    parser.add_argument("--lmtp-port", type=int, help="LMTP")
    parser.add_argument("--xclient-port", type=int, help="XCLIENT and XFORWARD are allowed")
    parser.add_argument("--spool-port", type=int, help="messages go into --spool, and not into the sink")
    parser.add_argument("--spool", metavar="STORE", type=make_store, help="maildir:PATH or sqlite:PATH")
    parser.add_argument("--sink", type=Path, required=True, help="the folder for accepted messages")
    options = parser.parse_args()
    if (options.spool_port is None) != (options.spool is None):
        parser.error("--spool-port needs --spool, and --spool needs --spool-port")
    options.sink.mkdir(parents=True, exist_ok=True)
    logging.basicConfig(level=logging.INFO)
    ports = {
        "mx": options.port,
        "submission": options.submission_port,
        "smtps": options.smtps_port,
        "limits": options.limits_port,
        "limits-tls": options.limits_tls_port,
        "proxy": options.proxy_port,
        "lmtp": options.lmtp_port,
        "xclient": options.xclient_port,
        "spool": options.spool_port,
    }
    trio.run(main, {profile: port for profile, port in ports.items() if port is not None}, options.sink, options.spool)
