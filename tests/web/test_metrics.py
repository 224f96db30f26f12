"""``/metrics``: the numbers of a server, as Prometheus reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx2
from helpers import NAME, connected
from prometheus_client.parser import text_string_to_metric_families

from smtp_trio import Pool, Reply, Server, Session
from smtp_trio.policies import Layer
from smtp_trio.protocol import Rcpt
from smtp_trio.relay import Relay
from smtp_trio.stores import GroupCounts, Maildir, Memory, Query, SQLite, Store, StoreError
from smtp_trio.web import app
from smtp_trio.web._measuring import StoreGauge

from .helpers import client

Samples = dict[tuple[str, ...], float]


def samples(text: str) -> Samples:
    """Return the values in the text of ``/metrics``, by the name and the values of the labels in the order of their names."""
    return {
        (sample.name.removeprefix("smtp_trio_"), *(sample.labels[name] for name in sorted(sample.labels))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def scrape(http: httpx2.AsyncClient) -> Samples:
    response = await http.get("/metrics")
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/plain; version=")
    return samples(response.text)


class OnlyYou(Layer):
    """Refuses all recipients but one."""

    async def rcpt(self, session: Session, rcpt: Rcpt) -> Reply | None:
        return None if rcpt.recipient.raw == "you@example.org" else Reply(550, "No such user", "5.1.1")


async def test_the_numbers_of_a_dialogue_are_exposed(tmp_path: Path) -> None:
    async with SQLite(tmp_path / "mail.db") as store:
        server = Server(OnlyYou(store), name=NAME)
        async with client(app(server, store)) as http:
            async with connected(server) as smtp:
                await smtp.hello()
                await smtp.command("NONSENSE", "500")
                await smtp.command("MAIL FROM:<me@example.net>", "250")
                await smtp.command("RCPT TO:<nobody@example.org>", "550")
                await smtp.command("RCPT TO:<you@example.org>", "250")
                await smtp.command("DATA", "354")
                await smtp.send(b"Subject: x\r\n\r\nhello\r\n.\r\n")
                await smtp.expect("250")
                during = await scrape(http)
                await smtp.quit()
            after = await scrape(http)

    assert during["sessions_open",] == during["sessions_total",] == 1
    assert during["messages_total",] == 1
    assert during["message_bytes_total",] == len(b"Subject: x\r\n\r\nhello\r\n")
    assert during["refusals_total", "550", "rcpt"] == during["refusals_total", "500", "other"] == 1
    assert during["hook_seconds_count", "rcpt"] == 2
    assert during["hook_seconds_count", "data"] == during["commit_seconds_count",] == 1
    assert during["session_seconds_count",] == 0
    assert 0 < during["memory_bytes",] < during["memory_limit_bytes",]
    assert after["sessions_open",] == after["memory_bytes",] == 0
    assert after["session_seconds_count",] == after["session_seconds_bucket", "+Inf"] == 1


class Ahead(Memory):
    """A store that does not know how many messages wait."""

    async def groups(self) -> dict[str, GroupCounts]:
        return {"default": GroupCounts(waiting=None, in_flight=2, dead=3)}


async def test_the_messages_of_groups_are_exposed(tmp_path: Path) -> None:
    async with SQLite(tmp_path / "mail.db") as store:
        for _ in range(3):
            await store.add(b"Subject: x\r\n\r\n", "me@example.net", ["you@example.org"])
        await (await anext(store.consume("tickets"))).fail("x")
        found = await scrape_one(store)
    assert (found["waiting"], found["in_flight"], found["dead"]) == (2, 0, 1)
    assert await scrape_one(Ahead()) == {"in_flight": 2, "dead": 3}
    assert await scrape_one(Maildir(tmp_path / "mail")) == {}


class Silent(Store[Any]):
    """A store whose engine does not respond."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []

    async def count(self, query: Query | str = "", *, limit: int | None = None) -> int:
        self.asked.append("count")
        raise StoreError("no answer")

    async def groups(self) -> dict[str, GroupCounts]:
        self.asked.append("groups")
        return {}


async def test_store_that_does_not_respond_is_asked_once() -> None:
    """Each further question could take a timeout of its own, and the scrape would wait for all of them."""
    store = Silent()
    numbers = await StoreGauge(store).read()
    assert (numbers.messages, numbers.groups) == (None, None)
    assert store.asked == ["count"]


async def scrape_one(store: Store[Any]) -> dict[str, float]:
    """Return the numbers of the messages of the only group, by their state, which the page and the JSON API show, too."""
    async with client(app(Server(store), store)) as http:
        found = {key[2]: value for key, value in (await scrape(http)).items() if key[0] == "store_group_messages"}
        groups = (await http.get("/api/statistics")).json()["store"]["groups"]
        page = (await http.get("/status")).text
    for counts in (groups or {}).values():
        assert {state: number for state, number in counts.items() if number is not None} == found
    assert (f"{found['dead']:.0f} dead" in page) if found else (groups is None and " dead" not in page)
    return found


async def test_the_numbers_of_a_relay_are_exposed() -> None:
    async with Memory() as store:
        relay = Relay(store, Pool("127.0.0.1", 1))
        async with client(app(Server(store), store, relay=relay)) as http:
            found = await scrape(http)
            statistics = (await http.get("/api/statistics")).json()
        async with client(app(Server(store), store)) as http:
            assert ("relay_in_flight",) not in await scrape(http)
    assert found["relay_relayed_total",] == found["relay_in_flight",] == 0
    assert statistics["relay"] == {"relayed": 0, "undelivered": 0, "deferred": 0, "reports": 0, "in_flight": 0}
