"""`Body.headers`, which reads the header of a message before its content, and `Body.spool`, which moves it into a file."""

from __future__ import annotations

import errno
import os
import re
import resource
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from email.message import EmailMessage
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import pytest
import trio
from helpers import MESSAGE, NAME, START, Client, RecordingHooks, connected
from hypothesis import given, strategies as st
from trio.testing import MockClock

from smtp_trio import Body, BodyError, Reply, Server, Session
from smtp_trio._server.header_fields import MAX_PARSED, parse_header
from smtp_trio.stores import Maildir, read

LETTER = b"Subject: =?utf-8?q?gr=C3=BC=C3=9Fe?=\r\nTo: Fred <fred@mx.test>,\r\n wilma@mx.test\r\n\r\nhello\r\n"
#: The size of a message that is not kept in memory.
LARGE = 3 << 20


async def by_data(client: Client, message: bytes, step: int) -> None:
    await client.command("DATA", "354")
    for at in range(0, len(message), step):
        await client.send(message[at : at + step])
    await client.send(b".\r\n")


async def by_bdat(client: Client, message: bytes, step: int) -> None:
    for at in range(0, len(message), step):
        piece = message[at : at + step]
        await client.send(b"BDAT %d\r\n%b" % (len(piece), piece))
        await client.expect("250")
    await client.send(b"BDAT 0 LAST\r\n")


Transfer = Callable[[Client, bytes, int], Awaitable[None]]
TRANSFERS: list[Transfer] = [by_data, by_bdat]


def serving(data: Callable[[Session, Body], Awaitable[Any]], **settings: Any) -> Server:
    hooks = RecordingHooks()
    server = Server(hooks, name=NAME, **settings)
    server.on(data=data)
    return server


# --- headers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [1, 7, 30, 10_000])
@pytest.mark.parametrize("transfer", TRANSFERS)
async def test_headers_come_before_the_whole_message(transfer: Transfer, step: int, autojump_clock: MockClock) -> None:
    async def data(session: Session, body: Body) -> None:
        headers = await body.headers()
        assert headers["Subject"] == "grüße"
        assert [address.addr_spec for address in headers["to"].addresses] == ["fred@mx.test", "wilma@mx.test"]
        assert headers["Date"] is None
        assert headers.get_content() == ""
        again = await body.headers()
        assert again.items() == headers.items()
        assert not body.complete
        assert await body.read() == LETTER
        assert body.complete
        assert body.size == len(LETTER)

    async with connected(serving(data)) as client:
        await client.open()
        await transfer(client, LETTER, step)
        await client.expect("250 2.0.0 Ok: queued as ")


async def test_headers_are_known_while_the_content_is_not_sent_yet(autojump_clock: MockClock) -> None:
    found: list[str] = []
    known = trio.Event()

    async def data(session: Session, body: Body) -> Reply:
        found.append((await body.headers())["subject"])
        known.set()
        return Reply(550, "No", "5.7.1")

    async with connected(serving(data)) as client:
        await client.open()
        await client.command("DATA", "354")
        await client.send(MESSAGE[:-7])
        await known.wait()
        await client.send(MESSAGE[-7:] + b".\r\n")
        await client.expect("550 5.7.1")
    assert found == ["hi"]


@pytest.mark.parametrize(
    ("message", "fields"),
    [
        (b"", []),
        (b"\r\n", []),
        (b"\r\nTo: no field\r\n", []),
        (b"Subject: only a header\r\n", [("Subject", "only a header")]),
        (b"no field\r\n\r\nTo: no field\r\n", []),
        (b"Received: a\r\nReceived: b\r\n\r\n", [("Received", "a"), ("Received", "b")]),
    ],
)
@pytest.mark.parametrize("transfer", TRANSFERS)
async def test_messages_without_content_or_header(
    transfer: Transfer, message: bytes, fields: list[tuple[str, str]], autojump_clock: MockClock
) -> None:
    async def data(session: Session, body: Body) -> None:
        for _ in range(2):
            assert (await body.headers()).items() == fields
            assert body.complete == (not message)
        assert await body.read() == message

    async with connected(serving(data)) as client:
        await client.open()
        await transfer(client, message, 1000)
        await client.expect("250 2.0.0 Ok: queued as ")


@pytest.mark.parametrize("message", [MESSAGE, b"Subject: only a header\r\n"])
async def test_message_of_which_only_the_headers_were_read_is_not_accepted(
    message: bytes, autojump_clock: MockClock
) -> None:
    async def data(session: Session, body: Body) -> None:
        await body.headers()

    server = serving(data)
    async with connected(server) as client:
        await client.open()
        await by_data(client, message, 1000)
        await client.expect("451 4.3.0")


