"""`Body`: a message that the `data` hook reads, by DATA and by BDAT, and every way in which it can end."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from itertools import cycle
from typing import Any

import pytest
import trio
from helpers import MESSAGE, NAME, START, Client, Pair, RecordingHooks, connected, sockets, unbuffered
from trio.testing import MockClock, memory_stream_pair, wait_all_tasks_blocked

from smtp_trio import Body, BodyError, Limits, MessageState, Reply, Server, Session, Timeouts, standard
from smtp_trio.protocol import Command, Noop
from smtp_trio.protocol.extensions import BinaryMime

Data = Callable[[Session, Body], Awaitable[Any]]


def serving(data: Data | None = None, hooks: RecordingHooks | None = None, **settings: Any) -> Server:
    server = Server(hooks or RecordingHooks(), name=NAME, **settings)
    if data is not None:
        server.on(data=data)
    return server


class Reader:
    """A `data` hook that reads the message and records the result."""

    def __init__(self, reply: Reply | None = None, bug: Exception | None = None, *, swallow: bool = False) -> None:
        self.reply = reply
        self.bug = bug
        self.swallow = swallow
        self.error: BodyError | None = None
        self.body: Body | None = None
        self.session: Session | None = None

    async def __call__(self, session: Session, body: Body) -> Reply | None:
        self.session, self.body = session, body
        try:
            await body.read()
        except BodyError as error:
            self.error = error
            if self.bug is not None:
                raise self.bug from None
            if not self.swallow:
                raise
        return self.reply


# --- reading ----------------------------------------------------------------------------------------------------------


async def test_first_read_sends_354(autojump_clock: MockClock) -> None:
    begin = trio.Event()

    async def data(session: Session, body: Body) -> None:
        await begin.wait()
        assert (body.size, body.complete, body._reader.started) == (0, False, False)
        assert await anext(body) == MESSAGE
        assert body.size == len(MESSAGE)
        with pytest.raises(StopAsyncIteration):
            await anext(body)
        assert body.complete
        assert await body.read() == b""

    hooks = RecordingHooks()
    async with connected(serving(data, hooks)) as client:
        await client.open()
        await client.send(b"DATA\r\n")
        await wait_all_tasks_blocked()
        begin.set()
        assert await client.reply() == "354 End data with <CR><LF>.<CR><LF>"
        await client.send(MESSAGE + b".\r\n")
        await client.expect("250 2.0.0 Ok: queued as ")
        await client.quit()
    assert hooks.errors == []


async def test_refusal_before_the_first_read(autojump_clock: MockClock) -> None:
    """The refusal replaces the 354 and ends the transaction (RFC 5321 4.1.1.4). The next line is a command."""

    async def data(session: Session, body: Body) -> Reply:
        return Reply(554, "Not today", "5.7.1")

    async with connected(serving(data)) as client:
        await client.open()
        await client.command("DATA", "554 5.7.1 Not today")
        await client.command("DATA", "503 5.5.1")
        await client.command("MAIL FROM:<>", "250 2.1.0")
        await client.quit()


async def test_refusal_in_the_middle_drops_the_rest(autojump_clock: MockClock) -> None:
    """The refusal is sent after the end of the message."""
    pulled = []

    async def data(session: Session, body: Body) -> Reply:
        pulled.append(await anext(body))
        return Reply(550, "I have seen enough")

    async with connected(serving(data)) as client:
        await client.open()
        await client.command("DATA", "354")
        await client.send(b"one\r\n")
        await wait_all_tasks_blocked()
        await client.send(b"MAIL FROM:<x@y.test>\r\nbare\nnewline\r\n")
        await wait_all_tasks_blocked()
        assert client.replies[-1].startswith("354")
        await client.send(b".\r\n")
        await client.expect("550 5.7.1 I have seen enough")
        await client.deliver(MESSAGE, "550")
        await client.quit()
    assert pulled == [b"one\r\n", MESSAGE]


@pytest.mark.parametrize("reply", [None, Reply(250, "Thanks")])
async def test_data_hook_that_accepts_before_the_first_read(reply: Reply | None, autojump_clock: MockClock) -> None:
    """The 451 is sent in place of the 354, and the error names the hook."""

    async def reads_too_little(session: Session, body: Body) -> Reply | None:
        return reply

    hooks = RecordingHooks()
    async with connected(serving(reads_too_little, hooks)) as client:
        await client.open()
        await client.command("DATA", "451 4.3.0")
        await client.send(START + b"BDAT 5\r\nhelloBDAT 0 LAST\r\n")
        await client.expect("250 2.1.0", "250 2.1.5", "451 4.3.0", "503 5.5.1")
        await client.quit()
    assert len(hooks.errors) == 2
    assert "reads_too_little" in str(hooks.errors[0])
    assert "await body.discard()" in str(hooks.errors[0])


@pytest.mark.parametrize("reply", [None, Reply(250, "Thanks")])
async def test_data_hook_that_accepts_after_a_part_of_the_message(
    reply: Reply | None, autojump_clock: MockClock
) -> None:
    """The rest is dropped, and the 451 is sent after it."""

    async def reads_too_little(session: Session, body: Body) -> Reply | None:
        await anext(body)
        return reply

    hooks = RecordingHooks()
    async with connected(serving(reads_too_little, hooks)) as client:
        await client.open()
        await client.command("DATA", "354")
        await client.send(b"one\r\n")
        await trio.testing.wait_all_tasks_blocked()
        await client.send(b"two\r\n.\r\n")
        await client.expect("451 4.3.0")
        await client.quit()
    assert [type(error) for error in hooks.errors] == [RuntimeError]
    assert hooks.ended[0].last_message is MessageState.NOT_TAKEN


@pytest.mark.parametrize("reply", [None, Reply(250, "Thanks")])
@pytest.mark.parametrize("reads", [0, 1])
async def test_discard(reply: Reply | None, reads: int, autojump_clock: MockClock) -> None:
    async def data(session: Session, body: Body) -> Reply | None:
        for _ in range(reads):
            await anext(body)
        await body.discard()
        assert body.complete
        return reply

    hooks = RecordingHooks()
    async with connected(serving(data, hooks, size=1000)) as client:
        await client.hello()
        accepted = "250 2.0.0 Thanks" if reply else "250 2.0.0 Ok: queued as "
        await client.deliver(MESSAGE, accepted)
        # A message that cannot be accepted is refused all the same.
        await client.deliver(MESSAGE + b"bare\nnewline\r\n", "550 5.5.2")
        await client.deliver(MESSAGE * 99, "552 5.3.4")
        await client.deliver(MESSAGE, accepted)
        await client.send(START + b"BDAT 5\r\nhelloBDAT 6 LAST\r\nworld\r")
        await client.expect("250 2.1.0", "250 2.1.5", "250 2.0.0", "550 5.5.2")
        await client.send(START + b"BDAT 5\r\nhelloBDAT 7 LAST\r\nworld\r\n")
        await client.expect("250 2.1.0", "250 2.1.5", "250 2.0.0", accepted)
        await client.quit()
    assert hooks.errors == []


async def test_data_and_bdat_give_the_same_body(autojump_clock: MockClock) -> None:
    """One call of the hook for each message, with the content unchanged."""
    content = b".\r\n..\r\n.x\r\n\r\n.\r\nend\r\n"
    stuffed = b"..\r\n...\r\n..x\r\n\r\n..\r\nend\r\n"
    hooks = RecordingHooks()
    async with connected(serving(hooks=hooks)) as client:
        await client.hello()
        await client.deliver(stuffed)
        await client.send(START + b"BDAT %d LAST\r\n" % len(content) + content)
        await client.expect("250 2.1.0", "250 2.1.5", "250 2.0.0 Ok: queued as ")
        await client.send(START)
        await client.expect("250", "250")
        for octet in content:
            await client.send(b"BDAT 1\r\n" + bytes([octet]))
            await client.expect("250 2.0.0")
        await client.send(b"BDAT 0 LAST\r\n")
        await client.expect("250 2.0.0 Ok: queued as ")
        await client.quit()
    assert hooks.messages == [content] * 3


async def test_hooks_run_in_the_task_of_the_session(autojump_clock: MockClock) -> None:
    tasks = []

    class TaskRecorder(RecordingHooks):
        async def connect(self, session: Session) -> None:
            tasks.append(trio.lowlevel.current_task())

        async def data(self, session: Session, body: Body) -> None:
            tasks.append(trio.lowlevel.current_task())
            await body.discard()

    async with connected(Server(TaskRecorder(), name=NAME)) as client:
        await client.hello()
        await client.deliver()
    assert len(tasks) == 2
    assert tasks[0] is tasks[1]


async def test_body_read_by_a_child_task(autojump_clock: MockClock) -> None:
    pieces = []

    async def data(session: Session, body: Body) -> None:
        async def pull(to: trio.MemorySendChannel[bytes]) -> None:
            async with to:
                async for piece in body:
                    await to.send(piece)

        to, source = trio.open_memory_channel[bytes](0)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pull, to)
            pieces.extend([piece async for piece in source])
        assert body.complete

    async with connected(serving(data)) as client:
        await client.hello()
        await client.deliver(MESSAGE * 10000)
        await client.send(START + b"BDAT 5\r\nhelloNOOP\r\nBDAT 7 LAST\r\nworld\r\n")
        await client.expect("250 2.1.0", "250 2.1.5", "250 2.0.0", "250 2.0.0", "250 2.0.0 Ok: queued")
        await client.quit()
    assert b"".join(pieces) == MESSAGE * 10000 + b"helloworld\r\n"


class KeepsBody(RecordingHooks):
    """Hooks that read a body, in each later hook, which they kept from a `data` hook that replied ``reply``."""

    def __init__(self, reply: Reply | None, reads: int) -> None:
        super().__init__()
        self.reply, self.reads = reply, reads
        self.body: Body | None = None
        self.seen: list[str] = []

    async def data(self, session: Session, body: Body) -> Reply | None:
        self.body = None
        for _ in range(self.reads):
            async for _ in body:
                break
        self.body = body
        return self.reply

    async def read(self, *_: object) -> None:
        if self.body is not None:
            for read in (self.body.read, self.body.discard, self.body.__anext__):
                with pytest.raises(RuntimeError, match="cannot be read any more"):
                    await read()
            self.seen.append(self.body.envelope.id)


@pytest.mark.parametrize("bdat", [False, True])
@pytest.mark.parametrize(
    ("reply", "reads"),
    [(None, 9), (Reply(550), 9), (Reply(550), 0), (Reply(550), 1), (None, 0), (None, 1)],
    ids=["accepted", "refused", "refused unread", "refused half-way", "accepted unread", "accepted half-way"],
)
@pytest.mark.parametrize("pair", [memory_stream_pair, sockets])
async def test_body_is_read_after_its_hook_has_returned(
    reply: Reply | None, reads: int, bdat: bool, pair: Callable[[], Pair], autojump_clock: MockClock
) -> None:
    """It raises RuntimeError, and takes nothing from the client: each command gets its own reply."""
    hooks = KeepsBody(reply, reads)
    accepted = reply is None and reads == 9
    code = "250 2.0.0" if accepted else "550 5.7.1" if reply is not None else "451 4.3.0"
    server = serving(hooks=hooks)
    server.on(**dict.fromkeys(("helo", "mail", "rcpt", "message", "response", "reset"), hooks.read))
    async with connected(server, pair=pair) as client:
        await client.open()
        for _ in range(2):
            if bdat:
                await client.send(b"BDAT 7 LAST\r\nhe")
                await wait_all_tasks_blocked()
                await client.send(b"llo\r\n")
                await client.reply()
            else:
                await client.send(b"DATA\r\n")
                if (await client.reply()).startswith("354"):
                    await client.send(b"hello\r\n")
                    await wait_all_tasks_blocked()
                    await client.send(b".\r\n")
                    await client.reply()
            assert client.replies[-1].startswith(code)
            await client.command("EHLO again", f"250-{NAME}")
            await client.command("MAIL FROM:<a@client.test>", "250 2.1.0")
            await client.command("RCPT TO:<b@mx.test>", "250 2.1.5")
        await client.command("RSET", "250 2.0.0")
        await client.quit()
    assert len(hooks.seen) > 12
    assert len(hooks.errors) == (2 if reply is None and not accepted else 0)


async def test_not_reading_limits_what_the_client_can_send(autojump_clock: MockClock) -> None:
    """The client can send a bounded number of octets before the hook reads."""
    message = MESSAGE * 50000
    pull = trio.Semaphore(0)
    got: list[bytes] = []
    sessions = []

    async def data(session: Session, body: Body) -> None:
        sessions.append(session)
        async for piece in body:
            got.append(piece)
            await pull.acquire()

    async with connected(serving(data), pair=unbuffered) as client:
        await client.open()
        await client.command("DATA", "354")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.send, message + b".\r\n")
            for n in range(1, 6):
                await wait_all_tasks_blocked()
                assert len(got) == n
                assert sum(map(len, got)) + sessions[0].buffered <= n * 65536
                pull.release()
            while client.buffer == b"" and len(b"".join(got)) < len(message):
                await wait_all_tasks_blocked()
                pull.release()
            pull.release()
            await client.expect("250 2.0.0")
    assert b"".join(got) == message


# --- errors -----------------------------------------------------------------------------------------------------------


async def disconnect_at_once(client: Client) -> None:
    await trio.aclose_forcefully(client.stream)


async def close_writing(client: Client) -> None:
    assert isinstance(client.stream, trio.StapledStream)
    await client.stream.send_eof()
    await client.expect_end()


async def silence(client: Client) -> None:
    await client.expect("421 4.4.2")
    await client.expect_end()


def sends(octets: bytes, *answers: str) -> Callable[[Client], Awaitable[None]]:
    async def command(client: Client) -> None:
        await client.send(octets)
        await client.expect(*answers)
        await client.deliver() if not answers[-1].startswith("221") else await client.expect_end()

    return command


async def incomplete_chunk(client: Client) -> None:
    await client.send(b"BDAT 100 LAST\r\nnot a hundred")
    await close_writing(client)


DATA, BDAT = b"DATA\r\n", b"BDAT 7\r\nHello\r\n"
#: What may become of a message once it has begun, and whether that calls `reset`: an answer to the message itself does not.
ENDS = {
    "data-gone": (DATA, disconnect_at_once, True),
    "data-eof": (DATA, close_writing, True),
    "data-idle": (DATA, silence, True),
    "data-over-size": (DATA, sends(b"x\r\n" * 400 + b".\r\n", "552 5.3.4"), False),
    "data-bare-lf": (DATA, sends(b"a\nb\r\n.\r\n", "550 5.5.2 Message refused: bare LF"), False),
    "data-bare-cr": (DATA, sends(b"a\rb\r\n.\r\n", "550 5.5.2 Message refused: bare CR"), False),
    "data-loop": (DATA, sends(b"Received: x\r\n" * 9 + b"\r\n.\r\n", "554 5.4.6"), False),
    "bdat-gone": (BDAT, disconnect_at_once, True),
    "bdat-eof": (BDAT, close_writing, True),
    "bdat-idle": (BDAT, silence, True),
    "bdat-torn": (BDAT, incomplete_chunk, True),
    "bdat-over-size": (BDAT, sends(b"BDAT 1200 LAST\r\n" + b"x\r\n" * 400, "552 5.3.4"), False),
    "bdat-over-size-midway": (
        BDAT,
        sends(
            b"BDAT 1200\r\n" + b"x\r\n" * 400 + b"BDAT 3 LAST\r\nx\r\nRSET\r\n", "552 5.3.4", "503 5.5.1", "250 2.0.0"
        ),
        True,
    ),
    "bdat-bare-lf": (BDAT, sends(b"BDAT 3 LAST\r\na\nb", "550 5.5.2"), False),
    "bdat-rset": (BDAT, sends(b"RSET\r\n", "250 2.0.0"), True),
    "bdat-ehlo": (BDAT, sends(b"EHLO again.test\r\n", f"250-{NAME}"), True),
    "bdat-helo": (BDAT, sends(b"HELO again.test\r\n", f"250 {NAME}"), True),
    "bdat-quit": (BDAT, sends(b"QUIT\r\n", "221 2.0.0"), True),
}


@pytest.mark.parametrize(
    "reader",
    [
        Reader,
        lambda: Reader(swallow=True),
        lambda: Reader(Reply(250, "I have it"), swallow=True),
        lambda: Reader(Reply(452, "Full"), swallow=True),
        lambda: Reader(bug=RuntimeError("the secret is 42")),
    ],
    ids=["passes", "swallows", "accepts", "refuses", "fails"],
)
@pytest.mark.parametrize(("begin", "end", "lost"), ENDS.values(), ids=ENDS)
async def test_body_error(
    begin: bytes,
    end: Callable[[Client], Awaitable[None]],
    lost: bool,
    reader: Callable[[], Reader],
    autojump_clock: MockClock,
) -> None:
    """The read raises; the session sends the right reply whatever the hook does after that."""
    data = reader()
    hooks = RecordingHooks()
    resets = []

    async def first(session: Session, body: Body) -> Reply | None:
        if data.error is None:
            return await data(session, body)
        assert session.last_message is MessageState.NOT_TAKEN
        return await RecordingHooks.data(hooks, session, body)

    async def reset(session: Session) -> None:
        resets.append(session)

    server = serving(first, hooks, size=1000, limits=Limits(received=5))
    server.on(reset=reset)
    async with connected(server) as client:
        await client.open()
        await client.send(begin)
        await client.expect("354" if begin == DATA else "250 2.0.0")
        await end(client)

    assert data.error is not None
    assert data.body is not None
    assert not data.body.complete
    assert repr(data.body._reader.error) == repr(data.error)
    assert hooks.errors == ([data.bug] if data.bug else [])
    assert hooks.messages in ([], [MESSAGE])
    assert hooks.ended == hooks.sessions
    assert not any("secret" in reply for reply in client.replies)
    assert server.statistics().messages == len(hooks.messages)
    assert len(resets) == lost


async def test_every_read_raises_the_error_again(autojump_clock: MockClock) -> None:
    errors = []

    async def data(session: Session, body: Body) -> None:
        for _ in range(3):
            with pytest.raises(BodyError) as caught:
                await body.read()
            errors.append(caught.value)

    async with connected(serving(data)) as client:
        await client.hello()
        await client.deliver(b"\n\r\n", "550 5.5.2")
        await client.quit()
    assert len(set(errors)) == 1


@pytest.mark.parametrize("early", [False, True])
async def test_message_far_beyond_the_size(early: bool, autojump_clock: MockClock) -> None:
    """A message that exceeds the size is read to its end, up to a limit."""

    async def data(session: Session, body: Body) -> Reply | None:
        if early:
            await anext(body)
            return Reply(550, "Enough")
        await body.read()
        return None

    async with connected(serving(data, size=100)) as client:
        await client.open()
        await client.command("DATA", "354")
        await client.send(b"x" * 1200)
        await client.expect("421 4.3.2")
        await client.expect_end()


# --- between chunks ---------------------------------------------------------------------------------------------------


async def test_commands_between_chunks(autojump_clock: MockClock) -> None:
    """NOOP gets 250, commands that are out of order 503, and the message goes on."""
    asked = []
    hooks = RecordingHooks()

    async def message(session: Session, command: Command) -> Reply | None:
        asked.append(command.verb)
        return Reply(250, "Still here") if isinstance(command, Noop) else None

    server = serving(hooks=hooks)
    server.on(message=message)
    async with connected(server) as client:
        await client.open()
        asked.clear()
        await client.send(b"BDAT 5\r\nhello")
        await client.expect("250 2.0.0 Ok")
        await client.command("NOOP", "250 2.0.0 Still here")
        for line in ("MAIL FROM:<>", "RCPT TO:<a@b.test>", "DATA", "VRFY a", "HELP", "STARTTLS", "AUTH PLAIN"):
            await client.command(line, "50")
            assert client.replies[-1][:9] in ("503 5.5.1", "502 5.5.1")
        await client.command("NONSENSE", "500 5.5.1")
        await client.send(b"BDAT 0\r\nNOOP\r\nBDAT 8 LAST\r\n world\r")
        await client.expect("250 2.0.0 Ok", "250 2.0.0 Still here")
        await client.send(b"\n")
        await client.expect("250 2.0.0 Ok: queued as ")
        await client.quit()
    assert asked == ["BDAT", "NOOP", "BDAT", "NOOP", "BDAT", "QUIT"]
    assert hooks.messages == [b"hello world\r\n"]


async def test_too_many_errors_between_chunks(autojump_clock: MockClock) -> None:
    hooks = RecordingHooks()
    data = Reader()
    async with connected(serving(data, hooks)) as client:
        await client.open()
        await client.send(b"BDAT 5\r\nhello" + b"MAIL FROM:<a@b.test>\r\n" * 20)
        await client.expect("250 2.0.0", *["503 5.5.1"] * 19, "421 4.7.0")
        await client.expect_end()
    assert data.error is not None
    assert hooks.errors == []


async def test_message_hook_refuses_a_chunk(autojump_clock: MockClock) -> None:
    """The octets of the chunk are discarded, and so are those of later chunks until RSET (RFC 3030 2)."""
    data = Reader()
    chunks = 0

    async def message(session: Session, command: Command) -> Reply | None:
        nonlocal chunks
        chunks += command.verb == "BDAT"
        return Reply(452, "Full") if chunks == 2 and command.verb == "BDAT" else None

    hooks = RecordingHooks()
    server = serving(data, hooks)
    server.on(message=message)
    async with connected(server) as client:
        await client.open()
        await client.send(b"BDAT 6\r\nQUIT\r\nBDAT 6\r\nQUIT\r\nBDAT 6 LAST\r\nQUIT\r\nMAIL FROM:<>\r\nRSET\r\n")
        await client.expect("250 2.0.0", "452 4.3.1 Full", "503 5.5.1", "503 5.5.1", "250 2.0.0")
        await client.deliver()
        await client.quit()
    assert data.body is not None
    assert data.body.complete
    assert hooks.errors == []


@pytest.mark.parametrize("last", [b"", b" LAST"])
async def test_data_hook_refuses_in_the_middle_of_a_chunk(last: bytes, autojump_clock: MockClock) -> None:
    """After a refused chunk only RSET, EHLO and QUIT are valid (RFC 3030 2). A refused LAST ends the message."""

    async def data(session: Session, body: Body) -> Reply:
        await anext(body)
        return Reply(550, "No")

    async with connected(serving(data)) as client:
        await client.open()
        await client.send(b"BDAT 12" + last + b"\r\nhello")
        await wait_all_tasks_blocked()
        await client.send(b" QUIT\r\n")
        await client.expect("550 5.7.1 No")
        if not last:
            await client.command("MAIL FROM:<>", "503 5.5.1")
            await client.command("BDAT 4 LAST\r\nab", "503 5.5.1")
            await client.command("NOOP", "250 2.0.0")
            await client.command("RSET", "250 2.0.0")
        await client.command("MAIL FROM:<>", "250 2.1.0")
        await client.quit()


async def test_data_hook_refuses_after_a_chunk(autojump_clock: MockClock) -> None:
    """The hook has read a whole chunk and refuses before it reads again: the refusal is the reply to that chunk."""

    async def data(session: Session, body: Body) -> Reply:
        await anext(body)
        return Reply(550, "No")

    async with connected(serving(data)) as client:
        await client.open()
        await client.send(b"BDAT 7\r\nhello\r\nBDAT 7 LAST\r\nworld\r\nRSET\r\n")
        await client.expect("550 5.7.1", "503 5.5.1", "250 2.0.0")
        await client.quit()


@pytest.mark.parametrize("line", ["RSET", "EHLO b.test", "HELO b.test", "QUIT"])
async def test_command_that_ends_a_message_is_carried_out_after_the_hook(line: str, autojump_clock: MockClock) -> None:
    order: list[str] = []

    async def data(session: Session, body: Body) -> None:
        try:
            await body.read()
        except BodyError:
            assert session.last_message is MessageState.NOT_TAKEN
            await trio.sleep(1)
            order.append("data has ended")
            raise

    async def message(session: Session, command: Command) -> None:
        order.append(command.verb)

    async def reset(session: Session) -> None:
        order.append("reset")

    server = serving(data)
    server.on(message=message, reset=reset)
    async with connected(server) as client:
        await client.open()
        order.clear()
        await client.send(b"BDAT 5\r\nhello" + line.encode() + b"\r\n")
        await client.expect("250", "2")
    assert order == ["BDAT", "data has ended", line.split()[0], "reset"]


# --- cancelled reads --------------------------------------------------------------------------------------------------


async def test_hook_cancels_its_own_read(autojump_clock: MockClock) -> None:
    """A cancelled read loses nothing of the message."""
    pieces: list[bytes] = []

    async def data(session: Session, body: Body) -> None:
        while not body.complete:
            with trio.move_on_after(10):
                async for piece in body:
                    pieces.append(piece)  # noqa: PERF401  # not a comprehension: parts read before the cancellation are kept

    hooks = RecordingHooks()
    async with connected(serving(data, hooks, limits=Limits(data_rate=0))) as client:
        await client.open()
        await client.command("DATA", "354")
        for n in range(10):
            await trio.sleep(7 * n)
            await client.send(b"line %d\r\n" % n)
        await client.send(b".\r\n")
        await client.expect("250 2.0.0")
        await client.quit()
    assert b"".join(pieces) == b"".join(b"line %d\r\n" % n for n in range(10))
    assert hooks.errors == []


async def test_hook_cancels_its_own_read_and_refuses(autojump_clock: MockClock) -> None:
    async def data(session: Session, body: Body) -> Reply | None:
        with trio.move_on_after(10):
            await body.read()
            return None
        return Reply(451, "Too slow for me", "4.4.2")

    async with connected(serving(data)) as client:
        await client.open()
        await client.command("DATA", "354")
        await trio.sleep(20)
        await client.send(MESSAGE + b".\r\n")
        await client.expect("451 4.4.2 Too slow for me")
        await client.deliver()
        await client.quit()


async def test_hook_timeout_after_a_cancelled_read(autojump_clock: MockClock) -> None:
    """The clock of the hook runs again after a cancelled read."""

    async def data(session: Session, body: Body) -> None:
        for _ in range(3):
            with trio.move_on_after(50):
                await body.read()
        await trio.sleep_forever()

    hooks = RecordingHooks()
    async with connected(serving(data, hooks)) as client:
        await client.open()
        await client.command("DATA", "354")
        await trio.sleep(200)
        await client.send(MESSAGE + b".\r\n")
        await client.expect("451 4.3.0")
        assert trio.current_time() == 150 + 100
        await client.quit()
    assert [type(error) for error in hooks.errors] == [trio.TooSlowError]


@pytest.mark.parametrize("silence", [0, 0.5, 0.999, 1, 1.001, 1.999, 2, 5, 9.999, 10, 11, 179, 179.999])
@pytest.mark.parametrize("work", [0, 0.005, 7.9, 8, 8.001, 8.9, 9, 9.001, 9.999])
async def test_silence_of_the_client_does_not_count_for_the_hook_timeout(
    silence: float, work: float, autojump_clock: MockClock
) -> None:
    """Whatever the hook has used of its time before it waits for the client, and however long that takes."""

    async def data(session: Session, body: Body) -> None:
        async for _ in body:
            await trio.sleep(work)

    hooks = RecordingHooks()
    settings = {"timeout": Timeouts(hook=10), "limits": Limits(data_rate=0)}
    async with connected(serving(data, hooks, **settings)) as client:
        await client.open()
        await client.command("DATA", "354")
        for _ in range(3):
            await trio.sleep(silence)
            await client.send(b"A line\r\n")
        await client.send(b".\r\n")
        await client.expect("250 2.0.0")
    assert hooks.errors == []


async def test_writing_does_not_count_for_the_hook_timeout(autojump_clock: MockClock) -> None:
    """A client that reads the 354 late does not use up the time of the hook."""
    hooks = RecordingHooks()
    async with connected(serving(hooks=hooks, timeout=Timeouts(hook=10)), pair=unbuffered) as client:
        await client.open()
        await client.send(b"DATA\r\n")
        await trio.sleep(200)
        await client.expect("354")
        await client.send(MESSAGE + b".\r\n")
        await client.expect("250 2.0.0")
    assert hooks.errors == []


@pytest.mark.parametrize("hook", ["response", "message"])
async def test_read_is_cancelled_while_it_calls_another_hook(hook: str, autojump_clock: MockClock) -> None:
    """Every command gets its reply, although the read that sends it was cancelled."""

    async def slow(session: Session, _: object) -> None:
        await trio.sleep(3)

    async def data(session: Session, body: Body) -> None:
        for seconds in cycle((1, 2, 5)):
            with trio.move_on_after(seconds):
                await anext(body, None)
            if body.complete:
                return

    hooks = RecordingHooks()
    server = serving(data, hooks)
    server.on(**{hook: slow})
    async with connected(server) as client:
        await client.open()
        await client.send(b"DATA\r\n")
        await client.expect("354")
        await client.send(MESSAGE + b".\r\n")
        await client.expect("250 2.0.0")
        await client.send(START)
        await client.expect("250", "250")
        await client.send(b"BDAT 7\r\nhello\r\nNOOP\r\nNONSENSE\r\nBDAT 0\r\nBDAT 7 LAST\r\nworld\r\n")
        await client.expect("250", "250", "500", "250", "250 2.0.0 Ok: queued as")
        await client.quit()
    assert hooks.errors == []


# --- sizes and newlines -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("declared", ["", " SIZE=5"])
async def test_size_is_counted_without_the_added_dots(declared: str, autojump_clock: MockClock) -> None:
    """The limit itself is accepted, one octet more is not (RFC 1870 6); the declared size does not matter."""
    content = b".\r\n" * 40
    hooks = RecordingHooks()
    async with connected(serving(hooks=hooks, size=len(content))) as client:
        await client.hello()
        for extra, reply in ((b"", "250 2.0.0"), (b"\r\n", "552 5.3.4")):
            await client.command(f"MAIL FROM:<a@b.test>{declared}", "250")
            await client.command("RCPT TO:<a@b.test>", "250")
            await client.command("DATA", "354")
            await client.send(b"..\r\n" * 40 + extra + b".\r\n")
            await client.expect(reply)
    assert hooks.messages == [content]


async def test_read_is_bounded_by_the_size(autojump_clock: MockClock) -> None:
    data = Reader()
    async with connected(serving(data, size=1000)) as client:
        await client.open()
        await client.command("DATA", "354")
        await client.send(b"x" * 998 + b"\r\n")
        await wait_all_tasks_blocked()
        assert data.body is not None
        assert data.body.size == 1000
        assert data.error is None
        await client.send(b"y")
        await wait_all_tasks_blocked()
        assert data.error is not None
        await client.send(b"\r\n.\r\n")
        await client.expect("552 5.3.4")


async def test_normalized_and_preserved_newlines(autojump_clock: MockClock) -> None:
    for newlines, content in (("normalize", b"a\r\nb\r\nc\r\n"), ("preserve", b"a\nb\rc\r\n")):
        hooks = RecordingHooks()
        async with connected(serving(hooks=hooks, newlines=newlines)) as client:
            await client.hello()
            await client.deliver(b"a\nb\rc\r\n")
        assert hooks.messages == [content]


async def test_binarymime_is_not_changed(autojump_clock: MockClock) -> None:
    hooks = RecordingHooks()
    octets = bytes(range(256)) + b"\r\n.\r\n"
    async with connected(serving(hooks=hooks, extensions=standard(BinaryMime()))) as client:
        await client.hello()
        await client.send(b"MAIL FROM:<> BODY=BINARYMIME\r\nRCPT TO:<a@b.test>\r\nDATA\r\n")
        await client.expect("250", "250", "503 5.5.1")
        await client.send(b"BDAT 100\r\n" + octets[:100] + b"BDAT %d LAST\r\n" % (len(octets) - 100) + octets[100:])
        await client.expect("250", "250 2.0.0 Ok: queued")
    assert hooks.messages == [octets]


@pytest.mark.parametrize("pair", [memory_stream_pair, sockets])
async def test_no_data_hook_and_a_slow_chunk(pair: Callable[[], Pair], autojump_clock: MockClock) -> None:
    """The octets of a refused chunk are discarded, however slowly they arrive."""
    server = Server(name=NAME, timeout=Timeouts(command=300, block=180))
    async with connected(server, pair=pair) as client:
        await client.hello()
        await trio.sleep(200)
        await client.send(START + b"BDAT 10 LAST\r\nhello")
        await client.expect("250", "250")
        await trio.sleep(150)
        await client.send(b"world")
        await client.expect("554 5.3.0")
        await client.quit()


@pytest.mark.parametrize("times", [1, 2])
async def test_hook_that_closes_the_stream(times: int) -> None:
    """The next read raises BodyError."""
    ends: list[BaseException] = []

    async def data(session: Session, body: Body) -> None:
        for _ in range(times):
            await anext(body)
        await trio.aclose_forcefully(session.stream)
        try:
            await anext(body)
        except BodyError as error:
            ends.append(error)
            raise

    async with connected(serving(data), pair=sockets) as client:
        await client.open()
        await client.command("DATA", "354")
        for _ in range(times):
            await client.send(b"x\r\n")
            await wait_all_tasks_blocked()
        await client.expect_end()
    assert len(ends) == 1


async def test_hook_that_reads_slowly_slows_the_client_down(autojump_clock: MockClock) -> None:
    class Slow(RecordingHooks):
        async def data(self, session: Session, body: Body) -> Reply | None:
            async for _ in body:
                await trio.sleep(10)
            return None

    async with connected(Server(Slow(), name=NAME), pair=unbuffered) as client:
        await client.open()
        await client.command("DATA", "354")
        began = trio.current_time()
        for _ in range(20):
            await client.send(b"x" * 70000)
        assert trio.current_time() - began >= 190
        await client.send(b"\r\n.\r\n")
        await client.expect("250 2.0.0")
