"""The scope of a rule: the recipients and the clients that it acts for, so that tests which share a server do not disturb
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

#: Stands for any characters in the pattern of a recipient.
WILDCARD = "*"
#: A letter that is used in place of it to check the form of a pattern.
STAND_IN = "x"
#: Places that a session passes before it has a recipient, and before the client has stated its name.
BEFORE_RECIPIENTS = frozenset(
    ["CONNECT", "EHLO", "HELO", "LHLO", "STARTTLS", "AUTH", "MAIL", "XCLIENT", "ETRN", "ATRN"]
)
BEFORE_NAME = frozenset(["CONNECT"])


def recipient_key(pattern: str) -> str:
    """Return the pattern of a recipient in the form in which addresses are compared. Raises ValueError if it is invalid.

    RFC 5321 2.4 leaves the case of a local part to the server that has the mailbox, and nearly all ignore it, as do the
    recipients of `smtp_trio.recipients`. So ASCII letters are compared without their case in both parts.
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
    """Return whether ``key`` has these parts, from its beginning to its end, with anything between them."""
    # A regular expression with many wildcards would take a time that grows with a power of the length.
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
    """Return a network, or the name that a client states in HELO in lower case. Raises ValueError if it is neither."""
    check_type(client, "client", str)
    try:
        return PeerNetworks([client], "client")
    except ValueError:
        name = normalize_domain(client) if is_hello_name(client) else None
        if name is None or re.fullmatch(r"[0-9./:]+", client):
            raise ValueError(
                f"client must be an IP address, a network, 'unix' or a name that clients state in HELO, got {client!r}"
            ) from None
        return name


@frozen
class Subject:
    """What the scopes of rules are compared with: a session at one of its commands."""

    session: Session
    #: The recipients that the command is about: the one of a RCPT, and otherwise those of the transaction.
    recipients: Sequence[Path]
    #: The domain that the client states, or has stated, in HELO or EHLO.
    name: str | None

    @classmethod
    def of(cls, session: Session, command: Command | None) -> Subject:
        """Return the subject of a session that decides about ``command``."""
        hello = command if isinstance(command, Hello) else session.hello
        name = None if hello is None else hello.domain
        if isinstance(command, Rcpt):
            return cls(session, (command.recipient,), name)
        envelope = session.envelope
        return cls(session, () if envelope is None else envelope.recipients, name)


@frozen
class Scope:
    """The sessions and recipients that a rule acts for; None stands for all.

    :param recipient: an address; ``@example.org``, every address at this domain; or a pattern in which ``*`` stands for
        any characters: ``bob+*@example.org``, ``*+tag@*``. Letters are compared without their case.
    :param client: an address or network, "unix", or the name that a client states in HELO or EHLO.
    :raises TypeError: an argument has a wrong type.
    :raises ValueError: an argument has none of these forms.
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
        """The one address that it has, in the form of `Path.lower`; None if it has others as well."""
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
        """Return whether a rule acts for this subject."""
        client = self._client
        if isinstance(client, PeerNetworks):
            if subject.session.peer not in client:
                return False
        elif client is not None and (subject.name is None or normalize_domain(subject.name) != client):
            return False
        return self._parts is None or any(map(self.has, subject.recipients))


EVERYWHERE = Scope()
