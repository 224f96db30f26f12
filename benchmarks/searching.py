"""Lists and searches of a large store, as a browser gets them: through HTTP, with a database that it makes.

``python -m benchmarks.searching [--messages N] [--database PATH] [--only TEXT]`` prints the percentiles of each kind of
request, and the memory of the process that serves. Messages have HTML, quoted-printable text and attachments, as those of
companies do. A database at PATH is kept, and used again by the next run, except for forty messages that a run without
``--only`` deletes.
"""

from __future__ import annotations

import argparse
import http.client
import itertools
import os
import random
import resource
import statistics
import string
import tempfile
import time
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from functools import partial
from pathlib import Path
from urllib.parse import quote, urlsplit

import trio

from smtp_trio import Server, web
from smtp_trio.stores import SQLite

#: Parts of words. Texts made of few of them have the same trigrams everywhere, which is the worst case of the index.
# fmt: off
SYLLABLES = (
    "in", "ter", "est", "ing", "re", "con", "tion", "al", "ment", "pro", "ver", "ly", "able", "dis", "com", "un", "er", "ed", "th",
    "an", "ou", "st", "ch", "ra", "le", "mi", "no", "pa", "ti", "ve", "wa", "ki", "do", "su", "be", "schul", "buch", "straß", "für",
    "öff", "лет", "дом", "год", "日本", "発票", "付款",
)
# fmt: on
#: Letters that no word, and no address, has.
RARE_LETTERS = "jqz"
#: The least number of requests of each kind.
REQUESTS = 40
#: Messages that are stored at a time.
TASKS = 64


class Mail:
    """Messages with words whose frequencies are those of natural languages."""

    def __init__(self, seed: int = 1) -> None:
        self.random = random.Random(seed)
        words = {"".join(self.random.choices(SYLLABLES, k=self.random.randint(1, 4))) for _ in range(30_000)}
        self.words = sorted(words)
        self.random.shuffle(self.words)
        self.weights = list(itertools.accumulate(1 / (n + 2) for n in range(len(self.words))))

    def text(self, count: int) -> str:
        """Return some words."""
        return " ".join(self.random.choices(self.words, cum_weights=self.weights, k=count))

    def message(self, n: int) -> tuple[bytes, str, str]:
        """Return a message, its sender and its recipient."""
        sender = f"{self.random.choice(self.words)}@customer{n % 500}.example.net"
        recipient = f"user{self.random.randrange(2000)}+{n % 97}@example.org"
        mail = EmailMessage()
        mail["From"] = f"{self.text(2)} <{sender}>"
        mail["To"] = recipient
        mail["Subject"] = f"{self.text(5)} {n}"
        mail["Message-ID"] = f"<{n}.{self.random.getrandbits(64):x}@mx.example.net>"
        text = self.text(self.random.choice((30, 80, 150, 300)))
        mail.set_content(text)
        if n % 3 == 0:
            mail.add_alternative(
                f"<html><body style='x'><p>{text.replace('. ', '</p><p>')}</p></body></html>", subtype="html"
            )
        if n % 20 == 0:
            data = self.random.randbytes(self.random.choice((5_000, 50_000)))
            mail.add_attachment(
                data, maintype="application", subtype="pdf", filename=f"{self.random.choice(self.words)}.pdf"
            )
        return mail.as_bytes().replace(b"\n", b"\r\n"), sender, recipient


async def fill(store: SQLite, count: int) -> None:
    """Store messages."""
    mail = Mail()
    start = datetime.now(UTC) - timedelta(days=30)
    numbers = iter(range(count))

    async def work() -> None:
        for n in numbers:
            message, sender, recipient = mail.message(n)
            await store.add(message, sender, [recipient], received=start + timedelta(seconds=20 * n))

    async with trio.open_nursery() as nursery:
        for _ in range(TASKS):
            nursery.start_soon(work)


