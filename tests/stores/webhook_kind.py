"""The store that pushes messages to an application: the application is examples/webhook.py, a program of its own."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from contextlib import asynccontextmanager, contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from smtp_trio import stores
from smtp_trio.stores import Stored
from smtp_trio.stores._entry import read_header

from .contract import KINDS, Kind

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from smtp_trio.stores import Store

EXAMPLE = Path(__file__).parents[2] / "examples" / "webhook.py"


class WebhookKind(Kind):
    readable = False
    consumers = 0
    dead_letters = False
    counts = False

    @contextmanager
    def program(self, directory: Path) -> Iterator[str]:
        """Run the application; yield its URL, and after a space the directory in which it stores messages."""
        command = [sys.executable, str(EXAMPLE), str(directory), "0"]
        environment = {name: value for name, value in os.environ.items() if name != "SMTP_TRIO_WEBHOOK_SECRET"}
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
            assert process.stdout is not None
            port = re.search(r"\d+", process.stdout.readline())
            assert port is not None
            try:
                yield f"http://127.0.0.1:{port[0]}/mail {directory}"
            finally:
                process.kill()

    @asynccontextmanager
    async def open(self, program: str, number: int) -> AsyncIterator[Store[Any]]:
        """Open the store, after the messages of other tests were removed."""
        url, _, directory = program.partition(" ")
        empty(Path(directory))
        async with stores.open(url) as store:
            self.directory = Path(directory)
            yield store

    async def messages(self, store: Store[Any]) -> list[Stored]:
        """Return the messages that the application has stored, from the oldest to the newest."""
        found = [stored_in(path) for path in self.directory.glob("*.json")]
        # Not by the time of the files, of which several have the same: it has steps of some milliseconds.
        return sorted(found, key=lambda stored: (stored.received, stored.id))


def empty(directory: Path) -> None:
    """Remove the files in a directory."""
    for path in directory.iterdir():
        path.unlink()


def stored_in(path: Path) -> Stored:
    """Return the message whose envelope is in a file of JSON."""
    fields = json.loads(path.read_text())
    message = path.with_suffix(".eml").read_bytes()
    recipients = fields.pop("recipients")
    subject, date = read_header(message)
    for name in ("version", "sha256"):
        del fields[name]
    return Stored(
        recipients=tuple(recipient["address"] for recipient in recipients),
        rcpt_params=tuple(recipient["params"] for recipient in recipients),
        received=datetime.fromisoformat(fields.pop("received_at")),
        message=message,
        subject=subject,
        date=date,
        **fields,
    )


KINDS.append(pytest.param(WebhookKind(), id="http"))
