"""Fault scripts: each rule does what it says, to the second and to the octet, and the server's state is what the server said."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from helpers import NAME, client_tls, server_tls
from trio.testing import MockClock

import smtp_trio.testing
from smtp_trio import (
    BodyError,
    Client,
    ConnectionLost,
    DeliveryUnknown,
    Hooks,
    MessageState,
    NobodyAccepted,
    Refused,
    RemoteProtocolError,
    Reply,
    Server,
    Session,
    SMTPError,
    TimedOut,
    standard,
)
from smtp_trio.protocol.extensions import Auth
from smtp_trio.testing import (
    Answer,
    Close,
    Delay,
    Drop,
    Early,
    Extra,
    Faults,
    FaultyStream,
    Garbage,
    Hang,
    Ignore,
    Inbox,
    Instead,
    Lie,
    Pace,
    Reset,
    Rule,
    Sometimes,
    Together,
    Transcript,
    Trickle,
    bounded_stream_pair,
    fixed_doors,
    memory_pair,
)

ME, YOU = "me@client.test", "you@mx.test"
MANY = [f"{name}@mx.test" for name in "abcde"]
MESSAGE = b"Subject: hi\r\n\r\n" + b"hello\r\n" * 10
#: No extension that would put several things into one segment.
SLOWLY = (Drop("CHUNKING"), Drop("PIPELINING"))


class Watched(Inbox):
    """Keeps what became of each session, and whatever failed."""

    def __init__(self) -> None:
        super().__init__()
        self.states: list[MessageState | None] = []
        self.torn: list[BodyError] = []
        self.errors: list[Exception] = []

    async def data(self, session: Session, body: Any) -> Reply | None:
        try:
            return await super().data(session, body)
        except BodyError as exc:
            self.torn.append(exc)
            raise

    async def disconnect(self, session: Session) -> None:
        self.states.append(session.last_message)
        await super().disconnect(session)

    async def error(self, server: Server, error: Exception) -> None:
        self.errors.append(error)


@asynccontextmanager
async def played(
    faults: Faults, hooks: Hooks | Server, transcript: Transcript | None = None, **settings: Any
) -> AsyncGenerator[Client]:
    """A client and a session with these faults; both must end of themselves."""
    async with trio.open_nursery() as nursery:
        client = await memory_pair(nursery, hooks, faults=faults, transcript=transcript, **settings)
        try:
            yield client
        finally:
            await client.talk.close()


async def send(
    *rules: Rule | Sometimes, hooks: Inbox | None = None, **settings: Any
) -> tuple[Watched, Transcript, Any]:
    """Send one message to many; what the server kept, what was said, and the result or the error."""
    inbox = Watched() if hooks is None else hooks
    assert isinstance(inbox, Watched)
    transcript = Transcript()
    result: Any = None
    async with played(Faults(*rules), inbox, transcript, **settings) as client:
        try:
            async with client:
                result = await client.send(ME, MANY, MESSAGE)
        except SMTPError as exc:
            result = exc
    assert inbox.errors == []
    return inbox, transcript, result


def said(transcript: Transcript, side: str) -> bytes:
    """All that one side said."""
    return b"".join(segments(transcript, side))


def segments(transcript: Transcript, side: str) -> list[bytes]:
    """What one side said, as it came."""
    return [entry.data for entry in transcript.entries if entry.side == side and entry.data]


# --- data -------------------------------------------------------------------------------------------------------------

RULES: list[Rule | Sometimes] = [
    Answer("RCPT", 450, "later", nth=3),
    Answer(".", 451, status="4.3.0", times=0),
    Delay("DATA", 100),
    Close("body", after=4096),
    Reset(".", after=1, by="client"),
    Together(),
    Together(3, within=2),
    Trickle(),
    Trickle(2, 0.5, "EHLO", times=1),
    Pace(300),
    Drop("STARTTLS"),
    Lie("SIZE", 10),
    Hang("CONNECT"),
    Instead("RCPT", b"\xff\r\n"),
    Extra("MAIL", b"250 what\r\n", nth=2),
    Garbage("MAIL", 3),
    Early("DATA"),
    Ignore("RCPT", times=0),
    Sometimes(Answer("RCPT", 450, times=0), 0.25),
]


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_a_rule_is_python(rule: Rule | Sometimes) -> None:
    """What prints can be pasted into a test."""
    names = vars(smtp_trio.testing)
    assert eval(repr(rule), dict(names)) == rule
    script = Faults(rule, Drop("X"), seed=3)
    assert eval(repr(script), dict(names)) == script
    assert hash(script) == hash(script.again())
    assert Faults(rule) != Faults(rule, seed=3)


def test_a_rule_is_short() -> None:
    assert repr(Answer("rcpt", 450, nth=3)) == "Answer('RCPT', 450, nth=3)"
    assert repr(Close("body", after=4096, by="client")) == "Close('body', by='client', after=4096)"
    assert repr(Faults()) == "Faults()"


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Answer("RCPT", 250),
        lambda: Answer("RCPT", 354),
        lambda: Answer("NOOP", 450),
        lambda: Answer("*", 450),
        lambda: Answer("RCPT", 450, nth=0),
        lambda: Answer("RCPT", 450, times=-1),
        lambda: Delay("RCPT", -1),
        lambda: Trickle(0),
        lambda: Pace(0),
        lambda: Close("body", after=-1),
        lambda: Sometimes(Drop("SIZE"), 1.5),
    ],
)
def test_what_is_no_rule(wrong: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match=r"than nothing|no refusal|a chance"):
        wrong()


# --- what a server decides -----------------------------------------------------------------------------------------------


async def test_the_third_recipient_once(autojump_clock: MockClock) -> None:
    inbox, _, result = await send(Answer("RCPT", 450, "later", nth=3))
    assert [each.recipient for each in result.rejected] == [MANY[2]]
    # The session knows what it said: that recipient has no mail from it.
    assert list(inbox[0].recipients) == MANY[:2] + MANY[3:]


async def test_a_refused_sender_opens_no_transaction(autojump_clock: MockClock) -> None:
    inbox, transcript, result = await send(Answer("MAIL", 451), *SLOWLY)
    assert isinstance(result, Refused)
    assert len(inbox) == 0
    assert b"RCPT" not in said(transcript, "C")


@pytest.mark.parametrize("chunking", [True, False])
async def test_an_answer_to_the_message_is_given_to_nobody(autojump_clock: MockClock, chunking: bool) -> None:
    """The message is read, refused, and not kept: whoever sends it again does not send it twice."""
    inbox, _, result = await send(Answer(".", 452), *(() if chunking else SLOWLY))
    assert isinstance(result, NobodyAccepted)
    assert result.reply.code == 452
    assert len(inbox) == 0
    assert inbox.states == [MessageState.NOT_TAKEN]


@pytest.mark.parametrize("at", ["CONNECT", "EHLO", "MAIL", "RCPT", "DATA", "."])
async def test_421_ends_the_session(autojump_clock: MockClock, at: str) -> None:
    inbox, transcript, _ = await send(Answer(at, 421), *SLOWLY)
    assert len(inbox) == 0
    assert segments(transcript, "S")[-1].startswith(b"421")


class Guarded(Watched):
    """Lets fred in."""

    async def auth(self, session: Session, credentials: Any) -> Reply | None:
        return None if credentials.user == "fred" else Reply(535, "No")


async def test_auth_is_refused_twice(autojump_clock: MockClock) -> None:
    """… over three connections: what a script has done it has done to whoever comes."""
    faults, hooks = Faults(Answer("AUTH", 535, times=2)), Guarded()
    server = Server(hooks, name="mx.test", extensions=standard(Auth(cleartext=True)), **fixed_doors())
    codes: list[int] = []
    for _ in range(3):
        async with played(faults, server, auth=("fred", "secret"), tls="never", allow_cleartext=True) as client:
            try:
                async with client:
                    assert client.user == "fred"
            except Refused as exc:
                codes.append(exc.reply.code)
    assert codes == [535, 535]


async def test_a_server_of_ones_own_is_as_it_was(autojump_clock: MockClock) -> None:
    """Rules decide in the sessions that they were meant for, and in no others."""
    server = Server(Watched(), name="mx.test", **fixed_doors())
    rules = Faults(Answer("MAIL", 451, times=0))
    async with played(rules, server) as client, client:
        with pytest.raises(Refused):
            await client.mail(ME)
    for faults in (Faults(), Faults(Answer("NOOP", 421))):
        async with played(faults, server) as client, client:
            await client.mail(ME)


async def test_hooks_alone_are_enough(autojump_clock: MockClock) -> None:
    """A server with these hooks has all the faults, on its octets too."""
    faults = Faults(Drop("CHUNKING"), Answer("RCPT", 450), Lie("SIZE", 7))
    near, far = bounded_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(Server(faults.hooks(Watched()), name="mx.test").serve_stream, far)
        async with Client(near, name="client.test") as client:
            assert "CHUNKING" not in client.capabilities
            assert client.capabilities["SIZE"] == ("7",)
            await client.mail(ME)
            with pytest.raises(Refused, match="450"):
                await client.rcpt(YOU)


async def test_what_the_hooks_offer_is_offered() -> None:
    """A layer brings no AUTH, and takes none away."""
    assert not {"auth", "expn", "secret"} & set(Server(Faults().hooks(Watched())).installed)
    assert "auth" in Server(Faults().hooks(Guarded())).installed


async def test_anothers_server(autojump_clock: MockClock) -> None:
    """Where no hook of ours decides, the rules are played on the octets."""
    near, far = bounded_stream_pair()
    stream = Faults(Answer("RCPT", 450, "later"), Delay("MAIL", 60)).wrap(far, side="server")

    async def server() -> None:
        await stream.send_all(b"220 mx\r\n")
        while line := await stream.receive_some():
            await stream.send_all(b"221 bye\r\n" if line == b"QUIT\r\n" else b"250 ok\r\n")
        await stream.aclose()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(server)
        async with Client(near, name="client.test") as client:
            await client.mail(ME)
            assert trio.current_time() == 60
            with pytest.raises(Refused, match="450"):
                await client.rcpt(YOU)
            await client.rcpt(YOU)


# --- time ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("at", "seconds"), [("CONNECT", 299), ("EHLO", 299), ("MAIL", 299), ("RCPT", 299), ("DATA", 119), (".", 599)]
)
async def test_delays(autojump_clock: MockClock, at: str, seconds: float) -> None:
    """Just within the client's patience: a hook may be cut off sooner, a fault is not."""
    inbox, _, result = await send(Delay(at, seconds), *SLOWLY)
    assert result.complete
    assert len(inbox) == 1
    assert trio.current_time() == seconds
    assert inbox.states == [MessageState.ACKNOWLEDGED]


