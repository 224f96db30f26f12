"""What is known about a message after an error or a cancellation: ``result`` of the exception, and `DeliveryRecord`."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from email.message import EmailMessage
from typing import Any

import pytest
import trio
from blocks import PYTHON
from trio.testing import MockClock

import smtp_trio
from smtp_trio import (
    AllRecipientsRejectedError,
    Body,
    Client,
    ConnectionLostError,
    DeliveryRecord,
    DeliveryUnknownError,
    Hooks,
    Limits,
    Pool,
    Reply,
    Result,
    Server,
    Session,
    TimedOutError,
)
from smtp_trio.protocol import NotOfferedError, ReplyError, SMTPError
from smtp_trio.testing import Inbox, memory_network, memory_pair, open_test_server

ME, MESSAGE = "me@client.test", b"Subject: x\r\n\r\nhello\r\n"
MANY = [f"you{n}@mx.test" for n in range(150)]


class Second(Hooks):
    """Accepts 100 recipients in the first transaction; the second one is closed or hangs, in the hook of that name."""

    def __init__(self, hook: str = "", *, hang: bool = False, transaction: int = 2) -> None:
        self.hook, self.hang, self.transaction = hook, hang, transaction
        self.transactions = 0
        self.reached = trio.Event()

    async def _act(self, session: Session, hook: str) -> None:
        if hook == self.hook and self.transactions == self.transaction:
            self.reached.set()
            if self.hang:
                await trio.sleep_forever()
            await trio.aclose_forcefully(session.stream)

    async def mail(self, session: Session, mail: object) -> None:
        self.transactions += 1
        await self._act(session, "mail")

    async def data(self, session: Session, body: Body) -> None:
        await body.read()
        await self._act(session, "data")


def limited(hooks: Hooks) -> Server:
    return Server(hooks, name="mx.test", limits=Limits(recipients=100))


def counts(result: Result | None) -> tuple[int, int, int]:
    assert result is not None
    assert result.recipients == tuple(MANY)
    return len(result.accepted), len(result.rejected), len(result.unknown)


async def by_function(record: DeliveryRecord | None, recipients: Any) -> None:
    await smtp_trio.send(MESSAGE, "mx.down.test", sender=ME, recipients=recipients, record=record)


async def by_pool(record: DeliveryRecord | None, recipients: Any) -> None:
    async with Pool("mx.down.test") as pool:
        await pool.send(ME, recipients, MESSAGE, record=record)


async def by_pool_many(record: DeliveryRecord | None, recipients: Any) -> None:
    async with Pool("mx.down.test") as pool:
        await pool.send_many([(ME, recipients, MESSAGE)], record=record)


async def by_closed_client(record: DeliveryRecord | None, recipients: Any) -> None:
    async with smtp_trio.connect("mx.test") as client:
        await client.aclose()
        await client.send(ME, recipients, MESSAGE, record=record)


async def by_closed_client_many(record: DeliveryRecord | None, recipients: Any) -> None:
    async with smtp_trio.connect("mx.test") as client:
        await client.aclose()
        await client.send_many([(ME, recipients, MESSAGE)], record=record)


@pytest.mark.parametrize("call", [by_function, by_pool, by_pool_many, by_closed_client, by_closed_client_many])
async def test_call_that_sends_nothing_empties_its_record(
    call: Callable[..., Awaitable[None]], autojump_clock: MockClock
) -> None:
    """A record that was used before has nothing of the earlier call, also if there was no connection for this one."""
    record = DeliveryRecord()
    async with memory_network({"mx.test": Inbox()}):
        await smtp_trio.send(MESSAGE, "mx.test", sender=ME, recipients=["you@mx.test"], record=record)
        assert record.result is not None
        assert record.result.complete
        with pytest.raises((ConnectionLostError, trio.ClosedResourceError)):
            await call(record, ["you@mx.test"])
        assert record.results == ()


async def test_busy_client_keeps_the_record_of_the_call_that_uses_it(autojump_clock: MockClock) -> None:
    record = DeliveryRecord()
    async with memory_network({"mx.test": Second("data", hang=True)}), smtp_trio.connect("mx.test") as client:
        with trio.move_on_after(10):
            async with trio.open_nursery() as nursery:

                async def send_again() -> None:
                    await trio.sleep(5)
                    with pytest.raises(trio.BusyResourceError):
                        await client.send(ME, ["her@mx.test"], MESSAGE, record=record)

                nursery.start_soon(send_again)
                for _ in range(2):
                    await client.send(ME, ["you@mx.test"], MESSAGE, record=record)
    assert record.result is not None
    assert [outcome.recipient for outcome in record.result.unknown] == ["you@mx.test"]
    assert record.result.not_sent == ()


@pytest.mark.parametrize("call", [by_function, by_pool])
async def test_recipients_of_a_message_for_which_there_was_no_connection(
    call: Callable[..., Awaitable[None]], autojump_clock: MockClock
) -> None:
    """They are those that a result has after a connection: each once. A str is an error whether there is one or not."""
    async with memory_network({"mx.test": Inbox()}):
        with pytest.raises(ConnectionLostError) as raised:
            await call(None, (name for name in ("you@mx.test", "her@mx.test", "you@mx.test")))
        assert raised.value.result == Result(ME, ("you@mx.test", "her@mx.test"), ())
        with pytest.raises(TypeError, match=r"^recipients must be an iterable of str, got "):
            await call(None, "you@mx.test")


@pytest.mark.parametrize(
    ("hook", "error", "unknown"), [("mail", ConnectionLostError, 0), ("data", DeliveryUnknownError, 50)]
)
async def test_error_in_a_later_transaction_has_the_accepted_recipients(
    autojump_clock: MockClock, hook: str, error: type[SMTPError], unknown: int
) -> None:
    record = DeliveryRecord()
    async with trio.open_nursery() as nursery:
        # A message of this size does not share a group with MAIL.
        async with await memory_pair(nursery, limited(Second(hook))) as client:
            with pytest.raises(error) as caught:
                await client.send(ME, MANY, b"x" * (1 << 19), record=record)
            assert counts(caught.value.result) == (100, 0, unknown)
            assert record.result == caught.value.result == client.last_result
            assert caught.value.temporary is (error is ConnectionLostError)


@asynccontextmanager
async def one_client(hooks: Hooks) -> AsyncIterator[Client]:
    async with trio.open_nursery() as nursery, await memory_pair(nursery, limited(hooks)) as client:
        yield client


@asynccontextmanager
async def one_pool(hooks: Hooks) -> AsyncIterator[Pool]:
    async with open_test_server(hooks, limits=Limits(recipients=100)) as server:
        async with Pool(server.host, server.port, tls="never") as pool:
            yield pool


@pytest.mark.parametrize("make", [one_client, one_pool])
@pytest.mark.parametrize("many", [True, False])
@pytest.mark.parametrize(("hook", "unknown"), [("mail", 0), ("data", 50)])
async def test_cancelled_call_leaves_a_record(make: Any, many: bool, hook: str, unknown: int) -> None:
    hooks, record = Second(hook, hang=True), DeliveryRecord()
    assert (record.result, record.results) == (None, ())
    with trio.CancelScope() as scope:
        async with make(hooks) as sender, trio.open_nursery() as nursery:

            async def cancel() -> None:
                await hooks.reached.wait()
                scope.cancel()

            nursery.start_soon(cancel)
            if many:
                await sender.send_many([(ME, MANY, b"x" * (1 << 19))], record=record)
            else:
                await sender.send(ME, MANY, b"x" * (1 << 19), record=record)
    assert scope.cancelled_caught
    assert counts(record.result) == (100, 0, unknown)
    assert record.results == (record.result,)


async def test_record_belongs_to_its_last_call(autojump_clock: MockClock) -> None:
    record = DeliveryRecord()
    async with one_client(Second()) as client:
        await client.send(ME, MANY[:1], MESSAGE, record=record)
        first = record.result
        await client.send(ME, MANY[1:2], MESSAGE)
        assert record.result == first
        results = await client.send_many([(ME, MANY[2:3], MESSAGE), (ME, MANY[3:4], MESSAGE)], record=record)
        assert record.results == tuple(results)
        with pytest.raises(ReplyError) as caught:
            await client.send(ME, MANY[4:5], b"x" * 40_000_000, record=record)
    assert record.result is None
    assert caught.value.result == Result(ME, tuple(MANY[4:5]), ())
    assert caught.value.result.not_sent == tuple(MANY[4:5])
    assert not caught.value.temporary


async def failing(**arguments: Any) -> None:
    await smtp_trio.send(MESSAGE, sender=ME, recipients=iter(MANY), **arguments)


async def failing_message(**arguments: Any) -> None:
    message = EmailMessage()
    message["From"], message["To"] = ME, ", ".join(MANY)
    await smtp_trio.send(message, **arguments)


async def failing_pool(**arguments: Any) -> None:
    async with Pool(**arguments) as pool:
        await pool.send(ME, iter(MANY), MESSAGE)


@pytest.mark.parametrize("call", [failing, failing_message, failing_pool])
async def test_error_of_the_connection_has_a_result(call: Callable[..., Awaitable[None]]) -> None:
    with trio.socket.socket() as unused:
        await unused.bind(("127.0.0.1", 0))
        with pytest.raises(ConnectionLostError) as caught:
            await call(host="127.0.0.1", port=unused.getsockname()[1])
    assert counts(caught.value.result) == (0, 0, 0)
    assert caught.value.temporary


async def test_pool_sends_many_messages() -> None:
    async with one_pool(hooks := Second()) as pool:
        results = await pool.send_many([(ME, [name], MESSAGE) for name in MANY[:5]])
        assert [result.complete for result in results] == [True] * 5
        assert pool.statistics().open == pool.statistics().idle == 1
    assert hooks.transactions == 5


@pytest.mark.parametrize(
    ("reply", "temporary"),
    [(Reply(451, "Later"), True), (Reply(550, "No"), False), (Reply(552, "Too many"), True), (Reply(452, "x"), True)],
)
async def test_temporary_of_a_refused_message(autojump_clock: MockClock, reply: Reply, temporary: bool) -> None:
    class Refusing(Hooks):
        async def rcpt(self, session: Session, rcpt: object) -> Reply:
            return reply

    async with one_client(Refusing()) as client:
        with pytest.raises(AllRecipientsRejectedError) as caught:
            await client.send(ME, MANY[:1], MESSAGE)
        assert caught.value.temporary is caught.value.result.rejected[0].temporary is temporary
        await client.mail(ME)
        with pytest.raises(ReplyError) as single:
            await client.rcpt(MANY[0])
        assert single.value.temporary is temporary
        assert single.value.result is None


async def test_temporary_of_a_partly_temporary_refusal(autojump_clock: MockClock) -> None:
    class Refusing(Hooks):
        async def rcpt(self, session: Session, rcpt: smtp_trio.Rcpt) -> Reply:
            return Reply(450 if "you1@" in rcpt.recipient.raw else 550, "No")

    async with one_client(Refusing()) as client:
        with pytest.raises(AllRecipientsRejectedError) as caught:
            await client.send(ME, MANY[:2], MESSAGE)
    assert caught.value.temporary


def test_temporary_of_other_errors() -> None:
    assert not NotOfferedError("x").temporary
    assert not smtp_trio.LocalProtocolError("x").temporary
    assert smtp_trio.RemoteProtocolError("x").temporary
    assert TimedOutError(smtp_trio.protocol.Connect(), 1).temporary
    unknown = smtp_trio.Unknown(MANY[0], "no reply to the message was received")
    assert (unknown.temporary, unknown.permanent) == (False, False)
    result = Result(ME, tuple(MANY[:2]), (unknown,))
    assert not DeliveryUnknownError(smtp_trio.protocol.commands.END_OF_DATA, "x", result).temporary


@pytest.mark.parametrize(
    ("hook", "transaction", "cancelled", "states"),
    [
        ("", 2, False, {"sent": 150}),
        ("mail", 2, False, {"sent": 100, "queued": 50}),
        ("mail", 2, True, {"sent": 100, "queued": 50}),
        ("data", 2, False, {"sent": 100, "unknown": 50}),
        ("data", 2, True, {"sent": 100, "unknown": 50}),
        ("data", 1, False, {"unknown": 100, "queued": 50}),
        ("data", 1, True, {"unknown": 100, "queued": 50}),
    ],
)
async def test_documented_outbox(hook: str, transaction: int, cancelled: bool, states: dict[str, int]) -> None:
    (block,) = [block for block in PYTHON if block.page == "client" and "class Entry" in block.source]
    names = block.run()
    entry = names["Entry"](ME, MANY, b"x" * (1 << 19))
    hooks = Second(hook, hang=cancelled, transaction=transaction)
    with trio.CancelScope() as scope:
        async with one_pool(hooks) as pool, trio.open_nursery() as nursery:

            async def cancel() -> None:
                await hooks.reached.wait()
                if cancelled:
                    scope.cancel()

            nursery.start_soon(cancel)
            await names["deliver"](pool, entry)
            hooks.reached.set()
    assert scope.cancelled_caught is cancelled
    assert Counter(entry.state.values()) == states


async def test_documented_outbox_cancelled_before_the_first_octet() -> None:
    (block,) = [block for block in PYTHON if block.page == "client" and "class Entry" in block.source]
    names, saved = block.run(), list[set[str]]()
    entry = names["Entry"](ME, MANY, b"x")

    async def save() -> None:
        await trio.lowlevel.checkpoint()
        saved.append(set(entry.state.values()))

    entry.save = save
    with trio.CancelScope() as scope:
        async with one_pool(Second()) as pool:
            scope.cancel()
            await names["deliver"](pool, entry)
    assert scope.cancelled_caught
    assert saved == [{"queued"}]
