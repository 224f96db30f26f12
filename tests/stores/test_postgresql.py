"""PostgreSQL: its URL, its schema, failures of the server, and consumers. See also `test_contract.py`."""

from __future__ import annotations

import itertools
import logging
import os
import signal
from contextlib import aclosing, asynccontextmanager, contextmanager, nullcontext, suppress
from typing import TYPE_CHECKING, Any

import pytest
import trio
from attrs import evolve
from trio.testing import wait_all_tasks_blocked

from smtp_trio import stores
from smtp_trio.stores import MessageNotFoundError, StoreError, StoreFullError
from smtp_trio.stores._errors import UnusableStoreError

from .contract import MESSAGE, claim, put, receive
from .postgresql import PostgresServer, open_server, open_standby
from .sessions import body, large, transaction

psycopg = pytest.importorskip("psycopg")

from smtp_trio.stores._postgresql_connection import Link, store_error  # noqa: E402
from smtp_trio.stores._postgresql_queue import create_group  # noqa: E402
from smtp_trio.stores._postgresql_schema import guarantee, weakness  # noqa: E402
from smtp_trio.stores.postgresql import PostgreSQL  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Iterator

    from smtp_trio.stores import Store

NUMBERS = itertools.count(1)
interop = pytest.mark.interop


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with open_server() as server:
        yield server


@pytest.fixture
def schema() -> str:
    """The name of a schema that does not exist yet."""
    return f"test_{next(NUMBERS)}"


@asynccontextmanager
async def opened(server: PostgresServer, schema: str, **params: str) -> AsyncIterator[PostgreSQL]:
    async with stores.open(server.url(schema=schema, **params)) as store:
        assert isinstance(store, PostgreSQL)
        yield store


@contextmanager
def short_calls(store: PostgreSQL) -> Iterator[None]:
    """Give calls in the block half a second. Those before and after it may take longer, on a machine that is busy."""
    watchdog = store._writer._watchdog
    usual, watchdog.timeout = watchdog.timeout, 0.5
    try:
        yield
    finally:
        watchdog.timeout = usual


@contextmanager
def connected(server: PostgresServer, schema: str = "public") -> Iterator[Any]:
    """Connect to a server as another program does."""
    params = {"host": str(server.directory), "user": "postgres", "dbname": "postgres"}
    with psycopg.connect(**params, options=f"-c search_path={schema}", autocommit=True) as db:
        yield db


@contextmanager
def setting(server: PostgresServer, name: str, value: str) -> Iterator[None]:
    """Change a setting of a server that runs, until the end of the block."""
    with connected(server) as db:
        db.execute(f"ALTER SYSTEM SET {name} = '{value}'")
        db.execute("SELECT pg_reload_conf()")
        while db.execute(f"SHOW {name}").fetchone() != (value,):
            db.execute("SELECT pg_sleep(0.01)")
    yield
    with connected(server) as db:
        db.execute(f"ALTER SYSTEM RESET {name}")
        db.execute("SELECT pg_reload_conf()")
        while db.execute(f"SHOW {name}").fetchone() == (value,):
            db.execute("SELECT pg_sleep(0.01)")


async def stored(store: Store[Any]) -> list[str]:
    """Return the ids of the messages of a store."""
    return [entry.id async for entry in store.entries()]


async def waiting_backend(db: Any, condition: str) -> int:
    """Return the process of the server that serves a store and is in this state."""
    query = f"SELECT pid FROM pg_stat_activity WHERE application_name = 'smtp_trio' AND {condition}"
    with trio.fail_after(100):
        while not (row := db.execute(query).fetchone()):
            await trio.to_thread.run_sync(db.execute, "SELECT pg_sleep(0.02)")
    return int(row[0])


# --- the URL


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:secret@h1:5433,h2/mail?schema=intake&sslmode=require",
        "postgresql://me@h1:5433,h2/mail?schema=intake&password=secret&sslmode=require",
        "postgresql://me:secret@h1:5433,h2/mail?schema=intake&sslmode=require&sslpassword=secret",
    ],
)
def test_password_is_not_in_the_url_of_the_store(url: str) -> None:
    store = PostgreSQL.from_url(url)
    assert store.url == "postgresql://me@h1:5433,h2/mail?schema=intake&sslmode=require"
    assert repr(store) == f"PostgreSQL({store.url!r})"
    assert store._writer._params["host"] == "h1,h2"
    assert (store._writer._params.get("password") == "secret") == ("sslpassword" not in url or "me:secret" in url)


