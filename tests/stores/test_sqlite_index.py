"""The search index of `SQLite`: a search finds what `Query` finds, however far the index is."""

from __future__ import annotations

import os
import random
import sqlite3
import stat
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest
import trio

from smtp_trio import stores
from smtp_trio.stores import Query, SQLite, Stored, _sqlite_index, _sqlite_texts, sqlite
from smtp_trio.stores._sqlite_index import SUFFIX
from smtp_trio.stores._sqlite_plan import Plan

WORDS = (
    *(
        "invoice",
        "Rechnung",
        "Straße",
        "STRASSE",
        "für",
        "e\u0301te",
        "été",
        "發票已付款",
        "發票",
        "İstanbul",
        "ok",
        "a",
        "ﬁnal",
    ),
    *(
        "to:bob",
        '"',
        "100%",
        "x_y",
        "αβγ",
        "ΑΒΓ",
        "👩‍👩‍👧",
        "и",
        "или",
        "thank",
        "you",
        "*",
        "NEAR",
        "AND",
        "-",
        "\u00a0",
        "\ufffd",
    ),
)
NAMES = ("from", "to", "cc", "bcc", "addressed", "reply-to", "subject", "message-id", "rcpt", "detail", "header")


def some_text(rng: random.Random, most: int = 8) -> str:
    return " ".join(rng.choices(WORDS, k=rng.randint(1, most)))


def some_message(rng: random.Random, n: int) -> bytes:
    """Return a message with text, HTML, an attachment or an image, and some of the fields."""
    lines = [f"Message-ID: <{n}.{rng.choice('abc')}@mx.test>"]
    for name in ("From", "Sender", "To", "Cc", "Bcc", "Reply-To", "Subject", "X-Test"):
        lines += [f"{name}: {some_text(rng, 3)} <{rng.choice(('bob', 'eve'))}@{name}.test>"] * rng.choice((0, 1, 1, 2))
    lines += rng.choice(([], ["X-Test: One"], ["X-test: two", "X-Test:  two words"], [f"X-Long: {'x' * 150}"]))
    parts = [
        f"Content-Type: text/plain; charset=utf-8\n\n{some_text(rng)}\n  {some_text(rng)}\n",
        f"Content-Type: text/html; charset=utf-8\n\n<p class=hidden>{some_text(rng)}</p>&amp;<script>secret</script>",
        f'Content-Type: application/pdf; name="{rng.choice(("invoice", "ok"))}.pdf"\n\n%PDF',
        "Content-Type: image/png\nContent-ID: <x>\n\nPNG",
    ]
    chosen = rng.sample(parts, rng.randint(1, len(parts)))
    if len(chosen) == 1:
        text = "\n".join([*lines, chosen[0]])
    else:
        text = "\n".join(
            [*lines, "Content-Type: multipart/mixed; boundary=b", "", *(f"--b\n{part}" for part in chosen), "--b--"]
        )
    return text.replace("\n", "\r\n").encode()


def some_query(rng: random.Random) -> Query:
    parts = []
    for _ in range(rng.randint(1, 3)):
        word = rng.choice(WORDS)
        start = rng.randrange(len(word))
        value = rng.choice(
            (word, word[start : start + rng.randint(1, 4)], some_text(rng, 2), rng.choice(("bob@", "x.test")))
        )
        if not value.strip():
            continue
        quoted = '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
        name = rng.choice(("", "", "", *(f"{each}:" for each in NAMES)))
        if name == "header:":
            quoted = rng.choice(
                ("X-Test", "x-test=one", '"X-TEST= two  words "', "Subject=x", "X-Tes", f"X-Long={'x' * 150}")
            )
        if name in ("rcpt:", "detail:"):
            quoted = rng.choice(("tag", "t", "TA+G", "bob@a.test", "Eve@b.test"))
        parts.append(rng.choice(("", "", "", "-")) + name + quoted)
    parts += rng.choice(([], [], ["has:attachment"], ["-has:inline"], ["larger:300"], ["-after:2999-01-01"]))
    return Query.parse(" ".join(parts))


async def add(store: SQLite, message: bytes, rng: random.Random | None = None) -> str:
    rng = rng or random.Random(0)
    names = ("bob", "eve", "Bob+Tag", "bob+t", '"b+ t "', "b+ta+g")
    recipients = [f"{rng.choice(names)}@{each}.test" for each in rng.choice(("a", "ab"))]
    return await store.add(message, rng.choice(("", "bob@sender.test", "jürgen@bücher.test")), recipients)


async def expected(store: SQLite, query: Query) -> list[str]:
    """Return the ids of the messages that fulfil a query, the newest first, without a search."""
    found = [await store.get(entry.id) async for entry in store.entries(reverse=True)]
    return [stored.id for stored in found if query.matches(stored)]