def queries_of(mail: Mail) -> dict[str, list[str]]:
    """Return the queries of each kind."""
    rare, frequent = mail.words[-REQUESTS:], mail.words[:REQUESTS]
    recent = f"{datetime.now(UTC) - timedelta(days=3):%Y-%m-%d}"
    pairs = ["".join(pair) for pair in itertools.product(RARE_LETTERS, "aeqz")]
    return {
        "to:, one recipient": [f"to:user{n}+" for n in range(REQUESTS)],
        "to:, all": ["to:example.org"],
        "from:, one domain": [f"from:@customer{n}.example" for n in range(REQUESTS)],
        "subject:, frequent word": [f"subject:{word}" for word in frequent],
        "subject:, one message": [f"subject:{1000 + n}" for n in range(REQUESTS)],
        "frequent word": frequent,
        "rare word": rare,
        "two words": [f"{a} {b}" for a, b in zip(frequent, rare, strict=True)],
        "word of no message": ["".join(mail.random.choices(SYLLABLES, k=5)) for _ in range(REQUESTS)],
        "one letter": list("etaoinsr"),
        "one letter of no message": list(RARE_LETTERS),
        "one digit": list(string.digits),
        "two digits": [f"{n:02}" for n in range(0, 100, 3)],
        "two letters": [word[:2] for word in (*rare, *frequent)],
        "two letters of no message": pairs,
        "one Chinese character": ["日", "付", "金", "鑫"],
        "two Chinese characters": ["付款", "退款"],
        "punctuation": ["@", "!", "<", ">", "¤", '"\\""', "<>", "!!", "*", "--"],
        "subject:, two letters": [f"subject:{word[:2]}" for word in frequent],
        "subject:, two that none has": [f"subject:{pair}" for pair in (*pairs, "@e", "17@")],
        "from:, two letters": [f"from:{word[:2]}" for word in frequent],
        "from:, two that none has": [f"from:{pair}" for pair in (*pairs, "te ")],
        "to:, two that none has": [f"to:{pair}" for pair in (*pairs, "in", "ch", "st")],
        "cc:, one or two letters": ["cc:e", "cc:er", "cc:in", "cc:th", "cc:qz"],
        "cc:, word": [f"cc:{word}" for word in frequent],
        "word, and two letters": [f"{word} {pair[:2]}" for word, pair in zip(frequent, rare, strict=True)],
        "word, and two of no message": [f"{word} {pair}" for word, pair in zip(frequent, pairs * 4, strict=False)],
        "-two letters": [f"-{word[:2]}" for word in frequent],
        "-two letters of no message": [f"-{pair}" for pair in pairs],
        "-one letter, which all have": ["-e", "-subject:e", "-from:e -to:o"],
        "-word": [f"-{word}" for word in frequent],
        "-word, which all have": ["-to:example.org", "-example"],
        "word, -two letters": [f"{word} -{pair[:2]}" for word, pair in zip(frequent, rare, strict=True)],
        "recipient of no message": [f"to:nobody{n}@" for n in range(REQUESTS)],
        "rcpt:": [f"rcpt:user{n}+{n}@example.org" for n in range(REQUESTS)],
        "detail:": [f"detail:{n}" for n in range(REQUESTS)],
        "header: of no message": [f"header:X-Test={n}" for n in range(REQUESTS)],
        "attachment": ["has:attachment"],
        "before:, no message": ["before:2001-01-01"],
        "larger:, no message": ["larger:1G"],
        "word, recent": [f"{word} after:{recent}" for word in rare],
        "word, before all messages": [f"{word} before:2001-01-01" for word in frequent],
    }


def requests_of(mail: Mail) -> dict[str, list[str]]:
    """Return the paths of the requests of each kind."""
    queries = {name: [quote(query) for query in values] for name, values in queries_of(mail).items()}
    kinds = {
        "list": ["/api/messages"],
        **{name: [f"/api/messages?query={query}" for query in values] for name, values in queries.items()},
        "page: list": ["/"],
        **{
            f"page: {name}": [f"/?q={query}" for query in queries[name]]
            for name in ("frequent word", "word of no message", "two letters", "-word")
        },
    }
    return {name: (paths * REQUESTS)[: max(REQUESTS, len(paths))] for name, paths in kinds.items()}


def size_of(path: str | Path) -> int:
    """Return the size of a database in MiB."""
    return sum(os.path.getsize(f"{path}{suffix}") for suffix in ("", "-wal")) >> 20


def measure(url: str, kinds: dict[str, list[str]]) -> None:
    """Make the requests, and print how long they took."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc)
    print(f"{'':32} {'median':>8} {'p95':>8} {'max':>8}  ms")
    for name, paths in kinds.items():
        times = []
        for path in paths:
            started = time.perf_counter()
            connection.request("DELETE" if name == "delete" else "GET", path)
            response = connection.getresponse()
            response.read()
            times.append((time.perf_counter() - started) * 1000)
            assert response.status in (200, 204), (path, response.status)
        p95 = statistics.quantiles(times, n=20)[-1]
        print(f"{name:32} {statistics.median(times):8.1f} {p95:8.1f} {max(times):8.1f}", flush=True)


async def run(path: Path, count: int, only: str) -> None:
    """Make the database, if it does not exist, and measure."""
    async with SQLite(path) as store:
        if await store.count() < count:
            started = time.perf_counter()
            await fill(store, count - await store.count())
            print(f"stored {count} messages in {time.perf_counter() - started:.0f} s: {size_of(path)} MiB")
        started = time.perf_counter()
        while await store._in_index(store._index.step):
            pass
        print(f"index completed in {time.perf_counter() - started:.0f} s: {size_of(f'{path}-search')} MiB")
    async with SQLite(path) as store, trio.open_nursery() as nursery:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        url = await nursery.start(partial(web.serve, Server(store), store, 0))
        ids = [entry.id async for entry in store.entries(offset=count // 2, limit=REQUESTS)]
        kinds = requests_of(Mail())
        if only:
            kinds = {name: paths for name, paths in kinds.items() if only in name}
        else:
            kinds["delete"] = [f"/api/messages/{quote(each, safe='')}" for each in ids]
            kinds["list again"] = kinds["list"]
        await trio.to_thread.run_sync(measure, url, kinds)
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        print(f"memory: {before >> 10} MiB before the requests, {grown >> 10} MiB more after them")
        nursery.cancel_scope.cancel()


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=100_000)
    parser.add_argument("--database", type=Path)
    parser.add_argument(
        "--only", default="", metavar="TEXT", help="measure the kinds with TEXT in their names, and delete nothing"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        trio.run(run, options.database or Path(directory) / "mail.db", options.messages, options.only)


if __name__ == "__main__":
    main()
