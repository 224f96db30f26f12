"""The tables of `PostgreSQL` and their versions, and what the settings of a server mean for a message."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psycopg

from ._errors import StoreError, UnusableStoreError

if TYPE_CHECKING:
    from typing import LiteralString

# The tables have the columns of `SQLite`, in a schema of their own so that they can share a database with those of a
# program. Differences:
#
# * ``recipients`` has no foreign key. Checking it would lock, and thus write, each row of ``message_rows`` again. A trigger
#   deletes what belongs to a message.
# * Most messages stay in their row (``toast_tuple_target``). With the default, anything above 2 kB is moved into a second
#   table, which costs two rows and an entry of an index more.
# * ``queue`` has a row for each message that a group has not settled; see `_postgresql_queue.py`.

#: The statements that make a schema of each version from one of the version before. Version 0 is an empty schema.
UPGRADES: tuple[tuple[LiteralString, ...], ...] = (
    (
        """
        CREATE TABLE message_rows (
            id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
            uid text NOT NULL UNIQUE,
            received_at timestamptz NOT NULL,
            sender text NOT NULL,
            mail_params text NOT NULL,
            peer text,
            helo text,
            protocol text,
            tls text,
            auth text,
            size bigint NOT NULL,
            subject text,
            date text,
            pieces integer NOT NULL,
            body bytea NOT NULL
        ) WITH (toast_tuple_target = 8160)
        """,
        "ALTER TABLE message_rows ALTER COLUMN body SET STORAGE EXTERNAL",
        """
        CREATE TABLE recipients (
            message bigint NOT NULL,
            n integer NOT NULL,
            address text NOT NULL,
            params text NOT NULL,
            PRIMARY KEY (message, n)
        )
        """,
        "CREATE TABLE pieces (uid text NOT NULL, n integer NOT NULL, data bytea NOT NULL, PRIMARY KEY (uid, n))",
        "ALTER TABLE pieces ALTER COLUMN data SET STORAGE EXTERNAL",
        "CREATE TABLE unpublished (uid text PRIMARY KEY, store integer NOT NULL)",
        "CREATE TABLE groups (name text PRIMARY KEY, first bigint NOT NULL, filled bigint NOT NULL)",
        """
        CREATE TABLE queue (
            grp text NOT NULL,
            message bigint NOT NULL,
            due timestamptz NOT NULL,
            attempts integer NOT NULL DEFAULT 0,
            token text,
            consumer text,
            state text NOT NULL DEFAULT '',
            reason text,
            PRIMARY KEY (grp, message)
        )
        """,
        "CREATE INDEX queue_due ON queue (grp, due, message) WHERE reason IS NULL",
        "CREATE INDEX queue_message ON queue (message)",
        """
        CREATE VIEW messages AS
        SELECT id, uid, received_at, sender, size, peer, helo, protocol, tls, auth, mail_params, subject, date,
            CASE WHEN pieces = 0 THEN body
                ELSE (SELECT string_agg(data, '' ORDER BY n) FROM pieces WHERE uid = message_rows.uid) || body
            END AS body
        FROM message_rows
        """,
        """
        CREATE FUNCTION delete_parts() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
        BEGIN
            DELETE FROM recipients USING gone WHERE recipients.message = gone.id;
            DELETE FROM pieces USING gone WHERE pieces.uid = gone.uid AND gone.pieces > 0;
            DELETE FROM queue USING gone WHERE queue.message = gone.id;
            RETURN NULL;
        END $$
        """,
        """
        CREATE TRIGGER delete_parts AFTER DELETE ON message_rows REFERENCING OLD TABLE AS gone
        FOR EACH STATEMENT EXECUTE FUNCTION delete_parts()
        """,
        "CREATE TABLE schema_version (version integer NOT NULL)",
        "INSERT INTO schema_version VALUES (0)",
    ),
)
VERSION = len(UPGRADES)
#: The first part of the key of an advisory lock: that of a change of the tables, and that of a store that is open.
LOCK_TABLES, LOCK_STORE = 0x736D7470, 0x736D7471

Connection = psycopg.Connection[tuple[Any, ...]]


def prepare_tables(db: Connection, schema: str) -> None:
    """Create the tables in a schema without any, or upgrade those of an earlier version.

    ``schema`` is the first of the connection's search path. Raises `StoreError` for tables of another program.
    """
    if version_of(db, schema) == VERSION:
        return
    with db.transaction():  # other servers may be starting, too
        db.execute("SELECT pg_advisory_xact_lock(%s, hashtext(%s))", [LOCK_TABLES, schema])
        version = version_of(db, schema)
        if version < 0:
            try:
                db.execute(psycopg.sql.SQL("CREATE SCHEMA {}").format(psycopg.sql.Identifier(schema)))
            except psycopg.errors.InsufficientPrivilege as error:
                raise UnusableStoreError(f"schema {schema} does not exist, and cannot be created: {error}") from error
            version = 0
        for statement in (statement for upgrade in UPGRADES[version:] for statement in upgrade):
            db.execute(statement)
        db.execute("UPDATE schema_version SET version = %s", [VERSION])


def check_tables(db: Connection, schema: str) -> None:
    """Raise `StoreError` unless the schema has the tables of a store, of this version."""
    version = version_of(db, schema)
    if version != VERSION:
        raise StoreError(
            f"version {version} of schema {schema} is older than {VERSION}; a server upgrades it when it is started"
            if version > 0
            else f"schema {schema} has no tables of a store"
        )


def version_of(db: Connection, schema: str) -> int:
    """Return the version of the tables: 0 if the schema is empty, and -1 if it does not exist."""
    (exists, tables) = db.execute(
        """
        SELECT bool_or(true), array_agg(relname::text) FILTER (WHERE relkind IN ('r', 'v', 'p', 'm', 'f'))
        FROM pg_namespace LEFT JOIN pg_class ON relnamespace = pg_namespace.oid WHERE nspname = %s
        """,
        [schema],
    ).fetchone() or (None, None)
    if not exists:
        return -1
    if not tables:
        return 0
    foreign = UnusableStoreError(
        f"the tables in schema {schema} were created by another program; name another one: ?schema="
    )
    if not {"schema_version", "message_rows"} <= set(tables):
        raise foreign
    try:
        rows = db.execute("SELECT version FROM schema_version").fetchall()
    except psycopg.errors.UndefinedColumn as error:
        raise foreign from error
    if len(rows) != 1:
        raise foreign
    ((version,),) = rows
    if version > VERSION:
        raise UnusableStoreError(
            f"version {version} of schema {schema} was written by a newer smtp_trio; this one supports {VERSION}"
        )
    if version < 1:
        raise UnusableStoreError(
            f"version {version} of schema {schema} is not supported; this smtp_trio supports {VERSION}"
        )
    return int(version)


#: The settings that a guarantee depends on.
SETTINGS = ("fsync", "full_page_writes", "synchronous_commit", "synchronous_standby_names")


def settings_of(db: Connection) -> dict[str, str]:
    """Return the values of `SETTINGS` that the connection has."""
    rows = db.execute("SELECT name, setting FROM pg_settings WHERE name = ANY(%s)", [list(SETTINGS)]).fetchall()
    return {str(name): str(value) for name, value in rows}


def weakness(settings: dict[str, str]) -> str | None:
    """Return the setting with which a message can be lost after its 250, or None."""
    for name in ("fsync", "synchronous_commit"):
        if settings[name] == "off":
            return f"{name}=off"
    return None


def guarantee(settings: dict[str, str]) -> str:
    """Return what a 250 means with these settings."""
    weak = weakness(settings)
    standbys = settings["synchronous_standby_names"]
    commit = settings["synchronous_commit"]
    if weak:
        text = f"is in the memory of the server, and lost if that fails ({weak})"
    elif not standbys or commit == "local":
        text = "is on the disk of this server; standbys may not have it yet"
    else:
        wait = {"remote_write": "received, and not flushed,", "remote_apply": "flushed and applied"}
        text = f"is on the disk of this server, and {wait.get(commit, 'flushed')} by standbys {standbys!r}"
    if settings["full_page_writes"] == "off":
        text += "; with full_page_writes=off a power cut can damage the database"
    return f"a message with a 250 {text}"