@pytest.mark.parametrize(("at", "verb", "seconds"), [("MAIL", "MAIL", 300), ("DATA", "DATA", 120)])
async def test_a_delay_that_is_too_long(autojump_clock: MockClock, at: str, verb: str, seconds: float) -> None:
    inbox, _, result = await send(Delay(at, seconds + 1), *SLOWLY)
    assert isinstance(result, TimedOut)
    assert result.command.verb == verb
    assert len(inbox) == 0


async def test_hanging_with_the_message(autojump_clock: MockClock) -> None:
    """RFC 1047: the server has it, and the client will never know."""
    inbox, _, result = await send(Hang("."), *SLOWLY)
    assert isinstance(result, DeliveryUnknown)
    assert trio.current_time() == 600
    assert len(inbox) == 1
    assert inbox.states == [MessageState.UNACKNOWLEDGED]


async def test_a_client_that_hangs(autojump_clock: MockClock) -> None:
    """The server waits for three minutes, as RFC 5321 4.5.3.2.5 has it, and keeps nothing."""
    inbox, _, _ = await send(Hang("body", by="client"), *SLOWLY, timeout=0)
    assert trio.current_time() == 180
    assert len(inbox) == 0
    assert len(inbox.torn) == 1


async def test_pace(autojump_clock: MockClock) -> None:
    """A slow server reads slowly, too."""
    inbox, transcript, result = await send(Pace(10), *SLOWLY)
    assert result.complete
    octets = len(said(transcript, "C")) + len(said(transcript, "S"))
    assert trio.current_time() == pytest.approx(octets / 10, abs=2)
    assert len(inbox) == 1


