"""What a scene is: a server that does something good, odd or bad, and what a client that meets it may do."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from attrs import define, field, frozen

from ._case import Rule, Step
from ._steps import Send
from ._talk import Talk

BASE = ("SIZE 10485760", "8BITMIME")
"""What a server of these offers, if nothing else is said."""


@define(eq=False)
class Command:
    """A line that the client has said outside of messages."""

    verb: str
    """In capitals; ``RESPONSE`` for an answer to a challenge of AUTH."""
    line: bytes
    """With its end."""
    early: bool
    """Some of it was there before the answer to what came before it was given."""
    secure: bool
    answer: str = ""
    """The code that it was answered with, as far as there was one."""


@define(eq=False)
class Message:
    """A message as it was sent."""

    mail: bytes
    """The MAIL command that it came with."""
    data: bytes = b""
    """What came after 354 (still with dots put in, without the last), or in chunks."""
    early: bool = False
    """Some of it was there before 354 was said."""
    whole: bool = False
    chunked: bool = False
    secure: bool = False
    answer: str = ""

    @property
    def text(self) -> bytes:
        """The message itself."""
        stuffed = not self.chunked
        return (b"\n" + self.data).replace(b"\n.", b"\n")[1:] if stuffed else self.data


@define(eq=False)
class Visit:
    """One connection of a client, and what it has done there."""

    scene: Scene
    talk: Talk
    commands: list[Command] = field(factory=list)
    messages: list[Message] = field(factory=list)
    played: list[On] = field(factory=list)
    """What was done to it."""
    offers: Sequence[str] = ()
    """The keywords that the last EHLO was answered with."""
    quit: bool = False
    after: bytes = b""
    """What came behind QUIT."""
    problem: str = ""
    """Why it could not be understood."""

    def said(self, *verbs: str) -> list[Command]:
        """All commands with these verbs."""
        return [command for command in self.commands if command.verb in verbs]

    def offered(self, keyword: str) -> bool:
        """Whether the last answer to EHLO has listed it."""
        return any(offer.partition(" ")[0].upper() == keyword for offer in self.offers)


@frozen
class Ending:
    """What the client itself has said of it: its exit code (None: unknown), and what it wrote."""

    code: int | None = None
    output: bytes = b""


@frozen
class Heard:
    """All there is to judge."""

    scene: Scene
    visits: Sequence[Visit]
    ending: Ending
    text: bytes = b""
    """The message that it was told to send."""

    @property
    def commands(self) -> list[Command]:
        """Those of all connections."""
        return [command for visit in self.visits for command in visit.commands]

    @property
    def messages(self) -> list[Message]:
        """Those of all connections."""
        return [message for visit in self.visits for message in visit.messages]


class Check(Protocol):
    """Something that must be so."""

    def wrong(self, heard: Heard, /) -> str:
        """What is not as it must be, for people; empty if it is."""
        ...


@frozen(init=False)
class On:
    """What the server does when this comes: a verb, or ``GREETING``, ``BODY`` (a message is there), ``RESPONSE``.

    `nth`: only for the so-manieth; `secure`: only inside TLS, or only outside.
    """

    event: str
    steps: tuple[Step, ...]
    nth: int
    secure: bool | None
    always: bool
    """Whether the scene means nothing for a client to which this was not done."""

    def __init__(
        self, event: str, *steps: Step | bytes, nth: int = 0, secure: bool | None = None, always: bool = True
    ) -> None:
        made = tuple(Send(step) if isinstance(step, bytes) else step for step in steps)
        self.__attrs_init__(event, made, nth, secure, always)

    @property
    def code(self) -> str:
        """The code of its reply; empty where it gives none."""
        replies = [step.data for step in self.steps if hasattr(step, "data")]
        return replies[0][:3].decode("latin-1") if replies else ""


@frozen(kw_only=True)
class Scene(Rule):
    """A client is told to send a message, and meets this server. What it does besides is what every server does.

    It is skipped where the client never does what the server waits for.
    """

    acts: Sequence[On] = ()
    checks: Sequence[Check] = ()
    offers: Sequence[str] = BASE
    """What EHLO lists."""
    inside: Sequence[str] | None = None
    """What it lists inside TLS; without, the same, but no STARTTLS."""
    bare: bool = False
    """Whether EHLO lists this and nothing else, however the client was set up."""
    letter: str = "plain"
    """The message."""
    values: Mapping[str, str] = field(factory=dict)
    """What stands for ``{from}`` and the like in the command, if not the usual."""
    hold: float = 0.0
    """Seconds to wait before each answer: whatever comes by then was not waiting for it."""
    certificate: str = "good"
    lacks: Sequence[str] = ()
    """Options of the command line that it does not go with."""


@frozen(kw_only=True)
class Habit(Rule):
    """What holds for all that a client says: it is judged over all connections of all scenes."""

    broken: Callable[[Visit], str]
    """What is not as it must be; empty if all is."""
