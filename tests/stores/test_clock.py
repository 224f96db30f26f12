"""The clock of the system jumps: messages keep distinct names, the time of each is that of the clock, and no session ends."""

from __future__ import annotations

import shutil
import signal
import smtplib
import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest
import trio
from processes import HOST, TIMEOUT, serving

from smtp_trio.stores import Stored, read

from .sessions import skip_without

DAY = 24 * 60 * 60
#: What the clock shows: a number of seconds before or after the time, or a time at which it stands still ("=").
CLOCKS = ["+0", f"+{30 * DAY}", f"+{-30 * DAY}", "+0", "=1893456000", "=1893456000", "=946684799"]


def messages_in(path: Path) -> list[Stored]:
    """Return the messages in a store."""
    if path.is_dir():
        return [read(file) for file in (path / "new").iterdir()]
    with closing(sqlite3.connect(path)) as db:
        return [read(path, uid) for (uid,) in db.execute("SELECT uid FROM messages").fetchall()]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["maildir", "sqlite"])
async def test_clock_that_jumps(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which("cc") is None:
        skip_without("cc")
    clock, library = tmp_path / "clock", tmp_path / "clock.so"
    source = Path(__file__).with_name("clock.c")
    await trio.run_process(["cc", "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"])
    clock.write_text("+0")
    monkeypatch.setenv("LD_PRELOAD", str(library))
    monkeypatch.setenv("CLOCK", str(clock))
    # With the limit of 300 s for a command, a jump of the clock would end each session if it counted.
    async with serving("--store", f"{kind}:store", cwd=tmp_path) as server:

        def dialogue(client: smtplib.SMTP) -> None:
            """Send a message for each jump. The clock jumps while the message is sent, and between messages."""
            for n, value in enumerate(CLOCKS):
                client.ehlo_or_helo_if_needed()
                assert client.mail("me@load.test")[0] == 250
                assert client.rcpt("you@intake.test")[0] == 250
                assert client.docmd("DATA")[0] == 354
                (tmp_path / "next").write_text(value)
                (tmp_path / "next").replace(clock)
                client.send(b"Subject: %d\r\n\r\n.\r\n" % n)
                assert client.getreply()[0] == 250
            with smtplib.SMTP(HOST, server.port, timeout=TIMEOUT) as other:
                assert other.noop()[0] == 250
            assert client.noop()[0] == 250

        await server.client(dialogue)
        server.signal(signal.SIGTERM)
        assert await server.wait() == 0

    stored = {int(each.message.split()[1]): each for each in messages_in(tmp_path / "store")}
    assert len(stored) == len(CLOCKS)
    for n, value in enumerate(["+0", *CLOCKS[:-1]]):  # the time at which a message begins
        shown = float(value[1:]) + (0 if value[0] == "=" else datetime.now(UTC).timestamp())
        assert abs(stored[n].received.timestamp() - shown) < DAY, n
