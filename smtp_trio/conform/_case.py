"""Cases: a sentence of an RFC, and the steps that show whether a server conforms to it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum, IntEnum
from typing import Protocol

from attrs import frozen

from ._connection import Connection, ReceivedReply


class Level(IntEnum):
    """The strength of a requirement."""

    MUST = 1
    SHOULD = 2
    RECOMMENDED = 3
    """No RFC requires it: it is good practice, or an opinion of this project."""


class Stage(Enum):
    """The stage of a session in which a case begins. The values are those of ``after:`` in a case."""

    CONNECTED = "connect"
    GREETED = "greeting"
    READY = "EHLO"
    SECURE = "STARTTLS"
    LOGIN = "EHLO for AUTH"
    """After EHLO, inside TLS where possible."""
    SUBMISSION = "submission"
    """The same, and after AUTH and another EHLO if there is a user."""
    MAIL = "MAIL"
    RCPT = "RCPT"
    DATA = "DATA"
    """After 354."""


class Step(Protocol):
    """One action or expectation."""

    async def perform(self, connection: Connection, /) -> None:
        """Perform the step.

        Raises:
            CaseFailedError: The peer did not do what was expected.
        """
        ...


@frozen(kw_only=True)
class Requirement:
    """The common part of cases and invariants."""

    id: str
    """Chapter and name: ``mail.null``."""
    title: str
    section: str
    """For example ``RFC 5321 4.5.5``."""
    sentence: str
    """The text of the RFC."""
    level: Level = Level.MUST
    needs: Sequence[str] = ()
    """EHLO keywords (with a parameter after a space: ``AUTH PLAIN``) or options of the command line (``--unknown``)."""

    @property
    def group(self) -> str:
        """The chapter: the part of the `id` before the dot."""
        return self.id.partition(".")[0]

    @property
    def danger(self) -> bool:
        """True for cases that send floods, or what a vulnerable server would take for a second message."""
        return self.group == "danger"


@frozen(kw_only=True)
class Case(Requirement):
    """One connection: it is brought to a stage, the steps are performed, and QUIT is sent."""

    steps: Sequence[Step]
    stage: Stage = Stage.READY
    skip_if: Sequence[str] = ()
    """EHLO keywords that must not be offered."""
    send_quit: bool = True
    """False if QUIT cannot follow the steps. The reply to it shows superfluous replies before."""


@frozen(kw_only=True)
class Invariant(Requirement):
    """A requirement about every reply, evaluated over all cases."""

    violated: Callable[[ReceivedReply], bool]
