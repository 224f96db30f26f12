"""Tests of the guarantees of every store. `contract.py` lists the stores that are tested."""

from __future__ import annotations

import itertools
import logging
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from smtp_trio._server.log_events import Entry
from smtp_trio.protocol.extensions import STANDARD, BinaryMime
from smtp_trio.stores import GroupCounts, LeaseExpiredError, MessageNotFoundError, NotSupportedError, StoreError
from smtp_trio.testing import open_memory_server

from . import webhook_kind  # noqa: F401 -- adds a kind
from .contract import KINDS, MESSAGE, Kind, claim, dead, put, receive
from .sessions import body, large, transaction

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from smtp_trio.stores import Store

NUMBERS = itertools.count(1)


@pytest.fixture(scope="module", params=KINDS)
def running(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Kind, str]]:
    """A kind of store, and its engine."""
    kind: Kind = request.param
    with kind.program(tmp_path_factory.mktemp("store")) as program:
        yield kind, program


@pytest.fixture
def kind(running: tuple[Kind, str]) -> Kind:
    return running[0]


@pytest.fixture
async def store(running: tuple[Kind, str]) -> AsyncIterator[Store[Any]]:
    kind, program = running
    async with kind.open(program, next(NUMBERS)) as store:
        yield store


@pytest.fixture
def readable(kind: Kind) -> None:
    if not kind.readable:
        pytest.skip("the store cannot be read")


@pytest.fixture
def consumed(kind: Kind, request: pytest.FixtureRequest) -> None:
    """Skip a test that needs more than the store has. Its parameter is the number of consumers, by default one."""
    if kind.consumers < getattr(request, "param", 1):
        pytest.skip("the store does not have so many consumers")


@pytest.fixture
def counted(kind: Kind) -> None:
    if not kind.counts:
        pytest.skip("the store does not count the messages of groups")


@pytest.fixture
def with_dead_letters(kind: Kind, consumed: None) -> None:
    if not kind.dead_letters:
        pytest.skip("the store has no dead letters")


reads = pytest.mark.usefixtures("readable")
consumes = pytest.mark.usefixtures("consumed")
buries = pytest.mark.usefixtures("with_dead_letters")
counts = pytest.mark.usefixtures("counted")


def consumers(count: int) -> pytest.MarkDecorator:
    """Skip a test unless the store can have so many consumers."""
    return pytest.mark.parametrize("consumed", [pytest.param(count, id=f"{count} consumers")], indirect=True)


# --- put and add


async def test_message_from_a_server(store: Store[Any], kind: Kind) -> None:
    """The reply is sent when it can be read, with its envelope and what the server knew of the client."""
    async with open_memory_server(store) as server, server.client() as client:
        result = await client.send(
            "jürgen@bücher.test", ["a@mx.test", "用户@例子.test"], MESSAGE, ret="HDRS", envid="x y", notify=("FAILURE",)
        )
        [stored] = await kind.messages(store)
        await client.send("", ["Postmaster"], b"Subject: two\r\n\r\n")

    assert result.accepted[0].reply.code == 250
    assert stored.message == MESSAGE
    assert (stored.sender, stored.recipients) == ("jürgen@bücher.test", ("a@mx.test", "用户@例子.test"))
    assert set(stored.mail_params.split()) >= {"RET=HDRS", "ENVID=x+20y", "SMTPUTF8"}
    assert stored.rcpt_params == ("NOTIFY=FAILURE",) * 2
    assert stored.size == len(MESSAGE)
    assert stored.subject == "hello"
    assert stored.date == datetime(2026, 11, 22, 9, 23, 26, tzinfo=UTC)
    assert [(each.sender, each.recipients) for each in await kind.messages(store)][1:] == [("", ("Postmaster",))]


