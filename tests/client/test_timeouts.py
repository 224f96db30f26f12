"""The client's timeouts (RFC 5321 4.5.3.2): their length, and the command that the exception names."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import trio
from helpers import unbuffered
from scripted import (
    CHUNKED,
    ENVELOPE,
    GO_AHEAD,
    GREETING,
    ME,
    MESSAGE,
    NO_REPLY,
    OK,
    READ_BODY,
    STOP_READING,
    UNPIPELINED,
    YOU,
    ReadOctets,
    Script,
    Step,
    hello,
    scripted,
)
from trio.testing import MockClock

from smtp_trio import (
    AllRecipientsRejectedError,
    Body,
    Client,
    ClientTimeouts,
    DeliveryUnknownError,
    Hooks,
    Mail,
    Rcpt,
    Reply,
    Server,
    Session,
    TimedOutError,
    standard,
)
from smtp_trio.protocol import Command
from smtp_trio.testing import memory_pair

BOTH = hello("PIPELINING", "CHUNKING")
MAIL, RCPT = ENVELOPE


def check_error(caught: pytest.ExceptionInfo[TimedOutError], verb: str, seconds: float) -> None:
    """Check that the exception names the command and the timeout."""
    assert caught.value.command.verb == verb
    assert isinstance(caught.value, trio.TooSlowError)
    assert f"{seconds:g} s" in str(caught.value)


@pytest.mark.parametrize(
    ("steps", "verb", "seconds"),
    [
        ((), "CONNECT", 300),
        ((GREETING, "EHLO .*"), "EHLO", 300),
        ((GREETING, "EHLO .*", b"500 what\r\n", "HELO .*"), "HELO", 300),
        ((*hello("STARTTLS"), "STARTTLS"), "STARTTLS", 300),
        ((*hello("STARTTLS"), "STARTTLS", b"220 go\r\n"), "STARTTLS", 300),
        ((*hello("AUTH PLAIN"), "AUTH .*"), "AUTH", 300),
        ((*hello("AUTH LOGIN"), "AUTH LOGIN", b"334 VXNlcg==\r\n", ".*"), "AUTH", 300),
    ],
)
async def test_timeout_during_the_handshake(
    autojump_clock: MockClock, steps: tuple[Step, ...], verb: str, seconds: float
) -> None:
    settings: dict[str, Any] = {"tls": "opportunistic"} if any("STARTTLS" in repr(step) for step in steps) else {}
    if any("AUTH" in repr(step) for step in steps):
        settings = {"auth": ("fred", "secret"), "allow_cleartext": True}
    async with scripted(*steps, NO_REPLY) as script:
        began = trio.current_time()
        with pytest.raises(TimedOutError) as caught:
            async with script.client(**settings):
                raise AssertionError("unreachable")
        assert trio.current_time() == began + seconds
        check_error(caught, verb, seconds)


@pytest.mark.parametrize(
    ("steps", "verb", "seconds"),
    [
        ((MAIL,), "MAIL", 300),
        ((MAIL, OK, RCPT), "RCPT", 300),
        ((MAIL, OK, RCPT, OK, "DATA"), "DATA", 120),
    ],
)
async def test_timeout_in_a_transaction(
    autojump_clock: MockClock, steps: tuple[Step, ...], verb: str, seconds: float
) -> None:
    async with scripted(*hello(), *steps, NO_REPLY) as script, script.client() as client:
        began = trio.current_time()
        with pytest.raises(TimedOutError) as caught:
            await client.send(ME, [YOU], MESSAGE)
        assert trio.current_time() == began + seconds
        check_error(caught, verb, seconds)
        assert not client.usable


async def test_timeout_of_rset_after_a_refusal(autojump_clock: MockClock) -> None:
    """The refusal is raised, because it is the outcome of the message."""
    async with scripted(*hello(), MAIL, OK, RCPT, b"550 no\r\n", "RSET", NO_REPLY) as script, script.client() as client:
        began = trio.current_time()
        with pytest.raises(AllRecipientsRejectedError, match="550 no"):
            await client.send(ME, [YOU], MESSAGE)
        assert trio.current_time() == began + 20
        assert not client.usable


@pytest.mark.parametrize(
    ("steps", "verb", "seconds"),
    [
        ((*hello(), MAIL, OK, RCPT, OK, "DATA", GO_AHEAD, READ_BODY), "end of data", 600),
        ((*BOTH, *ENVELOPE, "BDAT .*", ReadOctets(len(MESSAGE)), OK * 2), "BDAT", 600),
    ],
)
async def test_timeout_after_the_message_is_unknown(
    autojump_clock: MockClock, steps: tuple[Step, ...], verb: str, seconds: float
) -> None:
    async with scripted(*steps, NO_REPLY) as script, script.client() as client:
        began = trio.current_time()
        with pytest.raises(DeliveryUnknownError) as caught:
            await client.send(ME, [YOU], MESSAGE)
        assert trio.current_time() == began + seconds
        assert caught.value.command.verb == verb
        assert isinstance(caught.value.__cause__, TimedOutError)
        assert [each.recipient for each in caught.value.result.unknown] == [YOU]


async def test_each_reply_has_its_own_timeout(autojump_clock: MockClock) -> None:
    """The server is slow, but each reply is in time."""

    def delay(seconds: float) -> Step:
        async def wait(_: Script) -> None:
            await trio.sleep(seconds)

        return wait

    steps = (MAIL, delay(299), OK, RCPT, delay(299), OK, "DATA", delay(119), GO_AHEAD, READ_BODY, delay(599), OK)
    async with scripted(*hello(), *steps) as script, script.client() as client:
        assert (await client.send(ME, [YOU], MESSAGE)).complete


async def test_partial_reply_does_not_extend_the_timeout(autojump_clock: MockClock) -> None:
    """The server sends one octet of a reply every 49 seconds."""

    async def send_slowly(script: Script) -> None:
        for octet in b"250-he":
            await script.stream.send_all(bytes([octet]))
            await trio.sleep(49)

    async with scripted(*hello(), MAIL, send_slowly, NO_REPLY) as script, script.client() as client:
        began = trio.current_time()
        with pytest.raises(TimedOutError):
            await client.send(ME, [YOU], MESSAGE)
        assert trio.current_time() == began + 300


# --- blocks -----------------------------------------------------------------------------------------------------------


async def test_timeout_while_sending_a_block(autojump_clock: MockClock) -> None:
    steps = (MAIL, OK, RCPT, OK, "DATA", GO_AHEAD, STOP_READING)
    async with scripted(*hello(), *steps, pair=unbuffered) as script, script.client() as client:
        began = trio.current_time()
        with pytest.raises(TimedOutError) as caught:
            await client.send(ME, [YOU], MESSAGE)
        assert trio.current_time() == began + 180
        check_error(caught, "end of data", 180)
        assert not client.usable


async def test_timeout_restarts_with_each_block(autojump_clock: MockClock) -> None:
    """The server reads each block of 64 KiB just in time."""
    blocks = 5

    async def read(script: Script) -> None:
        for _ in range(blocks):
            await trio.sleep(179)
            left = 1 << 16
            while left:
                left -= len(await script.stream.receive_some(left))

    steps = (MAIL, OK, RCPT, OK, "DATA", GO_AHEAD, read, STOP_READING)
    async with scripted(*hello(), *steps, pair=unbuffered) as script, script.client() as client:
        began = trio.current_time()
        with pytest.raises(TimedOutError) as caught:
            await client.send(ME, [YOU], b"x" * 65534 * 10)
        check_error(caught, "end of data", 180)
        assert blocks * 179 < trio.current_time() - began == blocks * 179 + 180


async def test_chunk_before_the_last_has_the_block_timeout(autojump_clock: MockClock) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(40):
            yield b"x" * 65534 + b"\r\n"

    steps = (MAIL, OK, RCPT, OK, "BDAT 1048576", ReadOctets(1048576), NO_REPLY)
    async with scripted(*hello("CHUNKING"), *steps) as script, script.client() as client:
        began = trio.current_time()
        with pytest.raises(TimedOutError) as caught:
            await client.send(ME, [YOU], pieces())
        check_error(caught, "BDAT", 180)
        assert trio.current_time() == began + 180


# --- other commands and settings --------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["NOOP", "VRFY", "HELP"])
async def test_timeout_of_other_commands(autojump_clock: MockClock, verb: str) -> None:
    async with scripted(*hello(), f"{verb}.*", NO_REPLY) as script, script.client() as client:
        verbs: dict[str, Callable[[], Awaitable[Any]]] = {
            "NOOP": client.noop,
            "VRFY": lambda: client.vrfy("you"),
            "HELP": client.help,
        }
        began = trio.current_time()
        with pytest.raises(TimedOutError) as caught:
            await verbs[verb]()
        check_error(caught, verb, 300)
        assert trio.current_time() == began + 300


async def test_client_timeouts_setting(autojump_clock: MockClock) -> None:
    timeouts = ClientTimeouts(mail=7, rcpt=0)
    assert ClientTimeouts().quit == 5
    async with scripted(*hello(), MAIL, NO_REPLY) as script, script.client(timeout=timeouts) as client:
        began = trio.current_time()
        with pytest.raises(TimedOutError) as caught:
            await client.mail(ME)
        check_error(caught, "MAIL", 7)
        assert trio.current_time() == began + 7


async def test_zero_means_no_limit(autojump_clock: MockClock) -> None:
    async def wait(_: Script) -> None:
        await trio.sleep(1e6)

    async with scripted(*hello(), "NOOP", wait, OK) as script:
        async with script.client(timeout=ClientTimeouts(other=0)) as client:
            assert (await client.noop()).code == 250


@pytest.mark.parametrize(("seconds", "quit"), [(3, 3), (60, 5)])
async def test_timeout_in_seconds_applies_to_all(autojump_clock: MockClock, seconds: float, quit: float) -> None:
    async with scripted(*hello(), *UNPIPELINED, "QUIT", NO_REPLY) as script:
        async with script.client(timeout=seconds) as client:
            await client.send(ME, [YOU], MESSAGE)
            began = trio.current_time()
        assert trio.current_time() == began + quit
    async with scripted(GREETING, "EHLO .*", NO_REPLY) as script:
        began = trio.current_time()
        with pytest.raises(TimedOutError):
            async with script.client(timeout=seconds):
                raise AssertionError("unreachable")
        assert trio.current_time() == began + seconds


async def test_immediate_replies_take_no_time(autojump_clock: MockClock) -> None:
    async with scripted(*BOTH, *CHUNKED) as script:
        began = trio.current_time()
        async with script.client() as client:
            assert isinstance(client, Client)
            await client.send(ME, [YOU], MESSAGE)
        assert trio.current_time() == began


# --- a message in one group with its envelope -------------------------------------------------------------------------


@pytest.mark.parametrize("delay", [299, 301, 599])
async def test_held_replies_may_take_as_long_as_that_to_the_message(autojump_clock: MockClock, delay: float) -> None:
    """RFC 2920 3.2: a server may hold back the replies to MAIL and RCPT until it has processed the message."""

    async def processing(script: Script) -> None:
        await trio.sleep(delay)

    async with scripted(*BOTH, *CHUNKED[:-1], processing, CHUNKED[-1]) as script, script.client() as client:
        assert (await client.send(ME, [YOU], MESSAGE)).complete


async def test_message_in_one_group_without_any_reply(autojump_clock: MockClock) -> None:
    async with scripted(*BOTH, MAIL, NO_REPLY) as script:
        began = trio.current_time()
        with pytest.raises(DeliveryUnknownError, match="MAIL: no reply within 600 s"):
            async with script.client() as client:
                await client.send(ME, [YOU], MESSAGE)
        assert trio.current_time() == began + 600


class SlowHooks(Hooks):
    """Each hook takes nearly as long as it may by default: 99 s, and the data hook 539 s altogether."""

    def __init__(self) -> None:
        self.errors: list[Exception] = []
        self.messages = 0

    async def message(self, session: Session, command: Command) -> None:
        if command.verb not in ("RSET", "DATA", "BDAT"):  # a client waits 20 s for RSET; the hooks of DATA share 100 s
            await trio.sleep(99)

    async def mail(self, session: Session, mail: Mail) -> None:
        await trio.sleep(99)

    async def rcpt(self, session: Session, rcpt: Rcpt) -> Reply | None:
        await trio.sleep(99)
        return Reply(550, "No such user") if rcpt.recipient.local == "nobody" else None

    async def data(self, session: Session, body: Body) -> None:
        await trio.sleep(90)
        await anext(body)
        await trio.sleep(9)
        await body.discard()
        await trio.sleep(440)
        self.messages += 1

    async def error(self, server: Server, error: Exception) -> None:
        self.errors.append(error)


@pytest.mark.parametrize("without", [(), ("CHUNKING",), ("PIPELINING",), ("CHUNKING", "PIPELINING")])
@pytest.mark.parametrize("size", [10, 1 << 17, 1 << 20])
@pytest.mark.parametrize("iterable", [False, True])
async def test_slow_hooks_with_the_default_timeouts(
    autojump_clock: MockClock, without: tuple[str, ...], size: int, iterable: bool
) -> None:
    """The defaults of client and server fit together, however the commands are grouped."""

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(2):
            yield b"x" * (size // 2)

    hooks = SlowHooks()
    extensions = [each for each in standard() if each.keyword not in without]
    server = Server(hooks, name="mx.test", extensions=extensions)
    recipients = [f"you{n}@mx.test" for n in range(5)]
    async with trio.open_nursery() as nursery, await memory_pair(nursery, server) as client:
        result = await client.send(ME, [*recipients, "nobody@mx.test"], pieces() if iterable else b"x" * size)
        assert [each.recipient for each in result.accepted] == recipients
        if not iterable:
            results = await client.send_many([(ME, recipients, b"x" * size)] * 3)
            assert all(each.complete for each in results)
    assert hooks.errors == []
    assert hooks.messages == (1 if iterable else 4)


class Scanner(Hooks):
    def __init__(self, *, shield: bool) -> None:
        self.shield = shield

    async def data(self, session: Session, body: Body) -> None:
        await body.read()
        with trio.CancelScope(shield=self.shield):  # as a thread that cannot be cancelled
            await trio.sleep(350)


@pytest.mark.parametrize("shield", [True, False])
@pytest.mark.parametrize("size", [10, 1 << 20])
async def test_data_hook_of_350_seconds_with_the_default_timeouts(
    autojump_clock: MockClock, shield: bool, size: int
) -> None:
    async with trio.open_nursery() as nursery, await memory_pair(nursery, Scanner(shield=shield)) as client:
        assert "CHUNKING" in client.offered
        for _ in range(2):
            assert (await client.send(ME, [YOU], b"x" * size)).complete
        results = await client.send_many([(ME, [YOU], b"x")] * 3)
        assert all(result.complete for result in results)