async def test_message_may_be_discarded_after_its_headers(autojump_clock: MockClock) -> None:
    async def data(session: Session, body: Body) -> None:
        await body.headers()
        await body.discard()

    async with connected(serving(data)) as client:
        await client.open()
        await by_data(client, MESSAGE, 5)
        await client.expect("250 2.0.0 Ok: queued as ")


@pytest.mark.parametrize("end", [b"\r\n", b"\r\n\r\ntext\r\n"], ids=["no end", "end"])
async def test_header_over_the_limit_is_refused(end: bytes, autojump_clock: MockClock) -> None:
    async def data(session: Session, body: Body) -> None:
        for attempt in (partial(body.headers, limit=1000), body.headers, body.read, body.discard):
            with pytest.raises(BodyError, match="the header has more than 1000 octets"):
                await attempt()

    async with connected(serving(data)) as client:
        for step in (100, 10_000):
            await client.open()
            await by_data(client, b"Subject: ".ljust(1000 - 1, b"x") + end, step)
            await client.expect("552 5.3.4 Message header too large")
        await client.send(START)
        await client.expect("250", "250")
        await client.send(b"BDAT 1002\r\n" + b"Subject: ".ljust(1002, b"x"))
        await client.expect("552 5.3.4 Message header too large")


async def test_header_of_exactly_the_limit_is_accepted(autojump_clock: MockClock) -> None:
    async def data(session: Session, body: Body) -> None:
        assert (await body.headers(limit=len(b"Subject: hi\r\n")))["subject"] == "hi"
        await body.discard()

    async with connected(serving(data)) as client:
        await client.open()
        await by_data(client, MESSAGE, 1000)
        await client.expect("250 2.0.0")


async def test_time_for_a_header_in_small_segments_grows_with_its_size(autojump_clock: MockClock) -> None:
    """No octet is searched again for the end of the header with each octet that arrives: 4000 segments take as long as
    a read of them. The shortest of several times is compared, since other programs on the machine lengthen some."""
    line = b" " + b"x" * 253 + b"\r\n"
    message = b"Subject: long\r\n" + 4000 * line + b"\r\nhello\r\n"
    seconds: dict[str, list[float]] = {"read": [], "headers": []}

    for name in [*seconds] * 3:

        async def data(session: Session, body: Body, name: str = name) -> None:
            began = time.process_time()
            if name == "headers":
                assert (await body.headers(limit=1 << 22)).keys() == ["Subject"]
            assert await body.read() == message
            seconds[name].append(time.process_time() - began)

        async with connected(serving(data)) as client:
            await client.open()
            await by_data(client, message, len(line))
            await client.expect("250")
    assert min(seconds["headers"]) < 5 * min(seconds["read"])


async def test_headers_after_another_read(autojump_clock: MockClock) -> None:
    async def data(session: Session, body: Body) -> None:
        await anext(body)
        with pytest.raises(RuntimeError, match="before the rest of the message"):
            await body.headers()
        await body.discard()

    async with connected(serving(data)) as client:
        await client.open()
        await by_data(client, MESSAGE, 1000)
        await client.expect("250 2.0.0")


async def test_headers_after_the_hook(autojump_clock: MockClock) -> None:
    kept: list[Body] = []

    async def data(session: Session, body: Body) -> None:
        kept.append(body)
        await body.headers()
        await body.read()

    async with connected(serving(data)) as client:
        await client.open()
        await by_data(client, MESSAGE, 1000)
        await client.expect("250 2.0.0")
        for attempt in (kept[0].headers, kept[0].read, kept[0].spool):
            with pytest.raises(RuntimeError, match="data hook"):
                await attempt()


async def test_client_that_disconnects_in_the_header(autojump_clock: MockClock) -> None:
    errors: list[BodyError] = []
    ended = trio.Event()

    async def data(session: Session, body: Body) -> None:
        try:
            await body.headers()
        except BodyError as error:
            errors.append(error)
            with pytest.raises(BodyError):
                await body.read()
            raise
        finally:
            ended.set()

    async with connected(serving(data)) as client:
        await client.open()
        await client.command("DATA", "354")
        await client.send(b"Subject: h")
        await client.stream.aclose()
        await ended.wait()
    assert [str(error) for error in errors] == ["the client disconnected"]