async def test_every_octet_of_a_binary_message_is_kept(store: Store[Any], kind: Kind) -> None:
    message = b"Subject: x\r\n\r\n" + bytes(range(256)) * 3 + b"\r\r\n\n\x00.\r\n.\r\n"
    async with (
        open_memory_server(store, newlines="preserve", extensions=(*STANDARD, BinaryMime())) as server,
        server.client() as client,
    ):
        await client.send("me@client.test", ["you@mx.test"], message, body="BINARYMIME")

    [stored] = await kind.messages(store)
    assert stored.message == message
    assert "BODY=BINARYMIME" in stored.mail_params.split()


@pytest.mark.parametrize(
    "message",
    [b"", b"\r\n", b" continued\r\n", b"text\r\n", b"\x00\xff"],
    ids=["empty", "line", "space", "text", "octets"],
)
async def test_messages_without_fields(store: Store[Any], kind: Kind, message: bytes) -> None:
    await store.put(transaction(), body(message))
    [stored] = await kind.messages(store)
    assert stored.message == message
    assert (stored.size, stored.subject, stored.date) == (len(message), None, None)


async def test_large_messages(store: Store[Any], kind: Kind) -> None:
    """Several at once, and small ones with them."""
    messages = [b"".join(large()), MESSAGE, b"Subject: 2\r\n\r\n" + b"".join(large(5 << 20)), MESSAGE]
    async with trio.open_nursery() as nursery:
        for message in messages:
            chunks = [message[n : n + 65536] for n in range(0, len(message), 65536)]
            nursery.start_soon(store.put, transaction(), body(*chunks))

    assert sorted(each.message for each in await kind.messages(store)) == sorted(messages)


async def test_many_messages_at_once_are_all_stored_under_their_ids(store: Store[Any], kind: Kind) -> None:
    ids: dict[str, bytes] = {}

    async def put_one(n: int) -> None:
        message = b"Subject: %d\r\n\r\n" % n
        ids[await store.put(transaction(), body(message))] = message

    async with trio.open_nursery() as nursery:
        for n in range(100):
            nursery.start_soon(put_one, n)
    assert len(ids) == 100
    found = await kind.messages(store)
    assert sorted(each.message for each in found) == sorted(ids.values())
    if kind.readable:
        assert {each.id: each.message for each in found} == ids


async def test_message_whose_body_raises_is_not_stored(store: Store[Any], kind: Kind) -> None:
    for chunks in ((b"Subject: x\r\n",), tuple(large())):
        with pytest.raises(LookupError):
            await store.put(transaction(), body(*chunks, error=LookupError()))
    assert await kind.messages(store) == []


async def test_added_message(store: Store[Any], kind: Kind) -> None:
    received = datetime(2026, 11, 1, 12, 30, 15, tzinfo=UTC)
    uid = await store.add(
        MESSAGE,
        "",
        ["a@mx.test", "用户@例子.test"],
        mail_params="RET=HDRS ENVID=QQ+2B1",
        rcpt_params=["", "NOTIFY=SUCCESS,DELAY ORCPT=rfc822;a@b.test"],
        received=received,
    )
    [stored] = await kind.messages(store)
    assert stored.id == uid or not kind.readable
    assert (stored.sender, stored.recipients, stored.message) == ("", ("a@mx.test", "用户@例子.test"), MESSAGE)
    assert stored.mail_params == "RET=HDRS ENVID=QQ+2B1"
    assert stored.rcpt_params == ("", "NOTIFY=SUCCESS,DELAY ORCPT=rfc822;a@b.test")
    assert stored.received == received


@pytest.mark.parametrize(
    ("recipients", "rcpt_params", "error"), [([], None, "must not be empty"), (["a@mx.test"], ["", ""], "got 2")]
)
async def test_invalid_recipients(store: Store[Any], recipients: list[str], rcpt_params: Any, error: str) -> None:
    with pytest.raises(ValueError, match=error):
        await store.add(b"", "me@client.test", recipients, rcpt_params=rcpt_params)