async def test_a_slow_client(autojump_clock: MockClock) -> None:
    inbox, transcript, result = await send(Pace(10, by="client"), *SLOWLY)
    assert result.complete
    assert len(inbox) == 1
    assert max(map(len, segments(transcript, "C"))) == 10


async def test_trickle(autojump_clock: MockClock) -> None:
    """A reply an octet at a time."""
    _, transcript, result = await send(Trickle(at="EHLO"), Trickle(3, by="client", at="body"), *SLOWLY)
    assert result.complete
    assert [len(each) for each in segments(transcript, "S")].count(1) > 50
    assert max(len(each) for each in segments(transcript, "C") if b"hel" in each) <= 3


async def test_two_replies_in_one_segment(autojump_clock: MockClock) -> None:
    """A client that does not wait gets its replies by twos."""
    rules = (Together(2), Drop("CHUNKING"), Drop("PIPELINING"), Early("*", times=0))
    _, transcript, _ = await send(*rules)
    assert segments(transcript, "S") == []  # it had left before anything was said
    near, far = bounded_stream_pair()
    stream = Faults(Together(2, within=5)).wrap(far, side="server")
    await stream.send_all(b"220 mx\r\n")
    with trio.move_on_after(1):
        await stream.receive_some()
    await stream.send_all(b"421 bye\r\n")
    assert await near.receive_some() == b"220 mx\r\n421 bye\r\n"
    # … and one that nobody joins leaves when it has waited for long enough.
    await stream.send_all(b"250 a\r\n")
    with trio.move_on_after(6):
        await stream.receive_some()
    assert await near.receive_some() == b"250 a\r\n"
    await stream.send_all(b"250 b\r\n")
    await stream.aclose()
    assert await near.receive_some() == b"250 b\r\n"


