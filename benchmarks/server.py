"""Servers in processes of their own, which run until they are killed.

    python -m benchmarks.server KIND PORT CERTIFICATE [PATH]

The kind ``floor`` does the least that a Trio handler can do for a client that waits for each reply: it parses nothing,
checks nothing, and has no timeouts. ``handshake`` only makes TLS handshakes. The difference between them and smtp_trio
is the cost of SMTP.
"""

from __future__ import annotations

import ssl
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Self

import trio

import smtp_trio
from smtp_trio import stores
from smtp_trio._cli.main import main as smtp_trio_main
from smtp_trio.protocol.body_inspector import Newlines
from smtp_trio.stores import Maildir, SQLite, Store
from smtp_trio.stores._group import GroupCommit
from smtp_trio.stores._open import SCHEMES

from .resources import raise_descriptor_limit


class Sink(smtp_trio.Hooks):
    """Hooks that read every message, and store nothing."""

    async def data(self, session: smtp_trio.Session, body: smtp_trio.Body) -> None:
        async for _ in body:
            pass


class Busy(Store[Any]):
    """A store that keeps nothing and uses 1 ms of CPU for each message, as an application may."""

    @classmethod
    def from_url(cls, url: str) -> Self:
        store = cls()
        store.url = url
        return store

    def _commit(self, messages: Sequence[Any]) -> dict[Any, Exception]:
        raise AssertionError("nothing is stored")

    async def data(self, session: smtp_trio.Session, body: smtp_trio.Body) -> None:
        await Sink().data(session, body)
        end = time.thread_time() + 0.001
        while time.thread_time() < end:
            pass


class UngroupedMaildir(Maildir):
    """A Maildir store that flushes for every message.

    The stores have no setting for that, since it is only slower. So this replaces a private attribute.
    """

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self._group = GroupCommit(self._commit, max_size=1)


class UngroupedSQLite(SQLite):
    """An SQLite store with one transaction for every message."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self._group = GroupCommit(self._commit, max_size=1)


def ungrouped(store: Store[Any]) -> Store[Any]:
    """Return a store that commits every message alone, with a private attribute as in `UngroupedMaildir`."""
    store._group._max_size = 1
    del store._group._lanes[1:]
    return store


async def serve_store(port: int, context: ssl.SSLContext, url: str, *, grouped: bool = True) -> None:
    """Serve with the store of a URL."""
    async with stores.open(url) as store:
        await serve(port, context, hooks=lambda _: store if grouped else ungrouped(store), newlines="reject")


async def serve(
    port: int, context: ssl.SSLContext, path: str = "", *, hooks: Callable[[str], smtp_trio.Hooks], newlines: Newlines
) -> None:
    """Serve with smtp_trio."""
    server = smtp_trio.Server(hooks(path), name="bench.example.org", tls=context, newlines=newlines, size=0)
    await server.serve(port, "127.0.0.1")


async def answer(stream: trio.abc.Stream, context: ssl.SSLContext) -> None:
    """Answer 250 to every line and 354 to DATA, and start TLS after STARTTLS."""
    await stream.send_all(b"220 floor ESMTP\r\n")
    end = None  # the last octets of the message that is being received
    while octets := await stream.receive_some(65536):
        if end is not None:
            end = (end + octets)[-5:]
            if end != b"\r\n.\r\n":
                continue
            end, reply = None, b"250 Ok\r\n"
        elif octets[-6:] == b"DATA\r\n":
            end, reply = b"", b"250 Ok\r\n" * (octets.count(b"\n") - 1) + b"354 Go ahead\r\n"
        elif octets[:8] == b"STARTTLS":
            await stream.send_all(b"220 Go ahead\r\n")
            stream = trio.SSLStream(stream, context, server_side=True)
            await stream.do_handshake()
            continue
        else:
            reply = b"250 Ok\r\n" * octets.count(b"\n")
        await stream.send_all(reply)


async def handshake(stream: trio.abc.Stream, context: ssl.SSLContext) -> None:
    """Make a TLS handshake, and wait for the end of the connection."""
    secure = trio.SSLStream(stream, context, server_side=True, https_compatible=True)
    await secure.do_handshake()
    await secure.receive_some(1)


async def listen(
    port: int, context: ssl.SSLContext, handler: Callable[[trio.abc.Stream, ssl.SSLContext], Awaitable[None]]
) -> None:
    """Serve with a handler and nothing else."""

    async def session(stream: trio.SocketStream) -> None:
        try:
            await handler(stream, context)
        except trio.BrokenResourceError:
            pass
        finally:
            await trio.aclose_forcefully(stream)

    await trio.serve_tcp(session, port, host="127.0.0.1", backlog=1000)


KINDS: dict[str, Callable[..., Awaitable[Any]]] = {
    "smtp_trio": partial(serve, hooks=lambda _: Sink(), newlines="reject"),
    "preserve": partial(serve, hooks=lambda _: Sink(), newlines="preserve"),
    "maildir": partial(serve, hooks=Maildir, newlines="reject"),
    "ungrouped-maildir": partial(serve, hooks=UngroupedMaildir, newlines="reject"),
    "sqlite": partial(serve, hooks=SQLite, newlines="reject"),
    "ungrouped-sqlite": partial(serve, hooks=UngroupedSQLite, newlines="reject"),
    "store": serve_store,
    "ungrouped-store": partial(serve_store, grouped=False),
    "floor": partial(listen, handler=answer),
    "handshake": partial(listen, handler=handshake),
}


def command_line(port: str, certificate: str, workers: str, store: str, *more: str) -> None:
    """Run ``smtp-trio serve`` with one more store, and more options."""
    # The workers of a server on several cores are a feature of the command only, and it has no option for a store of
    # another package. So this uses two private names.
    SCHEMES["busy"] = (__name__, "Busy", None)
    options = {"--port": port, "--tls-cert": certificate, "--workers": workers, "--store": store}
    sys.exit(smtp_trio_main(["serve", *(argument for pair in options.items() for argument in pair), *more]))


def main(kind: str, port: str, certificate: str, *path: str) -> None:
    """Serve until killed."""
    raise_descriptor_limit()
    if kind == "command-line":
        command_line(port, certificate, *path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    trio.run(partial(KINDS[kind], int(port), context, *path))


if __name__ == "__main__":
    main(*sys.argv[1:])