@pytest.mark.parametrize("bad", ["a\nb@mx.test", "a\r\nSubject: x", "\0", "a\x85b", "\ud800@mx.test", "\u2028"])
async def test_text_that_no_command_contains(store: Store[Any], bad: str) -> None:
    """A line break would begin another field in a Maildir, and the recipients after it would be lost."""
    for sender, recipient, params in (bad, "", ""), ("", bad, ""), ("", "", bad):
        with pytest.raises(ValueError, match="must not contain control characters"):
            await store.add(b"", sender or "a@b.test", [recipient or "c@d.test"], mail_params=params)
        with pytest.raises(ValueError, match="must not contain control characters"):
            await store.add(b"", "a@b.test", ["c@d.test"], rcpt_params=[bad])


# --- watch


async def test_watchers_get_the_id_of_each_message_that_is_stored(store: Store[Any]) -> None:
    first: list[str] = []
    second: list[str] = []
    with store.watch(first.append), store.watch(first.append):
        put_id = await put(store)
        with store.watch(second.append), pytest.raises(LookupError):
            await store.put(transaction(), body(MESSAGE, error=LookupError()))
        add_id = await store.add(MESSAGE, "me@client.test", ["you@mx.test"])
    await put(store)
    assert (first, second) == ([put_id, put_id, add_id, add_id], [])


@reads
async def test_a_message_can_be_read_when_watchers_get_its_id(store: Store[Any]) -> None:
    """Its client does not have the reply yet."""
    found: list[bytes] = []
    async with open_memory_server(store) as server, trio.open_nursery() as nursery:

        async def read(uid: str) -> None:
            found.append((await store.get(uid)).message)

        with store.watch(lambda uid: nursery.start_soon(read, uid)):
            async with server.client() as client:
                await client.send("me@client.test", ["you@mx.test"], MESSAGE)
    assert found == [MESSAGE]


async def test_an_error_of_a_watcher_is_logged_and_the_message_is_stored(
    store: Store[Any], kind: Kind, caplog: pytest.LogCaptureFixture
) -> None:
    ids: list[str] = []
    no_ids: dict[str, str] = {}
    caplog.set_level(logging.ERROR, "smtp_trio.stores")
    with store.watch(no_ids.__getitem__), store.watch(ids.append):
        uid = await put(store)
    assert ids == [uid]
    assert len(await kind.messages(store)) == 1
    [record] = caplog.records
    assert isinstance(record.msg, Entry)
    assert record.msg.fields == {"id": uid, "error": f"KeyError('{uid}')"}


# --- entries, get and remove


@reads
async def test_entries_are_ordered_and_equal_to_what_get_returns(store: Store[Any]) -> None:
    start = datetime(2026, 11, 22, tzinfo=UTC)
    ids = [
        await store.add(b"Subject: %d\r\n\r\n" % n, "a@b.test", ["c@d.test"], received=start + n * timedelta(hours=1))
        for n in range(12)
    ]
    entries = [each async for each in store.entries()]

    assert [each.id for each in entries] == ids
    assert [each.subject for each in entries] == [str(n) for n in range(12)]
    assert [each.id async for each in store.entries(reverse=True)] == ids[::-1]
    assert [each.id async for each in store] == ids
    for entry in entries:
        stored = await store.get(entry.id)
        for name in ("id", "received", "sender", "recipients", "size", "mail_params", "rcpt_params", "subject", "date"):
            assert getattr(stored, name) == getattr(entry, name), name