async def test_cancelled_headers_lose_nothing(autojump_clock: MockClock) -> None:
    async def data(session: Session, body: Body) -> None:
        with trio.move_on_after(5):
            await body.headers()
        assert (await body.headers())["subject"] == "hi"
        assert await body.read() == MESSAGE

    async with connected(serving(data)) as client:
        await client.open()
        await client.command("DATA", "354")
        await client.send(MESSAGE[:5])
        await trio.sleep(10)
        await client.send(MESSAGE[5:] + b".\r\n")
        await client.expect("250 2.0.0")


@pytest.mark.parametrize("newlines", ["normalize", "preserve"])
async def test_headers_of_a_message_with_bare_lf(newlines: Any, autojump_clock: MockClock) -> None:
    async def data(session: Session, body: Body) -> None:
        headers = await body.headers(limit=20)
        assert headers.items() == [("Subject", "hi")]
        assert (await body.read()).endswith(b"hello" * 10 + b"\r\n")

    async with connected(serving(data, newlines=newlines)) as client:
        await client.open()
        await by_data(client, b"Subject: hi\n\n" + b"hello" * 10 + b"\r\n", 1000)
        await client.expect("250 2.0.0")


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("message", [MESSAGE, b" folded\r\n\r\nhello\r\n"])
async def test_received_field_before_a_message_whose_headers_were_read(
    message: bytes, before: bool, autojump_clock: MockClock
) -> None:
    """An empty line separates the field from a message that could continue it, in either order of the calls."""

    async def data(session: Session, body: Body) -> None:
        field = session.received() if before else b""
        await body.headers()
        field = field or session.received()
        separator = b"" if message is MESSAGE else b"\r\n"
        whole = rb"Received: .*\r\n(\t.*\r\n)+" + re.escape(separator + message)
        assert re.fullmatch(whole, field + await body.read())

    async with connected(serving(data)) as client:
        await client.open()
        await by_data(client, message, 3)
        await client.expect("250 2.0.0")


async def test_store_after_the_headers(tmp_path: Path) -> None:
    class Filter(Maildir):
        async def data(self, session: Session, body: Body) -> Reply | Sequence[Reply | None] | None:
            if (await body.headers())["subject"] == "spam":
                return Reply(550, "No", "5.7.1")
            return await super().data(session, body)

    async with connected(Server(Filter(tmp_path / "Maildir"), name=NAME)) as client:
        await client.open()
        await by_data(client, b"Subject: spam\r\n\r\nhello\r\n", 1000)
        await client.expect("550 5.7.1")
        await client.send(START)
        await client.expect("250", "250")
        await by_data(client, MESSAGE, 1000)
        await client.expect("250 2.0.0")
    [file] = (tmp_path / "Maildir" / "new").iterdir()
    assert read(file).message == MESSAGE


#: Values for which `email.policy.default` raises an exception, in Python 3.11 or 3.13.
MALFORMED = [
    "Message-ID: <", 'From: "', "From: =b.c@", "To: *0*.<", "Reply-To: :name<b.c;=?utf-8?q?a?=)", "To: *0*:*0*aa;\x00:", "From: .:.",
    "Sender: ,\\@[\\", "To: .*0*@:=\xe9)", "Sender: ''=?utf-8?q?a?=1@[", "Content-Disposition: :;.*0*", "Content-Type: @>:;1*0*",
]  # fmt: skip
#: What makes up values that are difficult to parse.
TOKENS = [
    "=?utf-8?q?a?=",
    "=?x?y?z?=",
    "=?",
    "?=",
    "<",
    ">",
    "@",
    "(",
    '"',
    "\\",
    ";",
    ":",
    ",",
    "a",
    " ",
    "\r\n ",
    "é",
    "\0",
    "*0*",
    "[",
]
NAMES = ["From", "To", "Subject", "Date", "Content-Type", "Content-Disposition", "Message-ID", "MIME-Version", "X-Spam"]


def read_all(headers: EmailMessage) -> list[str]:
    headers.get_content_type()
    headers.get_filename()
    return [str(value) for value in headers.values()]


@pytest.mark.parametrize("field", MALFORMED)
@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_malformed_fields_are_text(field: str, encoding: str) -> None:
    headers = parse_header(field.encode(encoding) + b"\r\nSubject: hi\r\n")
    assert len(read_all(headers)) == 2
    assert headers["subject"] == "hi"


@given(st.sampled_from(NAMES), st.lists(st.sampled_from(TOKENS), max_size=12).map("".join))
def test_no_field_raises_an_exception(name: str, value: str) -> None:
    assert read_all(parse_header(f"{name}: {value}\r\n".encode()))


