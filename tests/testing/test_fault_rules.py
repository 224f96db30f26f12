"""Tests of fault rules that are added and removed while a server runs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from smtp_trio import AllRecipientsRejectedError, Hooks, ReplyError, Server, SMTPError
from smtp_trio.testing import (
    Answer,
    Early,
    FaultRules,
    Greylist,
    Inbox,
    MemoryServer,
    MemoryStream,
    Policy,
    Scope,
    ScopedRule,
    bounded_stream_pair,
    open_memory_server,
)

from .fault_helpers import ME, MESSAGE, YOU

OTHER = "other@mx.test"


@asynccontextmanager
async def server_with(*rules: str, **settings: Any) -> AsyncIterator[tuple[FaultRules, MemoryServer, Inbox]]:
    """Run a server in memory with these rules."""
    inbox, found = Inbox(), FaultRules()
    for rule in rules:
        found.add(rule)
    async with open_memory_server(found.hooks(inbox), **settings) as server:
        yield found, server, inbox


async def code_of(server: MemoryServer, recipients: Sequence[str] = (YOU,), **settings: Any) -> int:
    """Send a message, and return the code of its refusal, or 250, or 0 if the connection was lost."""
    try:
        async with server.client(**settings) as client:
            await client.send(ME, list(recipients), MESSAGE)
    except (AllRecipientsRejectedError, ReplyError) as error:
        return error.reply.code
    except SMTPError:
        return 0
    return 250


class Talk:
    """A session that a test conducts itself, with `exchange`."""

    def __init__(self, stream: MemoryStream) -> None:
        self._stream = stream

    async def exchange(self, segment: bytes = b"") -> list[bytes]:
        """Send a segment, and return the lines that the server sends before it waits again."""
        if segment:
            await self._stream.send_all(segment)
        await wait_all_tasks_blocked()
        received = b""
        while self._stream.unread:
            received += await self._stream.receive_some()
            await wait_all_tasks_blocked()
        return received.splitlines()

    async def codes(self, segment: bytes) -> list[int]:
        """Send a segment, and return the codes of the replies."""
        return [int(line[:3]) for line in await self.exchange(segment) if line[3:4] == b" "]


@asynccontextmanager
async def talk(hooks: Hooks, hello: bytes = b"EHLO client.test", **settings: Any) -> AsyncIterator[Talk]:
    """Begin a session with a server that has these hooks."""
    near, far = bounded_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(Server(hooks, name="mx.test", **settings).serve_stream, far)
        session = Talk(near)
        await session.exchange(hello + b"\r\n")
        yield session
        await near.aclose()


GROUP = b"MAIL FROM:<me@client.test>\r\nRCPT TO:<%b>\r\nRCPT TO:<%b>\r\n"

# --- the list -----------------------------------------------------------------------------------------------------------


def test_list_is_in_order_and_has_counts() -> None:
    rules = FaultRules()
    one = rules.add("hang", recipient="Bob@example.org", client="192.0.2.1", seed=3)
    two = rules.add(Answer("RCPT", 450, times=2))
    three = rules.add(ScopedRule(Policy(Greylist), Scope(client="unix")), recipient="*@example.org")
    assert [each.text for each in rules] == [
        "hang once for Bob@example.org from 192.0.2.1",
        "answer RCPT 450 twice",
        "greylist for *@example.org from unix",
    ]
    assert (one.recipient, one.client, one.seed, one.remaining) == ("Bob@example.org", "192.0.2.1", 3, 1)
    assert (three.kind, three.remaining, three.used_up, three.acted) == ("greylist", None, False, 0)
    assert [each.id for each in rules] == [1, 2, 3]
    assert rules.remove(two.id)
    assert not rules.remove(two.id)
    assert rules.get(two.id) is None
    assert rules.get(one.id) is one
    rules.clear()
    assert len(rules) == 0
    assert rules.add("hang").id == 4


@pytest.mark.parametrize(
    ("rule", "settings", "error", "reason"),
    [
        ("hang by client", {}, ValueError, "a rule by a client cannot act in a server"),
        (Early("MAIL"), {}, ValueError, "a rule by a client"),
        ("ansewr", {}, ValueError, "did you mean 'answer'"),
        ("answer MAIL 451", {"recipient": YOU}, ValueError, "MAIL comes before the recipients"),
        ("hang", {"recipient": "bob"}, ValueError, "recipient must be an address"),
        ("hang", {"recipient": 3}, TypeError, "recipient must be str"),
        ("hang", {"client": "no name"}, ValueError, "client must be an IP address"),
        ("hang", {"seed": 1.5}, TypeError, "seed must be int"),
        (b"hang", {}, TypeError, "rule must be str"),
    ],
)
def test_invalid_rule_is_not_added(rule: Any, settings: Any, error: type[Exception], reason: str) -> None:
    rules = FaultRules()
    with pytest.raises(error, match=reason):
        rules.add(rule, **settings)
    assert list(rules) == []


def test_number_of_rules_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smtp_trio.testing._faults.fault_rules.MAX_RULES", 2)
    rules = FaultRules()
    rules.add("hang")
    rules.add("hang")
    with pytest.raises(ValueError, match="there are 2 rules already"):
        rules.add("hang")


# --- rules that are added and removed -----------------------------------------------------------------------------------


@pytest.mark.parametrize("at", ["CONNECT", "EHLO", "MAIL", "RCPT", "DATA", "BDAT", "DOT"])
@pytest.mark.parametrize("tls", [False, True])
async def test_answer_acts_once(autojump_clock: MockClock, at: str, tls: bool) -> None:
    async with server_with(f"answer {at} 451", *(["omit CHUNKING"] if at == "DATA" else []), tls=tls) as made:
        rules, server, inbox = made
        rule = next(iter(rules))
        falls_back = at == "EHLO" and not tls  # to HELO (RFC 5321 3.2)
        assert [await code_of(server) for _ in range(2)] == [250 if falls_back else 451, 250]
        assert (rule.acted, rule.remaining, rule.used_up) == (1, 0, True)
        assert len(inbox) == 1 + falls_back


async def test_rules_for_one_place_act_in_order(autojump_clock: MockClock) -> None:
    async with server_with("answer RCPT 450 once", "answer RCPT 550 twice", "answer RCPT 452 nth 4") as (
        rules,
        server,
        _,
    ):
        assert [await code_of(server) for _ in range(5)] == [450, 550, 550, 452, 250]
        assert [each.acted for each in rules] == [1, 2, 1]


async def test_rule_acts_from_the_next_command_on(autojump_clock: MockClock) -> None:
    """In a session that waits for a command, and without rules has no hooks for it."""
    async with server_with() as (rules, server, _), server.client() as client:
        await client.noop()
        rules.add("answer NOOP 451")
        with pytest.raises(ReplyError, match="451"):
            await client.noop()
        await client.noop()
        rules.add('replace NOOP "599 what\\r\\n"')
        rules.add("delay NOOP 60s")
        began = trio.current_time()
        with pytest.raises(ReplyError, match="599 what"):
            await client.noop()
        assert trio.current_time() - began == 60
        await client.send(ME, [YOU], MESSAGE)


async def test_rule_acts_on_octets_that_arrive_together() -> None:
    """The stream is wrapped at the first of several pipelined commands, and gets the others once more."""
    rules, inbox = FaultRules(), Inbox()
    async with talk(rules.hooks(inbox)) as session:
        rules.add('replace RCPT "299 what\\r\\n" nth 2')
        rules.add('extra DOT "x"')
        lines = await session.exchange(
            GROUP % (b"one@mx.test", b"two@mx.test")
            + b"BDAT 7\r\nA: b\r\n\r" + b"BDAT 7 LAST\r\n\nBDAT\r\n" + b"NOOP\r\n"
        )  # fmt: skip
    assert [line[:4] for line in lines] == [b"250 ", b"250 ", b"299 ", b"250 ", b"250 ", b"x250"]
    assert inbox[0].raw == b"A: b\r\n\r\nBDAT\r\n"