@reads
async def test_pages(store: Store[Any]) -> None:
    """Each begins after a message, or a number of them, in both directions; the message need not fulfil the query."""
    start = datetime(2026, 11, 22, tzinfo=UTC)
    ids = [
        await store.add(
            b"Subject: %s\r\n\r\n" % (b"even" if n % 2 == 0 else b"odd"),
            "a@b.test",
            ["c@d.test"],
            received=start + n * timedelta(hours=1),
        )
        for n in range(12)
    ]
    newest = ids[::-1]

    async def listed(**options: Any) -> list[str]:
        return [entry.id async for entry in store.entries(**options)]

    async def found(query: str, **options: Any) -> list[str]:
        return [entry.id async for entry in store.search(query, **options)]

    assert await listed(reverse=True, limit=5) == newest[:5]
    assert await listed(reverse=True, offset=3, limit=5) == newest[3:8]
    assert await listed(reverse=True, after=newest[4]) == newest[5:]
    assert await listed(reverse=True, after=newest[4], offset=2, limit=3) == newest[7:10]
    assert await listed(after=ids[9]) == ids[10:]
    assert await listed(after=ids[11]) == await listed(offset=12) == await listed(limit=0) == []
    assert await listed(offset=10**30) == await listed(reverse=True, after=newest[4], offset=2**63) == []
    assert await found("subject:even", offset=10**30) == []
    assert await listed(limit=10**30) == ids
    assert await found("subject:even", limit=2) == [ids[10], ids[8]]
    assert await found("subject:even", offset=1, limit=2) == [ids[8], ids[6]]
    assert await found("subject:even", after=ids[7]) == [ids[6], ids[4], ids[2], ids[0]]
    assert await found("subject:even", after=ids[5], reverse=False) == [ids[6], ids[8], ids[10]]
    assert (await store.count(), await store.count("subject:even")) == (12, 6)
    assert (await store.count(limit=5), await store.count("subject:even", limit=4)) == (5, 4)
    assert await store.present([ids[3], "unknown", "0-0", ids[3], ids[7]]) == {ids[3], ids[7]}
    assert await store.present([]) == set()
    await store.remove(ids[:3])
    assert (await store.count(), await store.present(ids)) == (9, set(ids[3:]))


@reads
@pytest.mark.parametrize("uid", ["", "unknown", "0-1", "a\0b"])
async def test_page_after_an_unknown_message(store: Store[Any], uid: str) -> None:
    await put(store)
    with pytest.raises(MessageNotFoundError):
        [entry async for entry in store.entries(after=uid)]


@reads
async def test_invalid_pages(store: Store[Any]) -> None:
    for options in ({"offset": -1}, {"limit": -1}, {"limit": 1.5}, {"after": 1}, {"reverse": 1}):
        with pytest.raises((TypeError, ValueError), match=f"{next(iter(options))} must be"):
            store.entries(**options)
    assert await store.count() == 0


@reads
async def test_entries_during_changes(store: Store[Any]) -> None:
    """Messages that stay in the store are included once, whatever is stored or removed meanwhile."""
    start = datetime(2026, 11, 22, tzinfo=UTC)
    ids = [
        await store.add(MESSAGE, "a@b.test", ["c@d.test"], received=start + n * timedelta(hours=1)) for n in range(20)
    ]
    seen = []
    async with aclosing(store.entries()) as entries:
        async for entry in entries:
            seen.append(entry.id)
            if len(seen) == 5:
                await store.remove([ids[2], ids[15]])
                await store.add(MESSAGE, "a@b.test", ["c@d.test"], received=start + timedelta(days=2))

    stay = [each for each in ids if each not in (ids[2], ids[15])]
    assert [each for each in seen if each in stay] == stay
    assert len(set(seen)) == len(seen)


@reads
async def test_iteration_that_is_left_does_not_block_the_store(store: Store[Any]) -> None:
    await put(store)
    await put(store)
    async with aclosing(store.entries()) as entries:
        await anext(entries)
        await put(store)
    assert len([each async for each in store.entries()]) == 3


@reads
async def test_removing(store: Store[Any], kind: Kind) -> None:
    """Unknown ids, and ids that occur twice, are not counted; what was removed is not found any more."""
    first, second, third = [await put(store) for _ in range(3)]
    async with aclosing(store.entries()) as entries:
        [large_id] = [await store.put(transaction(), body(*large()))]
        assert (await anext(entries)).id == first

    assert await store.remove([first, "unknown", third, first, large_id]) == 3
    assert await store.remove([first]) == 0
    assert await store.remove([]) == 0
    assert [each.id for each in await kind.messages(store)] == [second]
    with pytest.raises(MessageNotFoundError):
        await store.get(first)