@pytest.mark.parametrize(
    ("url", "error"),
    [
        ("postgresql:mail", "must be postgresql://"),
        ("postgresql://me:secret@[::1/mail", "matching"),
        ("postgresql://me:sec@secret@host/mail", "%40"),
        ("postgresql://me:sec/secret@host/mail", "%40"),
        ("postgresql://me:secret%zz@host/mail", "password is invalid"),
        ("postgresql://me:secret@host/mail?bogus=1", "bogus"),
        ("postgresql://me:secret@host/mail?password", "parameters are invalid"),
        ("postgresql://me:secret@host/mail?schema=A-1", "schema must be"),
        ("postgresql://me:secret@host/mail?durability=none", "durability must be"),
        ("postgresql://me:secret@host/mail?call_timeout=soon", "call_timeout must be"),
        ("postgresql://me:secret@host/mail?call_timeout=0", "call_timeout must be"),
    ],
)
def test_invalid_urls_are_errors_without_the_password(url: str, error: str) -> None:
    with pytest.raises(ValueError, match=error) as caught:
        stores.open(url)
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None


async def test_unreachable_server_is_an_error_when_the_store_is_opened(short_path: Any) -> None:
    with pytest.raises(StoreError, match="No such file") as caught:
        await PostgreSQL(f"postgresql://me:secret@/mail?host={short_path}").open()
    assert "secret" not in repr(caught.value) + repr(caught.value.__cause__)


# --- guarantees


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({}, "is on the disk of this server; standbys may not have it yet"),
        ({"fsync": "off"}, "is in the memory of the server"),
        ({"synchronous_commit": "off"}, "is in the memory of the server"),
        ({"synchronous_standby_names": "ANY 1 (*)"}, "flushed by standbys 'ANY 1 (*)'"),
        ({"synchronous_standby_names": "*", "synchronous_commit": "local"}, "standbys may not have it yet"),
        (
            {"synchronous_standby_names": "*", "synchronous_commit": "remote_write"},
            "received, and not flushed, by standbys",
        ),
        ({"synchronous_standby_names": "*", "synchronous_commit": "remote_apply"}, "flushed and applied by standbys"),
        ({"full_page_writes": "off"}, "full_page_writes=off"),
    ],
)
def test_guarantee_of_the_settings(changes: dict[str, str], text: str) -> None:
    settings = {"fsync": "on", "full_page_writes": "on", "synchronous_commit": "on", "synchronous_standby_names": ""}
    settings |= changes
    assert text in guarantee(settings)
    assert (weakness(settings) is None) == ("off" not in (settings["fsync"], settings["synchronous_commit"]))


@interop
async def test_settings_with_which_messages_can_be_lost(
    server: PostgresServer, schema: str, caplog: pytest.LogCaptureFixture
) -> None:
    """They are an error, unless the URL accepts them. The log has what a 250 guarantees."""
    options = "-c synchronous_commit=off"
    with pytest.raises(UnusableStoreError, match=r"synchronous_commit=off; turn it on, or .*durability=memory"):
        async with opened(server, schema, options=options):
            pass
    with caplog.at_level(logging.INFO):
        async with opened(server, schema, options=options, durability="memory") as store:
            await put(store)
        async with opened(server, schema):
            pass
    first, second = [record.getMessage() for record in caplog.records if record.name == "smtp_trio.stores"]
    assert "memory of the server, and lost if that fails (synchronous_commit=off)" in first
    assert "on the disk of this server" in second


# --- the schema


@interop
@pytest.mark.parametrize(
    ("change", "error"),
    [
        ("UPDATE schema_version SET version = 99", "version 99 of schema .* newer smtp_trio; this one supports 1"),
        ("UPDATE schema_version SET version = 0", "version 0 of schema .* is not supported"),
        ("DELETE FROM schema_version", "created by another program"),
        ("ALTER TABLE schema_version RENAME version TO number", "created by another program"),
        ("DROP TABLE schema_version", "created by another program"),
    ],
)
async def test_other_versions_of_the_schema(server: PostgresServer, schema: str, change: str, error: str) -> None:
    async with opened(server, schema) as store:
        await put(store)
    with connected(server, schema) as db:
        db.execute(change)
    for create in (True, False):
        with pytest.raises(StoreError, match=error):
            await stores.open(server.url(schema=schema), create=create).open()