async def search(store: SQLite, query: Query | str) -> list[str]:
    return [entry.id async for entry in store.search(query)]


@pytest.mark.parametrize("seed", range(4))
async def test_search_finds_what_query_finds(tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """At any time: while the index is behind, after messages were removed, and when their ids were used again."""
    monkeypatch.setattr(_sqlite_index, "ADDED", 7)
    monkeypatch.setattr(_sqlite_index, "FEW", 1 + seed)
    monkeypatch.setattr(_sqlite_texts, "MAX_TEXT", 400 if seed % 2 else 1 << 20)
    rng = random.Random(seed)
    async with SQLite(tmp_path / "mail.db") as store:
        useful = 0
        for step in range(40):
            for n in range(rng.randint(0, 6)):
                await add(store, some_message(rng, 100 * step + n), rng)
            entries = [entry.id async for entry in store]
            match rng.randrange(4):
                case 0:
                    await store.remove(rng.sample(entries, min(3, len(entries))))
                case 1:
                    await store.remove(entries[-3:])
            query = some_query(rng)
            useful += Plan.of(query) is not None
            matching = await expected(store, query)
            assert await search(store, query) == matching
            assert await store.count(query) == len(matching)
            half = len(matching) // 2
            assert await store.count(query, limit=half) == half
            assert await store.count(query, limit=half + 1) == min(half + 1, len(matching))
            assert [entry.id async for entry in store.search(query, offset=half, limit=2)] == matching[half : half + 2]
            oldest_first = [entry.id async for entry in store.search(query, reverse=False)]
            assert oldest_first == matching[::-1]
            if matching:
                rest = [entry.id async for entry in store.search(query, after=matching[half])]
                assert rest == matching[half + 1 :]
        assert useful > 20


#: Characters that tables of texts may treat in a special way: letters, digits, operators, controls, and those of several scripts.
CHARACTERS = (
    "a",
    "b",
    "z",
    "Q",
    "7",
    "0",
    *"*?[]'\"\\^%_-+:(){}.",
    "\x01",
    "\x1b",
    "\x7f",
    "ß",
    "é",
    "И",
    "付",
    "款",
    "👩",
    "\ue000",
)
FORMS = (
    "{}",
    "{}",
    "subject:{}",
    "from:{}",
    "to:{}",
    "cc:{}",
    "addressed:{}",
    "message-id:{}",
    "-{}",
    "-subject:{}",
    "-to:{}",
)


def short_text(rng: random.Random, least: int, most: int) -> str:
    return "".join(rng.choices(CHARACTERS, k=rng.randint(least, most)))


@pytest.mark.parametrize("seed", range(3))
async def test_short_texts_are_found_without_reading_messages(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also those that no message has, with other parts, and with ``-``."""
    monkeypatch.setattr(_sqlite_texts, "CHUNK", 5)
    monkeypatch.setattr(_sqlite_index, "FEW", 10 * seed)
    rng = random.Random(seed)
    async with SQLite(tmp_path / "mail.db") as store:
        for _ in range(60):
            lines = [
                f"{name}: {short_text(rng, 0, 2)} {short_text(rng, 0, 4)}" for name in ("Subject", "From", "To", "Cc")
            ]
            text = " ".join(short_text(rng, 1, 6) for _ in range(rng.randint(0, 4)))
            await add(store, "\r\n".join((*lines, "", text)).encode(), rng)
        await index_all(store)
        every = [await store.get(entry.id) async for entry in store.entries(reverse=True)]
        read = []
        get = store.get

        async def note(id: str) -> Stored:
            read.append(id)
            return await get(id)

        monkeypatch.setattr(store, "get", note)
        sure = results = 0
        for _ in range(150):
            parts = []
            for _ in range(rng.choice((1, 1, 2, 3))):
                value = short_text(rng, 1, rng.choice((1, 2, 2, 4)))
                escaped = value.replace("\\", "\\\\").replace('"', '\\"')
                parts.append(rng.choice(FORMS).format(f'"{escaped}"'))
            query = Query.parse(" ".join(parts))
            plan = Plan.of(query)
            read.clear()
            matching = [stored.id for stored in every if query.matches(stored)]
            assert await search(store, query) == matching, query
            assert await store.count(query) == len(matching), query
            assert await store.count(query, limit=3) == min(3, len(matching)), query
            if plan is not None and plan.exact:
                assert read == [], query
                sure += 1
                results += len(matching)
            else:
                assert set("".join(parts)) & {"\x01", "\x1b", "\x7f"}, query
        assert sure > 80
        assert results > 500


async def test_index_of_an_earlier_version_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "mail.db"
    async with SQLite(path) as store:
        uid = await add(store, b"Subject: invoice\r\n\r\n")
        await index_all(store)
    with closing(sqlite3.connect(f"{path}{SUFFIX}", isolation_level=None)) as db:
        db.execute("DROP TABLE grams")
        db.execute("UPDATE words SET subject = 'old'")
        db.execute("PRAGMA user_version = 1")
    async with SQLite(path) as store:
        await index_all(store)
        for query in ("in", "invoice", "-old", "-zq"):
            assert await search(store, query) == [uid]
        assert await search(store, "old") == []


async def test_indexed_is_the_share_of_the_messages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_sqlite_index, "ADDED", 5)
    path = tmp_path / "mail.db"
    async with SQLite(path) as store:
        assert await store.indexed() == 1
        ids = [await add(store, b"Subject: invoice\r\n\r\n") for _ in range(20)]
        assert await store.indexed() == 0
        await store._in_index(store._index.step)
        assert await store.indexed() == 0.25
        await store.remove(ids[:10])
        assert await store.indexed() == 0
        await index_all(store)
        assert await store.indexed() == 1
    async with stores.open(f"sqlite:{path}", create=False) as read_only:
        assert await read_only.indexed() is None


async def test_statement_is_interrupted_when_its_task_is_cancelled(tmp_path: Path) -> None:
    def count(db: sqlite3.Connection) -> object:  # takes a minute
        numbers = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < 300000000)"
        return db.execute(f"{numbers} SELECT count(*) FROM n").fetchone()

    async with SQLite(tmp_path / "mail.db") as store:
        uid = await add(store, b"Subject: invoice\r\n\r\n")
        await index_all(store)
        for work in (partial(store._read, count), partial(store._in_index, partial(store._index._ask, count))):
            started = trio.current_time()
            with trio.move_on_after(0.1) as scope:
                await work()
                await trio.lowlevel.checkpoint()
            assert scope.cancelled_caught
            assert trio.current_time() - started < 10
        assert await search(store, "invoice") == [uid]


async def test_index_of_a_later_version_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "mail.db"
    async with SQLite(path) as store:
        uid = await add(store, b"Subject: invoice\r\n\r\n")
        await index_all(store)
    with closing(sqlite3.connect(f"{path}{SUFFIX}", isolation_level=None)) as db:
        db.execute("PRAGMA user_version = 99")
    async with SQLite(path) as store:
        assert await search(store, "in") == [uid]
    with closing(sqlite3.connect(f"{path}{SUFFIX}")) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (99,)
        assert db.execute("SELECT count(*) FROM texts").fetchone() == (1,)


def exists(path: str | Path) -> bool:
    """Return whether there is a file or a link."""
    return os.path.lexists(path)


async def index_all(store: SQLite) -> None:
    while await store._in_index(store._index.step):
        pass


async def test_messages_that_the_index_finds_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with SQLite(tmp_path / "mail.db") as store:
        for n in range(100):
            await add(store, b"Subject: number %d\r\nTo: x%d@y.test\r\n\r\nwords of message %d.\r\n" % (n, n, n))
        assert len(await search(store, "nothing")) == 0
        await index_all(store)

        def fail(*args: object) -> Stored:
            pytest.fail("a message was read")

        monkeypatch.setattr(store, "get", fail)
        monkeypatch.setattr(store, "_header", fail)
        for query, count in (
            ("subject:number", 100),
            ("message 7.", 1),
            ("to:x7", 11),
            ("nowhere", 0),
            ("to:x -from:y", None),
        ):
            if count is not None:
                assert len(await search(store, f'"{query}"' if " " in query else query)) == count
                assert await store.count(f'"{query}"' if " " in query else query) == count


async def test_index_is_private_and_can_be_removed_or_damaged(tmp_path: Path) -> None:
    path = tmp_path / "mail.db"
    index = Path(f"{path}{SUFFIX}")
    async with SQLite(path) as store:
        uid = await add(store, b"Subject: invoice\r\n\r\n")
        assert not exists(index)  # nobody has searched
        assert await search(store, "invoice") == [uid]
        assert stat.S_IMODE(os.stat(index).st_mode) == 0o600
    for content in (None, b"not a database" * 1000, b""):
        os.unlink(index)
        if content is not None:
            await trio.Path(index).write_bytes(content)
        async with SQLite(path) as store:
            for _ in range(3):
                assert await search(store, "invoice") == [uid]
                assert await search(store, "nothing") == []


async def test_index_that_fails_during_a_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rest of the messages is found without it, and none twice."""
    monkeypatch.setattr(sqlite, "FIRST_PAGE", 3)
    for reverse in (False, True):
        async with SQLite(tmp_path / f"{reverse}.db") as store:
            ids = [await add(store, b"Subject: invoice\r\n\r\n") for _ in range(10)]
            await index_all(store)
            found = []
            async for entry in store.search("invoice", reverse=reverse):
                found.append(entry.id)
                if len(found) == 2:
                    assert store._index._db is not None
                    store._index._db.execute("DROP TABLE found.words")
            assert found == (ids[::-1] if reverse else ids)


async def test_message_that_cannot_be_parsed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is read by each search, as without an index, and the others are in the index."""

    def columns_of(stored: Stored) -> object:
        if stored.subject == "invoice 1":
            raise LookupError
        return original(stored)

    original = _sqlite_texts.columns_of
    monkeypatch.setattr(_sqlite_texts, "columns_of", columns_of)
    async with SQLite(tmp_path / "mail.db") as store:
        ids = [await add(store, b"Subject: invoice %d\r\n\r\n" % n) for n in range(3)]
        await index_all(store)
        assert await search(store, "subject:invoice") == ids[::-1]
        assert await store.count("subject:invoice") == 3
        assert await search(store, '"invoice 1"') == [ids[1]]
        assert await search(store, '"invoice 2"') == [ids[2]]


async def test_all_messages_are_removed(tmp_path: Path) -> None:
    async with SQLite(tmp_path / "mail.db") as store:
        for n in range(3):
            ids = [await add(store, b"Subject: number %d\r\n\r\n" % n) for _ in range(10)]
            await index_all(store)
            assert await search(store, f'"number {n}"') == ids[::-1]
            await store.remove(ids)
            assert await search(store, "number") == []
            await index_all(store)
        assert store._index._db is not None
        assert store._index._db.execute("SELECT count(*) FROM found.words").fetchone() == (0,)
        assert store._index._db.execute("SELECT count(*) FROM found.grams WHERE grams MATCH 'all'").fetchone() == (0,)


async def test_index_that_cannot_be_created(tmp_path: Path) -> None:
    """It is not needed. A link is not followed."""
    path = tmp_path / "mail.db"
    target = tmp_path / "target"
    os.symlink(target, f"{path}{SUFFIX}")
    async with SQLite(path) as store:
        uid = await add(store, b"Subject: invoice\r\n\r\n")
        assert await search(store, "invoice") == [uid]
        assert await store.count("invoice") == 1
    assert not exists(target)


async def test_store_that_must_exist_has_no_index(tmp_path: Path) -> None:
    """Opening it changes nothing."""
    async with SQLite(tmp_path / "mail.db") as store:
        uid = await add(store, b"Subject: invoice\r\n\r\n")
    async with stores.open(f"sqlite:{tmp_path}/mail.db", create=False) as store:
        assert [entry.id async for entry in store.search("invoice")] == [uid]
    assert not exists(f"{tmp_path}/mail.db{SUFFIX}")


async def test_database_that_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "mail.db"
    async with SQLite(path) as store:
        await add(store, b"Subject: invoice\r\n\r\n")
        assert len(await search(store, "invoice")) == 1
    for name in ("mail.db", "mail.db-wal", "mail.db-shm"):
        (tmp_path / name).unlink(missing_ok=True)
    async with SQLite(path) as store:
        uid = await add(store, b"Subject: other\r\n\r\n")
        assert await search(store, "invoice") == []
        assert await search(store, "other") == [uid]


async def test_texts_of_removed_messages_are_removed(tmp_path: Path) -> None:
    path = tmp_path / "mail.db"
    async with SQLite(path) as store:
        ids = [await add(store, b"Subject: secret%d\r\n\r\n" % n) for n in range(100)]
        await search(store, "secret")
        await index_all(store)
        await store.remove(ids[:-1])
        await index_all(store)
    with closing(sqlite3.connect(f"{path}{SUFFIX}")) as db:
        assert db.execute("SELECT subject FROM words").fetchall() == [("secret99",)]
        assert db.execute("SELECT rowid FROM grams WHERE grams MATCH 's'").fetchall() == [(100,)]
        assert db.execute("SELECT count(*) FROM texts").fetchone() == (1,)


@pytest.mark.parametrize("searched", [True, False])
async def test_index_is_completed_in_the_background(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nursery: trio.Nursery, searched: bool
) -> None:
    monkeypatch.setattr(_sqlite_index, "ADDED", 2)
    monkeypatch.setattr(sqlite, "INDEX_PAUSE", 0.01)
    async with SQLite(tmp_path / "mail.db") as store:
        for _ in range(50):
            await add(store, b"Subject: invoice\r\n\r\n")
        if searched:
            await search(store, "invoice")
        nursery.start_soon(store.maintain)
        with trio.fail_after(100):
            for count in (50, 51):
                while await store._in_index(store._index.height) != count:
                    await trio.lowlevel.checkpoint()
                await add(store, b"Subject: invoice\r\n\r\n")
        nursery.cancel_scope.cancel()