@reads
@pytest.mark.parametrize("uid", ["", "unknown", "../x", "a/b", "0-0", "'", "ü", "x" * 300, "a\0b", "*"])
async def test_unknown_ids(store: Store[Any], uid: str) -> None:
    await put(store)
    with pytest.raises(MessageNotFoundError):
        await store.get(uid)
    assert await store.remove([uid]) == 0


async def test_store_that_cannot_be_read_or_consumed_says_so(store: Store[Any], kind: Kind) -> None:
    if not kind.readable:
        with pytest.raises(NotSupportedError):
            await store.get("x")
        with pytest.raises(NotSupportedError):
            await store.remove(["x"])
        with pytest.raises(NotSupportedError):
            store.entries()
        with pytest.raises(NotSupportedError):
            await store.count()
    if not kind.consumers:
        with pytest.raises(NotSupportedError):
            await receive(store)
    if not kind.counts:
        with pytest.raises(NotSupportedError):
            await store.groups()


# --- consumers


@consumes
async def test_message_is_delivered_until_it_is_acknowledged(store: Store[Any], kind: Kind) -> None:
    """It is delivered with its envelope and octets, also if it was stored before the first consumer of its group came."""
    uid = await put(store, MESSAGE, sender="", recipients=("a@mx.test", "用户@例子.test"))
    delivery = await receive(store)

    assert (delivery.id, delivery.attempt, delivery.state) == (uid, 1, "")
    assert (delivery.stored.sender, delivery.stored.recipients) == ("", ("a@mx.test", "用户@例子.test"))
    assert (delivery.stored.message, delivery.stored.subject) == (MESSAGE, "hello")
    assert await claim(store) is None
    await delivery.ack()
    assert await claim(store) is None
    await kind.pass_time(store, 1000)
    assert await claim(store) is None
    if kind.readable:
        assert (await store.get(uid)).message == MESSAGE


@consumes
async def test_messages_are_delivered_from_the_oldest(store: Store[Any]) -> None:
    start = datetime(2026, 11, 22, tzinfo=UTC)
    ids = [
        await store.add(MESSAGE, "a@b.test", ["c@d.test"], received=start + n * timedelta(hours=1)) for n in range(12)
    ]
    found = []
    consumer = store.consume("one", "name")
    for _ in ids:
        delivery = await anext(consumer)
        found.append(delivery.id)
        await delivery.ack()
    assert found == ids


@consumes
async def test_waiting_consumer_gets_the_next_message(store: Store[Any]) -> None:
    consumer = store.consume()
    for n in range(3):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(put, store, b"Subject: %d\r\n\r\n" % n)
            with trio.fail_after(100):
                async with await anext(consumer) as delivery:
                    assert delivery.stored.subject == str(n)


@consumes
async def test_large_messages_are_delivered(store: Store[Any]) -> None:
    message = b"".join(large(5 << 20))
    uid = await store.put(transaction(), body(*large(5 << 20)))
    async with await receive(store, remove=True) as delivery:
        assert delivery.id == uid
        assert delivery.stored.message == message
    assert await claim(store) is None


@consumers(2)
async def test_every_group_gets_every_message(store: Store[Any], consumed: None) -> None:
    ids = [await put(store) for _ in range(3)]
    for group in ("one", "two.b_c-d"):
        found = []
        for _ in ids:
            async with await receive(store, group) as delivery:
                found.append(delivery.id)
                assert delivery.attempt == 1
        assert sorted(found) == sorted(ids)
        assert await claim(store, group) is None


@consumers(2)
async def test_one_consumer_of_a_group_gets_a_message_at_a_time(store: Store[Any], consumed: None) -> None:
    ids = [await put(store) for _ in range(20)]
    found: list[str] = []

    async def consume() -> None:
        while (got := await claim(store)) is not None:
            found.append(got.stored.id)

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(consume)
    assert sorted(found) == sorted(ids)


