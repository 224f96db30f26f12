"""Cases for clients: the reactions of a server, and what the client must do. Also what was observed of a client."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from attrs import define, field, frozen

from ._case import Requirement, Step
from ._connection import Connection
from ._server_actions import SendSlowly
from ._steps import Send

USUAL_OFFERS = ("SIZE 10485760", "8BITMIME")
"""The extensions in the reply to EHLO, unless the case lists others."""


@define(eq=False)
class ReceivedCommand:
    """A line that the client sent outside of messages."""

    verb: str
    """In capitals. ``RESPONSE`` for the response to an AUTH challenge."""
    line: bytes
    """With its line end."""
    early: bool
    """True if some of it arrived before the reply to the previous command was sent."""
    secure: bool
    code: str = ""
    """The code of the reply, if there was one."""


@define(eq=False)
class ReceivedMessage:
    """A message as it was sent."""

    mail: bytes
    """The MAIL command of the transaction."""
    data: bytes = b""
    """The octets after 354, dot-stuffed and without the final dot, or those of all chunks."""
    early: bool = False
    """True if some of it arrived before 354 was sent."""
    complete: bool = False
    chunked: bool = False
    secure: bool = False
    code: str = ""
    """The code of the reply, if there was one."""

    @property
    def text(self) -> bytes:
        """The message without dot-stuffing."""
        return self.data if self.chunked else (b"\n" + self.data).replace(b"\n.", b"\n")[1:]


@define(eq=False)
class ClientSession:
    """One connection of a client, and what it did there."""

    case: ClientCase
    connection: Connection
    commands: list[ReceivedCommand] = field(factory=list)
    messages: list[ReceivedMessage] = field(factory=list)
    performed: list[Reaction] = field(factory=list)
    """The reactions of the case that took place."""
    offers: Sequence[str] = ()
    """The extensions in the last reply to EHLO."""
    quit: bool = False
    after_quit: bytes = b""
    problem: str = ""
    """Why the session could not be served to its end."""

    def sent(self, *verbs: str) -> list[ReceivedCommand]:
        """Return all commands with these verbs."""
        return [command for command in self.commands if command.verb in verbs]

    def offered(self, keyword: str) -> bool:
        """Return whether the last reply to EHLO listed this keyword."""
        return any(offer.partition(" ")[0].upper() == keyword for offer in self.offers)


@frozen
class ClientExit:
    """The exit code of the client, by which it reports its success (None: unknown), and its output."""

    code: int | None = None
    output: bytes = b""


@frozen
class ClientRun:
    """Everything that was observed of a client in one case."""

    case: ClientCase
    sessions: Sequence[ClientSession]
    exit: ClientExit
    message: bytes = b""
    """The message that it had to send."""

    @property
    def commands(self) -> list[ReceivedCommand]:
        """The commands of all connections."""
        return [command for session in self.sessions for command in session.commands]

    @property
    def messages(self) -> list[ReceivedMessage]:
        """The messages of all connections."""
        return [message for session in self.sessions for message in session.messages]


class Expectation(Protocol):
    """A requirement on a client."""

    def violation(self, run: ClientRun, /) -> str:
        """Return a description of the violation, or an empty string."""
        ...


@frozen(kw_only=True)
class Reaction:
    """The actions of the server at an event: a verb, ``GREETING``, ``BODY`` (a message has arrived) or ``RESPONSE``."""

    event: str
    steps: tuple[Step, ...] = ()
    nth: int = 0
    """Only at the event with this number, if it is not 0."""
    secure: bool | None = None
    """Only inside TLS, or only outside."""
    required: bool = True
    """True if the case is skipped for a client that does not cause the event."""

    @property
    def code(self) -> str:
        """The code of the reply, or an empty string for no reply."""
        replies = [step.data for step in self.steps if isinstance(step, Send | SendSlowly)]
        return replies[0][:3].decode("latin-1") if replies else ""


@frozen(kw_only=True)
class ClientCase(Requirement):
    """The client has to send a message to a server with these reactions, which is otherwise an ordinary server."""

    reactions: Sequence[Reaction] = ()
    expectations: Sequence[Expectation] = ()
    offers: Sequence[str] = USUAL_OFFERS
    """The extensions in the reply to EHLO."""
    tls_offers: Sequence[str] | None = None
    """The extensions inside TLS. None stands for the same without STARTTLS."""
    exact_offers: bool = False
    """True if nothing is added to `offers` for ``--require-tls`` and ``--login``."""
    message: str = "plain"
    """The name of the message."""
    values: Mapping[str, str] = field(factory=dict)
    """Values for ``{from}`` and ``{to}`` in the command, in place of the usual ones."""
    reply_delay: float = 0.0
    """Seconds before each reply: what arrives by then was sent without waiting for it."""
    certificate: str = "good"
    skip_if: Sequence[str] = ()
    """Options of the command line that the case cannot be run with."""


@frozen(kw_only=True)
class ClientInvariant(Requirement):
    """A requirement about every connection, evaluated over all cases."""

    violation: Callable[[ClientSession], str]
    """Returns a description of the violation, or an empty string."""
