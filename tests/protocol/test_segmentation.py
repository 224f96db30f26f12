"""Nothing depends on where the octets are cut; nothing that can be sent does harm."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, strategies as st

from smtp_trio.protocol import (
    CONNECTION_LOST,
    FAULT,
    NEED_DATA,
    BadCommandError,
    Command,
    CountedCommand,
    Data,
    Limits,
    Reply,
    ServerProtocol,
)
from smtp_trio.protocol.command_parser import CommandParser
from smtp_trio.protocol.extensions import Auth, BinaryMime, standard
from smtp_trio.protocol.extensions.auth import AuthCommand, AuthResponse
from smtp_trio.protocol.sasl import MechanismContext

from .talk import Talk

SETTINGS: dict[str, Any] = {
    "size": 60,
    "hooks": {"auth", "expn"},
    "limits": Limits(errors=15, junk=15, received=2, line=600),
    "extensions": standard(Auth(cleartext=True), BinaryMime()),
}

# --- a grammar of streams -------------------------------------------------------------------------------------------

LINES = [
    "EHLO x", "EHLO x", "EHLO x", "HELO x", "EHLO", "MAIL FROM:<a@b>", "MAIL FROM:<a@b>", "MAIL FROM:<a@b> SIZE=50 BODY=8BITMIME",
    "MAIL FROM:<a@b> BODY=BINARYMIME", "MAIL FROM:<\u00e9@b> SMTPUTF8", "MAIL FROM:<no@b>", "MAIL FROM:<a@b> SIZE=61",
    "MAIL FROM:<a",
    "RCPT TO:<c@d>", "RCPT TO:<c@d>", "RCPT TO:<c@d>", "RCPT TO:<no@d>", "RCPT TO:<later@d>", "RCPT TO:<>", "RCPT TO:<\u00e9@d>",
    "RSET", "NOOP", "NOOP x", "VRFY a", "EXPN b", "HELP", "HELP x", "FOO", "", " ", "SEND x", "STARTTLS x", "DATA", ".", "..",
    "AUTH PLAIN AGZyZWQAc2VjcmV0", "AUTH PLAIN AGZyZWQAbm8=", "AUTH PLAIN", "AUTH LOGIN", "AUTH FOO", "ZnJlZA==", "c2VjcmV0",
    "*", "####",
    "BDAT x", "QUIT x",
]  # fmt: skip
DIRT = [
    b"NOOP\nNOOP\r\n",
    b"NOOP\r\r\n",
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
    st.one_of(lines, lines, st.sampled_from(DIRT), opening, opening, messages, chunks, texts), max_size=14
).map(b"".join)


def played(octets: bytes, cuts: list[int]) -> Talk:
    talk = Talk(**SETTINGS).split(octets, cuts)
    talk.hang_up()
    return talk


@given(streams, st.data())
def test_a_stream_is_what_its_octets_are(octets: bytes, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(octets)), max_size=8)))
    whole, cut = played(octets, []), played(octets, cuts)
    assert cut.story == whole.story
    assert cut.output == whole.output
    assert cut.messages == whole.messages


@given(streams)
@pytest.mark.slow
def test_a_stream_byte_by_byte(octets: bytes) -> None:
    whole, cut = played(octets, []), played(octets, list(range(1, len(octets))))
    assert (cut.story, cut.output, cut.messages) == (whole.story, whole.output, whole.messages)


@given(streams)
@pytest.mark.slow
def test_a_stream_by_the_long_way(octets: bytes) -> None:
    """What the judge remembers of a verb saves time, and nothing else."""
    short = played(octets, [])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CommandParser, "parse_cached", lambda *_: None)
        long = played(octets, [])
    assert (long.story, long.output, long.messages) == (short.story, short.output, short.messages)


# --- a hundred commands ---------------------------------------------------------------------------------------------

HUNDRED = (
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


def hundred(*cuts: int) -> tuple[bytes, list[object], list[bytes]]:
    talk = Talk(hooks={"auth", "expn"}, secure=True, checked=not cuts, limits=Limits(errors=99))
    talk.split(HUNDRED, cuts)
    return talk.output, talk.story, talk.messages


@pytest.mark.slow
def test_a_hundred_commands_cut_at_every_place() -> None:
    whole = hundred()
    assert sum(isinstance(event, Command) or event[0] == "refused" for event in whole[1]) >= 100  # type: ignore[index]
    assert len(whole[2]) == 10
    assert whole[0].endswith(b"221 2.0.0 mx.test Goodbye\r\n")
    for cut in range(1, len(HUNDRED)):
        assert hundred(cut) == whole, cut


# --- anything at all ------------------------------------------------------------------------------------------------


class Anything:
    """A program that answers at random, and holds the core to its promises."""

    def __init__(self, rng: random.Random, **kinds: Any) -> None:
        self.rng = rng
        self.protocol = ServerProtocol("mx.test", **{**SETTINGS, **kinds})
        self.protocol.state.secure = rng.random() < 0.5
        self.over = False
        self.bound = max(self.protocol.grammar.line_limit, 12288)

    def feed(self, octets: bytes) -> None:
        """Every event is one that there is, every exception a `BadCommandError`, and no more is held than a line."""
        protocol = self.protocol
        if self.over:
            return
        protocol.receive_data(octets)
        assert protocol.buffered <= self.bound + len(octets)
        for _ in range(10 + 4 * len(octets)):
            try:
                event = protocol.next_event()
            except BadCommandError as bad:
                protocol.send(bad.reply)
                if bad.close:
                    self.over = True
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
                protocol.send(protocol.fault or self._reply(protocol.pending))
        else:
            raise AssertionError("no end of events")
        assert protocol.buffered <= self.bound
        output = protocol.data_to_send()
        assert output == b"" or output.endswith(b"\r\n")

    def _answer(self, command: Command) -> None:
        if isinstance(command, AuthCommand):
            try:
                self._talk = command.exchange(MechanismContext("mx.test", self.rng.randbytes))
                self._ask(None)
            except (BadCommandError, StopIteration):
                self.protocol.send(Reply(535, "No"))
        elif isinstance(command, AuthResponse):
            try:
                self._ask(command.line)
            except (BadCommandError, StopIteration):
                self.protocol.send(command.default_reply)
        elif isinstance(command, Data) and self.rng.random() < 0.9:
            self.protocol.send(command.default_reply)
        else:
            self.protocol.send(self._reply(command))

    def _ask(self, line: str | None) -> None:
        question = self._talk.send(line)
        self.protocol.send(question if isinstance(question, Reply) else self._talk.send(None))  # type: ignore[arg-type]

    def _reply(self, command: Command) -> Reply:
        usual = self.protocol.default_reply(command)
        return usual if self.rng.random() < 0.9 else Reply(451, "Not today")


PARTS = (
    [part.encode() for part in LINES]
    + DIRT
    + TEXT
    + [b"\r\n", b"\r\n", b"\r\n", b"BDAT 5\r\n", b"BDAT 3 LAST\r\n", b"DATA\r\n", b"QUIT\r\n", b"STARTTLS\r\n"]
)


@pytest.mark.parametrize("seed", range(40))
def test_any_octets_give_events_or_a_bad_command(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(25):
        program = Anything(rng, newlines=rng.choice(["reject", "normalize", "preserve"]), tls=rng.random() < 0.5)
        for _ in range(rng.randrange(20)):
            octets = (
                rng.randbytes(rng.randrange(1, 80))
                if rng.random() < 0.2
                else b"".join(rng.choices(PARTS, k=rng.randrange(1, 9)))
            )
            program.feed(octets)
        program.feed(b"")


@given(
    st.lists(
        st.one_of(st.binary(min_size=1), st.sampled_from(PARTS).filter(bool), st.text(min_size=1).map(str.encode)),
        max_size=12,
    ),
    st.integers(),
)
def test_any_octets_that_hypothesis_finds(segments: list[bytes], seed: int) -> None:
    program = Anything(random.Random(seed))
    for octets in segments:
        program.feed(octets)
    program.feed(b"")


@given(st.one_of(st.binary(), st.text().map(str.encode)))
def test_any_argument_of_any_verb(argument: bytes) -> None:
    for verb in Talk(**SETTINGS).protocol.grammar.verbs:
        program = Anything(random.Random(0))
        program.feed(b"EHLO x\r\n" + verb.encode() + b" " + argument + b"\r\n")


@pytest.mark.parametrize("octets", [b"x", b"MAIL FROM:<", b"AUTH PLAIN ", b"\r", b"\n", b"NOOP\r\r"])
def test_what_is_held_is_bounded(octets: bytes) -> None:
    program = Anything(random.Random(0))
    program.feed(b"EHLO x\r\n")
    for _ in range(300):
        program.feed(octets * (1000 // len(octets)))


@pytest.mark.parametrize("begin", [b"DATA\r\n", b"BDAT 999999\r\n"])
def test_what_is_held_of_a_message_is_less(begin: bytes) -> None:
    program = Anything(random.Random(1), size=0)
    program.feed(b"EHLO x\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\n" + begin)
    for octets in (b"x" * 1000, b"\r", b"\n.", b"\r", b"\r\r\r\n", b".", b".x") * 20:
        program.feed(octets)
        assert program.protocol.buffered <= 2


SLOW = [
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


@pytest.mark.parametrize("argument", SLOW, ids=lambda octets: octets[:3].decode())
def test_no_argument_takes_long(argument: bytes) -> None:
    """Two hundred of the longest lines there can be, of a kind that makes a careless grammar try everything, within the timeout."""
    lines = [
        verb + argument
        for verb in (b"MAIL FROM:", b"MAIL FROM:<", b"RCPT TO:<@", b"MAIL FROM:<a@b> X=", b"EHLO ", b"AUTH ")
    ]
    for _ in range(35):
        program = Anything(random.Random(0), limits=Limits(errors=99))
        program.feed(b"EHLO x\r\n" + b"".join(line[:2040] + b"\r\n" for line in lines))
