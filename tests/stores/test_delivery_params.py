"""The parameters of the extensions for delivery in every store, from a session to the program that sends the message on."""

from __future__ import annotations

import os
from contextlib import aclosing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from helpers import NAME, connected

from smtp_trio import Server, standard
from smtp_trio.protocol import Params
from smtp_trio.protocol.extensions import (
    DeliverBy,
    Dsn,
    FutureRelease,
    MessageTracking,
    MtPriority,
    NoSoliciting,
    RequireRecipientValidSince,
)
from smtp_trio.protocol.extensions.deliverby import BY, ByTime
from smtp_trio.protocol.extensions.dsn import ENVID
from smtp_trio.protocol.extensions.futurerelease import HOLDUNTIL
from smtp_trio.protocol.extensions.mt_priority import MT_PRIORITY
from smtp_trio.protocol.extensions.mtrk import MTRK, Tracking
from smtp_trio.protocol.extensions.no_soliciting import SOLICIT
from smtp_trio.protocol.extensions.rrvs import RRVS, ValidSince
from smtp_trio.stores import Maildir, SQLite, Store, parse_stored_params, read

MIDNIGHT = datetime(2026, 1, 1, tzinfo=UTC)
EXTENSIONS = standard(
    Dsn(),
    DeliverBy(),
    FutureRelease(3600, authenticated=False),
    MtPriority(),
    MessageTracking(),
    NoSoliciting(),
    RequireRecipientValidSince(),
)


def content_of(store: Maildir, name: str) -> bytes:
    return Path(store.new, name).read_bytes()


@pytest.mark.parametrize("kind", ["maildir", "sqlite"])
async def test_parameters_of_a_session(kind: str, tmp_path: Path) -> None:
    store: Store[Any] = SQLite(tmp_path / "store.db") if kind == "sqlite" else Maildir(tmp_path / "box")
    server = Server(store, name=NAME, extensions=EXTENSIONS, now=lambda: MIDNIGHT)
    async with aclosing(store), connected(server) as client:
        await client.hello()
        mail = "BY=7200;rt HOLDUNTIL=2026-01-01T01:00:00z MT-PRIORITY=9 ENVID=a MTRK=QUJD:60 SOLICIT=net.example:ADV"
        assert (await client.command(f"MAIL FROM:<me@client.test> {mail}", "250")).startswith("250 2.3.6 0 ")
        await client.command("RCPT TO:<a@mx.test> RRVS=2025-06-01T02:00:00+02:00;c", "250")
        await client.command("DATA", "354")
        reply = await client.command("Subject: x\r\n\r\nhello\r\n.", "250")
    if isinstance(store, SQLite):
        stored = read(store.path, reply.split()[-1])
    else:
        assert isinstance(store, Maildir)
        [name] = os.listdir(store.new)
        stored = read(Path(store.new, name))
        # RFC 6710 7: the clause of the Received field.
        assert b"for <a@mx.test> PRIORITY 0;\r\n" in content_of(store, name)

    assert stored.mail_params == (
        "BY=7200;RT HOLDUNTIL=2026-01-01T01:00:00Z MT-PRIORITY=0 ENVID=a MTRK=QUJD:60 SOLICIT=net.example:ADV"
    )
    assert stored.rcpt_params == ("RRVS=2025-06-01T00:00:00Z;C",)
    assert parse_stored_params(stored.mail_params) == Params(
        {
            BY: ByTime(7200, "R", trace=True),
            HOLDUNTIL: int(MIDNIGHT.timestamp()) + 3600,
            MT_PRIORITY: 0,
            ENVID: "a",
            MTRK: Tracking(b"ABC", 60),
            SOLICIT: frozenset({"net.example:ADV"}),
        }
    )
    assert parse_stored_params(stored.rcpt_params[0]) == Params(
        {RRVS: ValidSince(int(datetime(2025, 6, 1, tzinfo=UTC).timestamp()), "C")}
    )