# --- the connection -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("after", [0, 1, 20, len(MESSAGE)])
@pytest.mark.parametrize("rule", [Close, Reset])
async def test_a_client_that_goes_in_the_body(autojump_clock: MockClock, rule: type[Close], after: int) -> None:
    inbox, transcript, result = await send(rule("body", after=after, by="client"), *SLOWLY)
    assert isinstance(result, ConnectionLost)
    assert said(transcript, "C").partition(b"DATA\r\n")[2] == MESSAGE[:after]
    assert len(inbox) == 0
    assert len(inbox.torn) == 1
    assert inbox.states == [MessageState.NOT_TAKEN]


@pytest.mark.parametrize("after", [0, 1, 2])
async def test_a_client_that_goes_in_the_dot(autojump_clock: MockClock, after: int) -> None:
    """Between the dot and its CRLF the message is not over."""
    inbox, transcript, _ = await send(Reset(".", after=after, by="client"), *SLOWLY)
    assert said(transcript, "C").endswith(MESSAGE + b".\r\n"[:after])
    assert (len(inbox), len(inbox.torn)) == (0, 1)


async def test_a_client_that_goes_behind_the_dot(autojump_clock: MockClock) -> None:
    inbox, _, _ = await send(Close(".", after=3, by="client"), *SLOWLY)
    assert (len(inbox), len(inbox.torn)) == (1, 0)


async def test_a_body_in_chunks_is_a_body(autojump_clock: MockClock) -> None:
    inbox, transcript, _ = await send(Close("body", after=30, by="client"))
    assert said(transcript, "C").endswith(b"LAST\r\n" + MESSAGE[:30])
    assert (len(inbox), len(inbox.torn)) == (0, 1)