@interop
async def test_store_that_does_not_exist_is_not_created_for_a_reader(server: PostgresServer, schema: str) -> None:
    with pytest.raises(StoreError, match=f"schema {schema} has no tables of a store"):
        await stores.open(server.url(schema=schema), create=False).open()
    with connected(server) as db:
        assert db.execute("SELECT FROM pg_namespace WHERE nspname = %s", [schema]).fetchone() is None


@interop
async def test_role_that_may_not_create_a_schema(server: PostgresServer, schema: str) -> None:
    with connected(server) as db:
        db.execute("CREATE ROLE mail LOGIN")
        with pytest.raises(
            StoreError, match=f"schema {schema} does not exist, and cannot be created: permission denied"
        ):
            await stores.open(server.url(schema=schema, user="mail")).open()
        db.execute(f"CREATE SCHEMA {schema} AUTHORIZATION mail")
    async with opened(server, schema, user="mail") as store:
        await put(store)


@interop
async def test_servers_that_start_at_the_same_time_create_the_tables_once(server: PostgresServer, schema: str) -> None:
    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(stores.open(server.url(schema=schema)).open)
    async with opened(server, schema) as store:
        await put(store)


@interop
async def test_tables_for_programs(server: PostgresServer, schema: str) -> None:
    """The view has whole bodies, and deleting from it deletes everything that belongs to a message."""
    message = b"".join(large())
    async with opened(server, schema) as store:
        await claim(store)
        uid = await store.put(transaction("a@b.test", "c@d.test", "e@f.test"), body(message))
        with connected(server, schema) as db:
            assert db.execute("SELECT uid, sender, size, body FROM messages").fetchall() == [
                (uid, "a@b.test", len(message), message)
            ]
            assert db.execute("DELETE FROM messages").rowcount == 1
            for table in ("message_rows", "recipients", "pieces", "queue", "unpublished"):
                assert db.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,), table
        with pytest.raises(MessageNotFoundError):
            await store.get(uid)
        assert await claim(store) is None


