"""Messages are reported as they arrive, those of this process at once and those of others within a second."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from smtp_trio.stores import Entry, SQLite, Store
from smtp_trio.web import _arrivals, app
from smtp_trio.web._arrivals import Arrivals

from .helpers import client, connection, serving

MESSAGE = b"Subject: x\r\n\r\nx\r\n"


async def add(store: Store[Any]) -> str:
    return await store.add(MESSAGE, "a@example.org", ["b@example.org"])


async def test_messages_of_this_process_are_reported_at_once_and_in_order(tmp_path: Path) -> None:
    async with SQLite(tmp_path / "mail.db") as store:
        await add(store)
        async with Arrivals(store).subscribe() as ids:
            added = [await add(store) for _ in range(3)]
            assert [await anext(ids) for _ in added] == added


async def test_messages_of_other_processes_are_found(
    tmp_path: Path, autojump_clock: object, inline_threads: None
) -> None:
    async with SQLite(tmp_path / "mail.db") as store, SQLite(tmp_path / "mail.db") as other:
        await add(store)
        arrivals = Arrivals(store)
        async with arrivals.subscribe() as first, arrivals.subscribe() as second:
            added = [await add(other), await add(store), await add(other)]
            for ids in first, second:
                assert {await anext(ids) for _ in added} == set(added)
            with trio.move_on_after(10):
                pytest.fail(f"{await anext(first)} is reported twice")


async def test_old_messages_are_not_new_when_newer_ones_are_removed(
    tmp_path: Path, autojump_clock: object, inline_threads: None
) -> None:
    async with SQLite(tmp_path / "mail.db") as store:
        old = [await add(store) for _ in range(_arrivals.PAGE + 10)]
        async with Arrivals(store).subscribe() as ids:
            await store.remove(old[20:])
            with trio.move_on_after(10):
                pytest.fail(f"{await anext(ids)} is reported")


async def test_a_subscriber_that_is_slow_loses_the_oldest_ids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_arrivals, "MAX_QUEUED", 2)
    async with SQLite(tmp_path / "mail.db") as store:
        async with Arrivals(store).subscribe() as ids:
            added = [await add(store) for _ in range(5)]
            assert [await anext(ids) for _ in range(2)] == added[3:]
            assert ids.lost == 3


async def test_nothing_is_read_without_subscribers(
    tmp_path: Path, autojump_clock: object, inline_threads: None
) -> None:
    reads = 0

    class Counting(SQLite):
        def entries(self, **options: Any) -> AsyncGenerator[Entry]:
            nonlocal reads
            reads += 1
            return super().entries(**options)

    async with Counting(tmp_path / "mail.db") as store:
        arrivals = Arrivals(store)
        await trio.sleep(60)
        assert reads == 0
        async with arrivals.subscribe() as ids:
            with trio.move_on_after(10.5):
                await anext(ids)
        assert 9 <= reads <= 11
        before = reads
        await trio.sleep(60)
        assert reads == before


async def test_event_stream_has_the_ids_of_new_messages(tmp_path: Path) -> None:
    async with SQLite(tmp_path / "mail.db") as store, serving(None, store) as http, connection(http) as stream:
        assert b"content-type: text/event-stream" in await stream.request(b"GET /api/events")
        assert b"event: ready\ndata: {}\n\n" in await stream.read_until(b"{}\n\n")
        new = await add(store)
        assert b'event: message\ndata: {"id": "%b"}\n\n' % new.encode() in await stream.read_until(b"}\n\n")


async def test_number_of_event_streams_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smtp_trio.web._events_api.MAX_STREAMS", 1)
    async with SQLite(tmp_path / "mail.db") as store, serving(None, store) as http:
        async with connection(http) as first:
            await first.request(b"GET /api/events")
            assert (await http.get("/api/events")).status_code == 503
        with trio.fail_after(100):
            while True:  # until the server has noticed that the client has left
                async with connection(http) as again:
                    if b" 200 " in await again.request(b"GET /api/events"):
                        break


async def test_a_head_request_for_the_event_stream_ends(tmp_path: Path) -> None:
    async with SQLite(tmp_path / "mail.db") as store, client(app(None, store)) as http:
        assert (await http.head("/api/events")).status_code == 200
