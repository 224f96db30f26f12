"""The programs at both ends of `benchmarks.scaling`: senders of messages, and a consumer of the shared store.

    python -m benchmarks.scaling_peers send HOST PORT MESSAGES CONNECTIONS FILE
    python -m benchmarks.scaling_peers consume URL NAME FILE

Each appends to FILE one line for each message: the senders when it was accepted, the consumer when it was handled. The
senders send a message again until it is accepted, as a mail server does.
"""

from __future__ import annotations

import os
import re
import smtplib
import sys
import threading
import time
from collections import Counter
from functools import partial
from io import FileIO
from itertools import count
from typing import TextIO

import trio

from smtp_trio import stores

SUBJECT = re.compile(rb"(?m)^Subject: (\S+)\r?$")
#: Seconds that a sender waits after a failed attempt.
PAUSE = 0.1
#: Seconds after which a consumer whose store cannot be opened is started again.
RESTART = 0.2
#: Octets of the body.
SIZE = 4096


class Senders:
    """Threads that send messages with different subjects."""

    def __init__(self, host: str, port: int, messages: int, file: TextIO) -> None:
        self.host, self.port, self.messages, self.file = host, port, messages, file
        self.numbers = count(1)
        self.lock = threading.Lock()
        self.failures: Counter[str] = Counter()

    def run(self) -> None:
        """Send messages until there are enough, over one connection at a time."""
        smtp: smtplib.SMTP | None = None
        while (number := next(self.numbers)) <= self.messages:
            while True:
                try:
                    smtp = smtp or smtplib.SMTP(self.host, self.port, "client.example.net", timeout=60)
                    self.send(smtp, number)
                    break
                except (OSError, smtplib.SMTPException) as error:
                    with self.lock:
                        self.failures[describe(error)] += 1
                    if smtp is not None:
                        smtp.close()
                    smtp = None
                    time.sleep(PAUSE)
        if smtp is not None:
            smtp.close()

    def send(self, smtp: smtplib.SMTP, number: int) -> None:
        """Send one message, and record that it was accepted."""
        body = f"Subject: {number}\r\n\r\n" + "x" * 62 + "\r\n" + ("y" * 62 + "\r\n") * (SIZE // 64)
        smtp.sendmail("me@example.net", [f"you{number % 10}@example.org"], body)
        with self.lock:
            self.file.write(f"{number} {time.monotonic():.3f}\n")
            self.file.flush()


def describe(error: Exception) -> str:
    """Return the code of a reply, or the type of an error."""
    match error:
        case smtplib.SMTPResponseException(smtp_code=code):
            return str(code)
        case smtplib.SMTPRecipientsRefused(recipients=refused):
            return str(next(iter(refused.values()))[0])
    return type(error).__name__


def send(host: str, port: str, messages: str, connections: str, path: str) -> None:
    """Send messages, and print how many attempts failed, by reason."""
    with open(path, "a", encoding="ascii") as file:
        senders = Senders(host, int(port), int(messages), file)
        threads = [threading.Thread(target=senders.run) for _ in range(int(connections))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    print(" ".join(f"{reason}={times}" for reason, times in sorted(senders.failures.items())))


async def consume(url: str, name: str, path: str) -> None:
    """Record the messages of a store, each with its id. Start again while the engine fails, as a supervisor would."""
    with open(path, "ab", buffering=0) as file:  # noqa: ASYNC230 -- nothing else runs
        while True:
            try:
                await record(url, name, file)
            except stores.StoreError:
                await trio.sleep(RESTART)


async def record(url: str, name: str, file: FileIO) -> None:
    """Record messages until the store cannot be opened."""
    async with stores.open(url) as store:
        async for delivery in store.consume("counters", name, lease=5):
            async with delivery:
                match = SUBJECT.search(delivery.stored.message)
                assert match is not None
                file.write(match[1] + b" " + delivery.id.encode() + b"\n")
                os.fsync(file.fileno())


if __name__ == "__main__":
    if sys.argv[1] == "send":
        send(*sys.argv[2:])
    else:
        trio.run(partial(consume, *sys.argv[2:]))
