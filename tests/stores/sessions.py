"""What a store asks of a session, without a server behind it."""

from __future__ import annotations

import itertools
import os
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NoReturn, cast

import pytest
import trio
from attrs import frozen

from smtp_trio import Envelope, Path, Peer
from smtp_trio._server.received import received
from smtp_trio.protocol.commands import Ehlo, Mail, Rcpt

if TYPE_CHECKING:
    from collections.abc import Iterator

    from smtp_trio import Body, Session

NUMBERS = itertools.count(1)
CLIENT = Peer("192.0.2.1", 4711, "tcp")
EHLO = Ehlo("client.test")


@frozen
class Site:
    """The part of a server that a store sees."""

    name: str = "mx.test"

    def now(self) -> datetime:
        return datetime(2026, 11, 22, 9, 23, 26, 4711, UTC)


@frozen
class Transaction:
    """The part of a session that a store sees."""

    envelope: Envelope | None
    server: Site = Site()
    peer: Peer = CLIENT
    hello: Ehlo = EHLO
    tls: None = None
    user: None = None
    protocol_name: str = "ESMTP"

    def received(self) -> bytes:
        return received(cast("Session", self))


@frozen
class Chunks:
    """A body that is pulled in pieces."""

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
    parsed = Path.parse(f"<{mailbox}>")
    assert parsed is not None
    return parsed


def transaction(sender: str = "me@client.test", *recipients: str) -> Session:
    """A session at the point where its message begins."""
    rcpts = tuple(Rcpt(path(recipient)) for recipient in recipients or ("you@mx.test",))
    return cast("Session", Transaction(Envelope(f"T{next(NUMBERS):06}", Mail(path(sender)), rcpts)))


def between_transactions() -> Session:
    return cast("Session", Transaction(None))


def envelope(session: Session) -> Envelope:
    assert session.envelope is not None
    return session.envelope


def body(*pieces: bytes, chunks: Iterator[bytes] | None = None, error: Exception | None = None) -> Body:
    """A body in pieces, at whose end an error may stand."""
    return cast("Body", Chunks(chunks or iter(pieces), error or StopAsyncIteration()))


def large(size: int = 5 << 19) -> Iterator[bytes]:
    """The chunks of a message that no store keeps in memory, each unlike the others."""
    for n in range(size >> 16):
        yield (b"%08d " % n * 7281)[: (1 << 16) - 2] + b"\r\n"


def leave_out(want: str) -> NoReturn:
    """Leave a test out for want of something; never in CI, where all of it is meant to be there."""
    if os.environ.get("CI"):
        pytest.fail(f"CI must have {want}")
    pytest.skip(f"needs {want}")
