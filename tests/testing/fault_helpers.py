"""Helpers for the tests of fault scripts: a client and a session with faults, and their outcomes."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
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
#: Without the extensions with which a client sends several commands in one segment.
ONE_BY_ONE = (Omit("CHUNKING"), Omit("PIPELINING"))


class RecordingInbox(Inbox):
    """An inbox that keeps the last message state of each session, and errors."""

    def __init__(self) -> None:
        super().__init__()
        self.states: list[MessageState | None] = []
        self.body_errors: list[BodyError] = []
        self.errors: list[Exception] = []

    async def data(self, session: Session, body: Any) -> Reply | Sequence[Reply | None] | None:
        try:
            return await super().data(session, body)
        except BodyError as exc:
            self.body_errors.append(exc)
            raise

    async def disconnect(self, session: Session) -> None:
        self.states.append(session.last_message)
        await super().disconnect(session)

    async def error(self, server: Server, error: Exception) -> None:
        self.errors.append(error)


@asynccontextmanager
async def connected(
    faults: Faults, hooks: Hooks | Server, transcript: Transcript | None = None, **settings: Any
) -> AsyncGenerator[Client]:
    """Connect a client to a session, with faults at both ends."""
    async with trio.open_nursery() as nursery:
        client = await memory_pair(nursery, hooks, faults=faults, transcript=transcript, **settings)
        try:
            yield client
        finally:
            await client.aclose()


async def send(
    *rules: Rule | Sometimes, hooks: Inbox | None = None, **settings: Any
) -> tuple[RecordingInbox, Transcript, Any]:
    """Send one message to several recipients; return the inbox, the transcript, and the result or the error."""
    inbox = RecordingInbox() if hooks is None else hooks
    assert isinstance(inbox, RecordingInbox)
    transcript = Transcript()
    result: Any = None
    async with connected(Faults(*rules), inbox, transcript, **settings) as client:
        try:
            async with client:
                result = await client.send(ME, MANY, MESSAGE)
        except SMTPError as exc:
            result = exc
    assert inbox.errors == []
    return inbox, transcript, result


def sent(transcript: Transcript, side: str) -> bytes:
    """Return all octets that one side sent."""
    return b"".join(segments(transcript, side))


def segments(transcript: Transcript, side: str) -> list[bytes]:
    """Return the octets that one side sent, in segments."""
    return [entry.data for entry in transcript.entries if entry.side == side and entry.data]


class FredOnly(RecordingInbox):
    """An inbox that authenticates only the user fred."""

    async def auth(self, session: Session, credentials: Any) -> Reply | None:
        return None if credentials.user == "fred" else Reply(535, "No")
