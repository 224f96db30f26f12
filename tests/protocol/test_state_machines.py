"""State machines of Hypothesis for both cores: any sequence of steps does what a simple model says.

The model of the server has only the greeting, the sender, the number of recipients and the chunks of a message. The model
of the client is a list of the commands that have no reply yet. `test_client_and_server` takes every step from every state;
these tests add what depends on more than the state: segments, repetition, and values.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import settings, strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from smtp_trio.protocol import (
    NEED_DATA,
    AnsweredCommand,
    ClientProtocol,
    Command,
    Connect,
    Data,
    Ehlo,
    EndOfData,
    Limits,
    LocalProtocolError,
    Mail,
    Path,
    Quit,
    Rcpt,
    RemoteProtocolError,
    Rset,
)
from smtp_trio.protocol.commands import Noop
from smtp_trio.protocol.extensions.chunking import Bdat, BdatLast

from .driver import ServerDriver, codes

LIMITS = Limits(recipients=100, errors=10**6, work=10**6)
LINES = st.lists(st.sampled_from([b"text", b".", b"..", b".x", b"", b"\xc3\xa9", b"x" * 998]), max_size=4)


class ServerMachine(RuleBasedStateMachine):
    """A client that sends any command at any time."""

    def __init__(self) -> None:
        super().__init__()
        self.driver = ServerDriver(limits=LIMITS, size=0)
        assert codes(self.driver.send(b"")) == ["220"]
        self.hello = self.extended = False
        self.sender = False
        self.recipients = 0
        self.refused = False
        self.chunks: bytes | None = None
        """The chunks of the message; None before the first one, or if DATA has to follow."""
        self.expected: list[bytes] = []

    def send(self, octets: bytes, cut: float, *expected: str) -> None:
        """Send octets in two segments, and compare the replies."""
        at = int(len(octets) * cut)
        replies = self.driver.send(octets[:at]) if at else []
        if at < len(octets):
            replies += self.driver.send(octets[at:])
        assert codes(replies) == list(expected)

    def end_transaction(self) -> None:
        self.sender, self.recipients, self.refused, self.chunks = False, 0, False, None

    @rule(verb=st.sampled_from(["EHLO", "ehlo", "HELO"]), cut=st.floats(0, 1))
    def greet(self, verb: str, cut: float) -> None:
        """RFC 5321 4.1.4: EHLO and HELO are allowed at any time, and end the transaction."""
        self.send(f"{verb} client.test\r\n".encode(), cut, "250")
        self.hello, self.extended = True, verb.upper() == "EHLO"
        self.end_transaction()

    @rule(sender=st.sampled_from(["<>", "<a@b>", "<a@b> SIZE=10"]), cut=st.floats(0, 1))
    def mail(self, sender: str, cut: float) -> None:
        allowed = self.hello and not self.sender
        if "SIZE" in sender and not self.extended:  # the parameters are parsed before the state is checked
            self.send(f"MAIL FROM:{sender}\r\n".encode(), cut, "555 5.5.4")
            return
        self.send(f"MAIL FROM:{sender}\r\n".encode(), cut, "250 2.1.0" if allowed else "503 5.5.1")
        self.sender = self.sender or allowed

    @rule(local=st.sampled_from(["you", "no", "later"]), cut=st.floats(0, 1))
    def rcpt(self, local: str, cut: float) -> None:
        accepted = {"you": "250 2.1.5", "no": "550 5.1.1", "later": "450 4.2.1"}[local]
        if not self.sender or self.chunks is not None:
            accepted = "503 5.5.1"
        self.send(f"RCPT TO:<{local}@mx.test>\r\n".encode(), cut, accepted)
        self.recipients += accepted[0] == "2"
        self.refused = self.refused or (self.sender and accepted[0] in "45")

    @rule(lines=LINES, cut=st.floats(0, 1))
    def data(self, lines: list[bytes], cut: float) -> None:
        """RFC 5321 4.1.1.4 and 4.5.2: a message ends with a line that has only a dot; others have one dot removed."""
        if not self.recipients or self.chunks is not None:
            return  # what follows a refused DATA ends the session
        self.send(b"DATA\r\n", cut, "354")
        text = b"".join(line + b"\r\n" for line in lines)
        stuffed = b"".join((b"." if line.startswith(b".") else b"") + line + b"\r\n" for line in lines)
        self.send(stuffed + b".\r\n", cut, "250 2.0.0")
        self.expected.append(text)
        self.end_transaction()

    @rule(
        octets=st.sampled_from([b"", b".", b"RSET", b"\xff" * 30]),
        last=st.booleans(),
        cut=st.floats(0, 1),
    )
    def bdat(self, octets: bytes, last: bool, cut: float) -> None:
        """RFC 3030 2: the octets of a chunk are not commands, whatever the reply is."""
        command = b"BDAT %d%s\r\n" % (len(octets), b" LAST" if last else b"") + octets
        if not self.extended:  # RFC 5321 2.2.1: an extension may not be used before it was offered
            self.send(command, cut, "503 5.5.1")
            return
        if not self.recipients:
            # RFC 2920 3.1: 554 if there were recipients, which were all refused.
            self.send(command, cut, "554 5.5.1" if self.refused else "503 5.5.1")
            return
        self.send(command, cut, "250 2.0.0")
        self.chunks = (self.chunks or b"") + octets
        if last:
            self.expected.append(self.chunks)
            self.end_transaction()

    @rule(line=st.sampled_from([b"RSET", b"rset"]), cut=st.floats(0, 1))
    def rset(self, line: bytes, cut: float) -> None:
        self.send(line + b"\r\n", cut, "250 2.0.0")
        self.end_transaction()

    @rule(
        line=st.sampled_from(
            [
                (b"NOOP x", "250 2.0.0"),
                (b"VRFY a", "252 2.5.0"),
                (b"FOO", "500 5.5.1"),
                (b"", "500 5.5.2"),
                (b"RCPT", "501 5.5.4"),
            ]
        ),
        cut=st.floats(0, 1),
    )
    def other(self, line: tuple[bytes, str], cut: float) -> None:
        """Commands that are refused, or do nothing."""
        octets, reply = line
        self.send(octets + b"\r\n", cut, reply)
        self.refused = self.refused or (self.sender and octets == b"RCPT")  # a malformed recipient is a refused one

    @invariant()
    def transaction(self) -> None:
        state = self.driver.protocol.state
        assert (state.mail is not None) == self.sender
        assert len(state.rcpts) == self.recipients
        assert self.driver.messages == self.expected
        assert not self.driver.closed


PATH = Path.parse("<a@b>")
assert PATH is not None
COMMANDS: Sequence[Command] = (Ehlo("x"), Mail(PATH), Rcpt(PATH), Data(), Rset(), Noop(), Quit(), Bdat(3), BdatLast(3))
#: The replies that a command may have, the accepting one first.
REPLIES = {Connect: "220", Data: "354", Quit: "221"}


class ClientMachine(RuleBasedStateMachine):
    """A server that replies to any command, in order, with any code, and to several at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.client = ClientProtocol()
        self.unanswered: list[Command] = [Connect()]
        self.greeted = False

    @initialize()
    def greeting(self) -> None:
        self.reply(1, False, "x", 7)

    @rule(command=st.sampled_from(COMMANDS))
    def send(self, command: Command) -> None:
        """A command is sent, or refused without a change of the state."""
        before = (self.client.dialogue.phase, list(self.client.dialogue.unanswered))
        try:
            self.client.send_command(command)
        except LocalProtocolError:
            assert before == (self.client.dialogue.phase, list(self.client.dialogue.unanswered))
            assert self.client.data_to_send() == b""
            return
        if isinstance(command, Bdat | BdatLast):
            self.client.send_body(b"abc")
        octets = self.client.data_to_send()
        assert octets.split(b"\r\n")[0].split(b" ")[0].decode() == command.verb
        self.unanswered.append(command)

    @precondition(lambda self: self.client.dialogue.phase.name == "MESSAGE")
    @rule()
    def message(self) -> None:
        self.client.send_body(b"Subject: x\r\n\r\n.\r\n")
        self.client.end_body()
        assert self.client.data_to_send().endswith(b"\r\n..\r\n.\r\n")
        self.unanswered.append(EndOfData())

    @precondition(lambda self: self.unanswered and not self.client.closed)
    @rule(count=st.integers(1, 3), refused=st.booleans(), text=st.sampled_from(["x", "", "é"]), size=st.integers(1, 9))
    def reply(self, count: int, refused: bool, text: str, size: int) -> None:
        """Each reply answers the oldest command, however it is segmented."""
        answered, self.unanswered = self.unanswered[:count], self.unanswered[count:]
        octets = b""
        for command in answered:
            code = "550" if refused else REPLIES.get(type(command), "250")
            lines = (
                [f"{code}-{text}", f"{code}-PIPELINING", f"{code} CHUNKING"]
                if isinstance(command, Ehlo)
                else [f"{code} {text}"]
            )
            octets += "".join(line + "\r\n" for line in lines).encode()
        found: list[AnsweredCommand] = []
        for at in range(0, len(octets), size):
            if self.client.closed:
                break
            self.client.receive_data(octets[at : at + size])
            while not self.client.closed and isinstance(event := self.client.next_event(), AnsweredCommand):
                found.append(event)
        assert [type(each.command) for each in found] == [type(command) for command in answered][: len(found)]
        assert len(found) == len(answered) or self.client.closed
        codes_of = [REPLIES.get(type(command), "250") for command in answered]
        assert all(each.reply.code in (550, int(code)) for each, code in zip(found, codes_of, strict=False))

    @precondition(
        lambda self: not self.unanswered and not self.client.closed and self.client.dialogue.phase.name != "MESSAGE"
    )
    @rule()
    def unexpected_reply(self) -> None:
        """A reply to nothing ends the session."""
        self.client.receive_data(b"250 x\r\n")
        with pytest.raises(RemoteProtocolError):
            self.client.next_event()
        assert self.client.closed

    @invariant()
    def replies_are_awaited(self) -> None:
        if not self.client.closed:
            assert self.client.next_event() is NEED_DATA
            assert [type(each) for each in self.client.dialogue.unanswered] == [type(each) for each in self.unanswered]


def few(machine: type[RuleBasedStateMachine]) -> None:
    """Run a machine for some sequences; each has many steps."""
    run_state_machine_as_test(machine, settings=settings(max_examples=min(settings().max_examples, 60)))


def test_server() -> None:
    few(ServerMachine)


def test_client() -> None:
    few(ClientMachine)