@pytest.mark.parametrize("after", [0, 30])
async def test_a_server_that_goes_in_the_body(autojump_clock: MockClock, after: int) -> None:
    inbox, _, result = await send(Close("body", after=after), *SLOWLY)
    assert isinstance(result, SMTPError)
    assert (len(inbox), len(inbox.torn)) == (0, 1)


async def test_a_server_that_goes_before_its_last_word(autojump_clock: MockClock) -> None:
    """RFC 1047 again, and this time by a reset."""
    inbox, _, result = await send(Reset(".", after=5), *SLOWLY)
    assert isinstance(result, DeliveryUnknown)
    assert len(inbox) == 1
    assert inbox.states == [MessageState.UNACKNOWLEDGED]


async def test_a_reset_is_no_end() -> None:
    """… in memory, and over a socket."""
    near, far = bounded_stream_pair()
    with pytest.raises(trio.BrokenResourceError, match="a fault"):
        await Faults(Reset("CONNECT", after=3)).wrap(far, side="server").send_all(b"220 mx\r\n")
    with pytest.raises(trio.BrokenResourceError):
        await near.receive_some()
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        ours = await trio.open_tcp_stream("127.0.0.1", listener.socket.getsockname()[1])
        theirs = await listener.accept()
        with pytest.raises(trio.BrokenResourceError):
            await Faults(Reset("CONNECT", after=3)).wrap(theirs, side="server").send_all(b"220 mx\r\n")
        with pytest.raises(trio.BrokenResourceError):
            while await ours.receive_some():
                pass
        await ours.aclose()


# --- other words ----------------------------------------------------------------------------------------------------------------


async def test_wrong_words(autojump_clock: MockClock) -> None:
    for rule in (Instead("MAIL", b"354 go on\r\n"), Garbage("MAIL"), Instead("MAIL", b"250-half\r\n220 other\r\n")):
        _, _, result = await send(rule, *SLOWLY)
        assert isinstance(result, RemoteProtocolError), rule


async def test_words_in_addition(autojump_clock: MockClock) -> None:
    """A reply that nobody asked for is not taken for the answer to what comes next."""
    inbox, _, result = await send(Extra("MAIL", b"250 what\r\n"), *SLOWLY)
    assert isinstance(result, ConnectionLost | RemoteProtocolError)
    assert len(inbox) == 0


async def test_the_seed_decides_on_garbage() -> None:
    async def garbage(seed: int) -> bytes:
        near, far = bounded_stream_pair()
        await Faults(Garbage("CONNECT"), seed=seed).wrap(far, side="server").send_all(b"220 mx\r\n")
        return await near.receive_some()

    assert await garbage(1) == await garbage(1) != await garbage(2)
    assert (await garbage(1)).endswith(b"\r\n")


async def test_lies(autojump_clock: MockClock) -> None:
    async with played(Faults(Lie("SIZE", 10), Lie("X-NEW"), Drop("help")), Watched()) as client, client:
        assert client.capabilities["SIZE"] == ("10",)
        assert "X-NEW" in client.capabilities
        assert "HELP" not in client.capabilities
        with pytest.raises(Refused, match="the server takes 10"):
            await client.send(ME, [YOU], MESSAGE)


# --- a client that does not listen ---------------------------------------------------------------------------------------------


async def test_a_refusal_is_ignored(autojump_clock: MockClock) -> None:
    """The server stays by what it said: the body of a message that was refused is no message."""
    inbox, transcript, _ = await send(Answer("DATA", 451), Ignore("DATA"), *SLOWLY)
    assert b"\r\n.\r\n" in said(transcript, "C")
    assert len(inbox) == 0


async def test_ignoring_what_was_accepted_changes_nothing(autojump_clock: MockClock) -> None:
    inbox, _, result = await send(Ignore("*", times=0), *SLOWLY)
    assert result.complete
    assert len(inbox) == 1


