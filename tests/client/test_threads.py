"""Work that takes long is done in a thread: the other tasks run meanwhile."""

from __future__ import annotations

import email
import email.policy
import socket
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from email.message import EmailMessage, Message
from functools import partial
from typing import Any

import pytest
import trio
from helpers import NAME, PoolOf, RecordingHooks, serve
from trio.testing import MockClock, memory_stream_pair, wait_all_tasks_blocked

from smtp_trio import Client, Server
from smtp_trio._client.addresses import find_envelope
from smtp_trio._client.delivery import TURN, Delivery
from smtp_trio._client.message import prepare_message
from smtp_trio._client.missing_fields import complete_message
from smtp_trio._client.threads import LARGE_OCTETS, is_large
from smtp_trio._client.transaction import TURN_OCTETS

TEXT = "a line of text, as messages have them\n"


def new_message(text: str = TEXT, recipients: int = 1) -> EmailMessage:
    message = EmailMessage()
    message["From"] = "me@client.test"
    message["To"] = ", ".join(f"user{number}@mx.test" for number in range(recipients))
    message["Subject"] = "hi"
    message.set_content(text)
    return message


def with_attachment(octets: int) -> EmailMessage:
    message = new_message()
    message.add_attachment(bytes(octets), maintype="application", subtype="octet-stream")
    return message


def forwarded(message: EmailMessage) -> EmailMessage:
    outer = new_message()
    outer.add_attachment(message)
    return outer


def with_parts(count: int) -> EmailMessage:
    message = new_message()
    for number in range(count):
        message.add_attachment(b"x", maintype="text", subtype="plain", filename=f"{number}.txt")
    return message


def parsed(octets: bytes, policy: Any = email.policy.SMTP) -> Message:
    message = email.message_from_bytes(octets, policy=policy)
    assert isinstance(message, Message)
    return message


LARGE: dict[str, Callable[[], object]] = {
    "text": lambda: new_message(TEXT * 10_000),
    "attachment": lambda: with_attachment(300_000),
    "forwarded message": lambda: forwarded(with_attachment(300_000)),
    "many recipients": lambda: new_message(recipients=200),
    "many parts": lambda: with_parts(30),
    "parsed": lambda: parsed(new_message(TEXT * 10_000).as_bytes()),
    "compat32": lambda: parsed(new_message(TEXT * 10_000).as_bytes(), email.policy.compat32),
    "8-bit text": lambda: parsed(b"Subject: x\n\n" + "gr\u00fc\u00dfe\n".encode() * 20_000),
    "bytes": lambda: TEXT.encode() * 10_000,
    "bytearray": lambda: bytearray(TEXT.encode() * 10_000),
    "memoryview of numbers": lambda: memoryview(bytes(1_000_000)).cast("Q"),
}
SMALL: dict[str, Callable[[], object]] = {
    "text": new_message,
    "attachment": lambda: with_attachment(8_000),
    "forwarded message": lambda: forwarded(new_message()),
    "parsed": lambda: parsed(new_message(TEXT * 100).as_bytes()),
    "compat32": lambda: parsed(new_message(TEXT * 100).as_bytes(), email.policy.compat32),
    "bytes": lambda: (TEXT.encode() * 10_000)[:LARGE_OCTETS],
    "empty": lambda: b"",
}


@pytest.mark.parametrize("name", LARGE)
def test_large_messages(name: str) -> None:
    assert is_large(LARGE[name]())


@pytest.mark.parametrize("name", SMALL)
def test_small_messages(name: str) -> None:
    assert not is_large(SMALL[name]())


async def steps_of_others(call: Callable[[], Awaitable[object]]) -> int:
    """Return how often another task ran during a call."""
    count, done = 0, False

    async def other() -> None:
        nonlocal count
        while not done:
            await trio.lowlevel.checkpoint()
            count += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(other)
        await wait_for_start(lambda: count)
        before = count
        await call()
        after, done = count, True
    return after - before


async def others_run(call: Callable[[], Awaitable[object]]) -> bool:
    """Return whether another task ran during a call, and more often than during a single checkpoint.

    The call is repeated, because its thread may have done the work before the system lets the thread of Trio run again.
    """
    for _ in range(100):
        if await steps_of_others(call) > 2:
            return True
    return False


async def wait_for_start(count: Callable[[], int]) -> None:
    while not count():
        await trio.lowlevel.checkpoint()


