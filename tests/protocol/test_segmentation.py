"""Results do not depend on how the input is segmented, and no input makes the core fail."""

from __future__ import annotations

import itertools
import random
import re
from typing import Any

import pytest
from hypothesis import given, strategies as st

from smtp_trio.protocol import (
    CONNECTION_LOST,
    FAULT,
    NEED_DATA,
    NORMAL,
    STRICT,
    BadCommandError,
    Command,
    CountedCommand,
    Data,
    Limits,
    Reply,
    ServerProtocol,
    Strictness,
    lenient_mode,
)
from smtp_trio.protocol.command_parser import CommandParser
from smtp_trio.protocol.extensions import Auth, BinaryMime, standard
from smtp_trio.protocol.extensions.auth import AuthCommand, AuthResponse
from smtp_trio.protocol.replies import OUT_OF_SYNC
from smtp_trio.protocol.sasl import MechanismContext

from .driver import ServerDriver

SETTINGS: dict[str, Any] = {
    "size": 60,
    "hooks": {"auth", "expn"},
    "limits": Limits(errors=15, work=150, received=2, line=600),
    "extensions": standard(Auth(cleartext=True), BinaryMime()),
}

MODES = [NORMAL, STRICT, lenient_mode("default.test")]

# --- generated streams ----------------------------------------------------------------------------------------------

LINES = [
    "EHLO x", "EHLO x", "EHLO x", "HELO x", "EHLO", "MAIL FROM:<a@b>", "MAIL FROM:<a@b>", "MAIL FROM:<a@b> SIZE=50 BODY=8BITMIME",
    "MAIL FROM:<a@b> BODY=BINARYMIME", "MAIL FROM:<\u00e9@b> SMTPUTF8", "MAIL FROM:<no@b>", "MAIL FROM:<a@b> SIZE=61",
    "MAIL FROM:<a", "MAIL FROM:<a>", "MAIL FROM: <a@b>", "RCPT TO:<c>", "RCPT TO:<c@d.>", "RCPT TO:c@d", "RCPT  TO:<c@d>",
    "EHLO \u00e9", "EHLO a_b", "HELO  x",
    "RCPT TO:<c@d>", "RCPT TO:<c@d>", "RCPT TO:<c@d>", "RCPT TO:<no@d>", "RCPT TO:<later@d>", "RCPT TO:<>", "RCPT TO:<\u00e9@d>",
    "RSET", "NOOP", "NOOP x", "VRFY a", "EXPN b", "HELP", "HELP x", "FOO", "", " ", "SEND x", "STARTTLS x", "DATA", ".", "..",
    "AUTH PLAIN AGZyZWQAc2VjcmV0", "AUTH PLAIN AGZyZWQAbm8=", "AUTH PLAIN", "AUTH LOGIN", "AUTH FOO", "ZnJlZA==", "c2VjcmV0",
    "*", "####",
    "BDAT x", "QUIT x",
]  # fmt: skip
MALFORMED = [
    b"NOOP\nNOOP\r\n",
    b"NOOP\r\r\n",
    b"\nBDAT 0\r\n",
    b"NOOP\n\x00BDAT 0\n",
    b"BDAT 0\rx\r\n",
    b"\r DATA\n",
    b"NO\0OP\r\n",
    b"\xff\r\n",
    b"x" * 700 + b"\r\n",
    b"\x16\x03\r\n",
    b"AUTH PLAIN " + b"A" * 700 + b"\r\n",
]
TEXT = [
    b"hello\r\n",
    b"..\r\n",
    b".x\r\n",
    b"\r\n",
    b"\n",
    b"\r",
    b"\n.\n",
    b"x" * 30,
    b"Received: x\r\n",
    b"\0\xff\r\n",
    b".",
    b"\r\n..\r\n",
]

texts = st.lists(st.sampled_from(TEXT), max_size=6).map(b"".join)
messages = texts.map(lambda text: b"DATA\r\n" + text + b"\r\n.\r\n")
chunks = st.builds(
    lambda text, last, extra: f"BDAT {len(text) + extra}{last}\r\n".encode() + text, texts, st.sampled_from(["", " LAST"]),
    st.sampled_from([0, 0, 0, 3]),
)  # fmt: skip
lines = st.sampled_from(LINES).map(lambda line: line.encode() + b"\r\n")
opening = st.just(b"EHLO x\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\n")
streams = st.lists(
    st.one_of(lines, lines, st.sampled_from(MALFORMED), opening, opening, messages, chunks, texts), max_size=14
).map(b"".join)


