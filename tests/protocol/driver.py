"""`ServerDriver`: a client and an application without a network, for tests of `ServerProtocol`.

All replies that the core sends in a test are checked by `check_replies`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Iterable, Sequence
from typing import Any

from smtp_trio.protocol import (
    CONNECTION_LOST,
    END_OF_BODY,
    END_OF_CHUNK,
    FAULT,
    NEED_DATA,
    BadCommandError,
    Command,
    Connect,
    CountedCommand,
    Hello,
    Mail,
    Quit,
    Rcpt,
    Reply,
    ServerProtocol,
)
from smtp_trio.protocol.extensions.auth import (
    Auth,
    AuthCommand,
    AuthResponse,
    ExchangeStep,
)
from smtp_trio.protocol.extensions.burl import Burl
from smtp_trio.protocol.extensions.starttls import HANDSHAKE
from smtp_trio.protocol.extensions.xclient import XclientCommand
from smtp_trio.protocol.replies import INVALID_CREDENTIALS, PROXY_HEADER
from smtp_trio.protocol.sasl import Authenticated, ClientExchange, Computation, Credentials, MechanismContext, Secret

NAME = "mx.test"
HELLO = "EHLO client.test"
SENDER = "MAIL FROM:<me@client.test>"
RECIPIENT = "RCPT TO:<you@mx.test>"

# Reply-line of RFC 5321 4.2, with at most 512 octets (4.5.3.1.5). The replies in these tests are ASCII.
LINE = re.compile(rb"([2-5][0-5][0-9])([ -])([\t -~]{0,506})\r\n")
STATUS = re.compile(rb"([245])\.[0-9]{1,3}\.[0-9]{1,3}(?: |$)")

# The reply codes of RFC 5321 4.3.2, RFC 7504 and the RFCs of the extensions. The first ones are allowed for any command: 503
# after a rejecting greeting (RFC 5321 3.1), 530 by RFC 3207 4 and RFC 4954 6.
ANY = {421, 451, 500, 501, 503, 530}
CODES = {
    "CONNECT": {220, 521, 554},
    "EHLO": {250, 502, 504, 550},
    "HELO": {250, 502, 504, 550},
    "MAIL": {250, 450, 452, 455, 550, 552, 553, 555},
    "RCPT": {250, 251, 450, 452, 455, 550, 551, 552, 553, 555, 556},
    "DATA": {354, 450, 452, 550, 552, 554},
    "end of data": {250, 450, 452, 550, 552, 554},
    "BDAT": {250, 450, 452, 502, 550, 552, 554},
    "RSET": {250},
    "VRFY": {250, 251, 252, 502, 504, 550, 551, 553},
    "EXPN": {250, 252, 502, 504, 550},
    "HELP": {211, 214, 502, 504},
    "NOOP": {250},
    "QUIT": {221},
    "STARTTLS": {220, 454, 502, 554},
    "XCLIENT": {220, 550},
    "XFORWARD": {250, 550},
    "AUTH": {235, 334, 432, 454, 502, 504, 525, 534, 535, 538},
}

PendingCommand = Command | BadCommandError
Answer = Callable[[Command], Reply | None]


def check_replies(octets: bytes, commands: Sequence[PendingCommand], *, enhanced: bool = True) -> list[str]:
    """Check that the octets are one valid reply to each command, and return the replies, lines joined with LF."""
    replies = []
    at = 0
    for command in commands:
        lines: list[str] = []
        codes, statuses = set(), set()
        more = True
        while more:
            match = LINE.match(octets, at)
            assert match is not None, octets[at : at + 600]
            at = match.end()
            more = match[2] == b"-"
            codes.add(match[1])
            status = STATUS.match(match[3])
            statuses.add(status and status[0].rstrip())
            lines.append(match[0][:-2].decode())
        # RFC 5321 4.2.1, RFC 2034 4: the same code and the same status on every line.
        assert len(codes) == len(statuses) == 1, lines
        _check_reply(command, codes.pop(), statuses.pop(), enhanced=enhanced)
        replies.append("\n".join(lines))
    assert at == len(octets), ("more replies than commands", octets[at:])
    return replies


def _check_reply(command: PendingCommand, code: bytes, status: bytes | None, *, enhanced: bool) -> None:
    # RFC 2034 4: no enhanced status code in the greeting, in replies to HELO and EHLO, and in 3yz.
    # A positive reply to XCLIENT is a greeting.
    bare = (
        isinstance(command, Connect | Hello)
        or (isinstance(command, XclientCommand) and code == b"220")
        or command.verb in ("EHLO", "HELO")
        or code[:1] == b"3"
    )
    assert (status is None) == (bare or not enhanced), (command, code, status)
    assert status is None or status[:1] == code[:1], (code, status)
    if command.verb in CODES:
        assert int(code) in CODES[command.verb] | ANY, (command, code)


def refuse_no_and_later(command: Command) -> Reply | None:
    """Refuse mailboxes named "no" and "later"."""
    path = command.sender if isinstance(command, Mail) else command.recipient if isinstance(command, Rcpt) else None
    if path is not None and path.local == "no":
        return Reply(550, "No such user here", "5.1.1")
    if path is not None and path.local == "later":
        return Reply(450, "Come back later", "4.2.1")
    return None


def check_password(credentials: Credentials) -> Reply | None:
    """Accept the password "secret"."""
    return None if credentials.password == "secret" else INVALID_CREDENTIALS


class ServerDriver:
    """One session. ``messages`` are the accepted messages; ``events`` lists the events, independent of segments."""

    def __init__(
        self,
        *,
        name: str = NAME,
        answer: Answer = refuse_no_and_later,
        check_credentials: Callable[[Credentials], Reply | None] = check_password,
        secure: bool = False,
        checked: bool = True,
        **settings: Any,
    ) -> None:
        self.protocol = ServerProtocol(name, **settings)
        self.protocol.state.secure = secure
        self.answer, self.check_credentials = answer, check_credentials
        self.messages: list[bytes] = []
        self.events: list[object] = []
        self.refused: list[BadCommandError] = []
        self.credentials: list[Credentials] = []
        self.output = b""
        self.closed = False
        #: The replies of LMTP to a message, by recipient; others are positive.
        self.recipient_replies: dict[str, Reply] = {}
        #: The pieces of what BURL refers to.
        self.urls: dict[str, list[bytes]] = {}
        self._checked = checked
        self._answered: list[PendingCommand] = []
        self._body: list[bytes] = []
        self._exchange: Generator[ExchangeStep, Any, Authenticated] | None = None
        #: The stored secrets, and the users whose secrets were requested.
        self.secrets: dict[str, Secret] = {"fred": "secret"}
        self.requested_secrets: list[str] = []
        self.mechanism_context = MechanismContext(name, lambda n: bytes(range(n)))

    # --- the client -------------------------------------------------------------------------------------------------

    def feed(self, octets: bytes) -> bytes:
        """Send one segment; return the octets that come back."""
        if octets:
            self.protocol.receive_data(octets)
        return self._run()

    def end_input(self) -> bytes:
        """End the input; return the octets that come back."""
        self.protocol.receive_data(b"")
        return self._run()

    def _run(self) -> bytes:
        while not self.closed and self._handle_event():
            pass
        octets = self.protocol.data_to_send()
        self.output += octets
        return octets

    def send_lines(self, *lines: str | bytes) -> list[str]:
        """Send lines, those up to each DATA in one segment (RFC 2920 3.1); return the replies."""
        replies: list[str] = []
        octets = b""
        for line in lines:
            octet_line = line.encode() if isinstance(line, str) else line
            octets += octet_line + b"\r\n"
            if octet_line == b"DATA":
                replies += self.send(octets)
                octets = b""
        return replies + self.send(octets)

    def send(self, octets: bytes) -> list[str]:
        """Send one segment; return the replies."""
        self._answered.clear()
        octets = self.feed(octets)
        return check_replies(octets, self._answered, enhanced=self.protocol.grammar.has("ENHANCEDSTATUSCODES"))

    def begin(self, *lines: str) -> ServerDriver:
        """Send EHLO and these lines, which must all be accepted; return the driver."""
        for reply in self.send_lines(HELLO, *lines):
            assert reply[0] == "2", reply
        return self

    def send_in_segments(self, octets: bytes, cuts: Iterable[int]) -> ServerDriver:
        """Send the octets in segments that begin at ``cuts``; return the driver."""
        start = 0
        for cut in cuts:
            self._piece(octets[start:cut])
            start = cut
        self._piece(octets[start:])
        return self

    def _piece(self, octets: bytes) -> None:
        if octets:
            if self._checked:
                self.send(octets)
            else:
                self.feed(octets)

    # --- the application --------------------------------------------------------------------------------------------

    def _handle_event(self) -> bool:
        """Handle one event. Return False if no event is available."""
        protocol = self.protocol
        try:
            event = protocol.next_event()
        except BadCommandError as bad:
            self._exchange = None
            self.refused.append(bad)
            self.events.append(("refused", bad.verb, bad.reply, bad.close))
            self.closed = bad.close
            self._reply(bad, bad.reply)
            return True
        if event is NEED_DATA and protocol.fetching:
            assert isinstance(protocol.pending, Burl)
            for octets in (*self.urls.get(protocol.pending.url, ()), b""):
                protocol.add_fetched(octets)
            return True
        if event is NEED_DATA:
            return False
        if isinstance(event, bytes):
            self._body.append(event)
        elif isinstance(event, Command):
            self.events.append(event)
            self._command(event)
        elif event is CONNECTION_LOST:
            self.events.append(event)
            self.closed = True
        elif event is FAULT:
            assert protocol.fault is not None
            self.events.append((event, protocol.fault))
            self._body.clear()
        else:
            assert event in (END_OF_BODY, END_OF_CHUNK)
            self._end_of_body(last=event is END_OF_BODY)
        return True

    def _command(self, command: Command) -> None:
        if isinstance(command, AuthCommand | AuthResponse):
            self._auth(command)
        elif not isinstance(command, CountedCommand):  # which is answered after its octets
            self._reply(command, self.answer(command) or self.protocol.default_reply(command))
            self.closed = self.closed or isinstance(command, Quit)
            if self.protocol.dialogue.phase is HANDSHAKE:
                self.protocol.tls_started()

    def _auth(self, command: AuthCommand | AuthResponse) -> None:
        answer: Any = None
        if isinstance(command, AuthCommand):
            extension = next(each for each in self.protocol.grammar.extensions if isinstance(each, Auth))
            self._exchange = extension.exchange(command, self.protocol.state, self.mechanism_context)
        else:
            answer = command.line
        assert self._exchange is not None
        try:
            while not isinstance(step := self._exchange.send(answer), Reply):
                if isinstance(step, Credentials):
                    self.credentials.append(step)
                    answer = self.check_credentials(step)
                elif isinstance(step, Computation):
                    answer = step.compute()
                else:
                    self.requested_secrets.append(step.user)
                    answer = self.secrets.get(step.user)
            reply = step
        except BadCommandError as bad:
            reply = bad.reply
        except StopIteration as done:
            reply = done.value.reply or command.default_reply
            self.protocol.set_authenticated(done.value.user)
        self._reply(command, reply)

    def _end_of_body(self, *, last: bool) -> None:
        command = self.protocol.pending
        assert isinstance(command, Command)
        default = command.default_reply if command.default_reply.accepted else Reply(250, "Ok")
        if not last:
            default = getattr(command, "chunk_reply", default)
        reply = self.protocol.fault or self.answer(command) or default
        if last and self.protocol.grammar.lmtp and self.protocol.fault is None:
            self._reply_to_each([path.recipient.raw for path in self.protocol.state.rcpts], reply)
            return
        if last:
            self.events.append((END_OF_BODY, None if self.protocol.fault else b"".join(self._body), reply))
            if reply.accepted:
                self.messages.append(b"".join(self._body))
        else:
            self.events.append((END_OF_CHUNK, reply))
        self._reply(command, reply)

    def _reply_to_each(self, recipients: Sequence[str], default: Reply) -> None:
        """Send the replies to a message of LMTP, those before the last one as soon as possible (RFC 2033 5)."""
        replies = [self.recipient_replies.get(each, default) for each in recipients]
        command = self.protocol.pending
        assert command is not None
        self.events += [(END_OF_BODY, b"".join(self._body), reply) for reply in replies]
        for reply in replies[:-1]:
            self._answered.append(command)
            self.protocol.send_recipient_reply(reply)
        self._reply(command, replies[-1])

    def _reply(self, command: PendingCommand, reply: Reply) -> None:
        if reply is not PROXY_HEADER:  # after which the connection is closed without a reply
            self._answered.append(command)
        self.protocol.send_reply(reply)
        if self.protocol.state.mail is None:
            self._body.clear()
        self.closed = self.closed or self.protocol.closed


def codes(replies: Iterable[str]) -> list[str]:
    """Return the code and the enhanced status code of each reply, or the code alone."""
    return [" ".join(re.findall(r"^\d{3}|(?<=^\d{3}[ -])\d\.\d+\.\d+", reply)) for reply in replies]


def respond(client: ClientExchange, challenge: bytes | None) -> bytes | None:
    """Send a challenge to the client's side of a mechanism; return its response."""
    answer: Any = challenge
    while isinstance(step := client.send(answer), Computation):
        answer = step.compute()
    return step


#: The commands that lead to each phase.
PHASES: dict[str, list[str]] = {
    "GREETED": [],
    "READY": [HELLO],
    "SENDER": [HELLO, SENDER],
    "RECIPIENT": [HELLO, SENDER, RECIPIENT],
}


def driver_in(phase: str, answer: Answer = refuse_no_and_later) -> ServerDriver:
    """Return a driver in this phase."""
    driver = ServerDriver(answer=answer)
    driver.send_lines(*PHASES[phase])
    return driver


def replying(*answers: tuple[type[Command], Reply]) -> Answer:
    """Answer these commands with these replies, all others with the default."""
    return lambda command: dict(answers).get(type(command))
