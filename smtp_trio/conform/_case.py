"""What a case is: a sentence of an RFC, and the steps that show whether a server keeps to it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum, IntEnum
from typing import Protocol

from attrs import frozen

from ._talk import Reply, Talk


class Level(IntEnum):
    """How much the sentence demands."""

    MUST = 1
    SHOULD = 2
    RECOMMENDED = 3
    """What no RFC asks for: it is what careful servers do, or our opinion."""


class State(Enum):
    """How far a session has come when a case begins; the value says it to a reader."""

    CONNECTED = "connected, with nothing read"
    GREETED = "after the greeting"
    READY = "after EHLO (and whatever the server wants before MAIL)"
    SECURE = "after EHLO inside TLS"
    LOGIN = "after EHLO, where AUTH is offered: inside TLS if it can be had"
    MAIL = "after an accepted MAIL"
    RCPT = "after an accepted RCPT"
    DATA = "after 354"


class Step(Protocol):
    """One thing that is done, or waited for. `WrongAnswer` is raised when what comes is wrong."""

    async def play(self, talk: Talk, /) -> None: ...


@frozen(kw_only=True)
class Rule:
    """What a case and an invariant have in common."""

    id: str
    """A section and a name: ``mail.null``."""
    title: str
    section: str
    """Where the sentence stands: ``RFC 5321 4.5.5``."""
    sentence: str
    """The words of the RFC."""
    level: Level = Level.MUST
    needs: Sequence[str] = ()
    """EHLO keywords (with a parameter after a space: ``AUTH PLAIN``), or options of the command line (``--unknown``)."""

    @property
    def group(self) -> str:
        """The chapter: the part of the `id` before the dot."""
        return self.id.partition(".")[0]

    @property
    def danger(self) -> bool:
        """Whether it sends floods, or what a vulnerable server would take for a second message."""
        return self.group == "danger"


@frozen(kw_only=True)
class Case(Rule):
    """One connection: it is brought to a state, the steps are played, and QUIT ends it.

    Where it needs what is not there, it is skipped.
    """

    steps: Sequence[Step]
    state: State = State.READY
    lacks: Sequence[str] = ()
    """EHLO keywords that must not be offered."""
    quits: bool = True
    """Whether QUIT can follow: its answer shows whether there were too many before."""


@frozen(kw_only=True)
class Invariant(Rule):
    """What holds for every reply of every case: it is judged over all that was heard."""

    broken: Callable[[Reply], bool]