def run(octets: bytes, cuts: list[int], **settings: Any) -> ServerDriver:
    driver = ServerDriver(**SETTINGS, **settings).send_in_segments(octets, cuts)
    driver.end_input()
    return driver


def check_same_results(cut: ServerDriver, whole: ServerDriver) -> None:
    """Check that ``cut``, which got the octets of ``whole`` in more segments, has the same results.

    A refused DATA is the one place where it matters what has arrived: the octets after it end the session if they came
    before the reply, and are commands if not. So ``cut`` may go on where ``whole`` was closed.
    """
    if whole.output.endswith(OUT_OF_SYNC.encode()):
        assert cut.output.startswith(whole.output.removesuffix(OUT_OF_SYNC.encode()))
        assert cut.messages[: len(whole.messages)] == whole.messages
    else:
        assert (cut.events, cut.output, cut.messages) == (whole.events, whole.output, whole.messages)


@given(streams, st.data())
def test_stream_in_random_segments(octets: bytes, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(octets)), max_size=8)))
    check_same_results(run(octets, cuts), run(octets, []))


@given(streams)
@pytest.mark.slow
def test_stream_octet_by_octet(octets: bytes) -> None:
    check_same_results(run(octets, list(range(1, len(octets)))), run(octets, []))


@given(streams, st.sampled_from(MODES))
@pytest.mark.slow
def test_command_cache_changes_nothing(octets: bytes, mode: Strictness) -> None:
    """A parser without the cache gives the same results."""
    short = run(octets, [], strictness=mode)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CommandParser, "parse_cached", lambda *_: None)
        long = run(octets, [], strictness=mode)
    assert (long.events, long.output, long.messages) == (short.events, short.output, short.messages)


@pytest.mark.parametrize(
    ("line", "closes"),
    [
        (b"\nBDAT 0\r\n", False),
        (b"NOOP\nBDAT 0\n", True),
        (b"NOOP\n \0\tbdat 0\n", True),
        (b"NOOP\r\n\rBDAT 0\n", True),
        (b"NOOP\nBDATA\n", False),
        (b"NOOP\nBDAT\n", True),
        (b"NOOP\nx" + b" " * 20 + b"BDAT 0\n", False),
        (b" " * 700 + b"\nBDAT 0\n", True),
    ],
)
def test_malformed_bdat_line_in_any_segments(line: bytes, closes: bool) -> None:
    """What a refused line begins with is known although it is dropped as it arrives."""
    octets = b"EHLO x\r\n" + line
    whole = run(octets, [])
    assert any(bad.close and bad.verb == "BDAT" for bad in whole.refused) is closes
    for cuts in ([at] for at in range(8, len(octets))):
        check_same_results(run(octets, cuts), whole)
    check_same_results(run(octets, list(range(1, len(octets)))), whole)


# --- a hundred commands ---------------------------------------------------------------------------------------------

COMMANDS = (
    b"NOOP\r\nehlo x\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nRCPT TO:<no@d>\r\nDATA\r\n..a\r\n.b\r\n\r\n.\r\n"  # 6
    b"VRFY a\r\nEXPN a\r\nHELP\r\nHELP mail\r\nHELP x\r\nFOO\r\n\r\nNOOP\nx\r\nNOOP\r\r\nDATA\r\n"  # 16
    b"MAIL FROM:<>\r\nRCPT TO:<c@d> X\r\nRCPT TO:<@e:c@d>\r\nBDAT 4\r\n\r\n.\rNOOP\r\nBDAT 3 LAST\r\n\nab"  # 22
    b"BDAT 6\r\nQUIT\r\nMAIL FROM:<a@b>\r\nMAIL FROM:<a@b>\r\nBDAT 3\r\n\r\n.RSET\r\nRSET x\r\n"  # 28
    b"AUTH PLAIN\r\nAGZyZWQAbm8=\r\nAUTH LOGIN\r\n*\r\nAUTH PLAIN AGZyZWQAc2VjcmV0\r\nAUTH X\r\n"  # 34
    b"MAIL FROM:<a@b> SIZE=1 BODY=8bitmime\r\nRCPT TO:c@d\r\nDATA\r\na\nb\r\n.\r\n"  # 37
    b"MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nBDAT 2\r\n\r\rBDAT 0 LAST\r\nBDAT 0\r\nRSET\r\n"  # 43
    b"MAIL FROM:<\xc3\xa9@b>\r\nMAIL FROM:<\xc3\xa9@b> SMTPUTF8\r\nRCPT TO:<\xc3\xa9@d>\r\nEHLO y\r\n"  # 47
    + b"MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\n.\r\n" * 4  # 59
    + b"MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nRSET\r\nDATA x\r\nNO\0OP\r\n" * 4  # 79
    + b"MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nBDAT 1 LAST\r\n.\xff\r\n" * 4  # 95
    + b"HELO z\r\nMAIL FROM:<a@b> SIZE=1\r\nTURN\r\nDATA\r\nNOOP x\r\nRSET\r\nQUIT\r\nNOOP\r\n"  # 103
)  # fmt: skip

