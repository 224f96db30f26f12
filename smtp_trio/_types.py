"""The values that a server passes to its hooks and returns: `Peer`, `TlsInfo`, `Envelope`, `Statistics` and others."""

from __future__ import annotations

import enum
import ipaddress
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import trio
from attrs import define, field, frozen

from .protocol import Mail, Params, Path, Rcpt
from .protocol.extensions.eightbitmime import BODY
from .protocol.extensions.smtputf8 import SMTPUTF8
from .protocol.values import Value

if TYPE_CHECKING:
    import ssl


@define(repr=False)
class Peer(Value):
    """One end of a connection.

    ``host`` is an IP address. If the connection is not TCP, or a proxy does not know the address ("unknown"), ``host`` is
    "" and ``port`` None. ``name`` is None until a `Hooks.connect` hook sets it, for example from the DNS; it appears in the
    ``Received`` field.
    """

    host: str
    port: int | None
    kind: Literal["tcp", "unix", "memory", "unknown"]
    name: str | None = None

    def __str__(self) -> str:
        if self.port is None:
            return self.host or self.kind
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def unmap(host: str) -> str:
    """Return an IP address; the IPv4 address for an IPv4-mapped one (RFC 4291 2.5.5.2).

    On an IPv6 socket the system reports the IPv4 address 192.0.2.1 as ::ffff:192.0.2.1, of either end.
    """
    if ":" not in host:
        return host
    mapped = ipaddress.IPv6Address(host.partition("%")[0]).ipv4_mapped
    return host if mapped is None else str(mapped)


@frozen(eq=False, repr=False)
class TlsInfo(Value):
    """The result of a TLS handshake: the protocol ``version``, such as "TLSv1.3", the cipher and its strength in bits.

    In a client, ``verified`` is true if the server's certificate was verified for its name, or by its TLSA records.
    Otherwise ``problem`` is the reason; with opportunistic TLS (RFC 7435) that is not an error.

    In a server, ``client_certificate`` is the certificate of a client that has sent one, which is valid, in the form of
    `ssl.SSLSocket.getpeercert`; None without one. See `TlsFiles`.
    """

    version: str
    cipher: str
    bits: int
    verified: bool = False
    problem: str | None = None
    client_certificate: Mapping[str, Any] | None = field(default=None, hash=False)

    @classmethod
    def of(cls, stream: trio.SSLStream[Any], *, verified: bool = False, problem: str | None = None) -> TlsInfo:
        """Return the values of a stream whose handshake is done."""
        ssl_object: ssl.SSLObject = stream  # type: ignore[assignment]  # SSLStream forwards these to its SSLObject
        cipher = ssl_object.cipher() or ("", "", 0)
        certificate = ssl_object.getpeercert() or None if ssl_object.server_side else None
        return cls(ssl_object.version() or "", cipher[0], cipher[2], verified, problem, certificate)


@frozen(eq=False, repr=False)
class Envelope(Value):
    """The sender and the recipients of one message, as far as they were accepted.

    ``id`` identifies the transaction: in the ``Received`` field, in the log, in stores and in the reply that accepts
    the message. ``context`` is a dict for the application, which lasts as long as the transaction.
    """

    id: str
    mail: Mail
    rcpts: tuple[Rcpt, ...] = ()
    context: dict[Any, Any] = field(factory=dict, eq=False)

    @property
    def sender(self) -> Path:
        """The reverse-path; the null path for notifications (RFC 5321 4.5.5)."""
        return self.mail.sender

    @property
    def recipients(self) -> tuple[Path, ...]:
        """The forward-paths of the accepted recipients, in the order of their RCPT commands."""
        return tuple(rcpt.recipient for rcpt in self.rcpts)

    @property
    def params(self) -> Params:
        """The parameters of MAIL; ``rcpts`` has those of each RCPT."""
        return self.mail.params

    @property
    def smtputf8(self) -> bool:
        """True if mailboxes and header fields may be UTF-8 (RFC 6531)."""
        return SMTPUTF8 in self.mail.params

    @property
    def body_type(self) -> str:
        """The body type that the client declared: "7BIT", "8BITMIME" or "BINARYMIME" (RFC 6152, RFC 3030)."""
        return self.mail.params.get(BODY, "7BIT")


class MessageState(enum.Enum):
    """The state of a session's last message."""

    NOT_TAKEN = "the message got no 2yz reply"
    ACKNOWLEDGED = "the whole 2yz reply was passed to the stream"
    #: RFC 1047: the client may send the message again.
    UNACKNOWLEDGED = "the hook accepted the message, but the 2yz was not written"


@define(eq=False, repr=False)
class Counts(Value):
    """The counters of a running server. `Statistics` describes them."""

    sessions_total: int = 0
    messages: int = 0
    bytes: int = 0
    refused: int = 0
    commands: int = 0
    errors: int = 0
    connections_refused: int = 0
    auth_failures: int = 0
    timeouts: int = 0
    incomplete: int = 0
    tls_failures: int = 0
    exceptions: int = 0
    limits_reached: Counter[str] = field(factory=Counter)
    refusals: Counter[str] = field(factory=Counter)
    tls_versions: Counter[str] = field(factory=Counter)


@frozen(eq=False, repr=False)
class Statistics(Counts):
    """A snapshot of a server's counters.

    ``messages`` is the number of accepted messages and ``bytes`` their octets, ``refused`` the number of refusals, of
    messages and of MAIL, RCPT, DATA and BDAT commands. ``commands`` is the number of commands, and ``errors`` that of
    commands that the core refused and of exceptions in hooks and sessions. ``exceptions`` is the number of those
    exceptions, and of hooks that took too long. ``connections_refused`` is the number of connections that the
    `Hooks.connect` hook or the limits refused, ``auth_failures`` that of logins that failed, and ``timeouts`` that of
    clients that were silent for too long. ``incomplete`` is the number of messages whose end was not received, and
    ``tls_failures`` that of TLS handshakes that failed.

    ``limits_reached`` counts how often each limit has taken effect, by the name of the member of
    `smtp_trio.protocol.Limits`. ``refusals`` counts refusals by stage and reply code, such as "rcpt 550"; the stages are
    connect, auth, mail, rcpt, data, bdat, burl, message (the reply to a message) and other (invalid commands).
    ``tls_versions`` counts TLS handshakes by version.

    ``sessions_total`` counts all sessions, ``sessions_open`` those that are open, and ``memory`` the octets that these
    hold (see `Limits.memory`).
    """

    sessions_open: int = 0
    memory: int = 0


@frozen(eq=False, repr=False)
class Drained(Value):
    """A count of the sessions that were open during `Server.stop`, by how they ended.

    ``finished`` is the number of sessions that ended by themselves, ``idle`` of those that waited for a command and got
    421, ``cancelled`` of those that were open at the end of the grace period.
    """

    finished: int = 0
    idle: int = 0
    cancelled: int = 0