@pytest.mark.parametrize("name", ["To", "Content-Type", "Message-ID", "Subject"])
@pytest.mark.parametrize("unit", ['"', "a,", "a ", "(", "=?utf-8?q?a?= "])
def test_long_fields_are_text(name: str, unit: str) -> None:
    """The parser of the standard library takes up to a minute for some of these."""
    value = (unit * 100_000)[:100_000].strip()
    assert str(parse_header(f"{name}: {value}\r\n".encode())[name]) == value
    short = (unit * MAX_PARSED)[:MAX_PARSED].strip()
    assert read_all(parse_header(f"{name}: {short}\r\n".encode()))


# --- spool ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "max_size", "in_memory"),
    [
        (22, 1 << 20, True),
        (22, 22, True),
        (22, 21, False),
        (22, 0, False),
        (LARGE, 1 << 20, False),
        (LARGE, LARGE, True),
    ],
)
@pytest.mark.parametrize("transfer", TRANSFERS)
async def test_spooled_message(transfer: Transfer, size: int, max_size: int, in_memory: bool, tmp_path: Path) -> None:
    message = MESSAGE.ljust(size - 2, b"x")[: size - 2] + b"\r\n"
    files: list[BinaryIO] = []

    async def data(session: Session, body: Body) -> None:
        with await body.spool(max_size=max_size, dir=tmp_path) as file:
            files.append(file)
            assert hasattr(file, "getbuffer") == in_memory
            assert os.listdir(tmp_path) == []  # the file has no name
            assert await trio.to_thread.run_sync(file.read) == message
            assert body.complete
        with await body.spool() as rest:
            assert rest.read() == b""

    async with connected(serving(data)) as client:
        await client.open()
        await transfer(client, message, 200_000)
        await client.expect("250 2.0.0")
    assert files[0].closed


async def test_spooled_after_the_headers() -> None:
    async def data(session: Session, body: Body) -> None:
        assert (await body.headers())["subject"] == "hi"
        with await body.spool(max_size=5) as file:
            assert file.readlines() == [b"Subject: hi\r\n", b"\r\n", b"hello\r\n"]

    async with connected(serving(data)) as client:
        await client.open()
        await by_data(client, MESSAGE, 3)
        await client.expect("250 2.0.0")


@pytest.fixture
def created(monkeypatch: pytest.MonkeyPatch) -> list[BinaryIO]:
    """The temporary files that were created."""
    files: list[BinaryIO] = []
    create = tempfile.TemporaryFile

    def recording(*args: Any, **settings: Any) -> Any:
        files.append(create(*args, **settings))
        return files[-1]

    monkeypatch.setattr(tempfile, "TemporaryFile", recording)
    return files


async def test_file_is_closed_when_the_client_disconnects(created: list[BinaryIO]) -> None:
    ended = trio.Event()

    async def data(session: Session, body: Body) -> None:
        try:
            with pytest.raises(BodyError):
                await body.spool(max_size=10)
        finally:
            ended.set()

    async with connected(serving(data)) as client:
        await client.open()
        await client.command("DATA", "354")
        await client.send(MESSAGE)
        await client.stream.aclose()
        await ended.wait()
    assert [file.closed for file in created] == [True]


async def test_file_is_closed_when_the_read_is_cancelled(created: list[BinaryIO]) -> None:
    async def data(session: Session, body: Body) -> Reply:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(body.spool, max_size=10))
            while not created:
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
        assert created[0].closed
        return Reply(451, "Late", "4.3.0")

    async with connected(serving(data)) as client:
        await client.open()
        await client.command("DATA", "354")
        await client.send(MESSAGE)
        while not created or not created[0].closed:
            await trio.lowlevel.checkpoint()
        await client.send(b".\r\n")
        await client.expect("451 4.3.0 Late")


async def test_directory_that_does_not_exist(tmp_path: Path) -> None:
    async def data(session: Session, body: Body) -> Reply:
        with pytest.raises(FileNotFoundError):
            await body.spool(max_size=10, dir=tmp_path / "none")
        return Reply(452, "Insufficient system storage", "4.3.1")

    async with connected(serving(data)) as client:
        await client.open()
        await by_data(client, MESSAGE, 1000)
        await client.expect("452 4.3.1")


async def test_file_that_cannot_be_written(created: list[BinaryIO]) -> None:
    """A limit of the process for the size of files takes the place of a full disk."""

    async def data(session: Session, body: Body) -> Reply:
        with pytest.raises(OSError) as caught:  # noqa: PT011  # its number is checked
            await body.spool(max_size=10)
        assert caught.value.errno == errno.EFBIG
        return Reply(452, "Insufficient system storage", "4.3.1")

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        async with connected(serving(data)) as client:
            await client.open()
            await by_data(client, MESSAGE * 1000, 100_000)
            await client.expect("452 4.3.1")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [file.closed for file in created] == [True]