@pytest.mark.parametrize("name", [name for name in LARGE if name != "memoryview of numbers"])
async def test_other_tasks_run_while_a_large_message_is_prepared(name: str) -> None:
    message: Any = LARGE[name]()
    assert await others_run(partial(prepare_message, message, eight_bit=True, utf8=True))


@pytest.mark.parametrize("name", SMALL)
async def test_small_message_is_prepared_without_a_thread(name: str) -> None:
    message: Any = SMALL[name]()
    assert await steps_of_others(partial(prepare_message, message, eight_bit=True, utf8=True)) == 0


async def test_envelope_of_many_recipients() -> None:
    message = new_message(recipients=500)
    assert await others_run(partial(find_envelope, message, None, None))
    assert await find_envelope(message, None, None) == (
        "me@client.test",
        [f"user{number}@mx.test" for number in range(500)],
    )


@pytest.mark.parametrize(
    "octets",
    [
        b"\xef\xbb\xbfFrom: me@client.test\nTo: you@mx.test\n\n" + TEXT.encode() * 10_000,
        b"From: me@client.test\nTo: you@mx.test\n\n".replace(b"\n", b"\r\r\n") + TEXT.encode() * 10_000,
        b"From: me@client.test\nTo: you@mx.test\n" + b"X-A: b\n" * 10_000 + b"\n",
    ],
    ids=["byte order mark", "CR CR LF", "many fields"],
)
async def test_missing_fields_of_a_large_message(octets: bytes) -> None:
    """To add them, the message may have to be parsed anew."""
    message = parsed(octets)
    assert await others_run(partial(complete_message, message, "me@client.test"))
    added = await complete_message(message, "me@client.test")
    assert (added["From"], added["To"]) == ("me@client.test", "you@mx.test")
    assert all(name in added for name in ("Date", "Message-ID"))


async def test_missing_fields_of_a_small_message_need_no_thread() -> None:
    assert await steps_of_others(partial(complete_message, new_message(), "me@client.test")) == 0


async def test_recipients_of_a_large_message_are_read_in_the_task() -> None:
    """They may come from a generator that uses Trio."""
    threads = []

    def names() -> Any:
        threads.append(threading.current_thread())
        yield "you@mx.test"

    message = new_message(TEXT * 10_000)
    assert await find_envelope(message, None, names()) == ("me@client.test", ["you@mx.test"])
    assert await find_envelope(message, "a@client.test", names()) == ("a@client.test", ["you@mx.test"])
    assert threads == [threading.current_thread()] * 2


class RecordingPolicy(email.policy.EmailPolicy):
    """Records the threads in which fields are generated, and can wait there."""

    threads: list[threading.Thread] = []
    started = threading.Event()
    go_on = threading.Event()

    def fold_binary(self, name: str, value: str) -> bytes:
        self.threads.append(threading.current_thread())
        self.started.set()
        assert self.go_on.wait(240)
        return super().fold_binary(name, value)


@pytest.fixture
def recording(monkeypatch: pytest.MonkeyPatch) -> type[RecordingPolicy]:
    monkeypatch.setattr(RecordingPolicy, "threads", [])
    for name in ("started", "go_on"):
        monkeypatch.setattr(RecordingPolicy, name, threading.Event())
    return RecordingPolicy


def recorded_message(policy: email.policy.EmailPolicy, text: str) -> EmailMessage:
    message = EmailMessage(policy)
    message["From"], message["To"] = "me@client.test", "you@mx.test"
    message.set_content(text)
    return message


async def test_cancelled_call_ends_after_its_thread(recording: type[RecordingPolicy]) -> None:
    """The caller may modify the message as soon as the call has ended."""
    message = recorded_message(recording(), TEXT * 10_000)
    ended = False

    async def call() -> None:
        nonlocal ended
        try:
            await prepare_message(message, eight_bit=True, utf8=True)
        finally:
            ended = True

    async with trio.open_nursery() as nursery:
        nursery.start_soon(call)
        await trio.to_thread.run_sync(recording.started.wait)
        nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True):
            await wait_all_tasks_blocked()
        assert not ended
        recording.go_on.set()
    assert ended
    assert threading.current_thread() not in recording.threads


@asynccontextmanager
async def client_and_server(size: int) -> AsyncGenerator[tuple[Client, RecordingHooks]]:
    hooks = RecordingHooks()
    client_end, server_end = memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve, Server(hooks, name=NAME, size=size), server_end)
        async with Client(client_end, tls="never") as client:
            yield client, hooks


