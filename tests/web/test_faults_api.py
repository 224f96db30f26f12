"""Tests of the fault rules in the JSON API."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from smtp_trio import Server, stores, web
from smtp_trio.testing import FaultRules

from .helpers import client


@asynccontextmanager
async def api(tmp_path: Path, faults: FaultRules | None) -> AsyncIterator[httpx2.AsyncClient]:
    """Return a client of an application with these rules."""
    store = stores.open(f"maildir:{tmp_path}")
    async with client(web.app(Server(store), store, faults=faults)) as http:
        yield http


async def test_rules_are_added_listed_and_removed(tmp_path: Path) -> None:
    rules = FaultRules()
    async with api(tmp_path, rules) as http:
        assert (await http.get("/api/faults")).json() == {"faults": []}
        added = await http.post("/api/faults", json={"text": "answer RCPT 450 twice", "recipient": "Bob@example.org"})
        assert (added.status_code, added.json()) == (201, {
            "id": 1, "text": "answer RCPT 450 twice for Bob@example.org", "kind": "answer",
            "recipient": "Bob@example.org", "client": None, "seed": 0, "acted": 0, "remaining": 2, "used_up": False,
        })  # fmt: skip
        assert (
            await http.post("/api/faults", json={"text": "greylist 60s", "client": None, "seed": -(2**63)})
        ).is_success
        assert [each["text"] for each in (await http.get("/api/faults")).json()["faults"]] == [
            "answer RCPT 450 twice for Bob@example.org", "greylist 1m",
        ]  # fmt: skip
        assert (await http.delete("/api/faults/1")).status_code == 204
        assert (await http.delete("/api/faults/1")).status_code == 404
        assert [each.id for each in rules] == [2]
        assert (await http.delete("/api/faults")).status_code == 204
        assert list(rules) == []


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ({"text": "ansewr RCPT 450"}, "'ansewr' is not a kind of rule: did you mean 'answer'?"),
        ({"text": "answer RCTP 450"}, "'RCTP' is not a place: did you mean 'RCPT'?"),
        ({"text": "hang by client"}, "hang: a rule by a client cannot act in a server"),
        ({"text": "hang", "recipient": "bob"}, "recipient must be an address"),
        ({"text": "hang", "client": "a b"}, "client must be an IP address"),
        ({"text": "hang", "recepient": "b"}, "'recepient' is not a member of a fault rule: did you mean 'recipient'?"),
        ({"text": "hang", "seed": "1"}, "'seed' must be an integer"),
        ({"text": "hang", "seed": True}, "'seed' must be an integer"),
        ({"text": "hang", "seed": 10**30}, "'seed' must be from -9223372036854775808 to 9223372036854775807"),
        ({"text": "hang", "seed": -(2**63) - 1}, "'seed' must be from -9223372036854775808 to 9223372036854775807"),
        ({"text": "hang", "recipient": "*" * 513}, "'recipient' must have at most 512 characters, got 513"),
        ({"text": "hang", "client": "x" * 513}, "'client' must have at most 512 characters, got 513"),
        ({"text": None}, "'text' must be a string"),
        ({"text": "hang", "client": 3}, "'client' must be a string or null"),
        ({}, 'the body must be an object with a member "text"'),
        (["hang"], 'the body must be an object with a member "text"'),
    ],
)
async def test_error_names_what_is_wrong(tmp_path: Path, body: Any, error: str) -> None:
    rules = FaultRules()
    async with api(tmp_path, rules) as http:
        response = await http.post("/api/faults", json=body)
    assert response.status_code == 400
    assert response.json()["error"].startswith(error)
    assert list(rules) == []


@pytest.mark.parametrize("number", ["0", "-1", "one", "9" * 40, "%F0%9F%98%80"])
async def test_invalid_id(tmp_path: Path, number: str) -> None:
    async with api(tmp_path, FaultRules()) as http:
        assert (await http.delete(f"/api/faults/{number}")).status_code in (400, 404)


async def test_server_without_rules(tmp_path: Path) -> None:
    async with api(tmp_path, None) as http:
        for response in (
            await http.get("/api/faults"),
            await http.post("/api/faults", json={"text": "hang"}),
            await http.delete("/api/faults"),
            await http.delete("/api/faults/1"),
        ):
            assert response.status_code == 404
            assert "fault rules cannot be changed here" in response.json()["error"]


async def test_grammar_has_examples_that_are_valid(tmp_path: Path) -> None:
    rules = FaultRules()
    async with api(tmp_path, rules) as http:
        found = (await http.get("/api/faults/grammar")).json()
        for kind in found["kinds"]:
            assert (await http.post("/api/faults", json={"text": kind["example"]})).status_code == 201
    assert {"answer", "greylist"} < {each["word"] for each in found["kinds"]}
    assert {"RCPT", "DOT"} < set(found["places"])
    assert len(rules) == len(found["kinds"])
