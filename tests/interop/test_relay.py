"""A relay through Postfix, which refuses some recipients for some time and some for ever, and is killed in between.

Each message has to end delivered, or with one report to its sender. ``SMTP_TRIO_RELAY_MESSAGES`` is the number of messages:
``python -m nox -s relay`` sends 10,000.
"""

from __future__ import annotations

import os
import re
import signal
import smtplib
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import trio
import trustme
from ports import free_port

from benchmarks.servers import kill
from smtp_trio.stores import SQLite

from .conftest import require_server
from .programs import HOST, PATH
from .servers import POLL, write_files
from .setups import ADDRESS, SETUPS, Workspace

MESSAGES = int(os.environ.get("SMTP_TRIO_RELAY_MESSAGES", "300"))
#: One message in so many is refused for ever, and until Postfix is started for the last time.
NEVER, LATER = 10, 7
#: How many messages the relay sends at the same time; so many may be delivered twice when Postfix is killed. So may those that
#: Postfix delivers at that moment: by default 20 for a destination.
CONCURRENCY, DELIVERIES = 8, 20
KILLS = 1 if MESSAGES < 1000 else 3
#: The times between attempts. So many messages must not be sent again every few seconds.
RETRY = "1s:5s" if MESSAGES < 1000 else "20s:60s"
#: Seconds for each part of the test.
TIMEOUT = 120 + MESSAGES / 10

pytestmark = [pytest.mark.interop, pytest.mark.timeout(4 * TIMEOUT)]


def kind(number: int) -> str:
    """Return what becomes of a message, which the local part of its recipient tells Postfix."""
    return "never" if number % NEVER == 0 else "later" if number % LATER == 0 else "soon"


class Smarthost:
    """A Postfix that can be killed, and started again with the same queue and mailbox."""

    def __init__(self, directory: Path) -> None:
        authority = trustme.CA()
        chain, key = write_files(directory, authority.issue_cert(HOST), authority)
        self.workspace = Workspace(
            server="postfix",
            profile="interop",
            directory=directory,
            port=free_port(),
            implicit_port=free_port(),
            chain=chain,
            key=key,
            own=("smtpd_error_sleep_time = 0",),  # seconds for each refusal
        )
        [self.command] = SETUPS["postfix"].commands(self.workspace)
        self.config = directory / "config" / "main.cf"
        self.settings = re.sub(r"(?m)^smtpd_recipient_restrictions.*\n?", "", self.config.read_text())
        self.log = directory / "0.log"
        self.box = directory / "box" / "new"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *, later: bool) -> None:
        """Start it. With ``later``, it refuses those recipients temporarily that it will accept later."""
        rules = ["{/^never-/ 550 5.1.1 No such user}", *(["{/^later-/ 450 4.2.0 Not now}"] if later else [])]
        access = f"smtpd_recipient_restrictions = check_recipient_access regexp:{{ {', '.join(rules)} }}\n"
        self.config.write_text(self.settings + access)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=os.environ | {"PATH": PATH}
            )
        self.wait(self._greets, "Postfix greets")

    def _greets(self) -> bool:
        try:
            smtplib.SMTP(ADDRESS, self.workspace.port, HOST, timeout=5).quit()
        except (OSError, smtplib.SMTPException):
            return False
        return True

    def kill(self) -> None:
        """Kill all of its processes. Another Postfix does not start before they have ended."""
        if self.process is not None:
            kill(self.process)

    def wait(self, condition: Callable[[], bool], what: str) -> None:
        """Wait for a condition."""
        deadline = time.monotonic() + TIMEOUT
        while not condition():
            assert time.monotonic() < deadline, f"{what}: {self.log.read_text()[-3000:]}"
            time.sleep(5 * POLL)

    def wait_for_messages(self, count: int) -> None:
        """Wait until it has stored so many messages."""
        self.wait(lambda: sum(1 for _ in self.box.iterdir()) >= count, f"{count} messages")


@contextmanager
def relaying(database: Path, port: int) -> Iterator[Path]:
    """Run ``smtp-trio relay`` until the end of the block, and yield the path of its log."""
    log = database.with_name("relay.log")
    command = [sys.executable, "-m", "smtp_trio", "relay", "--store", f"sqlite:{database}", "--to", f"{ADDRESS}:{port}"]
    command += ["--tls", "never", "--retry", RETRY, "--concurrency", str(CONCURRENCY), "--name", "relay.test"]
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file)
    try:
        yield log
        process.send_signal(signal.SIGTERM)
        assert process.wait(240) == 0
    finally:
        process.kill()
        process.wait()


async def fill(database: Path) -> None:
    """Store the messages."""
    async with SQLite(database) as store, trio.open_nursery() as nursery:
        limit = trio.CapacityLimiter(100)

        async def add(number: int) -> None:
            async with limit:
                message = (
                    f"From: sender-{number}@example.org\r\nSubject: {number}\r\nX-Number: {number}\r\n\r\nhello\r\n"
                )
                await store.add(
                    message.encode(), f"sender-{number}@example.org", [f"{kind(number)}-{number}@example.org"]
                )

        for number in range(MESSAGES):
            nursery.start_soon(add, number)


def left(database: Path) -> int:
    """Return the number of messages in the store."""
    with closing(sqlite3.connect(database)) as connection:
        (count,) = connection.execute("SELECT count(*) FROM messages").fetchone()
    return int(count)


def test_each_message_is_delivered_or_reported_once(tmp_path: Path) -> None:
    require_server("postfix")
    database = tmp_path / "mail.db"
    trio.run(fill, database)
    soon = sum(kind(number) == "soon" for number in range(MESSAGES))
    with TemporaryDirectory(prefix="smtp-trio-") as directory:
        smarthost = Smarthost(Path(directory))
        try:
            smarthost.start(later=True)
            started = time.monotonic()
            with relaying(database, smarthost.workspace.port) as log:
                for kill in range(1, KILLS + 1):
                    smarthost.wait_for_messages(kill * soon // (KILLS + 1))
                    smarthost.kill()
                    smarthost.start(later=kill < KILLS)
                smarthost.wait(lambda: left(database) == 0, "the store is empty")
                seconds = time.monotonic() - started
                smarthost.wait_for_messages(MESSAGES)
            found = [file.read_bytes() for file in smarthost.box.iterdir()]
            text = log.read_text()
        finally:
            smarthost.kill()

    delivered, reports = Counter[int](), Counter[int]()
    identifiers: set[tuple[int, bytes]] = set()
    for content in found:
        if match := re.search(rb"(?m)^Final-Recipient: rfc822; never-(\d+)@", content):
            number = int(match[1])
            [identifier] = re.findall(rb"(?m)^Message-ID: (.*)$", content)
            assert f"To: <sender-{number}@example.org>".encode() in content
            if (number, identifier) not in identifiers:
                reports[number] += 1
            identifiers.add((number, identifier))
        else:
            match = re.search(rb"(?m)^X-Number: (\d+)$", content)
            assert match
            delivered[int(match[1])] += 1
    refused = {number for number in range(MESSAGES) if kind(number) == "never"}
    assert set(delivered) == set(range(MESSAGES)) - refused
    assert reports == dict.fromkeys(refused, 1)
    twice = len(found) - MESSAGES
    print(
        f"{MESSAGES} messages in {seconds:.0f} s: {len(delivered)} delivered, {len(reports)} returned, {twice} of all twice; "
        f"{text.count(' deferred: ')} times deferred, {text.count(' cannot be used: ')} outages"
    )
    assert twice <= KILLS * (CONCURRENCY + DELIVERIES)
    assert text.count(" deferred: ") > 0
