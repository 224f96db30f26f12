"""Session state besides the phase."""

from __future__ import annotations

import enum

from attrs import define, field

from .commands import Command, Hello, Mail, Rcpt
from .dialogue import GREETED, READY
from .replies import Reply

#: Where no transaction is open.
BETWEEN = frozenset({GREETED, READY})


@define(eq=False)
class SessionState:
    """What is true of a session and is no phase: what extensions may look at.

    The first few are settings of the server, the rest is what the client has achieved. STARTTLS forgets the latter but for
    ``secure`` itself (RFC 3207 4.2).
    """

    name: str = "localhost"
    size: int = 0  # octets; 0: no limit
    tls: bool = False  # TLS could be started: there is a certificate
    hooks: frozenset[str] = frozenset()  # names of the hooks that the application has, such as "auth" and "expn"

    secure: bool = False
    user: str | None = None
    hello: Hello | None = None
    offered: frozenset[str] = frozenset()  # keywords that the last EHLO was told

    # The transaction under way, as far as it was accepted (RFC 5321 3.3).
    mail: Mail | None = None
    rcpts: list[Rcpt] = field(factory=list)
    rejected_rcpts: int = 0  # recipients refused in it

    @property
    def extended(self) -> bool:
        """The client said EHLO, so extensions are in force (RFC 5321 2.2.1)."""
        return self.hello is not None and self.hello.extended

    @property
    def offer_key(self) -> tuple[object, ...]:
        """All that decides what a client is offered, and which verbs are open to it."""
        settings = (self.name, self.size, self.tls, self.hooks)
        return (*settings, self.secure, self.user is None, self.extended)

    def clear_transaction(self) -> None:
        """Forget the transaction (RFC 5321 4.1.1.5: "any stored sender, recipients, and mail data")."""
        self.mail, self.rcpts, self.rejected_rcpts = None, [], 0

    def update(self, command: Command, reply: Reply, phase: enum.Enum) -> None:
        """A command was answered, and led to this phase: keep what it said, or drop what is over."""
        if phase in BETWEEN and self.mail is not None:
            self.clear_transaction()  # RSET, EHLO, or the answer to the message: there is no transaction any more
        if type(command) is Rcpt:
            if reply.accepted:
                self.rcpts.append(command)
            else:
                self.rejected_rcpts += 1
        elif reply.accepted:
            if type(command) is Mail:
                self.mail = command
            elif isinstance(command, Hello):
                self.hello = command

    def reset(self) -> None:
        """Forget all that the client said (RFC 3207 4.2, on STARTTLS)."""
        self.clear_transaction()
        self.user, self.hello, self.offered = None, None, frozenset()