@consumes
async def test_retry(store: Store[Any], kind: Kind) -> None:
    """The message is delivered again after the time, and not before, with the state, and the attempts are counted."""
    uid = await put(store)
    await (await receive(store)).retry(after=5000, state="a@mx.test done\n用户")
    assert await claim(store) is None
    await kind.pass_time(store, 4500)
    assert await claim(store) is None
    await kind.pass_time(store, 600)
    delivery = await receive(store)
    assert (delivery.id, delivery.attempt, delivery.state) == (uid, 2, "a@mx.test done\n用户")

    await delivery.retry(after=0)
    delivery = await receive(store)
    assert (delivery.attempt, delivery.state) == (3, "a@mx.test done\n用户")
    await delivery.retry(after=0, state="")
    assert (await receive(store)).state == ""


@consumes
async def test_message_that_waits_does_not_delay_others(store: Store[Any], kind: Kind) -> None:
    first = await put(store)
    await (await receive(store)).retry(after=100)
    second = await put(store)
    async with await receive(store) as delivery:
        assert delivery.id == second
    await kind.pass_time(store, 101)
    async with await receive(store) as delivery:
        assert delivery.id == first


@consumers(2)
async def test_expired_lease(store: Store[Any], kind: Kind, consumed: None) -> None:
    """The message is delivered to another consumer, and the result of the first one is not recorded any more."""
    uid = await put(store)
    slow = await receive(store, lease=6000, name="slow")
    await kind.pass_time(store, 5500)
    assert await claim(store) is None
    await kind.pass_time(store, 600)
    delivery = await receive(store, lease=6000, name="other")
    assert (delivery.id, delivery.attempt) == (uid, 2)

    for settle in (slow.ack, slow.retry, lambda: slow.fail("late")):
        with pytest.raises(LeaseExpiredError):
            await settle()
    assert await claim(store) is None
    await delivery.ack()
    await kind.pass_time(store, 10_000)
    assert await claim(store) is None


@consumes
async def test_ack_after_the_lease_has_expired(store: Store[Any], kind: Kind) -> None:
    """It is recorded if no other consumer has the message by then."""
    await put(store)
    slow = await receive(store, lease=60)
    await kind.pass_time(store, 61)
    await slow.ack()
    assert await claim(store) is None


@buries
async def test_failed_message_is_a_dead_letter(store: Store[Any], kind: Kind) -> None:
    uid, other = await put(store), await put(store)
    delivery = await receive(store, "one")
    await delivery.retry(after=0, state="state")
    for _ in range(2):
        delivery = await receive(store, "one")
        if delivery.id == uid:
            await delivery.fail("550 5.1.1 unknown: ü\n")
        else:
            await delivery.ack()

    [letter] = await dead(store, "one")
    assert (letter.entry.id, letter.group, letter.reason) == (uid, "one", "550 5.1.1 unknown: ü\n")
    assert (letter.attempts, letter.state) == (2, "state")
    assert (letter.entry.sender, letter.entry.size) == ("me@client.test", len(MESSAGE))
    await kind.pass_time(store, 100_000)
    assert await claim(store, "one") is None
    if kind.consumers > 1:
        assert await dead(store, "two") == []
    if kind.readable:
        assert {each.id for each in await kind.messages(store)} == {uid, other}


@buries
async def test_last_attempt(store: Store[Any], kind: Kind) -> None:
    """After it the message becomes a dead letter, with the reason of the retry."""
    await put(store)
    for n in range(3):
        await (await receive(store, max_attempts=3)).retry(after=0, reason=f"reason {n}")
    assert await claim(store, max_attempts=3) is None
    [letter] = await dead(store)
    assert (letter.reason, letter.attempts) == ("reason 2", 3)


@buries
async def test_lease_of_the_last_attempt_expires(store: Store[Any], kind: Kind) -> None:
    """A message that ends the process of each of its consumers becomes a dead letter, too."""
    await put(store)
    for _ in range(2):
        await receive(store, lease=60, max_attempts=2)
        await kind.pass_time(store, 61)
    assert await claim(store, max_attempts=2) is None
    [letter] = await dead(store)
    assert letter.attempts == 2
    assert "lease" in letter.reason
    assert "expired" in letter.reason