#: The positions after each refused DATA, where the client must wait for the reply (RFC 2920 3.1).
WAITS = {match.end() for match in re.finditer(rb"\r\r\nDATA\r\n|DATA x\r\n|TURN\r\nDATA\r\n", COMMANDS)}


def run_commands(*cuts: int) -> tuple[bytes, list[object], list[bytes]]:
    driver = ServerDriver(hooks={"auth", "expn"}, secure=True, checked=not cuts, limits=Limits(errors=99))
    driver.send_in_segments(COMMANDS, sorted({*cuts, *WAITS}))
    return driver.output, driver.events, driver.messages


@pytest.mark.slow
def test_hundred_commands_split_at_every_octet() -> None:
    whole = run_commands()
    assert sum(isinstance(event, Command) or event[0] == "refused" for event in whole[1]) >= 100  # type: ignore[index]
    assert len(whole[2]) == 10
    assert whole[0].endswith(b"221 2.0.0 mx.test Goodbye\r\n")
    for cut in range(1, len(COMMANDS)):
        assert run_commands(cut) == whole, cut


# --- any input ------------------------------------------------------------------------------------------------------


class RandomServer:
    """A server that answers at random, and checks what the core guarantees."""

    def __init__(self, rng: random.Random, **kinds: Any) -> None:
        self.rng = rng
        self.protocol = ServerProtocol("mx.test", **{**SETTINGS, **kinds})
        self.protocol.state.secure = rng.random() < 0.5
        self.closed = False
        self.bound = max(self.protocol.grammar.line_limit, 12288)

    def feed(self, octets: bytes) -> None:
        """Process octets; only `BadCommandError` may be raised, and at most one line may stay buffered."""
        protocol = self.protocol
        if self.closed:
            return
        protocol.receive_data(octets)
        assert protocol.buffered <= self.bound + len(octets)
        for _ in range(10 + 4 * len(octets)):
            try:
                event = protocol.next_event()
            except BadCommandError as bad:
                protocol.send_reply(bad.reply)
                if bad.close:
                    self.closed = True
                    return
                continue
            if event is NEED_DATA or event is CONNECTION_LOST:
                break
            if isinstance(event, Command):
                if not isinstance(event, CountedCommand):
                    self._answer(event)
            elif event is FAULT:
                assert protocol.fault is not None
                assert protocol.fault.refused
            elif isinstance(event, bytes):
                assert event
                if self.rng.random() < 0.05:
                    protocol.discard()
            else:
                assert isinstance(protocol.pending, Command)
                protocol.send_reply(protocol.fault or self._reply(protocol.pending))
        else:
            raise AssertionError("endless events")
        assert protocol.buffered <= self.bound
        output = protocol.data_to_send()
        assert output == b"" or output.endswith(b"\r\n")

    def _answer(self, command: Command) -> None:
        if isinstance(command, AuthCommand):
            try:
                self._exchange = command.exchange(MechanismContext("mx.test", self.rng.randbytes))
                self._continue_exchange(None)
            except (BadCommandError, StopIteration):
                self.protocol.send_reply(Reply(535, "No"))
        elif isinstance(command, AuthResponse):
            try:
                self._continue_exchange(command.line)
            except (BadCommandError, StopIteration):
                self.protocol.send_reply(command.default_reply)
        elif isinstance(command, Data) and self.rng.random() < 0.9:
            self.protocol.send_reply(command.default_reply)
        else:
            self.protocol.send_reply(self._reply(command))

    def _continue_exchange(self, line: str | None) -> None:
        question = self._exchange.send(line)
        self.protocol.send_reply(question if isinstance(question, Reply) else self._exchange.send(None))  # type: ignore[arg-type]

    def _reply(self, command: Command) -> Reply:
        default = self.protocol.default_reply(command)
        return default if self.rng.random() < 0.9 else Reply(451, "Not today")


