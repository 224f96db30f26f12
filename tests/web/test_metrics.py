"""``/metrics``: the numbers of a server, as Prometheus reads them."""

from __future__ import annotations

from pathlib import Path

import httpx2
from helpers import NAME, connected
from prometheus_client.parser import text_string_to_metric_families

from smtp_trio import Pool, Reply, Server, Session
from smtp_trio.policies import Layer
from smtp_trio.protocol import Rcpt
from smtp_trio.relay import Relay
from smtp_trio.stores import Memory, SQLite
from smtp_trio.web import app

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