@buries
async def test_dead_letters_are_delivered_again(store: Store[Any], kind: Kind) -> None:
    ids = [await put(store) for _ in range(3)]
    for _ in ids:
        await (await receive(store)).fail("x")
    assert [each.entry.id for each in await dead(store)] == ids

    assert await store.requeue("default", [ids[1], "unknown", ids[1]]) == 1
    assert [each.entry.id for each in await dead(store)] == [ids[0], ids[2]]
    delivery = await receive(store)
    assert (delivery.id, delivery.attempt) == (ids[1], 1)
    await delivery.ack()
    assert await store.requeue("default", [ids[1]]) == 0
    assert await claim(store) is None


@buries
async def test_dead_letter_of_a_removed_message(store: Store[Any], kind: Kind) -> None:
    """Neither it nor a delivery of it is left."""
    if not kind.readable:
        pytest.skip("the store cannot be read")
    first, second = await put(store), await put(store)
    await (await receive(store)).fail("x")
    await store.remove([first])
    assert await dead(store) == []
    assert await store.requeue("default", [first]) == 0
    delivery = await receive(store)
    assert delivery.id == second
    await store.remove([second])
    assert await claim(store) is None
    await kind.pass_time(store, 1000)
    assert await claim(store) is None


@counts
async def test_groups_count_what_they_have_not_settled(store: Store[Any], kind: Kind) -> None:
    """A group is counted from its first delivery on."""
    assert await store.groups() == {}
    ids = [await put(store) for _ in range(7)]
    assert await store.groups() == {}
    deliveries = [await receive(store, "one", lease=60) for _ in range(5)]
    assert await store.groups() == {"one": GroupCounts(waiting=2, in_flight=5, dead=0)}

    await deliveries[0].ack()
    await deliveries[1].fail("x")
    await deliveries[2].retry(after=1000)
    await receive(store, "two.b_c-d", lease=120)
    expected = {
        "one": GroupCounts(waiting=3, in_flight=2, dead=1),
        "two.b_c-d": GroupCounts(waiting=6, in_flight=1, dead=0),
    }
    assert await store.groups() == expected
    await kind.pass_time(store, 61)
    expected["one"] = GroupCounts(waiting=5, in_flight=0, dead=1)
    assert await store.groups() == expected

    assert await store.requeue("one", ids[1:2]) == 1
    await store.remove([ids[0], ids[2]])
    assert (await store.groups())["one"] == GroupCounts(waiting=5, in_flight=0, dead=0)
    for _ in range(5):
        await (await receive(store, "one")).ack()
    assert (await store.groups())["one"] == GroupCounts(waiting=0, in_flight=0, dead=0)


@counts
async def test_counts_after_the_last_message(store: Store[Any]) -> None:
    for _ in range(3):
        await put(store)
        async with await receive(store, remove=True):
            assert await store.groups() == {"default": GroupCounts(waiting=0, in_flight=1, dead=0)}
    assert await store.groups() == {"default": GroupCounts(waiting=0, in_flight=0, dead=0)}


@buries
async def test_message_that_was_removed_can_be_settled(store: Store[Any], kind: Kind) -> None:
    """By another group, for example. There is nothing left to deliver."""
    if not kind.readable:
        pytest.skip("the store cannot be read")
    one, two, three = [(await put(store), await receive(store))[1] for _ in range(3)]
    await store.remove([one.id, two.id, three.id])
    await one.ack()
    await two.retry()
    await three.fail("x")
    await kind.pass_time(store, 1000)
    assert await claim(store) is None
    assert await dead(store) == []


@consumes
async def test_acknowledged_messages_are_removed_if_asked_for(store: Store[Any], kind: Kind) -> None:
    await put(store)
    kept = await put(store)
    async with await receive(store, remove=True):
        pass
    async with await receive(store, remove=False):
        pass
    assert await claim(store) is None
    if kind.readable:
        assert [each.id for each in await kind.messages(store)] == [kept]


