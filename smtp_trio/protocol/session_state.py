"""`SessionState`: what a server knows of a session besides the phase of the dialogue."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from attrs import define, evolve, field

from .commands import Command, Hello, Mail, Rcpt, Rset
from .dialogue import GREETED, READY
from .replies import Reply
from .strictness import NORMAL, Strictness

#: No attributes of XCLIENT or XFORWARD.
NO_ATTRIBUTES: Mapping[str, str | None] = MappingProxyType({})
#: The phases without a mail transaction.
NO_TRANSACTION = frozenset({GREETED, READY})


def no_clock() -> None:
    """Return None: the protocol does not know the time, unless the application provides it."""


def _ends_transaction(command: Command, reply: Reply) -> bool:
    """Return whether a transaction that was not begun is over: there can be attributes for it (XFORWARD)."""
    return type(command) is Mail or (reply.accepted and isinstance(command, Rset | Hello))


@define(eq=False)
class SessionState:
    """The state of a session besides its phase. Extensions read it to decide what to offer and what to refuse.

    ``name`` is the server's name and ``size`` its largest message in octets (0: no limit). ``tls`` is true if the
    server can start TLS, and ``hooks`` are the names of the hooks that the application implements, such as "auth".
    ``strictness`` has the deviations from the grammar that the server accepts. ``trusted`` are the keywords of the
    extensions that only clients on certain networks may use, and this one is; XCLIENT changes it. ``now`` returns the time,
    in seconds since 1970, or None without a clock.

    The other members change during the session. ``secure`` is true inside TLS, ``user`` is the authenticated user,
    ``hello`` the last accepted HELO or EHLO and ``offered`` the keywords in the reply to it. ``mail`` and ``rcpts`` are
    the accepted commands of the open transaction, ``envelope`` is the number of octets of their lines without CRLF, and
    ``rejected_rcpts`` the number of its refused RCPT commands.
    ``channel_binding`` is the binding of the TLS session to the server's certificate, or b"" without one, and
    ``client_certificate`` the client's certificate, in the form of `ssl.SSLSocket.getpeercert`, or None.
    ``messages`` is the number of messages that were received, accepted or not. ``transactions`` is the number of MAIL
    commands, and ``rcpt_domains`` are the domains of RCPT commands; both are only counted where LIMITS limits them.
    ``client`` has the attributes of XCLIENT, and ``forwarded`` those of XFORWARD for this message. ``renewed`` is true if
    an XCLIENT that has no reply yet has begun the session anew.
    """

    # Settings of the server.
    name: str = "localhost"
    size: int = 0
    tls: bool = False
    hooks: frozenset[str] = frozenset()
    strictness: Strictness = NORMAL
    trusted: frozenset[str] = frozenset()
    now: Callable[[], int | None] = no_clock

    # The session.
    secure: bool = False
    channel_binding: bytes = b""
    client_certificate: Mapping[str, Any] | None = None
    user: str | None = None
    hello: Hello | None = None
    offered: frozenset[str] = frozenset()
    messages: int = 0
    transactions: int = 0
    rcpt_domains: frozenset[str] = frozenset()
    client: Mapping[str, str | None] = NO_ATTRIBUTES
    renewed: bool = False

    # The open transaction (RFC 5321 3.3).
    mail: Mail | None = None
    rcpts: list[Rcpt] = field(factory=list)
    envelope: int = 0
    rejected_rcpts: int = 0
    forwarded: Mapping[str, str | None] = NO_ATTRIBUTES

    @property
    def extended(self) -> bool:
        """True if the client sent EHLO and not HELO, so that extensions may be used (RFC 5321 2.2.1)."""
        return self.hello is not None and self.hello.extended

    @property
    def offer_key(self) -> tuple[object, ...]:
        """All values that decide what the reply to EHLO offers, which verbs are allowed, and how they are parsed."""
        settings = (self.name, self.size, self.tls, self.hooks, self.strictness)
        tls = (self.secure, self.channel_binding != b"", self.client_certificate is not None)
        return (*settings, self.trusted, *tls, self.user is None, self.extended)

    def clear_transaction(self) -> None:
        """Drop "any stored sender, recipients, and mail data" (RFC 5321 4.1.1.5)."""
        self.mail, self.rcpts, self.envelope, self.rejected_rcpts = None, [], 0, 0
        self.forwarded = NO_ATTRIBUTES

    def update(self, command: Command, reply: Reply, phase: enum.Enum, line: bytes) -> None:
        """Record that ``command``, sent as ``line``, was answered with ``reply``, which led to ``phase``."""
        if phase in NO_TRANSACTION and (self.mail is not None or _ends_transaction(command, reply)):
            self.clear_transaction()  # by RSET, EHLO or HELO, or the final reply to the message
        if type(command) is Rcpt:
            if reply.accepted:
                self.rcpts.append(command)
                self.envelope += len(line)
            else:
                self.rejected_rcpts += 1
        elif reply.accepted:
            if type(command) is Mail:
                self.mail = command
                self.envelope = len(line)
            elif isinstance(command, Hello):
                self.hello = command
                if (name := self.client.get("HELO")) is not None:
                    self.hello = evolve(command, domain=name)

    def reset(self) -> None:
        """Forget everything that the client has sent, as a server must after a TLS handshake (RFC 3207 4.2)."""
        self.clear_transaction()
        self.user, self.hello, self.offered = None, None, frozenset()
