"""The scope of a rule: the recipients and clients that it applies to, so that tests which share a server do not affect
each other.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from attrs import field, frozen

from ..._server.proxies import PeerNetworks
from ...protocol import Command, Hello, Rcpt
from ...protocol.arguments import check_type
from ...protocol.syntax import Path, is_hello_name, normalize_domain, parse_path

if TYPE_CHECKING:
    from ..._server.session import Session

#: The character that matches any characters in the pattern of a recipient.
WILDCARD = "*"
#: A letter that replaces wildcards when the syntax of a pattern is checked.
STAND_IN = "x"
#: The places before a session has a recipient, and those before the client has sent its name.
BEFORE_RECIPIENTS = frozenset(
    ["CONNECT", "EHLO", "HELO", "LHLO", "STARTTLS", "AUTH", "MAIL", "XCLIENT", "ETRN", "ATRN"]
)
BEFORE_NAME = frozenset(["CONNECT"])


def recipient_key(pattern: str) -> str:
    """Normalise the pattern of a recipient for comparisons. Raises ValueError if it is invalid.

    RFC 5321 2.4 leaves the case of a local part to the server that has the mailbox. Nearly all servers ignore it, and so does
    `smtp_trio.recipients`. So the case of ASCII letters is ignored in both parts.
    """
    check_type(pattern, "recipient", str)
    local, at, domain = pattern.rpartition("@")
    path = parse_path(f"<{(local or STAND_IN).replace(WILDCARD, STAND_IN)}@{domain.replace(WILDCARD, STAND_IN)}>")
    if not at or path is None or path.domain is None:
        raise ValueError(
            f"recipient must be an address, @DOMAIN or a pattern such as bob+{WILDCARD}@example.org, got {pattern!r}"
        )
    if WILDCARD not in pattern and local:
        return path.lower()
    folded = (local or WILDCARD).encode().lower().decode()
    return f"{folded}@{domain.lower() if WILDCARD in domain else path.domain}"


def matches(key: str, parts: Sequence[str]) -> bool:
    """Return whether ``key`` consists of these parts with any characters between them."""
    # A regular expression with many wildcards would take polynomial time.
    first, *middle, last = parts
    if not key.startswith(first) or not key.endswith(last) or len(key) < len(first) + len(last):
        return False
    at, end = len(first), len(key) - len(last)
    for part in middle:
        found = key.find(part, at, end)
        if found < 0:
            return False
        at = found + len(part)
    return True


def client_key(client: str) -> str | PeerNetworks:
    """Return a network, or the name of a client in HELO in lower case. Raises ValueError if ``client`` is neither."""
    check_type(client, "client", str)
    try:
        return PeerNetworks([client], "client")
    except ValueError:
        name = normalize_domain(client) if is_hello_name(client) else None
        if name is None or re.fullmatch(r"[0-9./:]+", client):
            raise ValueError(
                f"client must be an IP address, a network, 'unix' or the name of a client in HELO, got {client!r}"
            ) from None
        return name


@frozen
class Subject:
    """The values that are compared with the scopes of rules: a session and one of its commands."""

    session: Session
    #: The recipient of a RCPT command; for other commands, the recipients of the transaction.
    recipients: Sequence[Path]
    #: The name of the client in HELO or EHLO.
    name: str | None

    @classmethod
    def of(cls, session: Session, command: Command | None) -> Subject:
        """Return the subject of a command of a session."""
        hello = command if isinstance(command, Hello) else session.hello
        name = None if hello is None else hello.domain
        if isinstance(command, Rcpt):
            return cls(session, (command.recipient,), name)
        envelope = session.envelope
        return cls(session, () if envelope is None else envelope.recipients, name)


@frozen
class Scope:
    """The recipients and clients that a rule applies to; None stands for all.

    :param recipient: an address; ``@example.org`` for every address at this domain; or a pattern in which ``*`` matches
        any characters, such as ``bob+*@example.org`` or ``*+tag@*``. Case is ignored.
    :param client: an address or network, "unix", or the name of a client in HELO or EHLO.
    :raises TypeError: an argument has a wrong type.
    :raises ValueError: an argument does not have one of these forms.
    """

    recipient: str | None = None
    client: str | None = None
    _parts: tuple[str, ...] | None = field(init=False, repr=False, eq=False)
    _client: str | PeerNetworks | None = field(init=False, repr=False, eq=False)

    def __attrs_post_init__(self) -> None:
        store = object.__setattr__
        store(self, "_parts", None if self.recipient is None else tuple(recipient_key(self.recipient).split(WILDCARD)))
        store(self, "_client", None if self.client is None else client_key(self.client))

    @property
    def address(self) -> str | None:
        """The address, in the form of `Path.lower`, if the scope is one address; otherwise None."""
        return self._parts[0] if self._parts is not None and len(self._parts) == 1 else None

    def __bool__(self) -> bool:
        return not (self.recipient is None and self.client is None)

    def check_place(self, at: str) -> None:
        """Raise ValueError if a rule with this scope could never act at this place."""
        if self.recipient is not None and at in BEFORE_RECIPIENTS:
            raise ValueError(f"{at} comes before the recipients, so a rule for it cannot be for {self.recipient}")
        if isinstance(self._client, str) and at in BEFORE_NAME:
            raise ValueError(f"the client has no name at {at} yet, so a rule for it cannot be from {self.client}")

    def has(self, recipient: Path) -> bool:
        """Return whether this recipient is in the scope."""
        parts = self._parts
        if parts is None:
            return True
        key = recipient.lower()
        return key == parts[0] if len(parts) == 1 else matches(key, parts)

    def covers(self, subject: Subject) -> bool:
        """Return whether the subject is in the scope."""
        client = self._client
        if isinstance(client, PeerNetworks):
            if subject.session.peer not in client:
                return False
        elif client is not None and (subject.name is None or normalize_domain(subject.name) != client):
            return False
        return self._parts is None or any(map(self.has, subject.recipients))


EVERYWHERE = Scope()
