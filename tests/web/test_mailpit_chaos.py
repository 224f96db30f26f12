"""The chaos triggers of Mailpit's API v1 refuse commands, and are fault rules."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest
from attrs import define

from smtp_trio import ReplyError, Server
from smtp_trio.stores.memory import Memory
from smtp_trio.testing import FaultRules, open_memory_server
from smtp_trio.web import app

from .helpers import client

OFF = {
    "Sender": {"ErrorCode": 451, "Probability": 0},
    "Recipient": {"ErrorCode": 451, "Probability": 0},
    "Authentication": {"ErrorCode": 535, "Probability": 0},
    "Seed": 0,
}


@define
class Setup:
    rules: FaultRules
    store: Memory
    http: httpx2.AsyncClient

    async def put(self, body: object) -> httpx2.Response:
        headers = {"Content-Type": "application/json"}
        return await self.http.put("/api/v1/chaos", content=json.dumps(body).encode(), headers=headers)

    async def get(self) -> Any:
        return (await self.http.get("/api/v1/chaos")).json()


@pytest.fixture
async def setup() -> AsyncIterator[Setup]:
    rules = FaultRules()
    async with Memory() as store, client(app(None, store, faults=rules)) as http:
        yield Setup(rules, store, http)


async def test_no_trigger_at_first(setup: Setup) -> None:
    assert await setup.get() == OFF
    assert len(setup.rules) == 0


async def test_triggers_are_rules(setup: Setup) -> None:
    response = await setup.put(
        {"Sender": {"ErrorCode": 421, "Probability": 50}, "Authentication": {"Probability": 100}, "Seed": 7}
    )
    expected = {
        **OFF,
        "Sender": {"ErrorCode": 421, "Probability": 50},
        "Authentication": {"ErrorCode": 535, "Probability": 100},
        "Seed": 7,
    }
    assert (response.status_code, response.json()) == (200, expected)
    assert await setup.get() == expected
    assert [rule.text.split()[-3:] for rule in setup.rules] == [["MAIL", "421", "always"], ["AUTH", "535", "always"]]
    assert {rule.seed for rule in setup.rules} == {7}
    setup.rules.remove(next(iter(setup.rules)).id)
    assert (await setup.get())["Sender"] == OFF["Sender"]
    assert (await setup.put({})).json() == OFF
    assert len(setup.rules) == 0


async def test_other_rules_stay(setup: Setup) -> None:
    other = setup.rules.add("answer DATA 450 once")
    for _ in range(2):
        await setup.put({"Recipient": {"ErrorCode": 550, "Probability": 1}})
        assert [rule.text for rule in setup.rules if rule.id != other.id] == [list(setup.rules)[1].text]
    await setup.put({"recipient": {"errorcode": 0, "probability": 0}})
    assert list(setup.rules) == [other]


async def replies(setup: Setup, count: int = 40) -> list[int]:
    """Return the code of the reply to each of some MAIL commands."""
    found = []
    async with open_memory_server(Server(setup.rules.hooks(setup.store))) as server, server.client() as smtp:
        for _ in range(count):
            try:
                found.append((await smtp.mail("ada@example.org")).code)
                await smtp.rset()
            except ReplyError as error:
                found.append(error.reply.code)
    return found


async def test_probability_and_seed_decide(setup: Setup) -> None:
    seen: dict[tuple[int, int], list[list[int]]] = {}
    for seed in 1, 2:
        for probability in 0, 50, 100:
            for _ in range(2):
                await setup.put({"Sender": {"ErrorCode": 452, "Probability": probability}, "Seed": seed})
                seen.setdefault((seed, probability), []).append(await replies(setup))
    assert all(first == second for first, second in seen.values())
    assert seen[1, 0][0] == [250] * 40
    assert seen[1, 100][0] == [452] * 40
    assert set(seen[1, 50][0]) == {250, 452}
    assert seen[1, 50] != seen[2, 50]


@pytest.mark.parametrize(
    "body",
    [[], None, {"Sender": 451}, {"Sender": []}, {"Sender": None}, {"Sender": {"ErrorCode": 399, "Probability": 1}},
     {"Sender": {"ErrorCode": 600, "Probability": 1}}, {"Sender": {"ErrorCode": "451"}}, {"Sender": {"ErrorCode": 451.5}},
     {"Sender": {"Probability": 101}}, {"Sender": {"Probability": -1}}, {"Sender": {"Probability": True}},
     {"Sender": {"Probability": 0.5}}, {"Seed": -1}, {"Seed": "x"}, {"Seed": 2**64},
     {"Recipient": {"Probability": 5}, "Sender": {"ErrorCode": 1e300}}],
    ids=repr,
)  # fmt: skip
async def test_invalid_triggers_change_nothing(body: object, setup: Setup) -> None:
    before = {"Sender": {"ErrorCode": 451, "Probability": 3}}
    await setup.put(before)
    response = await setup.put(body)
    assert response.status_code == 400
    assert response.json()["error"]
    assert await setup.get() == OFF | before


async def test_full_list_changes_nothing(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smtp_trio.testing._faults.fault_rules.MAX_RULES", 2)
    before = {"Sender": {"ErrorCode": 451, "Probability": 3}}
    await setup.put(before)
    response = await setup.put({"Sender": {"Probability": 9}, "Recipient": {"Probability": 9}})
    assert response.status_code == 400
    assert await setup.get() == OFF | before
    assert len(setup.rules) == 1


async def test_server_without_fault_rules() -> None:
    async with client(app(None, Memory())) as http:
        for method in "GET", "PUT":
            response = await http.request(method, "/api/v1/chaos")
            assert response.status_code == 404
            assert "fault rules" in response.json()["error"]
        assert (await http.get("/api/v1/webui")).json()["ChaosEnabled"] is False
