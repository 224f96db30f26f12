"""The tools for tests with a server of LMTP, which has a reply for each recipient."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from smtp_trio import Body, Hooks, Rejected, Reply, Server, Session
from smtp_trio.testing import (
    Attempt,
    SweepReport,
    cancel_everywhere,
    deterministic,
    fail_everywhere,
    memory_pair,
    open_memory_server,
)

MESSAGE = b"Subject: one\r\n\r\nhello\r\n"
NAMES = ["a@mx.test", "full@mx.test", "b@mx.test"]


class Mailboxes(Hooks):
    async def data(self, session: Session, body: Body) -> list[Reply | None]:
        await body.read()
        full = Reply(452, "Mailbox full", "4.2.2")
        return [full if path.local == "full" else None for path in body.envelope.recipients]


class OneByOne(Hooks):
    """Replies for each recipient when it has finished with it."""

    async def data(self, session: Session, body: Body) -> Sequence[Reply | None] | None:
        await body.read()
        for path in body.envelope.recipients[:-1]:
            await trio.lowlevel.checkpoint()
            await body.reply(Reply(452, "Mailbox full", "4.2.2") if path.local == "full" else None)
        await trio.lowlevel.checkpoint()
        return [None]


async def one_message(attempt: Attempt, hooks: type[Hooks] = Mailboxes) -> None:
    server = Server(hooks(), name="mx.test", lmtp=True, **deterministic())
    async with trio.open_nursery() as nursery, await memory_pair(nursery, server) as client:
        await client.send("me@client.test", NAMES, MESSAGE)


@pytest.mark.parametrize("sweep", [cancel_everywhere, fail_everywhere])
def test_sweeps(sweep: Callable[..., SweepReport]) -> None:
    """A message counts as accepted if one of its replies is positive, and as acknowledged if all were sent."""
    report: Any = sweep(one_message)
    assert report.points > 5


@pytest.mark.parametrize("sweep", [cancel_everywhere, fail_everywhere])
def test_sweeps_with_replies_while_the_hook_runs(sweep: Callable[..., SweepReport]) -> None:
    report: Any = sweep(partial(one_message, hooks=OneByOne))
    assert report.points > 5


async def test_inbox(autojump_clock: MockClock) -> None:
    """The clients of such a server use LMTP."""
    async with open_memory_server(lmtp=True) as mail:
        async with mail.client() as client:
            result = await client.send("me@client.test", NAMES, MESSAGE)
        assert client.lmtp
        assert len(result.accepted) == 3
        [received] = mail.inbox.assert_delivered(to="b@mx.test")
        assert [each.lower() for each in received.recipients] == NAMES
        assert str(received.transcript).count("250 2.0.0 Ok: queued as") == 3


async def test_mixed_outcomes(autojump_clock: MockClock) -> None:
    async with open_memory_server(Mailboxes(), lmtp=True) as mail, mail.client() as client:
        result = await client.send("me@client.test", NAMES, MESSAGE)
        assert [isinstance(each, Rejected) for each in result.outcomes] == [False, True, False]