PARTS = (
    [part.encode() for part in LINES]
    + MALFORMED
    + TEXT
    + [b"\r\n", b"\r\n", b"\r\n", b"BDAT 5\r\n", b"BDAT 3 LAST\r\n", b"DATA\r\n", b"QUIT\r\n", b"STARTTLS\r\n"]
)


@pytest.mark.parametrize("seed", range(40))
def test_random_octets_raise_only_bad_command_error(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(25):
        newlines, mode = rng.choice(["reject", "normalize", "preserve"]), rng.choice(MODES)
        server = RandomServer(rng, newlines=newlines, strictness=mode, tls=rng.random() < 0.5)
        for _ in range(rng.randrange(20)):
            octets = (
                rng.randbytes(rng.randrange(1, 80))
                if rng.random() < 0.2
                else b"".join(rng.choices(PARTS, k=rng.randrange(1, 9)))
            )
            server.feed(octets)
        server.feed(b"")


@given(
    st.lists(
        st.one_of(st.binary(min_size=1), st.sampled_from(PARTS).filter(bool), st.text(min_size=1).map(str.encode)),
        max_size=12,
    ),
    st.integers(),
)
def test_generated_octets_raise_only_bad_command_error(segments: list[bytes], seed: int) -> None:
    server = RandomServer(random.Random(seed))
    for octets in segments:
        server.feed(octets)
    server.feed(b"")


@given(st.one_of(st.binary(), st.text().map(str.encode)))
def test_any_argument_of_any_verb(argument: bytes) -> None:
    for verb, mode in itertools.product(ServerDriver(**SETTINGS).protocol.grammar.verbs, MODES):
        server = RandomServer(random.Random(0), strictness=mode)
        server.feed(b"EHLO x\r\n" + verb.encode() + b" " + argument + b"\r\n")


@pytest.mark.parametrize("octets", [b"x", b"MAIL FROM:<", b"AUTH PLAIN ", b"\r", b"\n", b"NOOP\r\r"])
def test_buffered_octets_are_bounded(octets: bytes) -> None:
    server = RandomServer(random.Random(0))
    server.feed(b"EHLO x\r\n")
    for _ in range(300):
        server.feed(octets * (1000 // len(octets)))


@pytest.mark.parametrize("begin", [b"DATA\r\n", b"BDAT 999999\r\n"])
def test_buffered_octets_of_a_message_are_bounded(begin: bytes) -> None:
    server = RandomServer(random.Random(1), size=0)
    server.feed(b"EHLO x\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\n" + begin)
    for octets in (b"x" * 1000, b"\r", b"\n.", b"\r", b"\r\r\r\n", b".", b".x") * 20:
        server.feed(octets)
        assert server.protocol.buffered <= 2


BACKTRACKING = [
    b"a." * 1000,
    b"@a," * 600,
    b'"\\' * 900,
    b"<" * 2000,
    b'"' * 2000,
    b"(" * 2000,
    b" " * 2000,
    b"a@" * 1000,
    b"[" * 2000,
    b"+" * 2000,
    b"=" * 2000,
]


@pytest.mark.parametrize("argument", BACKTRACKING, ids=lambda octets: octets[:3].decode())
def test_parsing_takes_linear_time(argument: bytes) -> None:
    """Two hundred lines of maximum length that make ambiguous expressions backtrack."""
    lines = [
        verb + argument
        for verb in (
            b"MAIL FROM:",
            b"MAIL FROM:<",
            b"RCPT TO:<@",
            b"RCPT TO:x@",
            b"MAIL FROM:<a@b> X=",
            b"EHLO ",
            b"AUTH ",
        )
    ]
    for mode in itertools.islice(itertools.cycle(MODES), 36):
        server = RandomServer(random.Random(0), limits=Limits(errors=99), strictness=mode)
        server.feed(b"EHLO x\r\n" + b"".join(line[:2040] + b"\r\n" for line in lines))
