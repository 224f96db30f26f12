"""`RecipientDatabase`, with SQLite databases in files."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

import blocks
import pytest
import trio

from smtp_trio import Path as MailPath
from smtp_trio.recipients import RecipientDatabase, Recipients, SourceError
from smtp_trio.recipients._database import HAS_DOMAIN, LOOK_UP

#: The table and the view that the documentation has.
SCHEMA, VIEW = (block.source for block in blocks.ALL if block.page == "recipients" and block.language == "sql")
ROWS = [
    ("Fred@Example.org", None),
    ("info@example.org", 'fred@example.org, "a, b"@away.test'),
    ("empty@example.org", ""),
    ("@.lab.example.org", "fred@example.org"),
    ("postmaster", "fred@example.org"),
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "a database?.db"
    with closing(sqlite3.connect(path)) as database, database:
        database.executescript(SCHEMA)
        database.executemany("INSERT INTO recipients VALUES (?, ?)", ROWS)
    return path


async def resolved(recipients: Recipients, address: str) -> list[str] | None:
    parsed = MailPath.parse(address)
    assert parsed is not None
    found = await recipients.resolve(parsed)
    return None if found is None else [str(each) for each in found]


async def test_lookups(path: Path) -> None:
    source = RecipientDatabase(path)
    source.load()
    recipients = Recipients(None, source)
    assert await resolved(recipients, "FRED+x@example.ORG") == ["FRED+x@example.org"]
    assert await resolved(recipients, "info@example.org") == ["fred@example.org", '"a, b"@away.test']
    assert await resolved(recipients, "empty@example.org") == ["empty@example.org"]
    assert await resolved(recipients, "any@a.b.lab.example.org") == ["fred@example.org"]
    assert await resolved(recipients, "postmaster@example.org") == ["fred@example.org"]
    assert await resolved(recipients, "nobody@example.org") is None
    assert await resolved(recipients, "\"') OR ('1'='1\"@example.org") is None
    assert [await source.has_domain([name]) for name in ("example.org", ".lab.example.org", "lab.example.org")] == [
        True, True, False,
    ]  # fmt: skip
    assert str(source) == f"sqlite:{path}"


async def test_changes_and_views_have_an_effect_at_once(path: Path) -> None:
    """Another program may write, replace the table by a view, and replace the file."""
    source = RecipientDatabase(path)
    assert not await source.look_up(["barney@example.org"])
    with closing(sqlite3.connect(path)) as database, database:
        database.executescript(
            "PRAGMA journal_mode=WAL; DROP TABLE recipients;"
            "CREATE TABLE users (email TEXT); CREATE TABLE aliases (source TEXT, destination TEXT);"
            "INSERT INTO users VALUES ('barney@example.org');"
            "INSERT INTO aliases VALUES ('info@example.org', 'barney@example.org'), ('info@example.org', 'a@b.test');"
            + VIEW
        )
        keys = ["info@example.org", "barney@example.org", "x@example.org"]
        found = {"barney@example.org": [], "info@example.org": ["barney@example.org", "a@b.test"]}
        assert await source.look_up(keys) == found
        assert await source.has_domain(["example.org"])
    os.unlink(path)
    with pytest.raises(SourceError, match="unable to open database file"):
        await source.look_up(["barney@example.org"])
    with pytest.raises(FileNotFoundError):
        os.unlink(path)


@pytest.mark.parametrize(
    ("script", "error"),
    [
        ("DROP TABLE recipients", "no such table: recipients"),
        ("ALTER TABLE recipients RENAME targets TO aliases", "no such column: targets"),
        (None, "file is not a database"),
    ],
)
async def test_database_that_cannot_be_used(script: str | None, error: str, path: Path) -> None:
    if script is None:
        with open(path, "wb") as file:
            file.write(b"x" * 4096)
    else:
        with closing(sqlite3.connect(path)) as database, database:
            database.executescript(script)
    source = RecipientDatabase(path)
    with pytest.raises(SourceError) as caught:
        source.load()
    assert str(caught.value) == f"sqlite:{path}: {error}"
    with pytest.raises(SourceError, match=error):
        await source.look_up(["fred@example.org"])


async def test_values_that_are_not_text(path: Path) -> None:
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("INSERT INTO recipients VALUES ('blob@example.org', x'00')")
    with pytest.raises(SourceError, match="the columns address and targets must be text"):
        await RecipientDatabase(path).look_up(["blob@example.org"])


async def test_lookup_can_be_cancelled_while_the_database_is_locked(path: Path) -> None:
    source = RecipientDatabase(path)
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("BEGIN EXCLUSIVE")
        with trio.move_on_after(0.01) as scope:
            await source.look_up(["fred@example.org"])
        assert scope.cancelled_caught
        database.execute("COMMIT")
    assert await source.look_up(["fred@example.org"])


def test_index_is_used(path: Path) -> None:
    """A lookup of an unknown address does not read the whole table."""
    with closing(sqlite3.connect(path)) as database:
        for query in (LOOK_UP, HAS_DOMAIN):
            plan = " ".join(row[3] for row in database.execute(f"EXPLAIN QUERY PLAN {query.format('?,?')}", ("a", "b")))
            assert "SEARCH recipients" in plan
            assert "SCAN recipients" not in plan
