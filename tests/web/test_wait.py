"""`GET /api/wait`: it returns when messages are there, and otherwise shows what has arrived."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import trio
import trio.testing

from smtp_trio.stores import Memory, Query, SQLite, Store, Stored
from smtp_trio.web import _arrivals, _recent, _wait, app
from smtp_trio.web._context import Context

from .helpers import client, connection, serving

Clock = trio.testing.MockClock


async def add(store: Store[Any], subject: str, recipient: str = "bob@example.org", fields: bytes = b"") -> str:
    return await store.add(b"%sSubject: %s\r\n\r\nx\r\n" % (fields, subject.encode()), "a@example.org", [recipient])


@pytest.fixture
async def store() -> AsyncIterator[Memory]:
    async with Memory() as found:
        yield found


@pytest.fixture
async def http(store: Memory) -> AsyncIterator[httpx2.AsyncClient]:
    async with client(app(None, store)) as found:
        yield found


def subjects(response: httpx2.Response) -> list[str]:
    assert response.status_code == 200, response.text
    return [each["subject"] for each in response.json()["messages"]]


async def test_message_that_is_there_already_is_returned_at_once(
    autojump_clock: Clock, store: Memory, http: httpx2.AsyncClient
) -> None:
    await add(store, "hello")
    before = trio.current_time()
    response = await http.get("/api/wait?to=bob@example.org")
    assert subjects(response) == ["hello"]
    assert response.json()["messages"][0]["text"] == "x\n"
    assert trio.current_time() == before


async def test_message_is_returned_when_it_arrives(
    autojump_clock: Clock, store: Memory, http: httpx2.AsyncClient
) -> None:
    found = []

    async def wait() -> None:
        found.append(await http.get("/api/wait?to=bob@example.org&subject=second&timeout=60"))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.sleep(5)
        await add(store, "first")
        await add(store, "second", "alice@example.org")
        await trio.sleep(5)
        assert not found
        await add(store, "the second one")
        arrived = trio.current_time()
    assert subjects(found[0]) == ["the second one"]
    assert trio.current_time() - arrived < 0.1


async def test_several_messages_are_waited_for(autojump_clock: Clock, store: Memory, http: httpx2.AsyncClient) -> None:
    await add(store, "1")
    found = []

    async def wait() -> None:
        found.append(await http.get("/api/wait?count=3"))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.sleep(1)
        await add(store, "2")
        await trio.sleep(1)
        assert not found
        await add(store, "3")
    assert subjects(found[0]) == ["3", "2", "1"]


async def test_error_shows_what_has_arrived(autojump_clock: Clock, store: Memory, http: httpx2.AsyncClient) -> None:
    for number in range(15):
        await add(store, f"m{number}")
    before = trio.current_time()
    response = await http.get("/api/wait?to=bobby@example.org&timeout=7.5")
    assert trio.current_time() - before == pytest.approx(7.5)
    assert response.status_code == 404
    error = response.json()["error"]
    assert error.startswith("no message for rcpt:bobby@example.org within 7.5 s")
    assert [each["subject"] for each in response.json()["newest"]] == [f"m{number}" for number in range(14, 4, -1)]
    response = await http.get("/api/wait?count=20&timeout=0")
    assert response.json()["error"].startswith("fewer than 20 messages within 0 s")


async def test_messages_up_to_an_id_do_not_count(
    autojump_clock: Clock, store: Memory, http: httpx2.AsyncClient
) -> None:
    await add(store, "old")
    last = await add(store, "old")
    assert (await http.get(f"/api/wait?subject=old&after_id={last}&timeout=1")).status_code == 404
    await add(store, "old and new")
    assert subjects(await http.get(f"/api/wait?subject=old&after_id={last}&timeout=1")) == ["old and new"]
    assert subjects(await http.get(f"/api/wait?query=x&after_id={last}&timeout=1")) == ["old and new"]
    response = await http.get("/api/wait?after_id=unknown&timeout=1")
    assert (response.status_code, response.json()["error"]) == (404, "after_id: the store has no message with this id")


@pytest.mark.parametrize(
    ("params", "found"),
    [
        ({"to": "BOB+1@example.org"}, True),
        ({"to": "bob+11@example.org"}, False),
        ({"to": "ob+1@example.org"}, False),
        ({"from": "a@example"}, True),
        ({"subject": "LO"}, True),
        ({"query": "detail:1 header:X-Test=a"}, True),
        ({"query": "header:X-Test=aa"}, False),
        ({"query": "-subject:hello"}, False),
        ({"query": "x", "subject": "hello", "to": "bob+1@example.org"}, True),
    ],
)
async def test_conditions(
    autojump_clock: Clock, store: Memory, http: httpx2.AsyncClient, params: dict[str, str], found: bool
) -> None:
    async def wait() -> None:
        assert (await http.get("/api/wait", params={**params, "timeout": "5"})).status_code == (200 if found else 404)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        await add(store, "hello", "bob+1@example.org", b"X-Test: a\r\n")
    await wait()


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("timeout=301", "timeout: must be from 0 to 300"),
        ("timeout=-1", "timeout: must be from 0"),
        ("timeout=nan", "timeout: must be a number"),
        ("timeout=1e2", "timeout: must be a number"),
        ("count=0", "count: must be from 1 to 20"),
        ("count=21", "count: must be from 1 to 20"),
        ("to=", "to: must not be empty"),
        ("query=before:x", "query: 'before:x'"),
        ("recipient=x", "recipient: unknown parameter; the parameters are after_id, count, from"),
    ],
)
async def test_wrong_parameter_is_named(
    autojump_clock: Clock, store: Memory, http: httpx2.AsyncClient, query: str, names: str
) -> None:
    response = await http.get(f"/api/wait?{query}")
    assert response.status_code == 400
    assert response.json()["error"].startswith(names)


async def test_message_that_is_removed_again_does_not_count(
    autojump_clock: Clock, store: Memory, http: httpx2.AsyncClient
) -> None:
    removed = await add(store, "hello")
    found = []

    async def wait() -> None:
        found.append(await http.get("/api/wait?subject=hello&count=2&timeout=60"))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.sleep(1)
        await store.remove([removed])
        await add(store, "hello 1")
        await trio.sleep(1)
        assert not found
        await add(store, "hello 2")
    assert subjects(found[0]) == ["hello 2", "hello 1"]


async def test_message_is_read_once_for_all_requests(autojump_clock: Clock) -> None:
    class Counting(Memory):
        gets = scans = 0

        async def get(self, id: str) -> Stored:
            self.gets += 1
            return await super().get(id)

        def entries(self, **options: Any) -> Any:
            self.scans += 1
            return super().entries(**options)

    async with Counting() as store, client(app(None, store)) as http:

        async def wait() -> None:
            assert (await http.get("/api/wait?query=header:X-Test=last&timeout=30")).status_code == 200

        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            store.gets = store.scans = 0
            for number in range(10):
                await add(store, f"m{number}")
                await trio.testing.wait_all_tasks_blocked()
            assert store.gets == 10
            assert store.scans == 0
            await add(store, "m", fields=b"X-Test: last\r\n")


async def test_messages_that_arrive_faster_than_they_are_compared_are_found(
    autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_arrivals, "MAX_QUEUED", 2)
    slow = trio.Event()

    class Slow(Memory):
        async def get(self, id: str) -> Stored:
            await slow.wait()
            return await super().get(id)

    async with Slow() as store, client(app(None, store)) as http:
        found = []

        async def wait() -> None:
            found.append(await http.get("/api/wait?subject=wanted&timeout=30"))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            await add(store, "other")
            await trio.testing.wait_all_tasks_blocked()
            await add(store, "wanted")
            for _ in range(10):
                await add(store, "other")
            slow.set()
        assert subjects(found[0]) == ["wanted"]


async def test_message_that_is_removed_before_it_is_compared_is_passed_over(autojump_clock: Clock) -> None:
    class Dropping(Memory):
        async def get(self, id: str) -> Stored:
            await self.remove([dropped])
            return await super().get(id)

    async with Dropping() as store, client(app(None, store)) as http:
        found = []

        async def wait() -> None:
            found.append(await http.get("/api/wait?query=x&timeout=60"))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await trio.sleep(1)
            dropped = await add(store, "dropped")
            await trio.sleep(1)
            assert not found
            await add(store, "kept")
        assert subjects(found[0]) == ["kept"]


async def test_number_of_requests_that_wait_is_bounded(
    autojump_clock: Clock, store: Memory, http: httpx2.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_wait, "MAX_WAITS", 3)
    statuses = []

    async def wait() -> None:
        statuses.append((await http.get("/api/wait?timeout=5")).status_code)

    for _ in range(2):  # their places are free again
        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(wait)
    assert sorted(statuses) == [404] * 6 + [429] * 14


async def test_place_of_a_client_that_has_left_is_free_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_wait, "MAX_WAITS", 1)
    async with Memory() as store, serving(None, store) as http:
        async with connection(http) as first:
            await first.stream.send_all(b"GET /api/wait?timeout=300 HTTP/1.1\r\nHost: localhost\r\n\r\n")
            with trio.fail_after(100):  # until the first request waits
                while (await http.get("/api/wait?timeout=0")).status_code != 429:
                    pass
        with trio.fail_after(100):  # until its place is free again
            while (await http.get("/api/wait?timeout=0")).status_code != 404:
                pass


async def test_message_that_another_process_stores_is_found(
    autojump_clock: Clock, inline_threads: None, tmp_path: Path
) -> None:
    async with (
        SQLite(tmp_path / "mail.db") as store,
        SQLite(tmp_path / "mail.db") as other,
        client(app(None, store)) as http,
    ):
        found = []

        async def wait() -> None:
            found.append(await http.get("/api/wait?subject=hello&timeout=60"))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await trio.sleep(5)
            await add(other, "hello")
    assert subjects(found[0]) == ["hello"]


async def test_text_in_one_response_is_bounded(store: Memory, http: httpx2.AsyncClient) -> None:
    for _ in range(6):
        await store.add(b"Subject: large\r\n\r\n" + b"x" * 600_000, "", ["bob@example.org"])
    messages = (await http.get("/api/wait?count=6")).json()["messages"]
    assert [len(each["text"]) for each in messages] == [1 << 19] * 4 + [0] * 2
    assert [each["truncated"] for each in messages] == [["text"]] * 6


async def test_few_requests_read_their_messages_at_a_time(
    autojump_clock: Clock, store: Memory, http: httpx2.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading, most = 0, 0

    async def get(id: str) -> Stored:
        nonlocal reading, most
        reading += 1
        most = max(most, reading)
        await trio.sleep(0.1)
        reading -= 1
        return await Memory.get(store, id)

    monkeypatch.setattr(store, "get", get)
    await add(store, "hello")
    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(http.get, "/api/wait")
    assert most == 2


async def test_large_message_that_arrives_is_found_and_not_kept(store: Memory) -> None:
    context = Context(server=None, store=store)
    name = await store.add(b"Subject: large\r\n\r\n" + b"needle " * 400_000, "", ["bob@example.org"])
    assert await context.recent.match(name, Query.parse("needle"))
    assert not await context.recent.match(name, Query.parse("other"))
    assert all(candidate.stored is None for candidate in context.recent._candidates.values())
    for number in range(50):
        await context.recent.match(await add(store, f"{number}"), Query())
    assert len(context.recent._candidates) == _recent.MAX_MESSAGES


async def test_requests_end_with_the_server() -> None:
    async with Memory() as store:
        async with serving(None, store) as http:
            stream = await trio.open_tcp_stream(http.base_url.host, http.base_url.port or 80)
            await stream.send_all(b"GET /api/wait?timeout=300 HTTP/1.1\r\nHost: localhost\r\n\r\n")
            with trio.fail_after(100):
                while not store._watchers:  # it waits when it has subscribed
                    await trio.lowlevel.checkpoint()
        with trio.fail_after(100):  # and not the 300 seconds of the request
            assert await stream.receive_some() == b""
        assert not store._watchers
        await stream.aclose()
