"""The part of a session that a store uses, without a server."""

from __future__ import annotations

import itertools
import os
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NoReturn, cast

import pytest
import trio
from attrs import frozen

from smtp_trio import Envelope, Path, Peer, Session
from smtp_trio.protocol.commands import Ehlo, Mail, Rcpt
from smtp_trio.protocol.params import NO_PARAMS, Params

if TYPE_CHECKING:
    from collections.abc import Iterator

    from smtp_trio import Body

NUMBERS = itertools.count(1)
CLIENT = Peer("192.0.2.1", 4711, "tcp")
EHLO = Ehlo("client.test")


@frozen
class ServerStub:
    """The part of a server that a store uses."""

    name: str = "mx.test"

    def now(self) -> datetime:
        return datetime(2026, 11, 22, 9, 23, 26, 4711, UTC)


@frozen
class SessionStub:
    """The part of a session that a store uses."""

    envelope: Envelope | None
    server: ServerStub = ServerStub()
    peer: Peer = CLIENT
    hello: Ehlo = EHLO
    tls: None = None
    user: None = None
    protocol_name: str = "ESMTP"

    def received(self) -> bytes:
        return Session.received(cast("Session", self))


@frozen
class Chunks:
    """A body that consists of these chunks, and then raises ``error``: StopAsyncIteration for the normal end."""

    chunks: Iterator[bytes]
    error: Exception

    def __aiter__(self) -> Chunks:
        return self

    async def __anext__(self) -> bytes:
        await trio.lowlevel.checkpoint()
        for chunk in self.chunks:
            return chunk
        raise self.error


def path(mailbox: str) -> Path:
    """Return a mailbox as a path."""
    parsed = Path.parse(f"<{mailbox}>")
    assert parsed is not None
    return parsed


def transaction(
    sender: str = "me@client.test", *recipients: str, params: Params = NO_PARAMS, rcpt_params: Params = NO_PARAMS
) -> Session:
    """Return a session that is about to receive a message. The last recipient has ``rcpt_params``."""
    names = recipients or ("you@mx.test",)
    rcpts = tuple(Rcpt(path(name), rcpt_params if name == names[-1] else NO_PARAMS) for name in names)
    return cast("Session", SessionStub(Envelope(f"T{next(NUMBERS):06}", Mail(path(sender), params), rcpts)))


def between_transactions() -> Session:
    """Return a session without a transaction."""
    return cast("Session", SessionStub(None))


def envelope(session: Session) -> Envelope:
    """Return the envelope of a session's transaction."""
    assert session.envelope is not None
    return session.envelope


def body(*octets: bytes, chunks: Iterator[bytes] | None = None, error: Exception | None = None) -> Body:
    """Return a body of the given chunks. After the last one it ends, or raises ``error``."""
    return cast("Body", Chunks(chunks or iter(octets), error or StopAsyncIteration()))


def large(size: int = 5 << 19) -> Iterator[bytes]:
    """Iterate over the chunks, all different, of a message that a store keeps in a file."""
    for n in range(size >> 16):
        yield (b"%08d " % n * 7281)[: (1 << 16) - 2] + b"\r\n"


def skip_without(requirement: str) -> NoReturn:
    """Skip the test because a requirement is missing; fail in CI, where all of them must be there."""
    if os.environ.get("CI"):
        pytest.fail(f"CI must have {requirement}")
    pytest.skip(f"needs {requirement}")
