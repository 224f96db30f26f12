"""``/api/statistics`` and the history of the last hour."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from typing import Any

import trio
from attrs import evolve
from helpers import NAME, connected
from trio.testing import MockClock

from smtp_trio import Limits, Server
from smtp_trio._server.snapshot import Snapshot, empty_snapshot
from smtp_trio._types import Statistics
from smtp_trio.stores import Memory
from smtp_trio.web import app
from smtp_trio.web._history import MINUTES, History

from .helpers import client, serving


async def statistics(server: Server, store: Memory) -> dict[str, Any]:
    async with client(app(server, store)) as http:
        response = await http.get("/api/statistics")
    assert response.status_code == 200
    found: dict[str, Any] = response.json()
    return found


async def test_the_statistics_have_counters_limits_and_the_store() -> None:
    async with Memory(messages=1) as store:
        server = Server(store, name=NAME, limits=Limits(sessions=7))
        async with connected(server) as smtp:
            await smtp.hello()
            await smtp.command("RCPT TO:<you@example.org>", "503")
            await smtp.deliver()
            await smtp.deliver()
            found = await statistics(server, store)

    assert found["counts"]["messages"] == 2
    assert found["refusals"] == [{"stage": "rcpt", "code": 503, "count": 1}]
    limits = {limit["name"]: limit for limit in found["limits"]}
    assert limits["sessions"] == {"name": "sessions", "limit": 7, "used": 1, "reached": 0}
    assert limits["memory"]["used"] == found["counts"]["memory"] > 0
    assert found["store"]["octets"] == store.octets_used
    assert found["store"]["messages"] == found["store"]["dropped"] == 1
    assert found["workers"] == []
    (minute,) = found["history"]
    assert (minute["messages"], minute["sessions"], minute["refusals"]) == (2, 1, {"rcpt 503": 1})


async def test_a_limit_without_a_number_is_listed_when_it_was_reached() -> None:
    async with Memory() as store:
        server = Server(store, name=NAME, limits=Limits(messages=1))
        async with connected(server) as smtp:
            await smtp.hello()
            await smtp.deliver()
            await smtp.command("MAIL FROM:<me@example.net>", "421")
        found = await statistics(server, store)
    assert {"name": "messages", "limit": None, "used": None, "reached": 1} in found["limits"]


class Counting:
    """A server that accepts one message more each time it is measured."""

    def __init__(self) -> None:
        self.messages = 0

    async def measure(self) -> Snapshot:
        self.messages += 1
        return evolve(empty_snapshot(), statistics=self.statistics())

    def statistics(self) -> Statistics:
        return Statistics(messages=self.messages, refusals=Counter({"rcpt 550": 2 * self.messages}))


async def test_the_history_has_the_last_hour(autojump_clock: MockClock) -> None:
    counting = Counting()
    history = History(counting.measure, trio.current_time)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(history.run)
        await trio.sleep(60 * 100 + 30)
        nursery.cancel_scope.cancel()
    minutes = history.minutes(Statistics(messages=105, refusals=Counter({"rcpt 550": 200})))
    assert len(minutes) == MINUTES
    assert [minute.messages for minute in minutes] == [1] * (MINUTES - 1) + [5]
    assert minutes[0].refusals == Counter({"rcpt 550": 2})
    assert minutes[-1].refusals == Counter()
    assert minutes[-1].time == datetime.fromtimestamp(6000, UTC)
    assert minutes[-1].time.timestamp() - minutes[0].time.timestamp() == 59 * 60


async def test_the_history_is_kept_while_the_listener_runs() -> None:
    async with Memory() as store:
        async with serving(Server(store, name=NAME), store) as http:
            assert len((await http.get("/api/statistics")).json()["history"]) in (1, 2)  # a minute may have just ended


async def test_the_first_minute_of_the_history_began_with_the_listener(autojump_clock: MockClock) -> None:
    counting = Counting()
    await trio.sleep(90)
    history = History(counting.measure, trio.current_time)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(history.run)
        await trio.sleep(40)
        nursery.cancel_scope.cancel()
    times = [minute.time.timestamp() for minute in history.minutes(counting.statistics())]
    assert times == [60, 120]