@pytest.mark.parametrize("lines", [1, 20_000])
async def test_clock_that_jumps(lines: int, recording: type[RecordingPolicy], autojump_clock: MockClock) -> None:
    """Virtual time does not pass while a message is prepared, whatever its size."""
    recording.go_on.set()
    start = trio.current_time()
    async with client_and_server(10_000_000) as (client, hooks):
        result = await client.send_message(recorded_message(recording(), TEXT * lines))
        await client.send("me@client.test", ["you@mx.test"], b"\n" + TEXT.encode() * lines)
    assert result.complete
    assert [TEXT.strip().encode() in message for message in hooks.messages] == [True, True]
    assert trio.current_time() == start
    assert set(recording.threads) == {threading.current_thread()}


async def test_clock_that_does_not_jump(recording: type[RecordingPolicy], mock_clock: MockClock) -> None:
    recording.go_on.set()
    async with client_and_server(10_000_000) as (client, _):
        await client.send_message(recorded_message(recording(), TEXT * 20_000))
    assert threading.current_thread() not in recording.threads


async def test_all_threads_of_trio_wait_for_the_client() -> None:
    """The client has threads of its own, so these cannot wait for each other."""
    limiter = trio.to_thread.current_default_thread_limiter()
    before, limiter.total_tokens = limiter.total_tokens, 1
    message = new_message(TEXT * 10_000)

    def in_thread() -> object:
        return trio.from_thread.run(partial(prepare_message, message, eight_bit=True, utf8=True))

    try:
        with trio.fail_after(100):
            await trio.to_thread.run_sync(in_thread)
    finally:
        limiter.total_tokens = before


@pytest.mark.parametrize("params", [{}, {"body": "8BITMIME"}])
async def test_other_tasks_run_while_many_recipients_are_checked(params: dict[str, object]) -> None:
    names = [f"user{number}@mx.test" for number in range(2000)]
    async with client_and_server(0) as (client, _):
        prepare = partial(Delivery.prepare, client._exchange, "me@client.test", names, b"x", None, params)
        assert await steps_of_others(prepare) >= (1 + len(params)) * (2000 // TURN) - 1
        few = partial(Delivery.prepare, client._exchange, "me@client.test", names[: TURN - 1], b"x", None, params)
        assert await steps_of_others(few) < 3


@pytest.mark.parametrize("call", ["send", "data"])
async def test_other_tasks_run_while_a_server_reads_as_fast_as_the_client_writes(call: str) -> None:
    octets = 16 * TURN_OCTETS
    ours, theirs = socket.socketpair()
    received = 0

    def server() -> None:
        nonlocal received
        theirs.sendall(b"220 x\r\n")
        file = theirs.makefile("rb")
        for line in file:
            reply = b"354 go\r\n" if line == b"DATA\r\n" else b"250 ok\r\n"
            theirs.sendall(reply)
            if line == b"DATA\r\n":
                while (text := file.readline()) != b".\r\n":
                    received += len(text)
                theirs.sendall(b"250 ok\r\n")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.to_thread.run_sync, server)
        async with Client(trio.SocketStream(trio.socket.from_stdlib_socket(ours)), tls="never") as client:
            message = (b"x" * 62 + b"\r\n") * (octets // 64)
            if call == "send":
                steps = await steps_of_others(partial(client.send, "me@client.test", ["you@mx.test"], message))
            else:
                await client.mail("me@client.test")
                await client.rcpt("you@mx.test")
                steps = await steps_of_others(partial(client.data, message))
        theirs.shutdown(socket.SHUT_RD)
    theirs.close()
    assert received == octets
    assert steps >= octets // TURN_OCTETS


async def test_pool_and_send_many() -> None:
    message = with_attachment(300_000)
    hooks = RecordingHooks()
    async with trio.open_nursery() as nursery:

        async def open_client() -> Client:
            client_end, server_end = memory_stream_pair()
            nursery.start_soon(serve, Server(hooks, name=NAME), server_end)
            return await Client(client_end, tls="never").__aenter__()

        async with PoolOf(open_client) as pool:
            assert await steps_of_others(partial(pool.send_message, message)) > 1
            async with pool.client() as client:
                results = await client.send_many([("me@client.test", ["you@mx.test"], message)] * 2)
    assert [result.complete for result in results] == [True, True]
    assert len({message.partition(b"\r\n\r\n")[0].partition(b"boundary")[0] for message in hooks.messages}) == 1