@interop
async def test_pages(server: PostgresServer, schema: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smtp_trio.stores._postgresql_reading.PAGE", 2)
    monkeypatch.setattr("smtp_trio.stores._postgresql_reading.PIECES_PAGE", 2)
    message = b"".join(large())
    async with opened(server, schema) as store:
        ids = [await put(store) for _ in range(4)] + [await store.put(transaction(), body(message))]
        assert await stored(store) == ids
        assert [entry.id async for entry in store.entries(reverse=True)] == ids[::-1]
        assert (await store.get(ids[-1])).message == message
        for uid in ids:
            delivery = await receive(store, "group", max_in_flight=9)
            assert delivery.id == uid
            await delivery.fail("no")
        assert [letter.entry.id async for letter in store.dead_letters("group")] == ids


# --- errors


@interop
async def test_message_that_the_server_refuses_does_not_affect_the_others(server: PostgresServer, schema: str) -> None:
    """Two cannot be expressed as text in PostgreSQL, and one has an id that is used."""
    async with opened(server, schema) as store:
        session = transaction()
        ids = [await store.put(session, body(MESSAGE))]
        refused = []

        async def put_as(user: str) -> None:
            client: Any = transaction()
            try:
                ids.append(await store.put(evolve(client, user=user), body(MESSAGE)))
            except StoreError as error:
                refused.append(str(error))

        async def again() -> None:
            with pytest.raises(StoreError, match="duplicate key"):
                await store.put(session, body(MESSAGE))

        async with trio.open_nursery() as nursery:
            for n in range(10):
                nursery.start_soon(put_as, {3: "a\udc80b", 5: "a\0b"}.get(n, f"user-{n}"))
            nursery.start_soon(again)
        assert len(refused) == 2
        assert "surrogates" in "".join(refused)
        assert "0x00" in "".join(refused)
        assert sorted(await stored(store)) == sorted(ids)


@interop
async def test_full_disk(server: PostgresServer, schema: str) -> None:
    """The reply is 452. The server reports the error that it has when its disk is full."""
    async with opened(server, schema) as store:
        with connected(server, schema) as db:
            db.execute(
                "CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS "
                "$$ BEGIN RAISE 'could not extend file' USING ERRCODE = '53100'; END $$"
            )
            db.execute("CREATE TRIGGER fail BEFORE INSERT ON message_rows EXECUTE FUNCTION fail()")
            with pytest.raises(StoreFullError, match="could not extend file") as caught:
                await put(store)
            assert caught.value.reply.code == 452
            db.execute("DROP TRIGGER fail ON message_rows")
        await put(store)


@interop
async def test_outage(server: PostgresServer, schema: str, caplog: pytest.LogCaptureFixture) -> None:
    """The log has its beginning and its end; messages get 451, and are stored again without a new start."""
    async with opened(server, schema) as store:
        uids = [await put(store)]
        server.stop()
        try:
            with caplog.at_level(logging.INFO):
                for _ in range(3):
                    with pytest.raises(StoreError) as caught:
                        await put(store)
                    assert caught.value.reply.code == 451
        finally:
            server.start()
        with caplog.at_level(logging.INFO):
            uids.append(await put(store))
        events = [record.getMessage() for record in caplog.records if record.name == "smtp_trio.stores"]
        assert len(events) == 2
        assert "does not respond" in events[0]
        assert "responds again" in events[1]
        assert await stored(store) == uids


@interop
async def test_commit_on_the_other_connection_does_not_end_an_outage(
    server: PostgresServer, schema: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that is stopped closes one connection of the store before the other. The log has one outage."""
    monkeypatch.setattr("smtp_trio.stores._postgresql_connection.PAUSE", 1000)
    async with opened(server, schema) as store:

        def lose(link: Link) -> None:
            with pytest.raises(StoreError):
                link.call(lambda db: db.execute("SELECT pg_terminate_backend(pg_backend_pid())"))

        with caplog.at_level(logging.INFO):
            await trio.to_thread.run_sync(lose, store._writer)
            await trio.to_thread.run_sync(store._second.call, lambda db: db.execute("SELECT 1"))
            await trio.to_thread.run_sync(lose, store._second)
            await put(store)
        events = [record.event for record in caplog.records if record.name == "smtp_trio.stores"]  # type: ignore[attr-defined]
        assert events == ["store_interrupted", "store_resumed"]


@interop
async def test_connection_that_was_closed_while_idle_costs_no_message(server: PostgresServer, schema: str) -> None:
    async with opened(server, schema) as store:
        await put(store)
        with connected(server) as db:
            db.execute(
                "SELECT pg_terminate_backend(pid, 100000) FROM pg_stat_activity WHERE application_name = 'smtp_trio'"
            )
        await put(store)
        server.stop(signal.SIGQUIT)
        server.start()
        await put(store)
        assert len(await stored(store)) == 3


@interop
@pytest.mark.parametrize("how", ["pg_cancel_backend", "pg_terminate_backend", None])
async def test_wait_for_standbys_that_ends_early_is_no_success(
    server: PostgresServer, schema: str, how: str | None
) -> None:
    """The message may be in the store then, but not on a standby. Without an administrator the wait ends after a while."""
    async with opened(server, schema) as store:
        uid = await put(store)
        with setting(server, "synchronous_standby_names", "*"), connected(server) as db:

            async def end_wait() -> None:
                pid = await waiting_backend(db, "wait_event = 'SyncRep'")
                db.execute(f"SELECT {how}(%s)", [pid])

            async with trio.open_nursery() as nursery:
                if how:
                    nursery.start_soon(end_wait)
                with nullcontext() if how else short_calls(store), pytest.raises(StoreError) as caught:
                    await put(store)
            assert caught.value.reply.code == 451
            query = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
            with trio.fail_after(100):  # a server that is busy may end its wait when the call has ended
                while db.execute(query).fetchone() != (0,):
                    await trio.to_thread.run_sync(db.execute, "SELECT pg_sleep(0.02)")
        last = await put(store)
        found = await stored(store)
        assert found[0] == uid
        assert found[-1] == last


@interop
async def test_stalled_server_ends_a_call(server: PostgresServer, schema: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its kernel still acknowledges everything. No thread is left."""
    monkeypatch.setattr("smtp_trio.stores._postgresql_connection.GRACE", 0.2)
    async with opened(server, schema) as store:
        assert store._writer.connection is not None
        pid = store._writer.connection.info.backend_pid
        assert server.process is not None
        for each in (server.process.pid, pid):
            os.kill(each, signal.SIGSTOP)
        try:
            with short_calls(store), trio.fail_after(100), pytest.raises(StoreError):
                await put(store)
        finally:
            for each in (pid, server.process.pid):
                os.kill(each, signal.SIGCONT)
        await put(store)


# --- large messages


async def begin_large(
    store: Store[Any], scope: trio.CancelScope, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Store a large message whose end does not come before the scope is cancelled. Its pieces are written at the start."""

    async def chunks() -> AsyncGenerator[bytes]:
        for chunk in large():
            yield chunk
        task_status.started()
        await trio.sleep_forever()

    with scope:
        async with aclosing(chunks()) as octets:
            await store.put(transaction(), octets)


def uids_of_pieces(db: Any) -> set[str]:
    return {uid for (uid,) in db.execute("SELECT uid FROM pieces").fetchall()}


@interop
async def test_pieces_of_processes_that_have_ended_are_removed(server: PostgresServer, schema: str) -> None:
    """Those of other servers that still run are kept."""
    scopes = [trio.CancelScope(), trio.CancelScope()]
    async with opened(server, schema) as dead, opened(server, schema) as alive, trio.open_nursery() as nursery:
        for scope, store in zip(scopes, (dead, alive), strict=True):
            await nursery.start(begin_large, store, scope)
        with connected(server, schema) as db:
            assert len(uids_of_pieces(db)) == 2
            for link in (dead._writer, dead._second):
                assert link.connection is not None
                db.execute("SELECT pg_terminate_backend(%s, 100000)", [link.connection.info.backend_pid])
            async with opened(server, schema) as third:
                [uid] = uids_of_pieces(db)
                assert db.execute("SELECT uid FROM unpublished").fetchall() == [(uid,)]
                assert await stored(third) == []
            for scope in scopes:
                scope.cancel()
    with connected(server, schema) as db:
        assert uids_of_pieces(db) == set()


@interop
async def test_pieces_are_kept_while_one_of_two_connections_is_left(server: PostgresServer, schema: str) -> None:
    scope = trio.CancelScope()
    async with opened(server, schema) as store, trio.open_nursery() as nursery:
        await nursery.start(begin_large, store, scope)
        with connected(server, schema) as db:
            assert store._writer.connection is not None
            db.execute("SELECT pg_terminate_backend(%s, 100000)", [store._writer.connection.info.backend_pid])
            async with opened(server, schema):
                assert len(uids_of_pieces(db)) == 1
        scope.cancel()


@interop
async def test_second_group_is_committed_while_the_first_waits(server: PostgresServer, schema: str) -> None:
    """The first one waits until it is known whether another transaction adds a message with the same id."""
    async with opened(server, schema) as store:
        session = transaction()
        assert session.envelope is not None
        with connected(server, schema) as db:
            async with trio.open_nursery() as nursery:
                with db.transaction(force_rollback=True):
                    db.execute(
                        "INSERT INTO message_rows (uid, received_at, sender, mail_params, size, pieces, body) "
                        "VALUES (%s, now(), '', '', 0, 0, '')",
                        [session.envelope.id],
                    )
                    nursery.start_soon(store.put, session, body(MESSAGE))
                    await wait_all_tasks_blocked()
                    with trio.fail_after(60):
                        second = await put(store)
                    assert await store.present([session.envelope.id, second]) == {second}
        assert await store.present([session.envelope.id, second]) == {session.envelope.id, second}


@interop
async def test_store_without_its_second_connection_is_not_opened(server: PostgresServer, schema: str) -> None:
    """A limit of connections is found at the start. No connection stays open."""
    store = PostgreSQL(server.url(schema=schema))
    store._second._params["user"] = "unknown"
    with pytest.raises(StoreError, match="unknown"):
        await store.open()
    assert store._writer.connection is None


@interop
@pytest.mark.parametrize("lost", ["_writer", "_second"])
async def test_groups_share_a_connection_while_the_other_cannot_be_opened(
    server: PostgresServer, schema: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    """As when a limit of connections is reached while they are lost. Nothing is refused, and the log has no outage."""
    monkeypatch.setattr("smtp_trio.stores._postgresql_connection.PAUSE", 0)
    async with opened(server, schema) as store:
        link = getattr(store, lost)
        user, link._params["user"] = link._params["user"], "unknown"
        with connected(server) as db:
            db.execute("SELECT pg_terminate_backend(%s, 100000)", [link.connection.info.backend_pid])

        async def write() -> None:
            async with trio.open_nursery() as nursery:
                for _ in range(20):
                    nursery.start_soon(put, store)

        await write()
        assert link.connection is None
        assert await store.count() == 20
        assert not [record for record in caplog.records if record.name == "smtp_trio.stores"]
        link._params["user"] = user
        await write()
        assert link.connection is not None


@interop
async def test_message_whose_pieces_are_lost_is_refused(server: PostgresServer, schema: str) -> None:
    """A crash of the server can lose them, as can a store that was opened while this one was not connected."""
    async with opened(server, schema) as store:

        async def chunks() -> AsyncIterator[bytes]:
            for chunk in large():
                yield chunk
            with connected(server, schema) as db:
                assert db.execute("DELETE FROM pieces WHERE n = 1").rowcount == 1

        async def put_large() -> None:
            with pytest.raises(StoreError, match="has lost a part of the message"):
                await store.put(transaction(), chunks())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(put_large)
            nursery.start_soon(put, store)
        assert len(await stored(store)) == 1
    with connected(server, schema) as db:
        assert uids_of_pieces(db) == set()


def test_errors_for_which_it_is_useless_to_wait() -> None:
    refused = 'connection failed: FATAL:  password authentication failed for user "mail"'
    assert type(store_error(psycopg.OperationalError(refused))) is UnusableStoreError
    for temporary in ("connection refused", "FATAL:  the database system is starting up"):
        assert type(store_error(psycopg.OperationalError(temporary))) is StoreError


# --- consumers


@interop
@pytest.mark.parametrize("new_group", [True, False], ids=["new group", "group"])
async def test_message_whose_transaction_ends_after_a_later_one_is_delivered(
    server: PostgresServer, schema: str, new_group: bool
) -> None:
    async with opened(server, schema) as one, opened(server, schema) as two:
        if not new_group:
            assert await claim(one) is None
        with connected(server, schema) as db:
            await put(one)
            with suppress(StoreError):
                db.execute("CREATE TABLE gate (n integer); INSERT INTO gate VALUES (1)")
            db.execute(
                "CREATE FUNCTION wait_for_gate() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
                " IF NEW.sender = 'late@client.test' THEN PERFORM FROM gate FOR UPDATE; END IF; RETURN NEW; END $$"
            )
            db.execute("CREATE TRIGGER gate AFTER INSERT ON message_rows FOR EACH ROW EXECUTE FUNCTION wait_for_gate()")
            seen: list[str] = []

            async def late() -> None:
                seen.append(await put(one, sender="late@client.test"))

            async def consume() -> None:
                async for delivery in two.consume():
                    await delivery.ack()
                    handled.append(delivery.id)
                    if len(handled) == 3:
                        return

            handled: list[str] = []
            async with trio.open_nursery() as nursery:
                with db.transaction():
                    db.execute("SELECT FROM gate FOR UPDATE")
                    nursery.start_soon(late)
                    with connected(server) as other:
                        await waiting_backend(other, "wait_event_type = 'Lock'")
                        seen.append(await put(two))
                        nursery.start_soon(consume)
                        if new_group:
                            await waiting_backend(other, "query LIKE 'LOCK TABLE groups%' AND wait_event_type = 'Lock'")
                        else:
                            with trio.fail_after(100):
                                while len(handled) < 2:
                                    await trio.to_thread.run_sync(other.execute, "SELECT pg_sleep(0.02)")
            assert len(set(handled)) == 3
            assert set(handled) == set(await stored(one))


@interop
@pytest.mark.parametrize("isolation", ["read committed", "repeatable read", "serializable"])
async def test_message_that_waits_for_a_new_group_is_delivered_to_it(
    server: PostgresServer, schema: str, isolation: str
) -> None:
    """Also where an administrator has chosen another level of isolation, with which it would not see the group."""
    options = "-c default_transaction_isolation=" + isolation.replace(" ", "\\ ")
    async with opened(server, schema, options=options) as store:
        with connected(server, schema) as db, connected(server) as other:
            async with trio.open_nursery() as nursery:
                with db.transaction():
                    create_group(db, "default")
                    nursery.start_soon(put, store)
                    await waiting_backend(other, "wait_event_type = 'Lock'")
        assert await claim(store) is not None


@interop
async def test_many_consumers_handle_each_message_once(
    server: PostgresServer, schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that were stored before the group was new are added to its queue in several steps."""
    monkeypatch.setattr("smtp_trio.stores._postgresql_queue.FILLED_AT_ONCE", 7)
    handled: list[str] = []
    async with opened(server, schema) as one, opened(server, schema) as two, trio.open_nursery() as nursery:

        async def consume(store: Store[Any]) -> None:
            async for delivery in store.consume(max_in_flight=3):
                await delivery.ack()
                handled.append(delivery.id)
                if len(handled) == 60:
                    nursery.cancel_scope.cancel()

        ids = [await put(one) for _ in range(30)]
        for store in (one, two) * 3:
            nursery.start_soon(consume, store)
        ids += [await put(one) for _ in range(30)]
    assert sorted(handled) == sorted(ids)


@interop
async def test_notification_wakes_consumers_of_another_process(
    server: PostgresServer, schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("smtp_trio.stores._consumer.POLL_INTERVAL", 1000)
    async with opened(server, schema) as one, opened(server, schema) as two:
        for group in ("a", "b"):
            await claim(two, group)
        deliveries: list[str] = []

        async def consume(group: str) -> None:
            deliveries.append((await receive(two, group)).id)

        with connected(server) as db:
            for _ in range(2):  # again after the listening connection was lost
                async with trio.open_nursery() as nursery:
                    for group in ("a", "b"):
                        nursery.start_soon(consume, group)
                    pid = await waiting_backend(db, "query LIKE 'LISTEN%'")
                    await wait_all_tasks_blocked(0.05)
                    uid = await put(one)
                assert deliveries == [uid, uid]
                deliveries.clear()
                db.execute("SELECT pg_terminate_backend(%s, 100000)", [pid])


@interop
async def test_notification_that_came_before_the_wait_ends_it(server: PostgresServer, schema: str) -> None:
    async with opened(server, schema) as one, opened(server, schema) as two:
        await claim(two)
        with trio.move_on_after(0.05):
            await two._listener.wait()
        for _ in range(2):
            await put(one)
            with trio.fail_after(100):
                await two._listener.wait()


# --- crashes and standbys


@interop
async def test_every_acknowledged_message_survives_crashes_of_the_server(server: PostgresServer, schema: str) -> None:
    acknowledged: dict[str, bytes] = {}
    async with opened(server, schema) as store:
        async with trio.open_nursery() as nursery:

            async def write(number: int) -> None:
                for n in itertools.count():
                    message = b"Subject: %d %d\r\n\r\n" % (number, n)
                    try:
                        acknowledged[await store.put(transaction(), body(message))] = message
                    except StoreError:
                        await trio.sleep(0.01)

            for number in range(20):
                nursery.start_soon(write, number)
            for _ in range(2):
                before = len(acknowledged)
                with trio.fail_after(100):
                    while len(acknowledged) < before + 100:
                        await wait_all_tasks_blocked()
                await trio.to_thread.run_sync(server.stop, signal.SIGKILL)
                await trio.to_thread.run_sync(server.start)
            nursery.cancel_scope.cancel()
        found = set(await stored(store))
        assert set(acknowledged) <= found
        for uid, message in acknowledged.items():
            assert (await store.get(uid)).message == message


@interop
async def test_standby_that_is_promoted_has_every_acknowledged_message(schema: str) -> None:
    """The store, whose URL has both hosts, goes on with it."""
    with open_server() as primary, open_standby(primary) as standby:
        hosts = f"{standby.directory},{primary.directory}"
        with setting(primary, "synchronous_standby_names", "ANY 1 (*)"):
            url = primary.url(schema=schema, host=hosts)
            async with stores.open(url) as store:
                ids = [await put(store) for _ in range(3)]
                primary.stop(signal.SIGKILL)
                with pytest.raises(StoreError):
                    await put(store)
                with connected(standby) as db:
                    db.execute("SELECT pg_promote()")
                ids.append(await put(store))
                assert await stored(store) == ids
                primary.start()
