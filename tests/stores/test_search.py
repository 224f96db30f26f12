"""`Store.search`, with stores that keep their messages in memory."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from smtp_trio import stores
from smtp_trio.stores import Entry, MessageNotFoundError, Query, Store, Stored

MESSAGE = b"From: Alice <alice@example.net>\r\nSubject: number %d\r\n\r\nHello %d\r\n"


class Memory(Store[Any]):
    """A store that counts how often a message is read. Message 3 disappears after it was listed."""

    def __init__(self, count: int = 6) -> None:
        super().__init__()
        self.read: list[str] = []
        self.messages = [
            Stored(
                id=str(number),
                received=datetime(2026, 11, 1, tzinfo=UTC) + timedelta(days=number),
                sender="bounces@example.net",
                recipients=("bob@example.org",),
                size=len(MESSAGE),
                subject=f"number {number}",
                message=MESSAGE % (number, number),
            )
            for number in range(count)
        ]

    async def _select(
        self, query: Query, *, reverse: bool, after: str | None, offset: int
    ) -> AsyncGenerator[tuple[Entry, bool]]:
        for message in self.messages[::-1] if reverse else self.messages:
            yield message, False

    async def get(self, id: str) -> Stored:
        self.read.append(id)
        if id == "3":
            raise MessageNotFoundError(id)
        return self.messages[int(id)]


async def found(store: Store[Any], query: Query | str, *, reverse: bool = True) -> str:
    """Return the ids of the messages that a search finds."""
    async with aclosing(store.search(query, reverse=reverse)) as entries:
        return "".join([entry.id async for entry in entries])


async def test_newest_first_without_reading_messages() -> None:
    store = Memory()
    assert await found(store, "after:2026-11-02T12:00Z -subject:5 from:bounces") == "432"
    assert await found(store, Query.parse(""), reverse=False) == "012345"
    assert store.read == []


async def test_messages_are_read_when_needed() -> None:
    store = Memory()
    assert await found(store, "hello -subject:4") == "5210"
    assert store.read.count("4") == 0
    store = Memory(4)
    assert await found(store, "from:alice") == "210"
    assert store.read == ["3", "2", "1", "0"]  # the header decides


async def test_large_message_is_searched_in_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smtp_trio.stores._store.LARGE", 10)
    assert await found(Memory(2), '"hello 1"') == "1"


async def test_invalid_query_raises_at_once() -> None:
    with pytest.raises(ValueError, match="is:read"):
        Memory().search("is:read")
    with pytest.raises(TypeError, match="query must be Query or str"):
        Memory().search(None)  # type: ignore[arg-type]


async def test_sqlite_selects_by_time_and_size(tmp_path: Path) -> None:
    async with stores.open(f"sqlite:{tmp_path / 'mail.db'}") as store:
        for message in Memory().messages:
            await store.add(
                message.message + b"x" * int(message.id), "a@example.net", ["b@example.org"], received=message.received
            )
        numbers = {entry.id: entry.size - len(MESSAGE) + 2 async for entry in store.entries()}
        for query, expected in (
            ("after:2026-11-03T00:00Z", [5, 4, 3, 2]),
            ("-after:2026-11-03T02:00+02:00", [1, 0]),
            (f"before:2026-11-06T00:00Z larger:{len(MESSAGE)} hello", [4, 3]),
            (f"!smaller:{len(MESSAGE) + 2}", [5, 4]),
        ):
            entries = [numbers[entry.id] async for entry in store.search(query)]
            assert entries == expected
            assert len(
                [row async for row in store._select(Query.parse(query), reverse=True, after=None, offset=0)]
            ) == len(expected)