async def test_talking_early(autojump_clock: MockClock) -> None:
    """The body is there before the 354, and the greeting after the EHLO."""
    inbox, transcript, result = await send(Early("CONNECT"), Early("DATA"), Drop("CHUNKING"), Delay("DATA", 9))
    assert result.complete
    assert len(inbox) == 1
    words = [(entry.side, entry.data) for entry in transcript.entries if entry.data]
    assert words[0] == ("C", b"EHLO client.test\r\n")
    texts = [data for _, data in words]
    start = next(at for at, data in enumerate(texts) if data.startswith(b"354"))
    assert any(data.endswith(b".\r\n") for data in texts[:start])


# --- chance -----------------------------------------------------------------------------------------------------------------------


async def test_chance_is_the_seeds(autojump_clock: MockClock) -> None:
    async def refused(seed: int) -> list[str]:
        faults = Faults(Sometimes(Answer("RCPT", 450, times=0)), seed=seed)
        async with played(faults, Watched()) as client, client:
            try:
                return [each.recipient for each in (await client.send(ME, MANY, MESSAGE)).rejected]
            except NobodyAccepted:
                return MANY

    runs = [await refused(seed) for seed in range(6)]
    assert [await refused(seed) for seed in range(6)] == runs
    assert len({tuple(run) for run in runs}) > 2


async def test_chance_at_its_ends(autojump_clock: MockClock) -> None:
    for chance, count in ((0, 5), (1, 0)):
        inbox, _, _ = await send(Sometimes(Answer("RCPT", 450, times=0), chance))
        assert (len(inbox[0].recipients) if count else len(inbox)) == count


async def test_a_thousand_runs_are_one(autojump_clock: MockClock) -> None:
    """The same script gives the same session, octet for octet and second for second."""
    rules = (Sometimes(Answer("RCPT", 450, times=0)), Garbage("RSET"), Trickle(5, at="."), Pace(700), Delay(".", 3))
    transcripts = set()
    for _ in range(20):
        began = trio.current_time()
        _, transcript, _ = await send(*rules)
        transcripts.add(tuple((e.side, e.data, round(e.time, 6)) for e in transcript.entries))
        assert trio.current_time() > began
    assert len(transcripts) == 1


# --- a stream like any other --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["server", "client"])
async def test_without_rules_nothing_is_changed(side: Any) -> None:
    async def make() -> tuple[FaultyStream, FaultyStream]:
        near, far = bounded_stream_pair()
        faults = Faults()
        return faults.wrap(near, side=side), faults.wrap(far, side=side)

    await trio.testing.check_half_closeable_stream(make, None)


async def test_unfinished_lines_are_passed_on_at_the_end() -> None:
    near, far = bounded_stream_pair()
    stream = Faults(Delay("NOOP", 1, by="client")).wrap(near, side="client")
    await stream.send_all(b"NOOP\r\nhalf")
    assert await far.receive_some() == b"NOOP\r\n"
    await stream.send_eof()
    assert await far.receive_some() == b"half"
    await far.send_all(b"220 half a gree")
    await far.aclose()
    assert await stream.receive_some() == b"220 half a gree"
    assert await stream.receive_some() == b""
    await stream.aclose()


async def test_inside_tls(autojump_clock: MockClock) -> None:
    """Rules of a server are played inside TLS, once; and its hooks see the attributes of the stream through them."""

    class Secured(Watched):
        async def secured(self, session: Session) -> None:
            versions.append(session.stream.version())  # type: ignore[attr-defined]

    versions: list[str] = []
    faults = Faults(Answer("MAIL", 451), Trickle(4, at="EHLO"), Drop("CHUNKING"), Close("body", after=9))
    server = Server(faults.hooks(Secured()), name=NAME, tls=server_tls(), **fixed_doors())
    near, far = bounded_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.serve_stream, far)
        settings: dict[str, Any] = {"host": NAME, "ssl_context": client_tls(), "tls": "required"}
        client = Client(near, name="client.test", **settings)
        async with client:
            assert "CHUNKING" not in client.capabilities
            with pytest.raises(Refused, match="451"):
                await client.mail(ME)
            with pytest.raises(DeliveryUnknown):
                await client.send(ME, [YOU], MESSAGE)
    assert versions == ["TLSv1.3"]