@buries
async def test_block_that_raises(store: Store[Any], kind: Kind, caplog: pytest.LogCaptureFixture) -> None:
    """The message is retried, and becomes a dead letter with the type of the exception; each attempt is logged."""
    await put(store)
    for _ in range(2):
        async with await receive(store, max_attempts=2):
            raise LookupError("no such user")
        await kind.pass_time(store, 10)
    assert await claim(store, max_attempts=2) is None
    [letter] = await dead(store)
    assert (letter.reason, letter.attempts) == ("LookupError: no such user", 2)
    assert [record.levelno for record in caplog.records if "LookupError" in record.getMessage()] == [logging.ERROR] * 2


@consumes
async def test_cancelled_block(store: Store[Any], kind: Kind) -> None:
    """The message is available at once, and the attempt is not counted."""
    uid = await put(store)
    for _ in range(3):
        with trio.CancelScope() as scope:
            async with await receive(store, max_attempts=1) as delivery:
                assert delivery.attempt == 1
                scope.cancel()
                await trio.sleep_forever()
        assert scope.cancelled_caught
    delivery = await receive(store)
    assert (delivery.id, delivery.attempt) == (uid, 1)


@consumes
async def test_settled_in_the_block(store: Store[Any], kind: Kind) -> None:
    """The end of the block settles only what was not settled; a second result is an error."""
    await put(store)
    async with await receive(store) as delivery:
        await delivery.retry(after=50)
        with pytest.raises(RuntimeError, match="already settled"):
            await delivery.ack()
    await kind.pass_time(store, 51)
    assert (await receive(store)).attempt == 2


@consumes
async def test_messages_in_flight_are_limited(store: Store[Any]) -> None:
    ids = [await put(store) for _ in range(3)]
    consumer = store.consume(max_in_flight=2)
    first, second = await anext(consumer), await anext(consumer)
    got = []

    async def next_one() -> None:
        got.append(await anext(consumer))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(next_one)
        await wait_all_tasks_blocked(0.05)
        assert got == []
        await second.ack()
    assert sorted([first.id, second.id, got[0].id]) == sorted(ids)


@consumes
async def test_cancelled_consumer_loses_nothing(store: Store[Any]) -> None:
    """Wherever it is when it is cancelled: a message that it has claimed and not returned is delivered to another."""
    consumer = store.consume()
    with trio.CancelScope() as scope:
        scope.cancel()
        await anext(consumer)
    assert scope.cancelled_caught
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(anext, consumer)
            await wait_all_tasks_blocked(0.01)
            scope.cancel()
    uid = await put(store)
    for _ in range(3):
        with trio.CancelScope() as scope:
            scope.cancel()
            await anext(consumer)
    delivery = await receive(store)
    assert (delivery.id, delivery.attempt) == (uid, 1)


@consumes
async def test_store_that_fails_while_a_consumer_waits(
    store: Store[Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """That is logged once, and when the store responds again, the consumer goes on."""
    monkeypatch.setattr("smtp_trio.stores._consumer.FIRST_PAUSE", 0.001)
    await put(store)
    original, failures = store._claim, iter(range(4))

    async def failing(*args: Any, **options: Any) -> Any:
        if next(failures, None) is not None:
            await trio.lowlevel.checkpoint()
            raise StoreError("the engine is gone")
        return await original(*args, **options)

    monkeypatch.setattr(store, "_claim", failing)
    with caplog.at_level(logging.INFO):
        await (await receive(store)).ack()
    events = [record.getMessage() for record in caplog.records if record.name == "smtp_trio.stores"]
    assert [("the engine is gone" in each, "responds again" in each) for each in events] == [
        (True, False),
        (False, True),
    ]


@pytest.mark.parametrize("name", ["", "a b", "ü", "a/b", "x" * 101, "a\n"])
async def test_invalid_names(store: Store[Any], name: str) -> None:
    with pytest.raises(ValueError, match="must be 1 to 100 letters"):
        store.consume(name)
    with pytest.raises(ValueError, match="must be 1 to 100 letters"):
        store.consume("group", name)
