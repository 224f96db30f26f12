"""What the tests of fault scripts share: a client and a session with faults, and what became of them."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import trio

from smtp_trio import (
    BodyError,
    Client,
    Hooks,
    MessageState,
    Reply,
    Server,
    Session,
    SMTPError,
)
from smtp_trio.testing import (
    Faults,
    Inbox,
    Omit,
    Rule,
    Sometimes,
    Transcript,
    memory_pair,
)

ME, YOU = "me@client.test", "you@mx.test"
MANY = [f"{name}@mx.test" for name in "abcde"]
MESSAGE = b"Subject: hi\r\n\r\n" + b"hello\r\n" * 10
#: No extension that would put several things into one segment.
SLOWLY = (Omit("CHUNKING"), Omit("PIPELINING"))


class Watched(Inbox):
    """Keeps what became of each session, and whatever failed."""

    def __init__(self) -> None:
        super().__init__()
        self.states: list[MessageState | None] = []
        self.torn: list[BodyError] = []
        self.errors: list[Exception] = []

    async def data(self, session: Session, body: Any) -> Reply | None:
        try:
            return await super().data(session, body)
        except BodyError as exc:
            self.torn.append(exc)
            raise

    async def disconnect(self, session: Session) -> None:
        self.states.append(session.last_message)
        await super().disconnect(session)

    async def error(self, server: Server, error: Exception) -> None:
        self.errors.append(error)


@asynccontextmanager
async def played(
    faults: Faults, hooks: Hooks | Server, transcript: Transcript | None = None, **settings: Any
) -> AsyncGenerator[Client]:
    """A client and a session with these faults; both must end of themselves."""
    async with trio.open_nursery() as nursery:
        client = await memory_pair(nursery, hooks, faults=faults, transcript=transcript, **settings)
        try:
            yield client
        finally:
            await client.aclose()


async def send(
    *rules: Rule | Sometimes, hooks: Inbox | None = None, **settings: Any
) -> tuple[Watched, Transcript, Any]:
    """Send one message to many; what the server kept, what was said, and the result or the error."""
    inbox = Watched() if hooks is None else hooks
    assert isinstance(inbox, Watched)
    transcript = Transcript()
    result: Any = None
    async with played(Faults(*rules), inbox, transcript, **settings) as client:
        try:
            async with client:
                result = await client.send(ME, MANY, MESSAGE)
        except SMTPError as exc:
            result = exc
    assert inbox.errors == []
    return inbox, transcript, result


def said(transcript: Transcript, side: str) -> bytes:
    """All that one side said."""
    return b"".join(segments(transcript, side))


def segments(transcript: Transcript, side: str) -> list[bytes]:
    """What one side said, as it came."""
    return [entry.data for entry in transcript.entries if entry.side == side and entry.data]


class Guarded(Watched):
    """Lets fred in."""

    async def auth(self, session: Session, credentials: Any) -> Reply | None:
        return None if credentials.user == "fred" else Reply(535, "No")
