"""`SessionMemory`: the octets that one session holds besides its message, as a part of the server's `MemoryBudget`."""

from __future__ import annotations

from ..protocol import ServerProtocol
from .memory import FREE_ENVELOPE, FREE_INPUT, LINE_COPIES, RECIPIENT, SESSION, TLS_SESSION, MemoryBudget


class SessionMemory:
    """The memory of one session: a fixed number of octets, and its input, its envelope and its replies if they are large."""

    __slots__ = ("_protocol", "budget", "fixed", "held")

    def __init__(self, budget: MemoryBudget, protocol: ServerProtocol, *, tls: bool) -> None:
        self._protocol = protocol
        #: What all sessions of the server hold.
        self.budget: MemoryBudget = budget
        #: The octets of this session, whatever it does.
        self.fixed: int = SESSION + (TLS_SESSION if tls else 0)
        #: The octets that are counted for it.
        self.held: int = 0

    def count(self, unsent: int = 0) -> None:
        """Count what the session holds now. ``unsent`` octets of replies cannot be sent."""
        protocol, state = self._protocol, self._protocol.state
        held = max(0, protocol.buffered - FREE_INPUT) + unsent
        if state.envelope > FREE_ENVELOPE:
            held += state.envelope * LINE_COPIES + len(state.rcpts) * RECIPIENT
        held += self.fixed
        self.budget.used += held - self.held
        self.held = held

    def add_tls(self) -> None:
        """Count the objects of a TLS connection from now on."""
        self.fixed += TLS_SESSION
        self.count()

    def release(self) -> None:
        """Count nothing any more: the session has ended."""
        self.budget.used -= self.held
        self.held = 0
