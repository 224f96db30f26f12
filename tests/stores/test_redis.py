"""The store in Redis: what a 250 depends on, failures of the server, large messages, and its connections.

What it has in common with other stores is tested by `test_contract.py`.
"""

from __future__ import annotations

import logging
import os
import re
import signal
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio
from ports import free_port
from processes import Program, running, serving
from trio.testing import wait_all_tasks_blocked

import smtp_trio
from smtp_trio import stores
from smtp_trio.stores import GroupCounts, MessageNotFoundError, StoreError, StoreFullError, _redis_engine
from smtp_trio.stores._errors import UnusableStoreError
from smtp_trio.stores.redis import Redis
from smtp_trio.testing import open_memory_server

from .contract import MESSAGE, claim, put, receive
from .redis_servers import RedisServer, redis_server
from .sessions import body, large, transaction

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from smtp_trio import Client
    from smtp_trio.stores import Store

CHUNK = 1 << 16
CONSUMER = Path(__file__).parents[2] / "examples" / "consumer.py"


@pytest.fixture(scope="module")
def primary(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A server for all tests of this module."""
    with redis_server(tmp_path_factory.mktemp("primary"), repl_diskless_sync_delay="0") as server:
        yield server


@pytest.fixture(scope="module")
def replica(primary: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """Its replica."""
    directory = tmp_path_factory.mktemp("replica")
    with redis_server(directory, replicaof=f"127.0.0.1 {primary.port}") as server:
        server.wait_for("master_link_status:up")
        yield server


@pytest.fixture
def server(primary: RedisServer) -> Iterator[RedisServer]:
    """The server, without data and with its settings at the end."""
    yield primary
    for name, value in (("appendonly", "yes"), ("appendfsync", "always"), ("maxmemory-policy", "noeviction")):
        primary.ask("CONFIG", "SET", name, value)
    primary.ask("CONFIG", "SET", "min-replicas-to-write", 0)
    primary.ask("CONFIG", "SET", "maxmemory", 0)
    primary.ask("FLUSHALL")


def events(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the names of the records of stores."""
    return [str(vars(record)["event"]) for record in caplog.records if record.name == "smtp_trio.stores"]


async def messages(store: Store[Any]) -> list[bytes]:
    """Return the octets of all messages."""
    return [(await store.get(entry.id)).message async for entry in store.entries()]


# --- the URL


def test_settings_in_the_url() -> None:
    store = stores.open(
        "rediss://us%40er:p%2Fw@[::1]:7000/3?stream=in&replicas=2&wait_timeout=1.5&timeout=4&chunk=70000&durability=memory"
    )
    assert isinstance(store, Redis)
    settings = store.settings
    assert (settings.username, settings.password, settings.host, settings.port) == ("us@er", "p/w", "::1", 7000)
    assert (settings.db, settings.tls, settings.stream, settings.replicas) == (3, True, "in", 2)
    assert (settings.wait_timeout, settings.timeout, settings.chunk) == (1.5, 4, 70000)
    assert settings.durability == "memory"
    assert store.url == (
        "rediss://us%40er@[::1]:7000/3?stream=in&replicas=2&wait_timeout=1.5&timeout=4.0&chunk=70000&durability=memory"
    )
    assert stores.open(store.url).url == store.url
    assert "p/w" not in repr(store) + repr(settings)


def test_defaults_are_left_out_of_the_url() -> None:
    assert Redis("h").url == stores.open("redis://h").url == "redis://h:6379/0"


@pytest.mark.parametrize(
    ("url", "error"),
    [
        ("redis://:secret@h?steam=x", "unknown option 'steam' of redis:, known are stream, replicas, wait_timeout"),
        ("redis://:secret@h?replicas=one", "replicas must be a whole number, got 'one'"),
        ("redis://:secret@h?wait_timeout=inf", "wait_timeout must be <= 86400, got inf"),
        ("redis://:secret@h?timeout=soon", "timeout must be a number, got 'soon'"),
        ("redis://:secret@h?replicas=-1", "replicas must be >= 0"),
        ("redis://:secret@h?durability=none", 'durability must be "disk" or "memory"'),
        ("redis://:secret@h?stream={x}", "stream must be 1 to 100 letters"),
        ("redis://:secret@h?chunk=10", "chunk must be >= 65536"),
        ("redis://:secret@h/x", "must be redis://"),
        ("redis://:secret@h:99999", "must be redis://"),
        ("redis:///0", "must be redis://"),
        ("rediz://:secret@h/0", "must be maildir:PATH or .*, got 'rediz:'"),
    ],
)
def test_invalid_urls(url: str, error: str) -> None:
    with pytest.raises(ValueError, match=error) as info:
        stores.open(url)
    assert "secret" not in str(info.value)


# --- opening


async def test_store_that_was_not_entered() -> None:
    store = Redis()
    with pytest.raises(RuntimeError, match="use it in the block of an `async with` statement"):
        await store.put(transaction(), body(MESSAGE))
    with pytest.raises(RuntimeError, match="use it in the block of an `async with` statement"):
        await store.start(smtp_trio.Server(store))
    with pytest.raises(StoreError, match=r"Unable to establish a connection.*: Connection refused"):
        async with Redis("127.0.0.1", free_port(), password="secret", timeout=60):
            pytest.fail("the store was opened")


@pytest.mark.interop
async def test_exception_in_the_block_is_not_in_a_group(server: RedisServer) -> None:
    store = stores.open(server.url)
    with pytest.raises(LookupError):
        async with store:
            raise LookupError
    with trio.CancelScope() as scope:
        async with store:
            with pytest.raises(RuntimeError, match="was entered already"):
                await store.__aenter__()
            scope.cancel()
            await trio.sleep_forever()
    assert scope.cancelled_caught
    async with store:
        await put(store)


@pytest.mark.interop
@pytest.mark.parametrize(
    ("name", "value"), [("appendonly", "no"), ("appendfsync", "everysec"), ("maxmemory-policy", "allkeys-lru")]
)
async def test_setting_that_breaks_durability(
    server: RedisServer, name: str, value: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The setting is an error unless the URL permits the loss of messages; then it is logged."""
    caplog.set_level(logging.INFO)
    server.ask("CONFIG", "SET", name, value)
    with pytest.raises(StoreError, match=f"{name} is {value} and must be .*; or set durability=memory"):
        async with stores.open(server.url):
            pytest.fail("the store was opened")
    assert events(caplog) == []
    async with stores.open(f"{server.url}?durability=memory") as store:
        await put(store)
    assert events(caplog) == ["store_opened"]
    assert f"can be lost when the server stops, since {name} is {value}" in caplog.text


@pytest.mark.interop
async def test_server_that_does_not_permit_config(server: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    """That is a warning. A wrong password is an error, which does not contain it."""
    caplog.set_level(logging.INFO)
    server.ask("ACL", "SETUSER", "intake", "on", ">secret1", "~*", "+@all", "-config")
    async with stores.open(server.url.replace("//", "//intake:secret1@")) as store:
        await put(store)
    assert events(caplog) == ["store_setting", "store_opened"]
    assert "cannot be checked" in caplog.text
    with pytest.raises(StoreError) as info:
        async with stores.open(server.url.replace("//", "//intake:wrong2@")):
            pytest.fail("the store was opened")
    assert "wrong2" not in str(info.value) + caplog.text
    assert "secret1" not in caplog.text


@pytest.mark.interop
async def test_foreign_data(server: RedisServer) -> None:
    server.ask("SET", "text", "x")
    server.ask("XADD", "other", "*", "a", "b")
    server.ask("XADD", "newer", "*", "v", "7")
    for stream, error in (
        ("text", "the key text has another type: string"),
        ("other", "was written by another program"),
        ("newer", "has v=7, and this version of smtp_trio reads v=1"),
    ):
        with pytest.raises(StoreError, match=error):
            async with stores.open(f"{server.url}?stream={stream}"):
                pytest.fail("the store was opened")
    with pytest.raises(StoreError, match="the stream mail does not exist"):
        async with stores.open(server.url, create=False):
            pytest.fail("the store was opened")
    assert server.ask("EXISTS", "mail") == ":0"


@pytest.mark.interop
@pytest.mark.parametrize(
    "fields",
    [
        {"a": "b"},
        {"v": "1"},
        {"recipients": "me"},
        {"received_at": "today"},
        {"size": "large"},
        {"sender": None},
        {"message": None},
    ],
)
async def test_entry_of_another_program_among_the_messages(server: RedisServer, fields: dict[str, str | None]) -> None:
    """It is listed with the reason and can be removed. Consumers get the other messages, and it is a dead letter."""
    valid: dict[str, str | None] = {
        "v": "1",
        "id": "x",
        "received_at": "2026-11-29T18:00:00+00:00",
        "sender": "",
        "recipients": "[]",
    }
    valid |= {"mail_params": "", "size": "1", "message": "x"}
    found = fields if "a" in fields or "v" in fields else valid | fields
    async with stores.open(server.url) as store:
        pairs = [word for name, value in found.items() if value is not None for word in (name, value)]
        uid = server.ask_text("XADD", "mail", "*", *pairs)
        last = await store.add(MESSAGE, "", ["you@mx.test"])
        reason = f"entry {uid} was written by another program, or is damaged"
        assert [entry.subject async for entry in store][:1] == [reason]
        assert [entry.id async for entry in store.search("to:you")] == [last]
        with pytest.raises(MessageNotFoundError):
            await store.get(uid)
        with trio.fail_after(60):
            delivery = await anext(store.consume("group"))
        assert delivery.id == last
        await delivery.ack()
        assert [(letter.entry.id, letter.reason) async for letter in store.dead_letters("group")] == [(uid, reason)]
        assert await store.remove([uid]) == 1
        assert [entry.id async for entry in store] == [last]


# --- replicas


async def send_until_accepted(client: Client) -> None:
    """Send a message again until it is accepted: a busy machine may need more time than the store waits."""
    with trio.fail_after(100):
        while True:
            try:
                await client.send("me@client.test", ["you@mx.test"], MESSAGE)
                return
            except smtp_trio.AllRecipientsRejectedError:
                await trio.lowlevel.checkpoint()


@pytest.mark.interop
async def test_replica_that_does_not_respond(
    server: RedisServer, replica: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    """The message is refused and removed again. One record is written when that begins, and one when it ends."""
    caplog.set_level(logging.INFO)
    assert replica.process is not None
    async with (
        stores.open(f"{server.url}?replicas=1&wait_timeout=0.2") as store,
        open_memory_server(store) as intake,
        intake.client() as client,
    ):
        await send_until_accepted(client)
        assert "is on the disk of the server, and was acknowledged by 1 of 1 replicas" in caplog.text
        caplog.clear()
        replica.process.send_signal(signal.SIGSTOP)
        try:
            for _ in range(2):
                with pytest.raises(smtp_trio.AllRecipientsRejectedError) as info:
                    await client.send("me@client.test", ["you@mx.test"], b"Subject: refused\r\n\r\n")
                assert "451 4.3.0" in str(info.value)
            assert set(await messages(store)) == {MESSAGE}
        finally:
            replica.process.send_signal(signal.SIGCONT)
        replica.wait_for("master_link_status:up")
        await send_until_accepted(client)
        assert events(caplog) == ["store_interrupted", "store_resumed"]
        assert "0 replicas have acknowledged the message" in caplog.text
        assert set(await messages(store)) == {MESSAGE}


@pytest.mark.interop
async def test_too_few_replicas(server: RedisServer, replica: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(StoreError, match="it has 1 replicas, and a 250 needs 3"):
        async with stores.open(f"{server.url}?replicas=3"):
            pytest.fail("the store was opened")
    with pytest.raises(StoreError, match="it is a replica"):
        async with stores.open(replica.url):
            pytest.fail("the store was opened")
    async with stores.open(f"{server.url}?replicas=1") as store:
        server.ask("CONFIG", "SET", "min-replicas-to-write", 2)
        with pytest.raises(StoreError, match="NOREPLICAS"):
            await put(store)
        with pytest.raises(StoreError, match="NOREPLICAS"):
            await store.put(transaction(), body(*large()))
        assert events(caplog) == ["store_setting", "store_interrupted"]
        assert await messages(store) == []


# --- groups


async def put_together(store: Store[Any], count: int = 20) -> list[str]:
    """Store messages of which all but the first are one group; return the errors of those that were refused."""
    errors: list[str] = []

    async def one() -> None:
        try:
            await put(store)
        except StoreError as error:
            errors.append(f"{type(error).__name__} {error}")

    async with trio.open_nursery() as nursery:
        for _ in range(count):
            nursery.start_soon(one)
    return errors


def calls(server: RedisServer, command: str) -> int:
    """Return how often a command was executed, without those that were refused."""
    found = [
        each for each in server.ask_text("INFO", "commandstats").splitlines() if each.startswith(f"cmdstat_{command}:")
    ]
    return int(found[0].partition("calls=")[2].partition(",")[0]) if found else 0


@pytest.mark.interop
async def test_group_is_one_transaction(server: RedisServer) -> None:
    """The server flushes it once, and not once for each part that it reads."""
    async with stores.open(server.url) as store:
        before = calls(server, "exec")
        assert await put_together(store) == []
        assert calls(server, "exec") == before + 1
        assert len(await messages(store)) == 20


@pytest.mark.interop
@pytest.mark.parametrize(
    ("setting", "value", "error"),
    [("maxmemory", 1, "StoreFullError .*OOM"), ("min-replicas-to-write", 2, "StoreUnavailableError .*NOREPLICAS")],
)
async def test_group_that_is_refused(server: RedisServer, setting: str, value: int, error: str) -> None:
    async with stores.open(server.url) as store:
        server.ask("CONFIG", "SET", setting, value)
        errors = await put_together(store)
        assert len(errors) == 20
        assert all(re.match(error, each) for each in errors), errors
        server.ask("CONFIG", "SET", setting, 0)
        assert await messages(store) == []
        assert await put_together(store) == []


@pytest.mark.interop
@pytest.mark.parametrize("refused", ["-multi", "-exec", "-@transaction"])
async def test_user_who_may_not_use_transactions(server: RedisServer, refused: str) -> None:
    server.ask("ACL", "SETUSER", "mail", "on", ">secret", "~*", "+@all", refused)
    try:
        async with stores.open(server.url.replace("//", "//mail:secret@")) as store:
            assert await put_together(store) == []
            assert len(await messages(store)) == 20
    finally:
        server.ask("ACL", "DELUSER", "mail")


@pytest.mark.interop
async def test_message_is_refused_unless_the_reply_is_its_id(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An engine that refuses EXEC without ending the transaction would answer the next commands with QUEUED."""

    async def run_together(self: object, commands: Sequence[object], *_: object, longer: float) -> list[bytes]:
        return [b"QUEUED" for _ in commands]

    monkeypatch.setattr(_redis_engine.Engine, "run_together", run_together)
    async with stores.open(server.url) as store:
        errors = await put_together(store)
    assert len(errors) == 20
    assert all("the reply 'QUEUED' is not the id of an entry" in each for each in errors), errors


@pytest.mark.interop
async def test_command_that_fails_in_a_group(server: RedisServer) -> None:
    """A message whose chunks are lost is refused, and the others of its group are stored."""
    async with stores.open(f"{server.url}?chunk={CHUNK}") as store, trio.open_nursery() as nursery:

        async def chunks() -> Any:
            yield MESSAGE + b"x\r\n" * CHUNK
            [key] = [each for each in keys(server) if "chunks" in each]
            server.ask("DEL", key)
            for _ in range(9):  # the first is committed alone, and this one with the others
                nursery.start_soon(put, store)
            await wait_all_tasks_blocked()

        with pytest.raises(StoreError, match="not complete any more"):
            await store.put(transaction(), chunks())
    async with stores.open(server.url) as store:
        assert len(await messages(store)) == 9


# --- failures of the server


@pytest.mark.interop
async def test_memory_is_full(server: RedisServer) -> None:
    """The reply is 452, for small messages and for large ones, of which nothing is left."""
    async with stores.open(f"{server.url}?chunk={CHUNK}") as store, open_memory_server(store) as intake:
        await put(store)
        server.ask("CONFIG", "SET", "maxmemory", 1_000_000)
        for message in (MESSAGE, MESSAGE + b"x\r\n" * CHUNK):
            async with intake.client() as client:
                with pytest.raises(smtp_trio.AllRecipientsRejectedError) as info:
                    await client.send("me@client.test", ["you@mx.test"], message)
            assert "452 4.3.1" in str(info.value)
        with pytest.raises(StoreFullError):
            await put(store)
        server.ask("CONFIG", "SET", "maxmemory", 0)
        await put(store)
        assert await messages(store) == [MESSAGE, MESSAGE]
        assert server.ask("DBSIZE") == ":1"


@pytest.mark.interop
async def test_server_that_is_restarted(server: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    """Messages are refused until it responds again, and a consumer goes on. The settings are checked again."""
    caplog.set_level(logging.INFO)
    async with (
        stores.open(server.url) as store,
        open_memory_server(store) as intake,
        intake.client() as client,
        trio.open_nursery() as nursery,
    ):
        await client.send("me@client.test", ["you@mx.test"], MESSAGE)
        assert await claim(store) is not None
        waiting = trio.Event()

        async def consume() -> None:
            waiting.set()
            assert (await receive(store)).stored.message == b"Subject: 2\r\n\r\n"

        nursery.start_soon(consume)
        await waiting.wait()
        server.stop()
        for _ in range(3):
            with pytest.raises(smtp_trio.AllRecipientsRejectedError) as info:
                await client.send("me@client.test", ["you@mx.test"], MESSAGE)
            assert "451 4.3.0" in str(info.value)
        server.start()
        await client.send("me@client.test", ["you@mx.test"], b"Subject: 2\r\n\r\n")
    names = [name for name in events(caplog) if not name.startswith("consumer_")]
    assert names == ["store_opened", "store_interrupted", "store_opened", "store_resumed"]


@pytest.mark.interop
async def test_lost_connections_do_not_use_up_the_pool(server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pool of the library loses a place when a connection ends that it has lent."""
    monkeypatch.setattr(_redis_engine, "PLACES", 2)
    async with stores.open(server.url) as store:
        consumer = store.consume()
        for _ in range(5):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(anext, consumer)
                await wait_all_tasks_blocked(0.01)
                server.ask("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
                nursery.cancel_scope.cancel()
            with trio.fail_after(100):
                while True:
                    try:
                        await put(store)
                        break
                    except StoreError:
                        pass
        assert len(await messages(store)) == 5


@pytest.mark.interop
async def test_server_that_stops_responding(server: RedisServer) -> None:
    """The wait for it has a limit, and what was sent is not sent again."""
    assert server.process is not None
    async with Redis.from_url(server.url) as store:
        await put(store)
        server.process.send_signal(signal.SIGSTOP)
        try:
            # Only these calls are short: a machine that is busy may not answer in that time either.
            with trio.fail_after(100), pytest.MonkeyPatch.context() as patch:
                for engine in store._engines():
                    patch.setattr(engine, "_timeout", 0.5)
                with pytest.raises(StoreError, match="timed out"):
                    await put(store)
                with pytest.raises(StoreError):
                    await store.get("1-1")
        finally:
            server.process.send_signal(signal.SIGCONT)
        unknown = 1  # messages that were refused and may be there
        with trio.fail_after(100):
            while True:
                try:
                    await put(store)
                    break
                except StoreError:
                    unknown += 1
        assert 2 <= len(await messages(store)) <= 2 + unknown


@pytest.mark.interop
async def test_server_that_is_killed_loses_no_message(server: RedisServer) -> None:
    """A message that was refused may be there."""
    stored: set[bytes] = set()
    refused: set[bytes] = set()

    async def write(writer: int) -> None:
        for n in range(40):
            message = b"Subject: %d of %d of %d\r\n\r\n" % (n, writer, target) + os.urandom(20).hex().encode() * (
                n % 7 * 500
            )
            try:
                await store.put(transaction(), body(message))
            except StoreError:
                refused.add(message)
                await trio.sleep(0.01)
            else:
                stored.add(message)
                if len(stored) == target:
                    enough.set()

    async with stores.open(f"{server.url}?chunk={CHUNK}") as store:
        for _ in range(2):
            target, enough = len(stored) + 100, trio.Event()
            async with trio.open_nursery() as nursery:
                for writer in range(10):
                    nursery.start_soon(write, writer)
                await enough.wait()
                server.stop()
                before = len(refused)
                with trio.fail_after(100):
                    while len(refused) == before:
                        await wait_all_tasks_blocked(0.01)
                await trio.to_thread.run_sync(server.start)
        found = await messages(store)
    assert stored <= set(found) <= stored | refused
    assert len(found) == len(set(found))


# --- large messages


@pytest.mark.interop
async def test_chunks_are_visible_when_all_are_written(server: RedisServer) -> None:
    """Before that they have a time to live, and they are removed with the message."""
    message = b"Subject: large\r\n\r\n" + b"".join(large())
    seen = []

    async def chunks() -> Any:
        for n in range(0, len(message), 10_000):
            seen.append((server.ask("XLEN", "mail"), server.ask("DBSIZE")))
            yield message[n : n + 10_000]

    async with stores.open(f"{server.url}?chunk={CHUNK}") as store:
        async with aclosing(chunks()) as iterator:
            uid = await store.put(transaction(), iterator)
        assert seen[0] == (":0", ":0")
        assert seen[-1] == (":0", ":1")
        assert (await store.get(uid)).message == message
        [entry] = [each async for each in store.entries()]
        assert (entry.size, entry.subject) == (len(message), "large")
        assert any(line.startswith("db0:keys=2,expires=0") for line in server.info())
        assert await store.remove([uid]) == 1
        assert keys(server) == ["mail"]
        assert server.ask("XLEN", "mail") == ":0"


@pytest.mark.interop
async def test_message_that_is_cancelled_or_refused_leaves_no_chunks(server: RedisServer) -> None:
    async def chunks() -> Any:
        for _ in range(5):
            yield b"x" * CHUNK
        assert any(line.startswith("db0:keys=1,expires=1") for line in server.info())
        scope.cancel()
        await trio.lowlevel.checkpoint()

    async with stores.open(f"{server.url}?chunk={CHUNK}") as store:
        with trio.CancelScope() as scope:
            async with aclosing(chunks()) as iterator:
                await store.put(transaction(), iterator)
        assert scope.cancelled_caught
        assert server.ask("DBSIZE") == ":0"


@pytest.mark.interop
@pytest.mark.parametrize("lost", ["DEL", "RPOP"])
@pytest.mark.parametrize("last", [False, True], ids=["chunk", "publication"])
async def test_chunks_that_are_lost(server: RedisServer, lost: str, last: bool) -> None:
    """A message of which chunks have expired, or which a failover has lost, is not published."""

    async def chunks() -> Any:
        for _ in range(3):
            yield b"x" * CHUNK
        [key] = [each for each in keys(server) if "chunks" in each]
        server.ask(lost, key)
        yield b"x" * (10 if last else CHUNK)

    async with stores.open(f"{server.url}?chunk={CHUNK}") as store:
        with pytest.raises(StoreError, match="the first octets of the message are not complete any more"):
            async with aclosing(chunks()) as iterator:
                await store.put(transaction(), iterator)
        assert await messages(store) == []
        assert keys(server) == []


def keys(server: RedisServer) -> list[str]:
    """Return the keys of the server."""
    return server.ask_text("EVAL", "return table.concat(redis.call('KEYS', '*'), ' ')", 0).split()


@pytest.mark.interop
async def test_message_is_removed_while_it_is_read(server: RedisServer) -> None:
    async with stores.open(f"{server.url}?chunk={CHUNK}") as store:
        uid = await store.put(transaction(), body(*large()))
        [key] = [each for each in keys(server) if "chunks" in each]
        server.ask("DEL", key)
        with pytest.raises(MessageNotFoundError, match="was removed"):
            await store.get(uid)


# --- consumers


@pytest.mark.interop
async def test_message_without_its_chunks_becomes_a_dead_letter(server: RedisServer) -> None:
    """No attempt can succeed, and the consumer goes on with the next message."""
    async with stores.open(f"{server.url}?chunk={CHUNK}") as store:
        lost = await store.put(transaction(), body(*large()))
        [key] = [each for each in keys(server) if "chunks" in each]
        server.ask("DEL", key)
        uid = await store.put(transaction(), body(MESSAGE))
        async with await receive(store) as delivery:
            assert (delivery.id, delivery.attempt) == (uid, 1)
        [letter] = [each async for each in store.dead_letters()]
    assert (letter.entry.id, letter.attempts, letter.reason) == (lost, 1, "chunks of the message are missing")


@pytest.mark.interop
@pytest.mark.parametrize("user", ["shop", "nobody"])
async def test_wrong_password_is_an_error_for_which_it_is_useless_to_wait(server: RedisServer, user: str) -> None:
    assert server.ask("ACL", "SETUSER", "shop", "on", ">secret", "~*", "+@all") == "+OK"
    try:
        with pytest.raises(UnusableStoreError, match="invalid username-password pair"):
            async with stores.open(server.url.replace("//", f"//{user}:wrong@")):
                raise AssertionError("the store must not open")
    finally:
        server.ask("ACL", "DELUSER", "shop")


@pytest.mark.interop
async def test_nothing_is_left_of_consumers_and_messages(server: RedisServer) -> None:
    """The records of a group about a message, and consumers without messages, are removed."""
    async with stores.open(f"{server.url}?chunk={CHUNK}") as store:
        for n in range(3):
            await store.put(transaction(), body(*large()) if n else body(MESSAGE))
        await (await receive(store, "other")).fail("x")
        async with await receive(store, remove=True):
            pass
        await (await receive(store)).retry(after=0)
        for _ in range(2):
            async with await receive(store, remove=True):
                pass
        assert keys(server) == ["mail"]
        assert server.ask("XLEN", "mail") == ":0"
        for group in ("default", "other"):
            assert server.ask("XPENDING", "mail", group) == "*4"
            names = server.ask_text("EVAL", NAMES_OF_CONSUMERS, 1, "mail", group)
            assert names == "waiting"


NAMES_OF_CONSUMERS = """
local names = {}
for _, each in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])) do table.insert(names, each[2]) end
return table.concat(names, ' ')
"""


@pytest.mark.interop
async def test_messages_that_wait_are_unknown_after_a_removal(server: RedisServer) -> None:
    """Redis does not count then; when the group has had all that were stored before, it does again."""
    async with stores.open(server.url) as store:
        assert await store.groups() == {}
        assert keys(server) == []
        ids = [await put(store) for _ in range(4)]
        first = await receive(store)
        assert await store.groups() == {"default": GroupCounts(waiting=3, in_flight=1, dead=0)}
        await store.remove([ids[2]])
        assert await store.groups() == {"default": GroupCounts(waiting=None, in_flight=1, dead=0)}
        await first.ack()
        for _ in range(2):
            await (await receive(store)).ack()
        await put(store)
        assert await store.groups() == {"default": GroupCounts(waiting=1, in_flight=0, dead=0)}


@pytest.mark.interop
async def test_consumers_of_two_groups_wait_for_one_message(server: RedisServer) -> None:
    """Each is woken, whichever group was the last to look for messages."""
    async with stores.open(server.url) as store:
        for _ in range(3):
            found: list[str] = []

            async def consume(group: str, found: list[str] = found) -> None:
                async with await receive(store, group) as delivery:
                    found.append(delivery.id)

            async with trio.open_nursery() as nursery:
                for group in ("one", "two"):
                    nursery.start_soon(consume, group)
                await wait_all_tasks_blocked(0.01)
                uid = await put(store)
            assert found == [uid, uid]


@pytest.mark.interop
async def test_commands_are_completed_when_the_block_is_cancelled(server: RedisServer) -> None:
    """A shielded command keeps its connection: it is not reported as lost, and the cancellation arrives as such."""
    sent = trio.Event()
    with trio.fail_after(100), trio.CancelScope() as scope:
        async with stores.open(server.url) as store:
            await put(store)

            async def settle() -> None:
                async for delivery in store.consume("group"):
                    server.ask("CLIENT", "PAUSE", 300, "WRITE")
                    sent.set()
                    await delivery.ack()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(settle)
                await sent.wait()
                await wait_all_tasks_blocked()
                scope.cancel()
    assert scope.cancelled_caught
    async with stores.open(server.url) as store:
        assert await claim(store, "group") is None


@pytest.mark.interop
async def test_example_of_a_consumer(server: RedisServer, tmp_path: Path) -> None:
    """Two of them share the messages of an intake, each of which is handled once."""
    url = f"{server.url}?stream=example"
    message = b"Subject: %d\r\n\r\nhello\r\n"
    async with (
        serving("--store", url, cwd=tmp_path) as intake,
        running(str(CONSUMER), url, cwd=tmp_path) as first,
        running(str(CONSUMER), url, cwd=tmp_path) as second,
    ):
        with trio.fail_after(100):
            while sum("flags=b" in each for each in server.ask_text("CLIENT", "LIST").splitlines()) < 2:
                await wait_all_tasks_blocked(0.01)  # until both wait for messages, and for SIGINT
        for number in range(4):
            await intake.send("me@example.net", ["you@example.org"], message % number)
        programs = (first, second)
        async with trio.open_nursery() as nursery:

            async def read_output(program: Program) -> None:
                while sum(each.out.text.count("\n") for each in programs) < 4:
                    await program.out.read_more("a message")
                nursery.cancel_scope.cancel()

            for program in programs:
                nursery.start_soon(read_output, program)
        for program in programs:
            program.signal(signal.SIGINT)
            assert await program.wait() == 0
    lines = sorted(line for each in programs for line in each.out.text.splitlines())
    assert lines == [f"me@example.net you@example.org {number}" for number in range(4)]
